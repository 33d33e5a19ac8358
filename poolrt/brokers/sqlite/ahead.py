"""Ids that are known before they are enqueued: later steps are planned, or end without having been enqueued.

Runs inside a transaction of the store. An id's row in ``planned`` stays while its message waits or runs, where nobody
looks at it, and goes when it ends: so an enqueue need not look for one.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable

from poolrt.brokers.sqlite import group_statements, statements
from poolrt.message import DEAD_TTL, record_state


def plan(db: sqlite3.Connection, task_id: str, now: float) -> None:
    """Let this id be known."""
    db.execute(group_statements.PLANNED, (task_id, now + DEAD_TTL, task_id))


def forget(db: sqlite3.Connection, ids: list[str]) -> None:
    """These have ended: they are known by their records, or not any more."""
    db.execute(group_statements.FORGET_PLANNED, (json.dumps(ids),))


def keep(
    db: sqlite3.Connection, records: Iterable[tuple[str, bytes]], expires: float, sockets: list[str]
) -> list[bool]:
    """Keep those records of whose ids there is neither message nor record; for each, whether it was.

    Who waits for them is added to ``sockets``.
    """
    kept = []
    for task_id, record in records:
        row = (task_id, statements.RECORD_CODES[record_state(record)], expires, record, task_id)
        kept.append(db.execute(group_statements.RECORD_AHEAD, row).rowcount == 1)
        if kept[-1]:
            forget(db, [task_id])
            sockets += [name for (name,) in db.execute(statements.WAITERS_OF, (json.dumps([task_id]),))]
    return kept
