"""Children and rows as the supervisor's pure parts see them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from poolrt.board import Row
from poolrt.states import Activity, ChildState
from poolrt.supervisor import lifecycle
from poolrt.supervisor.lifecycle import CHILD, Child

GENERATION = 4


@pytest.fixture(autouse=True)
def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """An impossible move raises."""
    monkeypatch.setattr(lifecycle, "STRICT", True)


@pytest.fixture
def make_child() -> Callable[..., Child]:
    """``make_child(state, up=True)``: generation 4 of slot 0."""

    def make(state: ChildState = ChildState.UP, *, up: bool = True, standby: bool = False, slot: int = 0) -> Child:
        child = Child(slot, GENERATION, CHILD, 100.0, standby=standby)
        child.state = state
        child.up_at = 101.0 if up else None
        return child

    return make


@pytest.fixture
def make_row() -> Callable[..., Row]:
    """``make_row(activity, done=0)``: the row of generation 4, running ``shop.add`` since 1 s with a limit of 2 s."""

    def make(
        activity: Activity = Activity.IDLE, *, done: int = 0, generation: int = GENERATION, hard: int = 3 * 10**9,
        soft: int = 0, memory: int = 0, held: int = 1, last_reserve: int = 5,
    ) -> Row:  # fmt: skip
        return Row(
            activity, 9, hard, soft, memory, 3, 10**9, 5, 6, held, last_reserve, done, 0, generation, 4242, "an-id",
            "shop.add",
        )  # fmt: skip

    return make
