"""The executor: each row of the table of outcomes (design.md, 6) that a child decides, and nothing gets out of it."""

from __future__ import annotations

import asyncio
import os
import pickle
import sys
import time
import types
from pathlib import Path
from typing import Any, ClassVar

import cloudpickle
import msgspec
import pytest

from poolrt.app.app import App
from poolrt.app.options import TaskOptions
from poolrt.app.request import current_request
from poolrt.child import outcomes as outcomes_module
from poolrt.child.executor import Executor
from poolrt.child.interruption import Interrupter
from poolrt.child.limits import Limits
from poolrt.child.outcomes import MAX_UNKNOWN
from poolrt.codec import PICKLE, decode, encode_arguments
from poolrt.message import Delivery, Message, decode_message, encode_message
from poolrt.settings import Settings
from poolrt.states import Activity, TaskState

OTHER_MINOR = "cloudpickle:3.99"
BOOM = ValueError("boom")


def call(task: str, *args: Any, **options: Any) -> Message:
    """A message that calls ``task`` with ``args``."""
    codec, payload = encode_arguments(args, options.pop("kwargs", {}), trusted=True, task=task)
    return Message("the-id", task, payload, codec, **options)


@pytest.fixture(autouse=True)
def tasks(app: App) -> None:
    """Two ordinary tasks."""

    @app.task(name="add")
    def add(x: int, y: int = 1) -> int:
        return x + y

    @app.task(name="boom")
    def boom() -> None:
        raise ValueError("boom")


@pytest.fixture
def raises(app: App):  # type: ignore[no-untyped-def]
    """``raises(error, **options)``: a message for a task that raises it."""

    def make(error: BaseException, **options: Any) -> Message:
        @app.task(name="raises", **options)
        def task() -> None:
            raise error

        return call("raises")

    return make


# ---- returns


def test_returns(run, row, executor: Executor) -> None:
    """A task that returns succeeds: its value, its numbers and its owner are recorded, and the row told each step."""
    ran = run(call("add", 2, kwargs={"y": 3}, result_ttl=60.0, attempt=2), lost=1)
    assert ran.state is TaskState.SUCCEEDED
    assert decode(ran.record.codec, ran.record.value, trusted=True) == 5
    assert (ran.record.task, ran.record.attempt, ran.record.lost, ran.record.owner) == ("add", 2, 1, "inc/0.1")
    assert (ran.record.error, ran.record.envelope, ran.follow_ups) == (None, None, ())
    assert ran.outcome.ttl == 60.0
    assert abs(ran.record.finished_at - time.time()) < 5
    assert row.log == [("RUN", 5, 6, b"the-id", b"add", 0), ("ended", False)]
    assert 0 <= executor.runtime == ran.record.runtime < 1
    assert executor.tainted == ""


def test_ignored_results_are_not_kept(run) -> None:
    """With ignore_result a success keeps nothing; a failure still keeps why."""
    ran = run(call("add", 1, ignore_result=True))
    assert (ran.state, ran.outcome.record) == (TaskState.SUCCEEDED, None)
    ran = run(call("boom", ignore_result=True))
    assert (ran.state, ran.text) == (TaskState.FAILED, "boom")


def test_a_default_ttl_is_one_day(run) -> None:
    """A message that names no TTL keeps its record a day."""
    assert run(call("add", 1)).outcome.ttl == 86_400


# ---- raises


def test_raises(run, row, executor: Executor) -> None:
    """A task that raises fails: type, text, the user's frames, the exception by value, and the message as it was."""
    message = call("boom")
    ran = run(message)
    assert (ran.state, ran.kind, ran.text) == (TaskState.FAILED, "ValueError", "boom")
    assert ran.record.error.traceback.endswith("ValueError: boom\n")
    assert "in boom\n" in ran.record.error.traceback
    assert "poolrt/child/executor.py" not in ran.record.error.traceback
    error = pickle.loads(ran.record.error.exception)
    assert isinstance(error, ValueError)
    assert (error.args, error.__traceback__) == (("boom",), None)
    assert ran.record.envelope == encode_message(message)
    assert row.log[-1] == ("ended", True)
    assert executor.tainted == ""


