"""Who is recycled when the node uses more than its budget."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from poolrt.states import ChildState
from poolrt.supervisor import memory_budget
from poolrt.supervisor.lifecycle import STEWARD, Child
from poolrt.supervisor.memory_budget import MemoryBudget

MIB = 1 << 20
BASE = 50 * MIB


class Size:
    """A resident size that stands still."""

    def __init__(self, size: int) -> None:
        self.size = size

    def read(self) -> int:
        return self.size

    def close(self) -> None:
        """Nothing to close."""


@pytest.fixture(autouse=True)
def base(monkeypatch: pytest.MonkeyPatch) -> None:
    """Supervisor and template use 25 MiB each."""
    monkeypatch.setattr(memory_budget, "rss_bytes", lambda pid: BASE // 2)


@pytest.fixture
def grown(make_child: Callable[..., Child]) -> Callable[..., Child]:
    """``grown(slot, mib)``: a child of 30 MiB that has grown by so much."""

    def make(slot: int, mib: int, state: ChildState = ChildState.UP) -> Child:
        child = make_child(state, slot=slot)
        child.birth_rss = 30 * MIB
        child.resident = Size((30 + mib) * MIB)  # type: ignore[assignment]
        return child

    return make


def test_the_largest_leaves(grown: Callable[..., Child]) -> None:
    """Over the budget, the child that has grown most is named with all three sizes; shared pages count once."""
    budget = MemoryBudget(150 * MIB)
    children = [grown(0, 20), grown(1, 70), grown(2, 30)]
    found = budget.over(children, os.getpid())
    assert budget.used == BASE + 120 * MIB
    assert found is not None
    assert found[0] is children[1]
    assert found[1] == "pool_memory: the node uses 170.0 MiB of 150.0 MiB, this child has grown by 70.0 MiB"


@pytest.mark.parametrize("limit", [0, 171 * MIB])
def test_within_the_budget_or_without_one_nobody_leaves(limit: int, grown: Callable[..., Child]) -> None:
    """No budget is no reason, and neither is one that holds; what is used is known all the same."""
    budget = MemoryBudget(limit)
    assert budget.over([grown(0, 50), grown(1, 70)], 1) is None
    assert budget.used == 170 * MIB


def test_one_at_a_time(grown: Callable[..., Child]) -> None:
    """While a child is leaving, nobody else is asked to: what it frees is not known yet."""
    assert MemoryBudget(MIB).over([grown(0, 50), grown(1, 70, ChildState.RETIRING)], 1) is None


def test_whoever_has_not_grown_stays(grown: Callable[..., Child], make_child: Callable[..., Child]) -> None:
    """A budget that the import alone exceeds does not recycle fresh children for ever; a steward is no child."""
    steward = grown(1, 90)
    steward.role = STEWARD
    assert MemoryBudget(MIB).over([grown(0, 0), steward, make_child(slot=3)], 1) is None
