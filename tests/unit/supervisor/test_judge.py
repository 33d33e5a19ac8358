"""Judge: exactly the children over a limit, with their word; who is to be interrupted when; and when to look again."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from poolrt.board import Row
from poolrt.hygiene.memory import LOOK_EVERY_NS, LOOK_SOONEST_NS
from poolrt.states import Activity, ChildState, Interruption
from poolrt.supervisor.judge import STACKS_NS, STACKS_OF_A_HOG_NS, Interrupt, Kill, Look, judge
from poolrt.supervisor.lifecycle import CHILD, Child

SECOND = 10**9
MIB = 1 << 20
U64 = st.integers(0, 2**64 - 1)
Make = Callable[..., Child]
MakeRow = Callable[..., Row]


def test_over_its_limit(make_child: Make, make_row: MakeRow) -> None:
    """A task past its hard deadline condemns its child, by the word that was read, with both numbers in the cause."""
    child = make_child()
    kills, interrupts, wake = judge([Look(child, make_row(Activity.RUN), 77, 0)], 4 * SECOND, 9 * SECOND)
    assert kills == [Kill(child, 77, "TimeLimitExceeded: ran 3.00 s, its limit is 2s", STACKS_NS)]
    assert (interrupts, wake) == ([], 9 * SECOND)


def test_at_its_limit(make_child: Make, make_row: MakeRow) -> None:
    """The deadline itself is over the limit; a nanosecond before is not."""
    looks = [Look(make_child(), make_row(Activity.RUN), 1, 0)]
    assert judge(looks, 3 * SECOND, 9 * SECOND).kills
    assert judge(looks, 3 * SECOND - 1, 9 * SECOND) == ([], [], 3 * SECOND)


def test_the_next_look_is_the_earliest_deadline(make_child: Make, make_row: MakeRow) -> None:
    """With several running, the supervisor looks again when the first of them is due."""
    looks = [
        Look(make_child(slot=slot), make_row(Activity.RUN, hard=hard * SECOND), 1, 0)
        for slot, hard in enumerate((8, 6, 7))
    ]
    assert judge(looks, 5 * SECOND, 9 * SECOND).wake == 6 * SECOND
    assert judge(looks, 5 * SECOND, 5 * SECOND + 1).wake == 5 * SECOND + 1


def test_only_running_tasks_have_limits(make_child: Make, make_row: MakeRow) -> None:
    """A child between tasks, and a task without a limit, are never over one, whatever stands in the row."""
    between = (Activity.COMMIT, Activity.AUDIT)
    looks = [
        Look(make_child(), make_row(activity, soft=1, memory=1), 1, 2)
        for activity in Activity
        if activity is not Activity.RUN and activity not in between
    ]
    looks.append(Look(make_child(), make_row(Activity.RUN, hard=0), 1, 10**12))
    assert judge(looks, 10**18, 2 * 10**18) == ([], [], 2 * 10**18)


def test_between_two_tasks_the_next_is_expected_to_be_like_the_last(make_child: Make, make_row: MakeRow) -> None:
    """A look that falls between two quick tasks is followed by one in time for the next; it need not poke."""
    now = 8 * SECOND
    for activity in (Activity.COMMIT, Activity.AUDIT):
        for limits, wait in (
            ({"hard": 3 * SECOND}, 2 * SECOND),
            ({"hard": 3 * SECOND, "soft": 2 * SECOND}, SECOND),
            ({"hard": 0, "memory": MIB}, LOOK_EVERY_NS),
            ({"hard": 0}, 9 * SECOND),
            ({"hard": SECOND + 1}, LOOK_SOONEST_NS),
        ):
            found = judge([Look(make_child(), make_row(activity, **limits), 1, 0)], now, now + 9 * SECOND)
            assert found == ([], [], now + wait)


def test_over_its_memory_limit(make_child: Make, make_row: MakeRow) -> None:
    """A child above the limit of its task is condemned, with both sizes; its stacks are waited for only shortly."""
    child = make_child()
    row = make_row(Activity.RUN, hard=0, memory=256 * MIB)
    (kill,) = judge([Look(child, row, 5, 300 * MIB)], 2 * SECOND, 9 * SECOND).kills
    assert kill.cause == "MemoryLimitExceeded: its child has 300.0 MiB, its limit is 256.0 MiB"
    assert (kill.word, kill.patience) == (5, STACKS_OF_A_HOG_NS)
    assert not judge([Look(child, row, 5, 256 * MIB)], 2 * SECOND, 9 * SECOND).kills


def test_memory_is_looked_at_sooner_when_little_is_left(make_child: Make, make_row: MakeRow) -> None:
    """The less room a task has, the sooner the next look, within bounds: at full speed it must not fill it unseen."""
    row = make_row(Activity.RUN, hard=0, memory=256 * MIB)
    now = 2 * SECOND
    waits = [
        judge([Look(make_child(), row, 1, rss * MIB)], now, 9 * SECOND).wake - now for rss in (20, 200, 216, 236, 256)
    ]
    assert waits == sorted(waits, reverse=True)
    assert (waits[0], waits[-1]) == (LOOK_EVERY_NS, LOOK_SOONEST_NS)
    assert LOOK_SOONEST_NS < waits[3] < LOOK_EVERY_NS


def test_past_its_soft_limit(make_child: Make, make_row: MakeRow) -> None:
    """The run is interrupted at its soft deadline, again 100 ms and a second later, then each second; not before."""
    child = make_child()
    row = make_row(Activity.RUN, hard=0, soft=3 * SECOND)
    expected = [3 * SECOND, 3 * SECOND + 100_000_000, 4 * SECOND, 5 * SECOND, 6 * SECOND]
    for count, due in enumerate(expected):
        child.signalled = (row.sequence, count)
        assert judge([Look(child, row, 1, 0)], due - 1, 99 * SECOND) == ([], [], due)
        kills, interrupts, wake = judge([Look(child, row, 1, 0)], due, 99 * SECOND)
        assert (kills, interrupts) == ([], [Interrupt(child, row.sequence, Interruption.SOFT_LIMIT)])
        assert wake == [*expected, 7 * SECOND][count + 1]


def test_a_count_of_another_run_does_not_hold(make_child: Make, make_row: MakeRow) -> None:
    """What was signalled for an earlier run says nothing of this one."""
    child = make_child()
    row = make_row(Activity.RUN, hard=0, soft=3 * SECOND)
    child.signalled = (row.sequence - 1, 3)
    assert judge([Look(child, row, 1, 0)], 3 * SECOND, 9 * SECOND).interrupts


def test_the_hard_limit_goes_before_the_soft_one(make_child: Make, make_row: MakeRow) -> None:
    """A task past both is killed, not interrupted once more."""
    row = make_row(Activity.RUN, soft=2 * SECOND)
    kills, interrupts, _ = judge([Look(make_child(), row, 1, 0)], 4 * SECOND, 9 * SECOND)
    assert (len(kills), interrupts) == (1, [])


def test_a_stop_interrupts_what_runs(make_child: Make, make_row: MakeRow) -> None:
    """Once the node must stop, a run without any limit is interrupted for that; also one that began afterwards."""
    child = make_child()
    child.stop_since = 5 * SECOND
    for started in (1, 6):
        row = make_row(Activity.RUN, hard=0)._replace(started=started * SECOND)
        (found,) = judge([Look(child, row, 1, 0)], 6 * SECOND, 9 * SECOND).interrupts
        assert found.reason is Interruption.STOP


@given(U64, U64, U64, U64, U64, st.integers(0, 2**50))
def test_scribbled_cells_are_judged_safely(
    hard: int, soft: int, memory: int, started: int, now: int, rss: int
) -> None:  # fmt: skip
    """Whatever a task wrote over its cells, judging raises nothing, and condemns by its deadline and limit alone."""
    child = Child(0, 1, CHILD, 0.0)
    child.state = ChildState.UP
    row = Row(Activity.RUN, 1, hard, soft, memory, 0, started, 1, 1, 1, 0, 0, 1, 1, "id", "name")
    kills, interrupts, wake = judge([Look(child, row, 1, rss)], now, now + SECOND)
    assert bool(kills) is ((hard != 0 and now >= hard) or (memory != 0 and rss > memory))
    assert not interrupts or soft
    assert wake <= now + SECOND
