"""Hooks, middleware, routes, retries and progress, end to end: a real pool runs an app that has them all."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import poolrt
from poolrt import TaskState
from poolrt.app.progress import decode_progress
from poolrt.errors import ResultIgnored, TaskDead, TaskFailed
from poolrt.message import Record, decode_record

SECONDS = 20.0


@pytest.fixture(scope="module", autouse=True)
def pool(hooked: ModuleType) -> Iterator[poolrt.Supervisor]:
    """The pool; its only child lives on (what ends one is in test_hooks_at_the_end.py)."""
    with poolrt.Supervisor(hooked.app, concurrency=1, log_level="error") as pool:
        yield pool


@pytest.fixture(autouse=True)
def shut(hooked: ModuleType) -> Iterator[None]:
    """Each test opens its connection anew, and leaves none open."""
    yield
    hooked.app.close()


@pytest.fixture
def kept(hooked: Any) -> Callable[[Any], Record]:
    """``kept(result)``: the stored record of a task that ended."""
    return lambda result: decode_record(hooked.app.broker.find(result.id).record)


def told_as(error: BaseException) -> str:
    """The exception's name: a server is not trusted to carry the exception itself."""
    return getattr(error, "cause", "") or type(error).__name__


# ---- hooks and middleware


def test_middleware_around_a_run(hooked: Any, told: Any, ended: Any) -> None:
    """The sender's header reaches the child's hooks, which see the value."""
    result = hooked.same.apply_async((5,), headers={"trace": "t1"})
    assert ended(result) == 5
    assert told(result.id) == ["before t1", "after succeeded 5"]


def test_a_trace_goes_on_to_children(hooked: Any, told: Any, ended: Any) -> None:
    """Middleware in the child sees what its task enqueues, and whose it is."""
    parent = hooked.family.apply_async(headers={"trace": "t2"})
    (child,) = ended(parent)
    request = ended(hooked.app.result(child))
    assert (request["parent"], request["root"], request["headers"]) == (parent.id, parent.id, {"trace": "t2"})


def test_the_request(hooked: Any, pool: poolrt.Supervisor, ended: Any) -> None:
    """Node, child, line and deadline of the run."""
    began = time.time()
    result = hooked.about.apply_async(expires=60)
    request = ended(result)
    status = pool.status()
    assert request["node"] == status["node"]
    assert request["owner"].startswith(f"{status['incarnation']}/")
    assert (request["parent"], request["root"], request["group"]) == ("", result.id, "")
    assert began + 29 < request["deadline"] < time.time() + 31
    assert request["expires"] == pytest.approx(began + 60, abs=5)


def test_hooks_of_retries(hooked: Any, told: Any, kept: Any, ended: Any) -> None:
    """Each attempt but the last has on_retry; the record keeps what each raised."""
    result = hooked.flaky.delay(3)
    assert ended(result) == 3
    retry = ["before ", "on_retry ConnectionError", "after retry None"]
    assert told(result.id) == [*retry, *retry, "before ", "after succeeded 3"]
    history = kept(result).history
    assert [(each.number, each.cause, each.text) for each in history] == [
        (1, "ConnectionError", "attempt 1"), (2, "ConnectionError", "attempt 2"),
    ]  # fmt: skip
    failed = hooked.flaky.delay(9)
    assert told_as(ended(failed)) == "ConnectionError"
    assert told(failed.id)[-3:] == ["before ", "on_failure ConnectionError", "after failed None"]
    assert [each.number for each in kept(failed).history] == [1, 2]


def test_a_task_as_a_class(hooked: Any, ended: Any) -> None:
    """``register_task`` makes it callable like any other."""
    assert ended(hooked.greeting.delay("you")) == "hello you, by hooked_tasks.Greeting at 7"


# ---- retries


def test_retry_with_other_arguments(hooked: Any, ended: Any) -> None:
    """Each attempt is called with what the one before it said."""
    assert ended(hooked.counting.delay(3)) == 3


def test_retry_gives_up_with_its_exception(hooked: Any, kept: Any, ended: Any) -> None:
    """The exception that ``retry`` was given is the result."""
    result = hooked.give_up.delay()
    assert told_as(ended(result)) == "KeyError"
    assert [each.cause for each in kept(result).history] == ["KeyError"]


def test_the_calls_own_retries(hooked: Any, kept: Any, ended: Any) -> None:
    """``apply_async(max_retries=0)`` is one attempt."""
    result = hooked.flaky.apply_async((9,), max_retries=0)
    assert told_as(ended(result)) == "ConnectionError"
    assert kept(result).attempt == 1


def test_retry_is_not_swallowed(hooked: Any, ended: Any) -> None:
    """``except Exception`` around ``raise Retry`` does not catch it."""
    assert ended(hooked.broad.delay()) == 2


def test_reject(hooked: Any, kept: Any, ended: Any) -> None:
    """Given up: dead, as an operator finds it."""
    result = hooked.reject.delay(-1)
    error = ended(result)
    assert (type(error), error.cause, result.state) == (TaskDead, "Rejected", TaskState.DEAD)


def test_reject_and_requeue(hooked: Any, kept: Any, ended: Any) -> None:
    """Put back, about once a second, uncounted, until it is taken."""
    before = Path(hooked.LEDGER).read_text().count("reject ")
    result = hooked.reject.delay(time.time() + 1.5)
    assert ended(result) == "taken"
    assert Path(hooked.LEDGER).read_text().count("reject ") - before == 3
    assert (kept(result).attempt, kept(result).history) == (1, ())


def test_ignore(hooked: Any, told: Any, ended: Any) -> None:
    """No record, and no wait for one; after_run tells."""
    result = hooked.ignore.delay()
    assert isinstance(ended(result), ResultIgnored)
    assert told(result.id) == ["before ", "after ignored None"]


# ---- routes, progress


def test_routes(hooked: Any, ended: Any) -> None:
    """The glob's queue."""
    assert ended(hooked.mail_queue.delay()) == "mail"


def test_progress(hooked: Any, tmp_path: Path, wait_for: Callable[..., None], ended: Any) -> None:
    """What a running task tells is found at once, and gone when it has ended."""
    result = hooked.stepping.delay(str(tmp_path))

    def said() -> Any:
        found = hooked.app.broker.find(result.id)
        return found.progress and decode_progress(found.progress)

    wait_for(said, "the task tells its step", SECONDS)
    assert (said().state, said().meta, said().attempt) == ("sorting", b'{"step":1}', 1)
    (tmp_path / "gate").touch()
    assert ended(result) == "sorted"
    assert said() is None


def test_track_started(hooked: Any, tmp_path: Path, wait_for: Callable[..., None], ended: Any) -> None:
    """A task that is tracked says that it runs."""
    result = hooked.started.delay(str(tmp_path))
    wait_for(lambda: hooked.app.broker.find(result.id).progress, "the child says that it runs", SECONDS)
    assert decode_progress(hooked.app.broker.find(result.id).progress).state == "started"
    (tmp_path / "gate").touch()
    assert ended(result) == "ended"


def test_failures_are_task_failures() -> None:
    """What a task that has no attempt left raises is a TaskFailed for those who wait."""
    assert issubclass(poolrt.MaxRetriesExceeded, TaskFailed)
