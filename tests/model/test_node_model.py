"""The node's protocol in every order of events: the model of node_model.py, one scenario of mishaps at a time.

What must hold: an end of every task is in reach, by what happens by itself; no outcome ends another attempt; nothing is
counted lost that did not really die of it, or by our order, and nobody who killed a child is forgotten; nothing runs
twice at once, or after it has ended or its hard limit was to end it; nothing is held by someone nobody will bury, so
after a stop nothing is held at all. Change the model before the protocol.

The scenarios of CI have 159,000 states in all, 11 s of one processor. ``python -m tests.model.test_node_model --full``
puts more mishaps into one scenario: 2,000,000 states, 3 minutes of one processor.

Rules that this model found to be missing in the code, each with its order of events in ``NEEDED``: see ``MISSING``.
"""

from __future__ import annotations

import functools
import sys
import time
from typing import NamedTuple

import pytest

from tests.model.delivery_store import NEIGHBOUR, Store, Task
from tests.model.exploration import Broken, explore
from tests.model.node_model import mishaps, progress
from tests.model.node_world import Budget, Child, Rules, World

CI_LIMIT = 50_000
"""States that a scenario of CI may have."""
FULL_LIMIT = 2_000_000


class Scenario(NamedTuple):
    """What may happen, to how many tasks."""

    budget: Budget
    tasks: int = 2
    neighbour: bool = False
    """Another node serves the same file."""


SCENARIOS = {
    "children and the steward die": Scenario(Budget(crashes=1, stewards=1, repeats=1, limits=1, retries=1), tasks=1),
    "children die again and again": Scenario(Budget(crashes=2, repeats=1), tasks=1),
    "the supervisor is killed": Scenario(Budget(crashes=1, supervisors=1, retries=1)),
    "the supervisor is killed again": Scenario(Budget(supervisors=2, stewards=1, repeats=1), tasks=1),
    "the supervisor is killed after it has killed": Scenario(Budget(supervisors=2, limits=1, crashes=1), tasks=1),
    "the supervisor is killed after its template": Scenario(Budget(supervisors=1, frozen=1, limits=1)),
    "the machine goes down": Scenario(Budget(hosts=2, limits=1), tasks=1),
    "a stop is cut short": Scenario(Budget(stops=1, interrupts=1, kills=1, supervisors=1, refusals=1)),
    "a stop takes too long": Scenario(Budget(stops=1, kills=1, stewards=1, repeats=1, refusals=1, rushes=1)),
    "a reload": Scenario(Budget(reloads=1, crashes=1, stewards=1), tasks=1),
    "a stop in the middle of a reload": Scenario(Budget(reloads=1, stops=1, templates=1), tasks=1),
    "a quiet node": Scenario(Budget(quiets=1, refusals=1, crashes=1), neighbour=True),
    "the neighbour rescues": Scenario(Budget(supervisors=1, limits=1), neighbour=True),
    "the neighbour rescues again": Scenario(Budget(supervisors=2), tasks=1, neighbour=True),
    "a child without its lock": Scenario(Budget(supervisors=1, unlocked=1)),
}

FULL = {
    "children and the steward die": Scenario(Budget(crashes=1, stewards=1, repeats=1, limits=1, retries=1)),
    "children die again and again": Scenario(Budget(crashes=3, repeats=1), tasks=1),
    "the supervisor is killed": Scenario(Budget(crashes=1, supervisors=2, stewards=1, limits=1), tasks=1),
    "the machine goes down": Scenario(Budget(hosts=2, supervisors=1, limits=1)),
    "a stop": Scenario(Budget(stops=1, interrupts=1, kills=1, supervisors=1, stewards=1, refusals=1, rushes=1)),
    "a reload": Scenario(Budget(reloads=1, stops=1, templates=1, crashes=1), tasks=1),
    "a reload without its supervisor": Scenario(Budget(reloads=1, supervisors=1, frozen=1), tasks=1),
    "a quiet node": Scenario(Budget(quiets=1, refusals=2, crashes=1, supervisors=1, retries=1)),
    "the neighbour rescues": Scenario(Budget(supervisors=2, limits=1), neighbour=True),
    "the neighbour rescues after a stop": Scenario(Budget(supervisors=1, stops=1, kills=1, crashes=1), neighbour=True),
}

