"""What ends messages and owners: settle, cancel, bury, rescue. Runs inside a transaction of the store."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from poolrt.brokers.base import Buried
from poolrt.brokers.sqlite import ahead, gates, groups, statements
from poolrt.brokers.sqlite.holding import held_by
from poolrt.brokers.sqlite.placing import News, earliest_eta, place
from poolrt.message import Delivery, Outcome, Owner, Requeue

Fences = set[tuple[int, int]]

_NO_RESERVE: Final = 0
"""``Delivery.n`` of a message that nobody holds; owners count their reserves from 1."""


def settle(db: sqlite3.Connection, held: Fences, outcomes: Iterable[Outcome], now: float, news: News) -> int:
    """Make those outcomes durable whose delivery is in ``held``, and take them out of it; how many were not.

    Checking the fences against one look at what is held keeps the count of statements constant, and an outcome given
    twice takes effect once.
    """
    live = []
    stale = 0
    for outcome in outcomes:
        fence = (outcome.delivery.i, outcome.delivery.n)
        if fence in held:
            held.remove(fence)
            if outcome.if_cancelled is not None and db.execute(statements.HAS_WORD, fence[:1]).fetchone():
                outcome = outcome.if_cancelled  # noqa: PLW2901  its next attempt must not start
            live.append(outcome)
        else:
            stale += 1
    if live:
        _end(db, live, now, news)
    return stale


def cancel(
    db: sqlite3.Connection, task_id: str, outcome_of: Callable[[Delivery], Outcome], now: float, news: News
) -> bool:
    """End the message of this id if it waits; whether it did."""
    row = db.execute(statements.WAITING, (task_id,)).fetchone()
    if row is None:
        return False
    seq, envelope, lost, suspect = row
    delivery = Delivery(envelope, _NO_RESERVE, seq, task_id, lost, suspect != 0)
    _end(db, [outcome_of(delivery)], now, news)
    return True


def bury(db: sqlite3.Connection, owner: Owner, verdict: Outcome | Requeue | None, now: float, news: News) -> Buried:
    """Bar ``owner``; its verdict takes effect if the delivery is still held; the rest goes back to its old place."""
    gone = db.execute(statements.NODE_GONE, (owner.incarnation,)).fetchone()
    if gone is None or gone[0]:
        return Buried(0, settled=False)  # all of its owners are barred, and what they held was put back
    db.execute(statements.BAR, owner)
    row = db.execute(statements.OWNER, owner).fetchone()
    if row is None:
        return Buried(0, settled=False)
    requeued, settled = _judge(db, held_by(db, row[0]), [verdict] if verdict is not None else [], now, news)
    requeued += _requeued(db.execute(statements.REQUEUE_OWNER, row).rowcount, news)
    db.execute(statements.FORGET_WORDS, row)
    db.execute(statements.FORGET_OWNER, row)
    return Buried(requeued, settled=settled > 0)


def rescue(
    db: sqlite3.Connection,
    incarnation: str,
    verdicts: Iterable[Outcome | Requeue],
    now: float,
    news: News,
    *,
    suspect: bool,
) -> Buried:
    """Bar all owners of one start of a node for good; verdicts first, the rest goes back, as suspects if so said."""
    held: Fences = set(db.execute(statements.HELD_BY_NODE, (incarnation,)))
    requeued, settled = _judge(db, held, verdicts, now, news)
    put_back = statements.SUSPECT_NODE if suspect else statements.REQUEUE_NODE
    requeued += _requeued(db.execute(put_back, (incarnation,)).rowcount, news)
    db.execute(statements.FORGET_NODE_WORDS, (incarnation,))
    db.execute(statements.FORGET_OWNERS, (incarnation,))
    db.execute(statements.FORGET_BARS, (incarnation,))
    db.execute(statements.LEAVE, (incarnation,))
    return Buried(requeued, settled=settled > 0)


def _judge(
    db: sqlite3.Connection, held: Fences, verdicts: Iterable[Outcome | Requeue], now: float, news: News
) -> tuple[int, int]:
    """Apply the verdicts on what is in ``held``: how many were put back, and how many took effect."""
    requeued = settled = 0
    for verdict in verdicts:
        if isinstance(verdict, Outcome):
            settled += 1 - settle(db, held, [verdict], now, news)
            continue
        fence = (verdict.delivery.i, verdict.delivery.n)
        if fence not in held:
            continue
        held.remove(fence)
        eta = now + verdict.delay if verdict.delay > 0 else None
        db.execute(statements.LOST, (eta, eta, verdict.delivery.i))
        news.gated = True
        if eta is None:
            news.queued = True
        elif earliest_eta(db) == eta:
            news.earlier = True
        requeued += 1
        settled += 1
    return requeued, settled


def _end(db: sqlite3.Connection, outcomes: Sequence[Outcome], now: float, news: News) -> None:
    """Delete the messages, keep the records, place the follow-ups: a retry has its message's id, so in this order."""
    waiters, progress, planned, behind = db.execute(statements.ENDING).fetchone()
    if behind:
        freed, rated = gates.freed(db, [outcome.delivery.i for outcome in outcomes])
        news.freed = news.freed or freed
        news.gated = news.gated or rated
    db.executemany(statements.END, [(outcome.delivery.i,) for outcome in outcomes])
    records = [
        (outcome.delivery.task_id, _code(outcome), outcome.delivery.lost, now + outcome.ttl, outcome.record)
        for outcome in outcomes
        if outcome.record is not None
    ]
    if records:
        db.executemany(statements.RECORD, records)
    _follow(db, outcomes, now, news)
    if waiters or progress or planned:
        ended = [outcome.delivery.task_id for outcome in outcomes if outcome.state or not outcome.follow_ups]
        if planned:
            ahead.forget(db, ended)
        if waiters or progress:
            tell_ended(db, ended, news)


def _follow(db: sqlite3.Connection, outcomes: Sequence[Outcome], now: float, news: News) -> None:
    """What comes beside the records. Slots are filled last, those of one group by few statements."""
    for outcome in outcomes:
        if outcome.also:
            ahead.keep(db, outcome.also, now + outcome.ttl, news.sockets)
        if outcome.groups:
            groups.make(db, outcome.groups, now)
        if outcome.follow_ups:
            place(db, outcome.follow_ups, now, news)
    if members := [outcome.filled for outcome in outcomes if outcome.filled is not None]:
        groups.end_members(db, members, now, news)


def tell_ended(db: sqlite3.Connection, ids: list[str], news: News) -> None:
    """Forget what these said of themselves, and tell those who wait for them."""
    told = json.dumps(ids)
    db.execute(statements.FORGET_PROGRESS, (told,))
    news.sockets += [row[0] for row in db.execute(statements.WAITERS_OF, (told,))]


def _code(outcome: Outcome) -> int:
    if outcome.state is None:
        raise ValueError(f"{outcome!r} has a record but no final state")
    return statements.RECORD_CODES[outcome.state]


def _requeued(count: int, news: News) -> int:
    if count:
        news.queued = news.gated = True
    return count
