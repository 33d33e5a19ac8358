"""When what runs of a task left behind is a leak: threads, processes, files and the like, seen to appear and to end.

    a watch ── appeared, ended ──▶ Leftovers ── one more, and those of earlier runs live on ──▶ Finding

What an app keeps on purpose looks the same at first: a pool that warms up, a monitor thread, a cache, what ends by
itself a little later. So there are three conditions, and all must hold:

1. It still grows: it is judged when one more appears, and never afterwards. What stops growing is kept on purpose.
2. Those of at least ``FEW`` earlier runs live on. Where they may be workers of one pool, which grows to its bound,
   more runs are needed: the watch says how many.
3. They live on: only those count that are older than some seconds, and than twice the life of any that this
   task left and that ended by itself.

Or, whatever their age: so many live at once that the machine would run out of them.

Runs are told apart only if each was looked at. So something new after several runs makes the next ones looked at
singly; what appeared while several tasks had run is nobody's.
"""

from __future__ import annotations

import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Final, Generic, NamedTuple, TypeVar

from poolrt.hygiene.findings import Finding, LeakKind

FEW: Final = 5
LIVES_ON: Final = 5.0
SINGLY: Final = 64
"""Runs that are looked at singly after something new, so that a task that is one in dozens runs again meanwhile."""

_Key = TypeVar("_Key", bound=Hashable)
_NUMBERS: Final = re.compile(r"\d+")


def without_numbers(name: str) -> str:
    """``Thread-12 (work)`` as ``Thread-* (work)``: what is numbered gets one name."""
    return _NUMBERS.sub("*", name)


class Left(NamedTuple):
    """One thing that is there and that a run left.

    Attributes:
        run: the look at which it was seen first.
        at: when, in seconds.
        pooled: it may be a worker of a pool.
    """

    task: str
    what: str
    run: int
    at: float
    pooled: bool


class Leftovers(Generic[_Key]):
    """What tasks left of one kind and that is still there.

    Args:
        kind: of the findings.
        noun: what they are in a reason, in the plural: ``threads``.
        pool: in how many runs a pool of them may grow.
        most: of how many at once the machine would run out.
        lives_on: seconds that they must have lived.
        clock: monotonic, in seconds.
        details: what to say of some of them by their keys, in a reason.
    """

    __slots__ = (
        "_clock", "_details", "_kind", "_left", "_lives", "_lives_on", "_looks", "_most", "_noun", "_pool", "_runs",
        "_singly",
    )  # fmt: skip

    def __init__(
        self, kind: LeakKind, noun: str, *, pool: int = sys.maxsize, most: int = sys.maxsize,
        lives_on: float = LIVES_ON, clock: Callable[[], float] = time.monotonic,
        details: Callable[[Iterable[_Key]], str] = lambda keys: "",
    ) -> None:  # fmt: skip
        self._kind = kind
        self._noun = noun
        self._pool = pool
        self._most = most
        self._lives_on = lives_on
        self._clock = clock
        self._details = details
        self._left: dict[_Key, Left] = {}
        self._runs: dict[str, int] = {}
        """Runs since the first leftover, or the last finding, of each task that left some."""
        self._lives: dict[str, float] = {}
        """The longest life of a leftover of each task that has ended."""
        self._looks = 0
        self._singly = 0

    @property
    def wants_each(self) -> bool:
        """Whether the next runs are to be looked at singly."""
        return self._singly > 0

    @property
    def left(self) -> Mapping[_Key, Left]:
        """What is blamed on a task and was not told yet."""
        return self._left

    def ran(self, ran: Mapping[str, int]) -> None:
        """A look begins; what appears in it was left by one of these. 0.1 us while nothing is left."""
        self._looks += 1
        if self._singly:
            self._singly -= 1
        if self._runs:
            for task, runs in ran.items():
                if task in self._runs:
                    self._runs[task] += runs

    def ended(self, key: _Key) -> None:
        """It is no longer there; nothing happens if it was nobody's."""
        left = self._left.pop(key, None)
        if left is not None:
            self._lives[left.task] = max(self._lives.get(left.task, 0.0), self._clock() - left.at)

    def renamed(self, key: _Key, what: str) -> None:
        """It is called something else now."""
        self._left[key] = self._left[key]._replace(what=what)

    def appeared(self, new: Mapping[_Key, tuple[str, bool]], ran: Mapping[str, int]) -> Finding | None:
        """These are new, each with its name and whether it may be a worker of a pool; a Finding if they are a leak."""
        if len(ran) != 1 or next(iter(ran.values())) != 1:
            self._singly = SINGLY
        if len(ran) != 1 or not new:
            return None
        task, runs = next(iter(ran.items()))
        self._runs.setdefault(task, runs)
        now = self._clock()
        for key, (what, pooled) in new.items():
            self._left[key] = Left(task, what, self._looks, now, pooled)
        return self._judge(task, now)

    def _judge(self, task: str, now: float) -> Finding | None:
        """One more of this task's has just appeared."""
        mine = {key: left for key, left in self._left.items() if left.task == task}
        if len(mine) >= self._most:
            return self._finding(task, mine, now, "so many at once")
        age = max(self._lives_on, 2 * self._lives.get(task, 0.0))
        old = {key: left for key, left in mine.items() if now - left.at >= age}
        alone = {left.run for left in old.values() if not left.pooled}
        if len(alone) >= FEW or len({left.run for left in old.values()}) >= self._pool:
            return self._finding(task, old, now, f"and now {len(mine) - len(old)} more")
        return None

    def _finding(self, task: str, told: Mapping[_Key, Left], now: float, more: str) -> Finding:
        """Name what most of them are called; they are not told again."""
        for key in told:
            del self._left[key]
        of_runs = self._runs.pop(task)
        self._runs[task] = 0
        names = Counter(left.what for left in told.values())
        what, count = names.most_common(1)[0]
        if 2 * count < len(told):
            what = "*"
        runs = len({left.run for left in told.values()})
        oldest = max(now - left.at for left in told.values())
        others = f" and {len(names) - 1} other names" if len(names) > 1 else ""
        details = self._details(told)
        reason = (
            f"leak: {runs} of {of_runs} runs of {task} left {len(told)} {self._noun}, {names.most_common(1)[0][0]}"
            f"{others}{details and f' ({details})'}, the oldest for {oldest:.1f} s, {more}"
        )
        return Finding(self._kind, task, what, len(told), of_runs, reason)
