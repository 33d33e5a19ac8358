"""The delivery rules of one node on a transactional store, checked in every order of events (explicit states).

    child        reserve ──▶ publish RUN ──▶ run ──▶ settle (the answer may be lost: it is sent again)
    world        SIGKILL at any point; or the node is taken for dead and rescued while its child still runs
    supervisor   kills a running child at its hard limit
    steward      bury(owner, verdict by the board row), then the slot's next generation

Each broker call is one transaction, so one step. The model has the rules of protocol.md as switches: with all of them
on no order of events breaks a promise; with one off, an order that does must be found. Change it before the protocol.
It has 33,000 states. What surrounds the slot, from the board's file to other nodes, is in test_node_model.py.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.model.exploration import Broken, explore

MESSAGES = 2
BATCH = 2
GENERATIONS = 4
LIMIT = 50_000
"""States that there may be."""


class Rules(NamedTuple):
    """The protocol's rules, each with the number it has there."""

    fence: bool = True
    """1: a settle names owner, reserve number and row; else it names the task."""
    bars: bool = True
    """2: a buried or rescued owner is heard no more."""
    atomic_bury: bool = True
    """6: verdict and requeue are one step; else the verdict is a settle that comes after the requeue."""
    counts_running: bool = True
    """17: only the delivery that the row names in RUN is counted; else all that was held."""
    verdict_by_fence: bool = True
    """1, 6: the verdict names the delivery; else the task, also after its child settled it."""


class Task(NamedTuple):
    """One message: where it is, which attempt, how it ended, how often it was counted lost and how often it killed."""

    at: str = "queued"
    """queued, held, ended."""
    owner: int = 0
    n: int = 0
    attempt: int = 1
    ends: int = 0
    """How many outcomes took effect."""
    lost: int = 0
    deaths: int = 0
    """How many children really died while running it."""
    killed: bool = False
    """The supervisor has killed an attempt at its hard limit and says so; no other attempt may follow."""


class Child(NamedTuple):
    """One generation of the slot, and the board row it leaves behind."""

    generation: int = 1
    alive: bool = True
    n: int = 0
    batch: tuple[tuple[int, int, int], ...] = ()
    """``(task, n, attempt)`` not started yet."""
    run: tuple[int, int, int] | None = None
    """What the row shows as RUN."""
    unanswered: tuple[int, int, int] | None = None
    """Settled, but the answer was lost: it will be sent once more."""


class State(NamedTuple):
    """Everything."""

    tasks: tuple[Task, ...] = (Task(),) * MESSAGES
    child: Child = Child()
    barred: int = 0
    """All generations up to this one."""
    stray: Child | None = None
    """A child that lives on after its node was rescued."""
    verdict: tuple[int, int, int] | None = None
    """Of the killed child: the supervisor's hard-limit Outcome."""
    pending: tuple[int, int, int] | None = None
    """Without ``atomic_bury``: the verdict on its way, after the requeue."""
    crashes: int = 2
    limits: int = 1
    rescues: int = 1
    losses: int = 1
    retries: int = 1


Step = tuple[str, State]


def _with(state: State, index: int, task: Task) -> State:
    tasks = list(state.tasks)
    tasks[index] = task
    return state._replace(tasks=tuple(tasks))


def _holds(rules: Rules, task: Task, generation: int, named: tuple[int, int, int], barred: int) -> bool:
    """Whether the store accepts what this generation says about its delivery."""
    if rules.bars and generation <= barred:
        return False
    if rules.fence:
        return task.at == "held" and task.owner == generation and (task.n, task.attempt) == named[1:]
    return task.at != "ended"


def _settled(rules: Rules, state: State, generation: int, named: tuple[int, int, int], *, retry: bool) -> State:
    """The store after a settle of ``named``: its end, or its retry under the same id."""
    task = state.tasks[named[0]]
    if not _holds(rules, task, generation, named, state.barred):
        return state
    if task.attempt != named[2]:
        raise Broken(f"the outcome of attempt {named[2]} ended attempt {task.attempt}")
    if retry:
        return _with(state, named[0], task._replace(at="queued", owner=0, n=0, attempt=task.attempt + 1))
    return _with(state, named[0], task._replace(at="ended", owner=0, n=0, ends=task.ends + 1))


