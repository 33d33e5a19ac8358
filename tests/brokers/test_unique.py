"""Contract: a unique key, which one message at a time has."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from poolrt.brokers.base import Broker
from poolrt.clock import FakeClock
from poolrt.message import Delivery, Enqueue, Outcome, Owner, Requeue, new_task_id
from poolrt.states import TaskState
from poolrt.terms import Unique

Child = Callable[..., Broker]
PutUnique = Callable[..., str | None]


def item(key: str = "key", seconds: float = 0.0, eta: float | None = None, name: str = "") -> Enqueue:
    name = name or new_task_id()
    return Enqueue(name, b"envelope of " + name.encode(), "default", 0, eta, unique=Unique(key, seconds))


@pytest.fixture
def put_unique(broker: Broker) -> PutUnique:
    """``put_unique("key", seconds=0.0, eta=None)``: enqueue one message with this key; its id, None if refused."""

    def enqueue(key: str = "key", seconds: float = 0.0, eta: float | None = None) -> str | None:
        message = item(key, seconds, eta)
        return message.id if broker.enqueue([message]) == [True] else None

    return enqueue


def ids(deliveries: list[Delivery]) -> list[str]:
    return [delivery.task_id for delivery in deliveries]


def ended(delivery: Delivery, state: TaskState = TaskState.SUCCEEDED, record: bytes | None = b"record") -> Outcome:
    return Outcome(delivery, state, record)


def test_the_key_of_a_message_that_waits(broker: Broker, child: Child, put_unique: PutUnique) -> None:
    """Another one is refused and leaves nothing behind; the holder is named; other keys are free."""
    holder = put_unique()
    refused = item()
    assert broker.enqueue([refused]) == [False]
    assert broker.find(refused.id) is None
    assert broker.unique_holder("key") == holder
    assert broker.unique_holder("other") is None
    other = put_unique("other")
    assert ids(child().settle([], 9, 1).deliveries) == [holder, other]


def test_a_delayed_message_has_its_key(broker: Broker, child: Child, put_unique: PutUnique, clock: FakeClock) -> None:
    """While it waits for its time, and once it is due."""
    holder = put_unique(eta=clock.wall() + 5)
    assert put_unique() is None
    clock.advance(5)
    broker.promote()
    assert put_unique() is None
    assert ids(child().settle([], 9, 1).deliveries) == [holder]


def test_a_held_message_has_its_key_until_it_ends(broker: Broker, child: Child, put_unique: PutUnique) -> None:
    """With or without a record: its end frees the key, for the same settle's follow-ups too."""
    client = child()
    n = 0
    for record in (b"record", None):
        holder = put_unique()
        n += 1
        held = client.settle([], 9, n).deliveries
        assert ids(held) == [holder]
        assert put_unique() is None
        assert broker.unique_holder("key") == holder
        client.settle([ended(held[0], record=record)], 0, n := n + 1)
        assert broker.unique_holder("key") is None
    put_unique()
    (held_last,) = client.settle([], 9, n := n + 1).deliveries
    follow_up = item()
    outcome = Outcome(held_last, TaskState.SUCCEEDED, b"record", follow_ups=(follow_up,))
    assert ids(client.settle([outcome], 9, n + 1).deliveries) == [follow_up.id]
    assert broker.unique_holder("key") == follow_up.id


@pytest.mark.parametrize("delay", [0.0, 5.0])
def test_a_message_that_was_put_back_has_its_key(
    broker: Broker, child: Child, put_unique: PutUnique, delay: float
) -> None:
    """Released, or lost with its child: it is alive all the while."""
    holder = put_unique()
    client = child()
    held = client.settle([], 9, 1).deliveries
    client.release(held)
    assert put_unique() is None
    (delivery,) = client.settle([], 9, 2).deliveries
    broker.bury(Owner("inc", 0, 1), Requeue(delivery, delay))
    assert put_unique() is None
    assert broker.unique_holder("key") == holder


def test_a_retry_keeps_the_key(broker: Broker, child: Child, put_unique: PutUnique, clock: FakeClock) -> None:
    """Its follow-up has the id of the holder; between the two nobody gets the key."""
    holder = put_unique()
    client = child()
    (held,) = client.settle([], 9, 1).deliveries
    again = item(name=held.task_id, eta=clock.wall() + 5)
    client.settle([Outcome(held, None, follow_ups=(again,))], 0, 2)
    assert broker.unique_holder("key") == holder
    assert put_unique() is None
    clock.advance(5)
    broker.promote()
    (held,) = client.settle([], 9, 3).deliveries
    client.settle([ended(held)], 0, 4)
    assert put_unique() is not None


