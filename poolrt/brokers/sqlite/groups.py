"""Groups: which of their members have succeeded, and what follows. Runs inside a transaction of the store.

The way of what a settle says of its members:

    settle ──▶ Filled ──┬─ it succeeded, or its group collects ──▶ a bit of ``filled`` ──▶ the last one: body
                        └─ it failed ──▶ body's record, errbacks ──▶ the group around it, which fails as well
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Final

import msgspec

from poolrt.brokers.sqlite import ahead, group_statements, statements
from poolrt.brokers.sqlite.placing import News, place
from poolrt.message import Filled, NewGroup
from poolrt.terms import Slot

WIDTH: Final = 63
"""Slots in one row: as many bits as an integer of SQLite has beside its sign."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(NewGroup).decode


def make(db: sqlite3.Connection, groups: Iterable[NewGroup], now: float) -> None:
    """Make those that are not known."""
    for group in groups:
        db.execute(group_statements.FORGET_OLD_GROUP, (group.id, now))
        row = (group.id, group.size, group.size, group.collects, now + group.ttl)
        made = db.execute(group_statements.MAKE, row)
        if made.rowcount == 1:
            db.execute(group_statements.KEEP_PLAN, (made.lastrowid, _encode(group)))
            for task_id in filter(None, (group.body.id, group.body.last)):
                ahead.plan(db, task_id, now)


def end_members(db: sqlite3.Connection, members: Iterable[Filled], now: float, news: News) -> None:
    """These have ended: their slots are filled, or their groups fail."""
    slots: dict[str, list[int]] = {}
    for member in members:
        slot: Slot | None = member.slot
        if member.failure is not None:
            slot = _fail_from(db, member.slot, member.failure, now, news)
        if slot is not None:
            slots.setdefault(slot.group, []).append(slot.index)
    for group, indexes in slots.items():
        _fill(db, group, indexes, now, news)


def fail(db: sqlite3.Connection, group: str, failure: bytes, now: float, news: News) -> bool:
    """Let a group fail, and those around it; whether it was known and had not failed."""
    row = db.execute(group_statements.GROUP, (group, now)).fetchone()
    if row is None or row[3]:
        return False
    outer = _fail(db, row[0], failure, now, news)
    if outer is not None:
        end_members(db, [Filled(outer, failure)], now, news)
    return True


def _fail_from(db: sqlite3.Connection, slot: Slot, failure: bytes, now: float, news: News) -> Slot | None:
    """Let the groups around a slot fail, from the inside out; the slot of the first that collects, which is filled."""
    at: Slot | None = slot
    while at is not None:
        row = db.execute(group_statements.GROUP, (at.group, now)).fetchone()
        if row is None:
            return None
        seq, _, _, failed, collects = row
        if collects:
            return at
        if failed:
            return None
        at = _fail(db, seq, failure, now, news)
    return None


def _fail(db: sqlite3.Connection, seq: int, failure: bytes, now: float, news: News) -> Slot | None:
    """What follows the first failure in a group; the slot that its body would have filled."""
    db.execute(group_statements.FAILED, (seq,))
    group = _plan(db, seq)
    ended = [(task_id, failure) for task_id in (group.body.id, group.body.last) if task_id]
    ahead.keep(db, ended, now + group.ttl, news.sockets)
    place(db, group.errbacks, now, news)
    return group.outer


def _fill(db: sqlite3.Connection, group: str, indexes: list[int], now: float, news: News) -> None:
    row = db.execute(group_statements.GROUP, (group, now)).fetchone()
    if row is None:
        return
    seq, size, missing, failed, _ = row
    words: dict[int, int] = {}
    for index in indexes:
        if 0 <= index < size:
            word, bit = divmod(index, WIDTH)
            words[word] = words.get(word, 0) | 1 << bit
    new = sum(_mark(db, seq, word, bits) for word, bits in words.items())
    if new < missing:
        db.execute(group_statements.MISSING, (missing - new, seq))
    else:
        _finish(db, seq, now, news, had_failed=failed)


def _mark(db: sqlite3.Connection, seq: int, word: int, bits: int) -> int:
    """Fill slots of one row; how many of them were not filled before."""
    row = db.execute(group_statements.FILLED, (seq, word)).fetchone()
    before: int = row[0] if row else 0
    new = bits & ~before
    if new:
        db.execute(group_statements.FILL, (seq, word, before | new))
    return new.bit_count()


def _finish(db: sqlite3.Connection, seq: int, now: float, news: News, *, had_failed: bool) -> None:
    """The last slot is filled: enqueue the body, in the place of the record that an earlier failure left."""
    body = _plan(db, seq).body
    db.execute(group_statements.FORGET_GROUP, (seq,))
    if had_failed:
        db.executemany(statements.FORGET, [(body.id,), (body.last,)])
    place(db, [body], now, news)


def _plan(db: sqlite3.Connection, seq: int) -> NewGroup:
    return _decode(db.execute(group_statements.PLAN, (seq,)).fetchone()[0])