def test_wrong_arguments_fail_like_any_call(run) -> None:
    """A call the function does not take is a TypeError of the task: not retried, not fatal."""
    ran = run(call("add", 1, 2, 3))
    assert (ran.state, ran.kind) == (TaskState.FAILED, "TypeError")
    assert "takes from 1 to 2 positional arguments but 3 were given" in ran.text


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError()])
def test_what_is_no_exception_fails_and_taints(error: BaseException, raises, run, executor: Executor) -> None:
    """SystemExit and its like end the task as failed, and the child is recycled after it."""
    ran = run(raises(error))
    assert (ran.state, ran.kind) == (TaskState.FAILED, type(error).__name__)
    assert executor.tainted == f"{type(error).__name__} in raises"


def test_memory_error_taints(raises, run, executor: Executor) -> None:
    """After a MemoryError the child is recycled: nobody knows what it left half done."""
    assert run(raises(MemoryError())).kind == "MemoryError"
    assert executor.tainted == "MemoryError in raises"


class BrokenText(Exception):
    """An exception whose text cannot be had."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    def __reduce__(self) -> Any:
        raise RuntimeError("no pickle")


class WorseText(Exception):
    """An exception whose text ends the process."""

    def __str__(self) -> str:
        raise SystemExit(1)

    __repr__ = __str__

    def __reduce__(self) -> Any:
        raise SystemExit(1)


@pytest.mark.parametrize(("error", "by"), [(BrokenText(), "RuntimeError"), (WorseText(), "SystemExit")])
def test_broken_exceptions_are_told_all_the_same(error: Exception, by: str, raises, run) -> None:
    """An exception that breaks whoever looks at it still becomes a failed outcome."""
    ran = run(raises(error))
    assert (ran.state, ran.kind) == (TaskState.FAILED, type(error).__name__)
    assert ran.text == f"<str() of it raised {by}>"
    assert ran.record.error.exception is None


@pytest.mark.parametrize("text", [os.fsdecode(b"no file \xff"), "\ud800"])
def test_odd_text_is_escaped(text: str, raises, run, app: App) -> None:
    """An exception about a file whose name is no UTF-8 is recorded, its odd bytes as escapes."""
    ran = run(raises(FileNotFoundError(text)))
    assert ran.text == text.encode("utf-8", "backslashreplace").decode()
    assert "FileNotFoundError" in ran.record.error.traceback


def test_long_texts_are_cut(raises, run) -> None:
    """Neither a text nor a traceback of a megabyte is recorded whole; the end, which says most, is kept."""
    ran = run(raises(ValueError("x" * 1_000_000 + "END")))
    assert len(ran.text) == 4096
    assert len(ran.record.error.traceback) == 32 * 1024
    assert ran.record.error.traceback.endswith("END\n")


def test_deep_recursion_fails_the_task_only(run, app: App) -> None:
    """Endless recursion is a failure like any other."""

    @app.task(name="deep")
    def deep() -> None:
        deep()

    assert run(call("deep")).kind == "RecursionError"
    assert run(call("add", 1)).state is TaskState.SUCCEEDED


# ---- retries


def test_retries_with_backoff(raises, run) -> None:
    """An exception that retry_for names goes on as the next attempt of the same id, later each time, then fails."""
    message = raises(BOOM, retry_for=[OSError, ValueError], max_retries=3, retry_backoff="2s", retry_jitter=False)
    for attempt, delay in ((1, 2), (2, 4), (3, 8)):
        now = time.time()
        ran = run(message)
        assert (ran.state, ran.outcome.record) == (None, None)
        (again,) = ran.follow_ups
        message = decode_message(again.envelope)
        assert (message.id, again.id, message.attempt) == ("the-id", "the-id", attempt + 1)
        assert again.eta == message.eta == pytest.approx(now + delay, abs=0.5)
    ran = run(message)
    assert (ran.state, ran.record.attempt, ran.text) == (TaskState.FAILED, 4, "boom")


def test_retries_keep_the_call(run, app: App) -> None:
    """The next attempt has the arguments, options and queue of the first."""

    @app.task(name="again", retry_for=ValueError)
    def again(x: int) -> None:
        raise BOOM

    first = call("again", 7, queue="mail", priority=4, expires=time.time() + 60, headers={"a": "b"})
    (follow_up,) = run(first).follow_ups
    second = decode_message(follow_up.envelope)
    assert msgspec.structs.replace(second, attempt=1, eta=None, terms=None) == first
    assert (follow_up.queue, follow_up.priority) == ("mail", 4)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({}, BOOM),
        ({"max_retries": 5}, BOOM),
        ({"retry_for": OSError}, BOOM),
        ({"retry_for": Exception}, SystemExit()),
        ({"retry_for": ValueError, "max_retries": 0}, BOOM),
    ],
)
def test_what_is_not_retried(options: dict[str, Any], error: BaseException, raises, run) -> None:
    """Without retry_for, with another class, or without retries left, a task fails at its first attempt."""
    assert run(raises(error, **options)).state is TaskState.FAILED


def test_retry_pauses_have_a_most(raises, run) -> None:
    """However many attempts, the pause stays at ten minutes, or at what the task says."""
    for options, most in (({}, 600), ({"retry_backoff_max": "1m"}, 60)):
        message = raises(BOOM, retry_for=ValueError, max_retries=None, retry_jitter=False, **options)
        message = msgspec.structs.replace(message, attempt=4000)
        assert run(message).follow_ups[0].eta == pytest.approx(time.time() + most, abs=5)


# ---- results that cannot be carried


class Unpicklable:
    """A result whose own code refuses, as its maker says."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        raise self.error


