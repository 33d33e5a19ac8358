"""Contract: the node that holds a message is told to cancel it, for as long as it holds that very delivery."""

from __future__ import annotations

import select
from collections.abc import Callable

import pytest

from poolrt.brokers.base import Broker
from poolrt.clock import FakeClock
from poolrt.message import Delivery, Enqueue, Outcome, Owner, Requeue
from poolrt.states import TaskState

Child = Callable[..., Broker]
Put = Callable[..., list[str]]
WaitFor = Callable[..., None]

FIRST = Owner("inc", 0, 1)


def test_a_held_message(broker: Broker, child: Child, put: Put) -> None:
    """Its node is told which owner holds it, with the delivery as it was given, as often as it asks."""
    put(2)
    held = child().settle([], 2, 7).deliveries
    assert broker.to_cancel("inc") == []
    assert broker.cancel_held(held[1].task_id)
    for _ in range(2):
        assert broker.to_cancel("inc") == [(FIRST, held[1])]
    assert broker.cancel_held(held[1].task_id)
    assert broker.to_cancel("inc") == [(FIRST, held[1])]
    assert broker.cancel_held(held[0].task_id)
    assert {owner_and_delivery[1].task_id for owner_and_delivery in broker.to_cancel("inc")} == {
        delivery.task_id for delivery in held
    }


def test_each_node_is_told_of_its_own(broker: Broker, child: Child, put: Put) -> None:
    """What another node holds, or another start of the same node, is not this one's to cancel."""
    put(3)
    broker.join("other", "there")
    broker.join("second", "node")
    deliveries = {}
    for incarnation in ("inc", "other", "second"):
        (deliveries[incarnation],) = child(0, 1, incarnation).settle([], 1, 1).deliveries
        assert broker.cancel_held(deliveries[incarnation].task_id)
    for incarnation, delivery in deliveries.items():
        assert broker.to_cancel(incarnation) == [(Owner(incarnation, 0, 1), delivery)]
    assert broker.to_cancel("stranger") == []


def test_what_nobody_holds(broker: Broker, child: Child, put: Put, clock: FakeClock) -> None:
    """Queued, delayed, ended, unknown: False, and no word is left for whoever holds it later."""
    ended, queued = put(2)
    (delayed,) = put(eta=clock.wall() + 5)
    client = child()
    (held,) = client.settle([], 1, 1).deliveries
    client.settle([Outcome(held, TaskState.SUCCEEDED, b"")], 0, 2)
    for task in (ended, queued, delayed, "nobody"):
        assert not broker.cancel_held(task)
    clock.advance(5)
    broker.promote()
    assert len(client.settle([], 9, 3).deliveries) == 2
    assert broker.to_cancel("inc") == []


def retry(client: Broker, held: Delivery) -> None:
    again = Enqueue(held.task_id, b"attempt 2", "default", 0, None)
    client.settle([Outcome(held, None, follow_ups=(again,))], 0, 3)


ENDINGS: dict[str, Callable[[Broker, Broker, Delivery], object]] = {
    "succeeded": lambda broker, client, held: client.settle([Outcome(held, TaskState.SUCCEEDED, b"")], 0, 3),
    "without a record": lambda broker, client, held: client.settle([Outcome(held, TaskState.SUCCEEDED)], 0, 3),
    "retried": lambda broker, client, held: retry(client, held),
    "released": lambda broker, client, held: client.release([held]),
    "recalled": lambda broker, client, held: broker.recall(FIRST, (1, 1), 2),
    "buried": lambda broker, client, held: broker.bury(FIRST, None),
    "buried as lost": lambda broker, client, held: broker.bury(FIRST, Requeue(held, 0)),
    "buried with an outcome": lambda broker, client, held: broker.bury(FIRST, Outcome(held, TaskState.FAILED, b"")),
    "left": lambda broker, client, held: broker.leave("inc"),
    "rescued": lambda broker, client, held: broker.rescue("inc", [], suspect=True),
    "rescued with a verdict": lambda broker, client, held: broker.rescue("inc", [Requeue(held, 0)], suspect=False),
}


@pytest.mark.parametrize("way", ENDINGS)
def test_the_word_goes_with_the_delivery(broker: Broker, child: Child, put: Put, way: str) -> None:
    """Ended or put back: who holds the message next, even under the same numbers, is not told to cancel it."""
    (task,) = put()
    client = child()
    client.settle([], 0, 1)
    (held,) = client.settle([], 1, 2).deliveries
    broker.cancel_held(task)
    ENDINGS[way](broker, client, held)
    assert broker.to_cancel("inc") == []
    broker.enqueue([Enqueue(task, b"", "default", 0, None)])
    broker.join("next", "node")
    following = child(0, 1, "next")
    again = following.settle([], 1, 2).deliveries
    assert broker.to_cancel("next") == []
    if again:
        assert broker.cancel_held(task)
        assert broker.to_cancel("next") == [(Owner("next", 0, 1), again[0])]


@pytest.mark.parametrize("way", ["retried", "released", "recalled"])
def test_the_same_owner_takes_it_again(broker: Broker, child: Child, put: Put, way: str) -> None:
    """It is another delivery, so the word on the former one says nothing of it."""
    (task,) = put()
    client = child()
    client.settle([], 0, 1)
    (held,) = client.settle([], 1, 2).deliveries
    broker.cancel_held(task)
    ENDINGS[way](broker, client, held)
    (again,) = client.settle([], 1, 4).deliveries
    assert again.task_id == task
    assert broker.to_cancel("inc") == []


