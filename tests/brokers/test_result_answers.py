"""What an AsyncResult says of a task while it waits, runs and has ended, on each broker; a client plays the workers."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec
import pytest

from poolrt import App, AsyncResult, TaskState
from poolrt.app.progress import Progress
from poolrt.brokers.base import Broker
from poolrt.errors import TaskCancelled, TaskFailed
from poolrt.message import (
    Delivery,
    Enqueue,
    ErrorInfo,
    Outcome,
    Owner,
    Record,
    decode_message,
    encode_message,
    encode_record,
)
from poolrt.terms import Attempt, Terms

FIRST = Attempt(1, 1000.0, 0.25, "ConnectionError", "refused", "inc/0.1")


@pytest.fixture
def app(broker_factory: Callable[..., Broker]) -> App:
    """An app on the test's broker, whose node has joined; with the task ``add``."""
    made = App("t")
    made.broker = broker_factory(real_clock=True)
    made.broker.join("inc", "node")
    made.task(name="add")(lambda x, y: x + y)
    return made


@pytest.fixture
def client(app: App, broker_factory: Callable[..., Broker]) -> Broker:
    """A worker's."""
    client = broker_factory(real_clock=True)
    client.attach(Owner("inc", 0, 1))
    return client


def take(client: Broker, n: int = 1) -> Delivery:
    """Reserve one."""
    (held,) = client.settle([], 1, n).deliveries
    return held


def say(app: App, task: str, state: str, meta: str = "null", attempt: int = 1) -> None:
    """What a run says of itself."""
    blob = msgspec.msgpack.encode(Progress(state, meta.encode(), "json", attempt, time.time()))
    app.broker.note_progress(task, blob, 60.0)


def test_while_it_waits_and_runs(app: App, client: Broker) -> None:
    """``queued``, ``reserved``, then what it says itself: a word of its own with its meta, or how far it is."""
    result: AsyncResult[int] = app.tasks["add"].delay(1, 2)

    def seen() -> tuple[object, object, object]:
        return result.state, result.info, result.progress

    assert seen() == (TaskState.QUEUED, None, None)
    held = take(client)
    assert seen() == (TaskState.RESERVED, None, None)
    say(app, result.id, "started")
    assert seen() == (TaskState.STARTED, None, None)
    assert isinstance(result.state, TaskState)
    say(app, result.id, "uploading", '{"file": "a"}')
    assert seen() == ("uploading", {"file": "a"}, None)
    say(app, result.id, "progress", '{"current": 3, "total": 10}')
    assert seen() == ("progress", {"current": 3, "total": 10}, (3, 10))
    say(app, result.id, "progress", '"mine"')
    assert seen() == ("progress", "mine", None)
    assert not result.ready()
    assert (result.date_done, result.runtime, result.attempts, result.traceback) == (None, None, (), None)
    client.release([held])
    assert seen() == (TaskState.QUEUED, None, None)


def test_once_it_has_ended(app: App, client: Broker) -> None:
    """What it said is forgotten; its value, when it ended, for how long it ran, and each attempt."""
    result: AsyncResult[int] = app.tasks["add"].delay(1, 2)
    held = take(client)
    say(app, result.id, "progress", '{"current": 3, "total": 10}')
    record = Record(
        TaskState.SUCCEEDED, "add", 2000.5, b"3", runtime=0.5, attempt=2, owner="inc/0.1", history=(FIRST,)
    )  # fmt: skip
    client.settle([Outcome(held, TaskState.SUCCEEDED, encode_record(record))], 0, 2)
    assert (result.state, result.info, result.progress) == (TaskState.SUCCEEDED, 3, None)
    assert result.date_done == datetime.fromtimestamp(2000.5, UTC)
    assert result.runtime == 0.5
    assert result.attempts == (FIRST, Attempt(2, 2000.5, 0.5, "", "", "inc/0.1"))
    assert result.get(propagate=False) == 3


def test_between_two_attempts(app: App, client: Broker) -> None:
    """It is delayed, whatever the last attempt said; that one is told, and the next one begins with nothing said."""
    result: AsyncResult[int] = app.tasks["add"].delay(1, 2)
    held = take(client)
    say(app, result.id, "uploading", "1")
    message = decode_message(held.envelope)
    again = msgspec.structs.replace(message, attempt=2, eta=time.time() + 60, terms=Terms(history=(FIRST,)))
    client.settle([Outcome(held, None, follow_ups=(Enqueue.of(again),))], 0, 2)
    assert (result.state, result.info) == (TaskState.DELAYED, None)
    assert result.attempts == (FIRST,)
    assert app.result(result.id).cancel()
    assert [each.cause for each in app.result(result.id).attempts] == ["ConnectionError", "Cancelled"]
    app.broker.forget(result.id)
    app.broker.enqueue(
        [Enqueue(result.id, encode_message(msgspec.structs.replace(again, eta=None)), "default", 0, None)]
    )
    take(client, 3)
    say(app, result.id, "uploading", "1")  # late, of the first attempt
    assert (result.state, result.info) == (TaskState.RESERVED, None)
    say(app, result.id, "uploading", "2", attempt=2)
    assert (result.state, result.info) == ("uploading", 2)


def test_one_that_failed(app: App, client: Broker) -> None:
    """``propagate=False`` returns what ``get`` would raise; its attempt names the cause."""
    result: AsyncResult[int] = app.tasks["add"].delay(1, 2)
    record = Record(TaskState.FAILED, "add", 2000.5, error=ErrorInfo("ValueError", "no", "the trace"), runtime=0.5)
    client.settle([Outcome(take(client), TaskState.FAILED, encode_record(record))], 0, 2)
    error = result.get(propagate=False)
    assert isinstance(error, TaskFailed)
    assert isinstance(result.info, TaskFailed)
    assert result.traceback == "the trace"
    assert [(each.number, each.cause, each.text) for each in result.attempts] == [(1, "ValueError", "no")]


def test_a_word_that_means_an_end_is_none(app: App, client: Broker) -> None:
    """A run that says it has succeeded, by other means than ``update_state``, is not ready."""
    result: AsyncResult[int] = app.tasks["add"].delay(1, 2)
    take(client)
    say(app, result.id, "succeeded")
    assert not result.ready()
    assert not result.successful()


# ---- cancel by name, number and filter


def test_revoke_leaves_alone_what_a_worker_has(app: App, client: Broker) -> None:
    """Unless it is to be terminated: then it is ``cancel``."""
    held_one, waiting = app.tasks["add"].enqueue_many([(1, 1), (2, 2)])
    take(client)
    assert not held_one.revoke()
    assert app.broker.to_cancel("inc") == []
    assert waiting.revoke()
    assert waiting.state is TaskState.CANCELLED
    assert held_one.revoke(terminate=True)
    assert [delivery.task_id for _, delivery in app.broker.to_cancel("inc")] == [held_one.id]


def test_by_the_app(app: App, client: Broker) -> None:
    """By id, or by many; how many."""
    results = app.tasks["add"].enqueue_many((n, n) for n in range(4))
    assert app.cancel(results[0].id)
    assert not app.cancel(results[0].id)
    assert app.revoke(results[1].id) == 1
    assert app.revoke([*(result.id for result in results), "nobody"]) == 2
    with pytest.raises(TaskCancelled):
        results[3].get(timeout=0)
    assert app.broker.depth().queued == 0
