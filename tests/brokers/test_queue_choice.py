"""Contract: all queues but some, queues in a strict order, and queues by weight."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from poolrt.brokers.base import Broker, Settled
from poolrt.message import Delivery, Enqueue, Outcome, Owner, Requeue, new_task_id
from poolrt.queue_choice import QueueChoice
from poolrt.states import TaskState

Factory = Callable[..., Broker]
PutIn = Callable[..., list[str]]
Reader = Callable[..., Broker]

NOTHING = Settled([], 0, more=False)


@pytest.fixture
def put_in(broker: Broker) -> PutIn:
    """``put_in("mail", 3, priority=0, task="")``: enqueue that many; their ids, in order."""

    def enqueue(queue: str, count: int = 1, priority: int = 0, task: str = "") -> list[str]:
        ids = [new_task_id() for _ in range(count)]
        broker.enqueue([Enqueue(name, queue.encode(), queue, priority, None, task) for name in ids])
        return ids

    return enqueue


@pytest.fixture
def reader(broker_factory: Factory, broker: Broker) -> Reader:
    """``reader(QueueChoice(…), slot=0)``: a client attached as an owner that reserves so."""

    def make(choice: QueueChoice, slot: int = 0, incarnation: str = "inc") -> Broker:
        client = broker_factory()
        client.attach(Owner(incarnation, slot, 1), choice)
        return client

    return make


def ids(deliveries: list[Delivery]) -> list[str]:
    return [delivery.task_id for delivery in deliveries]


def ended(deliveries: list[Delivery]) -> list[Outcome]:
    return [Outcome(delivery, TaskState.SUCCEEDED) for delivery in deliveries]


def drained(client: Broker, batch: int = 1) -> list[str]:
    """The ids of all that the client gets, in the order in which it is to run them."""
    order: list[str] = []
    n = 1
    got = client.settle([], batch, n)
    while got.deliveries:
        order += ids(got.deliveries)
        n += 1
        got = client.settle(ended(got.deliveries), batch, n)
    assert not got.more
    return order


# ---- all but some


def test_without(reader: Reader, put_in: PutIn) -> None:
    """What is in these queues is left to others; the rest is as one queue, also in queues that came later."""
    client = reader(QueueChoice(without=("bulk", "slow")))
    put_in("bulk", priority=9)
    assert client.settle([], 9, 1) == NOTHING
    first, second = put_in("mail")[0], put_in("other")[0]
    put_in("slow")
    urgent = put_in("new", priority=5)[0]
    got = client.settle([], 2, 2)
    assert (ids(got.deliveries), got.more) == ([urgent, first], True)
    got = client.settle([], 9, 3)
    assert (ids(got.deliveries), got.more) == ([second], False)
    assert len(reader(QueueChoice(), slot=1).settle([], 9, 1).deliveries) == 2


def test_without_what_nobody_uses(reader: Reader, put_in: PutIn) -> None:
    """A name that has no queue hides nothing."""
    wanted = put_in("mail", 2)
    assert drained(reader(QueueChoice(without=("nothing",)))) == wanted


def test_without_and_a_pause(broker: Broker, reader: Reader, put_in: PutIn) -> None:
    """Both hold."""
    client = reader(QueueChoice(without=("bulk",)))
    put_in("bulk")
    paused, other = put_in("mail"), put_in("other")
    broker.pause("mail")
    got = client.settle([], 9, 1)
    assert (ids(got.deliveries), got.more) == (other, False)
    broker.unpause("mail")
    assert ids(client.settle([], 9, 2).deliveries) == paused


def test_a_follow_up_for_others(reader: Reader, put_in: PutIn) -> None:
    """What a settle places in a queue that its owner does not read is not given to it."""
    put_in("mail")
    client = reader(QueueChoice(without=("bulk",)))
    held = client.settle([], 1, 1).deliveries
    link = Enqueue(new_task_id(), b"", "bulk", 9, None)
    assert client.settle([Outcome(held[0], TaskState.SUCCEEDED, follow_ups=(link,))], 9, 2) == NOTHING
    assert ids(reader(QueueChoice(("bulk",)), slot=1).settle([], 9, 1).deliveries) == [link.id]


# ---- strict


@pytest.mark.parametrize("batch", [1, 3, 100])
def test_strict(reader: Reader, put_in: PutIn, batch: int) -> None:
    """All of a queue goes before all of the next one, whatever its priority and age; inside a queue priority counts."""
    last = put_in("c", 2, priority=9)
    late = put_in("b", 2)
    middle = put_in("b", 1, priority=9)
    low = put_in("a", 2)
    high = put_in("a", 2, priority=3)
    client = reader(QueueChoice(("a", "b", "c"), strict=True))
    assert drained(client, batch) == high + low + middle + late + last


def test_strict_looks_anew_at_each_reserve(reader: Reader, put_in: PutIn) -> None:
    """What comes into the first queue meanwhile goes before the rest of the second."""
    low = put_in("b", 2)
    client = reader(QueueChoice(("a", "b"), strict=True))
    held = client.settle([], 1, 1).deliveries
    assert ids(held) == low[:1]
    first = put_in("a")
    assert ids(client.settle(ended(held), 1, 2).deliveries) == first


def test_strict_reads_no_other_queue(broker: Broker, reader: Reader, put_in: PutIn) -> None:
    """Only those named; one that is paused is passed over."""
    put_in("c")
    put_in("a")
    wanted = put_in("b")
    broker.pause("a")
    client = reader(QueueChoice(("a", "b"), strict=True))
    assert drained(client) == wanted


@pytest.mark.parametrize("choice", [QueueChoice(("a", "b"), strict=True), QueueChoice(("a", "b"), weights=(1000, 1))])
def test_what_a_recall_takes_back(broker: Broker, reader: Reader, put_in: PutIn, choice: QueueChoice) -> None:
    """It is what would run after the delivery that runs, and all of it, also where priority is not the order."""
    put_in("b", 2, priority=9)
    put_in("a", 2)
    put_in("b", 2)
    client = reader(choice)
    held: list[Delivery] = []
    for n in range(1, 20):
        held += client.settle([], 9, n).deliveries
    assert len(held) == 6
    running = held[2]
    assert broker.recall(Owner("inc", 0, 1), (running.n, running.i), 19) == 3
    assert sorted(client.resume()) == sorted((delivery.n, delivery.i) for delivery in held[:3])


def test_a_suspect_of_the_second_queue(broker: Broker, reader: Reader, put_in: PutIn) -> None:
    """It waits for its turn, and is then delivered alone."""
    suspect = put_in("b", priority=9)
    reader(QueueChoice(("b",))).settle([], 1, 1)
    broker.rescue("inc", [], suspect=True)
    broker.join("next", "node")
    behind = put_in("b", 2)
    first = put_in("a", 2)
    client = reader(QueueChoice(("a", "b"), strict=True), incarnation="next")
    batches: list[list[str]] = []
    got = client.settle([], 9, 1)
    for n in range(2, 9):
        batches += [ids(got.deliveries)] if got.deliveries else []
        got = client.settle(ended(got.deliveries), 9, n)
    assert batches == [first, suspect, behind]


def test_strict_and_tasks_left_to_others(reader: Reader, put_in: PutIn) -> None:
    """``without`` of a submit holds inside each queue."""
    put_in("a", 2, task="app.unknown")
    known = put_in("b", 1, task="app.known")
    client = reader(QueueChoice(("a", "b"), strict=True))
    assert ids(client.settle([], 9, 1, without=["app.unknown"]).deliveries) == known


def test_put_back_into_a_strict_order(broker: Broker, reader: Reader, put_in: PutIn) -> None:
    """A message that was lost with its child is at its old place in its queue."""
    low = put_in("b")
    high = put_in("a", 2)
    client = reader(QueueChoice(("a", "b"), strict=True))
    (held,) = client.settle([], 1, 1).deliveries
    broker.bury(Owner("inc", 0, 1), Requeue(held, 0))
    assert drained(reader(QueueChoice(("a", "b"), strict=True), slot=1)) == high + low


# ---- weights


def test_weights(reader: Reader, put_in: PutIn) -> None:
    """A queue of thrice the weight is first three times as often, and none is left out."""
    for queue in ("a", "b"):
        put_in(queue, 400)
    client = reader(QueueChoice(("a", "b"), weights=(3, 1)))
    firsts: Counter[bytes] = Counter()
    held: list[Delivery] = []
    for n in range(1, 401):
        held = client.settle(ended(held), 1, n).deliveries
        firsts[held[0].envelope] += 1
    assert 250 < firsts[b"a"] < 350, firsts  # 300 wanted; this fails once in 10^8


def test_weights_leave_nobody_idle(reader: Reader, put_in: PutIn) -> None:
    """While the heavy queue is empty the light one is read at each reserve."""
    wanted = put_in("b", 20)
    assert drained(reader(QueueChoice(("a", "b"), weights=(1000, 1)))) == wanted


def test_weights_go_before_priority(reader: Reader, put_in: PutIn) -> None:
    """The drawn order is strict: a high priority in the light queue does not win."""
    for _ in range(30):
        put_in("b", 1, priority=9)
    put_in("a", 30)
    client = reader(QueueChoice(("a", "b"), weights=(1000, 1)))
    firsts = Counter(delivery.envelope for n in range(1, 21) for delivery in client.settle([], 1, n).deliveries)
    assert firsts[b"a"] >= 17, firsts


def test_a_paused_queue_has_no_weight(broker: Broker, reader: Reader, put_in: PutIn) -> None:
    """Its turns go to the others."""
    put_in("a", 3)
    wanted = put_in("b", 10)
    broker.pause("a")
    assert drained(reader(QueueChoice(("a", "b"), weights=(1000, 1)))) == wanted
