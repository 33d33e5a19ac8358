"""Connections that a task took out of a pool and did not give back.

What is out after a run was taken in one of the runs since the last look: no statistics are needed to see it. It is a
leak as soon as the same task has left two, and a collection does not bring them back. One that stays out alone is
none: a session or a connection that is opened by the first run and used by all of them. Each thread may keep one.

What is out before the first run is the app's own affair. Sessions in a transaction are rolled back before this looks
(see poolrt.hygiene.transactions), which returns their connections.
"""

from __future__ import annotations

import gc
import logging
import threading
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Final

from poolrt.hygiene.findings import Finding, LeakKind, Rest
from poolrt.hygiene.pools.checked_out import CheckedOut
from poolrt.hygiene.pools.rest import rests
from poolrt.hygiene.pools.taken import Taken

log = logging.getLogger("poolrt.hygiene")

Check = Callable[[], Iterable[str]]
"""Names what is checked out of a pool of the app's own now, as often as it is: ``["host:port", "host:port"]``."""

_PATIENCE: Final = 2
"""Connections that a task must have left: one alone may be kept for use."""
_MOST_PATIENCE: Final = 8
"""Where a collection has brought them back before; pools of five and ten are common."""
_LOOKS_EACH: Final = 30
"""Runs that are looked at each after one that left something: a leak at each run is known before its pool is empty."""
_NAMELESS_LOOKS: Final = 200
"""Looks after which what has no name is told without one."""


