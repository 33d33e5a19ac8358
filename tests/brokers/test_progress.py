"""Contract: what a running task says of itself, retrying what has ended, and reading all messages."""

from __future__ import annotations

import time
from collections.abc import Callable

from poolrt.brokers.base import Broker, Found
from poolrt.clock import FakeClock
from poolrt.message import Delivery, Enqueue, Outcome, Owner, new_task_id
from poolrt.states import TaskState
from poolrt.terms import Unique

Child = Callable[..., Broker]
Put = Callable[..., list[str]]


def progress_of(broker: Broker, task: str) -> bytes | None:
    found = broker.find(task)
    assert found is not None
    return found.progress


def ended(delivery: Delivery, state: TaskState = TaskState.SUCCEEDED, record: bytes | None = b"record") -> Outcome:
    return Outcome(delivery, state, record)


# ---- progress


def test_progress(broker: Broker, child: Child, put: Put) -> None:
    """The last word counts, each task has its own, and nothing is said by who said nothing."""
    first, second = put(2)
    child().settle([], 9, 1)
    assert progress_of(broker, first) is None
    broker.note_progress(first, b"1 of 2", 60)
    broker.note_progress(first, b"2 of 2\x00\xff", 60)
    assert progress_of(broker, first) == b"2 of 2\x00\xff"
    assert progress_of(broker, second) is None
    found = broker.find(first)
    assert found is not None
    assert (found.state, found.envelope) == (TaskState.RESERVED, b"envelope of " + first.encode())


def test_progress_goes_with_the_end(broker: Broker, child: Child, put: Put) -> None:
    """A task that has ended is known by its record; a late word of it is dropped."""
    task = put()[0]
    client = child()
    held = client.settle([], 9, 1).deliveries
    broker.note_progress(task, b"half", 60)
    client.settle([ended(held[0])], 0, 2)
    assert broker.find(task) == Found(task, TaskState.SUCCEEDED, None, b"record", 0)
    broker.note_progress(task, b"late", 60)
    assert progress_of(broker, task) is None


def test_progress_of_an_id_that_comes_again(broker: Broker, child: Child) -> None:
    """What one message said is not said of another one with its id, whatever ended the first."""
    client = child()
    again = Enqueue("again", b"", "default", 0, None)

    def settled(held: list[Delivery]) -> None:
        client.settle([ended(held[0], record=None)], 0, 2)

    def cancelled(held: list[Delivery]) -> None:
        client.release(held)
        assert broker.cancel("again", lambda delivery: ended(delivery, TaskState.CANCELLED, None))

    def emptied(held: list[Delivery]) -> None:
        client.release(held)
        assert broker.empty("default") == 1

    for n, end in enumerate((settled, cancelled, emptied)):
        assert broker.enqueue([again]) == [True]
        held = client.settle([], 9, 2 * n + 1).deliveries
        broker.note_progress("again", b"half", 60)
        end(held)
        assert broker.enqueue([again]) == [True]
        assert progress_of(broker, "again") is None, end.__name__
        broker.empty("default")


def test_progress_is_kept_for_its_time(broker: Broker, child: Child, put: Put, clock: FakeClock) -> None:
    """Each word has its own time, which begins when it is said."""

    def pass_time(seconds: float) -> None:  # a server has a clock of its own
        clock.advance(seconds)
        time.sleep(seconds)

    task = put()[0]
    child().settle([], 9, 1)
    broker.note_progress(task, b"1", 0.6)
    pass_time(0.4)
    broker.note_progress(task, b"2", 0.6)
    pass_time(0.4)
    broker.purge()
    assert progress_of(broker, task) == b"2"
    pass_time(0.3)
    assert progress_of(broker, task) is None


def test_progress_of_nobody(broker: Broker) -> None:
    """Nothing is kept of an unknown id: a message that is enqueued with it later has said nothing."""
    broker.note_progress("nobody", b"half", 60)
    assert broker.find("nobody") is None
    broker.enqueue([Enqueue("nobody", b"", "default", 0, None)])
    assert progress_of(broker, "nobody") is None


# ---- retry


def retried(task: str, eta: float | None = None, unique: Unique | None = None) -> Enqueue:
    return Enqueue(task, b"as it was", "default", 5, eta, unique=unique)


def test_retry(broker: Broker, child: Child, put: Put) -> None:
    """The record makes room for the message, which is queued, and ends as any other."""
    task = put()[0]
    client = child()
    client.settle([ended(client.settle([], 9, 1).deliveries[0], TaskState.DEAD)], 0, 2)
    assert broker.retry(retried(task))
    assert broker.find(task) == Found(task, TaskState.QUEUED, b"as it was", None, 0)
    assert broker.ended(TaskState.DEAD) == []
    (held,) = client.settle([], 9, 3).deliveries
    assert (held.task_id, held.envelope, held.lost, held.suspect) == (task, b"as it was", 0, False)
    client.settle([ended(held)], 0, 4)
    assert broker.find(task) == Found(task, TaskState.SUCCEEDED, None, b"record", 0)


