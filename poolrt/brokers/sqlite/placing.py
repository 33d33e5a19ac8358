"""What puts messages in the queue: enqueue, follow-ups, promote. Runs inside a transaction of the store."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Final

from poolrt.brokers.sqlite import statements
from poolrt.message import Enqueue

PROMOTED_AT_ONCE: Final = 1000
"""Delayed messages queued by one transaction; more would keep the children waiting for the lock."""


class News:
    """What other processes should be told once the transaction is durable; filled inside it, sent after it."""

    __slots__ = ("earlier", "queued", "sockets")

    def __init__(self) -> None:
        self.queued = False
        """A message waits that did not wait before; whether a child would find one is asked at the end."""
        self.earlier = False
        """The next delayed message is due earlier than before."""
        self.sockets: list[str] = []
        """Those who wait for a task that ended, and the bells of stewards whose held message is to be cancelled."""


def place(db: sqlite3.Connection, items: Iterable[Enqueue], now: float, news: News) -> list[bool]:
    """Store the messages whose ids are unknown; for each, whether it was new."""
    stored = []
    etas = []
    for item in items:
        delayed = item.eta is not None and item.eta > now
        state = statements.DELAYED if delayed else statements.QUEUED
        row = (state, item.priority, item.eta, now, item.queue, item.task, item.id, item.envelope, item.id)
        new = db.execute(statements.ENQUEUE, row).rowcount == 1
        stored.append(new)
        if new and delayed:
            etas.append(item.eta)
        elif new:
            news.queued = True
    if etas and earliest_eta(db) in etas:
        news.earlier = True
    return stored


def earliest_eta(db: sqlite3.Connection) -> float | None:
    """When the next delayed message is due; None without any."""
    eta: float | None = db.execute(statements.EARLIEST_ETA).fetchone()[0]
    return eta


def promote(db: sqlite3.Connection, now: float, news: News) -> float | None:
    """Queue what is due; when the next one is due, which is in the past if too many were due at once."""
    news.queued = db.execute(statements.PROMOTE, (now, PROMOTED_AT_ONCE)).rowcount > 0
    return earliest_eta(db)