def _reserved(rules: Rules, state: State, child: Child) -> tuple[State, Child] | None:
    if rules.bars and child.generation <= state.barred:
        return None
    n, batch = child.n + 1, list(child.batch)
    for index, task in enumerate(state.tasks):
        if task.at == "queued" and len(batch) < BATCH:
            state = _with(state, index, task._replace(at="held", owner=child.generation, n=n))
            batch.append((index, n, task.attempt))
    return (state, child._replace(n=n, batch=tuple(batch))) if batch else None


def _works(rules: Rules, state: State, child: Child, field: str) -> Iterator[Step]:
    """What a living child does next; ``field`` is where the state keeps it."""

    def put(changed: Child, after: State = state) -> State:
        return after._replace(**{field: changed})

    if child.run is None and not child.batch:
        got = _reserved(rules, state, child)
        if got is not None:
            yield f"{field} reserves", put(got[1], got[0])
    if child.run is None and child.batch:
        index, _, attempt = child.batch[0]
        task = state.tasks[index]
        if task.killed and field == "child":
            raise Broken(f"task {index} runs again although its hard limit was to end it")
        if field == "child" and task.at == "held" and task.owner == child.generation and task.attempt != attempt:
            raise Broken("a child starts an attempt that it does not hold")
        yield f"{field} runs {index}", put(child._replace(run=child.batch[0], batch=child.batch[1:]))
    if child.run is not None:
        yield from _settles(rules, state, child, field)
    if child.unanswered is not None:
        after = _settled(rules, state, child.generation, child.unanswered, retry=False)
        yield f"{field} sends its outcome again", put(child._replace(unanswered=None), after)


def _settles(rules: Rules, state: State, child: Child, field: str) -> Iterator[Step]:
    """The child ends what it runs, or retries it; the answer comes or is lost."""
    assert child.run is not None
    done = child._replace(run=None)
    for retry in (False, True)[: 1 + state.retries]:
        after = _settled(rules, state, child.generation, child.run, retry=retry)
        after = after._replace(retries=after.retries - retry)
        name = f"{field} {'retries' if retry else 'ends'} {child.run[0]}"
        yield name, after._replace(**{field: done})
        if state.losses and child.unanswered is None:
            lost = after._replace(losses=after.losses - 1)
            yield f"{name}, answer lost", lost._replace(**{field: done._replace(unanswered=child.run)})


def _requeued(rules: Rules, state: State, generation: int, running: tuple[int, int, int] | None) -> State:
    """All that the generation held goes back; what the row shows running is counted."""
    for index, task in enumerate(state.tasks):
        if task.at == "held" and task.owner == generation:
            ran = running is not None and running[0] == index
            state = _with(
                state,
                index,
                task._replace(at="queued", owner=0, n=0, lost=task.lost + (ran or not rules.counts_running)),
            )
    return state


def _judged(rules: Rules, state: State, generation: int, verdict: tuple[int, int, int]) -> State:
    """The supervisor's Outcome takes effect if the delivery is still held."""
    index = verdict[0]
    task = state.tasks[index]
    held = task.at == "held" and task.owner == generation and (task.n, task.attempt) == verdict[1:]
    if held or not rules.verdict_by_fence:
        return _with(state, index, task._replace(at="ended", owner=0, n=0, ends=task.ends + 1, killed=False))
    return _with(state, index, task._replace(killed=False))


def _buried(rules: Rules, state: State) -> Step:
    """The steward buries the dead child, and the slot's next generation starts."""
    child, verdict = state.child, state.verdict
    if verdict is not None and rules.atomic_bury:
        state = _judged(rules, state, child.generation, verdict)
    state = _requeued(rules, state, child.generation, None if verdict else child.run)
    pending = verdict if verdict is not None and not rules.atomic_bury else state.pending
    state = state._replace(barred=child.generation, verdict=None, pending=pending)
    return "steward buries it", state._replace(child=Child(child.generation + 1))


