"""Judge: exactly the children over their hard limit, with their word, and when to look again."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from poolrt.board import Row
from poolrt.states import Activity, ChildState
from poolrt.supervisor.judge import Condemned, judge
from poolrt.supervisor.lifecycle import CHILD, Child

SECOND = 10**9
U64 = st.integers(0, 2**64 - 1)


def test_over_its_limit(make_child: Callable[..., Child], make_row: Callable[..., Row]) -> None:
    """A task past its hard deadline condemns its child, by the word that was read, with both numbers in the cause."""
    child = make_child()
    condemned, latest = judge([(child, make_row(Activity.RUN), 77)], 4 * SECOND, 9 * SECOND)
    assert condemned == [Condemned(child, 77, "TimeLimitExceeded: ran 3.00 s, its limit is 2s")]
    assert latest == 9 * SECOND


def test_at_its_limit(make_child: Callable[..., Child], make_row: Callable[..., Row]) -> None:
    """The deadline itself is over the limit; a nanosecond before is not."""
    rows = [(make_child(), make_row(Activity.RUN), 1)]
    assert judge(rows, 3 * SECOND, 9 * SECOND)[0]
    assert judge(rows, 3 * SECOND - 1, 9 * SECOND) == ([], 3 * SECOND)


def test_the_next_look_is_the_earliest_deadline(make_child: Callable[..., Child], make_row: Callable[..., Row]) -> None:
    """With several running, the supervisor looks again when the first of them is due."""
    rows = [
        (make_child(slot=slot), make_row(Activity.RUN, hard=hard * SECOND), 1) for slot, hard in enumerate((8, 6, 7))
    ]
    assert judge(rows, 5 * SECOND, 9 * SECOND) == ([], 6 * SECOND)
    assert judge(rows, 5 * SECOND, 5 * SECOND + 1) == ([], 5 * SECOND + 1)


def test_only_running_tasks_have_limits(make_child: Callable[..., Child], make_row: Callable[..., Row]) -> None:
    """A child between tasks, and a task without a limit, are never over one, whatever stands in the row."""
    rows = [(make_child(), make_row(activity), 1) for activity in Activity if activity is not Activity.RUN]
    rows.append((make_child(), make_row(Activity.RUN, hard=0), 1))
    assert judge(rows, 10**18, 2 * 10**18) == ([], 2 * 10**18)


@given(U64, U64, U64)
def test_scribbled_times_are_judged_safely(hard: int, started: int, now: int) -> None:
    """Whatever a task wrote over its times, judging raises nothing, and condemns by the deadline alone."""
    child = Child(0, 1, CHILD, 0.0)
    child.state = ChildState.UP
    row = Row(Activity.RUN, 1, hard, started, 1, 1, 1, 0, 0, 1, 1, "id", "name")
    condemned, latest = judge([(child, row, 1)], now, now + SECOND)
    assert bool(condemned) is (hard != 0 and now >= hard)
    assert latest <= now + SECOND
