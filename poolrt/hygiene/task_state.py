"""What a task changed of its process and left so: found after the run, put back, and named.

    after runs ── all as it was (3.3 us; 6 after a single run) ──▶ nothing
                └─ not ──▶ put back ──▶ one task had run ──▶ Finding
                        │           └─▶ several had ──▶ the next runs are looked at singly ──▶ Finding
                        └─ cannot be put back ──▶ must_leave

What several tasks may have changed is told at once if they are ``FEW_NAMES`` at most, with their names and for none of
them. With more it waits for the one that does it again, and is told when none has.

What is looked at, and which changes are kept, stands in `held_state`. Besides, asyncio tasks that a run left pending in
the loop of the child's async tasks: they go on within later runs. A client's reader, started once, is no leak (see
`leftovers`); those that are told are cancelled, which happens when the loop runs again.

Not looked at: warning filters and random seeds (libraries change both all the time), ``sys.monitoring`` (the soft limit
uses it), other loggers than root.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final

from poolrt.hygiene.findings import Finding, LeakKind, Rest
from poolrt.hygiene.held_state import Held, Run, often_changed, rarely_changed
from poolrt.hygiene.leftovers import Leftovers

SINGLY: Final = 2000
"""Runs that are looked at singly after a change that is nobody's, at 6 us each: one in fifty of a task may do it."""
FEW_NAMES: Final = 3
"""Tasks, one of which has changed something: so few are as good as a name."""
_RARELY: Final = 8
"""Looks after several runs between two at what is rarely changed. After a single run all is looked at: either it took
long enough to pay for it, or somebody waits for a name."""


