"""How much a process grows with each run of one task, where other tasks ran in between: least squares of two. Pure.

A gap of more runs grows by chance as much more as it has runs (in variance), so it weighs as much less: where gaps are
of random lengths, as those between samples, half as many runs are as sure.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple


class Estimate(NamedTuple):
    """Bytes a run, and the standard error of that; infinite where nothing can be said."""

    value: float
    error: float

    def is_above(self, bytes_: float, errors: float) -> bool:
        """Whether it is above by so many standard errors."""
        return self.value - errors * self.error > bytes_

    def is_below(self, bytes_: float, errors: float) -> bool:
        """Whether it is below by so many standard errors."""
        return self.value + errors * self.error < bytes_

    def and_of(self, other: Estimate) -> Estimate:
        """Both together, the surer one weighing more."""
        if math.isinf(self.error) or not other.error:
            return other
        own, its = self.error**2, other.error**2
        return Estimate((self.value * its + other.value * own) / (own + its), math.sqrt(own * its / (own + its)))


UNKNOWN: Final = Estimate(0.0, math.inf)
_ALIKE: Final = 1e-9
"""Of what the determinant would be of tasks that never run together: below, rounding is all that tells them apart."""


class Slope:
    """Sums over gaps, each weighed by its runs: runs of one task, runs of all tasks, growth.

    Gaps in which the task did not run need not be noted: the sums over all gaps, of all tasks, are given to `against`.
    """

    __slots__ = ("gaps", "growth2", "runs2", "runs_all", "runs_growth")

    def __init__(self) -> None:
        self.gaps = 0
        self.runs2 = self.runs_all = self.runs_growth = self.growth2 = 0.0

    def note(self, runs: int, all_runs: int, growth: int) -> None:
        """A gap with ``runs`` of this task among ``all_runs``."""
        self.gaps += 1
        self.runs2 += runs * runs / all_runs
        self.runs_all += runs
        self.runs_growth += runs * growth / all_runs
        self.growth2 += growth * growth / all_runs

    def add(self, other: Slope) -> None:
        """Those gaps too."""
        self.gaps += other.gaps
        self.runs2 += other.runs2
        self.runs_all += other.runs_all
        self.runs_growth += other.runs_growth
        self.growth2 += other.growth2

    def against(self, everything: Slope) -> Estimate:
        """Growth = a x runs of this task + b x other runs: what a is.

        Args:
            everything: all gaps, with all runs as the runs.
        """
        xx = self.runs2
        xy = self.runs_all - self.runs2
        yy = everything.runs2 - 2 * self.runs_all + self.runs2
        xg, yg = self.runs_growth, everything.runs_growth - self.runs_growth
        if yy <= _ALIKE * everything.runs2:  # no other task
            xy, yy, yg = 0.0, 1.0, 0.0
        determinant = xx * yy - xy * xy
        free = everything.gaps - 2
        if determinant <= _ALIKE * xx * yy or free < 1:
            return UNKNOWN
        a = (yy * xg - xy * yg) / determinant
        b = (xx * yg - xy * xg) / determinant
        rest = max(0.0, everything.growth2 - a * xg - b * yg)
        return Estimate(a, math.sqrt(rest / free * yy / determinant))
