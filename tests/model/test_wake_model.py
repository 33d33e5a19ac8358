"""How idle children wait for work, and what a dying one takes with it: the model of the first half of rule 23.

    producer  queue the message ──▶ push a token on the wake key
    child     reserve, nothing there ──▶ BLPOP on the wake key ──token──▶ reserve;   no token in time: wait again
    steward   each tick: push a token if messages are queued (nudge)

A token goes to the child that waits longest, dead or alive: the server learns late that a connection has gone. A
connection can also fall silent: it looks alive and carries nothing. What must hold: nothing is held by a dead child
that nobody buries again, and an end of every message is in reach.

| rule | switch | breaks without it |
|---|---|---|
| 23 | ``nudges`` | the dying child ate the only token: a queued message waits for ever |
| 23 | ``bounded`` | a child on a silent connection waits for ever, and eats all tokens |
| 23 | ``waits_for_wake`` | the server gives a message to a dead child's claim: nobody buries that child again |

That no new start happens while outcomes wait, the other half, is ``waits_for_answers`` in test_recall_model.py.
This model has 14,000 states.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.model.exploration import Broken, explore

CHILDREN = 2
TOKENS = 3
"""More are not pushed: so many wake everybody."""
LIMIT = 20_000
"""States that there may be."""


class Rules(NamedTuple):
    """What the protocol says."""

    nudges: bool = True
    """The steward pushes a token each tick while messages are queued."""
    bounded: bool = True
    """A wait ends by itself, and the next one is on a connection that answers; else it lasts until a token comes."""
    waits_for_wake: bool = True
    """A child blocks on the wake key, and claims when it is awake; else it blocks in the claim itself."""


class Child(NamedTuple):
    """A child."""

    number: int
    state: str = "looks"
    """looks (reserves next), waits, silent (waits on a connection that carries nothing), runs."""


class World(NamedTuple):
    """Everything."""

    children: tuple[Child, ...]
    deaths: int
    silences: int
    to_come: int = 2
    """Messages that will be queued."""
    queued: int = 0
    tokens: int = 0
    waiting: tuple[tuple[int, str], ...] = ()
    """The server's list of who waits, the longest first: number of the child, and whether it is alive, dead, silent."""
    stranded: int = 0
    """Messages that a claim gave to a child that was dead and buried."""
    last: int = CHILDREN

    def with_child(self, place: int, child: Child) -> World:
        """The world with this child changed."""
        return self._replace(children=(*self.children[:place], child, *self.children[place + 1 :]))


Step = tuple[str, World]


def progress(rules: Rules, world: World) -> Iterator[Step]:
    """What happens by itself."""
    if world.to_come:
        after = world._replace(to_come=world.to_come - 1, queued=world.queued + 1)
        yield "a message is queued", after._replace(tokens=min(TOKENS, after.tokens + 1))
    if rules.nudges and world.queued and not world.tokens:
        yield "the steward nudges", world._replace(tokens=1)
    for place, child in enumerate(world.children):
        yield from _child(rules, world, place, child)
    if world.waiting:
        yield from _server(rules, world)


def _child(rules: Rules, world: World, place: int, child: Child) -> Iterator[Step]:
    if child.state == "looks" and world.queued:
        yield (
            f"{child.number} reserves",
            world.with_child(place, child._replace(state="runs"))._replace(queued=world.queued - 1),
        )
    elif child.state == "looks":
        waiting = (*world.waiting, (child.number, "alive"))
        yield f"{child.number} waits", world.with_child(place, child._replace(state="waits"))._replace(waiting=waiting)
    elif child.state == "runs":
        yield f"{child.number} settles", world.with_child(place, child._replace(state="looks"))
    elif child.state == "silent" and rules.bounded:  # by the watchdog; without silence the server ends the wait in time
        rest = tuple(entry for entry in world.waiting if entry[0] != child.number)
        after = world.with_child(place, child._replace(state="waits"))
        yield f"{child.number} waits again", after._replace(waiting=(*rest, (child.number, "alive")))


def _server(rules: Rules, world: World) -> Iterator[Step]:
    number, state = world.waiting[0]
    rest = world._replace(waiting=world.waiting[1:])
    if state == "dead":
        yield f"the server sees that {number} has gone", rest
    if not rules.waits_for_wake:
        if world.queued:
            yield from _claimed(rest._replace(queued=world.queued - 1), number, state)
    elif world.tokens:
        rest = rest._replace(tokens=world.tokens - 1)
        if state == "alive":
            yield f"{number} is woken", _told(rest, number, "looks")
        else:  # a silent child's wait goes on at the child's end
            yield f"{number}, who is {state}, eats a token", rest if state == "dead" else _again(rest, number)


def _claimed(world: World, number: int, state: str) -> Iterator[Step]:
    if state == "alive":
        yield f"{number} is given a message", _told(world, number, "runs")
    else:
        yield f"{number}, who is {state}, is given a message", world._replace(stranded=world.stranded + 1)


def _told(world: World, number: int, state: str) -> World:
    place = next(place for place, child in enumerate(world.children) if child.number == number)
    return world.with_child(place, Child(number, state))


def _again(world: World, number: int) -> World:
    return world._replace(waiting=(*world.waiting, (number, "silent")))


def mishaps(rules: Rules, world: World) -> Iterator[Step]:
    """What may happen besides: a child dies and is followed by another one, or its connection falls silent."""
    for place, child in enumerate(world.children):
        if world.deaths and child.state != "runs":
            waiting = tuple((number, "dead" if number == child.number else was) for number, was in world.waiting)
            after = world.with_child(place, Child(world.last))
            yield f"{child.number} dies", after._replace(waiting=waiting, deaths=world.deaths - 1, last=world.last + 1)
        if world.silences and child.state == "waits":
            waiting = tuple((number, "silent" if number == child.number else was) for number, was in world.waiting)
            after = world.with_child(place, child._replace(state="silent"))
            yield f"{child.number} falls silent", after._replace(waiting=waiting, silences=world.silences - 1)


def check(world: World) -> None:
    """What must hold in every state."""
    if world.stranded:
        raise Broken("a message was given to a child that was dead and buried")


def all_ended(world: World) -> bool:
    """Whether every message has come and gone."""
    return not (world.to_come or world.queued) and all(child.state != "runs" for child in world.children)


def visit(deaths: int, silences: int, rules: Rules = Rules(), children: int = CHILDREN) -> int:  # noqa: B008  it is frozen
    """Explore the model; the count of its states."""
    start = World(tuple(Child(number) for number in range(children)), deaths, silences)
    steps = functools.partial(progress, rules), functools.partial(mishaps, rules)
    return explore(start, *steps, check, all_ended, LIMIT)


def test_no_message_waits_for_ever() -> None:
    """Whoever dies or falls silent while it waits, every message finds a child."""
    assert visit(2, 2) > 1000


@pytest.mark.parametrize(
    ("rule", "deaths", "silences", "promise"),
    [
        ("nudges", 1, 0, "can never end"),
        ("bounded", 0, 2, "can never end"),
        ("waits_for_wake", 1, 0, "dead and buried"),
    ],
)
def test_each_rule_is_needed(rule: str, deaths: int, silences: int, promise: str) -> None:
    """With this one rule off, an order of events that breaks a promise is found: the model can see that fault."""
    with pytest.raises(Broken, match=promise):
        visit(deaths, silences, Rules()._replace(**{rule: False}))
