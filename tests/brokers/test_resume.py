"""Contract: what was submitted is answered in order, and after trouble a child asks what it holds (protocol.md, 3)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from poolrt.brokers.base import Broker, Settled
from poolrt.errors import Fenced
from poolrt.message import Delivery, Outcome, Owner
from poolrt.states import TaskState

Child = Callable[..., Broker]
Factory = Callable[..., Broker]
Put = Callable[..., list[str]]

FIRST = Owner("inc", 0, 1)


def ids(deliveries: list[Delivery]) -> list[str]:
    return [delivery.task_id for delivery in deliveries]


def places(deliveries: list[Delivery]) -> set[tuple[int, int]]:
    return {(delivery.n, delivery.i) for delivery in deliveries}


def test_answers_come_in_order(child: Child, put: Put) -> None:
    """Each answer is of the oldest submit that has none; what is done is done whether or not it was answered."""
    wanted = put(4)
    client = child()
    for n in (1, 2, 3):
        client.submit([], 1, n)
    got = [client.answer() for _ in range(3)]
    assert [ids(settled.deliveries) for settled in got] == [[task] for task in wanted[:3]]
    assert [settled.deliveries[0].n for settled in got] == [1, 2, 3]
    client.submit([Outcome(got[0].deliveries[0], TaskState.SUCCEEDED)] * 2, 0, 4)
    assert client.answer() == Settled([], 1, more=True)


def test_settle_is_both(child: Child, put: Put) -> None:
    """After every answer was taken ``settle`` says what its own submit did."""
    wanted = put(2)
    client = child()
    client.submit([], 1, 1)
    assert ids(client.answer().deliveries) == wanted[:1]
    assert ids(client.settle([], 1, 2).deliveries) == wanted[1:]


def test_a_submit_of_a_fenced_owner(broker: Broker, child: Child, put: Put) -> None:
    """The submit or its answer says so, and nothing is done."""
    (task,) = put()
    client = child()
    (held,) = client.settle([], 1, 1).deliveries
    broker.bury(FIRST, None)
    for n in (2, 3):

        def both(n: int = n) -> None:
            client.submit([Outcome(held, TaskState.SUCCEEDED, b"late")], 1, n)
            client.answer()

        with pytest.raises(Fenced):
            both()
    found = broker.find(task)
    assert found is not None
    assert found.state is TaskState.QUEUED


def test_nothing_is_held(child: Child) -> None:
    """Before its first reserve, and after it settled all."""
    assert child().resume() == []


def test_what_is_held(broker: Broker, child: Child, put: Put) -> None:
    """Every delivery that was given and has not ended, of all reserves, and only the owner's own."""
    put(6)
    client, other = child(0), child(1)
    held = client.settle([], 3, 1).deliveries + client.settle([], 1, 2).deliveries
    theirs = other.settle([], 1, 1).deliveries
    assert set(client.resume()) == places(held)
    assert len(client.resume()) == len(held)
    client.settle([Outcome(held[0], TaskState.SUCCEEDED)], 0, 3)
    client.release([held[1]])
    assert set(client.resume()) == places(held[2:])
    assert set(other.resume()) == places(theirs)
    assert broker.depth().reserved == 3
    client.settle([Outcome(delivery, TaskState.SUCCEEDED) for delivery in held[2:]], 0, 4)
    assert client.resume() == []


def test_a_new_connection_of_the_owner(broker_factory: Factory, child: Child, put: Put) -> None:
    """It learns what the former one was given, settles what ran, and releases the rest."""
    wanted = put(3)
    held = child().settle([], 3, 1).deliveries
    again = broker_factory()
    again.attach(FIRST)
    assert set(again.resume()) == places(held)
    assert again.settle([Outcome(held[0], TaskState.SUCCEEDED)], 0, 2).stale == 0
    assert again.release(held[1:]) == 2
    assert ids(again.settle([], 9, 3).deliveries) == wanted[1:]


def test_who_may_not_be_heard(broker: Broker, child: Child, put: Put) -> None:
    """Nobody, a buried owner and one of a rescued start are fenced, whether they held something or not."""
    put()
    with pytest.raises(Fenced):
        broker.resume()
    buried, unheard, left = child(0), child(1), child(2)
    buried.settle([], 1, 1)
    broker.bury(FIRST, None)
    broker.bury(Owner("inc", 1, 1), None)
    for client in (buried, unheard):
        with pytest.raises(Fenced):
            client.resume()
    assert left.resume() == []
    broker.rescue("inc", [], suspect=False)
    with pytest.raises(Fenced):
        left.resume()


def test_resuming_changes_nothing(child: Child, put: Put) -> None:
    """The owner goes on where it was: its outcomes count, and its reserves go on."""
    wanted = put(2)
    client = child()
    held = client.settle([], 1, 1).deliveries
    client.resume()
    client.resume()
    got = client.settle([Outcome(held[0], TaskState.SUCCEEDED)], 1, 2)
    assert (ids(got.deliveries), got.stale) == (wanted[1:], 0)
