"""What owners hold: attach, reserve, release, recall, and the word that a held message is to be cancelled.

Runs inside a transaction of the store.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterable
from typing import Any, Final

from poolrt.brokers.sqlite import statements
from poolrt.errors import Fenced
from poolrt.message import Delivery, Owner

_ABOVE_ALL: Final = 2**62
"""A priority before which nothing runs."""


def attach(db: sqlite3.Connection, owner: Owner) -> None:
    """Let ``owner`` be heard from now on. Safe to call again.

    A slot's generations attach in order, so the highest barred one bars a first attach of all before it; an earlier
    generation that is attached already stays so until it is barred itself.
    """
    if not check_attachable(db, owner):
        db.execute(statements.ATTACH, owner)


def check_attachable(db: sqlite3.Connection, owner: Owner) -> bool:
    """Raise Fenced unless ``owner`` may attach; whether it is attached already."""
    check_joined(db, owner.incarnation)
    if db.execute(statements.OWNER, owner).fetchone():
        return True
    barred = db.execute(statements.BARRED, owner[:2]).fetchone()
    if barred and owner.generation <= barred[0]:
        raise Fenced(f"owner {owner} was buried: it must not take tasks any more")
    return False


def check_joined(db: sqlite3.Connection, incarnation: str) -> None:
    """Raise Fenced unless this start of a node is registered and has not left."""
    gone = db.execute(statements.NODE_GONE, (incarnation,)).fetchone()
    if gone is None:
        raise Fenced(f"incarnation {incarnation} never joined this broker")
    if gone[0]:
        raise Fenced(f"incarnation {incarnation} has left this broker, or was rescued")


def number_of(db: sqlite3.Connection, owner: Owner | None) -> int:
    """The number under which ``owner`` holds deliveries; raises Fenced for one that may not be heard."""
    if owner is None:
        raise Fenced("this broker object is attached to no owner")
    row = db.execute(statements.OWNER, owner).fetchone()
    if row is None:
        raise Fenced(f"owner {owner} was buried or never attached: the broker did nothing for it")
    number: int = row[0]
    return number


def heard(db: sqlite3.Connection, owner: Owner) -> tuple[int, int, int]:
    """The number of ``owner``, its floor, and whether more is to be looked at than what is queued (``choosing``);
    raises Fenced as ``number_of`` does."""
    row: tuple[int, int, int] | None = db.execute(statements.HEARD, owner).fetchone()
    return row or (number_of(db, owner), 0, 0)  # which raises: there is no such owner


def held_by(db: sqlite3.Connection, number: int) -> set[tuple[int, int]]:
    """The fences ``(seq, n)`` of what an owner holds."""
    return set(db.execute(statements.HELD, (number,)))


def reserve(db: sqlite3.Connection, number: int, n: int, count: int, without: Collection[str]) -> list[Delivery] | None:
    """Reserve the ``count`` messages to run first; None, and nothing is done, if a suspect waits (``choosing``)."""
    if db.execute(statements.SUSPECT_HEAD).fetchone() is not None:
        return None
    if without:
        rows = db.execute(statements.TO_RESERVE_WITHOUT, (json.dumps(list(without)), count)).fetchall()
    else:
        rows = db.execute(statements.TO_RESERVE, (count,)).fetchall()
    return _reserve(db, number, n, rows)


def reserve_these(db: sqlite3.Connection, number: int, n: int, places: list[int]) -> list[Delivery]:
    """Reserve the rows with these numbers, which this transaction saw queued, in this order."""
    rows = {row[0]: row for row in db.execute(statements.THESE, (str(places),))} if places else {}
    return _reserve(db, number, n, [rows[seq] for seq in places])


def _reserve(db: sqlite3.Connection, number: int, n: int, rows: list[Any]) -> list[Delivery]:
    if rows:
        db.execute(statements.RESERVE, (number, n, str([row[0] for row in rows])))
    return _deliveries(rows, n)


def any_queued(db: sqlite3.Connection) -> bool:
    """Whether a child would find something."""
    return bool(db.execute(statements.ANY_QUEUED).fetchone()[0])


def running(db: sqlite3.Connection, owner: Owner, n: int, i: int) -> Delivery | None:
    """The delivery ``(n, i)`` if ``owner`` still holds it."""
    row = db.execute(statements.OWNER, owner).fetchone()
    found = db.execute(statements.RUNNING, (row[0], n, i)).fetchall() if row else []
    return _deliveries(found, n)[0] if found else None


def release(db: sqlite3.Connection, number: int, deliveries: Iterable[Delivery]) -> int:
    """Put deliveries back, uncounted and at their old place; how many were still held."""
    return db.executemany(statements.RELEASE, [(number, held.i, held.n) for held in deliveries]).rowcount


def recall(db: sqlite3.Connection, owner: Owner, after: tuple[int, int], upto: int) -> int:
    """Put back what ``owner`` would run after the delivery ``after``, of reserves up to ``upto``; how many.

    Of that delivery's own reserve, what comes before it has run already, and its outcome may be on its way: it stays.
    A delivery that is not held any more was settled, and what comes before it was settled with it or earlier; what the
    owner still holds of that reserve comes after it, and the child that saw the mark starts none of that (protocol.md,
    rule 9). So all of it goes back: else nobody would run it until the child ends.
    """
    row = db.execute(statements.OWNER, owner).fetchone()
    if row is None:
        return 0
    (number,) = row
    n, seq = after
    db.execute(statements.RAISE_FLOOR, (upto, number))
    found = db.execute(statements.HELD_PRIORITY, (number, n, seq)).fetchone()
    priority = found[0] if found else _ABOVE_ALL
    place = {"owner": number, "n": n, "upto": upto, "priority": priority, "seq": seq}
    return db.execute(statements.RECALL, place).rowcount


def leave_word(db: sqlite3.Connection, task_id: str) -> str | None:
    """Say that the held message of this id is to be cancelled; the node that holds it, None if nobody does."""
    db.execute(statements.SWEEP_WORDS)
    if not db.execute(statements.LEAVE_WORD, (task_id,)).rowcount:
        return None
    node: str = db.execute(statements.HOLDING_NODE, (task_id,)).fetchone()[0]
    return node


def to_cancel(db: sqlite3.Connection, incarnation: str) -> list[tuple[Owner, Delivery]]:
    """What is held under the incarnation and is to be cancelled."""
    return [
        (Owner(incarnation, slot, generation), Delivery(envelope, n, seq, task, lost, suspect != 0))
        for slot, generation, seq, n, task, envelope, lost, suspect in db.execute(statements.WORDS, (incarnation,))
    ]


def _deliveries(rows: list[Any], n: int) -> list[Delivery]:
    return [Delivery(envelope, n, seq, task, lost, suspect != 0) for seq, task, envelope, lost, suspect in rows]
