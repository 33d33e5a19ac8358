"""What a task says of its next attempt, and what is kept of those before."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from poolrt.app import retrying
from poolrt.app.app import App
from poolrt.child.executor import REJECTED_FOR, Executor
from poolrt.codec import encode_arguments
from poolrt.errors import Ignore, MaxRetriesExceeded, Reject, Retry, TimeLimitExceeded
from poolrt.message import Message, decode_message, decode_record
from poolrt.states import Interruption, TaskState
from poolrt.terms import MAX_HISTORY, Attempt, Terms

BOOM = ValueError("boom")


def call(task: str, *args: Any, **options: Any) -> Message:
    """A message that calls ``task`` with ``args``."""
    codec, payload = encode_arguments(args, options.pop("kwargs", {}), trusted=True, task=task)
    return Message("the-id", task, payload, codec, **options)


@pytest.fixture
def raises(app: App):  # type: ignore[no-untyped-def]
    """``raises(error, **options)``: a message for a task that raises it."""

    def make(error: BaseException, **options: Any) -> Message:
        @app.task(name="raises", **options)
        def task() -> None:
            raise error

        return call("raises")

    return make


def next_of(ran: Any) -> Message:
    """The attempt that follows."""
    assert (ran.state, ran.outcome.record) == (None, None)
    (again,) = ran.follow_ups
    return decode_message(again.envelope)


# ---- retry_for


def test_jitter_is_drawn_from_the_whole_backoff(raises, run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Full jitter: from 0 to the backoff, so that what failed together does not come back together."""
    message = msgspec.structs.replace(raises(BOOM, retry_for=ValueError, retry_backoff="8s"), attempt=2)
    for drawn, delay in ((0.0, 0), (0.25, 4), (0.999, 15.98)):
        monkeypatch.setattr(retrying.random, "random", lambda drawn=drawn: drawn)
        assert next_of(run(message)).eta == pytest.approx(time.time() + delay, abs=0.5)


def test_no_retry_for_goes_before_retry_for(raises, run) -> None:
    """What no_retry_for names is not tried again, though retry_for names its base."""
    options = {"retry_for": OSError, "no_retry_for": [FileNotFoundError, PermissionError]}
    assert run(raises(FileNotFoundError("x"), **options)).state is TaskState.FAILED
    assert run(raises(TimeoutError("x"), **options)).state is None


def test_endless_retries(raises, run) -> None:
    """``max_retries=None`` has no end."""
    message = msgspec.structs.replace(raises(BOOM, retry_for=ValueError, max_retries=None), attempt=10**6)
    assert next_of(run(message)).attempt == 10**6 + 1


def test_the_calls_own_number_of_retries(raises, run) -> None:
    """What the call says of max_retries goes before what the task says."""
    message = raises(BOOM, retry_for=ValueError, max_retries=0)
    again = next_of(run(msgspec.structs.replace(message, terms=Terms(max_retries=1))))
    assert run(again).state is TaskState.FAILED


def test_retry_within(raises, run, monkeypatch: pytest.MonkeyPatch) -> None:
    """No retry starts later than so long after the task was enqueued, whatever max_retries says."""
    monkeypatch.setattr(retrying.random, "random", lambda: 1.0)
    message = raises(BOOM, retry_for=ValueError, max_retries=None, retry_backoff="30s", retry_within="1m")
    fresh = msgspec.structs.replace(message, enqueued_at=time.time() - 20)
    assert run(fresh).state is None
    old = msgspec.structs.replace(message, enqueued_at=time.time() - 40)
    assert run(old).state is TaskState.FAILED, "it would start 10 s too late"


# ---- Retry


def test_raise_retry(raises, run) -> None:
    """``raise Retry(...)`` needs no retry_for: after its countdown, at its eta, or after the task's backoff."""
    moment = datetime.now(UTC) + timedelta(hours=2)
    for retry, delay in (
        (Retry(countdown="5m"), 300), (Retry(eta=moment), 7200), (Retry(), 1), (Retry(countdown=0), 0),
    ):  # fmt: skip
        again = next_of(run(raises(retry, retry_jitter=False)))
        assert (again.attempt, again.id) == (2, "the-id")
        assert again.eta == pytest.approx(time.time() + delay, abs=0.9)


def test_the_last_retry_fails_with_its_exception(raises, run) -> None:
    """With none left, the exception that Retry was given is what the task failed with; else MaxRetriesExceeded."""
    ran = run(raises(Retry(exc=BOOM), max_retries=0))
    assert (ran.state, ran.kind, ran.text) == (TaskState.FAILED, "ValueError", "boom")
    ran = run(raises(Retry("the shop is closed"), max_retries=0))
    assert (ran.kind, ran.text) == ("MaxRetriesExceeded", "raises was tried 1 times: the shop is closed")
    assert run(raises(Retry(max_retries=1), max_retries=0)).state is None


