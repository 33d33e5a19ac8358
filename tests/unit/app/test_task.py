"""Declaring and calling tasks: options are checked where they are written, and mistakes name what to do."""

from __future__ import annotations

import dataclasses
import pickle
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from poolrt import TaskState
from poolrt.app import loading
from poolrt.app.app import App
from poolrt.app.calls import MAX_ARGUMENT_BYTES
from poolrt.app.options import TaskOptions
from poolrt.app.result import AsyncResult
from poolrt.app.task import Task
from poolrt.brokers.base import Broker, Found
from poolrt.errors import (
    BrokerFull,
    ConfigurationError,
    DuplicateTask,
    EncodingError,
    PoolrtError,
    ResultIgnored,
    ResultTimeout,
    TaskCancelled,
    TaskDead,
    TaskExpired,
    TaskFailed,
    TimeLimitExceeded,
    WorkerLost,
)
from poolrt.message import Enqueue, ErrorInfo, Message, Record, decode_message, encode_record

NAIVE = datetime(2030, 1, 1)  # noqa: DTZ001  the mistake


class FakeBroker:
    """Keeps what was enqueued, and answers with the records it was given."""

    url = "fake://"
    enqueue_batches = Broker.enqueue_batches

    def __init__(self, *, trusted: bool = True) -> None:
        self.trusted = trusted
        self.messages: list[Message] = []
        self.calls: list[int] = []
        self.records: dict[str, bytes] = {}
        self.fails_at = 10**9
        self.waits: list[tuple[str, float | None]] = []

    def enqueue(self, items: Sequence[Enqueue]) -> list[bool]:
        if len(self.messages) + len(items) > self.fails_at:
            raise BrokerFull("no space left")
        self.calls.append(len(items))
        for item in items:
            message = decode_message(item.envelope)
            assert item == Enqueue.of(message)
            self.messages.append(message)
        return [True] * len(items)

    def find(self, task_id: str) -> Found | None:
        record = self.records.get(task_id)
        if record is not None:
            return Found(task_id, TaskState.SUCCEEDED, None, record, 0)
        if any(message.id == task_id for message in self.messages):
            return Found(task_id, TaskState.QUEUED, b"", None, 0)
        return None

    def wait(self, task_id: str, timeout: float | None) -> Found | None:
        self.waits.append((task_id, timeout))
        found = self.find(task_id)
        return found if found is not None and found.record is not None else None

    def forget(self, task_id: str) -> bool:
        return self.records.pop(task_id, None) is not None


@pytest.fixture
def app() -> App:
    """An app over a fake broker that trusts its senders."""
    app = App("shop", "sqlite:////nowhere/never.db")
    app.broker = FakeBroker()  # type: ignore[assignment]
    return app


@pytest.fixture
def broker(app: App) -> FakeBroker:
    """The app's broker."""
    return app.broker  # type: ignore[return-value]


def add(x: int, y: int = 0) -> int:
    """Add."""
    return x + y


@pytest.fixture
def task(app: App) -> Task[Any, Any]:
    """``add`` as a task with every option."""
    return app.task(
        name="shop.add", queue="q", priority=3, expires="1m", time_limit="5s", soft_time_limit=4, memory_limit="1MiB",
        max_retries=1, retry_backoff="2s", retry_for=OSError,
    )(add)  # fmt: skip


# ---- declaring


def test_options_are_parsed(task: Task[Any, Any]) -> None:
    """Durations and sizes are written with units, and one exception class needs no list."""
    assert task.options == TaskOptions(
        queue="q", priority=3, expires=60.0, time_limit=5.0, soft_time_limit=4.0, memory_limit=2**20, max_retries=1,
        retry_backoff=2.0, retry_for=(OSError,),
    )  # fmt: skip
    assert repr(task) == "<Task shop.add of app shop>"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tiem_limit": 3}, "tiem_limit"),
        ({"time_limit": "soon"}, "'soon' is not a duration"),
        ({"memory_limit": 512}, "is not a size with a unit"),
        ({"priority": 10}, "priority is 0 to 9"),
        ({"priority": "high"}, "priority is 0 to 9"),
        ({"max_retries": -1}, "max_retries must be 0 or more"),
        ({"retry_for": ["OSError"]}, "retry_for takes exception classes, not 'OSError'"),
        ({"retry_for": [OSError()]}, "retry_for takes exception classes"),
        ({"leaks": "threads=shoot"}, "'threads=shoot' is no leak policy"),
        ({"leaks": ["threads"]}, r"leaks is a text such as 'threads=ignore', not \['threads'\]"),
    ],
)
def test_wrong_options_are_refused_where_they_are_written(options: dict[str, Any], said: str, app: App) -> None:
    """A mistake in a declaration is told at import, not at the first call."""
    with pytest.raises(ConfigurationError, match=said):
        app.task(**options)(add)


