"""The tables of states: each state can be reached, each way leads to an end, and nothing leaves an end."""

from __future__ import annotations

import pytest

from poolrt.states import CHILD_MOVES, FINAL, Activity, ChildState, Interruption, Order, TaskState, may_move


def reachable(start: ChildState) -> set[ChildState]:
    """Every state that moves lead to from ``start``."""
    found, fresh = {start}, [start]
    while fresh:
        for after in CHILD_MOVES[fresh.pop()] - found:
            found.add(after)
            fresh.append(after)
    return found


def test_the_table_is_total() -> None:
    """Each state has its row."""
    assert set(CHILD_MOVES) == set(ChildState)


def test_every_state_is_reached_from_the_first() -> None:
    """No state of the table is dead letters."""
    assert reachable(ChildState.REQUESTED) == set(ChildState)


@pytest.mark.parametrize("state", ChildState)
def test_every_state_leads_to_dead(state: ChildState) -> None:
    """Wherever a child is, its death is a possible move, but for the dead one."""
    assert ChildState.DEAD in reachable(state)
    assert may_move(state, ChildState.DEAD) is (state is not ChildState.DEAD)


@pytest.mark.parametrize("state", ChildState)
def test_no_state_is_gone_back_to(state: ChildState) -> None:
    """The table has no way round: a child that left a state never has it again."""
    assert all(state not in reachable(after) for after in CHILD_MOVES[state])


def test_final_states() -> None:
    """The final states of a task are the five that records have."""
    going = {"UNKNOWN", "PLANNED", "QUEUED", "DELAYED", "RESERVED", "STARTED"}
    assert {state.name for state in set(TaskState) - FINAL} == going


def test_what_the_board_stores_does_not_move() -> None:
    """Numbers on a board outlive the release that wrote them."""
    assert [(member.name, member.value) for member in Activity] == [
        ("NONE", 0), ("BOOT", 1), ("STANDBY", 2), ("IDLE", 3), ("RUN", 4), ("COMMIT", 5), ("AUDIT", 6), ("LEAVE", 7),
    ]  # fmt: skip
    assert [(member.name, member.value) for member in Order] == [
        ("WORK", 0), ("STANDBY", 1), ("RETIRE", 2), ("HAND_OVER", 3),
    ]  # fmt: skip
    assert [(member.name, member.value) for member in Interruption] == [("SOFT_LIMIT", 1), ("STOP", 2), ("CANCEL", 3)]
