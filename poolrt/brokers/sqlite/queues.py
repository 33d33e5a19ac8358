"""Single queues: what a node that chooses its queues reserves, pauses, and what operators do to one queue.

Runs inside a transaction of the store. Nodes that read all queues come here only while one is paused.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterable

from poolrt.brokers.base import Found, QueueDepth
from poolrt.brokers.sqlite import queue_statements, schema, statements
from poolrt.brokers.sqlite.holding import reserve_these
from poolrt.brokers.sqlite.placing import News
from poolrt.message import Delivery
from poolrt.states import TaskState


def has_index(db: sqlite3.Connection) -> bool:
    """Whether ``prepare`` was called in this file before."""
    return db.execute(queue_statements.HAS_INDEX).fetchone() is not None


def prepare(db: sqlite3.Connection) -> None:
    """Make the index that the statements of single queues live on; one second for a million messages, once."""
    db.execute(schema.QUEUE_INDEX)


def any_waiting(db: sqlite3.Connection) -> bool:
    """Whether a child that reads all queues would find something."""
    paused, queued = db.execute(queue_statements.ANY_WAITING).fetchone()
    if paused and queued:
        return db.execute(queue_statements.NOT_PAUSED).fetchone() is not None
    return bool(queued)


# ---- what an owner may reserve


def readable(db: sqlite3.Connection, chosen: Collection[str]) -> list[str]:
    """The queues that give out messages now: of the chosen ones, or with no choice of all that hold any."""
    if not chosen:
        return [name for (name,) in db.execute(queue_statements.NOT_PAUSED)]
    paused = {name for (name,) in db.execute(queue_statements.PAUSED)}
    return [name for name in chosen if name not in paused]


def reserve(
    db: sqlite3.Connection,
    number: int,
    n: int,
    count: int,
    names: Iterable[str],
    *,
    holds: bool,
    without: Collection[str],
) -> list[Delivery]:
    """``holding.reserve`` from these queues alone, in the order in which all of them together would run."""
    skipped = json.dumps(list(without))
    head: list[tuple[int, int, int]] = []
    for name in names:
        head += db.execute(queue_statements.HEAD, (name, skipped, count))
    head.sort(key=lambda row: (-row[0], row[1]))
    taken: list[int] = []
    for _, seq, state in head[:count]:
        if state == statements.SUSPECT:
            if not taken and not holds:
                taken.append(seq)
            break
        taken.append(seq)
    return reserve_these(db, number, n, taken)


def any_in(db: sqlite3.Connection, names: Iterable[str]) -> bool:
    """Whether anything is queued in one of these."""
    return any(db.execute(queue_statements.ANY_IN, (name,)).fetchone()[0] for name in names)


# ---- operators


def depths(db: sqlite3.Connection, now: float) -> list[QueueDepth]:
    """Every queue with queued messages and every paused one, by name."""
    counts = queue_statements.COUNTS if has_index(db) else queue_statements.COUNTS_UNINDEXED
    found = {name: (queued, since) for name, queued, since in db.execute(counts)}
    paused = {name for (name,) in db.execute(queue_statements.PAUSED)}
    return [
        QueueDepth(name, queued, name in paused, None if since is None else max(0.0, now - since))
        for name, (queued, since) in sorted({**dict.fromkeys(paused, (0, None)), **found}.items())
    ]


def pause(db: sqlite3.Connection, queue: str) -> None:
    """Give out nothing of it."""
    prepare(db)
    db.execute(queue_statements.PAUSE, (queue,))


def unpause(db: sqlite3.Connection, queue: str, news: News) -> None:
    """Give out its messages again."""
    db.execute(queue_statements.UNPAUSE, (queue,))
    news.queued = any_in(db, [queue])


def empty(db: sqlite3.Connection, queue: str, limit: int, news: News) -> int:
    """Delete the first messages; who waits for one is told, since it ended without a record."""
    prepare(db)
    ids = [task for (task,) in db.execute(queue_statements.EMPTY, (queue, max(0, limit))).fetchall()]
    if ids and db.execute(statements.ANY_WAITER).fetchone():
        news.sockets += [name for (name,) in db.execute(statements.WAITERS_OF, (json.dumps(ids),))]
    return len(ids)


def move(db: sqlite3.Connection, queue: str, to: str, limit: int, news: News) -> int:
    """Put the first messages into another queue, where each keeps its age, and so its place among those there."""
    prepare(db)
    moved = db.execute(queue_statements.MOVE, (to, queue, max(0, limit))).rowcount
    news.queued = moved > 0
    return moved


def peek(db: sqlite3.Connection, queue: str, limit: int) -> list[Found]:
    """The first messages, as they are."""
    rows = db.execute(queue_statements.PEEK, (queue, max(0, limit)))
    return [Found(task, TaskState.QUEUED, envelope, None, lost) for task, envelope, lost in rows]
