"""Contract: a message that waits can be cancelled, one that is held cannot; none is both cancelled and run."""

from __future__ import annotations

import random
import subprocess
import threading
from collections.abc import Callable

import pytest

from poolrt.brokers.base import Broker, Found, Settled
from poolrt.clock import FakeClock
from poolrt.errors import Fenced
from poolrt.message import Delivery, Enqueue, Outcome, Owner, Requeue, new_task_id
from poolrt.states import TaskState

Child = Callable[..., Broker]
Put = Callable[..., list[str]]
WaitFor = Callable[..., None]


def cancelled(delivery: Delivery) -> Outcome:
    return Outcome(delivery, TaskState.CANCELLED, b"cancelled", 50.0)


def refuse(delivery: Delivery) -> Outcome:
    pytest.fail(f"{delivery} does not wait: nobody is to be asked what becomes of it")


def test_a_queued_and_a_delayed_message(broker: Broker, child: Child, put: Put, clock: FakeClock) -> None:
    """Both end with their record and are never delivered; the others are not touched."""
    queued, kept = put(2)
    (delayed,) = put(1, eta=clock.wall() + 10)
    assert broker.cancel(queued, cancelled)
    assert broker.cancel(delayed, cancelled)
    assert broker.find(queued) == Found(queued, TaskState.CANCELLED, None, b"cancelled", 0)
    assert broker.find(delayed) == Found(delayed, TaskState.CANCELLED, None, b"cancelled", 0)
    assert [found.id for found in broker.ended(TaskState.CANCELLED)] == [delayed, queued]
    clock.advance(10)
    assert broker.promote() is None
    (delivery,) = child().settle([], 5, 1).deliveries
    assert delivery.task_id == kept
    assert broker.depth() == (0, 0, 1, 0, None)


def test_what_the_caller_is_given(broker: Broker, child: Child, put: Put, clock: FakeClock) -> None:
    """Its envelope as stored, how often it was lost, and whether it is a suspect: enough to write the record."""
    (task,) = put()
    seen: list[Delivery] = []

    def outcome_of(delivery: Delivery) -> Outcome:
        seen.append(delivery)
        return Outcome(delivery, TaskState.CANCELLED, b"")

    (held,) = child().settle([], 1, 1).deliveries
    broker.bury(Owner("inc", 0, 1), Requeue(held, 5.0))
    child(0, 2)
    clock.advance(5)
    broker.promote()
    child(1).settle([], 1, 1)
    broker.rescue("inc", [], suspect=True)
    assert broker.cancel(task, outcome_of)
    (delivery,) = seen
    assert delivery == Delivery(b"envelope of " + task.encode(), 0, delivery.i, task, 1, suspect=True)
    assert broker.find(task) == Found(task, TaskState.CANCELLED, None, b"", 1)


def test_what_does_not_wait(broker: Broker, child: Child, put: Put) -> None:
    """Reserved, ended with a record, ended without one, unknown: False, and nothing is changed."""
    held, ended, vanished = put(3)
    client = child()
    first, second, third = client.settle([], 3, 1).deliveries
    client.settle([Outcome(second, TaskState.FAILED, b"why"), Outcome(third, TaskState.SUCCEEDED)], 0, 2)
    for task in (held, ended, vanished, "nobody"):
        assert not broker.cancel(task, refuse)
    found = [broker.find(task) for task in (held, ended, vanished)]
    assert [what and what.state for what in found] == [TaskState.RESERVED, TaskState.FAILED, None]
    assert client.settle([Outcome(first, TaskState.SUCCEEDED, b"value")], 0, 3).stale == 0
    assert broker.find(held) == Found(held, TaskState.SUCCEEDED, None, b"value", 0)


def test_cancelling_twice(broker: Broker, put: Put) -> None:
    """The second one finds it ended, and the first record stands."""
    (task,) = put()
    assert broker.cancel(task, cancelled)
    assert not broker.cancel(task, refuse)


