"""Contract: what is enqueued is stored once, and runs by priority, then in the order of enqueueing, when it is due."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from poolrt.brokers.base import Broker, Depth
from poolrt.clock import FakeClock
from poolrt.message import Delivery, Enqueue, Outcome, new_task_id
from poolrt.states import TaskState

Child = Callable[..., Broker]
Put = Callable[..., list[str]]


def ids(deliveries: list[Delivery]) -> list[str]:
    return [delivery.task_id for delivery in deliveries]


def test_envelope_comes_back_as_it_was(broker: Broker, child: Child) -> None:
    """The broker carries any bytes unread, with the delivery's fence and history."""
    task = new_task_id()
    broker.enqueue([Enqueue(task, b"\x00\xff any bytes", "mail", 3, None)])
    (delivery,) = child().settle([], 5, 7).deliveries
    assert delivery == Delivery(b"\x00\xff any bytes", 7, delivery.i, task, 0, suspect=False)
    assert delivery.suspect is False


def test_order_within_one_priority(child: Child, put: Put) -> None:
    """Messages of one priority are delivered in the order of enqueueing, over several reserves and producers' calls."""
    wanted = put(3) + put(2)
    client = child()
    assert ids(client.settle([], 2, 1).deliveries) + ids(client.settle([], 9, 2).deliveries) == wanted


def test_priorities(child: Child, put: Put) -> None:
    """Nine runs first, zero last, and a batch is itself in that order."""
    by_priority = {priority: put(1, priority)[0] for priority in (3, 9, 0, 5, 1, 8, 2, 7, 4, 6)}
    client = child()
    got = ids(client.settle([], 4, 1).deliveries) + ids(client.settle([], 99, 2).deliveries)
    assert got == [by_priority[priority] for priority in range(9, -1, -1)]


def test_order_is_kept_by_a_release(child: Child, put: Put) -> None:
    """What is released, in whatever order, is delivered at its old place and uncounted (protocol.md, 4)."""
    wanted = put(5)
    client = child()
    held = client.settle([], 3, 1).deliveries
    assert client.release([held[2], held[0], held[1]]) == 3
    again = client.settle([], 9, 2).deliveries
    assert ids(again) == wanted
    assert {delivery.lost for delivery in again} == {0}


def test_known_ids_are_not_stored_again(broker: Broker, child: Child, put: Put) -> None:
    """An id that is queued, held or recorded is refused, alone and inside one call, and what is stored stays."""
    queued, held = put(1, 0)[0], put(1, 9)[0]
    client = child()
    deliveries = client.settle([], 1, 1).deliveries
    assert ids(deliveries) == [held]
    new = new_task_id()
    items = [Enqueue(task, b"other", "default", 0, None) for task in (queued, held, new, new)]
    assert broker.enqueue(items) == [False, False, True, False]
    client.settle([Outcome(deliveries[0], TaskState.SUCCEEDED, b"record")], 0, 2)
    assert broker.enqueue(items) == [False] * 4
    found = broker.find(queued)
    assert found is not None
    assert found.envelope == b"envelope of " + queued.encode()


def test_an_id_is_free_again_without_a_record(broker: Broker, child: Child, put: Put) -> None:
    """A task that ended and kept nothing is unknown, so its id may come again."""
    (task,) = put()
    client = child()
    client.settle([Outcome(d, TaskState.SUCCEEDED) for d in client.settle([], 1, 1).deliveries], 0, 2)
    assert broker.find(task) is None
    assert broker.enqueue([Enqueue(task, b"", "default", 0, None)]) == [True]


def test_enqueue_nothing(broker: Broker) -> None:
    """No items, no error."""
    assert broker.enqueue([]) == []


def test_enqueue_is_all_or_nothing(broker: Broker) -> None:
    """An item that cannot be stored leaves none of its call behind."""
    good = new_task_id()
    with pytest.raises(Exception):  # noqa: B017  whatever the driver says of the object
        broker.enqueue([Enqueue(good, b"", "default", 0, None), Enqueue("bad", object(), "default", 0, None)])  # type: ignore[arg-type]
    assert broker.find(good) is None
    assert broker.enqueue([Enqueue(good, b"", "default", 0, None)]) == [True]


