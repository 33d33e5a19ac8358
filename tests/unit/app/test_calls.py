"""What a call becomes: routes, gates, unique keys, its place in a line of tasks, middleware at the sender."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from poolrt import Middleware, Task
from poolrt.app import request
from poolrt.app.app import App
from poolrt.brokers.base import Broker, Found
from poolrt.errors import BrokerBusy, BrokerFull, ConfigurationError
from poolrt.message import Delivery, Enqueue, Message, decode_message
from poolrt.states import TaskState
from poolrt.terms import Gate, Terms, Unique


class FakeBroker:
    """Keeps what was enqueued, by the rules for ids and unique keys.

    Attributes:
        held: unique keys and who has them.
        ends: holders that end as soon as somebody has been refused for them, one for each refusal.
    """

    url = "fake://"
    trusted = True
    enqueue_batches = Broker.enqueue_batches

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.held: dict[str, str] = {}
        self.ends = 0
        self.is_full = False

    def enqueue(self, items: Sequence[Enqueue]) -> list[bool]:
        if self.is_full:
            raise BrokerFull("full")
        return [self._take(item) for item in items]

    def _take(self, item: Enqueue) -> bool:
        if any(message.id == item.id for message in self.messages):
            return False
        if item.unique is not None and self.held.setdefault(item.unique.key, item.id) != item.id:
            if self.ends:
                self.ends -= 1
                del self.held[item.unique.key]
            return False
        self.messages.append(decode_message(item.envelope))
        return True

    def unique_holder(self, key: str) -> str | None:
        return self.held.get(key)

    def find(self, task_id: str) -> Found | None:
        known = any(message.id == task_id for message in self.messages)
        return Found(task_id, TaskState.QUEUED, b"", None, 0) if known else None


@pytest.fixture
def broker() -> FakeBroker:
    """The app's broker."""
    return FakeBroker()


@pytest.fixture
def make(broker: FakeBroker):  # type: ignore[no-untyped-def]
    """``make(**arguments)``: an app over the fake broker."""

    def make(**arguments: Any) -> App:
        app = App("shop", "sqlite:////nowhere/never.db", **arguments)
        app.broker = broker  # type: ignore[assignment]
        return app

    return make


@pytest.fixture
def app(make: Any) -> App:
    """An app over the fake broker."""
    return make()  # type: ignore[no-any-return]


def add(x: int, y: int = 0) -> int:
    """Add."""
    return x + y


# ---- options of the call


def test_what_a_call_says_goes_before_the_task(app: App, broker: FakeBroker) -> None:
    """headers, ignore_result, result_ttl, track_started, max_retries and the limits are the call's if it gives them."""
    task = app.task(ignore_result=True, result_ttl="1h", track_started=True, name="add")(add)
    assert not task.apply_async((1,), ignore_result=False)._ignored
    task.apply_async((1,), headers={"trace": "7"}, result_ttl="5m", track_started=False, max_retries=9, time_limit="9s")
    task.delay(1)
    first, second, third = broker.messages
    assert (first.ignore_result, third.ignore_result) == (False, True)
    assert (second.headers, third.headers) == ({"trace": "7"}, None)
    assert (second.result_ttl, third.result_ttl) == (300, 3600)
    assert (second.terms, third.terms) == (Terms(max_retries=9), Terms(track_started=True))
    assert second.time_limit == 9


def test_plain_calls_have_no_terms(app: App, broker: FakeBroker) -> None:
    """The envelope of nearly all messages stays short."""
    app.task(name="add")(add).delay(1)
    assert broker.messages[0].terms is None


# ---- routes


def test_routes_by_name(make: Any, broker: FakeBroker) -> None:
    """The name itself, then globs in their order, else default; the task's own queue and the call's go before."""
    app = make(routes={"mail.*": "mail", "*": "rest", "mail.urgent": "urgent", "image.[ab]": "never"})
    for name in ("mail.send", "mail.urgent", "image.a"):
        app.task(name=name)(lambda: None).delay()
    app.task(name="mail.own", queue="own")(lambda: None).delay()
    app.tasks["mail.own"].apply_async(queue="call")
    app.tasks["mail.send"].apply_async(queue="call")
    queues = [message.queue for message in broker.messages]
    assert queues == ["mail", "urgent", "rest", "own", "call", "call"]
    assert make().task(name="mail.x")(lambda: None).delay().id
    assert broker.messages[-1].queue == "default"


def test_routes_by_function(make: Any, broker: FakeBroker) -> None:
    """A function sees name, arguments and what the call was given, and may leave the choice to the default."""
    seen = []

    def route(name: str, args: Any, kwargs: Any, options: Any) -> str | None:
        seen.append((name, args, kwargs, options))
        return "big" if args[0] > 100 else None

    task = make(routes=route).task(name="add")(add)
    task.delay(500, y=1)
    task.apply_async((5,), priority=3)
    assert [message.queue for message in broker.messages] == ["big", "default"]
    assert seen == [("add", (500,), {"y": 1}, {}), ("add", (5,), {}, {"priority": 3})]


