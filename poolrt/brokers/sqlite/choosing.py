"""Reserving where more is to be looked at than one index: chosen or paused queues, gates, suspects.

Runs inside a transaction of the store. What waits is read as one line of queues, first to run first:

    each readable queue ──┐
    suspects ─────────────┼──▶ by rank of the queue, priority, age ──▶ as many as wanted, or one suspect
    each open gate ───────┘
"""

from __future__ import annotations

import heapq
import json
import random
import sqlite3
from collections.abc import Collection, Iterator
from typing import Final

from poolrt.brokers.sqlite import gates, queue_statements, statements
from poolrt.brokers.sqlite.gates import Head, Pass
from poolrt.brokers.sqlite.holding import any_queued, reserve_these
from poolrt.brokers.sqlite.placing import News
from poolrt.message import Delivery
from poolrt.queue_choice import QueueChoice

_UNREAD: Final = -1
"""In place of the suspicion: the first of a queue behind a gate stands for all of it."""

_RANDOM: Final = random.SystemRandom()
"""Not the one that tasks seed, and see."""


class Readable:
    """The queues from which an owner may reserve now, and the order of them."""

    def __init__(self, db: sqlite3.Connection, choice: QueueChoice) -> None:
        self.names: list[str] | None = None
        """None: all of them."""
        self._ranked = choice.strict or bool(choice.weights)
        paused = {name for (name,) in db.execute(queue_statements.PAUSED)}
        if choice.names:
            self.names = [name for name in _ordered(choice) if name not in paused]
        elif choice.without or paused:
            self.names = [name for (name,) in db.execute(queue_statements.NOT_PAUSED) if name not in choice.without]
        self._ranks = {name: rank for rank, name in enumerate(self.names or ())}
        self._without = frozenset(choice.without)
        self._chosen = bool(choice.names)

    def reads(self, queue: str) -> bool:
        """Whether this queue, which is not paused, is among them; also one in which all waits behind gates."""
        return queue in self._ranks if self._chosen else queue not in self._without

    def rank(self, queue: str) -> int:
        """What is in a queue of a lower rank goes first."""
        return self._ranks.get(queue, 0) if self._ranked else 0


def _ordered(choice: QueueChoice) -> tuple[str, ...]:
    if not choice.weights:
        return choice.names
    drawn = {name: _RANDOM.random() ** (1 / weight) for name, weight in zip(choice.names, choice.weights, strict=True)}
    return tuple(sorted(choice.names, key=drawn.__getitem__, reverse=True))


def reserve(
    db: sqlite3.Connection,
    number: int,
    n: int,
    count: int,
    readable: Readable,
    now: float,
    news: News,
    *,
    holds: bool,
    without: Collection[str],
) -> list[Delivery]:
    """Reserve up to ``count`` messages for an owner that ``holds`` others or does not.

    Fewer where the order of queues is not that of priority and age: within one reserve that is the order in which they
    are run, and by which a recall tells what has run already.

    A suspect is taken alone, by an owner that holds nothing. Nothing behind it is taken before it: else it would
    starve while the queue is never empty, and the order would depend on who asks.
    """
    if count <= 0:
        return []
    taken: list[tuple[int, int]] = []
    passed: dict[str, Pass] = {}
    for place, suspect, gate in _line(db, readable, now, json.dumps(list(without)), count):
        if (suspect and (taken or holds)) or (taken and place < taken[-1]):
            break
        taken.append(place)
        if gate is not None:
            gate.take(now)
            passed[gate.key] = gate
        if suspect or len(taken) == count:
            break
    if rated := [gate for gate in passed.values() if gate.rate]:
        gates.keep(db, rated)
        news.gated = True
    return reserve_these(db, number, n, [seq for _, seq in taken])


def _line(
    db: sqlite3.Connection, readable: Readable, now: float, skipped: str, count: int
) -> Iterator[tuple[tuple[int, int], bool, Pass | None]]:
    """What may be reserved now, first to run first, up to ``count`` of each queue: its place by priority and age,
    whether it is a suspect, and the gate that it is to pass. What is behind a gate is read when its turn comes."""
    line: list[tuple[int, int, int, int, Head | None]] = [*_plain(db, readable, skipped, count)]
    line += [
        (readable.rank(head.queue), -head.priority, head.seq, _UNREAD, head)
        for head in gates.heads(db, now)
        if readable.reads(head.queue)
    ]
    heapq.heapify(line)
    while line:
        rank, negative, seq, suspect, head = heapq.heappop(line)
        if head is None:
            yield (negative, seq), suspect == statements.SUSPECT, None
        elif not head.gate.lets(now):
            continue
        elif suspect == _UNREAD:
            for priority, row, is_suspect in gates.first_behind(db, head, skipped, count):
                heapq.heappush(line, (rank, -priority, row, is_suspect, head))
        else:
            yield (negative, seq), suspect != 0, head.gate


def _plain(
    db: sqlite3.Connection, readable: Readable, skipped: str, count: int
) -> list[tuple[int, int, int, int, None]]:
    """What waits without a gate; a suspect of a task that is not wanted is to run before what comes after it, too."""
    if readable.names is None:
        queued = db.execute(statements.QUEUED_HEAD, (skipped, count))
        found = [(0, -priority, seq, statements.QUEUED, None) for priority, seq in queued]
        suspects = db.execute(statements.SUSPECT_HEAD)
        return found + [(0, -priority, seq, statements.SUSPECT, None) for priority, seq in suspects]
    return [
        (readable.rank(name), -priority, seq, state, None)
        for name in readable.names
        for priority, seq, state in db.execute(queue_statements.HEAD, (name, skipped, count))
    ]


def any_readable(db: sqlite3.Connection, readable: Readable, now: float) -> bool:
    """Whether the owner might get anything more."""
    if readable.names is None:
        return any_queued(db) or gates.any_open(db, now)
    if any(db.execute(queue_statements.ANY_IN, (name,)).fetchone()[0] for name in readable.names):
        return True
    return any(readable.reads(head.queue) for head in gates.heads(db, now))
