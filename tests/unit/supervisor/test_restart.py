"""When to start again, and when to give up."""

from __future__ import annotations

import pytest

from poolrt.clock import FakeClock
from poolrt.settings import Burst
from poolrt.supervisor.restart import Backoff, Breaker


def test_pauses_grow_to_their_most() -> None:
    """Each failure in a row doubles the pause, up to 15 s, however many there are."""
    clock, backoff = FakeClock(), Backoff()
    pauses = [backoff.failed(clock.monotonic()) for _ in range(8)]
    assert pauses == [0.5, 1, 2, 4, 8, 15, 15, 15]
    backoff.failures = 10_000
    assert backoff.failed(clock.monotonic()) == 15


def test_a_pause_passes() -> None:
    """What remains of a pause shrinks with the clock, and is never negative."""
    clock, backoff = FakeClock(), Backoff()
    assert backoff.remaining(clock.monotonic()) == 0
    backoff.failed(clock.monotonic())
    backoff.failed(clock.monotonic())
    assert backoff.remaining(clock.monotonic()) == 1
    clock.advance(0.75)
    assert backoff.remaining(clock.monotonic()) == 0.25
    clock.advance(5)
    assert backoff.remaining(clock.monotonic()) == 0


def test_a_success_ends_the_pause_and_the_growth() -> None:
    """After a success there is no pause left, and the next failure is a first one."""
    clock, backoff = FakeClock(), Backoff()
    for _ in range(5):
        backoff.failed(clock.monotonic())
    backoff.succeeded()
    assert backoff.remaining(clock.monotonic()) == 0
    assert backoff.failed(clock.monotonic()) == 0.5


def test_wall_time_does_not_matter() -> None:
    """An administrator who sets the clock changes no pause."""
    clock, backoff = FakeClock(), Backoff()
    backoff.failed(clock.monotonic())
    clock.jump_wall(-86400)
    assert backoff.remaining(clock.monotonic()) == 0.5


@pytest.mark.parametrize("limit", [1, 2, 6])
def test_the_breaker_gives_up_at_its_limit(limit: int) -> None:
    """The death that makes it so many within the time is one too many, no earlier one."""
    clock, breaker = FakeClock(), Breaker(Burst(limit, 45.0))
    for death in range(1, limit + 1):
        assert breaker.died_early(clock.monotonic()) is (death == limit)
        clock.advance(1)


def test_old_deaths_are_forgotten() -> None:
    """Deaths spread wider than the time never add up, and those at its very edge still do."""
    clock, breaker = FakeClock(), Breaker(Burst(3, 45.0))
    for _ in range(20):
        assert not breaker.died_early(clock.monotonic())
        clock.advance(23)
    breaker = Breaker(Burst(3, 45.0))
    assert [breaker.died_early(moment) for moment in (0.0, 22.5, 45.0)] == [False, False, True]


def test_a_child_that_worked_ends_the_row() -> None:
    """Only deaths in a row count."""
    clock, breaker = FakeClock(), Breaker(Burst(2, 45.0))
    for _ in range(5):
        assert not breaker.died_early(clock.monotonic())
        breaker.worked()