def test_the_next_generation_is_not_told(broker: Broker, child: Child, put: Put) -> None:
    """A buried owner's message goes to the slot's next child, whose first reserve has the same number."""
    put()
    (held,) = child().settle([], 1, 1).deliveries
    broker.cancel_held(held.task_id)
    broker.bury(FIRST, None)
    assert len(child(0, 2).settle([], 1, 1).deliveries) == 1
    assert broker.to_cancel("inc") == []


def test_put_back_then_cancelled(broker: Broker, child: Child, put: Put) -> None:
    """What was put back before its node looked waits, and is cancelled as any message that waits."""
    (task,) = put()
    client = child()
    (held,) = client.settle([], 1, 1).deliveries
    assert not broker.cancel(task, lambda delivery: Outcome(delivery, TaskState.CANCELLED, b""))
    assert broker.cancel_held(task)
    client.release([held])
    assert not broker.cancel_held(task)
    assert broker.cancel(task, lambda delivery: Outcome(delivery, TaskState.CANCELLED, b""))


def rung(broker: Broker, task: str, bell: object) -> bool:
    """Whether the bell rings: each call rings, since a ring may be lost while the listener is on its way."""
    assert broker.cancel_held(task)
    return bool(select.select([bell], [], [], 0.2)[0])


def test_the_bell(broker: Broker, child: Child, put: Put, wait_for: WaitFor) -> None:
    """The holding node's steward is rung each time somebody asks; once answered it is silent, then rings again."""
    (task,) = put()
    child().settle([], 1, 1)
    bell = broker.doorbell("node")
    try:
        for _ in range(2):
            wait_for(lambda: rung(broker, task, bell), "the bell rings")

            def silent() -> bool:
                bell.answer()
                return not select.select([bell], [], [], 0)[0]

            wait_for(silent, "it is silent")
    finally:
        bell.close()


def test_the_bell_rings_for_an_earlier_message(broker: Broker, put: Put, clock: FakeClock, wait_for: WaitFor) -> None:
    """A delayed message that is due before all others rings each steward, so that none sleeps past it."""
    bell = broker.doorbell("node")
    sooner = iter(range(1000, 0, -1))

    def rings() -> bool:
        put(1, eta=clock.wall() + next(sooner))
        return bool(select.select([bell], [], [], 0.2)[0])

    try:
        wait_for(rings, "the bell rings")
    finally:
        bell.close()


def test_answering_when_nobody_rang(broker: Broker) -> None:
    """It returns at once; closing twice is closing."""
    bell = broker.doorbell("node")
    bell.answer()
    bell.close()
    bell.close()


def going_on(delivery: Delivery, record: bytes = b"record") -> Outcome:
    """Its next attempt; it ends as cancelled instead, if that was said."""
    again = Enqueue(delivery.task_id, b"next", "default", 0, None)
    return Outcome(
        delivery, None, follow_ups=(again,), if_cancelled=Outcome(delivery, TaskState.CANCELLED, record)
    )  # fmt: skip


def test_its_next_attempt(broker: Broker, child: Child, put: Put) -> None:
    """A delivery that goes on ends instead, in the same step, if word was left; without word it goes on."""
    put(2)
    client = child()
    held = client.settle([], 2, 1).deliveries
    assert broker.cancel_held(held[0].task_id)
    assert client.settle([going_on(each) for each in held], 0, 2).stale == 0
    states = [found and found.state for found in map(broker.find, (each.task_id for each in held))]
    assert states == [TaskState.CANCELLED, TaskState.QUEUED]
    assert [each.task_id for each in client.settle([], 2, 3).deliveries] == [held[1].task_id]
    assert broker.to_cancel("inc") == []


@pytest.mark.parametrize("slot", [0, 1])
def test_its_next_attempt_after_a_word_on_another_delivery(broker: Broker, child: Child, put: Put, slot: int) -> None:
    """A word goes when the delivery is put back: who holds the message next goes on, be it the same child under another
    number, or another one under the same."""
    (task,) = put()
    client = child()
    (held,) = client.settle([], 1, 1).deliveries
    assert broker.cancel_held(task)
    client.release([held])
    other = child(1) if slot else client
    n = 1 if slot else 2
    (held,) = other.settle([], 1, n).deliveries
    other.settle([going_on(held)], 0, n + 1)
    found = broker.find(task)
    assert found is not None
    assert found.state is TaskState.QUEUED
    (held,) = other.settle([], 1, n + 2).deliveries
    assert broker.cancel_held(task)
    broker.bury(Owner("inc", slot, 1), going_on(held))
    found = broker.find(task)
    assert found is not None
    assert (found.state, found.record) == (TaskState.CANCELLED, b"record")


def test_the_end_of_one_that_was_to_be_cancelled(broker: Broker, child: Child, put: Put) -> None:
    """Who ends by itself ends as it did: the word came too late."""
    (task,) = put()
    client = child()
    (held,) = client.settle([], 1, 1).deliveries
    assert broker.cancel_held(task)
    client.settle([Outcome(held, TaskState.SUCCEEDED, b"value")], 0, 2)
    found = broker.find(task)
    assert found is not None
    assert (found.state, found.record) == (TaskState.SUCCEEDED, b"value")