def test_a_follow_up_of_another_is_refused(broker: Broker, child: Child, put_unique: PutUnique) -> None:
    """A refused follow-up does not stop the outcome that it is of."""
    broker.enqueue([Enqueue("plain", b"", "default", 0, None)])
    holder = put_unique()
    client = child()
    (plain,) = client.settle([], 1, 1).deliveries
    follow_up = item()
    got = client.settle([Outcome(plain, TaskState.SUCCEEDED, b"value", follow_ups=(follow_up,))], 9, 2)
    assert (ids(got.deliveries), got.stale) == ([holder], 0)
    assert broker.find(follow_up.id) is None
    found = broker.find("plain")
    assert found is not None
    assert found.record == b"value"


def test_for_a_time(broker: Broker, child: Child, put_unique: PutUnique, clock: FakeClock) -> None:
    """The key is held for its seconds from the enqueueing, though the message ended long before."""
    holder = put_unique(seconds=60)
    client = child()
    client.settle([ended(client.settle([], 9, 1).deliveries[0])], 0, 2)
    clock.advance(59)
    assert put_unique() is None
    assert broker.unique_holder("key") == holder
    clock.advance(2)
    assert broker.unique_holder("key") is None
    assert put_unique() is not None


def test_each_attempt_begins_the_time_anew(
    broker: Broker, child: Child, put_unique: PutUnique, clock: FakeClock
) -> None:
    """A retry is enqueued again, and so has the key for its seconds from then on."""
    holder = put_unique(seconds=60)
    client = child()
    (held,) = client.settle([], 9, 1).deliveries
    clock.advance(50)
    client.settle([Outcome(held, None, follow_ups=(item(seconds=60, name=held.task_id),))], 0, 2)
    client.settle([ended(client.settle([], 9, 3).deliveries[0])], 0, 4)
    clock.advance(50)
    assert put_unique() is None
    assert broker.unique_holder("key") == holder
    clock.advance(11)
    assert put_unique() is not None


def test_longer_than_its_time(broker: Broker, put_unique: PutUnique, clock: FakeClock) -> None:
    """A message that still waits when its seconds are over has the key."""
    holder = put_unique(seconds=60)
    clock.advance(61)
    assert put_unique() is None
    assert broker.unique_holder("key") == holder


def test_within_one_call(broker: Broker) -> None:
    """The first of a batch has the key; the others of the batch are stored."""
    first, second, other = item(), item(), item("other")
    plain = Enqueue(new_task_id(), b"", "default", 0, None)
    assert broker.enqueue([first, second, plain, other]) == [True, False, True, True]
    assert broker.unique_holder("key") == first.id


def test_a_known_id_takes_no_key(broker: Broker, child: Child, put_unique: PutUnique) -> None:
    """An id that is known is not stored again, and the key that came with it stays free."""
    broker.enqueue([Enqueue("known", b"", "default", 0, None)])
    assert broker.enqueue([item(name="known")]) == [False]
    client = child()
    client.settle([ended(client.settle([], 9, 1).deliveries[0])], 0, 2)
    assert broker.enqueue([item(name="known")]) == [False]
    assert broker.unique_holder("key") is None
    assert put_unique() is not None


def test_a_cancelled_message_frees_its_key(broker: Broker, put_unique: PutUnique) -> None:
    """So does one that an operator deletes."""
    for _ in range(2):
        task = put_unique()
        assert task is not None
        assert broker.cancel(task, lambda delivery: ended(delivery, TaskState.CANCELLED))
    put_unique()
    assert broker.empty("default") == 1
    assert broker.unique_holder("key") is None


def test_purging_frees_no_key_that_is_held(
    broker: Broker, child: Child, put_unique: PutUnique, clock: FakeClock
) -> None:
    """Swept is what nobody has any more: not the key of a message that waits, nor one whose time is not over."""
    waits, timed = put_unique("waits"), put_unique("timed", seconds=600)
    put_unique("over")
    client = child()
    held = {delivery.task_id: delivery for delivery in client.settle([], 9, 1).deliveries}
    client.release([held.pop(str(waits))])
    client.settle([ended(delivery) for delivery in held.values()], 0, 2)
    clock.advance(60)
    broker.purge()
    assert [broker.unique_holder(key) for key in ("waits", "timed", "over")] == [waits, timed, None]
    assert put_unique("waits") is None
    assert put_unique("timed") is None
    assert put_unique("over") is not None


@pytest.mark.parametrize("key", ["", " ", "*", "{a}:b", "ünïcode", "'; drop table holder; --", "k" * 5000])
def test_odd_keys(broker: Broker, put_unique: PutUnique, key: str) -> None:
    """A key is any text."""
    assert broker.unique_holder(key) is None
    holder = put_unique(key)
    assert holder is not None
    assert put_unique(key) is None
    assert broker.unique_holder(key) == holder
