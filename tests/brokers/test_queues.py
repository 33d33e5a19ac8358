"""Contract: nodes choose the queues they reserve from, and queues are paused."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from poolrt.brokers.base import Broker, QueueDepth, Settled
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


def ended(deliveries: list[Delivery]) -> list[Outcome]:
    return [Outcome(delivery, TaskState.SUCCEEDED) for delivery in deliveries]


NOTHING = Settled([], 0, more=False)


# ---- nodes that choose


def test_a_chosen_queue(reader: Reader, put_in: PutIn) -> None:
    """Only what is in the queue is reserved, in its order; a client that chose none takes the rest."""
    mail, other = put_in("mail", 2), put_in("other", 2)
    urgent = put_in("mail", 1, priority=5)
    client = reader("mail")
    got = client.settle([], 9, 1)
    assert ids(got.deliveries) == urgent + mail
    assert ids(reader(slot=1).settle([], 9, 1).deliveries) == other


def test_several_chosen_queues_are_as_one(reader: Reader, put_in: PutIn) -> None:
    """Priority first, then age, over all of the chosen queues; batches end where they should."""
    first, second = put_in("a")[0], put_in("b")[0]
    put_in("c", 1, priority=9)
    third, fourth = put_in("b")[0], put_in("a")[0]
    urgent = put_in("b", 1, priority=9)[0]
    client = reader("a", "b")
    got = ids(client.settle([], 2, 1).deliveries) + ids(client.settle([], 9, 2).deliveries)
    assert got == [urgent, first, second, third, fourth]


def test_more_is_what_the_owner_may_reserve(reader: Reader, put_in: PutIn) -> None:
    """``more`` is false while only other queues hold messages: else an idle child would look again and again."""
    put_in("mail", 2)
    put_in("other")
    client = reader("mail", "empty")
    assert client.settle([], 1, 1).more
    assert not client.settle([], 1, 2).more
    assert client.settle([], 1, 3) == NOTHING
    assert not reader("empty", slot=1).settle([], 1, 1).more
    assert reader(slot=2).settle([], 0, 1).more


def test_follow_ups_go_to_their_own_queue(reader: Reader, put_in: PutIn) -> None:
    """What a settle places elsewhere is not reserved by the same settle, and others find it."""
    put_in("mail")
    client = reader("mail")
    held = client.settle([], 1, 1).deliveries
    links = tuple(Enqueue(new_task_id(), b"", queue, 0, None) for queue in ("other", "mail"))
    got = client.settle([Outcome(held[0], TaskState.SUCCEEDED, follow_ups=links)], 9, 2)
    assert (ids(got.deliveries), got.more) == ([links[1].id], False)
    assert ids(reader("other", slot=1).settle([], 9, 1).deliveries) == [links[0].id]


def test_put_back_into_its_queue(broker: Broker, reader: Reader, put_in: PutIn, clock: FakeClock) -> None:
    """Released, buried or promoted: a message is in the queue it was enqueued to."""
    wanted = put_in("mail", 2) + put_in("mail", eta=clock.wall() + 5)
    client = reader("mail")
    held = client.settle([], 9, 1).deliveries
    client.release([held[0]])
    broker.bury(Owner("inc", 0, 1), Requeue(held[1], 0))
    clock.advance(5)
    broker.promote()
    assert reader("other", slot=1).settle([], 9, 1) == NOTHING
    assert ids(reader("mail", slot=2).settle([], 9, 1).deliveries) == wanted


def test_a_choice_and_tasks_left_to_others(reader: Reader, put_in: PutIn) -> None:
    """``without`` holds inside the chosen queues."""
    put_in("mail", 2, task="app.unknown")
    put_in("other", 1, task="app.known")
    (known,) = put_in("mail", 1, task="app.known")
    client = reader("mail")
    assert ids(client.settle([], 2, 1, without=["app.unknown"]).deliveries) == [known]


def test_a_suspect_of_another_queue_is_in_nobodys_way(broker: Broker, reader: Reader, put_in: PutIn) -> None:
    """Suspects are alone among what the owner may reserve; those of other queues do not count."""
    (suspect,) = put_in("bad")
    reader("bad").settle([], 1, 1)
    broker.rescue("inc", [], suspect=True)
    broker.join("next", "node")
    behind = put_in("bad", 2)
    fine = put_in("fine", 2)
    assert ids(reader("fine", incarnation="next").settle([], 9, 1).deliveries) == fine
    client = reader("bad", "fine", slot=1, incarnation="next")
    got = client.settle([], 9, 1)
    assert [(delivery.task_id, delivery.suspect) for delivery in got.deliveries] == [(suspect, True)]
    assert got.more
    assert ids(client.settle(ended(got.deliveries), 9, 2).deliveries) == behind


def test_a_suspect_waits_until_a_choosy_owner_holds_nothing(broker: Broker, reader: Reader, put_in: PutIn) -> None:
    """What is to run before the suspect is taken without it; then it waits for the owner's hands to be empty."""
    put_in("a")
    reader("a").settle([], 1, 1)
    broker.rescue("inc", [], suspect=True)
    broker.join("next", "node")
    before, after = put_in("b", 1, priority=3), put_in("b")
    client = reader("a", "b", incarnation="next")
    held = client.settle([], 9, 1).deliveries
    assert ids(held) == before
    assert client.settle([], 9, 2).deliveries == []
    (suspect,) = client.settle(ended(held), 9, 3).deliveries
    assert suspect.suspect
    assert ids(client.settle(ended([suspect]), 9, 4).deliveries) == after


