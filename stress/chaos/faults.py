"""What is sent, and what is broken when: drawn from a seed, so that a storm that found something can be made again."""

from __future__ import annotations

import random
from typing import Any, Final, NamedTuple

KINDS: Final = {
    "noop": 40, "value": 14, "sleep": 12, "spin": 8, "delayed": 8, "fail": 4, "retry": 5, "again": 3, "spent": 3,
    "make": 3, "stray": 2, "suicide": 1, "long": 2, "rated": 7, "narrow": 6, "strict": 3, "unique": 5,
}  # fmt: skip
"""Kinds of tasks, of 126."""

CANCELS: Final = {
    "noop": 0.03, "value": 0.1, "sleep": 0.05, "delayed": 0.3, "retry": 0.2, "again": 0.2, "spent": 0.2, "long": 0.7,
    "rated": 0.2, "narrow": 0.15, "strict": 0.15, "unique": 0.15,
}  # fmt: skip
"""How many of a kind somebody cancels."""

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
"""The attempt with which a task that retries ends."""


class Limit(NamedTuple):
    """What the calls of one key are held to, over all nodes."""

    rate: int = 0
    """Starts a second, and as many at once; 0 for any number."""
    slots: int = 0
    """As many at a time; 0 for any number."""


LIMITS: Final = {"rated": Limit(rate=6), "narrow": Limit(slots=2), "strict": Limit(10, 1), "unique": Limit(slots=1)}
"""Of the kinds that have some. What is unique runs alone since no other of its key is there."""
LIMITED: Final = {kind: KINDS[kind] for kind in LIMITS}
_KEYS: Final = {"narrow": 3, "unique": 3}

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
    queue: str
    cancelled_after: float
    """Seconds from ``at`` until somebody cancels it; 0: nobody does."""

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


def key_of(kind: str, number: int) -> str:
    """What is limited together, or may be there only once."""
    return f"{kind}-{number % _KEYS[kind]}" if kind in _KEYS else kind


def key_of_id(task_id: str) -> str:
    """The same, by its id."""
    kind, _, number = task_id.rpartition("-")
    return key_of(kind, int(number)) if kind in _KEYS else kind


def attempts_of(kind: str, number: int) -> int:
    """The attempt with which a task ends."""
    if kind == "rated":
        return 2 if number % 4 == 0 else 1
    return ATTEMPTS if kind in ("retry", "again", "spent") else 1


_LASTS: Final = {
    "sleep": (0.001, 0.02), "spin": (0.001, 0.02), "long": (0.2, 0.9), "narrow": (0.02, 0.1), "strict": (0.0, 0.05),
    "unique": (0.01, 0.1),
}  # fmt: skip
"""Between how many seconds and how many a task takes that is told how long."""


def calls(seed: int, count: int, seconds: float) -> list[Call]:
    """``count`` tasks over ``seconds``, in bursts; some bursts are all of one kind that has a limit."""
    draw = random.Random(f"calls {seed}")
    planned: list[Call] = []
    while len(planned) < count:
        burst = min(draw.choice((1, 1, 2, 5, 20, 50)), count - len(planned))
        at = draw.uniform(0, seconds)
        alike = burst >= 5 and draw.random() < 0.15
        kinds = [_kind(draw, LIMITED)] * burst if alike else [_kind(draw, KINDS) for _ in range(burst)]
        planned += [_call(draw, at, len(planned) + place, kind) for place, kind in enumerate(kinds)]
    return sorted(planned)


def _kind(draw: random.Random, weights: dict[str, int]) -> str:
    return draw.choices(list(weights), list(weights.values()))[0]


def _call(draw: random.Random, at: float, number: int, kind: str) -> Call:
    arguments: tuple[Any, ...] = (number, draw.uniform(*_LASTS[kind])) if kind in _LASTS else (number,)
    countdown = draw.uniform(0.05, 2.0) if kind == "delayed" or (kind in LIMITS and draw.random() < 0.2) else 0.0
    queue = "side" if kind in LIMITS and draw.random() < 0.25 else "default"
    cancelled = draw.uniform(0.02, 0.7 if kind == "long" else 1.5) if draw.random() < CANCELS.get(kind, 0.0) else 0.0
    return Call(at, number, kind, arguments, countdown, draw.choice((0, 0, 0, 5, 9)), queue, cancelled)


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