def test_self_retry(run, app: App) -> None:
    """``self.retry`` ends the run at once; with none left it raises the exception, which the task may catch."""
    after = []

    @app.task(name="again", bind=True, max_retries=1)
    def again(self: Any, x: int, y: int = 0) -> str:
        try:
            raise ZeroDivisionError
        except ZeroDivisionError as error:
            try:
                self.retry(exc=error, countdown=5, kwargs={"y": y + 1})
            except ZeroDivisionError:
                return f"gave up at {x}, {y}"
        after.append("never")
        return ""

    second = next_of(run(call("again", 7)))
    assert (second.attempt, second.payload) == (2, b'[[7],{"y":1}]')
    ran = run(second)
    assert (ran.state, ran.record.value) == (TaskState.SUCCEEDED, b'"gave up at 7, 1"')
    assert after == []


def test_self_retry_with_none_left(run, app: App) -> None:
    """Without an exception it is MaxRetriesExceeded, raised where ``self.retry`` was called."""

    @app.task(name="again", bind=True, max_retries=3)
    def again(self: Any) -> None:
        with pytest.raises(MaxRetriesExceeded, match="again was tried 1 times"):
            self.retry(max_retries=0)
        self.retry(args=[1], max_retries=0)

    assert run(call("again")).kind == "MaxRetriesExceeded"


def test_self_retry_outside_a_worker(app: App) -> None:
    """Called as a function, a task that retries raises its own exception: nobody would try it again."""
    again = app.task(name="again", bind=True)(lambda self, error: self.retry(exc=error))
    with pytest.raises(ValueError, match="boom"):
        again(BOOM)
    with pytest.raises(RuntimeError, match=r"again\.retry\(\) outside a worker"):
        again(None)


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"countdown": "soon"}, "ConfigurationError"),
        ({"eta": datetime(2030, 1, 1)}, "ConfigurationError"),  # noqa: DTZ001  the mistake
        ({"call_args": [lambda: (yield)], "call_kwargs": {"x": __import__("threading").Lock()}}, "EncodingError"),
    ],
)
def test_a_retry_that_cannot_be_fails_the_task(options: dict[str, Any], kind: str, raises, run) -> None:
    """A wrong countdown, or arguments that cannot be carried, fail the task by name: nothing is lost."""
    assert run(raises(Retry(**options))).kind == kind


def test_no_except_exception_swallows_a_retry(run, app: App) -> None:
    """A broad ``except Exception`` in a task does not keep it from being tried again."""

    @app.task(name="broad", bind=True)
    def broad(self: Any) -> str:
        try:
            self.retry(countdown=1)
        except Exception:
            return "swallowed"

    assert run(call("broad")).state is None


def test_retry_out_of_a_task_group(run, app: App, executor: Executor) -> None:
    """What a TaskGroup wraps is still a Retry, and the child is not recycled for it."""

    @app.task(name="grouped")
    async def grouped() -> None:
        async def part() -> None:
            raise Retry(countdown=1)

        async with asyncio.TaskGroup() as group:
            group.create_task(part())

    assert run(call("grouped")).state is None
    assert executor.tainted == ""


def test_retry_does_not_taint(raises, run, executor: Executor) -> None:
    """Asking for another attempt is no reason to recycle the child."""
    for error in (Retry(), Reject(), Reject(requeue=True), Ignore()):
        run(raises(error))
    assert executor.tainted == ""


def test_a_cancelled_run_is_not_tried_again(raises, run, row, told) -> None:
    """A run that was about to be told that it is cancelled has no next attempt, however it asks for one."""
    for error in (BOOM, Retry(), Reject(requeue=True)):
        row.interruption = (row.sequence + 1) << 8 | Interruption.CANCEL
        ran = run(raises(error, retry_for=ValueError))
        assert (ran.state, ran.follow_ups) == (TaskState.CANCELLED, ())


# ---- Reject, Ignore


def test_reject(raises, run) -> None:
    """``Reject`` gives the message up: dead, with its reason and as it was."""
    ran = run(raises(Reject("no such customer"), retry_for=BaseException))
    assert (ran.state, ran.kind, ran.text) == (TaskState.DEAD, "Rejected", "no such customer")
    assert decode_message(ran.record.envelope).task == "raises"


