"""When another node's lease is over, on a clock that only moves when told."""

from __future__ import annotations

import pytest

from poolrt.steward.beats import Beats, Expired

LEASE = 10.0
STEP = LEASE / 5


class Watch:
    """A rescuer that renews each 2 s."""

    def __init__(self) -> None:
        self.beats = Beats(LEASE, "own")
        self.now = 1000.0
        self.others: dict[str, int] = {"other": 7}

    def look(self, after: float = STEP, *, took: float = 0.0) -> list[Expired]:
        """Let time pass, then renew; the answer takes ``took`` seconds."""
        asked = self.now + after
        self.now = asked + took
        return self.beats.learn({"own": 1, **self.others}, asked, self.now)

    def looks(self, count: int) -> list[list[Expired]]:
        return [self.look() for _ in range(count)]


@pytest.fixture
def watch() -> Watch:
    """One that has seen beat 7 of ``other`` at this moment."""
    watch = Watch()
    assert watch.look() == []
    return watch


def test_a_silent_node_expires_after_a_whole_lease(watch: Watch) -> None:
    """Not at four fifths of it; then with the beat it stands at."""
    assert watch.looks(4) == [[]] * 4
    assert watch.look() == [Expired("other", 7)]


def test_it_is_told_until_it_is_gone(watch: Watch) -> None:
    """A rescue that did not reach the broker is tried again; one that did ends the watch."""
    watch.looks(5)
    assert watch.look() == [Expired("other", 7)]
    watch.others.clear()
    assert watch.look() == []


def test_a_beat_that_moves_begins_its_watch_again(watch: Watch) -> None:
    """Only the time since the present beat was first seen counts."""
    watch.looks(4)
    watch.others["other"] = 8
    assert watch.looks(5) == [[]] * 5
    assert watch.look() == [Expired("other", 8)]


def test_a_beat_that_went_back_is_another_one(watch: Watch) -> None:
    """A server that lost its last second gives an older number: the node renewed, or will."""
    watch.looks(4)
    watch.others["other"] = 6
    assert watch.looks(5) == [[]] * 5


def test_a_live_neighbour_is_left_alone(watch: Watch) -> None:
    """Each is watched by itself."""
    for beat in range(20):
        watch.others["lively"] = beat
        expired = watch.look()
    assert expired == [Expired("other", 7)]


def test_who_holds_without_being_registered_is_watched_alike(watch: Watch) -> None:
    """Its beat is 0 and never moves."""
    watch.others["lost"] = 0
    assert watch.looks(5)[-1] == [Expired("other", 7)]
    assert Expired("lost", 0) in watch.look()


def test_after_a_gap_everybody_is_watched_for_a_lease_again(watch: Watch) -> None:
    """A rescuer that was stopped for an hour has watched nobody: the whole machine may have been."""
    watch.looks(4)
    assert watch.look(3600.0) == []
    assert watch.looks(4) == [[]] * 4
    assert watch.look() == [Expired("other", 7)]


def test_the_longest_pause_of_a_busy_steward_is_no_gap(watch: Watch) -> None:
    """Calls that take all of their time must not make rescues impossible."""
    looks = [watch.look(STEP * 2.6) for _ in range(4)]
    assert looks[-1] == [Expired("other", 7)]


def test_slow_answers_count_against_the_rescuer(watch: Watch) -> None:
    """First seen when the answer was there; still standing when the question was sent."""
    watch.others["other"] = 8
    watch.look(took=1.0)
    assert watch.look(STEP - 1.0) == []
    assert watch.looks(3) == [[]] * 3
    assert watch.look(2.5, took=1.0) == []
    assert watch.look(0.1) == [Expired("other", 8)]


def test_a_node_that_came_back_is_new(watch: Watch) -> None:
    """Gone for one look, its former watch is forgotten."""
    watch.looks(4)
    beat = watch.others.pop("other")
    watch.look()
    watch.others["other"] = beat
    assert watch.looks(5) == [[]] * 5


def test_it_does_not_judge_its_own_node() -> None:
    """Its own beat is the broker's affair."""
    beats = Beats(LEASE, "own")
    for step in range(20):
        assert beats.learn({"own": 3}, step * STEP, step * STEP) == []
