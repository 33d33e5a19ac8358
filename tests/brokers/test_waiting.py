"""Contract: who waits for a task is told when it has ended, whoever ended it; nobody polls."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from poolrt.brokers.base import Broker, Found
from poolrt.message import Enqueue, Outcome, Owner
from poolrt.states import TaskState

Child = Callable[..., Broker]
Put = Callable[..., list[str]]
Waiters = Callable[[Broker], int]


def waiting(broker: Broker, waiters: Waiters, task: str) -> tuple[threading.Thread, list[Found | None]]:
    """A thread that waits for the task; returns once it listens, so that what follows must wake it."""
    answers = list[Found | None]()
    before = waiters(broker)
    thread = threading.Thread(target=lambda: answers.append(broker.wait(task, 30)))
    thread.start()
    while waiters(broker) == before:
        thread.join(0.001)
        assert thread.is_alive()
    return thread, answers


def test_wait_returns_a_record_at_once(broker: Broker, child: Child, put: Put) -> None:
    """There is nothing to wait for when the record is there."""
    (task,) = put()
    client = child()
    client.settle([Outcome(client.settle([], 1, 1).deliveries[0], TaskState.FAILED, b"why")], 0, 2)
    found = broker.wait(task, None)
    assert found is not None
    assert found.record == b"why"


def test_wait_for_the_unknown_returns_at_once(broker: Broker) -> None:
    """Neither message nor record: no wait could end."""
    assert broker.wait("nobody", None) is None


def test_wait_times_out_and_leaves_nothing(broker: Broker, waiters: Waiters, put: Put) -> None:
    """After its timeout wait returns None, and its socket is gone."""
    (task,) = put()
    assert broker.wait(task, 0.05) is None
    assert broker.wait(task, 0) is None
    assert waiters(broker) == 0


@pytest.mark.parametrize("way", ["settle", "bury", "rescue"])
def test_wait_is_woken_by_the_end(broker: Broker, waiters: Waiters, child: Child, put: Put, way: str) -> None:
    """A waiter gets the record of a task that ends while it waits, whoever ends it."""
    (task,) = put()
    client = child()
    (held,) = client.settle([], 1, 1).deliveries
    thread, answers = waiting(broker, waiters, task)
    outcome = Outcome(held, TaskState.FAILED, b"why")
    if way == "settle":
        client.settle([outcome], 0, 2)
    elif way == "bury":
        broker.bury(Owner("inc", 0, 1), outcome)
    else:
        broker.rescue("inc", [outcome], suspect=False)
    thread.join(10)
    assert [found and found.record for found in answers] == [b"why"]
    assert waiters(broker) == 0


def test_wait_ends_without_a_record(broker: Broker, waiters: Waiters, child: Child, put: Put) -> None:
    """A task that keeps no result wakes its waiter too, with None."""
    (task,) = put()
    client = child()
    (held,) = client.settle([], 1, 1).deliveries
    thread, answers = waiting(broker, waiters, task)
    client.settle([Outcome(held, TaskState.SUCCEEDED)], 0, 2)
    thread.join(10)
    assert answers == [None]


def test_wait_lasts_through_a_retry(broker: Broker, waiters: Waiters, child: Child, put: Put) -> None:
    """A retry is not the end: the waiter gets the last attempt's record."""
    (task,) = put()
    client = child()
    (held,) = client.settle([], 1, 1).deliveries
    thread, answers = waiting(broker, waiters, task)
    retry = Enqueue(task, b"", "default", 0, None)
    (held,) = client.settle([Outcome(held, None, follow_ups=(retry,))], 1, 2).deliveries
    broker.nudge()
    client.settle([Outcome(held, TaskState.SUCCEEDED, b"second")], 0, 3)
    thread.join(10)
    assert [found and found.record for found in answers] == [b"second"]


def test_several_wait_for_one_task(broker: Broker, waiters: Waiters, child: Child, put: Put) -> None:
    """Each of the waiters is woken."""
    (task,) = put()
    client = child()
    (held,) = client.settle([], 1, 1).deliveries
    all_waiting = [waiting(broker, waiters, task) for _ in range(3)]
    client.settle([Outcome(held, TaskState.SUCCEEDED, b"r")], 0, 2)
    for thread, answers in all_waiting:
        thread.join(10)
        assert [found and found.record for found in answers] == [b"r"]