# ---- pauses


@pytest.mark.parametrize("chosen", [(), ("mail",), ("other", "mail")])
def test_a_paused_queue_gives_nothing(broker: Broker, reader: Reader, put_in: PutIn, chosen: tuple[str, ...]) -> None:
    """Its messages wait, whoever asks, and are no reason to ask again; others are given, also those behind it."""
    mail = put_in("mail", 2, priority=9)
    broker.pause("mail")
    client = reader(*chosen)
    assert client.settle([], 9, 1) == NOTHING
    other = put_in("other")
    got = client.settle([], 9, 2)
    assert ids(got.deliveries) == ([] if chosen == ("mail",) else other)
    assert not got.more
    broker.unpause("mail")
    got = client.settle([], 1, 3)
    assert (ids(got.deliveries), got.more) == (mail[:1], True)


def test_pausing_twice(broker: Broker, reader: Reader, put_in: PutIn) -> None:
    """Each may be said again; one unpause ends it, and a queue that was never paused may be unpaused."""
    wanted = put_in("mail")
    broker.unpause("mail")
    broker.pause("mail")
    broker.pause("mail")
    broker.unpause("mail")
    assert ids(reader().settle([], 9, 1).deliveries) == wanted
    broker.unpause("mail")
    assert listed(broker) == []


def test_what_is_held_goes_on(broker: Broker, reader: Reader, put_in: PutIn) -> None:
    """A pause touches no delivery: it is settled as ever."""
    first, second = put_in("mail", 2)
    client = reader()
    held = client.settle([], 2, 1).deliveries
    broker.pause("mail")
    assert client.settle([Outcome(held[0], TaskState.SUCCEEDED, b"value")], 9, 2) == NOTHING
    found = broker.find(first)
    assert found is not None
    assert found.record == b"value"
    assert broker.running(Owner("inc", 0, 1), held[1].n, held[1].i) == held[1]
    assert held[1].task_id == second


def test_whatever_comes_into_a_paused_queue_waits(
    broker: Broker, reader: Reader, put_in: PutIn, clock: FakeClock
) -> None:
    """Enqueued, promoted, released, recalled, buried, retried: nothing gets around the pause; all keep their places."""
    released, recalled, buried, retried = put_in("mail", 4)
    client, other = reader(slot=0), reader(slot=1)
    held = client.settle([], 3, 1).deliveries
    (last,) = other.settle([], 1, 1).deliveries
    (due,) = put_in("mail", eta=clock.wall() + 5)
    broker.pause("mail")
    (new,) = put_in("mail")
    retry = Enqueue(retried, b"attempt 2", "mail", 0, None)
    assert other.settle([Outcome(last, None, follow_ups=(retry,))], 9, 2) == NOTHING
    assert client.release([held[0]]) == 1
    assert broker.recall(Owner("inc", 0, 1), (held[1].n, held[1].i), 1) == 1
    assert broker.bury(Owner("inc", 0, 1), None).requeued == 1
    clock.advance(5)
    broker.promote()
    assert reader(slot=2).settle([], 9, 1) == NOTHING
    assert other.settle([], 9, 3) == NOTHING
    assert broker.depth().queued == 6
    broker.unpause("mail")
    assert ids(other.settle([], 9, 4).deliveries) == [released, recalled, buried, due, new, retried]


def test_a_paused_suspect_is_in_nobodys_way(broker: Broker, reader: Reader, put_in: PutIn) -> None:
    """It is to run first, but not now: what is behind it in other queues is given, in batches."""
    put_in("mail")
    reader().settle([], 1, 1)
    broker.rescue("inc", [], suspect=True)
    broker.join("next", "node")
    broker.pause("mail")
    other = put_in("other", 2)
    got = reader(incarnation="next").settle([], 9, 1)
    assert (ids(got.deliveries), got.more) == (other, False)


def test_cancelling_in_a_paused_queue(broker: Broker, put_in: PutIn) -> None:
    """A message that waits for the end of a pause can be cancelled."""
    (task,) = put_in("mail")
    broker.pause("mail")
    assert broker.cancel(task, lambda delivery: Outcome(delivery, TaskState.CANCELLED, b""))
    assert listed(broker) == [QueueDepth("mail", 0, paused=True, oldest=None)]


def test_a_pause_outlives_its_node(broker: Broker, broker_factory: Factory, put_in: PutIn) -> None:
    """It is the queue's, not the node's: it holds for clients and nodes that come later."""
    put_in("mail")
    broker.pause("mail")
    broker.leave("inc")
    broker.close()
    later = broker_factory()
    later.join("next", "there")
    later.attach(Owner("next", 0, 1))
    assert later.settle([], 1, 1) == NOTHING
