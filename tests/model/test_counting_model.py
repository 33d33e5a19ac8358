"""Who is given up, when a message kills whoever runs it and others are killed beside it: the model of rules 17 and 18.

A node reserves a batch and runs it one by one. The poison kills its child, or with ``takes_node`` its host, whose board
is gone with it. Kills from outside hit any run. What must hold: whoever is given up was running in
``MAX_DELIVERIES`` deaths; and an end of every message is in reach, so the poison is given up.

| rule | switch | breaks without it |
|---|---|---|
| 17 | ``deaths_not_claims`` | the neighbours in the poison's batches are given up with it |
| 17 | ``orders_uncounted`` | a drain gives up what it interrupted |
| 18 | ``reads_board`` | what a crashed supervisor's child ran is never counted: the poison runs for ever |
| 18 | ``counts_suspects`` | what takes its host down is never counted |
| 18 | ``suspects_alone`` | the neighbours in its batches are counted with it |

All of it has 1,000 states.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.model.exploration import Broken, explore

MESSAGES = 3
BATCH = 3
MAX_DELIVERIES = 3
POISON = 0
LIMIT = 20_000
"""States that there may be."""


class Rules(NamedTuple):
    """What the protocol says, each with its number there."""

    deaths_not_claims: bool = True
    """17: a child's death counts for what its row shows as RUN; else for all that it held."""
    orders_uncounted: bool = True
    """17: a death that the runtime ordered is not counted."""
    reads_board: bool = True
    """18: a restart counts what the dead supervisor's board names; else it counts nothing."""
    counts_suspects: bool = True
    """18: where no board is left, what was held is suspect, and counted when it is lost again."""
    suspects_alone: bool = True
    """18: a suspect is reserved alone."""


class Scenario(NamedTuple):
    """What the poison takes with it, and how often the others are hit."""

    takes: str = "child"
    """child, supervisor, host."""
    kills: int = 0
    orders: int = 0
    hosts: int = 0


class Message(NamedTuple):
    """One message."""

    at: str = "queued"
    """queued, held, ended, dead."""
    lost: int = 0
    suspect: bool = False
    deaths: int = 0
    """In how many it was running, and not by our order."""


class World(NamedTuple):
    """Everything."""

    messages: tuple[Message, ...]
    left: Scenario
    held: tuple[int, ...] = ()
    """In the order to run them; the first one runs."""

    def put(self, index: int, **changes: object) -> World:
        """The world with this message changed."""
        messages = list(self.messages)
        messages[index] = messages[index]._replace(**changes)
        return self._replace(messages=tuple(messages))


Step = tuple[str, World]


def progress(rules: Rules, world: World) -> Iterator[Step]:
    """What happens by itself."""
    if not world.held:
        batch = _batch(rules, world)
        if batch:
            after = world._replace(held=batch)
            for index in batch:
                after = after.put(index, at="held")
            yield f"{batch} are reserved", after
    elif world.held[0] == POISON:
        yield f"the poison takes its {world.left.takes}", _died(rules, world, world.left.takes)
    else:
        yield f"{world.held[0]} ends", world.put(world.held[0], at="ended")._replace(held=world.held[1:])


def mishaps(rules: Rules, world: World) -> Iterator[Step]:
    """What may happen besides."""
    left = world.left
    if world.held:
        if left.kills:
            yield "a kill", _died(rules, world._replace(left=left._replace(kills=left.kills - 1)), "child")
        if left.hosts:
            yield "a host goes down", _died(rules, world._replace(left=left._replace(hosts=left.hosts - 1)), "host")
        if left.orders:
            yield "a drain", _died(rules, world._replace(left=left._replace(orders=left.orders - 1)), "order")


def _batch(rules: Rules, world: World) -> tuple[int, ...]:
    waiting = [index for index, message in enumerate(world.messages) if message.at == "queued"]
    if rules.suspects_alone:
        suspects = [index for index in waiting if world.messages[index].suspect]
        return tuple(suspects[:1] or waiting[:BATCH])
    return tuple(waiting[:BATCH])


def _died(rules: Rules, world: World, what: str) -> World:
    """The child that holds the batch is dead, alone or with its supervisor or its host: count, and put back."""
    for place, index in enumerate(world.held):
        message = world.messages[index]
        ran = place == 0
        counted = ran or not rules.deaths_not_claims
        if what == "host":
            counted = message.suspect and rules.counts_suspects
        elif what == "supervisor":
            counted = counted and rules.reads_board
        elif what == "order":
            counted = counted and not rules.orders_uncounted
        lost = min(MAX_DELIVERIES, message.lost + counted)
        culprit = ran and what != "order"
        world = world.put(
            index,
            at="dead" if lost >= MAX_DELIVERIES else "queued",
            lost=lost,
            suspect=message.suspect or what == "host",
            deaths=min(MAX_DELIVERIES, message.deaths + culprit),
        )
    return world._replace(held=())


def check(world: World) -> None:
    """What must hold in every state."""
    for index, message in enumerate(world.messages):
        if message.lost > message.deaths:
            raise Broken(f"message {index} was counted lost {message.lost} times, but ran in {message.deaths} deaths")


def all_ended(world: World) -> bool:
    """Whether every message has its end, or was given up."""
    return all(message.at in ("ended", "dead") for message in world.messages)


def visit(scenario: Scenario, rules: Rules = Rules()) -> int:  # noqa: B008  it is frozen
    """Explore the scenario; the count of its states."""
    steps = functools.partial(progress, rules), functools.partial(mishaps, rules)
    return explore(World((Message(),) * MESSAGES, scenario), *steps, check, all_ended, LIMIT)


SCENARIOS = {
    "a poison for children": Scenario(kills=2, orders=2),
    "a poison for supervisors": Scenario("supervisor", kills=1, orders=1, hosts=2),
    "a poison for hosts": Scenario("host", kills=2, orders=1, hosts=2),
}

NEEDED = {
    "deaths_not_claims": (Scenario(), "message 1 was counted lost"),
    "orders_uncounted": (Scenario(orders=1), "was counted lost 1 times, but ran in 0 deaths"),
    "reads_board": (Scenario("supervisor"), "can never end"),
    "counts_suspects": (Scenario("host"), "can never end"),
    "suspects_alone": (Scenario("host"), "message 1 was counted lost"),
}
"""For each rule the scenario that needs it, and how its promise breaks there without it."""


@pytest.mark.parametrize("name", SCENARIOS)
def test_only_who_ran_is_given_up(name: str) -> None:
    """With all rules on, only what was running in so many deaths is given up, and everything ends."""
    assert visit(SCENARIOS[name]) > 10


@pytest.mark.parametrize("rule", Rules._fields)
def test_each_rule_is_needed(rule: str) -> None:
    """With this one rule off, an order of events that breaks a promise is found: the model can see that fault."""
    scenario, promise = NEEDED[rule]
    with pytest.raises(Broken, match=promise):
        visit(scenario, Rules()._replace(**{rule: False}))