@pytest.mark.parametrize("routes", ["mail", {"a": ""}, {5: "a"}, {"a": None}, 5])
def test_wrong_routes(routes: Any, make: Any) -> None:
    """Refused when the app is made."""
    with pytest.raises(ConfigurationError):
        make(routes=routes)


def test_a_route_to_no_queue(make: Any, broker: FakeBroker) -> None:
    """A function that returns no name is told at the call."""
    with pytest.raises(ConfigurationError, match="queue is a name, not 5"):
        make(routes=lambda *_: 5).task(name="add")(add).delay(1)
    assert broker.messages == []


# ---- gates


def test_gates(app: App, broker: FakeBroker) -> None:
    """A rate's burst is what a second allows, at least one; the key is the task's name, a text, or by the arguments."""
    app.task(name="a", rate_limit="100/s")(add).delay(1)
    app.task(name="b", rate_limit="6/m", limit_key="api")(add).delay(1)
    app.task(name="c", max_concurrency=2, limit_key=lambda x, y=0: f"tenant-{x}")(add).delay(7, y=1)
    gates = [message.terms.gate for message in broker.messages if message.terms]
    assert gates == [Gate("a", 100.0, 100, 0), Gate("api", 0.1, 1, 0), Gate("tenant-7", 0.0, 1, 2)]
    with pytest.raises(ConfigurationError, match="limit_key of d is 5: use a text"):
        app.task(name="d", max_concurrency=2, limit_key=lambda x: x)(add).delay(5)


# ---- unique


def test_a_refused_call_has_the_holders_result(app: App, broker: FakeBroker) -> None:
    """While one has the key the caller gets its result; a call with other arguments has another key."""
    task = app.task(name="add", unique=True, unique_for="1m")(add)
    first, second, third = task.delay(1), task.delay(1), task.delay(2)
    assert (first.id == second.id, first.id == third.id, len(broker.messages)) == (True, False, 2)
    (terms, _) = (message.terms for message in broker.messages)
    assert terms is not None
    assert terms.unique == Unique(f"add:{terms.unique.key[4:]}", 60.0)  # type: ignore[union-attr]
    assert next(result.id for result in task.enqueue_many([(1,), (3,), (3,)])) == first.id
    assert len(broker.messages) == 3


@pytest.mark.parametrize("bind", [False, True])
def test_the_same_arguments_however_they_are_passed(bind: bool, app: App, broker: FakeBroker) -> None:  # noqa: FBT001
    """Position, keyword and default make no other call."""
    function = (lambda self, x, y=0: None) if bind else add
    task = app.task(name="add", unique=True, bind=bind)(function)
    ids = {task.delay(1, 0).id, task.delay(1).id, task.delay(y=0, x=1).id}
    assert (len(ids), len(broker.messages)) == (1, 1)
    task.delay(1, 2, 3, 4)  # the worker will say what is wrong with it


def test_unique_by_key(app: App, broker: FakeBroker) -> None:
    """The task's own function says what is the same; two tasks do not share a key."""
    for name in ("a", "b"):
        task = app.task(name=name, unique_key=lambda x, y=0: f"order-{x}")(add)
        assert task.delay(1, 1).id == task.delay(1, 2).id
    assert list(broker.held) == ["a:order-1", "b:order-1"]
    with pytest.raises(ConfigurationError, match="unique_key of c is ''"):
        app.task(name="c", unique_key=lambda x: "")(add).delay(1)


def test_a_holder_that_has_just_ended(app: App, broker: FakeBroker) -> None:
    """Refused for one that ends before it can be named: the call is offered again, and is enqueued."""
    task = app.task(name="add", unique=True)(add)
    first = task.delay(1)
    broker.ends = 1
    second = task.delay(1)
    assert [message.id for message in broker.messages] == [first.id, second.id]
    broker.unique_holder = lambda key: None  # type: ignore[method-assign]  # always another, always gone
    with pytest.raises(BrokerBusy, match="a call of add is not enqueued"):
        task.delay(1)


def test_a_known_id_is_its_own_result(app: App, broker: FakeBroker) -> None:
    """A call whose id is known is that call, also when its key is free again."""
    task = app.task(name="add", unique=True)(add)
    task.apply_async((1,), task_id="mine")
    broker.held.clear()
    assert task.apply_async((2,), task_id="mine").id == "mine"
    assert len(broker.messages) == 1


# ---- inside a task


