"""The curve of a child's last seconds."""

from __future__ import annotations

import pytest

from poolrt.supervisor import rss_curve
from poolrt.supervisor.rss_curve import RssCurve

MS = 1_000_000


@pytest.fixture
def now(monkeypatch):
    """``now[0]`` is CLOCK_MONOTONIC, in ns."""
    moment = [10**9]
    monkeypatch.setattr(rss_curve.time, "monotonic_ns", lambda: moment[0])
    return moment


def test_the_last_reading_is_always_there(now):
    """Readings in quick succession are thinned to ten a second, and the newest replaces the one before it."""
    curve = RssCurve()
    for step in range(101):
        curve.note(10**9 + step * 5 * MS, 1000 + step)
    now[0] = 10**9 + 500 * MS
    points = curve.points()
    assert points[0] == (0.5, 1000)
    assert points[-1] == (0.0, 1100)
    assert 5 <= len(points) <= 8


def test_it_is_bounded(now):
    """Forty points, the newest."""
    curve = RssCurve()
    for second in range(100):
        curve.note(second * 1000 * MS, second + 1)
    assert [size for _, size in curve.points()] == list(range(61, 101))


def test_a_process_that_has_ended_is_no_point():
    """0 is read of a zombie: it is not what the task had."""
    curve = RssCurve()
    curve.note(1, 0)
    assert curve.points() == ()


def test_when_one_more_reading_is_due():
    """At first, and half a second after the last one."""
    curve = RssCurve()
    assert curve.is_due(0)
    curve.note(0, 1)
    assert not curve.is_due(499 * MS)
    assert curve.is_due(500 * MS)
