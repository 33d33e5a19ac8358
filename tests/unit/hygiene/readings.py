"""A process by injected readings, for the tests of who keeps memory."""

from __future__ import annotations

import random
from collections import Counter

from poolrt.hygiene.live_memory import LiveMemory

KIB = 1024


class Process:
    """Live bytes and a clock that tasks move: ``run_us`` each, and ``sample_us`` for what a sample costs."""

    def __init__(self, run_us: int = 1000, sample_us: int = 120, first_read_us: int = 0, **options) -> None:
        self.live = 50 << 20
        self.garbage = 0
        """Bytes that any collection frees; ``old_garbage``: those that only a full one does."""
        self.old_garbage = 0
        self.old = 0
        """How often the collector made young objects old."""
        self.now = 0
        self.run_ns, self.collect_ns = run_us * 1000, sample_us * 500
        self.collect_all_ns = self.collect_ns
        self.read_ns = first_read_us * 1000
        self.sampled: Counter[str] = Counter()
        self.collections = self.full_collections = 0
        self.runs: Counter[str] = Counter()
        self.looked = False
        self.random = random.Random(1)
        options.setdefault("traces", False)
        self.memory = LiveMemory(
            collect=self.collect,
            made_old=lambda: self.old,
            read=self.read,
            clock=lambda: self.now,
            **options,
        )

    def collect(self, generation: int) -> None:
        self.garbage = 0
        self.collections += 1
        if generation == 2:
            self.old_garbage = 0
            self.full_collections += 1
            self.now += self.collect_all_ns
        else:
            self.now += self.collect_ns

    def read(self) -> int:
        self.now += self.read_ns
        self.read_ns = 0
        return self.live + self.garbage + self.old_garbage

    def run(self, name, function, own=0):
        due = self.looked = self.memory.due(name)
        if due:
            self.sampled[name] += 1
            self.memory.before(name)
        began = self.now
        self.now += self.run_ns
        self.live += int(function() or 0)
        self.runs[name] += 1
        return self.memory.after(name, self.now - began, own) if due else []

    def mix(self, runs, **tasks):
        """Run these in random order; the findings."""
        names = sorted(tasks)
        found = []
        for _ in range(runs):
            name = self.random.choice(names)
            found += self.run(name, tasks[name])
        return found


def nothing() -> int:
    return 0


def names(found):
    return sorted({finding.task for finding in found})
