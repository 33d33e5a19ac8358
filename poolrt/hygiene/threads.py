"""Which task leaves threads running at its runs.

    after runs ── same threads, same number in the kernel (3 us) ──▶ nothing
                └─ more ──▶ new ones: a pool's next worker ──▶ nothing;   else ──▶ leftovers ──▶ Finding

What is no leak, beside what `leftovers` says: the workers of a ``ThreadPoolExecutor``, which never outnumber its
``max_workers``, count as one thread for each executor. Workers of a pool that cannot be known by their code have
something in common: the pool, a queue. So a thread that was given an object that an earlier leftover was given too,
or nothing of its own, is taken for a worker, and only ``POOL`` runs that each left one are a leak.

Threads that Python does not know (a C library's) have the number and the name that the kernel has for them.
"""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Callable, Mapping
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Final

from poolrt.hygiene.findings import Finding, LeakKind
from poolrt.hygiene.leftovers import Leftovers, without_numbers
from poolrt.posix.processes import threads

POOL: Final = 48
"""Runs: pools here and there are bounded at 32 (``concurrent.futures``) or 40 (anyio) threads."""
MOST: Final = 500
"""At once, of one task: systemd and containers commonly allow some thousands of processes and threads together."""
_TASK: Final = "/proc/self/task"
_NOT_SHARED: Final = (type, FunctionType, BuiltinFunctionType, ModuleType, str, bytes, int, float, tuple)
"""What two threads may be given without belonging together."""


class ThreadWatch:
    """Looks for threads that tasks left running. Made when the process is ready for its first task.

    Invariant: ``_known`` has the thread ids that lived at the last close look.

    Attributes:
        cost: microseconds of a look at which nothing has changed.
    """

    cost: Final = 3.0

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock`` is monotonic, in seconds."""
        self._left: Leftovers[int] = Leftovers(LeakKind.THREADS, "threads running", pool=POOL, most=MOST, clock=clock)
        self._python = threading.enumerate()
        self._links = _links()
        self._known: set[int] = set()
        self._known = set(self._named()) if self._links else set()
        self._given: dict[int, set[int]] = {}
        """Ids of what each living thread was given."""

    @property
    def wants_each(self) -> bool:
        """Whether the next runs are to be looked at singly."""
        return self._left.wants_each

    def look(self, ran: Mapping[str, int]) -> list[Finding]:
        """What these runs left, if it is a leak by now. Nothing where there is no /proc."""
        if not self._links:
            return []
        self._left.ran(ran)
        python, links = threading.enumerate(), _links()
        if python != self._python or links != self._links:
            self._python, self._links = python, links
            found = self._look_closer(ran)
        else:
            found = self._left.overdue()
        return [found] if found else []

    def _look_closer(self, ran: Mapping[str, int]) -> Finding | None:
        named = self._named()
        for tid in self._known - named.keys():
            self._left.ended(tid)
            self._given.pop(tid, None)
        new = {}
        for tid in named.keys() - self._known:
            thread = named[tid]
            if thread is None or not self._is_next_worker(thread):
                new[tid] = (_name_of(tid, thread), thread is not None and self._is_pooled(thread))
            if thread is not None:
                self._given[tid] = _given(thread)
        self._known = set(named)
        return self._left.appeared(new, ran) if new else self._left.overdue()

    def _named(self) -> dict[int, threading.Thread | None]:
        """Living threads by the kernel's id; None for those that Python does not know."""
        python = {thread.native_id: thread for thread in self._python}
        tids = map(int, os.listdir(_TASK))
        if None in python:  # one is just starting, and cannot be told from a native one: look again
            self._links = -1
            return {tid: python.get(tid) for tid in tids if tid in python or tid in self._known}
        return {tid: python.get(tid) for tid in tids}

    def _is_next_worker(self, thread: threading.Thread) -> bool:
        """Whether it works for an executor of which a worker is known."""
        target = getattr(thread, "_target", None)
        if getattr(target, "__module__", "") != "concurrent.futures.thread":
            return False
        return self._shares(_given(thread))

    def _is_pooled(self, thread: threading.Thread) -> bool:
        given = _given(thread)
        return not given or self._shares(given)

    def _shares(self, given: set[int]) -> bool:
        return any(not given.isdisjoint(others) for others in self._given.values())


def _name_of(tid: int, thread: threading.Thread | None) -> str:
    if thread is None:
        names = dict(threads())
        name = names.get(tid, "")
        own = name and name != names.get(os.getpid())  # it begins with the name of the process
        return f"a native thread ({without_numbers(name)})" if own else "a native thread"
    target = getattr(thread, "_target", None) or type(thread)
    of = "" if target is threading.Thread else getattr(target, "__qualname__", type(target).__qualname__)
    name = without_numbers(thread.name)
    return f"{name.partition(' (')[0]} ({of})" if of else name


def _given(thread: threading.Thread) -> set[int]:
    """Ids of the objects that the thread was started with: arguments, ``self`` of a method, closure, attributes."""
    target = getattr(thread, "_target", None)
    things = [
        *getattr(thread, "_args", ()),
        *getattr(thread, "_kwargs", {}).values(),
        getattr(target, "__self__", None),
    ]
    things += [value for name, value in vars(thread).items() if name not in _of_every_thread()]
    for cell in getattr(target, "__closure__", None) or ():
        try:
            things.append(cell.cell_contents)
        except ValueError:
            continue  # it is not filled yet
    return {id(thing) for thing in things if thing is not None and not isinstance(thing, _NOT_SHARED)}


@functools.cache
def _of_every_thread() -> frozenset[str]:
    return frozenset(vars(threading.Thread(name="never started")))


def _links() -> int:
    """Two more than this process has threads; 0 without /proc."""
    try:
        return os.stat(_TASK).st_nlink
    except OSError:
        return 0
