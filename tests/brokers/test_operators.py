"""Contract: operators look into a queue, empty it, or move it."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from poolrt.brokers.base import Broker, Found, QueueDepth, Settled
from poolrt.clock import FakeClock
from poolrt.message import Delivery, Enqueue, Outcome, Owner, Requeue, new_task_id
from poolrt.queue_choice import QueueChoice
from poolrt.states import TaskState

Factory = Callable[..., Broker]
PutIn = Callable[..., list[str]]
Reader = Callable[..., Broker]


@pytest.fixture
def put_in(broker: Broker) -> PutIn:
    """``put_in("mail", 3, priority=0, eta=None, task="")``: enqueue that many; their ids, in order."""

    def enqueue(queue: str, count: int = 1, priority: int = 0, eta: float | None = None, task: str = "") -> list[str]:
        ids = [new_task_id() for _ in range(count)]
        for name in ids:
            broker.enqueue([Enqueue(name, b"envelope of " + name.encode(), queue, priority, eta, task)])
        return ids

    return enqueue


@pytest.fixture
def reader(broker_factory: Factory, broker: Broker) -> Reader:
    """``reader("a", "b", slot=0)``: a client attached as an owner that reserves from these queues."""

    def make(*queues: str, slot: int = 0, incarnation: str = "inc") -> Broker:
        client = broker_factory()
        client.attach(Owner(incarnation, slot, 1), QueueChoice(queues))
        return client

    return make


def ids(deliveries: list[Delivery]) -> list[str]:
    return [delivery.task_id for delivery in deliveries]


def listed(broker: Broker) -> list[QueueDepth]:
    """What is queued or paused; a broker may list queues that only hold delayed or reserved messages too."""
    return [queue for queue in broker.queues() if queue.queued or queue.paused]


NOTHING = Settled([], 0, more=False)


def test_queues(broker: Broker, reader: Reader, put_in: PutIn, clock: FakeClock) -> None:
    """By name: how many wait, since when, and whether it is paused."""
    assert broker.queues() == []
    put_in("mail", 2)
    clock.advance(4)
    put_in("mail", 1, priority=9)
    put_in("bulk", 3)
    put_in("late", 1, eta=clock.wall() + 100)
    clock.advance(2)
    broker.pause("bulk")
    broker.pause("nothing")
    assert listed(broker) == [
        QueueDepth("bulk", 3, paused=True, oldest=pytest.approx(2)),
        QueueDepth("mail", 3, paused=False, oldest=pytest.approx(6)),
        QueueDepth("nothing", 0, paused=True, oldest=None),
    ]
    reader("mail").settle([], 9, 1)
    broker.unpause("nothing")
    assert [queue.name for queue in listed(broker)] == ["bulk"]


def test_odd_names(broker: Broker, reader: Reader, put_in: PutIn) -> None:
    """A queue's name is any text: it is never taken for a pattern, a number or a part of a key."""
    names = ["", " ", "*", "{mail}", "mail:ready", "ünïcode", "'; drop table task; --", "7"]
    tasks = {name: put_in(name)[0] for name in names}
    assert [queue.name for queue in listed(broker)] == sorted(names)
    broker.pause("*")
    for slot, name in enumerate(names):
        got = ids(reader(name, slot=slot).settle([], 9, 1).deliveries)
        assert got == ([] if name == "*" else [tasks[name]]), name
    assert [found.id for found in broker.peek("*")] == [tasks["*"]]
    assert broker.move("*", "ünïcode") == 1
    assert broker.empty("ünïcode") == 1


def test_peek(broker: Broker, reader: Reader, put_in: PutIn, clock: FakeClock) -> None:
    """The first to run, as many as asked for; nothing is reserved or changed by it, and a pause does not hide them."""
    low = put_in("mail", 3)
    high = put_in("mail", 1, priority=9)
    put_in("other")
    put_in("mail", 1, eta=clock.wall() + 9)
    broker.pause("mail")
    assert broker.peek("mail") == [
        Found(task, TaskState.QUEUED, b"envelope of " + task.encode(), None, 0) for task in high + low
    ]
    assert [found.id for found in broker.peek("mail", 2)] == (high + low)[:2]
    assert broker.peek("mail", 0) == []
    assert broker.peek("nobody's") == []
    broker.unpause("mail")
    assert ids(reader("mail").settle([], 9, 1).deliveries) == high + low
    assert broker.peek("mail") == []


def test_peek_shows_losses(broker: Broker, reader: Reader, put_in: PutIn) -> None:
    """How often a message was lost is seen, and a suspect is queued like others."""
    (task,) = put_in("mail")
    (held,) = reader("mail").settle([], 1, 1).deliveries
    broker.bury(Owner("inc", 0, 1), Requeue(held, 0))
    reader("mail", slot=1).settle([], 1, 1)
    broker.rescue("inc", [], suspect=True)
    assert [(found.id, found.state, found.lost) for found in broker.peek("mail")] == [(task, TaskState.QUEUED, 1)]


