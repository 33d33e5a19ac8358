"""Every SQL statement of the broker, named, each with its one sentence; those of gates and of groups are in
``gate_statements`` and ``group_statements``.

Codes stored in ``task.state``: 0 queued, 1 queued as a suspect, 2 delayed, 3 reserved, 4 queued behind its gate,
suspect or not. A message's ``suspect`` column is 0 or 1, so ``WAITS`` queues it as what it is.

The partial indexes are used only where a statement repeats their condition as a literal, so the codes stand in the
text; a test asks SQLite for the plan of each hot statement and refuses a scan.
"""

# ruff: noqa: S608  the pieces of a statement are constants

from __future__ import annotations

from typing import Final

from poolrt.states import TaskState

QUEUED: Final = 0
SUSPECT: Final = 1
DELAYED: Final = 2
RESERVED: Final = 3
BEHIND: Final = 4
PLANNED: Final = 5
"""Of no row of ``task``: ``FIND`` says it of an id that is in ``planned`` alone."""

TASK_STATES: Final = (
    TaskState.QUEUED,
    TaskState.QUEUED,
    TaskState.DELAYED,
    TaskState.RESERVED,
    TaskState.QUEUED,
    TaskState.PLANNED,
)
"""What each code of ``task.state`` is called outside."""

RECORD_CODES: Final[dict[TaskState, int]] = {
    TaskState.SUCCEEDED: 11,
    TaskState.FAILED: 12,
    TaskState.CANCELLED: 13,
    TaskState.EXPIRED: 14,
    TaskState.DEAD: 15,
}
"""Codes stored in ``record.state``; apart from the codes of ``task.state``, so that one query can read both."""
RECORD_STATES: Final = {code: state for state, code in RECORD_CODES.items()}

WAITS: Final = "iif(gate is null, suspect, 4)"
"""The state in which a message waits. Part of statements."""

PUT_BACK: Final = f"set state = {WAITS}, owner = null, n = null"
"""Queue at its old place what is held. Part of statements."""

ANY_BEHIND: Final = "exists (select 1 from task where state = 4 and gate is not null)"
"""Whether anything waits behind a gate: one look into an index that is mostly empty. Part of statements."""

# ---- producers

ENQUEUE: Final = """
insert into task (state, priority, eta, created, queue, name, id, envelope)
select ?, ?, ?, ?, ?, ?, ?, ? where not exists (select 1 from record where id = ?)
on conflict (id) do nothing"""
"""Store a message unless its id, given twice, is a message's or a record's already."""

ENQUEUE_BEHIND: Final = """
insert into task (state, priority, eta, created, queue, name, id, envelope, gate)
select ?, ?, ?, ?, ?, ?, ?, ?, ? where not exists (select 1 from record where id = ?)
on conflict (id) do nothing"""
"""The same for a message that has a gate."""

EARLIEST_ETA: Final = "select min(eta) from task where state = 2"
"""When the next delayed message is due."""

NEXT: Final = f"select min(eta), {ANY_BEHIND} from task where state = 2"
"""The same, and whether anything waits behind a gate: all that most looks of a steward ask."""

FIND: Final = """
select state, lost, envelope, null, (select data from progress where progress.id = task.id and expires > ?)
from task where id = ?
union all select state, lost, null, data, null from record where id = ?
union all select 5, 0, null, null, null from planned where id = ? and expires > ?
limit 1"""
"""The message of an id, else its record, else whether it is planned: one statement, so that a settle cannot hide it
from all looks."""

WAITING: Final = "select seq, envelope, lost, suspect from task where id = ? and state <> 3"
"""The message of an id if nobody holds it."""

FORGET: Final = "delete from record where id = ?"
"""Drop the record of one task."""

# ---- unique keys

HOLDER: Final = """
select id from holder where key = ? and (until > ? or exists (select 1 from task where task.id = holder.id))"""
"""The message that has a unique key at a time."""

HOLD: Final = "insert or replace into holder (key, id, until) values (?, ?, ?)"
"""Give a free key to a message, or its own for longer."""

FREE: Final = "until <= ? and not exists (select 1 from task where task.id = holder.id)"
"""Whether nobody has a key of ``holder`` any more. Part of statements."""

FREE_KEYS: Final = f"select key from holder where {FREE} limit ?"
"""Keys that nobody has any more."""

