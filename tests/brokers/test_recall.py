"""Contract: what a child holds behind its running task is taken back, and nothing else (protocol.md, 7-9)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from poolrt.brokers.base import Broker
from poolrt.errors import Fenced
from poolrt.message import Delivery, Outcome, Owner
from poolrt.states import TaskState

Child = Callable[..., Broker]
Put = Callable[..., list[str]]

FIRST = Owner("inc", 0, 1)


def ids(deliveries: list[Delivery]) -> list[str]:
    return [delivery.task_id for delivery in deliveries]


def place(delivery: Delivery) -> tuple[int, int]:
    return delivery.n, delivery.i


def done(*deliveries: Delivery) -> list[Outcome]:
    return [Outcome(delivery, TaskState.SUCCEEDED) for delivery in deliveries]


def test_what_comes_after_is_put_back(broker: Broker, child: Child, put: Put) -> None:
    """The rest of its reserve and later ones, uncounted and at their old place; the running one is still held."""
    wanted = put(5)
    client = child()
    first = client.settle([], 3, 1).deliveries
    second = client.settle([], 2, 2).deliveries
    assert broker.recall(FIRST, place(first[0]), 2) == 4
    assert broker.depth()[:3] == (4, 0, 1)
    again = child(1).settle([], 9, 1).deliveries
    assert ids(again) == wanted[1:]
    assert {(delivery.lost, delivery.suspect) for delivery in again} == {(0, False)}
    late = client.settle(done(*first, *second), 0, 3)
    assert late.stale == 4, "of all that it held only the running one was its own"
    assert broker.running(Owner("inc", 1, 1), *place(again[0])) == again[0]


def test_what_came_before_is_left(broker: Broker, child: Child, put: Put) -> None:
    """What ran before it may be finished and on its way: its outcome takes effect."""
    wanted = put(5)
    client = child()
    first = client.settle([], 1, 1).deliveries
    second = client.settle([], 4, 2).deliveries
    assert broker.recall(FIRST, place(second[2]), 2) == 1
    assert client.settle(done(*first, *second[:3]), 0, 3).stale == 0
    assert ids(child(1).settle([], 9, 1).deliveries) == wanted[4:]


def test_up_to_a_reserve(broker: Broker, child: Child, put: Put) -> None:
    """A later batch, reserved after the mark was set, is the child's to run."""
    wanted = put(6)
    client = child()
    batches = [client.settle([], 2, n).deliveries for n in (1, 2, 3)]
    assert broker.recall(FIRST, place(batches[0][0]), 2) == 3
    assert ids(child(1).settle([], 9, 1).deliveries) == wanted[1:4]
    assert client.settle(done(batches[0][0], *batches[2]), 0, 4).stale == 0


def test_running_order_is_priority_first(broker: Broker, child: Child, put: Put) -> None:
    """Within a reserve the urgent run first, whatever their age: what is after the running one is meant by that."""
    low, high = put(2), put(2, priority=7)
    client = child()
    held = client.settle([], 4, 1).deliveries
    assert ids(held) == high + low
    assert broker.recall(FIRST, place(held[2]), 1) == 1
    assert ids(child(1).settle([], 9, 1).deliveries) == low[1:]
    assert broker.recall(FIRST, place(held[0]), 1) == 2
    assert ids(child(2).settle([], 9, 1).deliveries) == [high[1], low[0]]
    assert client.settle(done(held[0]), 0, 2).stale == 0


def test_the_running_one_has_ended_meanwhile(broker: Broker, child: Child, put: Put) -> None:
    """What the child still holds of that reserve comes after it: the child gave it up when it saw the mark."""
    low, high = put(3), put(1, priority=7)
    client = child()
    held = client.settle([], 4, 1).deliveries
    assert client.settle(done(*held[:2]), 1, 2).deliveries == []
    assert broker.recall(FIRST, place(held[1]), 2) == 2
    assert ids(child(1).settle([], 9, 1).deliveries) == low[1:]
    assert ids(held[:1]) == high


def test_a_later_reserve_when_the_running_one_has_ended(broker: Broker, child: Child, put: Put) -> None:
    """Reserves up to the mark are taken back, a later one is not."""
    wanted = put(4)
    client = child()
    (running,) = client.settle([], 1, 1).deliveries
    client.settle([], 1, 2)
    client.settle(done(running), 1, 3)
    (last,) = client.settle([], 1, 4).deliveries
    assert broker.recall(FIRST, place(running), 3) == 2
    assert ids(child(1).settle([], 9, 1).deliveries) == wanted[1:3]
    assert client.settle(done(last), 0, 5).stale == 0


