"""Which task leaves descriptors open at each run, and how near the child is to their limit.

    after a run: task, lowest free number ──▶ DescriptorWatch ──▶ None, or a Finding that names task, peer and counts

Two rules:

1. Near the limit. More than 70 % of the limit is open, or one more run like the worst so far would reach the limit: a
   Finding whatever the pattern, so that no run of this child meets EMFILE.
2. Gross leak. Thirty runs of one task in a row, however mixed with other tasks', each left more open than they found.
   Then what these runs left is looked at once. A TCP connection that was written to since its first run is in use: a
   pool warms up, a client keeps its connections. Connections not used again, and whatever else is still open, are
   leaked if they come from four fifths of the runs. Otherwise the task is judged again when the row has doubled.

By rule 2 these are leaks too: a task that opens another file at each of 30 runs and keeps them all, on purpose or not;
a client that keeps a connection to another host at each of 30 runs and uses none again; a pool over Unix sockets, which
do not tell their use, that grows at each of 30 runs. An upper bound on them stops it.

How the growth of a run is seen:

- The lowest free number moved up: no reading at all, and the numbers between are what is new.
- A run that opens a file, connects, and closes the file moves nothing: its connection hides above the hole. So the
  open ones are counted at every 32nd run at most (oftener when few are free), and after a growth that the numbers did not
  show, at each run for a while (1 ms in total): until the task is known.

What only the cycle collector would close is no leak: it runs before either rule speaks.
"""

import gc
import time
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from poolrt.posix.descriptors import Descriptor, open_count

RUNS_IN_A_ROW: Final = 30
"""Runs that must each leave a descriptor: a pool that serves one task at a time has stopped growing by then."""
_SHARE_OF_RUNS: Final = 0.8
"""Of a pool whose next connection is drawn at random, half were used again after 30 runs, give or take a tenth."""
_SHARE_OF_LIMIT: Final = 0.7
_LOOK_EVERY: Final = 32
"""Runs between two counts, at most: 4 us each."""
_COUNTED_RUNS: Final = 256
"""Runs that are counted each after a hidden growth, so that a task that is one in hundreds runs again meanwhile."""
_COUNTING_SECONDS: Final = 0.001
"""What they may cost in all: 15 to 800 us each where the kernel has to list them."""
_CLOCK_TICKS: Final = 0.02
"""Seconds by which a connection's idle time may be short (a tick of the kernel is up to 10 ms)."""
_MOST_READ: Final = 1024
"""Descriptors looked at to name the cause near the limit: 10 ms."""


class Finding(NamedTuple):
    """What was found.

    Attributes:
        kind: as in `Descriptor`; empty where nothing can be read.
        what: the peer or path most of them have; ``host:*`` or ``directory/*`` where only that is common.
        count: how many of this kind and name are open.
        runs: how many runs of the task left them.
        reason: one line for the operator.
    """

    task: str
    kind: str
    what: str
    count: int
    runs: int
    reason: str


class _Birth(NamedTuple):
    """A descriptor as it was after the run that left it."""

    task: str
    run: int
    at: float
    seen: Descriptor


class _Row:
    """Runs in a row that grew; ``first`` numbers the first of them among all runs that grew."""

    __slots__ = ("first", "runs")

    def __init__(self, first: int) -> None:
        self.first = first
        self.runs = 0


class DescriptorWatch:
    """Watches one process's descriptors, between its runs.

    ``limit`` and ``lowest`` are read when the process is ready for its first task: what is open then is its own.

    Invariant: ``_known`` has a number for each descriptor that was seen to be open, never the lowest free one.
    None stands for one that no run is blamed for.
    """

    __slots__ = (
        "_alarm", "_births", "_clock", "_collect", "_count", "_counted_runs", "_counting", "_every", "_grown", "_known",
        "_largest", "_left", "_limit", "_lowest", "_patience", "_rows", "_scan",
    )  # fmt: skip

    def __init__(
        self,
        limit: int,
        lowest: int,
        scan: Callable[[Iterable[int]], list[Descriptor]],
        clock: Callable[[], float] = time.monotonic,
        *,
        count: Callable[[], int] = open_count,
        collect: Callable[[], object] = gc.collect,
    ) -> None:
        self._limit = limit
        self._lowest = lowest
        self._scan = scan
        self._clock = clock
        self._counting = count
        self._collect = collect
        self._known: dict[int, _Birth | None] = dict.fromkeys(range(lowest))
        self._rows: dict[str, _Row] = {}
        self._patience: dict[str, int] = {}
        self._grown = 0
        self._largest = 0
        self._alarm = 0
        self._every = 1
        self._left = 0
        self._counted_runs = 0
        self._count = count()

    def after(self, task: str, lowest: int) -> Finding | None:
        """Take note of a run of ``task`` that ended, with the lowest free number now. Under 0.1 us if nothing moved."""
        if lowest == self._lowest and self._left and task not in self._rows:
            self._left -= 1
            return None
        return self._look(task, lowest)

    def _look(self, task: str, lowest: int) -> Finding | None:
        before, self._lowest = self._lowest, lowest
        new = [fd for fd in range(before, lowest) if fd not in self._known]
        self._known.pop(lowest, None)
        if self._left:
            self._left -= 1
            self._count += len(new) if lowest > before else lowest < before and -1
        return None
