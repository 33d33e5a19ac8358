"""Contract: a settle makes record, follow-ups and the end of the delivery true together, once, under its fence."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from poolrt.brokers.base import Broker, Found, Settled
from poolrt.clock import FakeClock
from poolrt.message import Delivery, Enqueue, Outcome, new_task_id
from poolrt.states import TaskState

Child = Callable[..., Broker]
Put = Callable[..., list[str]]

FINAL = [TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED, TaskState.EXPIRED, TaskState.DEAD]


def ids(deliveries: list[Delivery]) -> list[str]:
    return [delivery.task_id for delivery in deliveries]


@pytest.mark.parametrize("state", FINAL)
def test_a_record_of_each_state(broker: Broker, child: Child, put: Put, state: TaskState) -> None:
    """A record is found under its id with its state, bytes and lost count, and its message is gone."""
    (task,) = put()
    client = child()
    (delivery,) = client.settle([], 1, 1).deliveries
    client.settle([Outcome(msgspec.structs.replace(delivery, lost=2), state, b"\x00record")], 0, 2)
    found = broker.find(task)
    assert found is not None
    assert found == Found(task, state, None, b"\x00record", 2)
    assert [kept.id for kept in broker.ended(state)] == [task]
    assert all(not broker.ended(other) for other in FINAL if other is not state)


def test_settle_and_reserve_in_one_call(child: Child, put: Put) -> None:
    """One call ends a batch and takes the next; ``more`` says whether something is left for others."""
    wanted = put(6)
    client = child()
    first = client.settle([], 2, 1)
    assert first.more
    second = client.settle([Outcome(d, TaskState.SUCCEEDED) for d in first.deliveries], 3, 2)
    assert ids(first.deliveries + second.deliveries) == wanted[:5]
    assert {d.n for d in second.deliveries} == {2}
    assert (second.stale, second.more) == (0, True)
    third = client.settle([Outcome(d, TaskState.SUCCEEDED) for d in second.deliveries], 1, 3)
    assert (ids(third.deliveries), third.more) == (wanted[5:], False)
    assert client.settle([Outcome(d, TaskState.SUCCEEDED) for d in third.deliveries], 1, 4) == Settled(
        [], 0, more=False
    )


def test_reserve_none(child: Child, put: Put) -> None:
    """A leaving child settles without being given more, and learns that more is there."""
    put(2)
    client = child()
    held = client.settle([], 1, 1).deliveries
    assert client.settle([Outcome(held[0], TaskState.SUCCEEDED)], 0, 2) == Settled([], 0, more=True)


def test_stale_outcomes_change_nothing(broker: Broker, child: Child, put: Put) -> None:
    """A repeated, a released, an invented and a wrongly numbered delivery are counted; the good one takes effect."""
    tasks = put(3)
    client = child()
    ended, released, good = client.settle([], 3, 1).deliveries
    client.settle([Outcome(ended, TaskState.SUCCEEDED, b"first")], 0, 2)
    client.release([released])
    follow_up = Enqueue(new_task_id(), b"", "default", 0, None)
    outcomes = [
        Outcome(ended, TaskState.FAILED, b"second", follow_ups=(follow_up,)),
        Outcome(released, TaskState.FAILED, b"late"),
        Outcome(msgspec.structs.replace(good, i=good.i + 1000), TaskState.FAILED, b"no such"),
        Outcome(msgspec.structs.replace(good, n=good.n + 1), TaskState.FAILED, b"other reserve"),
        Outcome(good, TaskState.SUCCEEDED, b"good"),
        Outcome(good, TaskState.FAILED, b"twice"),
    ]
    assert client.settle(outcomes, 0, 3).stale == 5
    found = [broker.find(task) for task in tasks]
    assert [(f.state, f.record) for f in found if f is not None] == [
        (TaskState.SUCCEEDED, b"first"),
        (TaskState.QUEUED, None),
        (TaskState.SUCCEEDED, b"good"),
    ]
    assert broker.find(follow_up.id) is None


def test_another_child_cannot_settle_it(broker: Broker, child: Child, put: Put) -> None:
    """A delivery is its owner's: in other hands it is stale."""
    put()
    mine, other = child(0), child(1)
    (held,) = mine.settle([], 1, 1).deliveries
    assert other.settle([Outcome(held, TaskState.FAILED, b"")], 0, 1).stale == 1
    assert other.release([held]) == 0
    assert mine.settle([Outcome(held, TaskState.SUCCEEDED, b"")], 0, 2).stale == 0


def test_a_new_reserve_makes_the_old_fence_stale(child: Child, put: Put) -> None:
    """The same child that got a message again holds it under the new number alone."""
    put()
    client = child()
    (old,) = client.settle([], 1, 1).deliveries
    client.release([old])
    (new,) = client.settle([], 1, 2).deliveries
    assert client.settle([Outcome(old, TaskState.FAILED, b"")], 0, 3).stale == 1
    assert client.settle([Outcome(new, TaskState.SUCCEEDED, b"")], 0, 4).stale == 0


