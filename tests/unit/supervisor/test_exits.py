"""What an exit means, row by row of the table in poolrt/supervisor/exits.py."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from poolrt.board import Row
from poolrt.child import main as child_main
from poolrt.states import Activity, ChildState
from poolrt.supervisor import exits
from poolrt.supervisor.exits import EX_BOOT_FAILED, EX_FENCED, Ending, Exit, describe_status, judge_exit
from poolrt.supervisor.lifecycle import Child

UP, RETIRING, STARTING, STANDBY = ChildState.UP, ChildState.RETIRING, ChildState.STARTING, ChildState.STANDBY
CONDEMNED = ChildState.CONDEMNED
RUN, IDLE, COMMIT, LEAVE, NONE, BOOT = (
    Activity.RUN, Activity.IDLE, Activity.COMMIT, Activity.LEAVE, Activity.NONE, Activity.BOOT,
)  # fmt: skip
SEGV, KILL = -signal.SIGSEGV, -signal.SIGKILL


@pytest.mark.parametrize(
    ("state", "activity", "done", "status", "ending", "cause", "verdict", "early"),
    [
        # it left by plan
        (RETIRING, LEAVE, 5, 0, Ending.PLANNED, "its reason", "none", False),
        (RETIRING, LEAVE, 0, 0, Ending.PLANNED, "its reason", "none", False),
        # it died while it ran a task: lost, and no matter for the breaker
        (UP, RUN, 0, SEGV, Ending.CRASHED, "killed by SIGSEGV while running shop.add", "lost", False),
        (UP, RUN, 5, 3, Ending.CRASHED, "exited with code 3 while running shop.add", "lost", False),
        (UP, RUN, 0, 0, Ending.CRASHED, "exited with code 0 while running shop.add", "lost", False),
        (UP, RUN, 0, KILL, Ending.CRASHED, "killed by SIGKILL while running shop.add", "lost", False),
        (RETIRING, RUN, 5, SEGV, Ending.CRASHED, "killed by SIGSEGV while running shop.add", "lost", False),
        (RETIRING, RUN, 5, 0, Ending.CRASHED, "exited with code 0 while running shop.add", "lost", False),
        (UP, RUN, 0, EX_FENCED, Ending.CRASHED, "exited with code 75 while running shop.add", "lost", False),
        (UP, RUN, 0, EX_BOOT_FAILED, Ending.CRASHED, "exited with code 70 while running shop.add", "lost", False),
        # between two tasks: nothing was lost; early only before the first one, and not if somebody killed it
        (UP, IDLE, 5, SEGV, Ending.CRASHED, "killed by SIGSEGV", "none", False),
        (UP, IDLE, 0, SEGV, Ending.CRASHED, "killed by SIGSEGV", "none", True),
        (UP, IDLE, 0, KILL, Ending.CRASHED, "killed by SIGKILL", "none", False),
        (UP, COMMIT, 0, KILL, Ending.CRASHED, "killed by SIGKILL", "none", False),
        (UP, IDLE, 0, 0, Ending.CRASHED, "exited with code 0", "none", True),
        # it died of what a task had left, before it had settled: lost, if the broker says that it is still held
        (UP, COMMIT, 1, 1, Ending.CRASHED, "exited with code 1 after running shop.add", "lost", False),
        (UP, COMMIT, 0, SEGV, Ending.CRASHED, "killed by SIGSEGV after running shop.add", "lost", False),
        (RETIRING, LEAVE, 5, 1, Ending.CRASHED, "exited with code 1 after running shop.add", "lost", False),
        (STANDBY, Activity.STANDBY, 0, SEGV, Ending.CRASHED, "killed by SIGSEGV", "none", True),
        # the broker does not know it
        (UP, COMMIT, 0, EX_FENCED, Ending.FENCED, "the broker does not know it any more", "none", False),
        (RETIRING, LEAVE, 5, EX_FENCED, Ending.FENCED, "the broker does not know it any more", "none", False),
    ],
)  # fmt: skip
def test_exits_of_a_child_that_was_up(
    state: ChildState, activity: Activity, done: int, status: int,
    ending: Ending, cause: str, verdict: str, early: bool,  # noqa: FBT001  pytest passes it by name
    make_child: Callable[..., Child], make_row: Callable[..., Row],
) -> None:  # fmt: skip
    """Only a death in RUN, or of what ran, loses a delivery; only one before the first task counts for the breaker."""
    child = make_child(state)
    child.leave_reason = "its reason"
    assert judge_exit(child, make_row(activity, done=done), status) == Exit(ending, cause, verdict, early)


@pytest.mark.parametrize(
    ("activity", "status", "ending", "cause"),
    [
        (BOOT, EX_BOOT_FAILED, Ending.BOOT_FAILED, "boot failed"),
        (NONE, 1, Ending.CRASHED, "exited with code 1 before it was up"),
        (BOOT, SEGV, Ending.CRASHED, "killed by SIGSEGV before it was up"),
        (BOOT, KILL, Ending.CRASHED, "killed by SIGKILL before it was up"),
        (BOOT, 0, Ending.CRASHED, "exited with code 0 before it was up"),
    ],
)
def test_exits_before_it_was_up(
    activity: Activity, status: int, ending: Ending, cause: str,
    make_child: Callable[..., Child], make_row: Callable[..., Row],
) -> None:  # fmt: skip
    """Whatever ends a child before it is up counts for the breaker: else a broken boot would loop for ever."""
    child = make_child(STARTING, up=False)
    assert judge_exit(child, make_row(activity), status) == Exit(ending, cause, "none", early=True)


@pytest.mark.parametrize(("activity", "verdict"), [(RUN, "failed"), (IDLE, "none"), (COMMIT, "none")])
@pytest.mark.parametrize("status", [KILL, 0, EX_FENCED])
def test_exits_of_a_condemned_child(
    activity: Activity, verdict: str, status: int, make_child: Callable[..., Child], make_row: Callable[..., Row]
) -> None:
    """We killed it: the cause is ours, and the verdict is for the delivery that ran, if one did."""
    child = make_child(CONDEMNED)
    child.cause, child.verdict = "TimeLimitExceeded: ran 3 s", "failed"
    expected = Exit(Ending.KILLED, "TimeLimitExceeded: ran 3 s", verdict, early=False)
    assert judge_exit(child, make_row(activity), status) == expected


def test_a_row_of_another_generation_names_nothing(
    make_child: Callable[..., Child], make_row: Callable[..., Row]
) -> None:
    """A scribbled generation means that nothing in the row is this child's: no delivery is blamed by it."""
    exit_ = judge_exit(make_child(UP), make_row(RUN, generation=99), SEGV)
    assert exit_ == Exit(Ending.CRASHED, "killed by SIGSEGV", "none", early=False)


def test_both_sides_agree_on_the_exit_codes() -> None:
    """The child exits with the codes that the supervisor reads; the two never import each other."""
    assert (exits.EX_BOOT_FAILED, exits.EX_FENCED) == (child_main.EX_BOOT_FAILED, child_main.EX_FENCED)


def test_statuses_are_written_for_people() -> None:
    """A status reads as what happened."""
    assert describe_status(0) == "exited with code 0"
    assert describe_status(-9) == "killed by SIGKILL"
    assert describe_status(-64) == "killed by SIGRTMAX"
