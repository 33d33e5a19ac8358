"""A descriptor table in memory, and runs of tasks that change it."""

from __future__ import annotations

import random

import pytest

from poolrt.hygiene.descriptors import DescriptorWatch
from poolrt.posix.descriptors import Descriptor

PG = "10.0.0.7:5432"


class Table:
    """A descriptor table as the kernel keeps it: the lowest free number first, and a new inode for each."""

    def __init__(self, holds: int = 8, limit: int = 1024) -> None:
        self.limit = limit
        self.open_now: dict[int, Descriptor] = {}
        self.garbage: list[int] = []
        self.scans: list[int] = []
        self.counts = 0
        self.collections = 0
        self.most = 0
        self.inodes = 0
        self.now = 0.0
        for _ in range(holds):
            self.open("file", "/app")

    def open(
        self, kind: str = "socket", what: str = PG, *, written: int | None = 0, idle: float | None = None,
        read: int | None = None,
    ) -> int:  # fmt: skip
        """A new descriptor; OSError when there is no number left, as a task would meet it."""
        fd = self.lowest()
        if fd == self.limit:
            raise OSError("EMFILE")
        self.inodes += 1
        if kind != "socket":
            written = None
        self.open_now[fd] = Descriptor(fd, kind, what, self.inodes, idle, written, read)
        self.most = max(self.most, len(self.open_now))
        return fd

    def close(self, fd: int) -> None:
        del self.open_now[fd]

    def use(self, fd: int) -> None:
        seen = self.open_now[fd]
        if seen.written is None:
            self.open_now[fd] = seen._replace(idle=0.0)
        else:
            self.open_now[fd] = seen._replace(written=seen.written + 10)

    def lowest(self) -> int:
        return next(fd for fd in range(self.limit + 1) if fd not in self.open_now)

    def scan(self, numbers=None):
        numbers = sorted(self.open_now) if numbers is None else list(numbers)
        self.scans.append(len(numbers))
        return [self.open_now[fd] for fd in numbers if fd in self.open_now]

    def count(self) -> int:
        self.counts += 1
        return len(self.open_now)

    def collect(self) -> None:
        self.collections += 1
        for fd in self.garbage:
            self.close(fd)
        self.garbage.clear()

    def clock(self) -> float:
        return self.now

    def watch(self) -> DescriptorWatch:
        return DescriptorWatch(self.limit, self.lowest(), self.scan, self.clock, count=self.count, collect=self.collect)

    def drive(self, runs, *tasks, watch=None):
        """Run tasks in turn, ``(name, function)``; the findings, each with the number of runs its task had by then."""
        watch = watch or self.watch()
        had = dict.fromkeys((name for name, _ in tasks), 0)
        found = []
        for run in range(runs):
            name, function = tasks[run % len(tasks)]
            function()
            had[name] += 1
            self.now += 0.001
            found += [(had[finding.task], finding) for finding in watch.after(name, self.lowest()) or ()]
        return found

    def holding_a_file(self, function):
        """A run that calls ``function`` while a temp file is open: what stays open hides above the file's number."""
        fd = self.open("file", "/tmp/x")
        function()
        self.close(fd)


@pytest.fixture(scope="session")
def new_table() -> type[Table]:
    """``new_table(holds=8, limit=1024)``."""
    return Table


@pytest.fixture
def table() -> Table:
    """A table with eight descriptors of the process's own."""
    return Table()


@pytest.fixture
def same_samples():
    """Which runs LiveMemory samples is drawn: the same ones in each test."""
    state = random.getstate()
    random.seed(7)
    yield
    random.setstate(state)