def test_retry_later(broker: Broker, child: Child, put: Put, clock: FakeClock) -> None:
    """At a time, if it says one."""
    task = put()[0]
    client = child()
    client.settle([ended(client.settle([], 9, 1).deliveries[0], TaskState.FAILED)], 0, 2)
    assert broker.retry(retried(task, eta=clock.wall() + 5))
    assert client.settle([], 9, 3).deliveries == []
    clock.advance(5)
    broker.promote()
    assert [delivery.task_id for delivery in client.settle([], 9, 4).deliveries] == [task]


def test_retry_without_a_record(broker: Broker, child: Child, put: Put) -> None:
    """Of what waits, is held or is unknown there is no record: nothing is changed."""
    waits = put()[0]
    assert not broker.retry(retried(waits))
    assert not broker.retry(retried("unknown"))
    assert broker.find("unknown") is None
    client = child()
    held = client.settle([], 9, 1).deliveries
    assert not broker.retry(retried(waits))
    found = broker.find(waits)
    assert found is not None
    assert (found.state, found.envelope) == (TaskState.RESERVED, held[0].envelope)
    assert client.settle([ended(held[0])], 9, 2).deliveries == []


def test_a_second_retry(broker: Broker, child: Child, put: Put) -> None:
    """Two who retry the same task store it once."""
    task = put()[0]
    client = child()
    client.settle([ended(client.settle([], 9, 1).deliveries[0], TaskState.DEAD)], 0, 2)
    assert [broker.retry(retried(task)), broker.retry(retried(task))] == [True, False]
    assert len(client.settle([], 9, 3).deliveries) == 1


def test_retry_of_a_key_that_another_has(broker: Broker, child: Child, clock: FakeClock) -> None:
    """The record stays; once the key is free the task is retried, and has it."""
    unique = Unique("key")
    client = child()
    broker.enqueue([Enqueue("first", b"", "default", 0, None, unique=unique)])
    client.settle([ended(client.settle([], 9, 1).deliveries[0], TaskState.DEAD)], 0, 2)
    broker.enqueue([Enqueue("second", b"", "default", 0, None, unique=unique)])
    assert not broker.retry(retried("first", unique=unique))
    assert broker.find("first") == Found("first", TaskState.DEAD, None, b"record", 0)
    client.settle([ended(client.settle([], 9, 3).deliveries[0])], 0, 4)
    assert broker.retry(retried("first", unique=unique))
    assert broker.unique_holder("key") == "first"


def test_retry_drops_what_was_said(broker: Broker, child: Child, put: Put) -> None:
    """Progress of the run that ended is not told of the new one."""
    task = put()[0]
    client = child()
    held = client.settle([], 9, 1).deliveries
    broker.note_progress(task, b"half", 60)
    client.settle([ended(held[0], TaskState.FAILED)], 0, 2)
    broker.retry(retried(task))
    assert progress_of(broker, task) is None


# ---- messages


def all_messages(broker: Broker, limit: int) -> list[Found]:
    found, after = broker.messages(limit=limit)
    pages = 1
    while after:
        page, after = broker.messages(after, limit)
        found += page
        pages += 1
        assert pages < 100
    return found


def test_messages(broker: Broker, child: Child, put: Put, clock: FakeClock) -> None:
    """What is queued, delayed and reserved, with its progress, and not what has ended; the pages are all of it."""
    running, over = put(2, priority=9)
    client = child()
    held = client.settle([], 2, 1).deliveries
    client.settle([ended(held[1])], 0, 2)
    assert held[1].task_id == over
    broker.note_progress(running, b"half", 60)
    queued, delayed = put(7), put(4, eta=clock.wall() + 60)
    expected = dict.fromkeys(queued, (TaskState.QUEUED, None))
    expected |= dict.fromkeys(delayed, (TaskState.DELAYED, None))
    expected |= {running: (TaskState.RESERVED, b"half")}
    for limit in (1, 3, 12, 1000):
        found = all_messages(broker, limit)
        assert {each.id: (each.state, each.progress) for each in found} == expected, limit
        assert all(each.envelope == b"envelope of " + each.id.encode() and each.record is None for each in found)
    assert broker.messages(limit=1000)[1] == ""


def test_no_messages(broker: Broker) -> None:
    """Nothing, and nowhere to go on."""
    assert broker.messages() == ([], "")


def test_messages_come_and_go_between_pages(broker: Broker, child: Child, put: Put) -> None:
    """What is there all the while is told, though others end, are put back and are retried between two pages."""
    put(700)
    client = child()
    held = client.settle([], 700, 1).deliveries
    first, after = broker.messages(limit=20)
    seen = {found.id for found in first}
    over = [delivery for delivery in held if delivery.task_id in seen]
    stays = [delivery for delivery in held if delivery.task_id not in seen]
    again = Enqueue(stays[-1].task_id, b"attempt 2", "default", 0, None)
    client.settle([*map(ended, over), Outcome(stays[-1], None, follow_ups=(again,))], 0, 2)
    broker.bury(Owner("inc", 0, 1), None)
    broker.enqueue([Enqueue(new_task_id(), b"", "default", 0, None)])
    while after:
        page, after = broker.messages(after, 50)
        seen |= {found.id for found in page}
    assert seen >= {delivery.task_id for delivery in held}