def test_a_late_reserve_gives_nothing(broker: Broker, child: Child, put: Put) -> None:
    """A reserve that was on its way when it was recalled is answered with nothing; its outcomes count (rule 8)."""
    first, *others = put(4)
    client = child()
    (running,) = client.settle([], 1, 1).deliveries
    assert broker.recall(FIRST, place(running), 3) == 0
    late = client.settle([Outcome(running, TaskState.SUCCEEDED, b"value")], 9, 2)
    assert (late.deliveries, late.stale) == ([], 0)
    found = broker.find(first)
    assert found is not None
    assert found.record == b"value"
    assert client.settle([], 9, 3).deliveries == []
    assert ids(client.settle([], 9, 4).deliveries) == others


def test_the_floor_never_falls(broker: Broker, child: Child, put: Put) -> None:
    """A repeated or an older recall does not let an older reserve in again."""
    put(2)
    client = child()
    (running,) = client.settle([], 1, 1).deliveries
    broker.recall(FIRST, place(running), 5)
    broker.recall(FIRST, place(running), 2)
    assert client.settle([], 9, 5).deliveries == []
    assert len(client.settle([], 9, 6).deliveries) == 1


def test_a_floor_is_one_owners(broker: Broker, child: Child, put: Put) -> None:
    """The slot's next generation and its neighbours count their reserves from one again."""
    put(4)
    client, neighbour = child(0), child(1)
    (running,) = client.settle([], 1, 1).deliveries
    theirs = neighbour.settle([], 1, 1).deliveries
    assert broker.recall(FIRST, place(running), 9) == 0
    assert len(neighbour.settle(done(*theirs), 1, 2).deliveries) == 1
    broker.bury(FIRST, None)
    assert len(child(0, 2).settle([], 1, 1).deliveries) == 1


def test_recalling_twice(broker: Broker, child: Child, put: Put) -> None:
    """The steward repeats it when the answer was lost: nothing is left to take, and what others hold is theirs."""
    put(3)
    client, other = child(0), child(1)
    held = client.settle([], 3, 1).deliveries
    assert broker.recall(FIRST, place(held[0]), 1) == 2
    theirs = other.settle([], 9, 1).deliveries
    assert broker.recall(FIRST, place(held[0]), 1) == 0
    assert other.settle(done(*theirs), 0, 2).stale == 0


def test_an_owner_that_is_gone(broker: Broker, child: Child, put: Put) -> None:
    """Buried, rescued or never there: 0, and nobody becomes an owner by it (rule 2)."""
    put(4)
    client, other = child(0), child(1)
    held = client.settle([], 2, 1).deliveries
    broker.bury(FIRST, None)
    assert broker.recall(FIRST, place(held[0]), 1) == 0
    with pytest.raises(Fenced):
        client.settle([], 1, 2)
    theirs = other.settle([], 2, 1).deliveries
    broker.rescue("inc", [], suspect=False)
    assert broker.recall(Owner("inc", 1, 1), place(theirs[0]), 1) == 0
    assert broker.recall(Owner("stranger", 0, 1), (1, 1), 9) == 0
    assert broker.depth()[:3] == (4, 0, 0)
    assert broker.others() == []


def test_a_recalled_suspect_stays_one(broker: Broker, child: Child, put: Put) -> None:
    """It was not started, so it is no more suspect and no less, and its losses are as they were."""
    (task,) = put()
    child(0).settle([], 1, 1)
    broker.rescue("inc", [], suspect=True)
    broker.join("next", "node")
    (first,) = put(1, priority=9)
    client = child(0, 1, "next")
    (running,) = client.settle([], 1, 1).deliveries
    assert running.task_id == first
    (suspect,) = client.settle(done(running), 1, 2).deliveries
    assert (suspect.task_id, suspect.suspect) == (task, True)
    assert broker.recall(Owner("next", 0, 1), place(running), 2) == 1
    (again,) = child(1, 1, "next").settle([], 9, 1).deliveries
    assert (again.task_id, again.suspect, again.lost) == (task, True, suspect.lost)


def test_a_recalled_delivery_cannot_be_released_or_found(broker: Broker, child: Child, put: Put) -> None:
    """The fence of what was taken back is stale for every call."""
    put(2)
    client = child()
    held = client.settle([], 2, 1).deliveries
    broker.recall(FIRST, place(held[0]), 1)
    assert client.release(held[1:]) == 0
    assert broker.running(FIRST, *place(held[1])) is None
    assert client.resume() == [place(held[0])]
