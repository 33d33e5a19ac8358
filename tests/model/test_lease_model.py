"""Two nodes on one broker: leases, rescue, self-fencing, pauses, crashes and reclaims, in every order of events.

What must hold: an end of every task is in reach, by what happens by itself, healing and restarting among it; nothing is
held by a start that is barred; a child starts nothing that it does not hold, and the neighbour nothing that runs here;
a node that lives and is heard is not rescued, not reclaimed and does not fence itself; a node that is back takes back
what it held at once. What a paused node held may run twice, and is excused as long as the node cannot know: a child
that runs through the pause until its supervisor goes on, and where the clock stood still until the next renewal is
refused. Its late settle has no effect: the fence. What a cut node held never overlaps.

| rule | switch | breaks without it |
|---|---|---|
| 1 | ``owner_is_start`` | a late reserve of the start before is heard as the new start's |
| 2 | ``bars`` | a late reserve of a reclaimed start takes a task to nobody |
| 2 | ``renew_never_joins`` | a rescued node renews, and never hears that it was rescued |
| 10 | ``compares_beat`` | a slow rescuer acts on a beat that has moved since: a living node is rescued |
| 10 | ``full_lease`` | a living node is rescued before it has renewed |
| 10 | ``own_clock`` | the server's clock jumps: a living node is rescued |
| 10 | ``never_wraps`` | after two renewals the beat looks the same: a living node is rescued |
| 10 | ``scans_held`` | a lease is evicted and the host lost: what it held is held for ever |
| 11 | ``from_sending`` | an old answer prolongs the lease past the rescuer's count |
| 11 | ``fences_early`` | the rescuer is faster than the fence: a task runs twice |
| 11 | ``cell_checked`` | a child that goes on before its supervisor starts what was rescued |
| 12, 22 | ``kills_refused`` | a node whose clock stood still goes on with what was rescued |
| 13 | ``condemns``, ``at_once``, ``no_user_code`` | the node fences itself though the broker is there |
| 14 | ``reclaims_own`` | a namesake in another container is reclaimed while it lives |
| 14 | ``reclaims`` | what a crash left waits for a lease although the node is back |
| 15 | ``sweeps_holders`` | a child whose mark is gone outlives the reclaim |
| 15 | ``sweeps_marks`` | a child whose share of the lock is gone outlives the reclaim |
| 15 | ``waits_instead`` | a child that cannot be ended outlives the reclaim |
| 16 | ``shares_lock`` | a child whose mark is gone is not seen by its lock either |
| 16 | ``checks_lock`` | a child that shows neither lock nor mark takes another task |

Rule 22: all keys of a namespace share one hash tag (decision 021), so that whatever belongs together is one script and
the outbox between tags is void; what remains is that a node is fenced when its namespace refuses it. Not modelled are
facts of the kernel (what holds a lock, SIGKILL pending: 15) and where the file lies (16): tests/process has those.

The searches of CI have 140,000 states, 10 s of one processor. ``python -m tests.model.test_lease_model --full`` puts
more mishaps into one scenario: 900,000 states.
"""

from __future__ import annotations

import functools
import sys
import time
from typing import NamedTuple

import pytest

from tests.model.exploration import Broken, explore
from tests.model.lease_model import mishaps, progress
from tests.model.lease_world import Budget, Rules, Task, World

CI_LIMIT = 50_000
"""States that a scenario of CI may have."""
FULL_LIMIT = 2_000_000


class Scenario(NamedTuple):
    """What may happen, to how many tasks."""

    budget: Budget
    tasks: int = 1
    lingers: bool = False
    """Orphans live for any time."""
    namesake: bool = False
    """The neighbour has our node's name."""


SCENARIOS = {
    "a cut": Scenario(Budget(cuts=1)),
    "a pause": Scenario(Budget(stops=1)),
    "a pause without a clock": Scenario(Budget(freezes=1)),
    "a paused rescuer": Scenario(Budget(rescuer_stops=2)),
    "a crash": Scenario(Budget(crashes=1)),
    "a crash beside a namesake": Scenario(Budget(crashes=1), namesake=True),
    "a crash, and the child lives on": Scenario(Budget(crashes=1), lingers=True),
    "a crash, and the child has lost its lock": Scenario(Budget(crashes=1, unlocked=1), lingers=True),
    "a crash, and the child has lost its mark": Scenario(Budget(crashes=1, unmarked=1), lingers=True),
    "a lost host and a lost lease": Scenario(Budget(lost_hosts=1, evictions=1)),
    "steward and clock": Scenario(Budget(hangs=1, steward_deaths=1, jumps=1)),
}