def test_delayed_until_promoted(broker: Broker, child: Child, put: Put, clock: FakeClock) -> None:
    """A delayed message is not delivered before its eta, then at its old place; promote says when the next is due."""
    assert broker.promote() is None
    late = put(1, eta=clock.wall() + 60)
    later = put(1, eta=clock.wall() + 90)
    now = put(1)
    assert broker.promote() == pytest.approx(60)
    client = child()
    held = client.settle([], 9, 1)
    assert ids(held.deliveries) == now
    assert not held.more
    assert broker.depth() == Depth(queued=0, delayed=2, reserved=1, dead=0, oldest=None)
    client.release(held.deliveries)
    clock.advance(60)
    assert broker.promote() == pytest.approx(30)
    assert ids(client.settle([], 9, 2).deliveries) == late + now
    clock.advance(1000)
    assert broker.promote() is None
    assert ids(client.settle([], 9, 3).deliveries) == later


def test_an_eta_that_has_passed_is_no_delay(broker: Broker, child: Child, put: Put, clock: FakeClock) -> None:
    """A message due now is queued at once."""
    wanted = put(1, eta=clock.wall() - 5) + put(1, eta=clock.wall())
    assert ids(child().settle([], 9, 1).deliveries) == wanted
    assert broker.promote() is None


def test_promote_keeps_the_priority(broker: Broker, child: Child, put: Put, clock: FakeClock) -> None:
    """A delayed message of a high priority overtakes those queued before it."""
    low = put(2)
    high = put(1, priority=9, eta=clock.wall() + 1)
    clock.advance(2)
    broker.promote()
    assert ids(child().settle([], 9, 1).deliveries) == high + low


def test_many_due_at_once(broker: Broker, child: Child, put: Put, clock: FakeClock) -> None:
    """Promote works in bounded steps: it asks to be called again at once until all is queued."""
    wanted = put(2500, eta=clock.wall() + 1)
    clock.advance(1)
    calls = 1
    while broker.promote() is not None:
        calls += 1
        assert calls < 10
    assert broker.depth().queued == len(wanted)
    assert ids(child().settle([], 3000, 1).deliveries) == wanted


def test_find_follows_a_message(broker: Broker, child: Child, put: Put, clock: FakeClock) -> None:
    """``find`` names each state on the way, and nothing for what was never enqueued."""
    assert broker.find("nobody") is None
    (task,) = put(eta=clock.wall() + 10)
    client = child()

    def state() -> TaskState:
        found = broker.find(task)
        assert found is not None
        return found.state

    assert state() is TaskState.DELAYED
    clock.advance(10)
    broker.promote()
    assert state() is TaskState.QUEUED
    deliveries = client.settle([], 1, 1).deliveries
    assert state() is TaskState.RESERVED
    client.settle([Outcome(deliveries[0], TaskState.FAILED, b"why")], 0, 2)
    assert state() is TaskState.FAILED


def test_depth(broker: Broker, child: Child, put: Put, clock: FakeClock) -> None:
    """Counts by state, and how long the oldest queued message has been able to run."""
    assert broker.depth() == Depth(0, 0, 0, 0, None)
    put(1, priority=9)
    clock.advance(5)
    put(2, priority=1)
    clock.advance(5)
    put(1, eta=clock.wall() + 100)
    assert broker.depth() == Depth(queued=3, delayed=1, reserved=0, dead=0, oldest=pytest.approx(10))
    client = child()
    held = client.settle([], 1, 1).deliveries
    assert broker.depth() == Depth(queued=2, delayed=1, reserved=1, dead=0, oldest=pytest.approx(5))
    client.settle([Outcome(held[0], TaskState.DEAD, b"why")], 9, 2)
    clock.advance(100)
    broker.promote()
    clock.advance(1)
    assert broker.depth() == Depth(queued=1, delayed=0, reserved=2, dead=1, oldest=pytest.approx(1))
