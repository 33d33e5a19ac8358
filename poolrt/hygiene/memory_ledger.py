"""Which task keeps memory: judged by single runs, and by what the process kept from one sample to the next. Pure.

    sample: live bytes before and after one run    ──▶ Tally: who keeps, for sure, but of few runs
    gap:    growth between two samples, and how    ──▶ Slope: growth against runs of the task; of all runs, but
            often each task ran there                         two tasks that always run together look alike

A task is named when at four judgments in a row, 16 samples apart, all of this holds, over all laps but the oldest, in
which everything warms up:

1. **It matters.** Mean x runs is 24 MiB, after 200 runs or more, or 12 MiB after 1,250, or 1 MiB after 1,250 that kept
   something. The common bounds of caches (128, lru_cache's own, and 1,000 or 1,024) are below: such a cache is full
   before, or smaller. Where few runs keep something, at least 140 did.
2. **It is no accident.** At least 3 of 16 samples kept something, and it is 1 KiB a run: without the largest one, or
   by samples and gaps together, where these tell of growth beyond chance.
3. **It goes on.** The newer half of the laps kept as much a run as the older half, less a tenth, by samples and gaps: a
   cache with random keys slows down.
4. **It stays.** Between samples the process grows with the runs of this task, beyond chance and by half as much or
   more: it does not where a run fills a buffer, and another empties it when nobody looks.
5. **Nobody takes it away.** Tasks that free what others left free less than half of it.

With whose runs the process grows between samples is sampled more often: of a leak in one run of fifty the samples show
little, and the gaps, which see all runs, tell early whom to look at.

What is left: a cache that fills evenly beyond 12 MiB, and for more than 1,250 runs, is named while it fills.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple

from poolrt.hygiene.slope import UNKNOWN, Estimate, Slope

if TYPE_CHECKING:
    from collections.abc import Mapping

_ENOUGH: Final = ((24 << 20, 200, 140), (12 << 20, 1250, 140), (1 << 20, 1250, 1250))
"""Bytes, runs, and runs that kept something."""
_LEAST_A_RUN: Final = 1024
"""Bytes; what malloc's thread caches move from one task to another is less, in the mean."""
_SAMPLES: Final = 16
_KEEPING: Final = 3
KEEPS: Final = 1024
"""Bytes from which on a sample counts as one that kept something."""
_GOES_ON: Final = 0.9
_GROWS: Final = 0.5
_TAKEN_AWAY: Final = 0.5
_SURE: Final = 4.0
"""Standard errors."""
_MOST_SEEN: Final = 3
"""Where one run in three is a sample, gaps are too short to tell: the process must have grown as the samples say."""
_HINT: Final = 1.0
_SEVERAL: Final = 1.2
"""Standard errors of a mean beyond which it is not by one sample alone."""
_SUSPICIOUS: Final = 2.0
_JUDGE_EVERY: Final = 16
"""Samples."""
_AGREE: Final = 4
"""Judgments in a row."""
_LAPS: Final = 8
_LAP: Final = 16
"""Samples of a lap at first; it doubles whenever there are eight laps."""
_LONGEST_LAP: Final = 1024
"""All laps must hold 140 leftovers of one run in fifty, where each third run is a sample."""


class Keeper(NamedTuple):
    """A task that keeps memory, as far as samples tell."""

    task: str
    a_run: int
    """Bytes, on average."""
    runs: int
    """Runs that the samples stand for."""
    samples: int
    keeping: int
    """Samples that kept something."""
    size: int
    """Bytes that such a sample kept, on average."""

    @property
    def kept(self) -> int:
        """Bytes kept in all."""
        return self.a_run * self.runs


