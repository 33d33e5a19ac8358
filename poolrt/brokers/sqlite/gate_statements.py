"""The SQL statements of gates. Each reads the heads of what waits, a look-up for each gate, however much waits there.

:now    wall time, in seconds
:soon   a grain later: up to then a gate is open, since adding to a wall time rounds it
"""

# ruff: noqa: S608  the pieces of a statement are constants

from __future__ import annotations

from typing import Final

LIMIT: Final = """
insert into gate (key, rate, burst, slots, due) values (?, ?, ?, ?, 0)
on conflict (key) do update set rate = excluded.rate, burst = excluded.burst, slots = excluded.slots
where rate <> excluded.rate or burst <> excluded.burst or slots <> excluded.slots"""
"""The limits of a gate from now on; no row is changed by those that it has."""

ONLY_ONE: Final = "select count(*) = 1 from (select 1 from task where state = 4 and gate = ? limit 2)"
"""Whether just one message waits behind a gate."""

_NEXT = "order by gate, queue, priority desc, seq limit 1"
_HEADS = f"""
with recursive head (seq, gate, queue, priority) as (
    select * from (select seq, gate, queue, priority from task where state = 4 and gate is not null {_NEXT})
    union all
    select task.seq, task.gate, task.queue, task.priority from head cross join task on task.seq = coalesce(
        (select seq from task where state = 4 and gate = head.gate and queue > head.queue {_NEXT}),
        (select seq from task where state = 4 and gate > head.gate {_NEXT})))"""
"""What is to run first of each gate and queue."""

_AND_THEIR_GATES = "from head cross join gate on gate.key = head.gate where queue not in (select queue from pause)"
_OPENS = "(due - (burst - 1) / rate)"
"""When a token lets the next one start: the burst is whole at ``due``, and each start takes ``1 / rate`` of it."""
_LETS = f"(rate = 0 or {_OPENS} <= :soon)"
_HELD = "(select count(*) from task where state = 3 and task.gate = gate.key)"
_FREE = f"(slots = 0 or {_HELD} < slots)"
_JUMPED = "(rate > 0 and due > :soon + burst / rate)"
"""More was taken than there can be: the clock was put back since, or the limits are others. Such a gate is not open."""

OPEN: Final = f"""{_HEADS}
select priority, head.seq, queue, gate.key, rate, burst, due, iif(slots, slots - {_HELD}, -1) {_AND_THEIR_GATES}
and ({_JUMPED} or ({_LETS} and {_FREE}))"""
"""The heads that may start now, with their gates and the slots that are free (-1: no limit); and those whose gate is to
be mended first."""

ANY_OPEN: Final = f"{_HEADS} select 1 {_AND_THEIR_GATES} and {_LETS} and {_FREE} limit 1"
"""Whether any head may start now."""

LOOK: Final = f"""{_HEADS}
select coalesce(max({_LETS} and {_FREE}), 0),
       min(iif({_LETS} or not {_FREE}, null, {_OPENS})),
       coalesce(max({_JUMPED}), 0) {_AND_THEIR_GATES}"""
"""Whether any head may start now, when the next token lets another one start, and whether a gate is to be mended: until
then that time is too late."""

MEND: Final = "update gate set due = :now + burst / rate where rate > 0 and due > :soon + burst / rate"
"""Nothing more is taken from these than there can be: each lets one start in ``1 / rate``."""

FIRST_BEHIND: Final = """
select priority, seq, suspect from task
where state = 4 and gate = ? and queue = ? and (suspect or name not in (select value from json_each(?)))
order by priority desc, seq limit ?"""
"""The first to run of one gate and queue, without tasks of these names, as ``queue_statements.HEAD``."""

TAKEN: Final = "update gate set due = ? where key = ?"
"""Tokens were taken."""

FREED: Final = """
select max(rate > 0)
from json_each(?) cross join task on task.seq = json_each.value cross join gate on gate.key = task.gate
where state = 3 and slots > 0"""
"""Whether any of these rows has a slot (null: none has), and any of those gates a rate as well."""

IDLE: Final = "due <= ? and not exists (select 1 from task where state in (2, 3, 4) and task.gate = gate.key)"
"""Whether a gate says nothing that its next message will not say. Part of statements."""

IDLE_GATES: Final = f"select key from gate where {IDLE} limit ?"
"""Gates that nobody needs."""

SWEEP_GATES: Final = f"delete from gate where key in (select value from json_each(?)) and {IDLE}"
"""Forget them, those that are still idle."""
