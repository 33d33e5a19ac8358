"""When what runs of a task left behind is a leak: threads, processes, files and the like, seen to appear and to end.

    a watch ── appeared, ended ──▶ Leftovers ── those of enough runs live on, and it grows ──▶ Finding
            ── nothing new ──▶ overdue() ─┘

What an app keeps on purpose looks the same at first: a pool that warms up, a monitor thread, a cache, what ends by
itself a little later. So there are three conditions, and all must hold:

1. Those of enough runs live on. Where they may be workers of one pool, which grows to its bound, more runs are needed:
   the watch says how many.
2. They live on: only those are evidence that are older than some seconds, and than twice the life of any that this
   task left and that ended by itself.
3. It still grows. One more has just appeared; or at least ``SURE`` runs left some, and the task has not run for
   longer without leaving one than it takes for two. What stops growing is kept on purpose.

Or, whatever their age: so many live at once that the machine would run out of them.

What is told is all that the task left since it was last told, those that are too young for evidence too, among the
runs in which it would have been seen: that is the rate at which it leaks. Only if some had ended by themselves, those
wait that may do so yet, and so do the runs that left them.

What appeared since the last look is the task's that has run since; after several tasks it is nobody's, and these runs
do not count. Runs are told apart only if each was looked at: so something new after several runs makes the next ones
looked at singly, and many more while a task is blamed, is not named yet, and nothing that it left has ended.
"""

from __future__ import annotations

import re
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Final, Generic, NamedTuple, TypeVar

from poolrt.hygiene.findings import Finding, LeakKind