def progress(rules: Rules, state: State) -> Iterator[Step]:
    """What happens by itself."""
    if state.child.alive:
        yield from _works(rules, state, state.child, "child")
    else:
        yield _buried(rules, state)
    if state.pending is not None:
        index = state.pending[0]
        task = state.tasks[index]
        yield "the late verdict comes", _with(state, index, task._replace(killed=False))._replace(pending=None)
    if state.stray is not None:
        yield from _works(rules, state, state.stray, "stray")
        yield "the stray ends", state._replace(stray=None)


def mishaps(rules: Rules, state: State) -> Iterator[Step]:
    """What may happen besides."""
    if state.child.alive and state.child.generation < GENERATIONS:
        yield from _faults(rules, state, state.child)


def _faults(rules: Rules, state: State, child: Child) -> Iterator[Step]:
    """What may befall a living child."""
    dead = state._replace(child=child._replace(alive=False))
    ran = state.tasks[child.run[0]] if child.run is not None else None
    holds = ran is not None and ran.at == "held" and ran.owner == child.generation
    if state.crashes:
        after = dead._replace(crashes=state.crashes - 1)
        if child.run is not None and ran is not None and holds:
            after = _with(after, child.run[0], ran._replace(deaths=ran.deaths + 1))
        yield "SIGKILL", after
    if state.limits and child.run is not None and ran is not None:
        after = dead._replace(limits=state.limits - 1, verdict=child.run)
        yield "hard limit", _with(after, child.run[0], ran._replace(killed=True)) if holds else after
        # The kill may fall between the commit and the row's next word: the verdict then names what was settled.
        for retry in (False, True)[: 1 + state.retries]:
            settled = _settled(rules, after, child.generation, child.run, retry=retry)
            yield f"hard limit just after a settle, retry={retry}", settled._replace(retries=state.retries - retry)
    if state.rescues and state.stray is None:
        after = _requeued(rules, state, child.generation, None)
        after = after._replace(stray=child, barred=child.generation, rescues=state.rescues - 1)
        yield "rescued while it runs", after._replace(child=Child(child.generation + 1))


def check(state: State) -> None:
    """What must hold in every state."""
    for index, task in enumerate(state.tasks):
        if task.ends > 1:
            raise Broken(f"two outcomes of task {index} took effect")
        if task.lost > task.deaths:
            raise Broken(f"task {index} was counted lost {task.lost} times, but killed {task.deaths}")
    held_by = {task.owner for task in state.tasks if task.at == "held"}
    known = {state.child.generation}
    if held_by - known:
        raise Broken(f"held by {held_by - known}, whom nobody will bury")


def all_ended(state: State) -> bool:
    """Whether every task has its end."""
    return all(task.at == "ended" for task in state.tasks)


def visit(rules: Rules) -> int:
    """Explore the model under these rules; the count of its states."""
    return explore(
        State(), functools.partial(progress, rules), functools.partial(mishaps, rules), check, all_ended, LIMIT
    )


def test_all_rules_keep_every_promise() -> None:
    """No order of events loses a task, ends one twice, miscounts one, or leaves one held by nobody."""
    assert visit(Rules()) > 1000


@pytest.mark.parametrize(
    ("rule", "promise"),
    [
        ("fence", "attempt|two outcomes"),
        ("bars", "whom nobody will bury"),
        ("atomic_bury", "hard limit"),
        ("counts_running", "counted lost"),
        ("verdict_by_fence", "two outcomes"),
    ],
)
def test_each_rule_is_needed(rule: str, promise: str) -> None:
    """With this one rule off, an order of events that breaks a promise is found: the model can see that fault."""
    with pytest.raises(Broken, match=promise):
        visit(Rules()._replace(**{rule: False}))