FULL = {
    "two cuts": Scenario(Budget(cuts=2)),
    "a cut, two tasks": Scenario(Budget(cuts=1), tasks=2),
    "a pause, two tasks": Scenario(Budget(stops=1), tasks=2),
    "a cut and a pause": Scenario(Budget(cuts=1, stops=1)),
    "a cut and a pause without a clock": Scenario(Budget(cuts=1, freezes=1)),
    "a cut and a paused rescuer": Scenario(Budget(cuts=1, rescuer_stops=1)),
    "a crash and a pause without a clock": Scenario(Budget(crashes=1, freezes=1)),
    "a crash, and nothing shows the child": Scenario(Budget(crashes=1, unlocked=1, unmarked=1), lingers=True),
    "a crash, and the child cannot be ended": Scenario(Budget(crashes=1, unkillable=1), lingers=True),
}

NEEDED = {
    "owner_is_start": (Scenario(Budget(crashes=1)), "who is barred"),
    "bars": (Scenario(Budget(crashes=1)), "who is barred"),
    "renew_never_joins": (Scenario(Budget(freezes=1)), "which it does not hold"),
    "compares_beat": (Scenario(Budget()), "rescued although"),
    "full_lease": (Scenario(Budget()), "rescued although"),
    "own_clock": (Scenario(Budget(jumps=1)), "rescued although"),
    "never_wraps": (Scenario(Budget()), "rescued although"),
    "scans_held": (Scenario(Budget(evictions=1, lost_hosts=1)), "can never end"),
    "from_sending": (Scenario(Budget(stops=1)), "rescued although"),
    "fences_early": (Scenario(Budget(cuts=1)), "the neighbour runs task 0 while"),
    "cell_checked": (Scenario(Budget(stops=1)), "which it does not hold"),
    "kills_refused": (Scenario(Budget(freezes=1)), "still runs task 0"),
    "condemns": (Scenario(Budget(hangs=1)), "nothing but itself"),
    "at_once": (Scenario(Budget(steward_deaths=1)), "nothing but itself"),
    "no_user_code": (Scenario(Budget(hangs=1)), "nothing but itself"),
    "reclaims_own": (Scenario(Budget(crashes=1), namesake=True), "reclaimed while it lives"),
    "reclaims": (Scenario(Budget(crashes=1)), "waits for the lease"),
    "sweeps_holders": (Scenario(Budget(crashes=1, unmarked=1), lingers=True), "is reclaimed while"),
    "sweeps_marks": (Scenario(Budget(crashes=1, unlocked=1), lingers=True), "is reclaimed while"),
    "waits_instead": (Scenario(Budget(crashes=1, unkillable=1), lingers=True), "is reclaimed while"),
    "shares_lock": (Scenario(Budget(crashes=1, unmarked=1), lingers=True), "is reclaimed while"),
    "checks_lock": (Scenario(Budget(crashes=1, unlocked=1, unmarked=1), tasks=2, lingers=True), "is reclaimed while"),
}
"""For each rule the scenario that needs it, and how its promise breaks there without it."""


def check(world: World) -> None:
    """What must hold in every state; what must hold at a start, a rescue, a reclaim and a tick is checked there."""
    for index, task in enumerate(world.tasks):
        if task.at == "held" and task.start not in world.registered | world.evicted:
            raise Broken(f"task {index} is held by {task.start}, who is barred")


def all_ended(world: World) -> bool:
    """Whether every task has its end."""
    return all(task.at == "ended" for task in world.tasks)


def visit(scenario: Scenario, rules: Rules = Rules(), limit: int = CI_LIMIT) -> int:  # noqa: B008  it is frozen
    """Explore the scenario; the count of its states."""
    tasks = (Task(),) * scenario.tasks
    start = World(tasks, scenario.budget, lingers=scenario.lingers, namesake=scenario.namesake)
    steps = functools.partial(progress, rules), functools.partial(mishaps, rules)
    return explore(start, *steps, check, all_ended, limit)


@pytest.mark.parametrize("name", SCENARIOS)
def test_no_order_of_events_breaks_a_promise(name: str) -> None:
    """With all rules on, every promise holds in every state of this scenario."""
    assert visit(SCENARIOS[name]) > 100


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