def test_what_was_put_back(broker: Broker, child: Child, put: Put) -> None:
    """A released, a buried and a retried message wait again, so each can be cancelled; late settles are stale."""
    released, buried, retried = put(3)
    client, other = child(0), child(1)
    first, second = client.settle([], 2, 1).deliveries
    (third,) = other.settle([], 1, 1).deliveries
    other.settle([Outcome(third, None, follow_ups=(Enqueue(retried, b"attempt 2", "default", 0, None),))], 0, 2)
    client.release([first])
    broker.bury(Owner("inc", 0, 1), None)
    for task in (released, buried, retried):
        assert broker.cancel(task, cancelled)
    assert other.settle([Outcome(third, TaskState.SUCCEEDED, b"late")], 5, 3) == Settled([], 1, more=False)
    with pytest.raises(Fenced):
        client.settle([Outcome(second, TaskState.SUCCEEDED, b"late")], 5, 2)
    assert {found.id for found in broker.ended(TaskState.CANCELLED)} == {released, buried, retried}


def test_its_id_stays_known(broker: Broker, put: Put, clock: FakeClock) -> None:
    """It cannot be enqueued again while its record is kept; after the TTL it can."""
    (task,) = put()
    broker.cancel(task, cancelled)
    again = [Enqueue(task, b"again", "default", 0, None)]
    assert broker.enqueue(again) == [False]
    clock.advance(50)
    assert broker.purge() == 1
    assert broker.enqueue(again) == [True]


def test_follow_ups_come_with_it(broker: Broker, child: Child, put: Put) -> None:
    """What its end sets off is queued in the same step, as of any other Outcome."""
    (task,) = put()
    link = Enqueue(new_task_id(), b"", "default", 0, None)
    assert broker.cancel(task, lambda delivery: Outcome(delivery, TaskState.CANCELLED, b"", follow_ups=(link,)))
    assert [delivery.task_id for delivery in child().settle([], 5, 1).deliveries] == [link.id]


def test_a_cancel_that_fails_does_nothing(broker: Broker, child: Child, put: Put) -> None:
    """An error while its record is made, or one that cannot be stored, leaves the message where it was."""
    (task,) = put()

    def broken(delivery: Delivery) -> Outcome:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broker.cancel(task, broken)
    with pytest.raises(Exception):  # noqa: B017  whatever the driver says of the object
        broker.cancel(task, lambda delivery: Outcome(delivery, TaskState.CANCELLED, object()))  # type: ignore[arg-type]
    (delivery,) = child().settle([], 1, 1).deliveries
    assert (delivery.task_id, delivery.lost) == (task, 0)


def test_a_waiter_is_woken(
    broker: Broker,
    broker_factory: Callable[[], Broker],
    put: Put,
    waiters: Callable[[Broker], int],
    wait_for: WaitFor,
) -> None:
    """Who waits for the result has it at once; nobody polls."""
    (task,) = put()
    answers: list[Found | None] = []
    waiter = broker_factory()
    thread = threading.Thread(target=lambda: answers.append(waiter.wait(task, 30)))
    thread.start()
    wait_for(lambda: waiters(broker), "it listens")
    assert broker.cancel(task, cancelled)
    thread.join(10)
    assert [found and found.state for found in answers] == [TaskState.CANCELLED]


RESERVE = """
import sys
from poolrt.brokers.urls import broker_from_url
from poolrt.message import Outcome, Owner
from poolrt.states import TaskState

broker = broker_from_url(sys.argv[1])
broker.attach(Owner("inc", 0, 1))
print("up", flush=True)
sys.stdin.readline()
held, n = [], 0
while True:
    n += 1
    settled = broker.settle([Outcome(d, TaskState.SUCCEEDED, b"ran") for d in held], 1, n)
    assert settled.stale == 0
    held = settled.deliveries
    if not held:
        break
    print(held[0].task_id, flush=True)
"""


def test_beside_a_reserve(broker: Broker, put: Put, script: Callable[..., subprocess.Popen[str]]) -> None:
    """A process reserves message after message while another cancels them in any order: each of them is cancelled or
    run, never both and never neither."""
    tasks = put(600)
    order = random.Random(1).sample(tasks, len(tasks))
    process = script(RESERVE, broker.url)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdout.readline()
    process.stdin.write("go\n")
    process.stdin.flush()
    stopped = {task for task in order if broker.cancel(task, cancelled)}
    ran = set(process.stdout.read().split())
    assert process.wait() == 0
    assert stopped
    assert ran, "one of the two was alone"
    assert not stopped & ran
    assert stopped | ran == set(tasks)
    records = {task: found.record for task in tasks if (found := broker.find(task)) is not None}
    assert records == {task: b"cancelled" if task in stopped else b"ran" for task in tasks}
    assert broker.depth() == (0, 0, 0, 0, None)