def test_bare_and_called_decorators_are_alike(app: App) -> None:
    """``@app.task`` and ``@app.task()`` register under module and qualified name."""
    bare = app.task(add)
    assert bare.name == f"{add.__module__}.add"
    assert app.tasks == {bare.name: bare}
    assert app.task()(add).name == bare.name


def test_a_task_is_still_its_function(task: Task[Any, Any], app: App) -> None:
    """Calling a task runs it here; its name, text and wrapped function are the function's."""
    assert task(2, y=3) == 5
    assert (task.__name__, task.__doc__, task.__wrapped__) == ("add", "Add.", add)
    bound = app.task(bind=True, name="bound")(lambda self, x: (self.name, x))
    assert bound(1) == ("bound", 1)


def test_two_tasks_of_one_name(app: App) -> None:
    """The error names both places."""
    app.task(name="same")(add)

    def other() -> None:
        pass

    line, here = other.__code__.co_firstlineno, __file__
    with pytest.raises(DuplicateTask) as error:
        app.task(name="same")(other)
    assert f"two tasks are named 'same': {here}:{add.__code__.co_firstlineno} and {here}:{line}" in str(error.value)
    assert app.tasks["same"].function is add
    app.task(name="same")(add)  # the same function again, as a reload does


def test_apps_are_apart(app: App) -> None:
    """Two apps may have a task of one name each."""
    other = App("other", "sqlite:////nowhere/other.db")
    app.task(name="same")(add)
    other.task(name="same")(lambda: None)
    assert app.tasks["same"] is not other.tasks["same"]


def test_request_outside_a_task(task: Task[Any, Any]) -> None:
    """There is no request where nothing runs, and the error says so."""
    with pytest.raises(RuntimeError, match="exists only while a worker runs the task"):
        task.request  # noqa: B018  the property raises


# ---- calling


def test_delay_makes_the_message(task: Task[Any, Any], broker: FakeBroker) -> None:
    """Every option of the declaration is in the message, and the result knows its id."""
    before = time.time()
    result = task.delay(1, y=2)
    (message,) = broker.messages
    assert dataclasses.is_dataclass(task.options)
    assert (message.id, message.task, message.payload, message.codec) == (
        result.id,
        "shop.add",
        b'[[1],{"y":2}]',
        "json",
    )
    assert (message.queue, message.priority, message.attempt, message.eta) == ("q", 3, 1, None)
    assert (message.time_limit, message.soft_time_limit, message.memory_limit) == (5.0, 4.0, 2**20)
    assert before <= message.enqueued_at <= time.time()
    assert message.expires == pytest.approx(message.enqueued_at + 60)
    assert (message.result_ttl, message.ignore_result, message.function) == (86_400, False, None)
    assert repr(result) == f"<AsyncResult {result.id}>"


def test_apply_async_overrides(task: Task[Any, Any], broker: FakeBroker) -> None:
    """What a call says goes before what the declaration says."""
    now = time.time()
    result = task.apply_async((1,), {"y": 2}, countdown="5m", queue="other", priority=0, expires=30, task_id="mine")
    (message,) = broker.messages
    assert result.id == message.id == "mine"
    assert (message.queue, message.priority) == ("other", 0)
    assert message.eta == pytest.approx(now + 300, abs=2)
    assert message.expires == pytest.approx(now + 30, abs=2)