class _Named(Taken):
    """One that a check of the app's has named."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self._what = what

    def what(self) -> str:
        return self._what


class _Left:
    """One that was still out after a run of one of these tasks; ``task`` is None until it is known."""

    __slots__ = ("suspects", "taken", "task", "told", "what")

    def __init__(self, taken: Taken, suspects: frozenset[str]) -> None:
        self.taken = taken
        self.what = taken.what()
        self.suspects = suspects
        self.task = next(iter(suspects)) if len(suspects) == 1 else None
        self.told = False


class PoolWatch:
    """Watches what is out of the pools of this process, from run to run.

    It is made when the process is ready for its first task.

    Args:
        out: what is checked out.
        checks: the app's own.
        collect: closes what only the cycle collector would close.
    """

    def __init__(
        self, out: CheckedOut, checks: Sequence[Check] = (), *, collect: Callable[[], object] = gc.collect
    ) -> None:  # fmt: skip
        self.wants_each = False
        self._out = out
        self._checks = list(checks)
        self._collect = collect
        self._ran: dict[str, int] = {}
        self._told_at: dict[tuple[LeakKind, str, str], int] = {}
        self._patience: dict[tuple[str, str], int] = {}
        """Of tasks whose connections wait for a collection: each run is looked at, or a pool would be empty before."""
        self._nameless_looks = 0
        self._each = 0
        self._named: dict[Hashable, Taken] = {}
        self._then = dict(self._out.now)
        """What was out at the last look."""
        self._glanced: Sequence[str] = ()
        """What ran since the glance before the last one."""
        self._stirred = False
        """Whether the last glance saw what no look has seen yet."""
        self._before = self._all_out()
        self._left: dict[Hashable, _Left] = {}

    def stirs(self, tasks: Sequence[str]) -> bool:
        """A glance after runs of these tasks, each counted to the next look: whether that look is due now, before a
        pool is empty, since something is out that was not at the last look. 0.3 us, and 0.1 us for each that is out."""
        self._glanced = [*self._glanced, *tasks] if self._stirred else tasks
        now, then = self._out.now, self._then
        self._stirred = bool(now) and any(then.get(key) is not taken for key, taken in list(now.items()))
        return self._stirred

    def look(self, ran: Mapping[str, int]) -> list[Finding]:
        """What the runs since the last look did not give back. 0.5 us if nothing is out."""
        for task, runs in ran.items():
            self._ran[task] = self._ran.get(task, 0) + runs
        self._out.follow()
        self._then = dict(self._out.now)
        glanced, self._glanced, self._stirred = self._glanced, (), False
        if not self._out.now and not self._left and not self._checks:
            return []
        self._note(self._all_out(), frozenset(ran), frozenset(glanced or ran))
        if not self._left:
            return []
        self._out.traces = True  # from now on: where the next one is taken
        return self._judge()

    def rest(self, ran: Mapping[str, int]) -> list[Rest]:
        """What is not told when the child leaves, after these runs since the last look: what waits, and runs."""
        left = Counter((left.task or "", left.what) for left in self._left.values() if not left.told)
        told_at = {key[1:]: runs for key, runs in self._told_at.items() if key[0] is LeakKind.CHECKED_OUT}
        return rests(LeakKind.CHECKED_OUT, Counter(self._ran) + Counter(ran), told_at, left)

    # ---- what is out

    def _all_out(self) -> dict[Hashable, Taken]:
        out = self._out.still_out()
        for check in list(self._checks):
            try:
                names = Counter(check())
            except Exception as error:  # noqa: BLE001  it is the app's
                log.warning("leak check %r is not asked again: %s: %s", check, type(error).__name__, error)
                self._checks.remove(check)
                continue
            for name, count in names.items():
                for number in range(count):
                    key = check, name, number
                    out[key] = self._named.setdefault(key, _Named(str(name)))
        return out

    def _note(self, out: Mapping[Hashable, Taken], ran: frozenset[str], glanced: frozenset[str]) -> None:
        """Take note of what is new and of what is back: of what is in a pool's hands, a glance tells who ran."""
        self._before = {key: taken for key, taken in self._before.items() if out.get(key) is taken}
        self._left = {key: left for key, left in self._left.items() if out.get(key) is left.taken}
        new = [key for key in out if key not in self._before and key not in self._left]
        for key in new:
            suspects = ran if isinstance(out[key], _Named) else glanced
            self._left[key] = _Left(out[key], suspects if out[key].is_ours() else frozenset(self._ran))
        nameless = [left for left in self._left.values() if left.task is None]
        names = {(self._left[key].what, self._left[key].task) for key in new}
        for left in nameless:  # where it is seen again, and this time known whose
            left.task = next((task for what, task in names if what == left.what and task in left.suspects), None)
        self._nameless_looks = self._nameless_looks + 1 if nameless else 0
        if self._nameless_looks > _NAMELESS_LOOKS:
            for left in nameless:
                left.task = left.task or ""
        self._each = _LOOKS_EACH if new else max(0, self._each - 1)
        self.wants_each = self._each > 0 or any(left.task is None for left in nameless) or bool(self._patience)

    # ---- what is a leak

    def _judge(self) -> list[Finding]:
        suspected = self._suspected()
        if not suspected:
            return []
        if all((LeakKind.CHECKED_OUT, *key) in self._told_at for key in suspected):
            return self._tell(suspected)
        self._collect()
        out = self._out.still_out()
        gone = {key for key, left in self._left.items() if not isinstance(left.taken, _Named) and key not in out}
        collected = Counter((left.task or "", left.what) for key, left in self._left.items() if key in gone)
        self._left = {key: left for key, left in self._left.items() if key not in gone}
        return self._tell_collected(collected) + self._tell(self._suspected())

    def _suspected(self) -> dict[tuple[str, str], list[_Left]]:
        """By task and name: those not told yet of which one thread has left several, or a thread that has ended any."""
        alive = {thread.ident for thread in threading.enumerate()}
        groups: dict[tuple[str, str, int | None], list[_Left]] = {}
        for left in self._left.values():
            if left.task is not None:
                thread = left.taken.thread if left.taken.thread in alive else None
                groups.setdefault((left.task, left.what, thread), []).append(left)
        suspected: dict[tuple[str, str], list[_Left]] = {}
        for (task, what, _), group in groups.items():
            if len(group) >= self._patience.get((task, what), _PATIENCE) and not all(left.told for left in group):
                suspected.setdefault((task, what), []).extend(group)
        return suspected

    def _tell_collected(self, collected: Mapping[tuple[str, str], int]) -> list[Finding]:
        found = []
        for (task, what), count in collected.items():
            self._patience[task, what] = min(_MOST_PATIENCE, 2 * self._patience.get((task, what), _PATIENCE))
            runs = self._runs(LeakKind.UNCLOSED, task, what)
            reason = (
                f"{_runs(task, runs)} left {_connections(count)} to {what} that only the garbage collector gave back"
            )
            found.append(Finding(LeakKind.UNCLOSED, task, what, count, runs, reason, ""))
        return found

    def _tell(self, suspected: Mapping[tuple[str, str], Sequence[_Left]]) -> list[Finding]:
        found = []
        for (task, what), group in suspected.items():
            new = [left for left in group if not left.told]
            for left in new:
                left.told = True
            runs = self._runs(LeakKind.CHECKED_OUT, task, what)
            reason = f"leak: {_runs(task, runs)} did not give {_connections(len(new))} to {what} back to the pool"
            stack = next((left.taken.stack for left in reversed(group) if left.taken.stack), "")
            found.append(Finding(LeakKind.CHECKED_OUT, task, what, len(new), runs, reason, stack))
        return found

    def _runs(self, kind: LeakKind, task: str, what: str) -> int:
        """The runs of the task since the last finding of this kind and name."""
        ran = self._ran.get(task, 0) if task else sum(self._ran.values())
        before = self._told_at.get((kind, task, what), 0)
        self._told_at[kind, task, what] = ran
        return max(1, ran - before)


def _runs(task: str, runs: int) -> str:
    return f"{runs} run{'s' if runs > 1 else ''} of {task or 'several tasks'}"


def _connections(count: int) -> str:
    return "a connection" if count == 1 else f"{count} connections"