NEEDED = {
    "keeps_slot": (Scenario(Budget(crashes=1, supervisors=1)), "nobody counted"),
    "new_generation": (Scenario(Budget(crashes=1, repeats=1)), "which it does not hold"),
    "keeps_tickets": (Scenario(Budget(crashes=1, stewards=1)), "whom nobody will bury"),
    "verdict_by_fence": (Scenario(Budget(crashes=1, repeats=1)), "counted lost 2 times, but killed 1"),
    "orders_uncounted": (Scenario(Budget(stops=1, kills=1)), "counted lost 1 times, but killed 0"),
    "templates_uncounted": (Scenario(Budget(frozen=1)), "counted lost 1 times, but killed 0"),
    "orders_on_board": (Scenario(Budget(limits=1, supervisors=1)), "counted lost 1 times, but killed 0"),
    "reads_board": (Scenario(Budget(supervisors=1)), "nobody counted"),
    "knows_boot": (Scenario(Budget(hosts=1)), "nobody counted"),
    "lists_until_done": (Scenario(Budget(supervisors=2)), "whom nobody will bury"),
    "sweeps": (Scenario(Budget(supervisors=1, unlocked=1)), "which it does not hold"),
    "waits_for_lock": (Scenario(Budget(), neighbour=True), "which it does not hold"),
    "reads_board_twice": (Scenario(Budget(supervisors=1), neighbour=True), "nobody counted"),
    "hands_over": (Scenario(Budget(reloads=1)), "which it does not hold"),
    "leaves_last": (Scenario(Budget(stops=1), neighbour=True), "runs task 0 while"),
    "clean_if_nobody": (Scenario(Budget(reloads=1, stops=1, templates=1)), "whom nobody will bury"),
    "keeps_refused": (Scenario(Budget(quiets=1, refusals=1)), "can never end"),
    "release_by_fence": (Scenario(Budget(quiets=1, refusals=1), neighbour=True), "which it does not hold"),
}
"""For each rule the scenario that needs it, and how its promise breaks there without it."""

MISSING: frozenset[str] = frozenset()
"""Rules that the code does not keep yet: whoever mends one strikes it here."""


def check(world: World) -> None:
    """What must hold in every state."""
    for index, task in enumerate(world.store.tasks):
        if task.lost > task.deaths:
            raise Broken(f"task {index} was counted lost {task.lost} times, but killed {task.deaths}")
        if task.at == "queued" and not task.suspect and task.lost < task.deaths:
            raise Broken(f"nobody counted that task {index} killed its child")
        if task.at == "held":
            _check_holder(world, index)


def _check_holder(world: World, index: int) -> None:
    owner = world.store.tasks[index].owner
    assert owner is not None
    start = owner[0]
    if start == NEIGHBOUR:
        return
    if world.state == "down" or start != world.start:
        known = start in world.listed
    else:
        known = any(child.owner == owner and (child.alive or not child.seen) for child in world.children)
        known = known or any(command.owner == owner for command in world.tickets)
    if not known:
        raise Broken(f"task {index} is held by {Child(owner)}, whom nobody will bury")


def all_ended(world: World) -> bool:
    """Whether every task has its end."""
    return all(task.at == "ended" for task in world.store.tasks)


def visit(scenario: Scenario, rules: Rules = Rules(), limit: int = CI_LIMIT) -> int:  # noqa: B008  it is frozen
    """Explore the scenario; the count of its states."""
    neighbour = Child((NEIGHBOUR, 0, 1)) if scenario.neighbour else None
    start = World(Store((Task(),) * scenario.tasks), scenario.budget, neighbour=neighbour)
    steps = functools.partial(progress, rules), functools.partial(mishaps, rules)
    return explore(start, *steps, check, all_ended, limit)


@pytest.mark.parametrize("name", SCENARIOS)
def test_no_order_of_events_breaks_a_promise(name: str) -> None:
    """With all rules on, every promise holds in every state of this scenario."""
    assert visit(SCENARIOS[name]) > 100


def test_what_is_missing_is_a_rule() -> None:
    """The list of what the code lacks names rules, and each rule has its scenario."""
    assert set(Rules._fields) >= MISSING
    assert list(NEEDED) == list(Rules._fields)


@pytest.mark.parametrize("rule", Rules._fields)
def test_each_rule_is_needed(rule: str) -> None:
    """With this one rule off, an order of events that breaks a promise is found: the model can see that fault."""
    scenario, promise = NEEDED[rule]
    with pytest.raises(Broken, match=promise):
        visit(scenario, Rules()._replace(**{rule: False}))


def main() -> None:
    """Visit the full scenarios, or the small ones, and say how many states there were."""
    for name, scenario in (FULL if "--full" in sys.argv else SCENARIOS).items():
        began = time.monotonic()
        states = visit(scenario, limit=FULL_LIMIT)
        print(f"{name}: {states} states, {time.monotonic() - began:.1f} s", flush=True)


if __name__ == "__main__":
    main()
