"""Memory that tasks keep, by name: live bytes at both ends of some runs, as many as the time for it allows.

    due(task)? ── 1 run in k ──▶ before ─ collect, read ─▶ the run ─▶ after ─ collect, read ─▶ memory_ledger
                                                                        k: by what this cost ┘    └▶ Finding

Never by the resident size: a leak fills pages that an innocent task's peak has left (research/hygiene.md, 2.5: the
leaker had 0.0 KiB a run, the innocent one 176). A collection at both ends, since garbage is no leak, but of young
objects only: the first one leaves none, so that the second looks at what the run allocated. A full one takes the longer
the more has leaked (0.15 s for 250 MiB of small strings), and samples would end just where they are needed. What cannot
be seen so is looked at by a full one: a run that seems to keep something, and during which the collector made old what
was young; and, once, what all runs together kept, before a task is named.

Before a task that was found out is reported, its next runs are traced for where they allocate, until one has kept
something, for a second at most.
"""

from __future__ import annotations

import gc
import random
import time
from typing import TYPE_CHECKING, Final

from poolrt.hygiene.allocation_sites import AllocationTrace
from poolrt.hygiene.findings import Finding, LeakKind
from poolrt.hygiene.memory_ledger import KEEPS, MemoryLedger
from poolrt.posix.memory import live_bytes
from poolrt.units import format_size

if TYPE_CHECKING:
    from collections.abc import Callable

    from poolrt.hygiene.memory_ledger import Keeper

_SHARE: Final = 0.01
"""Of the time that this task takes, or tasks on average, that sampling may cost."""
_LEAST_NS: Final = 100
"""What it may cost a run however short."""
_SUSPECT: Final = 4
"""So much more for a task that seems to keep memory."""
_HEAD_START_NS: Final = 4_000_000
"""What a child may spend beyond that, so that there are samples before it has run thousands of tasks."""
_A_MIB_BUYS_NS: Final = 1_000_000
"""What it may spend besides for each MiB by which it grows and nobody knows why."""
_SOON: Final = 8
"""Runs between two samples of a task, while there is something to spend."""
_TRACED_BELOW_NS: Final = 100_000_000
"""Longer runs are not traced: they would meet their time limits."""
_TRACED_RUNS: Final = 200
"""At most: of a leak in one run of fifty one is among them, but for one time in fifty."""
_TRACING_NS: Final = 1_000_000_000
"""What traced runs may take in all, their samples included."""


_YOUNG: Final = 1
"""Generation of a collection that leaves nothing young: 3 us besides what the run allocated (Python 3.11 to 3.14)."""
_ALL: Final = 2
_GARBAGE: Final = 0.5
"""Of what a task kept: if a full collection frees so much, nobody kept it."""


def made_old() -> int:
    """How often this process's collector made young objects old: no young collection sees them any more. 1.3 us."""
    return sum(generation["collections"] for generation in gc.get_stats()[_YOUNG:])


class _Sampling:
    """How often a task is sampled, and what is known of its time."""

    __slots__ = ("every", "runtime", "samples", "traced")

    def __init__(self) -> None:
        self.every = 1
        self.samples = 0
        self.runtime = 0
        """Nanoseconds, a moving median."""
        self.traced = False


class _Pursuit:
    """A task that was found out and not reported yet: its runs are traced until one keeps something."""

    __slots__ = ("keeper", "kept", "left", "runs", "stack")

    def __init__(self, keeper: Keeper) -> None:
        self.keeper = keeper
        self.runs = _TRACED_RUNS
        self.left = _TRACING_NS
        self.kept = 0
        self.stack = ""

    def note(self, kept: int, stack: str, took: int) -> bool:
        """A run was traced, and it took so many nanoseconds; whether that is enough."""
        self.runs -= 1
        self.left -= took
        if kept > self.kept:
            self.kept, self.stack = kept, stack
        return 2 * self.kept >= self.keeper.size or self.runs <= 0 or self.left <= 0