class _Tally:
    """The samples of one task in one lap, and the gaps in which it ran."""

    __slots__ = ("gained", "keeping", "kept", "kept2", "most", "runs", "samples", "slope")

    def __init__(self) -> None:
        self.runs = self.samples = self.keeping = self.kept = self.kept2 = self.gained = self.most = 0
        self.slope = Slope()

    def begin_anew(self) -> None:
        """Forget the samples, not how the process grows."""
        self.runs = self.samples = self.keeping = self.kept = self.kept2 = self.gained = self.most = 0

    def note(self, runs: int, kept: int) -> None:
        self.runs += runs
        self.samples += 1
        self.kept += kept
        self.kept2 += kept * kept
        if kept >= KEEPS:
            self.keeping += 1
            self.gained += kept
        self.most = max(self.most, kept)

    def add(self, other: _Tally) -> None:
        self.runs += other.runs
        self.samples += other.samples
        self.kept += other.kept
        self.kept2 += other.kept2
        self.keeping += other.keeping
        self.gained += other.gained
        self.most = max(self.most, other.most)
        self.slope.add(other.slope)

    @property
    def a_run(self) -> float:
        """Bytes kept by a run on average."""
        return self.kept / self.samples if self.samples else 0.0

    @property
    def size(self) -> float:
        """Bytes kept by a sample that kept something."""
        return self.gained / self.keeping if self.keeping else 0.0

    @property
    def error(self) -> float:
        """The standard error of `a_run`."""
        return math.sqrt(max(0.0, self.kept2 / self.samples - self.a_run**2) / self.samples) if self.samples else 0.0

    @property
    def total(self) -> float:
        """Bytes kept by all runs that the samples stand for; negative if they freed what others had left."""
        return self.a_run * self.runs

    @property
    def a_run_without_most(self) -> float:
        """`a_run` without the sample that kept most."""
        return (self.kept - self.most) / (self.samples - 1) if self.samples > 1 else 0.0


class _Lap:
    """Some samples in a row, of all tasks, and the gaps before them."""

    __slots__ = ("gaps", "growth", "samples", "tallies")

    def __init__(self) -> None:
        self.growth = self.samples = 0
        self.gaps = Slope()
        """Growth against the runs of all tasks."""
        self.tallies: dict[str, _Tally] = {}

    def add(self, other: _Lap) -> None:
        self.growth += other.growth
        self.samples += other.samples
        self.gaps.add(other.gaps)
        for task, tally in other.tallies.items():
            self.tally(task).add(tally)

    def note_gap(self, runs: Mapping[str, int], growth: int) -> None:
        if all_runs := sum(runs.values()):
            self.gaps.note(all_runs, all_runs, growth)
            for task, count in runs.items():
                self.tally(task).slope.note(count, all_runs, growth)

    def growth_of(self, task: str) -> Estimate:
        """What a run of this task keeps, as samples and gaps tell; infinite error if they do not."""
        tally = self.tallies.get(task)
        if tally is None or not tally.samples:
            return UNKNOWN
        return tally.slope.against(self.gaps).and_of(Estimate(tally.a_run, tally.error))

    def tally(self, task: str) -> _Tally:
        found = self.tallies.get(task)
        if found is None:
            found = self.tallies[task] = _Tally()
        return found