def test_empty(broker: Broker, reader: Reader, put_in: PutIn, clock: FakeClock) -> None:
    """Queued messages vanish, the first to run first; what is held, delayed or in other queues stays."""
    (held,) = put_in("mail", 1, priority=9)
    client = reader("mail")
    delivery = client.settle([], 1, 1).deliveries[0]
    low, high = put_in("mail", 2), put_in("mail", 1, priority=5)
    (other,), (delayed,) = put_in("other"), put_in("mail", eta=clock.wall() + 9)
    assert broker.empty("mail", 2) == 2
    assert [broker.find(task) is None for task in high + low] == [True, True, False]
    assert broker.empty("mail", 0) == 0
    assert broker.empty("mail") == 1
    assert broker.empty("mail") == 0
    assert [found and found.state for found in map(broker.find, (held, other, delayed))] == [
        TaskState.RESERVED,
        TaskState.QUEUED,
        TaskState.DELAYED,
    ]
    assert client.settle([Outcome(delivery, TaskState.SUCCEEDED, b"value")], 9, 2) == NOTHING
    assert broker.depth() == (1, 1, 0, 0, pytest.approx(0))
    assert broker.enqueue([Enqueue(low[0], b"again", "mail", 0, None)]) == [True]


def test_emptying_ends_a_wait(broker: Broker, broker_factory: Factory, put_in: PutIn) -> None:
    """Who waits for a message that is deleted is told: there will be no record."""
    (task,) = put_in("mail")
    answers: list[Found | None] = []
    waiter = broker_factory()
    thread = threading.Thread(target=lambda: answers.append(waiter.wait(task, 30)))
    thread.start()
    assert broker.empty("mail") == 1
    thread.join(10)
    assert answers == [None]


def test_move(broker: Broker, reader: Reader, put_in: PutIn, clock: FakeClock) -> None:
    """The first to run go first, each with its priority, in their order; what is held or delayed stays."""
    (held,) = put_in("mail", 1, priority=9)
    client = reader("mail")
    client.settle([], 1, 1)
    low, high = put_in("mail", 3), put_in("mail", 1, priority=5)
    (delayed,) = put_in("mail", eta=clock.wall() + 9)
    assert broker.move("mail", "bulk", 0) == 0
    assert broker.move("mail", "bulk", 2) == 2
    assert [found.id for found in broker.peek("bulk")] == [*high, low[0]]
    assert broker.move("mail", "bulk") == 2
    assert broker.move("mail", "bulk") == 0
    assert client.settle([], 9, 2) == NOTHING
    assert ids(reader("bulk", slot=1).settle([], 9, 1).deliveries) == high + low
    assert [found and found.state for found in map(broker.find, (held, delayed))] == [
        TaskState.RESERVED,
        TaskState.DELAYED,
    ]
    clock.advance(9)
    broker.promote()
    assert ids(client.settle([], 9, 3).deliveries) == [delayed]


def test_moving_out_of_a_pause_and_into_one(broker: Broker, reader: Reader, put_in: PutIn) -> None:
    """The queue it is in decides whether a message waits, and what was held by a pause can be moved out of it."""
    wanted = put_in("mail", 2)
    broker.pause("mail")
    client = reader()
    assert broker.move("mail", "bulk", 1) == 1
    held = client.settle([], 9, 1)
    assert (ids(held.deliveries), held.more) == (wanted[:1], False)
    client.release(held.deliveries)
    assert broker.move("bulk", "mail") == 1
    assert client.settle([], 9, 2) == NOTHING
    broker.unpause("mail")
    assert sorted(ids(client.settle([], 9, 3).deliveries)) == sorted(wanted)


def test_moving_keeps_suspicion_and_losses(broker: Broker, reader: Reader, put_in: PutIn) -> None:
    """A suspect is one in the other queue too, and its losses still count."""
    (task,) = put_in("mail")
    (held,) = reader("mail").settle([], 1, 1).deliveries
    broker.bury(Owner("inc", 0, 1), Requeue(held, 0))
    reader("mail", slot=1).settle([], 1, 1)
    broker.rescue("inc", [], suspect=True)
    broker.join("next", "node")
    assert broker.move("mail", "bulk") == 1
    (delivery,) = reader("bulk", incarnation="next").settle([], 9, 1).deliveries
    assert (delivery.task_id, delivery.suspect, delivery.lost) == (task, True, 1)


def test_a_moved_message_is_put_back_where_it_was_moved(broker: Broker, reader: Reader, put_in: PutIn) -> None:
    """A release does not undo the move."""
    wanted = put_in("mail")
    broker.move("mail", "bulk")
    client = reader("bulk")
    client.release(client.settle([], 9, 1).deliveries)
    assert [found.id for found in broker.peek("bulk")] == wanted
    assert broker.peek("mail") == []