@pytest.mark.parametrize("zone", [UTC, timezone(timedelta(hours=-7))])
def test_aware_times_are_moments(zone: timezone, task: Task[Any, Any], broker: FakeBroker) -> None:
    """An aware eta or expiry is the same moment whatever its zone."""
    moment = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
    task.apply_async(eta=moment.astimezone(zone), expires=moment.astimezone(zone))
    assert broker.messages[0].eta == broker.messages[0].expires == moment.timestamp()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"eta": NAIVE}, "eta=2030-01-01T00:00:00 has no time zone"),
        ({"eta": NAIVE}, r"write datetime\.now\(timezone\.utc\) \+ timedelta.*or use countdown="),
        ({"expires": NAIVE}, "expires=2030-01-01T00:00:00 has no time zone"),
        ({"eta": datetime(2030, 1, 1, tzinfo=UTC), "countdown": 1}, "countdown or eta, not both"),
        ({"countdown": -1}, "not a duration"),
        ({"priority": 10}, "priority is 0 to 9"),
        ({"task_id": ""}, "1 to 120 printable bytes"),
        ({"task_id": "x" * 121}, "1 to 120 printable bytes"),
        ({"task_id": "a\nb"}, "1 to 120 printable bytes"),
        ({"task_id": "\ud800"}, "1 to 120 printable bytes"),
    ],
)  # fmt: skip
def test_wrong_calls_are_refused_with_advice(
    options: dict[str, Any], said: str, task: Task[Any, Any], broker: FakeBroker
) -> None:
    """A wrong option says what to write instead, and nothing is enqueued."""
    with pytest.raises(ConfigurationError, match=said):
        task.apply_async((1,), **options)
    assert broker.messages == []


def test_huge_arguments_are_refused(task: Task[Any, Any], broker: FakeBroker) -> None:
    """16 MiB of arguments are refused with advice; a bit less is taken."""
    with pytest.raises(
        ConfigurationError, match=r"a call of shop\.add has .* bytes of arguments.*store the data elsewhere"
    ):
        task.delay("x" * MAX_ARGUMENT_BYTES)
    assert broker.messages == []
    task.delay("x" * (MAX_ARGUMENT_BYTES - 100))


def test_what_cannot_be_carried_is_refused(task: Task[Any, Any], broker: FakeBroker) -> None:
    """Over an untrusted broker a lambda is refused at the call, not at the worker."""
    broker.trusted = False
    with pytest.raises(EncodingError, match=r"a call of shop\.add holds a value of type builtins\.function"):
        task.delay(lambda: 1)
    assert broker.messages == []


def test_local_functions_travel_with_the_message(app: App, broker: FakeBroker) -> None:
    """A closure is sent by value where that is trusted; an importable function never is."""
    offset = 5

    @app.task
    def shift(x: int) -> int:
        return x + offset

    shift.delay(1)
    assert broker.messages[0].function is not None
    function, options = pickle.loads(broker.messages[0].function)
    assert function(1) == 6
    assert options == TaskOptions()
    broker.trusted = False
    shift.delay(1)
    assert broker.messages[1].function is None


def test_enqueue_many_goes_by_thousands(task: Task[Any, Any], broker: FakeBroker) -> None:
    """Any iterable of calls, a thousand in a transaction, results in order."""
    results = task.enqueue_many((number, 1) for number in range(2500))
    assert broker.calls == [1000, 1000, 500]
    assert [result.id for result in results] == [message.id for message in broker.messages]
    assert broker.messages[2499].payload == b"[[2499,1],{}]"
    assert task.enqueue_many([]) == []


def test_enqueue_many_says_how_far_it_came(task: Task[Any, Any], broker: FakeBroker) -> None:
    """When the broker refuses in the middle, the error tells how many calls are enqueued."""
    broker.fails_at = 1500
    with pytest.raises(BrokerFull) as error:
        task.enqueue_many((number,) for number in range(2500))
    assert error.value.__notes__ == ["1000 calls of this enqueue_many were enqueued before"]
    assert len(broker.messages) == 1000


def test_loading_refuses_effects(task: Task[Any, Any], broker: FakeBroker) -> None:
    """While a worker imports a module, ``delay`` is refused by place; while it runs a script, it ends that run."""
    loading.begin("module")
    try:
        with pytest.raises(
            ConfigurationError, match=rf"{__file__}:\d+ calls shop.add.delay while the module is imported"
        ):
            task.delay(1)
        loading.begin("script")
        with pytest.raises(loading.ScriptBodyReached) as stop:
            task.delay(1)
        assert stop.value.what == "shop.add.delay"
    finally:
        loading.begin("")
    assert broker.messages == []


# ---- results


def ended(state: TaskState, error: ErrorInfo | None = None, value: bytes | None = None) -> bytes:
    """A stored record."""
    return encode_record(Record(state, "shop.add", 1.0, value, "json", error))


def test_get(broker: FakeBroker) -> None:
    """The value, asked for once: a record never changes."""
    broker.records["id"] = ended(TaskState.SUCCEEDED, value=b'{"a":[1]}')
    result: AsyncResult[Any] = AsyncResult("id", broker)  # type: ignore[arg-type]
    assert result.get(timeout=1) == {"a": [1]}
    assert result.get() == result.result == {"a": [1]}
    assert broker.waits == [("id", 1)]
    assert (result.state, result.ready(), result.successful(), result.failed()) == (
        TaskState.SUCCEEDED,
        True,
        True,
        False,
    )
    assert result.traceback is None


