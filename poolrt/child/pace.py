"""How many tasks a child may hold: by how long they take, learnt by name."""

from __future__ import annotations

from collections import Counter

BATCH_SECONDS = 0.02
"""How much expected work a child may hold."""
MAX_BATCH = 64
"""Measured: the cost of a transaction is spread well enough at 64, and a crash puts few back."""
MAX_PIPELINED_BATCH = 256
"""Where a reserve is a round trip, and a long task's batch is recalled: so its cost is spread over more."""
SLOW_SECONDS = 0.005
"""A run from which on a child asks itself whether its batch takes too long."""
_A_GLANCE = 5e-5
"""Seconds: what the shortest tasks may take longer, for no reason of theirs."""
GROWTH = 4
"""A new child is at a batch of 16 in its third reserve: with ten tasks a child, each reserve is a fifth of its life."""


class Pace:
    """How long tasks take, learnt by name; decides how many may be held.

    An unknown name counts as a whole batch: it is held alone until it is known. Of a longer run half is believed, and
    at most eight times what was expected: on a busy machine each task is off its processor now and then. Of a shorter
    one a tenth; or half, if slow runs were expected. A run that overruns its batch is believed (``believe``), and what
    waited behind it is put back: the next batches are small until quick runs are seen again.

    Args:
        most: the largest batch.
    """

    def __init__(self, most: int = MAX_BATCH) -> None:
        self._most = most
        self._seconds: dict[str, float] = {}
        self._batch = 1
        self._last: list[str] = []
        self._was_full = False

    def learn(self, task: str, seconds: float) -> None:
        """Take note of a run of ``task``."""
        known = self._seconds.get(task)
        if known is None:
            self._seconds[task] = seconds
        elif seconds > known:
            self._seconds[task] = known + (min(seconds, 8 * known + _A_GLANCE) - known) * 0.5
        else:
            self._seconds[task] = known + (seconds - known) * (0.5 if known > SLOW_SECONDS else 0.1)

    def believe(self, task: str, seconds: float) -> None:
        """The next runs of ``task`` take as long as this one did."""
        self._seconds[task] = seconds
        self._batch = 1

    def expected(self, task: str) -> float:
        """Seconds a run of ``task`` is expected to take."""
        return self._seconds.get(task, BATCH_SECONDS)

    def ask_for(self) -> int:
        """How many to reserve next: what fits the budget by what is known now of the last batch, growing by steps."""
        if self._last:
            counts = Counter(self._last)
            expected = sum(self.expected(task) * count for task, count in counts.items()) / len(self._last)
            fits = int(BATCH_SECONDS / max(expected, 1e-6))
            wanted = self._batch * GROWTH if self._was_full else self._batch
            self._batch = max(1, min(wanted, fits, self._most))
            self._last = []
        return self._batch

    def keep(self, tasks: list[str]) -> int:
        """How many of a reserved batch to keep, at least one: the budget's worth."""
        total, kept, expected = 0.0, 0, self.expected
        counts = Counter(tasks)  # 0.03 us each, where a sum costs 0.1
        if sum(expected(task) * count for task, count in counts.items()) <= BATCH_SECONDS:
            kept = len(tasks)
        else:
            for task in tasks:
                total += expected(task)
                if kept and total > BATCH_SECONDS:
                    break
                kept += 1
        self._was_full = kept == len(tasks) >= self._batch
        if kept < len(tasks):
            self._batch = max(1, kept)
        self._last = tasks[:kept]
        return kept

    def cut_short(self, count: int) -> None:
        """The last ``count`` that were kept will not be run here: they say nothing of how many to ask for."""
        if count:
            self._last = self._last[:-count]
            self._was_full = False
