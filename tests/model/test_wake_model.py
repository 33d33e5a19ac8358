"""How idle children wait for work, and what a dying one takes with it: the model of the first half of rule 23.

    producer  queue the message ──▶ push a token on the wake key
    child     reserve, nothing there ──▶ BLPOP on the wake key, and behind it the next reserve, on one connection
    server    a token comes, or the time is over ──▶ the reserve of who waits longest; nothing there: it waits again
    steward   each tick: push a token if messages are queued (nudge)

A token goes to the child that waits longest, dead or alive: the server learns late that a connection has gone, and may
carry out what had come on it. A connection can also fall silent: it looks alive and carries nothing. What must hold:
nothing is held by a dead child that nobody buries again, and an end of every message is in reach.

| rule | switch | breaks without it |
|---|---|---|
| 23 | ``nudges`` | the dying child ate the only token: a queued message waits for ever |
| 23 | ``bounded`` | a child on a silent connection waits for ever, and eats all tokens |
| 23 | ``fenced`` | the server gives a message to the reserve of a child that was buried: nobody buries it again |
| 23 | ``gives_back`` | a child on a silent connection begins anew, and never learns what its last reserve brought |

That no new start happens while outcomes wait, the other half, is ``waits_for_answers`` in test_recall_model.py.
This model has 49,000 states; with two deaths and two silences, 234,000.
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
LIMIT = 60_000
"""States that there may be."""


class Rules(NamedTuple):
    """What the protocol says."""

    nudges: bool = True
    """The steward pushes a token each tick while messages are queued."""
    bounded: bool = True
    """A wait ends by itself, and the next one is on a connection that answers; else it lasts until a token comes."""
    fenced: bool = True
    """A reserve carries its owner's epoch, and does nothing once that owner was buried or has begun anew."""
    gives_back: bool = True
    """A child that begins anew puts back what it holds and does not know of."""


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
    """The server's list of who waits, the longest first: the number of the child, and whether it is alive, dead (and
    not buried yet), buried, or silent."""
    holding: tuple[int, ...] = ()
    """The dead and silent children whose reserve brought a message."""
    stranded: int = 0
    """Messages that a reserve gave to a child that was buried or had begun anew."""
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
    for number, state in world.waiting:
        if state == "dead":
            yield f"{number} is buried", _put_back(_marked(world, number, "buried"), number)
    for number in world.holding:
        if all(number != child.number for child in world.children) and (number, "dead") not in world.waiting:
            yield f"{number} is buried", _put_back(world, number)


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
        after = _marked(world.with_child(place, child._replace(state="looks")), child.number, "buried")
        yield f"{child.number} begins anew", _put_back(after, child.number) if rules.gives_back else after


def _put_back(world: World, number: int) -> World:
    """What a child holds that nobody runs is queued again."""
    kept = tuple(each for each in world.holding if each != number)
    return world._replace(holding=kept, queued=world.queued + len(world.holding) - len(kept))


def _server(rules: Rules, world: World) -> Iterator[Step]:
    number, state = world.waiting[0]
    rest = world._replace(waiting=world.waiting[1:])
    if state in ("dead", "buried"):
        yield f"the server sees that {number} has gone", rest
    if world.tokens:
        yield from _carried_out(rules, rest._replace(tokens=world.tokens - 1), number, state)


def _carried_out(rules: Rules, world: World, number: int, state: str) -> Iterator[Step]:
    """A token has ended the wait of ``number``, and its reserve is carried out."""
    gets = bool(world.queued) and (state != "buried" or not rules.fenced)
    after = world._replace(queued=world.queued - gets)
    if state == "alive":
        yield f"{number} is woken, and reserves", _told(after, number, "runs" if gets else "looks")
    elif state == "buried":
        yield f"{number}, who is buried, eats a token", after._replace(stranded=after.stranded + gets)
    else:  # whether dead or silent, it does not hear of it; a silent child's wait goes on at the child's end
        yield f"{number}, who is {state}, eats a token", after._replace(holding=after.holding + (number,) * gets)


def _told(world: World, number: int, state: str) -> World:
    place = next(place for place, child in enumerate(world.children) if child.number == number)
    return world.with_child(place, Child(number, state))


def mishaps(rules: Rules, world: World) -> Iterator[Step]:
    """What may happen besides: a child dies and is followed by another one, or its connection falls silent."""
    for place, child in enumerate(world.children):
        if world.deaths and child.state != "runs":
            after = _marked(world.with_child(place, Child(world.last)), child.number, "dead")
            yield f"{child.number} dies", after._replace(deaths=world.deaths - 1, last=world.last + 1)
        if world.silences and child.state == "waits":
            after = _marked(world.with_child(place, child._replace(state="silent")), child.number, "silent")
            yield f"{child.number} falls silent", after._replace(silences=world.silences - 1)


def _marked(world: World, number: int, state: str) -> World:
    """The world with the present wait of a child in another state."""
    return world._replace(
        waiting=tuple((other, state if other == number and was != "buried" else was) for other, was in world.waiting)
    )


def check(world: World) -> None:
    """What must hold in every state."""
    if world.stranded:
        raise Broken("a message was given to a child that was buried, or had begun anew")


def all_ended(world: World) -> bool:
    """Whether every message has come and gone."""
    running = any(child.state == "runs" for child in world.children)
    return not (world.to_come or world.queued or world.holding or running)


def visit(deaths: int, silences: int, rules: Rules = Rules(), children: int = CHILDREN) -> int:  # noqa: B008  it is frozen
    """Explore the model; the count of its states."""
    start = World(tuple(Child(number) for number in range(children)), deaths, silences)
    steps = functools.partial(progress, rules), functools.partial(mishaps, rules)
    return explore(start, *steps, check, all_ended, LIMIT)


def test_no_message_waits_for_ever() -> None:
    """Whoever dies or falls silent while it waits, every message finds a child."""
    assert visit(2, 1) > 1000
    assert visit(1, 2) > 1000


@pytest.mark.parametrize(
    ("rule", "deaths", "silences", "promise"),
    [
        ("nudges", 1, 0, "can never end"),
        ("bounded", 0, 2, "can never end"),
        ("fenced", 1, 0, "was buried"),
        ("gives_back", 0, 1, "can never end"),
    ],
)
def test_each_rule_is_needed(rule: str, deaths: int, silences: int, promise: str) -> None:
    """With this one rule off, an order of events that breaks a promise is found: the model can see that fault."""
    with pytest.raises(Broken, match=promise):
        visit(deaths, silences, Rules()._replace(**{rule: False}))
