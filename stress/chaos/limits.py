"""Whether the limits held: the tasks' own lines of when they ran, against rates, numbers at a time, and unique keys.

ledger: starts and ends of runs ─┐
nodes: what was stopped, killed  ├──▶ for each key: most starts above its rate, most at a time
journal: placed, ended           ┴──▶ for each unique key: most that were there at a time

A child takes a message, and with it a token, a moment before the run starts. That moment is not in the ledger, but it
lies between the start and ``LATE`` before it; and before that as long as the child was stopped meanwhile. A rate is
broken if there is no choice of such moments that keeps it: if in any time from one earliest moment to one start more
runs must have been let than it allows.

A run that was killed had its slot until then, at least: until the kill if the storm killed that process; else only
that is certain, that it began.
"""

from __future__ import annotations

import math
import signal
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

from stress.chaos import journal
from stress.chaos.faults import LIMITS, key_of_id

if TYPE_CHECKING:
    from stress.chaos.account import Ledger, Run

LATE: Final = 0.25
"""Seconds that a message may lie in a child's batch, on a machine that has too much to do."""


class Signal(NamedTuple):
    """One signal that the storm sent."""

    pid: int
    number: int
    at: int
    """CLOCK_MONOTONIC, ns: before it was sent, of one that lets go on after it."""


class Start(NamedTuple):
    """One run of a key with a rate. Both in seconds."""

    earliest: float
    """When it may have been taken."""
    at: float


class Kept(NamedTuple):
    """How one key kept its limits."""

    key: str
    runs: int
    rate: int
    burst: float
    """Most starts above rate * t in any time t that the moments of taking cannot explain."""
    raw: float
    """The same, of the starts as they are in the ledger."""
    late: int
    """Starts of children that had been stopped just before."""
    slots: int
    most: int
    """At a time."""
    cut: int
    """Runs that did not come to their end."""

    def wrong(self) -> list[str]:
        """What is wrong."""
        found = []
        if self.rate and self.burst > self.rate + 1e-3:
            found.append(f"{self.key}: {self.burst:.1f} starts above {self.rate}/s * t, with a burst of {self.rate}")
        if self.slots and self.most > self.slots:
            found.append(f"{self.key}: {self.most} ran at a time, not at most {self.slots}")
        return found

    def __str__(self) -> str:
        """For reports."""
        told = f"{self.key:9} {self.runs:5} runs, {self.cut} of them cut"
        if self.rate:
            told += (
                f"; {self.rate}/s: at most {self.burst:.1f} above it, {self.rate} allowed "
                f"({self.raw:.1f} with {self.late} after a stop)"
            )
        return told + (f"; at most {self.most} at a time, {self.slots} allowed" if self.slots else "")


def limits_kept(ledger: Ledger, signals: Iterable[Signal]) -> list[Kept]:
    """How each key that had runs kept its limits."""
    runs: dict[str, list[Run]] = defaultdict(list)
    rules = {}
    for task_id, each in ledger.runs.items():
        kind, key = task_id.rpartition("-")[0], key_of_id(task_id)
        if kind in LIMITS and each:
            rules[key] = LIMITS[kind]
            runs[key] += each
    stops, kills = _stops_and_kills(signals)
    return [_kept(key, *rules[key], sorted(runs[key], key=lambda run: run.began), stops, kills) for key in sorted(runs)]


def _kept(
    key: str, rate: int, slots: int, runs: list[Run], stops: Mapping[int, list[tuple[float, float]]],
    kills: Mapping[int, list[int]],
) -> Kept:  # fmt: skip
    starts = [Start(earliest(run.began / 1e9, stops.get(run.pid, [])), run.began / 1e9) for run in runs]
    burst = most_above(starts, rate) if rate else 0.0
    raw = most_above([Start(start.at, start.at) for start in starts], rate) if rate else 0.0
    late = sum(start.at - start.earliest > LATE + 1e-6 for start in starts)
    spans = [(run.began, run.ended or _death(run, kills)) for run in runs]
    cut = sum(not run.ended for run in runs)
    return Kept(key, len(runs), rate, burst, raw, late, slots, most_at_a_time(spans), cut)


def _stops_and_kills(
    signals: Iterable[Signal],
) -> tuple[dict[int, list[tuple[float, float]]], dict[int, list[int]]]:
    """When each process stood still, in seconds; when it was killed, in ns."""
    stops: dict[int, list[tuple[float, float]]] = defaultdict(list)
    kills: dict[int, list[int]] = defaultdict(list)
    for sent in sorted(signals, key=lambda sent: sent.at):
        if sent.number == signal.SIGKILL:
            kills[sent.pid].append(sent.at)
        elif sent.number == signal.SIGSTOP:
            stops[sent.pid].append((sent.at / 1e9, math.inf))
        elif sent.number == signal.SIGCONT and stops[sent.pid]:
            stops[sent.pid][-1] = (stops[sent.pid][-1][0], sent.at / 1e9)
    return stops, kills


def earliest(began: float, stops: list[tuple[float, float]]) -> float:
    """When a run that began then may have been taken: ``LATE`` before it, not counting when its process stood still."""
    moment = began - LATE
    for stopped, went_on in reversed(stops):
        if stopped < began and went_on > moment:
            moment = min(moment, stopped - (LATE - max(0.0, began - went_on)))
    return moment


def most_above(starts: list[Start], rate: int) -> float:
    """The most starts above ``rate * t`` in any time t that holds both their moments."""
    most = 0.0
    for first in starts:
        count = 0
        for start in starts:  # by their ``at``
            if start.earliest >= first.earliest:
                count += 1
                most = max(most, count - rate * (start.at - first.earliest))
    return most


def _death(run: Run, kills: Mapping[int, list[int]]) -> int:
    """Until when a run that was cut went on, at least."""
    return next((moment for moment in kills.get(run.pid, []) if moment >= run.began), run.began)


def most_at_a_time(spans: Iterable[tuple[int, int]]) -> int:
    """How many of these spans there are at the same time, at most; one that ends as another begins is over."""
    most = now = 0
    for _, step in sorted(step for began, ended in spans for step in ((began, 1), (ended, -1))):
        now += step
        most = max(most, now)
    return most


def unique_kept(lives: Mapping[str, list[journal.Entry]]) -> dict[str, int]:
    """For each unique key, how many of its tasks waited or ran at a time, at most."""
    steps: dict[str, list[tuple[int, str, str]]] = defaultdict(list)
    for task_id, life in lives.items():
        if task_id.startswith("unique-"):
            steps[key_of_id(task_id)] += [(entry.order, entry.what, task_id) for entry in life]
    found = {}
    for key, changes in sorted(steps.items()):
        there: set[str] = set()
        found[key] = 0
        for _, what, task_id in sorted(changes):
            if what == journal.PLACED:
                there.add(task_id)
            elif what == journal.ENDED:
                there.discard(task_id)
            found[key] = max(found[key], len(there))
    return found
