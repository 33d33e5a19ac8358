"""Rates: totals seen at moments become how many a second, now and over the last minute."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolrt.top.rates import BARS, SPAN, History


def look(done, failed=0, incarnation="i"):
    """A status that holds only what is counted."""
    return {"incarnation": incarnation, "totals": {"done": done, "failed": failed}}


def seen(*looks):
    """The rates after looks of (moment, done)."""
    history = History()
    for moment, done in looks:
        history.add(moment, look(done))
    return history.rates()["done"]


def test_the_number_is_the_rate_of_the_last_seconds():
    """What happened more than five seconds ago does not count any more."""
    assert seen((0.0, 0), (1.0, 1000), (2.0, 1000), (4.0, 1000), (6.0, 1000), (8.0, 1060)).now == 10.0


def test_nothing_is_known_after_one_look():
    """One look has no rate, and no bar; so has none at all."""
    assert History().rates()["failed"].now is None
    rate = seen((100.0, 5))
    assert rate.now is None
    assert rate.line == (None,) * BARS


def test_a_slow_interval_still_has_a_rate():
    """Two looks are enough, also when both are older than the seconds that are averaged."""
    assert seen((0.0, 0), (60.0, 600)).now == 10.0


def test_bars_are_whole_spans_and_the_newest_is_last():
    """Each bar is the rate of its own two seconds; the one that is not over, or began before us, is not shown."""
    line = seen((0.5, 0), (2.0, 15), (4.0, 35), (6.0, 135), (7.0, 999)).line
    assert line[-3:] == (None, 10.0, 50.0)


def test_looks_across_bars_are_shared_out():
    """What happened between two looks is spread evenly over the bars between them, also after a long pause."""
    assert seen((0.0, 0), (12.0, 120), (12.5, 120)).line[-6:] == (10.0,) * 6
    assert seen((0.0, 0), (10_000.0, 10_000), (10_001.0, 10_000)).line == (pytest.approx(1.0),) * BARS


@pytest.mark.parametrize("second", [look(5), look(900, incarnation="j"), {"totals": None}], ids=["less", "new", "none"])
def test_a_restarted_node_begins_anew(second):
    """Totals that fall, or of another start, are no negative rate: nothing is known again."""
    history = History()
    history.add(0.0, look(800))
    history.add(2.0, look(810))
    history.add(4.0, second)
    assert history.rates()["done"] == (None, (None,) * BARS)


@given(st.lists(st.tuples(st.floats(0.05, 30), st.integers(0, 1000)), min_size=2, max_size=60))
def test_bars_add_up_to_what_happened(steps):
    """No task is lost or counted twice between the bars, and memory does not grow with time."""
    history, moment, done = History(), 0.0, 0
    history.add(moment, look(done))
    for pause, more in steps:
        moment, done = moment + pause, done + more
        history.add(moment, look(done))
    assert len(history._bars) <= BARS + 1
    assert all(sums[0] >= 0 for sums in history._bars.values())
    if moment < BARS * SPAN:
        assert sum(sums[0] for sums in history._bars.values()) == pytest.approx(done)


def test_failures_are_counted_beside():
    """Each total has its own rate."""
    history = History()
    history.add(0.0, look(0, 0))
    history.add(2.0, look(100, 4))
    assert (history.rates()["done"].now, history.rates()["failed"].now) == (50.0, 2.0)
