"""What is sent, and what is broken when: drawn from a seed, so that a storm that found something can be made again."""

from __future__ import annotations

import random
from typing import Any, Final, NamedTuple

KINDS: Final = {
    "noop": 40, "value": 14, "sleep": 12, "spin": 8, "delayed": 8, "fail": 4, "retry": 5, "make": 3, "stray": 2,
    "suicide": 1,
}  # fmt: skip
"""Kinds of tasks, of 97."""

FAULTS: Final = {
    ("kill", "child"): 24,
    ("pause", "child"): 12,
    ("freeze", "child"): 4,
    ("kill", "template"): 7,
    ("pause", "template"): 5,
    ("freeze", "template"): 2,
    ("kill", "steward"): 8,
    ("pause", "steward"): 5,
    ("kill", "supervisor"): 10,
    ("pause", "supervisor"): 4,
    ("freeze", "supervisor"): 1,
    ("kill", "child+steward"): 4,
    ("kill", "template+steward"): 2,
    ("kill", "template+supervisor"): 4,
    ("kill", "child+supervisor"): 3,
    ("kill", "everyone"): 3,
}
"""How often each fault is drawn, of 98. ``pause`` is SIGSTOP and SIGCONT later, ``freeze`` is SIGSTOP for good."""

SLOW_FAULTS: Final = {("freeze", "steward"): 1}
"""The same; for storms that have the time: it is noticed after 15 s, in which it may hold the database's lock."""

SERVER_FAULTS: Final = {
    ("kill", "server"): 7,
    ("stall", "server"): 7,
    ("outlast", "server"): 1,
    ("cut", "clients"): 8,
    ("flush", "scripts"): 6,
}
"""The same; for storms on a server: SIGKILL and a start, SIGSTOP for less and for more than the nodes' lease, all
connections closed, all scripts forgotten."""

ATTEMPTS: Final = 3
"""The attempt at which a task that retries succeeds."""

FROZEN_SUPERVISOR: Final = 2.0
"""Seconds until whoever watches a supervisor that stands still (systemd's watchdog) kills it."""


class Call(NamedTuple):
    """One task to enqueue."""

    at: float
    """Seconds since the storm began."""
    number: int
    kind: str
    arguments: tuple[Any, ...]
    countdown: float
    priority: int

    @property
    def id(self) -> str:
        """Its task id; the kind is in it, for whoever reads a report."""
        return f"{self.kind}-{self.number:05d}"


class Fault(NamedTuple):
    """One thing to break."""

    at: float
    """Seconds since the storm began."""
    how: str
    whom: str
    pick: float
    """0 to 1: which one of several."""
    seconds: float
    """How long a pause lasts; how long after its death a supervisor is started again."""
    again: float
    """Seconds after its start at which the supervisor started again is killed; 0: it is left alone."""
    max_deliveries: int
    """Of the supervisor started again."""

    def __str__(self) -> str:
        """For reports."""
        return f"{self.at:6.2f} s {self.how} {self.whom}"

    @property
    def hits_store(self) -> bool:
        """Whether no process of a node is hit."""
        return self.whom in ("server", "clients", "scripts")

    @property
    def ends_supervisor(self) -> bool:
        """Whether the node must be started again."""
        return self.whom == "everyone" or ("supervisor" in self.whom and self.how != "pause")


def _lasts(how: str, whom: str) -> tuple[float, float]:
    """Between how many seconds and how many a fault lasts."""
    match how, whom:
        case "outlast", _:
            return 3.5, 5.0
        case "kill", "server":
            return 0.5, 2.0
        case "stall", _:
            return 0.2, 3.0
    return (0.0, 0.4) if "supervisor" in whom and how == "kill" else (0.02, 1.2)


def value_of(number: int) -> int:
    """What a task with this number returns."""
    return number * number + 1


def calls(seed: int, count: int, seconds: float) -> list[Call]:
    """``count`` tasks over ``seconds``, in bursts."""
    draw = random.Random(f"calls {seed}")
    planned: list[Call] = []
    while len(planned) < count:
        burst = min(draw.choice((1, 1, 2, 5, 20, 50)), count - len(planned))
        at = draw.uniform(0, seconds)
        for _ in range(burst):
            planned.append(_call(draw, at, len(planned)))
    return sorted(planned)


def _call(draw: random.Random, at: float, number: int) -> Call:
    kind = draw.choices(list(KINDS), list(KINDS.values()))[0]
    arguments: tuple[Any, ...] = (number, draw.uniform(0.001, 0.02)) if kind in ("sleep", "spin") else (number,)
    countdown = draw.uniform(0.05, 2.0) if kind == "delayed" else 0.0
    return Call(at, number, kind, arguments, countdown, draw.choice((0, 0, 0, 5, 9)))


def faults(seed: int, seconds: float, every: float, *, slow: bool, server: bool = False) -> list[Fault]:
    """Faults over ``seconds``, ``every`` so many seconds on average; the last fifth leaves the supervisor alone, so
    that one is seen that has lived through many of them.

    Args:
        slow: with those that take long to be noticed.
        server: with those of a server.
    """
    draw = random.Random(f"faults {seed}")
    weights = {**FAULTS, **(SLOW_FAULTS if slow else {}), **(SERVER_FAULTS if server else {})}
    planned: list[Fault] = []
    at = 0.5
    while (at := at + draw.expovariate(1 / every)) < seconds:
        how, whom = draw.choices(list(weights), list(weights.values()))[0]
        short = draw.uniform(*_lasts(how, whom))
        again = draw.uniform(0.02, 0.6) if draw.random() < 0.25 else 0.0
        deliveries = 2 if draw.random() < 0.15 else 50
        fault = Fault(at, how, whom, draw.random(), short, again, deliveries)
        if not (fault.ends_supervisor and at > 0.8 * seconds):
            planned.append(fault)
    return planned