SWEEP_KEYS: Final = f"delete from holder where key in (select value from json_each(?)) and {FREE}"
"""Forget them, those that are still free."""

# ---- progress

NOTE_PROGRESS: Final = """
insert into progress (id, expires, data) select ?, ?, ? where exists (select 1 from task where id = ?)
on conflict (id) do update set expires = excluded.expires, data = excluded.data"""
"""Keep what a message says of itself; its id is given twice."""

FORGET_PROGRESS: Final = "delete from progress where id in (select value from json_each(?))"
"""Drop what these said."""

OLD: Final = "(expires <= ? or not exists (select 1 from task where task.id = progress.id))"
"""Whether it says nothing any more. Part of statements."""

OLD_PROGRESS: Final = f"select id from progress where {OLD} limit ?"
"""What is out of date."""

SWEEP_PROGRESS: Final = f"delete from progress where id in (select value from json_each(?)) and {OLD}"
"""Forget it, if it still is."""

# ---- waiters

WAIT_FOR: Final = "insert into waiter (id, socket) values (?, ?)"
"""Say which socket to wake when the task of this id ends."""

STOP_WAITING: Final = "delete from waiter where id = ? and socket = ?"
"""The waiter gave up."""

ENDING: Final = f"""
select exists (select 1 from waiter), exists (select 1 from progress), exists (select 1 from planned), {ANY_BEHIND}"""
"""Whether anybody waits for any task, any task told its progress, any is planned, anything waits behind a gate: what
these things cost those who end a task while there are none."""

WAITERS_OF: Final = "select socket from waiter where id in (select value from json_each(?))"
"""The sockets to wake for these ids. The rows stay until ``SWEEP_WAITERS``: the settler may die before it tells."""

ANSWERED: Final = """not exists (select 1 from task where task.id = waiter.id)
and not exists (select 1 from planned where planned.id = waiter.id)"""
"""Whether a waiter's task has ended. Part of statements."""

ANSWERED_WAITER: Final = f"select 1 from waiter where {ANSWERED} limit 1"
"""Whether a waiter's task has ended."""

SWEEP_WAITERS: Final = f"delete from waiter where {ANSWERED} returning socket"
"""Drop the waiters whose task has ended, to be told once more."""

WAITING_SOCKETS: Final = "select socket from waiter"
"""The names of all sockets that somebody may wait on."""

# ---- nodes and owners

JOIN: Final = "insert into node (incarnation, name) values (?, ?) on conflict (incarnation) do nothing"
"""Register one start of a node."""

NODE_GONE: Final = "select gone from node where incarnation = ?"
"""Whether that start has left for good; no row: it never joined."""

NODES: Final = "select incarnation, name from node where not gone order by seq"
"""The registered starts of all nodes."""

LEAVE: Final = "update node set gone = 1 where incarnation = ? and not gone"
"""Keep the row of a start that left, so that a late ``join`` of a paused steward cannot bring it back."""

FORGET_GONE: Final = "delete from node where gone and seq <= (select max(seq) from node) - 10000"
"""Starts that left are remembered for ten thousand starts."""

FORGET_OWNERS: Final = "delete from owner where incarnation = ?"
"""No owner of that start can be heard any more."""

FORGET_BARS: Final = "delete from bar where incarnation = ?"
"""The bars of a start that left are covered by its ``gone``."""

BARRED: Final = "select generation from bar where incarnation = ? and slot = ?"
"""The highest buried generation of a slot."""

ATTACH: Final = "insert into owner (incarnation, slot, generation) values (?, ?, ?) on conflict do nothing"
"""Let an owner be heard."""

OWNER: Final = "select id from owner where incarnation = ? and slot = ? and generation = ?"
"""The number of an owner that may be heard; none once it is barred."""

HEARD: Final = f"""
select id, floor, exists (select 1 from pause) or {ANY_BEHIND}
from owner where incarnation = ? and slot = ? and generation = ?"""
"""The same, with the last reserve that gives nothing, and whether any queue is paused or anything waits behind a gate:
all that a settle asks first."""

BAR: Final = """
insert into bar (incarnation, slot, generation) values (?, ?, ?)
on conflict (incarnation, slot) do update set generation = max(generation, excluded.generation)"""
"""Refuse a first attach of this generation of a slot, and of those before it, for good."""

