"""Pace: learnt by name, unknown ones alone, and never more than 20 ms of expected work."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolrt.child.pace import BATCH_SECONDS, MAX_BATCH, Pace


def test_an_unknown_task_is_held_alone() -> None:
    """Nobody knows how long it takes, so nothing waits behind it."""
    pace = Pace()
    assert pace.ask_for() == 1
    assert pace.expected("new") == BATCH_SECONDS
    assert pace.keep(["new", "new"]) == 1
    pace.learn("short", 0.0001)
    assert pace.keep(["new", "short"]) == 1
    assert pace.keep(["short", "new"]) == 1


def test_a_longer_run_is_believed_by_half_a_shorter_one_by_a_tenth() -> None:
    """One slow run shrinks the batch, but by no more than a busy machine would make of it; four tell the truth."""
    pace = Pace()
    pace.learn("t", 0.001)
    pace.learn("t", 0.002)
    assert pace.expected("t") == pytest.approx(0.0015)
    pace.learn("t", 0.0)
    assert pace.expected("t") == pytest.approx(0.00135)
    pace.learn("short", 0.00001)
    pace.learn("short", 0.5)
    assert pace.expected("short") < 0.0001
    for _ in range(3):
        pace.learn("short", 0.5)
    assert pace.expected("short") > 0.005


def test_an_overrun_is_believed_and_outgrown() -> None:
    """The next batch is of one; quick runs bring large ones back soon."""
    pace = Pace()
    pace.learn("t", 0.00001)
    for _ in range(4):
        pace.keep(["t"] * pace.ask_for())
    pace.believe("t", 0.08)
    assert (pace.expected("t"), pace.ask_for()) == (0.08, 1)
    for _ in range(12):
        pace.learn("t", 0.00001)
    assert pace.expected("t") < 0.005


def test_short_tasks_are_asked_for_in_growing_batches() -> None:
    """While batches come full and fit the budget, the next one is four times as large, up to its most."""
    pace = Pace()
    pace.learn("t", 0.00001)
    asked = []
    for _ in range(9):
        asked.append(pace.ask_for())
        assert pace.keep(["t"] * pace.ask_for()) == asked[-1]
    assert asked == [1, 4, 16, 64, 64, 64, 64, 64, 64]


def test_a_first_run_counts_before_the_next_reserve() -> None:
    """A name that was unknown when it was taken is known when the next batch is asked for: no batch is lost to it."""
    pace = Pace()
    assert pace.keep(["t"] * pace.ask_for()) == 1
    pace.learn("t", 0.00001)
    assert pace.ask_for() == 4


def test_long_tasks_are_not_asked_for_in_growing_batches() -> None:
    """What was learnt of the last batch bounds the next: six tasks of 3 ms, not sixteen."""
    pace = Pace()
    pace.learn("t", 0.003)
    for _ in range(5):
        pace.keep(["t"] * pace.ask_for())
    assert pace.ask_for() == 6


def test_a_batch_that_is_not_full_does_not_grow() -> None:
    """An idle queue teaches nothing about how much to take."""
    pace = Pace()
    pace.learn("t", 0.00001)
    pace.keep(["t"])
    assert pace.ask_for() == 4
    for _ in range(5):
        pace.keep(["t"])
    assert pace.ask_for() == 4


def test_tasks_of_eight_ms_are_held_in_pairs() -> None:
    """As many as fit in 20 ms are kept, and only so many are asked for next."""
    pace = Pace()
    pace.learn("t", 0.008)
    assert pace.keep(["t"] * 10) == 2
    assert pace.ask_for() == 2


def test_a_long_task_is_kept_all_the_same() -> None:
    """At least one is kept, however long it takes."""
    pace = Pace()
    pace.learn("t", 60.0)
    assert pace.keep(["t"]) == 1
    assert pace.keep(["t"] * 5) == 1
    assert pace.ask_for() == 1


NAMES = st.sampled_from("abcde")


@given(
    st.lists(st.tuples(NAMES, st.floats(0, 0.1))),
    st.lists(st.lists(NAMES, min_size=1, max_size=80), min_size=1, max_size=10),
)
def test_never_above_its_bounds(learnt: list[tuple[str, float]], batches: list[list[str]]) -> None:
    """Whatever was learnt and reserved: 1 to 64 are asked for, and what is kept is one or fits in 20 ms."""
    pace = Pace()
    for name, seconds in learnt:
        pace.learn(name, seconds)
    for names in batches:
        kept = pace.keep(names)
        assert 1 <= kept <= len(names)
        assert kept == 1 or sum(map(pace.expected, names[:kept])) <= BATCH_SECONDS
        assert 1 <= pace.ask_for() <= MAX_BATCH
