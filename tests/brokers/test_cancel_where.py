"""``cancel_where``: every task that has not ended and fits all of what is given, waiting or running."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from poolrt import App
from poolrt.brokers.base import Broker
from poolrt.errors import ConfigurationError
from poolrt.message import Enqueue, Message, Owner
from poolrt.states import TaskState
from poolrt.terms import Terms


@pytest.fixture
def app(broker_factory: Callable[..., Broker]) -> App:
    """An app on the test's broker, whose node has joined."""
    made = App("t")
    made.broker = broker_factory(real_clock=True)
    made.broker.join("inc", "node")
    return made


def put(app: App, task_id: str, **fields: Any) -> None:
    """Enqueue a message of this id."""
    message = Message(task_id, "other", b"[[],{}]", enqueued_at=time.time())
    app.broker.enqueue([Enqueue.of(msgspec.structs.replace(message, **fields))])


@pytest.fixture
def queued(app: App) -> App:
    """Some of each kind."""
    put(app, "m1", task="mail.send")
    put(app, "m2", task="mail.sort", queue="slow", eta=time.time() + 60)
    put(app, "t1", headers={"tenant": "7", "trace": "x"})
    put(app, "t2", headers={"tenant": "8"})
    put(app, "old", enqueued_at=time.time() - 7200)
    put(app, "first")
    put(app, "second", terms=Terms(parent="first", root="first"))
    put(app, "third", terms=Terms(parent="second", root="first"), eta=time.time() + 60)
    return app


@pytest.mark.parametrize(
    ("filters", "ids"),
    [
        ({"task": "mail.*"}, {"m1", "m2"}),
        ({"task": "mail.send"}, {"m1"}),
        ({"task": "mail"}, set()),
        ({"queue": "slow"}, {"m2"}),
        ({"task": "mail.*", "queue": "default"}, {"m1"}),
        ({"headers": {"tenant": "7"}}, {"t1"}),
        ({"headers": {"tenant": "7", "trace": "y"}}, set()),
        ({"older_than": "1h"}, {"old"}),
        ({"root": "first"}, {"first", "second", "third"}),
        ({"root": "first", "task": "other", "older_than": 0.0}, {"first", "second", "third"}),
        ({"task": "*"}, {"m1", "m2", "t1", "t2", "old", "first", "second", "third"}),
    ],
)
def test_what_fits(queued: App, filters: dict[str, Any], ids: set[str]) -> None:
    """It is cancelled, and nothing else is; told again there is nothing left."""
    assert queued.cancel_where(**filters) == len(ids)
    assert {found.id for found in queued.broker.ended(TaskState.CANCELLED)} == ids
    assert queued.cancel_where(**filters) == 0


def test_what_runs(queued: App, broker_factory: Callable[..., Broker]) -> None:
    """Its node is told; it is counted once."""
    client = broker_factory(real_clock=True)
    client.attach(Owner("inc", 0, 1))
    taken = {held.task_id for held in client.settle([], 2, 1).deliveries}
    assert queued.cancel_where(task="*") == 8
    assert {delivery.task_id for _, delivery in queued.broker.to_cancel("inc")} == taken
    assert len(queued.broker.ended(TaskState.CANCELLED)) == 6


def test_what_is_enqueued_meanwhile(queued: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that the one being cancelled enqueues just then is found, too."""
    messages = queued.broker.messages
    late = iter(["fourth", "fifth"])

    def and_one_more(after: str = "", limit: int = 1000) -> Any:
        told = messages(after, limit)
        for task_id in [next(late, None)]:
            if task_id:
                put(queued, task_id, terms=Terms(parent="first", root="first"))
        return told

    monkeypatch.setattr(queued.broker, "messages", and_one_more)
    assert queued.cancel_where(root="first") == 5


def test_more_than_a_page(app: App) -> None:
    """Of thousands none is missed."""
    items = [Enqueue.of(Message(f"n{n}", "many" if n % 2 else "other", b"[[],{}]")) for n in range(2500)]
    app.broker.enqueue(items)
    assert app.cancel_where(task="many") == 1250
    assert app.broker.depth().queued == 1250


def test_without_a_filter(queued: App) -> None:
    """It is refused: nobody means every task by leaving all out."""
    with pytest.raises(ConfigurationError, match=r"task='\*'"):
        queued.cancel_where()
    assert queued.broker.ended(TaskState.CANCELLED) == []


def test_what_nobody_can_read_is_left_alone(app: App) -> None:
    """It fits no filter; who is to run it sets it aside."""
    app.broker.enqueue([Enqueue("odd", b"from elsewhere", "default", 0, None)])
    put(app, "m1")
    assert app.cancel_where(task="*") == 1
    assert app.broker.depth().queued == 1