FORGET_OWNER: Final = "delete from owner where id = ?"
"""What this owner says from now on is fenced."""

# ---- what an owner holds

HELD: Final = "select seq, n from task where state = 3 and owner = ?"
"""The fences of what an owner holds."""

HELD_BY_NODE: Final = """
select seq, n from task where state = 3 and owner in (select id from owner where incarnation = ?)"""
"""The fences of what all owners of one start hold."""

SUSPECT_HEAD: Final = "select priority, seq from task where state = 1 order by priority desc, seq limit 1"
"""The suspect that is to run first."""

QUEUED_HEAD: Final = """
select priority, seq from task where state = 0 and name not in (select value from json_each(?))
order by priority desc, seq limit ?"""
"""The messages to run first without tasks of these names; suspects and what is behind gates aside."""

TO_RESERVE: Final = """
select seq, id, envelope, lost, suspect from task where state = 0 order by priority desc, seq limit ?"""
"""The messages to run first, whole."""

TO_RESERVE_WITHOUT: Final = """
select seq, id, envelope, lost, suspect from task
where state = 0 and name not in (select value from json_each(?)) order by priority desc, seq limit ?"""
"""The same without tasks of these names; it reads past them, for the rare node that shares a store with another app."""

THESE: Final = """
select seq, id, envelope, lost, suspect from task where seq in (select value from json_each(?))"""
"""These rows, whole, in no order."""

RESERVE: Final = "update task set state = 3, owner = ?, n = ? where seq in (select value from json_each(?))"
"""Reserve these rows, which the same transaction saw queued. Reading them first costs less than ``returning`` them."""

ANY_QUEUED: Final = """
select exists (select 1 from task where state = 0) or exists (select 1 from task where state = 1)"""
"""Whether a child would find something."""

RELEASE: Final = f"update task {PUT_BACK} where state = 3 and owner = ? and seq = ? and n = ?"
"""Put one delivery back at its old place."""

RUNNING: Final = """
select seq, id, envelope, lost, suspect from task where state = 3 and owner = ? and n = ? and seq = ?"""
"""One delivery, if it is still held."""

RAISE_FLOOR: Final = "update owner set floor = max(floor, ?) where id = ?"
"""No reserve up to this number gives the owner anything any more."""

HELD_PRIORITY: Final = "select priority from task where state = 3 and owner = ? and n = ? and seq = ?"
"""The priority of one delivery, if it is still held."""

RECALL: Final = f"""
update task {PUT_BACK}
where state = 3 and owner = :owner and n between :n and :upto
and (n > :n or priority < :priority or (priority = :priority and seq > :seq))"""
"""Put back what one owner would run after a delivery, up to a reserve: owner, n, upto, its priority and seq."""

# ---- held messages that are to be cancelled

LEAVE_WORD: Final = """
insert into to_cancel (seq, owner, n) select seq, owner, n from task where id = ? and state = 3
on conflict (seq) do update set owner = excluded.owner, n = excluded.n"""
"""Say that the delivery of this id is to be cancelled, if somebody holds it."""

HAS_WORD: Final = """
select 1 from to_cancel cross join task on task.seq = to_cancel.seq
where to_cancel.seq = ? and state = 3 and task.owner = to_cancel.owner and task.n = to_cancel.n"""
"""Whether that was said of the delivery of this row, which is held."""

HOLDING_NODE: Final = """
select node.name from task cross join owner on owner.id = task.owner
cross join node on node.incarnation = owner.incarnation where task.id = ? and task.state = 3"""
"""The node that holds the message of an id."""

WORDS: Final = """
select slot, generation, task.seq, task.n, task.id, envelope, lost, suspect
from to_cancel cross join task on task.seq = to_cancel.seq cross join owner on owner.id = task.owner
where state = 3 and task.owner = to_cancel.owner and task.n = to_cancel.n and incarnation = ?"""
"""What one start holds and is to cancel."""

SWEEP_WORDS: Final = """
delete from to_cancel where not exists (
    select 1 from task
    where task.seq = to_cancel.seq and state = 3 and task.owner = to_cancel.owner and task.n = to_cancel.n)"""
"""Drop the words on deliveries that are over."""

