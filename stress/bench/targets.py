"""What a run must show: bounds on ratios of ours over theirs, both sides taken one after the other in one run."""

import math
import statistics
from dataclasses import dataclass
from typing import NamedTuple

from stress.bench.takes import QUIET_CPUS, Run


@dataclass(frozen=True)
class Target:
    """A bound on ours over theirs. Of several theirs the one with the best median is compared with."""

    measure: str
    number: str
    ours: str
    theirs: tuple[str, ...]
    bound: float
    is_cost: bool = False  # a cost must stay below its bound, anything else above
    their_measure: str = ""  # if it is another
    enough: float = math.inf  # a median of ours from which on the target is met by itself

    @property
    def title(self) -> str:
        """What is compared."""
        return f"{self.measure}, {TITLES[self.number]}"

    @property
    def wanted(self) -> str:
        """The bound, in short."""
        alone = "" if self.enough == math.inf else f" or {self.enough:,.0f}/s"
        return f"{'<=' if self.is_cost else '>='} {self.bound:g}x{alone}"

    def holds(self, ratio: float) -> bool:
        """Whether a ratio is within the bound."""
        return ratio <= self.bound if self.is_cost else ratio >= self.bound


TITLES = {
    "mid_per_s": "tasks/s",
    "per_s": "calls/s",
    "tasks_per_s": "tasks/s to its end",
    "cpu_us": "CPU a task, workers and server",
    "p50_ms": "p50",
    "p99_ms": "p99",
}
AT_LEAST_ONCE = ("dramatiq/p2t1_pf64", "taskiq/stream")
ON_REDIS = ("celery/default", *AT_LEAST_ONCE, "taskiq/list", "huey/redis")
PROBED = ("huey/redis", "taskiq/list", "taskiq/stream")
CELERY = ("celery/default",)

TARGETS = (
    Target("noop", "mid_per_s", "poolrt/sqlite", ("huey/sqlite_nosync",), 2.0),
    Target("noop", "mid_per_s", "poolrt/sqlite", CELERY, 10.0),
    Target("add_results", "mid_per_s", "poolrt/sqlite", CELERY, 10.0, enough=12_000.0),
    Target("recycle10", "mid_per_s", "poolrt/sqlite", CELERY, 20.0),
    Target("noop", "mid_per_s", "poolrt/redis", CELERY, 40.0),
    Target("noop", "mid_per_s", "poolrt/redis", AT_LEAST_ONCE, 5.0),
    Target("noop", "mid_per_s", "poolrt/redis", ("bare/lua64",), 0.5),
    Target("add_results", "mid_per_s", "poolrt/redis", CELERY, 40.0, enough=40_000.0),
    Target("recycle10", "mid_per_s", "poolrt/redis", CELERY, 20.0),
    Target("noop", "cpu_us", "poolrt/redis", CELERY, 0.1, is_cost=True),
    Target("enqueue", "per_s", "poolrt/redis", ON_REDIS, 1.0),
    Target("enqueue_many", "per_s", "poolrt/redis", ON_REDIS, 10.0, their_measure="enqueue"),
    Target("chord", "tasks_per_s", "poolrt/redis", CELERY, 20.0),
    Target("chord", "tasks_per_s", "poolrt/sqlite", CELERY, 20.0),
    Target("chain", "tasks_per_s", "poolrt/redis", CELERY, 5.0),
    Target("chain", "tasks_per_s", "poolrt/sqlite", CELERY, 5.0),
    Target("latency", "p50_ms", "poolrt/redis", PROBED, 1.0, is_cost=True),
    Target("latency", "p99_ms", "poolrt/redis", PROBED, 1.0, is_cost=True),
    Target("latency_6s", "p50_ms", "poolrt/redis", PROBED, 1.0, is_cost=True),
    Target("latency_6s", "p99_ms", "poolrt/redis", PROBED, 1.0, is_cost=True),
)


class Judged(NamedTuple):
    """A target, and what a run says of it."""

    theirs: str
    quiet: list[float]
    """The ratio of each repetition in which both takes were quiet."""
    every: list[float]
    met: bool | None
    """None: no repetition was quiet."""


def judge(run: Run, target: Target) -> Judged | None:
    """Return what the run says, None if it did not take both sides.

    Judged by quiet repetitions alone: others' load slows a peer that forks much more than one that does not.
    """
    measure = target.their_measure or target.measure
    medians = {
        variant: statistics.median(run.values(variant, measure, target.number))
        for variant in target.theirs
        if run.good(variant, measure)
    }
    if not medians or not run.good(target.ours, target.measure):
        return None
    theirs = (min if target.is_cost else max)(medians, key=medians.__getitem__)
    every, quiet = (_ratios(run, target, theirs, most_others) for most_others in (math.inf, QUIET_CPUS))
    met = target.holds(statistics.median(quiet)) if quiet else None
    ours = run.values(target.ours, target.measure, target.number, QUIET_CPUS)
    if ours and statistics.median(ours) >= target.enough:
        met = True
    return Judged(theirs, quiet, every, met)


def _ratios(run: Run, target: Target, theirs: str, most_others: float) -> list[float]:
    """Return ours over theirs for each repetition that has both, if others used that much at most."""
    mine = run.by_repetition(target.ours, target.measure, target.number, most_others)
    other = run.by_repetition(theirs, target.their_measure or target.measure, target.number, most_others)
    return [mine[rep] / other[rep] for rep in sorted(mine.keys() & other.keys())]
