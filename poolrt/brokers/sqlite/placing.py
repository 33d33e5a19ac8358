"""What puts messages in the queue: enqueue, follow-ups, promote. Runs inside a transaction of the store."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Final

from poolrt.brokers.sqlite import ahead, gates, statements, uniques
from poolrt.message import Enqueue

PROMOTED_AT_ONCE: Final = 1000
"""Delayed messages queued by one transaction; more would keep the children waiting for the lock."""


class News:
    """What other processes should be told once the transaction is durable; filled inside it, sent after it."""

    __slots__ = ("earlier", "freed", "gated", "queued", "sockets")

    def __init__(self) -> None:
        self.queued = False
        """A message waits that did not wait before; whether a child would find one is asked at the end."""
        self.earlier = False
        """The next delayed message is due, or a gate opens, earlier than before."""
        self.gated = False
        """What waits for a token, and until when, may be other than before: asked at the end."""
        self.freed = False
        """A slot is free; whether something waits for it is asked at the end."""
        self.sockets: list[str] = []
        """Those who wait for a task that ended, and the bells of stewards whose held message is to be cancelled."""


def place(db: sqlite3.Connection, items: Iterable[Enqueue], now: float, news: News) -> list[bool]:
    """Store the messages whose ids are unknown and whose unique keys are free; for each, whether it was."""
    stored = []
    etas = []
    for item in items:
        delayed = item.eta is not None and item.eta > now
        if item.gate is None and item.unique is None:
            state = statements.DELAYED if delayed else statements.QUEUED
            row = (state, item.priority, item.eta, now, item.queue, item.task, item.id, item.envelope, item.id)
            new = db.execute(statements.ENQUEUE, row).rowcount == 1
        else:
            new = _place_on_terms(db, item, now, news, delayed=delayed)
        stored.append(new)
        if new and item.last:
            ahead.plan(db, item.last, now)
        if new and delayed:
            etas.append(item.eta)
        elif new:
            news.queued = True
    if etas and earliest_eta(db) in etas:
        news.earlier = True
    return stored


def _place_on_terms(db: sqlite3.Connection, item: Enqueue, now: float, news: News, *, delayed: bool) -> bool:
    """Store one that has a gate or a unique key."""
    gate, unique = item.gate, item.unique
    if unique is not None and not uniques.is_free(db, unique.key, item.id, now):
        return False
    state = statements.DELAYED if delayed else statements.QUEUED if gate is None else statements.BEHIND
    row = (
        state,
        item.priority,
        item.eta,
        now,
        item.queue,
        item.task,
        item.id,
        item.envelope,
        gate and gate.key,
        item.id,
    )
    if db.execute(statements.ENQUEUE_BEHIND, row).rowcount != 1:
        return False
    if unique is not None:
        uniques.hold(db, unique, item.id, now)
    if gate is not None and (gates.limit(db, gate) or (not delayed and gates.waits_alone(db, gate.key))):
        news.gated = True  # else the stewards know when it opens
    return True


def earliest_eta(db: sqlite3.Connection) -> float | None:
    """When the next delayed message is due; None without any."""
    eta: float | None = db.execute(statements.EARLIEST_ETA).fetchone()[0]
    return eta


def promote(db: sqlite3.Connection, now: float, news: News) -> None:
    """Queue what is due; more is left if too many were due at once."""
    news.queued = db.execute(statements.PROMOTE, (now, PROMOTED_AT_ONCE)).rowcount > 0