def test_the_reason_stays_out_of_logs(raises, run, caplog: pytest.LogCaptureFixture) -> None:
    """What a task says of its arguments is for its record alone."""
    caplog.set_level("DEBUG", "poolrt")
    for error in (Reject("SECRET"), Reject("SECRET", requeue=True), Retry("SECRET")):
        run(raises(error))
    assert len(caplog.records) == 3
    assert "SECRET" not in caplog.text


def test_reject_and_requeue(raises, run) -> None:
    """``Reject(requeue=True)`` puts it back, uncounted and without a history, but not at once."""
    again = next_of(run(raises(Reject("not here", requeue=True), max_retries=0)))
    assert (again.attempt, again.terms) == (1, None)
    assert again.eta == pytest.approx(time.time() + REJECTED_FOR, abs=0.5)


def test_ignore(raises, run, row) -> None:
    """``Ignore`` ends it without a record, and not as a failure."""
    ran = run(raises(Ignore()))
    assert (ran.state, ran.outcome.record, ran.follow_ups) == (TaskState.SUCCEEDED, None, ())
    assert row.failed == 0


# ---- history


def test_each_attempt_is_kept(raises, run, app: App) -> None:
    """Number, time, cause, text and child of each attempt are in the next message, and at last in the record."""
    first = raises(BOOM, retry_for=ValueError, max_retries=2)
    second = next_of(run(first))
    raises(Retry(exc=KeyError("k")), max_retries=2)
    third = next_of(run(second))
    del app.tasks["raises"]
    app.task(name="raises")(lambda: "done")
    history = run(third).record.history
    assert [(each.number, each.cause, each.text, each.owner) for each in history] == [
        (1, "ValueError", "boom", "inc/0.1"), (2, "KeyError", "'k'", "inc/0.1"),
    ]  # fmt: skip
    del app.tasks["raises"]
    assert all(abs(each.ended_at - time.time()) < 5 and 0 <= each.runtime < 1 for each in history)
    raises(BOOM)
    assert run(third).record.history == history


def test_a_retry_says_what_it_came_from(run, app: App) -> None:
    """``self.retry()`` in an ``except`` keeps that exception as its reason."""

    @app.task(name="again", bind=True)
    def again(self: Any) -> None:
        try:
            raise OSError("disk")
        except OSError:
            self.retry()

    (attempt,) = next_of(run(call("again"))).terms.history
    assert (attempt.cause, attempt.text) == ("Retry", "OSError: disk")


def test_lost_deliveries_are_kept(raises, run) -> None:
    """How many children died while they ran an attempt is kept with it, though the next one counts anew."""
    message = raises(BOOM, retry_for=ValueError, max_retries=3)
    second = next_of(run(message, lost=2))
    assert [(each.number, each.cause, each.text) for each in second.terms.history] == [
        (1, "WorkerLost", "2 children died while running it"), (1, "ValueError", "boom"),
    ]  # fmt: skip
    third = next_of(run(second, lost=1))
    assert [each.text for each in third.terms.history[2:]] == ["its child died while running it", "boom"]


def test_a_history_has_an_end(raises, run) -> None:
    """The last attempts are kept, their texts cut, so that a message does not grow for ever."""
    message = raises(ValueError("x" * 10_000), retry_for=ValueError, max_retries=None)
    message = msgspec.structs.replace(message, attempt=100, terms=Terms(history=(Attempt(1, 0.0, 0.0, "Old"),) * 20))
    history = next_of(run(message)).terms.history
    assert len(history) == MAX_HISTORY
    assert (history[-1].number, len(history[-1].text), history[0].cause) == (100, 500, "Old")


def test_limits_need_their_own_class(raises, run) -> None:
    """``retry_for=Exception`` is not for limits; ``no_retry_for`` may name one."""
    assert run(raises(TimeLimitExceeded("x"), retry_for=Exception)).state is TaskState.FAILED
    assert run(raises(TimeLimitExceeded("x"), retry_for=TimeLimitExceeded)).state is None


def test_one_that_was_to_be_cancelled_does_not_go_on(raises, run) -> None:
    """Instead of the next attempt comes the end of it, as of one that waits for it, with what it would have run."""
    ran = run(raises(BOOM, retry_for=ValueError), lost=1)
    (again,) = ran.follow_ups
    instead = ran.outcome.if_cancelled
    assert (instead.state, instead.delivery.n, instead.delivery.i) == (TaskState.CANCELLED, 5, 6)
    record = decode_record(instead.record)
    assert (record.envelope, record.attempt, record.lost) == (again.envelope, 2, 0)
    assert record.error.text.endswith("attempt 1 had failed, the next had not started")
    assert [each.cause for each in record.history] == ["WorkerLost", "ValueError"]
    assert run(call("unknown")).outcome.if_cancelled.state is TaskState.CANCELLED
