"""Hooks of task classes and middleware around a run: which, in which order, with what; broken ones change nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import cloudpickle
import pytest

from poolrt import Ended, Ignore, Middleware, Reject, Request, Retry, SoftTimeLimitExceeded, Task
from poolrt.app.app import App
from poolrt.app.options import TaskOptions
from poolrt.child.executor import Executor
from poolrt.codec import PICKLE, encode_arguments
from poolrt.errors import TaskInterrupted
from poolrt.message import Message
from poolrt.states import Interruption, TaskState

Log = list[tuple[Any, ...]]


def call(task: str, *args: Any, **options: Any) -> Message:
    """A message that calls ``task`` with ``args``."""
    codec, payload = encode_arguments(args, options.pop("kwargs", {}), trusted=True, task=task)
    return Message("the-id", task, payload, codec, **options)


class Watcher(Middleware):
    """Writes down each call of it."""

    def __init__(self, name: str, log: Log) -> None:
        self.name = name
        self.log = log

    def before_run(self, request: Request, args: Any, kwargs: Any) -> None:
        self.log.append((f"{self.name} before_run", request.id, list(args), kwargs))

    def after_run(self, request: Request, ended: Ended) -> None:
        self.log.append((f"{self.name} after_run", request.task, ended.status, ended.value, type(ended.error).__name__))


@pytest.fixture
def log() -> Log:
    """What the hooks saw."""
    return []


@pytest.fixture
def base(log: Log) -> type[Task[..., Any]]:
    """A class of tasks that writes down each hook."""

    class Watched(Task[..., Any]):
        def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
            log.append(("before_start", task_id, list(args), kwargs))

        def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
            log.append(("on_success", retval, task_id, list(args), kwargs))

        def on_failure(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: str) -> None:
            log.append(("on_failure", exc, task_id, list(args), einfo.splitlines()[-1]))

        def on_retry(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: str) -> None:
            log.append(("on_retry", exc, task_id, list(args), einfo))

        def after_return(self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: str) -> None:
            log.append(("after_return", status, retval, task_id))

    return Watched


@pytest.fixture
def add(app: App, base: type[Task[..., Any]], log: Log) -> None:
    """A task with hooks between two middlewares."""
    app.middleware = (Watcher("1", log), Watcher("2", log))

    @app.task(name="add", base=base)
    def add(x: int, y: int = 0) -> int:
        log.append(("add",))
        return x + y


@pytest.fixture
def ends(app: App, base: type[Task[..., Any]]) -> Callable[..., Message]:
    """``ends(error, **options)``: a message for a task with hooks that raises it."""

    def make(error: BaseException, **options: Any) -> Message:
        @app.task(name="ends", base=base, **options)
        def ends() -> None:
            raise error

        return call("ends")

    return make


@pytest.mark.usefixtures("add")
def test_the_order_of_all_hooks(run, log: Log) -> None:
    """Middleware in its order, the class's hook, the function, the class's, middleware in the reverse order."""
    assert run(call("add", 1, kwargs={"y": 2})).state is TaskState.SUCCEEDED
    assert log == [
        ("1 before_run", "the-id", [1], {"y": 2}),
        ("2 before_run", "the-id", [1], {"y": 2}),
        ("before_start", "the-id", [1], {"y": 2}),
        ("add",),
        ("on_success", 3, "the-id", [1], {"y": 2}),
        ("after_return", "succeeded", 3, "the-id"),
        ("2 after_run", "add", "succeeded", 3, "NoneType"),
        ("1 after_run", "add", "succeeded", 3, "NoneType"),
    ]


BOOM = ValueError("boom")


@pytest.mark.parametrize(
    ("error", "options", "hooks"),
    [
        (BOOM, {}, [
            ("on_failure", BOOM, "the-id", [], "ValueError: boom"), ("after_return", "failed", BOOM, "the-id"),
        ]),
        (Ignore(), {}, [("after_return", "ignored", Ignore, "the-id")]),
        (Reject("no"), {}, [("after_return", "dead", Reject, "the-id")]),
        (Reject("no", requeue=True), {}, [("after_return", "requeued", Reject, "the-id")]),
        (Retry(exc=BOOM, max_retries=0), {}, [
            ("on_failure", BOOM, "the-id", [], "ValueError: boom"), ("after_return", "failed", BOOM, "the-id"),
        ]),
    ],
)  # fmt: skip
def test_hooks_of_each_ending(error: BaseException, options: Any, hooks: Log, run, ends, log: Log) -> None:
    """A failure has on_failure; what neither failed nor succeeded has after_return alone, with its status."""
    run(ends(error, **options))
    seen = [tuple(type(each) if isinstance(each, Ignore | Reject) else each for each in entry) for entry in log]
    assert seen == [("before_start", "the-id", [], {}), *hooks]


@pytest.mark.parametrize(("error", "reason"), [(BOOM, BOOM), (Retry(exc=BOOM), BOOM), (Retry(), None)])
def test_hooks_of_a_retry(error: BaseException, reason: Any, run, ends, log: Log) -> None:
    """An attempt that is not the last has on_retry, with what it raised or what ``Retry`` was given."""
    assert run(ends(error, retry_for=ValueError)).state is None
    _, on_retry, after_return = log
    assert (on_retry[:2], after_return) == (("on_retry", reason), ("after_return", "retry", reason, "the-id"))
    assert ("ValueError: boom" in on_retry[4]) is (reason is BOOM)


def test_hooks_of_what_cannot_be_kept(app: App, base: Any, run, log: Log) -> None:
    """A result that cannot be kept is a failure for the hooks too: on_success does not come."""
    app.task(name="odd", base=base)(lambda: (yield))
    assert run(call("odd")).state is TaskState.FAILED
    assert [entry[:1] for entry in log] == [("before_start",), ("on_failure",), ("after_return",)]
    assert log[2][1] == "failed"


def test_what_never_runs_has_no_hooks(run, app: App, base: Any, log: Log) -> None:
    """Arguments that cannot be read: nothing has begun, so nothing ends."""
    app.task(name="t", base=base)(lambda: None)
    assert run(Message("i", "t", b"[]")).state is TaskState.DEAD
    assert log == []


class Broken(Middleware):
    """Each of its hooks raises."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def before_run(self, request: Request, args: Any, kwargs: Any) -> None:
        raise self.error

    def after_run(self, request: Request, ended: Ended) -> None:
        raise self.error


