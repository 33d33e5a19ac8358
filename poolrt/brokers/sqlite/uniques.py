"""Unique keys: which message has one. Runs inside a transaction of the store.

A key is free when the message that had it has ended and its time is over: nothing is released, so nothing can be lost.
"""

from __future__ import annotations

import sqlite3

from poolrt.brokers.sqlite import statements
from poolrt.terms import Unique


def holder(db: sqlite3.Connection, key: str, now: float) -> str | None:
    """The id of the message that has this key."""
    row = db.execute(statements.HOLDER, (key, now)).fetchone()
    return row and str(row[0])


def is_free(db: sqlite3.Connection, key: str, task_id: str, now: float) -> bool:
    """Whether the message of this id may have the key, or has it already."""
    return holder(db, key, now) in (None, task_id)


def hold(db: sqlite3.Connection, unique: Unique, task_id: str, now: float) -> None:
    """Give it the key, which is free or its own."""
    db.execute(statements.HOLD, (unique.key, task_id, now + unique.seconds))