class StateWatch:
    """Holds the process's state to what it is now. Made and used in the main thread.

    What must be in place before it is made: the child's own TMPDIR, its signal handlers, what the app's hooks set.

    Attributes:
        must_leave: why the child cannot go on, or an empty text: something could not be put back.
    """

    def __init__(
        self, loop: Callable[[], asyncio.AbstractEventLoop | None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        """``loop`` gives the one that runs the child's async tasks, if there is one by now; ``clock`` is monotonic."""
        self.must_leave = ""
        self._often = _Group(often_changed())
        self._rarely = _Group(rarely_changed())
        self._loop = loop
        self._pending: set[int] = set()
        self._left: Leftovers[int] = Leftovers(LeakKind.STATE, "asyncio tasks pending", clock=clock)
        self._modules = len(sys.modules)
        self._looks = 0
        self._singly = 0
        self._ran: Counter[str] = Counter()
        self._told: dict[tuple[str, str], int] = {}
        """Of each task, and of what it was told to have changed last, how many runs there had been by then."""
        self._unlooked: list[Mapping[str, int]] = []
        """Runs since the last look at what is rarely changed; and whether they imported something."""
        self._excused = False
        self._unnamed: dict[str, str] = {}
        """What was found after runs of several tasks, and which these were."""

    @property
    def wants_each(self) -> bool:
        """Whether the next runs are to be looked at singly."""
        return self._singly > 0 or self._left.wants_each

    def look(self, ran: Mapping[str, int]) -> list[Finding]:
        """What these runs changed; it is put back by then."""
        self._looks += 1
        for task, runs in ran.items():
            self._ran[task] += runs
        found: list[Finding] = []
        imported = len(sys.modules) != self._modules and self._imported()
        if not self._often.is_as_it_was():
            found += self._settle(self._often, ran, imported=imported)
        self._unlooked.append(ran)
        self._excused |= imported
        if not self._looks % _RARELY or sum(ran.values()) == 1:
            if not self._rarely.is_as_it_was():
                all_ran = sum(map(Counter, self._unlooked), Counter())
                found += self._settle(self._rarely, all_ran, imported=self._excused)
            self._unlooked.clear()
            self._excused = False
        loop = self._loop()
        if loop is not None:
            found += self._look_at_loop(loop, ran)
        if self._singly:
            self._singly -= 1
            if not self._singly:
                found += self.unnamed()
        return found

    def unnamed(self) -> list[Finding]:
        """What could be given to no task and was not told: to be reported when the child leaves."""
        found = [
            self._finding("", what, f"{what} was changed by one of {tasks}: put back")
            for what, tasks in self._unnamed.items()
        ]
        self._unnamed.clear()
        return found

    def _settle(self, group: _Group, ran: Mapping[str, int], *, imported: bool) -> list[Finding]:
        task = next(iter(ran)) if len(ran) == 1 else ""
        names = " or ".join(ran)
        whats, failed = group.settle(Run(task, imported))
        if failed:
            self.must_leave = f"{names} changed {failed}"
        if not task and whats:
            self._singly = SINGLY
        if len(ran) > FEW_NAMES:
            self._unnamed |= dict.fromkeys(whats, ", ".join(ran))
            return []
        ending = "it cannot be put back" if failed else "put back"
        for what in whats:
            self._unnamed.pop(what, None)
        return [self._finding(task, what, f"{names} changed {what} and left it so: {ending}") for what in whats]

    def _finding(self, task: str, what: str, reason: str) -> Finding:
        runs = self._runs_since(task, what)
        self._told[task, what] = self._runs(task)
        return Finding(LeakKind.STATE, task, what, 1, runs, reason)

    def _runs(self, task: str) -> int:
        """Of the task; those of all where one of several is told, which has no name."""
        return self._ran[task] if task else self._ran.total()

    def _runs_since(self, task: str, what: str) -> int:
        return self._runs(task) - self._told.get((task, what), 0)

    def rest(self) -> list[Rest]:
        """What is not told when the child leaves."""
        left = Counter((each.task, each.what) for each in self._left.left.values())
        since: dict[str, list[tuple[LeakKind, str, int, int]]] = {"": [], **{task: [] for task in self._ran}}
        for task, what in {**left, **self._told}:
            since[task].append((LeakKind.STATE, what, left[task, what], self._runs_since(task, what)))
        return [Rest((LeakKind.STATE,), task, self._runs(task), each) for task, each in since.items()]

    def _imported(self) -> bool:
        """Whether a module that is not the standard library's was imported since the last look.

        By how many there are: of those that a task has removed as many new ones are missed."""
        new = [*itertools.islice(sys.modules, self._modules, None)]
        self._modules = len(sys.modules)
        return any(name.partition(".")[0] not in sys.stdlib_module_names for name in new)

    def _look_at_loop(self, loop: asyncio.AbstractEventLoop, ran: Mapping[str, int]) -> list[Finding]:
        self._left.ran(ran)
        tasks = {id(task): task for task in asyncio.all_tasks(loop)}
        if tasks.keys() == self._pending and not self._left.left:
            return []
        for key in self._pending - tasks.keys():
            self._left.ended(key)
        new = {key: (f"asyncio task {_name_of(tasks[key])}", False) for key in tasks.keys() - self._pending}
        self._pending = set(tasks)
        blamed = {*self._left.left, *new}
        found = self._left.appeared(new, ran) if new else self._left.overdue()
        if found is None:
            return []
        for key in blamed - self._left.left.keys():
            tasks[key].cancel()
        self._told[found.task, found.what] = self._ran[found.task]
        return [found]


class _Group:
    """Some of the state, with its baseline."""

    def __init__(self, held: list[Held]) -> None:
        self._held = held
        self._reads = [each.read for each in held]
        self._baseline = [each.baseline() for each in held]
        self._values = self._baseline

    def is_as_it_was(self) -> bool:
        """Read all; some of it is put back by being read."""
        self._values = [read() for read in self._reads]
        try:
            return self._values == self._baseline
        except Exception:  # noqa: BLE001  what a task has put there may compare in its own way
            return False

    def settle(self, run: Run) -> tuple[list[str], str]:
        """Put back what `is_as_it_was` saw changed: what is to be told; and what could not be, and why."""
        whats, failed = [], []
        for place, (held, old, new) in enumerate(zip(self._held, self._baseline, self._values, strict=True)):
            try:
                if _is_same(old, new):
                    continue
                whats += held.settle(old, new, run)
            except Exception as error:  # noqa: BLE001  whatever a library's restoring raises, or a task's ``==``
                whats.append(held.what)
                failed.append(f"{held.what}, which cannot be put back: {error}")
            self._baseline[place] = held.baseline()
        return whats, "; ".join(failed)


def _is_same(old: Any, new: Any) -> bool:
    """What a task has put there is not asked: its ``==`` may do anything."""
    return old is new or (type(old) is type(new) and type(old).__module__ == "builtins" and old == new)


def _name_of(task: asyncio.Task[Any]) -> str:
    return getattr(task.get_coro(), "__qualname__", "of an unknown kind")
