"""Single queues: pauses, what waits, and what operators do to one queue. Runs inside a transaction of the store."""

from __future__ import annotations

import sqlite3

from poolrt.brokers.base import Found, QueueDepth
from poolrt.brokers.sqlite import ahead, gates, queue_statements, schema
from poolrt.brokers.sqlite.ending import tell_ended
from poolrt.brokers.sqlite.placing import News
from poolrt.states import TaskState


def has_index(db: sqlite3.Connection) -> bool:
    """Whether ``prepare`` was called in this file before."""
    return db.execute(queue_statements.HAS_INDEX).fetchone() is not None


def prepare(db: sqlite3.Connection) -> None:
    """Make the index that the statements of single queues live on; one second for a million messages, once."""
    db.execute(schema.QUEUE_INDEX)


def any_waiting(db: sqlite3.Connection, now: float) -> bool:
    """Whether a child that reads all queues would find something."""
    paused, queued = db.execute(queue_statements.ANY_WAITING).fetchone()
    if queued and (not paused or db.execute(queue_statements.NOT_PAUSED).fetchone()):
        return True
    return gates.any_open(db, now)


# ---- operators


def depths(db: sqlite3.Connection, now: float) -> list[QueueDepth]:
    """Every queue with queued messages and every paused one, by name."""
    counts = queue_statements.COUNTS if has_index(db) else queue_statements.COUNTS_UNINDEXED
    found: dict[str, tuple[int, float | None]] = {}
    for name, queued, since in (*db.execute(counts), *db.execute(queue_statements.COUNTS_BEHIND)):
        before, first = found.get(name, (0, None))
        found[name] = (before + queued, since if first is None else min(first, since))
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
    news.queued = bool(db.execute(queue_statements.ANY_IN, (queue,)).fetchone()[0])
    news.gated = bool(db.execute(queue_statements.ANY_BEHIND_IN, (queue,)).fetchone()[0])


def empty(db: sqlite3.Connection, queue: str, limit: int, news: News) -> int:
    """Delete the first messages; who waits for one is told, since it ended without a record."""
    prepare(db)
    ids = [task for (task,) in db.execute(queue_statements.EMPTY, _first(queue, limit)).fetchall()]
    if ids:
        ahead.forget(db, ids)
        tell_ended(db, ids, news)
    return len(ids)


def move(db: sqlite3.Connection, queue: str, to: str, limit: int, news: News) -> int:
    """Put the first messages into another queue, where each keeps its age, and so its place among those there."""
    prepare(db)
    moved = db.execute(queue_statements.MOVE, {"to": to, **_first(queue, limit)}).rowcount
    news.queued = news.gated = moved > 0
    return moved


def peek(db: sqlite3.Connection, queue: str, limit: int) -> list[Found]:
    """The first messages, as they are."""
    rows = db.execute(queue_statements.PEEK, _first(queue, limit))
    return [Found(task, TaskState.QUEUED, envelope, None, lost) for task, envelope, lost in rows]


def _first(queue: str, limit: int) -> dict[str, str | int]:
    return {"queue": queue, "limit": max(0, limit)}
