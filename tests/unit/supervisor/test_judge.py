"""Judge: who is over a limit, by its word; who is interrupted when; who holds too much; and when to look again."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from poolrt.board import RECALL_AFTER_NS, Row
from poolrt.hygiene.memory import LOOK_EVERY_NS, LOOK_SOONEST_NS
from poolrt.states import Activity, ChildState, Interruption
from poolrt.supervisor.judge import (
    STACKS_NS,
    STACKS_OF_A_HOG_NS,
    Interrupt,
    Kill,
    Look,
    Recall,
    judge,
)
from poolrt.supervisor.lifecycle import CHILD, CancelledRun, Child

SECOND = 10**9
MIB = 1 << 20
U64 = st.integers(0, 2**64 - 1)
Make = Callable[..., Child]
MakeRow = Callable[..., Row]


def test_over_its_limit(make_child: Make, make_row: MakeRow) -> None:
    """A task past its hard deadline condemns its child, by the word that was read, with both numbers in the cause."""
    child = make_child()
    kills, interrupts, recalls, wake = judge([Look(child, make_row(Activity.RUN), 77, 0)], 4 * SECOND, 9 * SECOND)
    assert kills == [Kill(child, 77, "TimeLimitExceeded: ran 3.00 s, its limit is 2s", STACKS_NS)]
    assert (interrupts, recalls, wake) == ([], [], 9 * SECOND)


def test_at_its_limit(make_child: Make, make_row: MakeRow) -> None:
    """The deadline itself is over the limit; a nanosecond before is not."""
    looks = [Look(make_child(), make_row(Activity.RUN), 1, 0)]
    assert judge(looks, 3 * SECOND, 9 * SECOND).kills
    assert judge(looks, 3 * SECOND - 1, 9 * SECOND) == ([], [], [], 3 * SECOND)


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
    assert judge(looks, 10**18, 2 * 10**18) == ([], [], [], 2 * 10**18)


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
            assert found == ([], [], [], now + wait)


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
        assert judge([Look(child, row, 1, 0)], due - 1, 99 * SECOND) == ([], [], [], due)
        kills, interrupts, _, wake = judge([Look(child, row, 1, 0)], due, 99 * SECOND)
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
    kills, interrupts, _, _ = judge([Look(make_child(), row, 1, 0)], 4 * SECOND, 9 * SECOND)
    assert (len(kills), interrupts) == (1, [])


def test_a_stop_interrupts_what_runs(make_child: Make, make_row: MakeRow) -> None:
    """Once the node must stop, a run without any limit is interrupted for that; also one that began afterwards."""
    child = make_child()
    child.stop_since = 5 * SECOND
    for started in (1, 6):
        row = make_row(Activity.RUN, hard=0)._replace(started=started * SECOND)
        (found,) = judge([Look(child, row, 1, 0)], 6 * SECOND, 9 * SECOND).interrupts
        assert found.reason is Interruption.STOP


def test_a_cancelled_run(make_child: Make, make_row: MakeRow) -> None:
    """It is interrupted in stages, before any other reason; then it is killed, also by a limit, to be cancelled."""
    child = make_child()
    row = make_row(Activity.RUN, hard=0, soft=2 * SECOND)
    child.stop_since = 4 * SECOND
    child.cancelled = CancelledRun(row.sequence, 5 * SECOND, 10 * SECOND)
    kills, interrupts, _, wake = judge([Look(child, row, 1, 0)], 5 * SECOND, 99 * SECOND)
    assert (kills, interrupts) == ([], [Interrupt(child, row.sequence, Interruption.CANCEL)])
    assert wake == 5 * SECOND + 100_000_000
    child.signalled = (row.sequence, 9)
    assert judge([Look(child, row, 1, 0)], 10 * SECOND - 1, 99 * SECOND) == ([], [], [], 10 * SECOND)
    (kill,) = judge([Look(child, row, 7, 0)], 10 * SECOND, 99 * SECOND).kills
    assert kill == Kill(child, 7, "TaskCancelled: it had not ended within cancel_grace", 0, "cancelled")
    (kill,) = judge([Look(child, row._replace(hard_deadline=6 * SECOND), 7, 0)], 7 * SECOND, 99 * SECOND).kills
    assert (kill.verdict, kill.cause.partition(":")[0]) == ("cancelled", "TimeLimitExceeded")


def test_a_cancel_of_an_earlier_run_does_not_hold(make_child: Make, make_row: MakeRow) -> None:
    """The next run goes on, and what ends it has failed."""
    child = make_child()
    row = make_row(Activity.RUN)
    child.cancelled = CancelledRun(row.sequence - 1, SECOND, 2 * SECOND)
    assert judge([Look(child, row, 1, 0)], 3 * SECOND - 1, 99 * SECOND) == ([], [], [], 3 * SECOND)
    (kill,) = judge([Look(child, row, 1, 0)], 3 * SECOND, 99 * SECOND).kills
    assert kill.verdict == "failed"


HELD = pytest.mark.parametrize("more", [{"held": 2}, {"last_reserve": 6}], ids=["holds two", "has sent a reserve"])


@HELD
def test_what_is_held_behind_a_long_run_is_recalled(make_child: Make, make_row: MakeRow, more: dict[str, int]) -> None:
    """From 100 ms on, by the word that was read; before that the next look is just then."""
    child = make_child(ChildState.RETIRING)
    looks = [Look(child, make_row(Activity.RUN, hard=0, **more), 77, 0)]
    due = SECOND + RECALL_AFTER_NS
    assert judge(looks, due - 1, 9 * SECOND) == ([], [], [], due)
    assert judge(looks, due, 9 * SECOND) == ([], [], [Recall(child, 77)], 9 * SECOND)


def test_nothing_is_recalled_from_who_holds_nothing_more(make_child: Make, make_row: MakeRow) -> None:
    """A task may run for days while nobody looks more than once a second."""
    looks = [Look(make_child(), make_row(Activity.RUN, hard=0), 1, 0)]
    assert judge(looks, 10**18, 10**18 + SECOND) == ([], [], [], 10**18 + SECOND)


def test_who_holds_nothing_while_it_waits_is_left_alone(make_child: Make, make_row: MakeRow) -> None:
    """Only a run delays others: what a child that settles or leaves holds is on its way."""
    for activity in Activity:
        if activity is not Activity.RUN:
            look = Look(make_child(), make_row(activity, hard=0, held=2), 1, 0)
            assert not judge([look], 9 * SECOND, 99 * SECOND).recalls


@HELD
def test_a_run_is_recalled_for_once(make_child: Make, make_row: MakeRow, more: dict[str, int]) -> None:
    """What the mark covers is not marked again, the run of the mark or one about to be given up; a later one is."""
    row = make_row(Activity.RUN, hard=0, **more)
    for taken, again in ((row.n - 1, True), (row.n, False), (row.n + 3, False), (1 << 62, False)):
        found = judge([Look(make_child(), row, 1, 0, taken)], 9 * SECOND, 99 * SECOND)
        assert (bool(found.recalls), found.wake) == (again, 99 * SECOND)


def test_who_is_killed_is_not_recalled(make_child: Make, make_row: MakeRow) -> None:
    """Its death puts back what it holds."""
    found = judge([Look(make_child(), make_row(Activity.RUN, held=2), 1, 0)], 9 * SECOND, 99 * SECOND)
    assert (len(found.kills), found.recalls) == (1, [])


def test_between_two_tasks_of_a_batch_the_next_is_expected_to_be_long(make_child: Make, make_row: MakeRow) -> None:
    """A look that falls between two quick tasks is followed by one after 100 ms, as long as batches flow."""
    for activity, wait in (
        (Activity.COMMIT, RECALL_AFTER_NS),
        (Activity.AUDIT, RECALL_AFTER_NS),
        (Activity.IDLE, SECOND),
    ):
        look = Look(make_child(), make_row(activity, hard=0, held=2), 1, 0)
        assert judge([look], 8 * SECOND, 9 * SECOND).wake == 8 * SECOND + wait


@given(n=U64, i=U64, held=U64, last=U64, started=U64, taken=U64)
@example(n=2**60, i=1, held=2, last=2**60, started=0, taken=0)
@example(n=5, i=2**60, held=2, last=5, started=0, taken=0)
@example(n=5, i=1, held=2, last=5000, started=0, taken=0)
def test_no_mark_by_scribbled_numbers(n: int, i: int, held: int, last: int, started: int, taken: int) -> None:
    """A floor above what a broker can count, or far above what was sent, would end a child's work for good."""
    row = Row(Activity.RUN, 1, 0, 0, 0, 0, started, n, i, held, last, 0, 0, 1, 1, "id", "name")
    child = Child(0, 1, CHILD, 0.0)
    for _ in judge([Look(child, row, 1, 0, taken)], 2**64, 2**65).recalls:
        assert taken < n <= last <= n + 1000
        assert max(n, i, last) < 2**53


@given(U64, U64, U64, U64, U64, st.integers(0, 2**50))
def test_scribbled_cells_are_judged_safely(
    hard: int, soft: int, memory: int, started: int, now: int, rss: int
) -> None:  # fmt: skip
    """Whatever a task wrote over its cells, judging raises nothing, and condemns by its deadline and limit alone."""
    child = Child(0, 1, CHILD, 0.0)
    child.state = ChildState.UP
    row = Row(Activity.RUN, 1, hard, soft, memory, 0, started, 1, 1, 1, 1, 0, 0, 1, 1, "id", "name")
    kills, interrupts, _, wake = judge([Look(child, row, 1, rss)], now, now + SECOND)
    assert bool(kills) is ((hard != 0 and now >= hard) or (memory != 0 and rss > memory))
    assert not interrupts or soft
    assert wake <= now + SECOND
