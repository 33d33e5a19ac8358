"""Gates: the limits of a key, and what they let start. Runs inside a transaction of the store.

A message with a gate waits in a state of its own, outside the indexes of those without one, which cost nothing more.
Reserving takes a token from the gate's row, and a slot by being held: slots are counted, so none can be lost.

A gate's row has one number, the time ``due`` at which its burst is whole again. Each start moves it on by ``1 / rate``,
from now on at least; it may start while that is no more than ``burst / rate`` ahead (GCRA).
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from typing import Final, NamedTuple

from poolrt.brokers.sqlite import gate_statements
from poolrt.terms import Gate

GRAIN: Final = 1e-6
"""Seconds by which a token may come early: a wall time has room for a quarter of that. Starts do not add it up."""


class Look(NamedTuple):
    """What waits behind gates, in queues that are not paused."""

    open: bool
    """Something may start now."""
    opens: float | None
    """The wall time at which a token lets something start; None: no token is waited for."""
    jumped: bool
    """A gate is to be mended, and may open sooner."""


NOTHING: Final = Look(open=False, opens=None, jumped=False)


class Pass:
    """What one gate lets start now, as it is taken."""

    def __init__(self, key: str, rate: float, burst: int, due: float, free: int) -> None:
        self.key = key
        self.rate = rate
        self.due = due
        self._burst = burst
        self._free = free
        """Slots that nobody has; less than 0: there is no limit."""

    def lets(self, now: float) -> bool:
        """Whether one more may start."""
        if self._free == 0:
            return False
        return not self.rate or self.due - (self._burst - 1) / self.rate <= now + GRAIN

    def take(self, now: float) -> None:
        """One starts."""
        self._free -= 1
        if self.rate:
            self.due = max(self.due, now) + 1 / self.rate


class Head(NamedTuple):
    """The first to run of one queue behind an open gate."""

    priority: int
    seq: int
    queue: str
    gate: Pass


def limit(db: sqlite3.Connection, gate: Gate) -> bool:
    """Give a gate its limits; whether they are others than before."""
    rate = gate.rate if gate.rate > 0 else 0.0
    row = (gate.key, rate, max(1, gate.burst), max(0, gate.slots))
    return db.execute(gate_statements.LIMIT, row).rowcount > 0


def waits_alone(db: sqlite3.Connection, key: str) -> bool:
    """Whether just one message waits behind this gate."""
    return bool(db.execute(gate_statements.ONLY_ONE, (key,)).fetchone()[0])


def look(db: sqlite3.Connection, now: float) -> Look:
    """What waits behind gates, and until when."""
    is_open, opens, jumped = db.execute(gate_statements.LOOK, _times(now)).fetchone()
    return Look(bool(is_open), opens, bool(jumped))


def any_open(db: sqlite3.Connection, now: float) -> bool:
    """Whether something that waits behind a gate may start now, in any queue that is not paused."""
    return db.execute(gate_statements.ANY_OPEN, _times(now)).fetchone() is not None


def mend(db: sqlite3.Connection, now: float) -> None:
    """The clock was put back, or limits were changed: no gate is closed for longer than until its next token."""
    db.execute(gate_statements.MEND, _times(now))


def heads(db: sqlite3.Connection, now: float) -> list[Head]:
    """What may start now: the first of each queue behind each open gate, in no order."""
    passes: dict[str, Pass] = {}
    found = []
    jumped = False
    for priority, seq, queue, key, rate, burst, due, free in db.execute(gate_statements.OPEN, _times(now)).fetchall():
        gate = passes.setdefault(key, Pass(key, rate, burst, due, free))
        if gate.lets(now):
            found.append(Head(priority, seq, queue, gate))
        else:
            jumped = True
    if jumped:
        mend(db, now)
    return found


def first_behind(db: sqlite3.Connection, head: Head, skipped: str, count: int) -> list[tuple[int, int, int]]:
    """Priority, seq and suspicion of the first to run of one gate and queue."""
    return db.execute(gate_statements.FIRST_BEHIND, (head.gate.key, head.queue, skipped, count)).fetchall()


def keep(db: sqlite3.Connection, passes: Iterable[Pass]) -> None:
    """Write down which tokens were taken."""
    db.executemany(gate_statements.TAKEN, [(gate.due, gate.key) for gate in passes])


def freed(db: sqlite3.Connection, rows: list[int]) -> tuple[bool, bool]:
    """Whether the end of any of these gives a slot back, and whether that makes a token worth waiting for."""
    rated = db.execute(gate_statements.FREED, (json.dumps(rows),)).fetchone()[0]
    return rated is not None, bool(rated)


def _times(now: float) -> dict[str, float]:
    return {"now": now, "soon": now + GRAIN}
