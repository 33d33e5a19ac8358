"""The SQL statements that read single queues, all but ``COUNTS_UNINDEXED`` by their index, ``schema.QUEUE_INDEX``.

``state < 2`` means queued, as a suspect or not: the literal of that index. What waits behind gates is in another
(``gate_statements``), which those of operators read whole.
"""

# ruff: noqa: S608  the pieces of a statement are constants

from __future__ import annotations

from typing import Final

HAS_INDEX: Final = "select 1 from sqlite_schema where type = 'index' and name = 'task_by_queue'"
"""Whether single queues were used before in this file."""

ANY_WAITING: Final = """
select exists (select 1 from pause),
       exists (select 1 from task where state = 0) or exists (select 1 from task where state = 1)"""
"""Whether any queue is paused, and whether anything is queued in any, gates aside."""

NOT_PAUSED: Final = """
with recursive each (found) as (
    select min(queue) from task where state < 2
    union all
    select (select min(queue) from task where state < 2 and queue > found) from each where found is not null)
select found from each where found is not null and found not in (select queue from pause)"""
"""The queues with messages that are not paused: one look-up each, however many messages there are."""

PAUSED: Final = "select queue from pause"
"""The paused queues."""

ANY_IN: Final = "select exists (select 1 from task where state < 2 and queue = ?)"
"""Whether anything is queued in one queue."""

HEAD: Final = """
select priority, seq, state from task
where state < 2 and queue = ? and (state = 1 or name not in (select value from json_each(?)))
order by priority desc, seq limit ?"""
"""The first to run of one queue, without tasks of these names; a suspect of such a name is not skipped: it is to run
before what comes after it."""

PAUSE: Final = "insert into pause (queue) values (?) on conflict do nothing"
"""Give out nothing of this queue."""

UNPAUSE: Final = "delete from pause where queue = ?"
"""Give out its messages again."""

FIRST: Final = """
select seq from (
    select * from (
        select priority, seq from task where state < 2 and queue = :queue order by priority desc, seq limit :limit)
    union all
    select * from (
        select priority, seq from task where state = 4 and gate is not null and queue = :queue
        order by priority desc, seq limit :limit))
order by priority desc, seq limit :limit"""
"""The first to run of one queue, were all gates open."""

EMPTY: Final = f"delete from task where seq in ({FIRST}) returning id"
"""Delete them."""

MOVE: Final = f"update task set queue = :to where seq in ({FIRST})"
"""Put them into another queue."""

PEEK: Final = f"""
select id, envelope, lost from task where seq in ({FIRST}) order by priority desc, seq"""
"""Read them."""

COUNTS: Final = """
with recursive priority (p) as (select 0 union all select p + 1 from priority where p < 9)
select queue, count(*), (
    select min((
        select max(created, coalesce(eta, 0)) from task head
        where state < 2 and head.queue = task.queue and head.priority = p order by seq limit 1))
    from priority)
from task where state < 2 group by queue"""
"""How many messages each queue has, and since when the first of some priority could have run. Walks the index."""

COUNTS_UNINDEXED: Final = """
select queue, count(*), min(max(created, coalesce(eta, 0))) from task where state < 2 group by queue"""
"""The same where the index is not made yet: reads every queued message, which looking at queues may cost."""

COUNTS_BEHIND: Final = """
select found.queue, waiting, (select max(created, coalesce(eta, 0)) from task where seq = first) from (
    select queue, count(*) waiting, min(seq) first
    from task where state = 4 and gate is not null group by gate, queue) found"""
"""How many messages of each queue wait behind each gate, and since when the first of them. Walks their index."""

ANY_BEHIND_IN: Final = "select exists (select 1 from task where state = 4 and gate is not null and queue = ?)"
"""Whether anything of one queue waits behind a gate."""
