"""Contract: messages behind gates are part of their queue, for operators, other terms and choices of queues."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from poolrt.brokers.base import Broker, QueueDepth, Settled
from poolrt.clock import FakeClock
from poolrt.message import Delivery, Enqueue, Outcome, Owner, new_task_id
from poolrt.queue_choice import QueueChoice
from poolrt.states import TaskState
from poolrt.terms import Gate, Unique

Child = Callable[..., Broker]
Factory = Callable[..., Broker]
Put = Callable[..., list[str]]

ONE = Gate("k", slots=1)
"""One at a time."""
NOTHING = Settled([], 0, more=False)


@pytest.fixture
def gated(broker: Broker) -> Put:
    """``gated(Gate("k"), 3, queue="default", priority=0, eta=None)``: enqueue that many; their ids, in order."""

    def enqueue(
        gate: Gate | None, count: int = 1, queue: str = "default", priority: int = 0, eta: float | None = None
    ) -> list[str]:
        items = [item(gate, queue, priority, eta) for _ in range(count)]
        assert all(broker.enqueue(items))
        return [each.id for each in items]

    return enqueue


def item(gate: Gate | None, queue: str = "default", priority: int = 0, eta: float | None = None) -> Enqueue:
    task = new_task_id()
    return Enqueue(task, b"envelope of " + task.encode(), queue, priority, eta, "t", gate)


def ids(deliveries: list[Delivery]) -> list[str]:
    return [delivery.task_id for delivery in deliveries]


def ended(deliveries: list[Delivery]) -> list[Outcome]:
    return [Outcome(delivery, TaskState.SUCCEEDED) for delivery in deliveries]


def pass_time(broker: Broker, clock: FakeClock, seconds: float) -> None:
    """And let the steward look, as it does when its last look said."""
    clock.advance(seconds)
    broker.promote()


def test_delayed_behind_a_gate(broker: Broker, child: Child, gated: Put, clock: FakeClock) -> None:
    """It is delayed until its time, then waits for the gate."""
    tasks = gated(ONE, 2, eta=clock.wall() + 5)
    found = broker.find(tasks[0])
    assert found is not None
    assert found.state is TaskState.DELAYED
    client = child()
    assert client.settle([], 9, 1) == NOTHING
    pass_time(broker, clock, 5)
    held = client.settle([], 9, 2).deliveries
    assert ids(held) == tasks[:1]
    assert ids(client.settle(ended(held), 9, 3).deliveries) == tasks[1:]


def test_a_pause(broker: Broker, child: Child, gated: Put) -> None:
    """Of its queue: nothing passes, whatever the gate would let through; the end of the pause ends that."""
    tasks = gated(ONE, 2)
    broker.pause("default")
    client = child()
    assert client.settle([], 9, 1) == NOTHING
    tasks += gated(ONE)
    assert client.settle([], 9, 2) == NOTHING
    broker.unpause("default")
    held = client.settle([], 9, 3).deliveries
    assert ids(held) == tasks[:1]
    broker.pause("default")
    assert client.settle(ended(held), 9, 4) == NOTHING
    broker.unpause("default")
    assert ids(client.settle([], 9, 5).deliveries) == tasks[1:2]


def test_operators_see_the_queue_alone(broker: Broker, child: Child, gated: Put, clock: FakeClock) -> None:
    """Messages behind gates are counted, shown and emptied as part of their queue, in the order of all."""
    first = gated(ONE)[0]
    child().settle([], 1, 1)
    clock.advance(5)
    tasks = [gated(ONE)[0], gated(None)[0], gated(Gate("l", rate=1))[0]]
    urgent = gated(ONE, priority=3)[0]
    clock.advance(2)
    assert broker.depth()[:3] == (4, 0, 1)
    assert broker.depth().oldest == pytest.approx(2)
    assert broker.queues() == [QueueDepth("default", 4, paused=False, oldest=pytest.approx(2))]
    assert [found.id for found in broker.peek("default")] == [urgent, *tasks]
    assert [found.id for found in broker.peek("default", 2)] == [urgent, tasks[0]]
    assert {found.state for found in map(broker.find, tasks) if found} == {TaskState.QUEUED}
    assert broker.empty("default", 2) == 2
    assert [found.id for found in broker.peek("default")] == tasks[1:]
    assert broker.empty("default") == 2
    assert (broker.depth()[:3], broker.find(first) is not None) == ((0, 0, 1), True)
    assert child(1).settle([], 9, 1) == NOTHING


def test_moved_to_another_queue(broker: Broker, child: Child, gated: Put, broker_factory: Factory) -> None:
    """The gate goes with them."""
    tasks = gated(ONE, 3)
    held = child().settle([], 1, 1).deliveries
    assert broker.move("default", "other") == 2
    assert [found.id for found in broker.peek("other")] == tasks[1:]
    assert broker.peek("default") == []
    reader = broker_factory()
    reader.attach(Owner("inc", 5, 1), QueueChoice(("other",)))
    assert reader.settle([], 9, 1) == NOTHING
    child(1).settle([], 0, 1)
    broker.bury(Owner("inc", 0, 1), Outcome(held[0], TaskState.SUCCEEDED))
    assert ids(reader.settle([], 9, 2).deliveries) == tasks[1:2]


def test_a_cancelled_one_is_passed(broker: Broker, child: Child, gated: Put) -> None:
    """The first behind a gate goes; the next one is next. The last goes: nothing is left to ask for."""
    first, second, third = gated(ONE, 3)

    def outcome(delivery: Delivery) -> Outcome:
        return Outcome(delivery, TaskState.CANCELLED, b"")

    assert broker.cancel(first, outcome)
    client = child()
    held = client.settle([], 9, 1).deliveries
    assert ids(held) == [second]
    assert broker.cancel(third, outcome)
    assert client.settle(ended(held), 9, 2) == NOTHING
    assert broker.depth()[:3] == (0, 0, 0)
    waits = gated(Gate("l", rate=1), 2)[1]
    client.settle([], 9, 3)
    assert broker.promote() == pytest.approx(1, abs=1e-5)
    assert broker.cancel(waits, outcome)
    assert broker.promote() is None, "no token is waited for"


def test_many_at_once(broker: Broker, child: Child) -> None:
    """One call may store messages of many gates beside others; each gate counts for itself."""
    items = [item(Gate(f"k{number % 3}", slots=1) if number % 4 else None) for number in range(2500)]
    assert broker.enqueue(items) == [True] * 2500
    assert broker.enqueue(items) == [False] * 2500
    assert broker.depth().queued == 2500
    got = child().settle([], 100, 1)
    assert len(got.deliveries) == 100
    by_id = {each.id: each for each in items}
    assert sorted(gate.key for each in got.deliveries if (gate := by_id[each.task_id].gate)) == ["k0", "k1", "k2"]


def test_a_gate_that_was_not_used_for_long(broker: Broker, child: Child, gated: Put, clock: FakeClock) -> None:
    """Its limits outlive a purge while they matter: messages wait, are delayed, or hold a slot."""
    tasks = gated(ONE, 3)
    other = Gate("l", slots=1)
    later = [item(other, eta=clock.wall() + 10 * 86_400) for _ in range(2)]
    broker.enqueue([*later, item(other, priority=9)])
    client = child()
    now, *held = client.settle([], 9, 1).deliveries
    client.settle(ended([now]), 0, 9)
    clock.advance(9 * 86_400)
    broker.purge()
    assert client.settle([], 9, 2) == NOTHING
    held = client.settle(ended(held), 9, 3).deliveries
    assert ids(held) == tasks[1:2]
    pass_time(broker, clock, 2 * 86_400)
    broker.purge()
    assert ids(client.settle([], 9, 4).deliveries) == [later[0].id]


def test_a_slot_that_is_held_for_days(broker: Broker, child: Child, gated: Put, clock: FakeClock) -> None:
    """A purge forgets neither it nor its gate, though nothing else of its key is there."""
    gated(ONE)
    client = child()
    held = client.settle([], 9, 1).deliveries
    for _ in range(3):
        clock.advance(2 * 86_400)
        broker.purge()
    (task,) = gated(ONE)
    assert client.settle([], 9, 2) == NOTHING
    assert ids(client.settle(ended(held), 9, 3).deliveries) == [task]


# ---- beside other terms


def test_strict_order(broker_factory: Factory, broker: Broker, gated: Put) -> None:
    """What waits behind a gate of an earlier queue goes first, as far as the gate lets it."""
    later, tasks = gated(None, 1, "b", priority=9), gated(ONE, 2, "a")
    client = broker_factory()
    client.attach(Owner("inc", 0, 1), QueueChoice(("a", "b"), strict=True))
    held = client.settle([], 9, 1).deliveries
    held += client.settle([], 9, 2).deliveries
    assert ids(held) == [tasks[0], *later]
    assert ids(client.settle(ended(held), 9, 3).deliveries) == tasks[1:]


def test_a_unique_key(broker: Broker, child: Child, gated: Put) -> None:
    """A message that waits behind a gate has its key; one that is refused takes no slot."""
    tasks = gated(ONE)
    unique = item(ONE)._replace(unique=Unique("key"))
    assert broker.enqueue([unique]) == [True]
    assert broker.unique_holder("key") == unique.id
    assert broker.enqueue([item(ONE)._replace(unique=Unique("key")), item(None)]) == [False, True]
    client = child()
    held = client.settle([], 1, 1).deliveries
    assert ids(held) == tasks
    held = client.settle(ended(held), 1, 2).deliveries
    assert ids(held) == [unique.id]
    client.settle(ended(held), 0, 3)
    assert broker.unique_holder("key") is None


def test_a_retry_by_hand(broker: Broker, child: Child, gated: Put) -> None:
    """It passes the gate again."""
    first, second = item(ONE), item(ONE)
    broker.enqueue([first])
    client = child()
    held = client.settle([], 9, 1).deliveries
    client.settle([Outcome(held[0], TaskState.FAILED, b"record")], 0, 2)
    broker.enqueue([second])
    held = client.settle([], 9, 3).deliveries
    assert ids(held) == [second.id]
    assert broker.retry(first)
    assert client.settle([], 9, 4) == NOTHING
    assert ids(client.settle(ended(held), 9, 5).deliveries) == [first.id]


def test_all_messages(broker: Broker, child: Child, gated: Put, clock: FakeClock) -> None:
    """Those behind gates are among them, with their state."""
    held, queued = gated(ONE, 2)
    (delayed,) = gated(ONE, eta=clock.wall() + 5)
    child().settle([], 9, 1)
    found, after = broker.messages()
    assert after == ""
    expected = {held: TaskState.RESERVED, queued: TaskState.QUEUED, delayed: TaskState.DELAYED}
    assert {each.id: each.state for each in found} == expected