class MemoryLedger:
    """Keeps the samples of one process, and says who keeps memory.

    What it holds itself is bounded: eight laps with a tally for each task.
    """

    def __init__(self) -> None:
        self._laps = [_Lap()]
        self._length = _LAP
        self._live: int | None = None
        self._suspected: dict[str, int] = {}
        """Whom the last judgment suspected, and how many in a row did."""
        self._growing: set[str] = set()
        """With whose runs the process grew between samples."""
        self._times: dict[str, int] = {}
        """How often tasks were named: each time twice the memory is needed."""

    def note(self, task: str, runs: int, before: int, after: int, gap: Mapping[str, int]) -> bool:
        """Take note of a sampled run; whether it is time to `judge`.

        Args:
            runs: the runs of this task since its last sample, this one included.
            before, after: live bytes at both ends.
            gap: the runs of every task between the last sample of any and this one.
        """
        lap = self._laps[-1]
        if self._live is not None:
            lap.growth += after - self._live
            lap.note_gap(gap, before - self._live)
        self._live = after
        lap.samples += 1
        lap.tally(task).note(runs, after - before)
        return not lap.samples % _JUDGE_EVERY

    def judge(self) -> list[Keeper]:
        """Who keeps memory; the next lap begins if it is time. Whoever is named begins anew."""
        laps = self._laps[1:]
        older, newer, both = _sum(laps[: len(laps) // 2]), _sum(laps[len(laps) // 2 :]), _sum(laps)
        runs = {task: tally.runs for task, tally in _sum(self._laps).tallies.items()}
        slopes = {task: tally.slope.against(both.gaps) for task, tally in both.tallies.items()}
        self._growing = {
            task
            for task, slope in slopes.items()
            if slope.is_above(0.0, _SUSPICIOUS) and slope.value >= _GROWS * _LEAST_A_RUN
        }
        suspects = [
            task
            for task, tally in both.tallies.items()
            if _matters(tally, slopes[task], runs[task], 2 ** self._times.get(task, 0))
            and _goes_on(older, newer, task)
            and _stays(tally, slopes[task], both)
        ]
        self._suspected = {task: self._suspected.get(task, 0) + 1 for task in suspects}
        keepers = [
            _keeper(task, both.tallies[task], runs[task], _a_run(both.tallies[task], slopes[task]))
            for task, times in self._suspected.items()
            if times >= _AGREE
        ]
        if self._laps[-1].samples >= self._length:
            self._begin_lap()
        for keeper in keepers:
            self._forget(keeper.task)
            del self._suspected[keeper.task]
            self._times[keeper.task] = self._times.get(keeper.task, 0) + 1
        return keepers

    @property
    def in_first_lap(self) -> bool:
        """Whether no lap is full yet."""
        return len(self._laps) == 1

    def unexplained(self) -> int:
        """Bytes by which the process grew during the last full lap, or so far, but for what named tasks kept."""
        lap = self._laps[0 if self.in_first_lap else -2]
        return lap.growth - int(sum(tally.total for task, tally in lap.tallies.items() if task in self._times))

    def looks_suspicious(self, task: str) -> bool:
        """Whether its last samples kept memory, or the process grew with its runs: more samples would help."""
        tallies = (lap.tallies.get(task) for lap in reversed(self._laps[-2:]))
        tally = next((tally for tally in tallies if tally and tally.samples), None)
        return task in self._growing or (tally is not None and tally.a_run >= _LEAST_A_RUN)

    def most(self) -> Keeper | None:
        """Who kept most, if anyone kept anything: no proof, for a process that must leave now."""
        tallies = _sum(self._laps).tallies
        keepers = [
            _keeper(task, tally, tally.runs, tally.a_run) for task, tally in tallies.items() if tally.keeping > 1
        ]
        return max((keeper for keeper in keepers if keeper.a_run >= KEEPS), key=lambda each: each.kept, default=None)

    def _begin_lap(self) -> None:
        if len(self._laps) == _LAPS:
            if self._length < _LONGEST_LAP:
                self._length *= 2
                self._laps = [_sum(self._laps[at : at + 2]) for at in range(0, _LAPS, 2)]
            else:
                del self._laps[0]
        self._laps.append(_Lap())

    def _forget(self, task: str) -> None:
        """What was said of a task is not to be said again, and is no longer part of the growth."""
        for lap in self._laps:
            if tally := lap.tallies.get(task):
                lap.growth -= int(tally.total)
                tally.begin_anew()


def _sum(laps: list[_Lap]) -> _Lap:
    total = _Lap()
    for lap in laps:
        total.add(lap)
    return total


def _keeper(task: str, tally: _Tally, runs: int, a_run: float) -> Keeper:
    return Keeper(task, int(a_run), runs, tally.samples, tally.keeping, int(tally.size))


def _a_run(tally: _Tally, slope: Estimate) -> float:
    """Bytes kept by a run: by the samples, and by the gaps too where these are sure that it is something."""
    if not slope.is_above(0.0, _SURE):
        return tally.a_run
    return slope.and_of(Estimate(tally.a_run, tally.error)).value


def _matters(tally: _Tally, slope: Estimate, all_runs: int, times: int) -> bool:
    """Rules 1 and 2."""
    if tally.samples < _SAMPLES or tally.keeping < _KEEPING:
        return False
    a_run = _a_run(tally, slope)
    if tally.a_run_without_most < _LEAST_A_RUN and not slope.is_above(0.0, _SURE):
        return False
    leftovers = a_run * all_runs / tally.size
    return a_run >= _LEAST_A_RUN and any(
        a_run * tally.runs >= times * bytes_ and all_runs >= runs and leftovers >= left
        for bytes_, runs, left in _ENOUGH
    )


def _goes_on(older: _Lap, newer: _Lap, task: str) -> bool:
    """Rule 3."""
    before, now = older.growth_of(task), newer.growth_of(task)
    return now is not UNKNOWN and now.value >= _GOES_ON * before.value


def _stays(tally: _Tally, slope: Estimate, lap: _Lap) -> bool:
    """Rules 4 and 5."""
    freed = -sum(
        other.total
        for other in lap.tallies.values()
        if Estimate(other.a_run, other.error).is_below(0.0, _SEVERAL)
        and other.slope.against(lap.gaps).is_below(0.0, _HINT)
    )
    if freed > _TAKEN_AWAY * tally.total:
        return False
    if tally.samples * _MOST_SEEN > tally.runs:
        return lap.growth >= _GROWS * tally.kept
    return slope.is_above(0.0, _SURE) and slope.value >= _GROWS * tally.a_run