FEW: Final = 5
LIVES_ON: Final = 5.0
SURE: Final = 20
"""Runs that left something and whose things live on, which are enough although no further one comes."""
SINGLY: Final = 64
"""Runs that are looked at singly after something new, so that a task that is one in dozens runs again meanwhile."""
LONGER: Final = 512
"""The same after something that a task is blamed for, which may do so once in a hundred runs."""

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
        before: how often the task had run before that look.
    """

    task: str
    what: str
    run: int
    at: float
    pooled: bool
    before: int


class _Task:
    """What is known of one task.

    Attributes:
        runs: that would have been blamed for what they left; ``told``: those among them that a finding has counted.
        since: runs, blamed or not, since one of them left something.
        life: the longest of what it left and that has ended, in seconds.
    """

    __slots__ = ("life", "runs", "since", "told")

    def __init__(self) -> None:
        self.runs = self.told = self.since = 0
        self.life = 0.0


class Leftovers(Generic[_Key]):
    """What tasks left of one kind and that is still there.

    Args:
        kind: of the findings.
        noun: what they are in a reason, in the plural: ``threads``.
        enough: pairs, each of which is enough: of how many runs they live on, and for how many seconds.
        pool: in how many runs a pool of them may grow.
        most: of how many at once the machine would run out.
        clock: monotonic, in seconds.
        details: what to say of some of them by their keys, in a reason.
    """

    __slots__ = (
        "_again", "_clock", "_details", "_enough", "_kind", "_left", "_looks", "_most", "_noun", "_pool", "_singly",
        "_tasks",
    )  # fmt: skip

    def __init__(
        self, kind: LeakKind, noun: str, *, enough: Sequence[tuple[int, float]] = ((FEW, LIVES_ON),),
        pool: int = sys.maxsize, most: int = sys.maxsize, clock: Callable[[], float] = time.monotonic,
        details: Callable[[Iterable[_Key]], str] = lambda keys: "",
    ) -> None:  # fmt: skip
        self._kind = kind
        self._noun = noun
        self._enough = enough
        self._pool = pool
        self._most = most
        self._clock = clock
        self._details = details
        self._left: dict[_Key, Left] = {}
        self._tasks: defaultdict[str, _Task] = defaultdict(_Task)
        self._again = 0.0
        """When to judge again what nothing is added to."""
        self._looks = 0
        self._singly = 0

    @property
    def wants_each(self) -> bool:
        """Whether the next runs are to be looked at singly."""
        return self._singly > 0

    @property
    def left(self) -> Mapping[_Key, Left]:
        """What is blamed on a task and was not told yet, the oldest first."""
        return self._left

    def ran(self, ran: Mapping[str, int]) -> None:
        """A look begins; what appears in it was left by one of these."""
        self._looks += 1
        if self._singly:
            self._singly -= 1
        for name, runs in ran.items():
            task = self._tasks[name]
            task.since += runs
            if len(ran) == 1:
                task.runs += runs

    def ended(self, key: _Key) -> None:
        """It is no longer there; nothing happens if it was nobody's."""
        left = self._left.pop(key, None)
        if left is not None:
            task = self._tasks[left.task]
            task.life = max(task.life, self._clock() - left.at)

    def renamed(self, key: _Key, what: str) -> None:
        """It is called something else now."""
        self._left[key] = self._left[key]._replace(what=what)

    def appeared(self, new: Mapping[_Key, tuple[str, bool]], ran: Mapping[str, int]) -> Finding | None:
        """These are new, each with its name and whether it may be a worker of a pool; a Finding if they are a leak."""
        self._singly = max(self._singly, SINGLY if sum(ran.values()) > 1 else 0)
        if len(ran) != 1:
            return None
        ((name, runs),) = ran.items()
        task, now = self._tasks[name], self._clock()
        if not task.told and not task.life:
            self._singly = LONGER
        task.since = 0
        for key, (what, pooled) in new.items():
            self._left[key] = Left(name, what, self._looks, now, pooled, task.runs - runs)
        return self._judge(name, now, grew=True)

    def overdue(self) -> Finding | None:
        """Nothing is new; a Finding if what is there is a leak by its age. 0.1 us; 0.2 a thing twice a second."""
        if not self._left or (now := self._clock()) < self._again:
            return None
        self._again = now + LIVES_ON / 10
        for name in dict.fromkeys(left.task for left in self._left.values()):
            if found := self._judge(name, now, grew=False):
                return found
        return None

    def _judge(self, name: str, now: float, *, grew: bool) -> Finding | None:
        mine = {key: left for key, left in self._left.items() if left.task == name}
        if len(mine) >= self._most:
            return self._finding(name, mine, now)
        task = self._tasks[name]
        if not grew and task.since * len(mine) > 2 * (task.runs - task.told):
            return None
        fewest = 1 if grew else SURE
        may_end = 2 * task.life
        for enough, lives_on in self._enough:
            if len(mine) < max(fewest, min(enough, self._pool)):
                continue
            old = [left for left in mine.values() if now - left.at >= max(lives_on, may_end)]
            alone = {left.run for left in old if not left.pooled}
            if len(alone) >= max(fewest, enough) or len({left.run for left in old}) >= max(fewest, self._pool):
                return self._finding(name, {key: mine[key] for key in mine if now - mine[key].at >= may_end}, now)
        return None

    def _finding(self, name: str, told: Mapping[_Key, Left], now: float) -> Finding:
        """Say what most of them are called; they are not told again."""
        task = self._tasks[name]
        for key in told:
            del self._left[key]
        first_not = next((left.before for left in self._left.values() if left.task == name), task.runs)
        runs, task.told = first_not - task.told, first_not
        names = Counter(left.what for left in told.values())
        what, count = names.most_common(1)[0]
        others = f" and {len(names) - 1} other names" if len(names) > 1 else ""
        details = self._details(told)
        oldest = max(now - left.at for left in told.values())
        ended = f"none that ended had lived for more than {task.life:.1f} s" if task.life else "and none has ended"
        reason = (
            f"leak: {runs} runs of {name} left {len(told)} {self._noun}, {what}{others}{details and f' ({details})'}, "
            f"the oldest for {oldest:.1f} s, {ended}"
        )
        return Finding(self._kind, name, what if 2 * count >= len(told) else "*", len(told), runs, reason)