FORGET_WORDS: Final = "delete from to_cancel where owner = ?"
"""Drop the words on what an owner held, before its number is given to another."""

FORGET_NODE_WORDS: Final = "delete from to_cancel where owner in (select id from owner where incarnation = ?)"
"""The same for all owners of one start."""

# ---- endings

END: Final = "delete from task where seq = ?"
"""The delivery is over; its fence was checked in the same transaction."""

RECORD: Final = "insert into record (id, state, lost, expires, data) values (?, ?, ?, ?, ?) on conflict (id) do nothing"
"""Keep what became of a task; the first record of an id stands."""

LOST: Final = f"""
update task set state = iif(? is null, {WAITS}, 2), eta = coalesce(?, eta), lost = lost + 1, owner = null, n = null
where seq = ?"""
"""Put back what a dead child ran, as one more lost delivery, now or at a time."""

REQUEUE_OWNER: Final = f"update task {PUT_BACK} where state = 3 and owner = ?"
"""Put back all that one owner holds."""

REQUEUE_NODE: Final = f"""
update task {PUT_BACK}
where state = 3 and owner in (select id from owner where incarnation = ?)"""
"""Put back all that the owners of one start hold."""

SUSPECT_NODE: Final = """
update task set state = iif(gate is null, 1, 4), lost = lost + suspect, suspect = 1, owner = null, n = null
where state = 3 and owner in (select id from owner where incarnation = ?)"""
"""The same where nobody saw what ran: a suspect from now on, and one more loss if it was delivered as one."""

# ---- the clock

PROMOTE: Final = f"""
update task set state = {WAITS}
where seq in (select seq from task where state = 2 and eta <= ? order by eta limit ?)"""
"""Queue what is due, at its old place."""

PURGE: Final = """
delete from record where seq in (select seq from record where expires <= ? order by expires limit ?)"""
"""Drop records whose time has passed."""

# ---- what tasks left behind

LEAKS: Final = "select kind, task, what, count, runs, first_seen, last_seen, reason, stack from leak"
"""All rows."""

LEAK: Final = f"{LEAKS} where kind = ? and task = ? and what = ?"
"""The row of one kind, task and what."""

KEEP_LEAK: Final = "insert or replace into leak values (?, ?, ?, ?, ?, ?, ?, ?, ?)"
"""Keep a row instead of what was known."""

FORGET_OLD_LEAKS: Final = """
delete from leak where (kind, task, what) in (
    select kind, task, what from leak order by last_seen desc limit -1 offset ?)"""
"""Drop the rows beyond a number, those first that were not seen for longest."""

FORGET_LEAKS: Final = "delete from leak"
"""Drop all rows."""

# ---- operators

DEPTH: Final = """
select (select count(*) from task where state = 0) + (select count(*) from task where state = 1)
           + (select count(*) from task where state = 4 and gate is not null),
       (select count(*) from task where state = 2),
       (select count(*) from task where state = 3),
       (select count(*) from record where state > 11 and state = 15)"""
"""How many messages are queued, delayed, reserved and dead."""

OLDEST: Final = """
with recursive priority (p) as (select 0 union all select p + 1 from priority where p < 9)
select min(since) from (
    select (select max(created, coalesce(eta, 0)) from task where state = 0 and priority = p order by seq limit 1) since
    from priority
    union all
    select (select max(created, coalesce(eta, 0)) from task where state = 1 and priority = p order by seq limit 1)
    from priority
    union all
    select max(created, coalesce(eta, 0)) from task
    where seq = (select min(seq) from task where state = 4 and gate is not null))"""
"""Since when the first message of some priority could have run: twenty look-ups, however long the queue; and the first
of all that waits behind gates, for which it reads their index."""

MESSAGES: Final = """
select id, state, lost, envelope, (select data from progress where progress.id = task.id and expires > ?)
from task where id > ? order by id limit ?"""
"""The messages that have not ended, by id: a retry has the id of its message, so none is missed."""

ENDED: Final = """
select id, state, lost, data from record where state > 11 and state = ? order by seq desc limit ?"""
"""The newest records that did not succeed, by their partial index."""

SUCCEEDED: Final = "select id, state, lost, data from record where state = ? order by seq desc limit ?"
"""The newest records that succeeded, which are most of them: no index of their own."""