def test_a_result_that_cannot_be_encoded_fails_the_task(run, app: App) -> None:
    """The task ran, but its result cannot be kept: it fails by name, it is not lost."""

    @app.task(name="unpicklable")
    def unpicklable() -> object:
        return Unpicklable(ZeroDivisionError("no"))

    ran = run(call("unpicklable"))
    assert (ran.state, ran.kind) == (TaskState.FAILED, "EncodingError")
    assert ran.text == "the result of unpicklable cannot be pickled: ZeroDivisionError: no"
    assert run(call("unpicklable", ignore_result=True)).state is TaskState.SUCCEEDED


def test_a_result_that_ends_the_process_fails_the_task(run, app: App, executor: Executor) -> None:
    """A result whose pickling raises SystemExit is a failed task and a recycled child, no crash."""

    @app.task(name="exit")
    def leave() -> object:
        return Unpicklable(SystemExit(3))

    assert run(call("exit")).kind == "SystemExit"
    assert executor.tainted


def test_a_result_that_is_too_large_fails_the_task(run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A result no store should take fails its task by name, and says what to do; one at the bound is kept."""
    monkeypatch.setattr(outcomes_module, "MAX_RESULT_BYTES", 3)
    assert run(call("add", 998)).state is TaskState.SUCCEEDED
    ran = run(call("add", 999))
    assert (ran.state, ran.kind) == (TaskState.FAILED, "ResultTooLarge")
    assert ran.text.startswith("the result has 4 bytes, more than 3: store it elsewhere")


def test_generators_are_no_results(run, app: App) -> None:
    """A generator function gives no value that could be carried, and says so."""

    @app.task(name="generate")
    def generate():  # type: ignore[no-untyped-def]
        yield 1

    assert run(call("generate")).kind == "EncodingError"


# ---- messages that cannot run


def test_unknown_tasks_are_handed_back_then_dead(run, row, executor: Executor) -> None:
    """A task nobody here knows is handed back ever longer, by its own count, then dead, naming what is known."""
    message = call("nobody.knows", priority=3)
    for count, delay in enumerate((1, 2, 4, 8, 15, 15, 15, 15, 15), start=1):
        now = time.time()
        ran = run(message)
        assert (ran.state, ran.outcome.record) == (None, None)
        (again,) = ran.follow_ups
        message = decode_message(again.envelope)
        assert (message.unknown_count, message.attempt, again.priority) == (count, 1, 3)
        assert again.eta == pytest.approx(now + delay, abs=delay / 2 + 0.1)
    assert count + 1 == MAX_UNKNOWN
    ran = run(message)
    assert (ran.state, ran.kind) == (TaskState.DEAD, "UnknownTask")
    assert ran.text == "no worker knows a task named 'nobody.knows' (10 looked); known here: add, boom"
    assert ran.record.envelope == encode_message(message)
    assert ran.outcome.ttl == 7 * 86_400
    assert row.log == [], "nothing ran"


def test_the_names_that_are_known_are_not_endless(app: App, run) -> None:
    """An app of many tasks names some of them."""
    for number in range(20):
        app.task(name=f"n{number:02}")(lambda: None)
    ran = run(call("nobody.knows", unknown_count=9))
    assert ran.text.endswith("known here: add, boom, n00, n01, n02 and 17 more")


@pytest.mark.parametrize(
    ("envelope", "said"),
    [
        (b"", "empty message"),
        (b"\x02\x90", "envelope version 2"),
        (b'{"celery": 1}', "not a poolrt message"),
        (encode_message(Message("i", "add", b"[[1],{}]"))[:-3], "damaged envelope"),
    ],
)
def test_unreadable_envelopes_are_dead_with_their_bytes(envelope: bytes, said: str, run, row) -> None:
    """A message that cannot be read is dead at once; its bytes are kept for a week, and nothing ran."""
    ran = run(envelope)
    assert (ran.state, ran.kind) == (TaskState.DEAD, "DecodingError")
    assert said in ran.text
    assert ran.record.envelope == envelope
    assert ran.outcome.ttl == 7 * 86_400
    assert row.log == []


@pytest.mark.parametrize(
    "payload",
    [
        b"", b"[[1]", b"\xff", b"1", b"null", b"[]", b"[[1]]", b"[[1],{},3]", b'["ab",{}]', b"[[1],[]]",
        b'{"a":1,"b":2}', b"[" * 100_000,
    ],
)  # fmt: skip
def test_undecodable_arguments_are_dead(payload: bytes, run, executor: Executor) -> None:
    """Arguments that cannot be read, or are no arguments, make the message dead, not failed: the function never ran."""
    message = Message("the-id", "add", payload)
    ran = run(message)
    assert (ran.state, ran.kind) == (TaskState.DEAD, "DecodingError")
    assert ran.record.envelope == encode_message(message)
    assert executor.tainted == ""


class Canary:
    """Unpickling it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("codec", [OTHER_MINOR, "unheard-of"])
def test_another_minors_arguments_are_dead_and_never_unpickled(codec: str, run, tmp_path: Path) -> None:
    """A call pickled by another Python minor is dead at once, bytes kept, untouched."""
    payload = pickle.dumps(((Canary(tmp_path / "unpickled"),), {}))
    ran = run(Message("the-id", "add", payload, codec))
    assert ran.state is TaskState.DEAD
    assert decode_message(ran.record.envelope).payload == payload
    assert not (tmp_path / "unpickled").exists()
    if codec == OTHER_MINOR:
        assert ran.text == f"pickled by Python 3.99, this is 3.{sys.version_info[1]}: never unpickled"


def test_another_minors_function_is_dead_and_never_unpickled(run, tmp_path: Path) -> None:
    """The same holds for a function that travels by value."""
    function = pickle.dumps(Canary(tmp_path / "unpickled"))
    ran = run(call("by value", function=function, function_codec=OTHER_MINOR))
    assert (ran.state, ran.kind) == (TaskState.DEAD, "DecodingError")
    assert not (tmp_path / "unpickled").exists()


def test_untrusted_brokers_get_nothing_unpickled(app: App, row, tmp_path: Path) -> None:
    """Where anyone may enqueue, neither arguments nor functions are unpickled, and exceptions travel as text."""
    app.broker.trusted = False
    resident = types.SimpleNamespace(read=lambda: 20 << 20)
    executor = Executor(
        app, "owner", row, Limits(Settings(), resident), 3, Interrupter(row), lambda: None, lambda *_: None
    )  # type: ignore[arg-type]
    canary = pickle.dumps(Canary(tmp_path / "unpickled"))
    for message in (
        Message("i", "add", canary, PICKLE),
        Message("i", "by value", b"[[],{}]", function=canary, function_codec=PICKLE),
    ):
        outcome = executor.run(executor.prepare(Delivery(encode_message(message), 1, 1, "i", 0, suspect=False)))
        assert outcome.state is TaskState.DEAD
    assert not (tmp_path / "unpickled").exists()
    outcome = executor.run(executor.prepare(Delivery(encode_message(call("boom")), 1, 1, "i", 0, suspect=False)))
    assert b"cloudpickle" not in outcome.record


class Reader:
    """An argument that tells what the row says while it is unpickled."""

    rows: ClassVar[list[Any]] = []

    def __setstate__(self, state: object) -> None:
        Reader.rows.append(current_row.word)


current_row: Any = None


def test_the_row_names_the_message_while_it_is_unpickled(run, row, app: App) -> None:
    """Unpickling runs code of the sender's: should it kill the child, the row names the message, so it is counted."""
    global current_row  # noqa: PLW0603  what __setstate__ can see
    current_row = row
    reader = Reader()
    reader.__dict__["any"] = "state"
    app.task(name="take")(lambda reader: None)
    payload = pickle.dumps(((reader,), {}))
    Reader.rows.clear()
    assert run(Message("i", "take", payload, PICKLE)).state is TaskState.SUCCEEDED
    function = pickle.dumps((reader, "no options"))
    assert run(call("by value", function=function, function_codec=PICKLE)).state is TaskState.DEAD
    assert Reader.rows == [Activity.RUN, Activity.RUN]


class Exits:
    """An argument whose unpickling raises SystemExit."""

    def __reduce__(self) -> Any:
        return (sys.exit, (1,))


def test_unpickling_that_exits_is_dead(run, executor: Executor) -> None:
    """Arguments that end the process when they are read make the message dead, and the child is recycled."""
    ran = run(Message("i", "add", pickle.dumps(((Exits(),), {})), PICKLE))
    assert (ran.state, ran.kind) == (TaskState.DEAD, "DecodingError")
    assert executor.tainted == "SystemExit while reading a call of add"


def test_expired_messages_do_not_run(run, row) -> None:
    """A message whose time has passed ends as expired, saying by how much; one whose time has not passed runs."""
    ran = run(call("add", 1, expires=time.time() - 5))
    assert (ran.state, ran.kind) == (TaskState.EXPIRED, "Expired")
    assert ran.text.startswith("expired 5.")
    assert row.log == []
    assert run(call("add", 1, expires=time.time() + 60)).state is TaskState.SUCCEEDED


# ---- functions by value


def test_functions_by_value(run) -> None:
    """A function that this app does not know comes with the message, with its options."""
    offset = 10

    def shift(self: Any, x: int) -> tuple[int, str]:
        return x + offset, self.name

    options = TaskOptions(bind=True)
    ran = run(call("their.shift", 5, function=cloudpickle.dumps((shift, options)), function_codec=PICKLE))
    assert decode(ran.record.codec, ran.record.value, trusted=True) == [15, "their.shift"]


def test_functions_by_value_retry_by_their_own_options(run) -> None:
    """Its retry_for and max_retries travel with it, through each attempt."""

    def fail() -> None:
        raise ZeroDivisionError

    pair = cloudpickle.dumps((fail, TaskOptions(retry_for=(ZeroDivisionError,), max_retries=1)))
    message = call("their.fail", function=pair, function_codec=PICKLE)
    (again,) = run(message).follow_ups
    assert run(again.envelope).kind == "ZeroDivisionError"


@pytest.mark.parametrize("function", [b"", pickle.dumps("text"), pickle.dumps((len, {})), pickle.dumps((1, 2, 3))])
def test_other_things_by_value_are_dead(function: bytes, run) -> None:
    """What is no function with its options is refused."""
    assert run(call("x", function=function, function_codec=PICKLE)).state is TaskState.DEAD


# ---- requests, limits, async


def test_bound_tasks_see_their_request(run, app: App) -> None:
    """``self.request`` says everything of the message that runs, and exists only while it runs."""
    seen: list[Any] = []

    @app.task(name="bound", bind=True)
    def bound(self: Any, x: int) -> int:
        seen.append(self.request)
        return x

    assert (
        run(call("bound", 3, queue="q", attempt=2, priority=4, headers={"a": "b"}), lost=1).state is TaskState.SUCCEEDED
    )
    (request,) = seen
    assert msgspec.structs.asdict(request) == {
        "id": "the-id", "task": "bound", "queue": "q", "attempt": 2, "lost": 1, "priority": 4, "headers": {"a": "b"},
        "owner": "inc/0.1", "fence": "inc/0.1/5.6", "node": "web-1", "parent": "", "root": "the-id", "group": "",
        "eta": None, "expires": None, "deadline": None,
    }  # fmt: skip
    assert (request.retries, request.deliveries, request.child) == (1, 2, "0.1")
    assert current_request() is None
    with pytest.raises(RuntimeError, match=r"bound\.request exists only while a worker runs the task"):
        bound.request  # noqa: B018  the property raises


@pytest.mark.parametrize(
    ("limits", "seconds"), [({"time_limit": 60.0}, 60), ({"time_limit": 60.0, "soft_time_limit": 30.0}, 30)]
)
def test_the_deadline_is_wall_time(limits: dict[str, float], seconds: float, run, app: App) -> None:
    """``request.deadline``: when the first limit is over, as a moment that others understand too."""
    seen: list[Any] = []
    app.task(name="bound", bind=True)(lambda self: seen.append(self.request.deadline))
    run(call("bound", **limits))
    assert seen == [pytest.approx(time.time() + seconds, abs=2)]


def test_the_request_ends_with_the_task(run, raises) -> None:
    """Also after a task that raised there is no request left."""
    run(raises(SystemExit()))
    assert current_request() is None


@pytest.mark.parametrize(
    ("own", "default", "expected"),
    [
        (None, 0.0, 0),
        (None, 5.0, 5),
        (2.0, 5.0, 2),
        (2.0, 0.0, 2),
        (1e300, 0.0, 0),
        (1e11, 5.0, 0),
        (float("nan"), 0.0, 0),
    ],
)
def test_hard_deadlines(own: float | None, default: float, expected: int, run, row, executor: Executor) -> None:
    """The row shows the task's own limit, else the node's; an endless one is none, and fits the row."""
    executor.limits._time_limit, executor.limits._has_time_limit = default, bool(default)
    assert run(call("add", 1, time_limit=own)).state is TaskState.SUCCEEDED
    assert row.log[0][5] == expected * 10**9


def test_an_early_deadline_pokes_the_supervisor(run, row, pokes: list[float]) -> None:
    """A deadline before the supervisor's next look wakes it; a later one does not."""
    run(call("add", 1, time_limit=1.0))
    assert len(pokes) == 1
    row.next_wake = time.monotonic_ns()
    run(call("add", 1, time_limit=1.0))
    assert len(pokes) == 1


def test_async_tasks_run_on_one_loop(run, app: App) -> None:
    """Coroutines run to their end, one at a time, on the child's one loop."""
    loops = []

    @app.task(name="async")
    async def double(x: int) -> int:
        loops.append(asyncio.get_running_loop())
        await asyncio.sleep(0)
        return 2 * x

    for number in (1, 2):
        ran = run(call("async", number))
        assert decode(ran.record.codec, ran.record.value, trusted=True) == 2 * number
    assert loops[0] is loops[1]


def test_async_tasks_raise_and_are_retried(run, app: App) -> None:
    """A coroutine's exception is its task's, with the same rules."""

    @app.task(name="async", retry_for=ValueError, max_retries=1)
    async def fail() -> None:
        await asyncio.sleep(0)
        raise BOOM

    (again,) = run(call("async")).follow_ups
    ran = run(again.envelope)
    assert (ran.state, ran.text) == (TaskState.FAILED, "boom")
    assert "in fail" in ran.record.error.traceback


def test_async_tasks_that_exit_taint(run, app: App, executor: Executor) -> None:
    """SystemExit out of a coroutine is contained like any other, and the loop still runs the next task."""

    @app.task(name="exit")
    async def leave() -> None:
        raise SystemExit(4)

    @app.task(name="fine")
    async def fine() -> int:
        return 1

    assert run(call("exit")).kind == "SystemExit"
    assert executor.tainted
    assert run(call("fine")).state is TaskState.SUCCEEDED


def test_arguments_stay_out_of_logs(run, raises, app: App, caplog: pytest.LogCaptureFixture) -> None:
    """Neither a failure nor a retry nor a dead message logs what it was called with or what it said."""
    caplog.set_level("DEBUG", "poolrt")
    app.task(name="secret", retry_for=ValueError, max_retries=1)(lambda x: (_ for _ in ()).throw(ValueError(x)))
    for attempt in (1, 2):
        run(call("secret", "SECRET", attempt=attempt))
    run(call("unknown", "SECRET"))
    assert len(caplog.records) == 3
    assert "SECRET" not in caplog.text


def test_a_suspect_with_too_many_losses_is_given_up(executor: Executor) -> None:
    """Decision 013: the child that gets a suspect with ``max_deliveries`` losses gives it up, before it runs."""
    limit = Settings().max_deliveries
    ends = []
    for lost in (limit - 1, limit):
        prepared = executor.prepare(Delivery(encode_message(call("add", 1)), 5, 6, "the-id", lost, suspect=True))
        ends.append(getattr(prepared, "state", None))
    assert ends == [None, TaskState.DEAD]


def test_a_suspect_that_must_not_run_twice_has_failed(executor: Executor) -> None:
    """Nobody saw whether it ran: with ``acks_late=False`` it is not started again."""
    delivery = Delivery(encode_message(call("add", 1, acks_late=False)), 5, 6, "the-id", 0, suspect=True)
    prepared = executor.prepare(delivery)
    assert getattr(prepared, "state", None) is TaskState.FAILED
