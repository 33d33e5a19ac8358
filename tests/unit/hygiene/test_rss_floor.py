"""The floor of the resident size, and how many runs are left below the ceiling."""

from __future__ import annotations

import random

from poolrt.hygiene.rss_floor import RssFloor

MIB = 1 << 20


def after(runs, rss_of):
    floor = RssFloor()
    for run in range(runs):
        floor.note(int(rss_of(run)))
    return floor


def test_a_leak_below_peaks_is_its_slope() -> None:
    """Peaks of up to 40 MiB at each run hide 100 KiB a run from a look at any two runs, not from the floor."""
    rng = random.Random(3)
    floor = after(1000, lambda run: 100 * MIB + run * 100 * 1024 + rng.choice((0, 4, 40)) * MIB)
    assert 80 * 1024 < floor.slope < 120 * 1024
    left = floor.runs_left(300 * MIB)
    assert left is not None
    assert 900 < left < 1300


def test_it_leaves_before_the_wall_and_says_why() -> None:
    """Less than 200 runs are left: the reason has the pace, the runs and the ceiling."""
    floor = after(1000, lambda run: 100 * MIB + run * 100 * 1024)
    assert floor.should_recycle(300 * MIB) == ""
    reason = floor.should_recycle(200 * MIB)
    assert reason.startswith("memory rises by 100.0 KiB a run: ")
    assert reason.endswith("more runs to max_memory_per_child of 200.0 MiB")


def test_what_stands_still_is_never_at_the_wall() -> None:
    """A full cache, peaks, and a heap that falls: no slope that counts, however near the ceiling is."""
    for rss in (
        lambda run: min(run, 250) * 512 * 1024,
        lambda run: 100 * MIB + (run % 7) * MIB,
        lambda run: 200 * MIB - run * 1024,
        lambda run: 100 * MIB + (run // 300) * MIB,
    ):
        floor = after(1000, rss)
        assert floor.runs_left(200 * MIB) is None
        assert floor.should_recycle(200 * MIB) == ""


def test_nothing_is_said_before_five_windows() -> None:
    """A start is no slope."""
    floor = after(499, lambda run: run * MIB)
    assert (floor.slope, floor.runs_left(1000 * MIB)) == (0.0, None)


def test_a_window_needs_readings_not_only_runs() -> None:
    """Where a reading stands for many runs there is no floor before ten of them."""
    floor = RssFloor()
    assert [floor.note(MIB, runs=500) for _ in range(10)] == [False] * 9 + [True]