@pytest.fixture
def inside() -> Iterator[Any]:
    """``inside(message)``: as if it were running here."""

    def enter(message: Message) -> None:
        run = SimpleNamespace(
            message=message, delivery=Delivery(b"", 1, 2, message.id, 0, False), task=None, deadline=0
        )
        request.enter(run, "inc/0.1", "web-1")

    yield enter
    request.leave()


def test_parent_and_root(app: App, broker: FakeBroker, inside: Any) -> None:
    """What a task enqueues has it as parent, and the first of the line as root; headers are each call's own."""
    task = app.task(name="add")(add)
    inside(Message("first", "t", b"", headers={"a": "b"}))
    task.delay(1)
    inside(Message("second", "t", b"", terms=Terms(parent="first", root="first")))
    task.enqueue_many([(1,)])
    request.leave()
    task.delay(1)
    one, two, three = broker.messages
    assert (one.terms, two.terms) == (Terms(parent="first", root="first"), Terms(parent="second", root="first"))
    assert (one.headers, three.terms, three.root) == (None, None, three.id)


# ---- middleware at the sender


class Tracing(Middleware):
    """Adds a header, and writes down what it sees."""

    def __init__(self, name: str, log: list[Any]) -> None:
        self.name = name
        self.log = log

    def before_enqueue(self, message: Message) -> Message:
        self.log.append((f"{self.name} before", message.headers))
        return msgspec.structs.replace(message, headers={**(message.headers or {}), self.name: "1"})

    def after_enqueue(self, message: Message, *, stored: bool) -> None:
        self.log.append((f"{self.name} after", message.headers, stored))


@pytest.fixture
def log() -> list[Any]:
    """What middleware saw."""
    return []


@pytest.fixture
def traced(make: Any, log: list[Any]) -> Task[..., Any]:
    """``add`` in an app with two middlewares."""
    app: App = make(middleware=[Tracing("a", log), Tracing("b", log)])
    return app.task(name="add")(add)


def test_middleware_at_the_sender(traced: Any, log: list[Any], broker: FakeBroker) -> None:
    """Before in order, each seeing what the one before made of the message; after in the reverse order."""
    traced.apply_async((1,), headers={"x": "0"})
    every = {"x": "0", "a": "1", "b": "1"}
    assert broker.messages[0].headers == every
    assert log == [
        ("a before", {"x": "0"}), ("b before", {"x": "0", "a": "1"}),
        ("b after", every, True), ("a after", every, True),
    ]  # fmt: skip


def test_middleware_of_many(traced: Any, log: list[Any], broker: FakeBroker) -> None:
    """enqueue_many passes each call through it."""
    traced.enqueue_many([(1,), (2,)])
    assert [message.headers for message in broker.messages] == [{"a": "1", "b": "1"}] * 2
    assert [entry[0] for entry in log] == ["a before", "b before"] * 2 + ["b after", "a after"] * 2


def test_middleware_hears_what_was_not_stored(traced: Any, log: list[Any], broker: FakeBroker) -> None:
    """A known id, or a broker that refuses: ``stored`` is false."""
    traced.apply_async((1,), task_id="mine")
    log.clear()
    traced.apply_async((1,), task_id="mine")
    assert [entry[2] for entry in log if "after" in entry[0]] == [False, False]
    broker.is_full = True
    log.clear()
    with pytest.raises(BrokerFull):
        traced.delay(1)
    assert [entry[2] for entry in log if "after" in entry[0]] == [False, False]


class Broken(Middleware):
    """Each hook raises, or returns what is no message."""

    def __init__(self, returns: Any = None) -> None:
        self.returns = returns

    def before_enqueue(self, message: Message) -> Any:
        if self.returns is None:
            raise ValueError("SECRET")
        return self.returns

    def after_enqueue(self, message: Message, *, stored: bool) -> None:
        raise ValueError("SECRET")


@pytest.mark.parametrize("returns", [None, 5])
def test_broken_middleware_at_the_sender(
    returns: Any, make: Any, log: list[Any], broker: FakeBroker, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged; the call is enqueued, and the other hooks see it."""
    make(middleware=[Broken(returns), Tracing("b", log)]).task(name="add")(add).delay(1)
    assert broker.messages[0].headers == {"b": "1"}
    assert [entry[0] for entry in log] == ["b before", "b after"]
    assert [record.message.split(" at ")[0] for record in caplog.records] == [
        f"hook Broken.before_enqueue raised {'TypeError' if returns else 'ValueError'}",
        "hook Broken.after_enqueue raised ValueError",
    ]
    assert "SECRET" not in caplog.text


def test_middleware_is_objects(make: Any) -> None:
    """A class instead of an object of it, or anything else, is refused when the app is made."""
    for wrong in (Tracing, "tracing"):
        with pytest.raises(ConfigurationError, match=r"is no poolrt\.Middleware object"):
            make(middleware=[wrong])