class LiveMemory:
    """Samples the live bytes of one process around runs of its tasks.

    ``due`` before each run; around those that are due ``before`` and ``after``, as near to the run as can be: all that
    is allocated between them and still there is what the run kept.

    Args:
        ceiling: max_memory_per_child, for the text of findings; 0 for none.
        resident: the process's resident bytes, for the same; read for a finding only.
        traces: whether a run of a task that was found out may be traced.
        settle: called before the collections of a sample: finalizers may hang or crash.
        collect: a collection of this generation.
        made_old, read, clock: how often young objects were made old, live bytes, monotonic nanoseconds.
    """

    def __init__(
        self, ceiling: int = 0, resident: Callable[[], int] = lambda: 0, *, traces: bool = True,
        settle: Callable[[], object] = lambda: None, collect: Callable[[int], object] = gc.collect,
        made_old: Callable[[], int] = made_old, read: Callable[[], int] = live_bytes,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:  # fmt: skip
        self._ceiling = ceiling
        self._resident = resident
        self._traces = traces
        self._settle = settle
        self._collect = collect
        self._made_old = made_old
        self._read = read
        self._clock = clock
        self._ledger = MemoryLedger()
        self._left: dict[str, int] = {}
        """Runs until the next sample."""
        self._left_then: dict[str, int] = {}
        """The same, at the last sample of any task."""
        self._samplings: dict[str, _Sampling] = {}
        self._spare = _HEAD_START_NS
        self._costs: dict[tuple[bool, bool], int] = {}
        """Of a sample: with a full collection or without, judged or not; nanoseconds, moving means."""
        self._time = self._runs = 0
        """Nanoseconds and runs, of all tasks, as the samples tell."""
        self._live = self._began = self._spent = self._old = 0
        self._found: dict[str, _Pursuit] = {}
        self._trace: AllocationTrace | None = None
        read()  # the first time takes milliseconds, which is not what a sample costs

    def due(self, task: str) -> bool:
        """Whether the run of ``task`` that comes is to be sampled; 0.1 us. To be asked once before each run."""
        left = self._left.get(task, 0)
        self._left[task] = left - 1
        return left <= 0

    def before(self, task: str) -> None:
        """Read what is in use, right before the run. If it is never followed by ``after``, nothing is noted."""
        started = self._clock()
        self._settle()
        self._collect(_YOUNG)
        if self._trace is not None:  # its run has not come to its end
            self._trace.stop()
            self._trace = None
        self._live = self._read()
        if task in self._found:
            self._trace = AllocationTrace()
            self._trace.start()
        self._old = self._made_old()
        self._began = self._clock()
        self._spent = self._began - started

    def after(self, task: str, runtime: int, own: int = 0) -> list[Finding]:
        """Read what is in use, right after the run that followed ``before``.

        Args:
            runtime: of the run, in nanoseconds.
            own: bytes that the runtime allocated meanwhile and keeps: the run's outcome.
        """
        ended = self._clock()
        self._settle()
        aged = self._made_old() != self._old
        self._collect(_YOUNG)
        full = aged and self._read() - own - self._live >= KEEPS
        if full:
            self._collect(_ALL)
        found = self._traced(task) if self._trace is not None else []
        live = self._read() - own
        sampling = self._samplings.setdefault(task, _Sampling())
        judged = self._ledger.note(task, sampling.every, self._live, live, self._gap(task))
        if judged:
            found += self._judged(live + own)
        if judged or self._ledger.in_first_lap:
            self._spare = max(self._spare, self._ledger.unexplained() * _A_MIB_BUYS_NS >> 20)
        self._pace(task, runtime, ended, (full, judged))
        return found

    def _judged(self, live: int) -> list[Finding]:
        """What is to be reported now; none if a full collection frees what was taken to be kept."""
        if not (keepers := self._ledger.judge()):
            return []
        self._collect(_ALL)
        freed = live - self._read()
        kept = [keeper for keeper in keepers if freed < _GARBAGE * keeper.kept]
        return [finding for keeper in kept if (finding := self._report(keeper)) is not None]

    def leaving(self) -> list[Finding]:
        """What was found and is not reported yet, when the process leaves."""
        found, self._found = self._found, {}
        return [self._finding(each.keeper, each.stack) for each in found.values()]

    def culprit(self) -> str:
        """Who kept most so far, for a process that is at its ceiling: a hint, no proof; "" if nobody stands out."""
        most = self._ledger.most()
        return most.task if most else ""

    def _gap(self, sampled: str) -> dict[str, int]:
        """How often each task ran since the last sample, but for the run that is sampled now."""
        then, self._left_then = self._left_then, self._left.copy()
        ran = {task: then.get(task, 0) - left - (task == sampled) for task, left in self._left.items()}
        return {task: runs for task, runs in ran.items() if runs}

    def _pace(self, task: str, runtime: int, ended: int, kind: tuple[bool, bool]) -> None:
        """When this task is sampled next: so late that this one has cost what it may, or soon while some is spare."""
        sampling = self._samplings[task]
        sampling.runtime = _median(sampling.runtime, runtime)
        sampling.samples += 1
        cost = self._costs[kind] = _mean(self._costs.get(kind, 0), self._spent + self._clock() - ended)
        self._time += sampling.runtime * sampling.every
        self._runs += sampling.every
        allowed = max(_LEAST_NS, int(max(sampling.runtime, self._time / self._runs) * _SHARE))
        if self._ledger.looks_suspicious(task):
            allowed *= _SUSPECT
        every = 1 + cost // allowed
        soon = min(sampling.samples, _SOON)
        if self._spare > 0 and every > soon:
            self._spare -= cost
            every = soon
        # At random, or tasks that come in turn would be sampled with the same neighbours for ever.
        sampling.every = 1 if task in self._found else random.randint(every - every // 2, every + every // 2)
        self._left[task] = self._left_then[task] = sampling.every - 1

    def _traced(self, task: str) -> list[Finding]:
        """The trace of this run is over; the finding, if it was the last one needed."""
        trace, self._trace = self._trace, None
        if trace is None:
            return []
        pursuit = self._found[task]
        stack = trace.stop()
        if not pursuit.note(trace.kept, stack, self._clock() - self._began):
            return []
        return [self._finding(self._found.pop(task).keeper, pursuit.stack)]

    def _report(self, keeper: Keeper) -> Finding | None:
        """The finding, or None if runs are traced first."""
        sampling = self._samplings[keeper.task]
        if not self._traces or sampling.traced or sampling.runtime > _TRACED_BELOW_NS:
            return self._finding(keeper)
        sampling.traced = True
        self._found[keeper.task] = _Pursuit(keeper)
        self._left[keeper.task] = self._left_then[keeper.task] = 0
        return None

    def _finding(self, keeper: Keeper, stack: str = "") -> Finding:
        a_run = format_size(keeper.a_run)
        often = f"{keeper.keeping} of {keeper.samples} samples"
        reason = f"keeps {a_run} a run ({often})"
        if self._ceiling and (room := self._ceiling - self._resident()) > 0:
            left = room // keeper.a_run
            reason += f": {left:,} more runs to max_memory_per_child of {format_size(self._ceiling)}"
        return Finding(LeakKind.MEMORY, keeper.task, "live bytes", keeper.kept, keeper.runs, reason, stack)


def _median(known: int, new: int) -> int:
    """A moving median, a step of an eighth at a time: that one run took long is no reason to think that all do."""
    if not known:
        return new
    return known + known // 8 if new > known else known - known // 8


def _mean(known: int, new: int) -> int:
    """A moving mean, in which that the process was off its processor for a while counts as four times the usual."""
    return known + (min(new, 4 * known) - known) // 8 if known else new
