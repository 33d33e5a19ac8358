"""Soft limits at random moments, into code that holds locks, connections and half-done cleanups.

    python -m stress.chaos.soft_delivery [--small | --full] [--runs N] [--only NAME]

    SIGNALLER (a process)  waits for the moment in the shared row, names the run, SIGUSR2; again after 100 ms and 1 s
    ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────
    THIS PROCESS           open, work until it is cut, close, check: what is corrupted?

Each resource is cut by `poolrt.child.interruption`, and as a control by a handler that raises at once; then tasks that
are stuck are cut, and the price of a run's window is measured. The exit code is 1 if poolrt's way corrupted anything,
the control nothing at all, or a stuck task was cut by a later signal than it should be.
"""

from __future__ import annotations

import argparse
import asyncio
import mmap
import os
import random
import signal
import statistics
import sys
import tempfile
import time
import timeit
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from poolrt.child.interruption import S1_AFTER, Interrupter, exception_for
from poolrt.errors import SoftTimeLimitExceeded
from poolrt.posix.prctl import die_with_parent
from poolrt.states import Interruption
from stress.chaos.soft_resources import RESOURCES, Missing, Resource
from stress.chaos.stuck_tasks import STUCK, Signal

REPEATS_NS = (100_000_000, 1_000_000_000)
LONGEST_S = 0.003
"""Runs are cut after up to so long."""
GIVE_UP_S = 5.0

_SEQUENCE, _DUE, _INTERRUPTION, _SENT = range(4)


class Row:
    """What of a board row an Interrupter reads, shared with the signaller, and the moment that it waits for."""

    def __init__(self) -> None:
        self._map = mmap.mmap(-1, mmap.PAGESIZE)
        self._cells = memoryview(self._map).cast("Q")

    def begin(self, sequence: int, due: int) -> None:
        """Run ``sequence`` is to be interrupted at ``due`` (CLOCK_MONOTONIC ns)."""
        self._cells[_SEQUENCE] = sequence
        self._cells[_DUE] = due

    def end(self) -> None:
        """It has ended."""
        self._cells[_DUE] = 0

    @property
    def sequence(self) -> int:
        """The present run."""
        return self._cells[_SEQUENCE]

    @property
    def interruption(self) -> int:
        """What the signaller wrote."""
        return self._cells[_INTERRUPTION]

    @property
    def sent(self) -> int:
        """When the first signal of the present run was sent."""
        return self._cells[_SENT]

    def serve(self, pid: int) -> None:
        """Be the signaller."""
        cells = self._cells
        while True:
            due, sequence = cells[_DUE], cells[_SEQUENCE]
            if not due or time.monotonic_ns() < due:
                time.sleep(50e-6)
                continue
            cells[_SENT] = began = time.monotonic_ns()
            cells[_INTERRUPTION] = sequence << 8 | Interruption.SOFT_LIMIT
            for repeat in (0, *REPEATS_NS):
                while cells[_DUE] == due and time.monotonic_ns() - began < repeat:
                    time.sleep(50e-6)
                if cells[_DUE] == due:
                    os.kill(pid, signal.SIGUSR2)
            while cells[_DUE] == due:
                time.sleep(50e-6)


class Naive:
    """The control: the handler raises wherever it is called."""

    def __init__(self, row: Any) -> None:
        self._row = row
        self._is_open = False

    def install(self) -> None:
        """Handle SIGUSR2."""
        signal.signal(signal.SIGUSR2, self._on_signal)

    def open(self) -> None:
        """See Interrupter."""
        self._is_open = True

    def close(self) -> None:
        """See Interrupter."""
        self._is_open = False

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._is_open and self._row.interruption >> 8 == self._row.sequence:
            raise exception_for(Interruption.SOFT_LIMIT)


class Tally:
    """What came of one resource's runs."""

    def __init__(self) -> None:
        self.runs = 0
        self.corrupted = 0
        self.other: dict[str, int] = {}
        self.waits: list[float] = []

    def line(self, resource: str, how: str) -> str:
        """One row of the table."""
        ms = sorted(wait * 1e3 for wait in self.waits) or [0.0]
        late = sum(wait >= S1_AFTER for wait in self.waits)
        other = ", ".join(f"{count} {name}" for name, count in self.other.items())
        return (
            f"{resource:16} {how:8} {self.runs:6} {self.corrupted:10} {statistics.median(ms):8.3f} "
            f"{ms[int(len(ms) * 0.99)]:8.2f} {ms[-1]:8.1f} {late:6}   {other}"
        )


HEAD = "resource         raise      runs  corrupted   p50 ms      p99      max   late   other"