@pytest.mark.parametrize("error", [ValueError("SECRET"), SystemExit(3), KeyboardInterrupt()])
def test_broken_middleware_is_logged_and_never_fatal(
    error: BaseException, app: App, run, log: Log, executor: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    """The task runs, the other hooks run, the outcome stands; the log names hook and place, not what it said."""
    app.middleware = (Broken(error), Watcher("2", log))
    app.task(name="add")(lambda x: x + 1)
    ran = run(call("add", 1))
    assert (ran.state, ran.record.value) == (TaskState.SUCCEEDED, b"2")
    assert [entry[0] for entry in log] == ["2 before_run", "2 after_run"]
    assert [record.message.partition(" at ")[0] for record in caplog.records] == [
        f"hook Broken.before_run raised {type(error).__name__}", f"hook Broken.after_run raised {type(error).__name__}",
    ]  # fmt: skip
    assert f"{__file__}:" in caplog.text
    assert "SECRET" not in caplog.text
    assert bool(executor.tainted) is not isinstance(error, Exception)


@pytest.mark.parametrize("hook", ["on_success", "after_return"])
def test_broken_hooks_of_the_class_change_nothing(hook: str, app: App, run, caplog: pytest.LogCaptureFixture) -> None:
    """A hook that fails after the function leaves the outcome as it is."""

    def broken(*_: Any) -> None:
        raise ValueError("x")

    app.task(name="t", base=type("Base", (Task,), {hook: broken}))(lambda: 1)
    assert run(call("t")).state is TaskState.SUCCEEDED
    assert "raised ValueError" in caplog.text


def test_what_before_start_raises_the_task_has_raised(app: App, run, log: Log) -> None:
    """As in Celery: it fails the task, by the same rules, and the function does not run."""

    class Guarded(Task[..., Any]):
        error: BaseException = PermissionError("not now")

        def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
            raise self.error

        def on_failure(self, exc: BaseException, *_: Any) -> None:
            log.append(("on_failure", exc))

    task = app.task(name="t", base=Guarded)(lambda: log.append(("ran",)))
    ran = run(call("t"))
    assert (ran.state, ran.kind) == (TaskState.FAILED, "PermissionError")
    assert "poolrt/child" not in ran.record.error.traceback
    assert log == [("on_failure", Guarded.error)]
    task.error = Retry(countdown=1)  # type: ignore[attr-defined]
    assert run(call("t")).state is None
    task.error = Reject("never")  # type: ignore[attr-defined]
    assert run(call("t")).state is TaskState.DEAD


# ---- interruptions


def interrupts(executor: Executor, error: BaseException, reason: Interruption) -> Callable[..., None]:
    """A hook in which the interrupter raises ``error``."""

    def hook(*_: Any) -> None:
        assert executor._interrupter._is_open
        executor._interrupter.raised = reason
        raise error

    return hook


def test_a_soft_limit_before_the_function_ends_the_run(app: App, run, log: Log, executor: Executor) -> None:
    """A limit that comes in before_run or before_start is the task's: it fails by it, and the hooks after it run."""
    hook = interrupts(executor, SoftTimeLimitExceeded(), Interruption.SOFT_LIMIT)
    app.middleware = (Watcher("1", log), type("Slow", (Middleware,), {"before_run": hook})())
    app.task(name="t")(lambda: log.append(("ran",)))
    assert run(call("t")).kind == "SoftTimeLimitExceeded"
    assert [entry[0] for entry in log] == ["1 before_run", "1 after_run"]
    assert log[1][2:] == ("failed", None, "SoftTimeLimitExceeded")
    assert executor.tainted == "SoftTimeLimitExceeded in t"


def test_a_soft_limit_after_the_function_ends_that_hook_alone(app: App, run, log: Log, executor: Executor) -> None:
    """The outcome stands; the other hooks are not interrupted any more, and the child is recycled."""
    hook = interrupts(executor, SoftTimeLimitExceeded(), Interruption.SOFT_LIMIT)
    open_in_hooks: list[bool] = []

    class Last(Middleware):
        def after_run(self, request: Request, ended: Ended) -> None:
            open_in_hooks.append(executor._interrupter._is_open)

    app.middleware = (Last(),)
    app.task(name="t", base=type("Base", (Task,), {"on_success": hook}))(lambda: 5)
    assert run(call("t")).state is TaskState.SUCCEEDED
    assert open_in_hooks == [False]
    assert executor.tainted == "soft time limit in a hook"


def test_hooks_after_an_interrupted_run_are_not_interrupted(app: App, run, executor: Executor, log: Log) -> None:
    """on_failure of a task that ran past its soft limit can do its work: only the hard limit would end it."""

    class Careful(Task[..., Any]):
        def on_failure(self, exc: BaseException, *_: Any) -> None:
            log.append((type(exc), executor._interrupter._is_open))

    app.task(name="t", base=Careful)(interrupts(executor, SoftTimeLimitExceeded(), Interruption.SOFT_LIMIT))
    assert run(call("t")).state is TaskState.FAILED
    assert log == [(SoftTimeLimitExceeded, False)]


def test_each_run_begins_uninterrupted(app: App, run, executor: Executor) -> None:
    """What the run before was interrupted by is not what before_start of the next one raised by."""

    class Guarded(Task[..., Any]):
        def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
            raise PermissionError

    executor._interrupter.raised = Interruption.CANCEL
    app.task(name="t", base=Guarded)(lambda: None)
    assert run(call("t")).kind == "PermissionError"
    assert executor.tainted == ""


def test_a_run_that_is_put_back_has_no_hooks_after_it(app: App, executor: Executor, log: Log, base: Any) -> None:
    """What the stop of the node interrupts has not ended: it begins anew elsewhere."""
    from poolrt.message import Delivery, encode_message

    app.task(name="t", base=base)(interrupts(executor, TaskInterrupted(), Interruption.STOP))
    execution = executor.prepare(Delivery(encode_message(call("t")), 1, 1, "i", 0, suspect=False))
    assert executor.run(execution) is None  # type: ignore[arg-type]
    assert [entry[0] for entry in log] == ["before_start"]


def test_the_window_is_the_runs_again_after_hooks(app: App, run, executor: Executor, base: Any) -> None:
    """A run without hooks, after one with hooks, is found by the interrupter as before."""
    app.task(name="hooked", base=base)(lambda: None)
    frames = []

    @app.task(name="plain")
    def plain() -> None:
        import sys

        frames.append(executor._interrupter._reach(sys._getframe()))

    run(call("plain"))
    run(call("hooked"))
    run(call("plain"))
    assert [[frame.f_code.co_name for frame in reach] for reach in frames] == [["plain"], ["plain"]]


# ---- by value


def test_a_class_by_value(run) -> None:
    """A function that travels by value brings its class with its hooks."""

    class Marked(Task[..., Any]):
        def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
            args[0].append("before")

    options = TaskOptions(base=Marked, bind=True)
    pair = cloudpickle.dumps((lambda self, seen: [*seen, type(self).__name__], options))
    ran = run(call("their.task", ["x"], function=pair, function_codec=PICKLE))
    assert ran.record.value == b'["x","before","Marked"]'


def test_a_class_by_value_that_needs_arguments_is_dead(run) -> None:
    """Its object cannot be made in the child: the message is dead, with what to do."""

    class Needy(Task[..., Any]):
        def __init__(self, host: str) -> None:
            self.host = host

    pair = cloudpickle.dumps((lambda: None, TaskOptions(base=Needy)))
    ran = run(call("their.task", function=pair, function_codec=PICKLE))
    assert ran.state is TaskState.DEAD
    assert "Needy() must need no arguments" in ran.text


def test_no_hooks_cost_nothing(app: App, executor: Executor, run) -> None:
    """A task without hooks, in an app without middleware, never makes a Hooks."""
    task = app.task(name="plain")(lambda: None)
    assert not task.has_hooks
    from poolrt.message import Delivery, encode_message

    execution = executor.prepare(Delivery(encode_message(call("plain")), 1, 1, "i", 0, suspect=False))
    executor.run(execution)  # type: ignore[arg-type]
    assert execution.hooks is None  # type: ignore[union-attr]


def test_logging_is_quiet_without_trouble(app: App, run, base: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Hooks that work are not logged."""
    caplog.set_level(logging.DEBUG, "poolrt")
    app.task(name="t", base=base)(lambda: None)
    run(call("t"))
    assert caplog.records == []
