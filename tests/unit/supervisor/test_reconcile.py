"""Reconcile: from any pool, doing what it says brings the wanted one, and never more than that."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from poolrt.states import ChildState
from poolrt.supervisor.lifecycle import CHILD, Child
from poolrt.supervisor.reconcile import Actions, reconcile

STATES = {False: [*ChildState], True: [state for state in ChildState if state is not ChildState.UP]}
STATES[False].remove(ChildState.STANDBY)


def make(slot: int, state: ChildState, *, standby: bool) -> Child:
    """A child in any state, asked for in the order of its slot."""
    child = Child(slot, 1, CHILD, float(slot), standby=standby)
    child.state = state
    return child


@dataclasses.dataclass
class Pool:
    """A pool of imagined children, and how it obeys."""

    children: list[Child]
    wanted: int
    standbys: int
    leaving: list[Child]

    def actions(self) -> Actions:
        return reconcile(self.children, self.wanted, self.standbys, [child for child in self.leaving if child.working])

    def obey(self, actions: Actions) -> None:
        """Do what the actions say; then every child gets as far as it can."""
        for child in actions.activate:
            child.standby = False
            if child.state is ChildState.STANDBY:
                child.state = ChildState.UP
        for child in actions.retire:
            child.state = ChildState.RETIRING
        for _ in range(actions.spawn):
            self.children.append(make(len(self.children), ChildState.REQUESTED, standby=False))
        for _ in range(actions.spawn_standby):
            self.children.append(make(len(self.children), ChildState.REQUESTED, standby=True))
        for child in self.children:
            if child.state in {ChildState.RETIRING, ChildState.CONDEMNED}:
                child.state = ChildState.DEAD
            elif child.state in {ChildState.REQUESTED, ChildState.STARTING}:
                child.state = ChildState.STANDBY if child.standby else ChildState.UP

    def up(self) -> int:
        return sum(child.state is ChildState.UP for child in self.children)


@st.composite
def pools(draw: st.DrawFn) -> Pool:
    """Any pool a supervisor can get into."""
    standby = draw(st.lists(st.booleans(), max_size=10))
    children = [make(slot, draw(st.sampled_from(STATES[kind])), standby=kind) for slot, kind in enumerate(standby)]
    working = [child for child in children if child.working]
    leaving = draw(st.lists(st.sampled_from(working), unique=True)) if working else []
    return Pool(children, draw(st.integers(0, 8)), draw(st.integers(0, 2)), leaving)


def count(children: Sequence[Child], kind: str) -> int:
    return sum(getattr(child, kind) for child in children)


@given(pools())
def test_one_step_is_within_bounds(pool: Pool) -> None:
    """A step activates and spawns only what is missing, retires only what lives, and no child twice."""
    working = count(pool.children, "working")
    actions = pool.actions()
    assert actions.spawn >= 0
    assert actions.spawn_standby >= 0
    assert all(child.waiting for child in actions.activate)
    assert all(child.working or child.waiting for child in actions.retire)
    named = [*actions.activate, *actions.retire]
    assert len({id(child) for child in named}) == len(named)
    retired = count(actions.retire, "working")
    assert working - retired + len(actions.activate) + actions.spawn == pool.wanted


@given(pools())
def test_a_leaving_child_waits_for_its_successor(pool: Pool) -> None:
    """A child that must be replaced is retired only for a standby that is up, or as one too many: work goes on."""
    up = pool.up()
    surplus = max(0, count(pool.children, "working") - pool.wanted)
    actions = pool.actions()
    retired = [child for child in actions.retire if child.working]
    ready = [child for child in actions.activate if child.state is ChildState.STANDBY]
    assert len(retired) <= len(ready) + surplus
    after = up - sum(child.state is ChildState.UP for child in retired) + len(ready)
    assert surplus or after >= min(up, pool.wanted)


@given(pools())
def test_obeying_brings_what_is_wanted(pool: Pool) -> None:
    """From any pool, a few steps lead to exactly the wanted children and standbys; then there is nothing to do."""
    for _ in range(len(pool.children) + 5):
        pool.obey(pool.actions())
    assert pool.actions() == Actions(0, 0, (), ())
    assert count(pool.children, "working") == pool.wanted
    assert count(pool.children, "waiting") == (pool.standbys if pool.wanted else 0)
    assert not [child for child in pool.leaving if child.working]


def test_a_missing_child_is_filled_before_a_leaving_one() -> None:
    """A crash takes the standby; the child that was to leave goes on until another is up."""
    tired, standby = make(0, ChildState.UP, standby=False), make(1, ChildState.STANDBY, standby=True)
    actions = reconcile([tired, standby], 2, 1, [tired])
    assert actions == Actions(0, 2, (standby,), ())


def test_surplus_takes_the_leaving_first_then_the_newest() -> None:
    """Scaling down ends the child that had to go anyway, then the youngest, whose caches are coldest."""
    children = [make(slot, ChildState.UP, standby=False) for slot in range(4)]
    actions = reconcile(children, 2, 0, [children[1]])
    assert actions == Actions(0, 0, (), (children[1], children[3]))


def test_a_standby_that_boots_may_be_activated() -> None:
    """With no standby up, one that starts takes the place: it is there sooner than a new one."""
    starting = make(0, ChildState.STARTING, standby=True)
    assert reconcile([starting], 1, 1, []) == Actions(0, 1, (starting,), ())


def test_nothing_is_kept_ready_for_an_empty_pool() -> None:
    """A pool of zero has no standby."""
    standby = make(0, ChildState.STANDBY, standby=True)
    assert reconcile([standby], 0, 1, []) == Actions(0, 0, (), (standby,))