def once(interrupter: Interrupter | Naive, row: Row, resource: Resource, tally: Tally) -> None:
    """One run: work until it is cut."""
    row.begin(row.sequence + 1, time.monotonic_ns() + int(random.uniform(0.0, LONGEST_S) * 1e9))
    try:
        try:
            interrupter.open()
            resource.work()
        finally:
            interrupter.close()
    except SoftTimeLimitExceeded:
        tally.waits.append((time.monotonic_ns() - row.sent) / 1e9)
    except Exception as error:  # what a cut library says instead
        tally.other[type(error).__name__] = tally.other.get(type(error).__name__, 0) + 1
        tally.corrupted += 1
    row.end()
    tally.runs += 1
    tally.corrupted += bool(resource.check())


def give_up(number: int, frame: FrameType | None) -> None:
    """End the program: a cut that never came must not hang CI. Its processes die with it."""
    print(f"not cut within {GIVE_UP_S:g} s, in:", file=sys.stderr)
    traceback.print_stack(frame)
    os._exit(2)


def drive(make: Callable[[Any], Interrupter | Naive], row: Row, resource: Resource, runs: int) -> Tally:
    """Run ``resource`` so often."""
    interrupter = make(row)
    interrupter.install()
    tally = Tally()
    for _ in range(runs):
        signal.setitimer(signal.ITIMER_REAL, GIVE_UP_S)
        once(interrupter, row, resource, tally)
    signal.setitimer(signal.ITIMER_REAL, 0)
    return tally


def cut_stuck(row: Row, times: int) -> bool:
    """Cut each stuck task so often; whether each was cut by the signal that should."""
    interrupter = Interrupter(row)  # type: ignore[arg-type]  # it reads these two cells alone
    interrupter.install()
    sound = True
    print("\nstuck in                       cut by   p50 ms      max")
    for task, by in STUCK:
        waits = []
        for _ in range(times if by is not Signal.THIRD else 1):
            row.begin(row.sequence + 1, time.monotonic_ns() + 20_000_000)
            signal.setitimer(signal.ITIMER_REAL, GIVE_UP_S)
            try:
                interrupter.open()
                try:
                    task(interrupter)
                finally:
                    interrupter.close()
            except (SoftTimeLimitExceeded, asyncio.CancelledError):
                waits.append((time.monotonic_ns() - row.sent) / 1e6)
            row.end()
        signal.setitimer(signal.ITIMER_REAL, 0)
        in_time = bool(waits) and statistics.median(waits) < by.value
        sound &= in_time
        name = task.__name__.replace("_", " ")
        print(f"{name:30} {by.name.lower():6} {statistics.median(waits or [0]):8.2f} {max(waits or [0]):8.1f}"
              f"{'' if in_time else '   TOO LATE'}", flush=True)  # fmt: skip
    return sound


def price(row: Row) -> str:
    """What `open` and `close` cost, the best of many."""
    interrupter = Interrupter(row)  # type: ignore[arg-type]

    def window() -> None:
        interrupter.open()
        interrupter.close()

    def nothing() -> None:
        pass

    both, empty = (min(timeit.repeat(f, number=20_000, repeat=20)) / 20_000 * 1e9 for f in (window, nothing))
    return f"\nopen() + close(): {both - empty:.0f} ns a run"


def chaos(runs: int, control_runs: int, only: str) -> bool:
    """Print the tables; whether all is as it should be."""
    row = Row()
    pid = os.getpid()
    signal.signal(signal.SIGALRM, give_up)
    signaller = os.fork()
    if not signaller:
        try:
            die_with_parent(pid)
            row.serve(pid)
        finally:
            os._exit(1)
    sound, control, missing = True, 0, []
    print(f"Python {sys.version.split()[0]}\n{HEAD}", flush=True)
    try:
        for kind in RESOURCES:
            name = kind.__name__
            if only not in name:
                continue
            with tempfile.TemporaryDirectory(prefix="prt-") as folder:
                try:
                    resource = kind(Path(folder))
                except Missing as error:
                    missing.append(name)
                    print(f"{name:16} skipped: no {error}")
                    continue
                try:
                    safe = drive(Interrupter, row, resource, runs)
                    print(safe.line(name, "poolrt"), flush=True)
                    naive = drive(Naive, row, resource, control_runs)
                    print(naive.line(name, "at once"), flush=True)
                finally:
                    resource.close()
            sound &= not safe.corrupted
            control += naive.corrupted
        sound &= cut_stuck(row, 5)
        print(price(row))
    finally:
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        os.kill(signaller, signal.SIGKILL)
        os.waitpid(signaller, 0)
    if not control:
        print("the control corrupted nothing: this run proves nothing")
    return sound and control > 0 and not (missing and "CI" in os.environ)


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m stress.chaos.soft_delivery", description=__doc__.splitlines()[0])
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--small", action="store_const", const=150, dest="runs", help="150 runs each (the default)")
    size.add_argument("--full", action="store_const", const=2000, dest="runs", help="2,000 runs each")
    size.add_argument("--runs", type=int, help="so many")
    parser.add_argument("--only", default="", metavar="NAME", help="resources whose name contains this")
    parser.set_defaults(runs=150)
    options = parser.parse_args()
    sys.exit(0 if chaos(options.runs, options.runs, options.only) else 1)


if __name__ == "__main__":
    main()