def test_a_retry_keeps_its_id(broker: Broker, child: Child, put: Put, clock: FakeClock) -> None:
    """State None with a follow-up of the same id: the task goes on, delayed, with its new envelope and no record."""
    (task,) = put()
    client = child()
    (delivery,) = client.settle([], 1, 1).deliveries
    retry = Enqueue(task, b"attempt 2", "default", 4, clock.wall() + 10)
    assert client.settle([Outcome(delivery, None, follow_ups=(retry,))], 5, 2) == Settled([], 0, more=False)
    found = broker.find(task)
    assert found is not None
    assert found == Found(task, TaskState.DELAYED, b"attempt 2", None, 0)
    assert client.settle([Outcome(delivery, None, follow_ups=(retry,))], 0, 3).stale == 1
    clock.advance(10)
    broker.promote()
    (again,) = client.settle([], 5, 4).deliveries
    assert again.envelope == b"attempt 2"


def test_follow_ups_come_with_the_end(broker: Broker, child: Child, put: Put) -> None:
    """Chain links and callbacks are queued by the settle itself and may be reserved in the same call."""
    put()
    client = child()
    (delivery,) = client.settle([], 1, 1).deliveries
    links = tuple(Enqueue(new_task_id(), b"", "default", 0, None) for _ in range(3))
    got = client.settle([Outcome(delivery, TaskState.SUCCEEDED, b"", follow_ups=links)], 2, 2)
    assert ids(got.deliveries) == [link.id for link in links[:2]]
    assert got.more


def test_follow_ups_are_idempotent_by_id(broker: Broker, child: Child, put: Put) -> None:
    """A follow-up that is known already, as a message or a record, is not stored again."""
    put(2)
    client = child()
    first, second = client.settle([], 2, 1).deliveries
    link = Enqueue(new_task_id(), b"", "default", 0, None)
    got = client.settle([Outcome(first, TaskState.SUCCEEDED, b"", follow_ups=(link, link))], 5, 2).deliveries
    assert ids(got) == [link.id]
    client.settle([Outcome(got[0], TaskState.SUCCEEDED, b"linked")], 0, 3)
    assert client.settle([Outcome(second, TaskState.SUCCEEDED, b"", follow_ups=(link,))], 5, 4).deliveries == []


def test_a_settle_that_fails_does_nothing(broker: Broker, child: Child, put: Put) -> None:
    """An outcome that cannot be stored leaves the whole call undone, and the deliveries still held."""
    tasks = put(2)
    client = child()
    held = client.settle([], 2, 1).deliveries
    broken = Outcome(held[1], TaskState.SUCCEEDED, object())  # type: ignore[arg-type]
    with pytest.raises(Exception):  # noqa: B017  whatever the driver says of the object
        client.settle([Outcome(held[0], TaskState.SUCCEEDED, b"good"), broken], 5, 2)
    assert broker.depth().reserved == 2
    assert client.settle([Outcome(d, TaskState.SUCCEEDED, b"good") for d in held], 0, 3).stale == 0
    assert all(broker.find(task) for task in tasks)


def test_purge_deletes_what_has_passed(broker: Broker, child: Child, put: Put, clock: FakeClock) -> None:
    """Records go when their TTL has passed, at most ``limit`` a call, and no earlier."""
    tasks = put(5)
    client = child()
    held = client.settle([], 5, 1).deliveries
    client.settle([Outcome(d, TaskState.SUCCEEDED, b"", ttl=10.0 * (k + 1)) for k, d in enumerate(held)], 0, 2)
    assert broker.purge() == 0
    clock.advance(30)
    assert broker.purge(2) == 2
    assert broker.purge(2) == 1
    assert broker.purge(2) == 0
    assert [broker.find(task) is None for task in tasks] == [True, True, True, False, False]


def test_forget(broker: Broker, child: Child, put: Put) -> None:
    """Forgetting deletes a record, never a message."""
    (task,) = put()
    assert not broker.forget(task)
    client = child()
    client.settle([Outcome(d, TaskState.SUCCEEDED, b"") for d in client.settle([], 1, 1).deliveries], 0, 2)
    assert broker.forget(task)
    assert not broker.forget(task)
    assert broker.find(task) is None


def test_ended_shows_the_newest(broker: Broker, child: Child, put: Put) -> None:
    """The newest records first, as many as asked for, whatever their TTL."""
    tasks = put(4)
    client = child()
    for n in range(4):
        (held,) = client.settle([], 1, 2 * n + 1).deliveries
        state = TaskState.SUCCEEDED if n % 2 else TaskState.DEAD
        client.settle([Outcome(held, state, b"", ttl=1000.0 / (n + 1))], 0, 2 * n + 2)
    assert [found.id for found in broker.ended(TaskState.SUCCEEDED)] == [tasks[3], tasks[1]]
    assert [found.id for found in broker.ended(TaskState.DEAD, limit=1)] == [tasks[2]]