@pytest.mark.parametrize(
    ("state", "cause", "kind"),
    [
        (TaskState.FAILED, "SomeError", TaskFailed),
        (TaskState.FAILED, "WorkerLost", WorkerLost),
        (TaskState.DEAD, "WorkerLost", WorkerLost),
        (TaskState.FAILED, "TimeLimitExceeded", TimeLimitExceeded),
        (TaskState.DEAD, "DecodingError", TaskDead),
        (TaskState.EXPIRED, "Expired", TaskExpired),
        (TaskState.CANCELLED, "Cancelled", TaskCancelled),
    ],
)
def test_each_ending_has_its_exception(
    state: TaskState, cause: str, kind: type[TaskFailed], broker: FakeBroker
) -> None:
    """What is raised says which task, how it ended and why, and is a TaskFailed."""
    broker.records["id"] = ended(state, ErrorInfo(cause, "the text", "the trace"))
    result: AsyncResult[Any] = AsyncResult("id", broker)  # type: ignore[arg-type]
    with pytest.raises(kind) as error:
        result.get()
    assert type(error.value) is kind
    assert isinstance(error.value, PoolrtError)
    assert str(error.value) == f"shop.add#id {state}: {cause}: the text"
    assert (error.value.task_id, error.value.cause, error.value.traceback) == ("id", cause, "the trace")
    assert (result.failed(), result.traceback) == (True, "the trace")
    assert type(result.result) is kind


def test_an_ending_without_a_reason(broker: FakeBroker) -> None:
    """A record that says nothing more still raises by its state."""
    broker.records["id"] = ended(TaskState.CANCELLED)
    with pytest.raises(TaskCancelled, match=r"shop\.add#id ended as cancelled"):
        AsyncResult("id", broker).get()  # type: ignore[arg-type]


def test_pickled_exceptions_that_cannot_be_read_are_named(broker: FakeBroker) -> None:
    """An exception of another minor, or whose class is not here, becomes a TaskFailed with its name and text."""
    for codec, raw in (("cloudpickle:3.99", b"x"), ("cloudpickle:3.11", b"\x80\x05cnone\nhere\n.")):
        broker.records["id"] = ended(TaskState.FAILED, ErrorInfo("Theirs", "sorry", "", raw, codec))
        with pytest.raises(TaskFailed, match="failed: Theirs: sorry"):
            AsyncResult("id", broker).get()  # type: ignore[arg-type]


def test_what_is_not_there(task: Task[Any, Any], broker: FakeBroker) -> None:
    """A task that has not ended times out; one the broker does not know is said to be unknown."""
    result = task.delay(1)
    assert (result.state, result.ready(), result.result, result.failed()) == (TaskState.QUEUED, False, None, False)
    with pytest.raises(ResultTimeout, match=r"has not ended within 0\.5 s"):
        result.get(timeout=0.5)
    with pytest.raises(ResultTimeout, match=r"has not ended$"):
        result.get(timeout=0)
    unknown: AsyncResult[Any] = AsyncResult("unknown", broker)  # type: ignore[arg-type]
    assert unknown.state is TaskState.UNKNOWN
    with pytest.raises(ResultIgnored, match="task unknown is unknown"):
        unknown.get()


def test_ignored_results_are_not_waited_for(app: App, broker: FakeBroker) -> None:
    """``get`` of a task that keeps no result raises at once, whether it has ended or not; a failure it does tell."""
    result = app.task(ignore_result=True)(add).delay(1)
    with pytest.raises(ResultIgnored, match="ignore_result=True"):
        result.get()
    assert broker.waits == []
    broker.records[result.id] = ended(TaskState.FAILED, ErrorInfo("SomeError", "text"))
    with pytest.raises(TaskFailed, match="SomeError: text"):
        result.get()


def test_forget(broker: FakeBroker) -> None:
    """A forgotten record is gone from the broker and from the result."""
    broker.records["id"] = ended(TaskState.SUCCEEDED, value=b"1")
    result: AsyncResult[Any] = AsyncResult("id", broker)  # type: ignore[arg-type]
    assert result.get() == 1
    assert result.forget()
    assert not result.forget()
    assert result.state is TaskState.UNKNOWN
