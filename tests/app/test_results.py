"""Results, end to end: values, exceptions, what is kept and for how long."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from poolrt import TaskState
from poolrt.errors import ResultIgnored, ResultTimeout, TaskFailed

SECONDS = 20.0

pytestmark = pytest.mark.usefixtures("pool")


def test_success(shop: Any, record: Callable[..., Any]) -> None:
    """A task that returned: every question has its answer, in this process and by its id in any other."""
    result = shop.add.delay(2, 3)
    assert result.get(timeout=SECONDS) == 5
    for seen in (result, shop.app.result(result.id)):
        assert (seen.state, seen.result, seen.traceback) == (TaskState.SUCCEEDED, 5, None)
        assert (seen.ready(), seen.successful(), seen.failed()) == (True, True, False)
    kept = record(result.id)
    assert (kept.task, kept.attempt, kept.lost, kept.envelope) == ("shop_tasks.add", 1, 0, None)
    assert abs(kept.finished_at - time.time()) < SECONDS
    assert 0 <= kept.runtime < 1


@pytest.mark.parametrize(
    "value", [None, 0, "", [], {}, False, "ü\u2028\x00", 2**63, -(2**63), 1e308, {"a": {"b": [1]}}]
)
def test_plain_values(value: Any, shop: Any) -> None:
    """Every plain value comes back as it was."""
    assert shop.same.delay(value).get(timeout=SECONDS) == value


def test_exceptions_keep_their_type(shop: Any) -> None:
    """The task's own exception is raised, with the worker's traceback as a note."""
    result = shop.fail.delay("value")
    with pytest.raises(ValueError, match="the text") as error:
        result.get(timeout=SECONDS)
    assert error.value.args == ("the text",)
    (note,) = error.value.__notes__
    assert note.startswith(f"in the worker (shop_tasks.fail#{result.id}):\nTraceback (most recent call last)")
    assert "error = ERRORS[which]()" not in note
    assert "raise error" in note
    assert note.endswith("ValueError: the text\n")
    assert (result.state, result.ready(), result.successful(), result.failed()) == (TaskState.FAILED, True, False, True)
    assert isinstance(result.result, ValueError)
    assert result.traceback is not None
    assert "poolrt/child" not in result.traceback


def test_getting_twice_notes_once(shop: Any) -> None:
    """Each ``get`` raises an exception of its own: notes do not pile up."""
    result = shop.fail.delay("value")
    for _ in range(3):
        with pytest.raises(ValueError, match="the text") as error:
            result.get(timeout=SECONDS)
        assert len(error.value.__notes__) == 1


def test_custom_exceptions(shop: Any) -> None:
    """An exception of the app's own, with arguments of its own, arrives as it is."""
    with pytest.raises(shop.OutOfStock) as error:
        shop.fail.delay("custom").get(timeout=SECONDS)
    assert (error.value.article, error.value.left) == ("shoe", 3)


def test_exception_groups(shop: Any) -> None:
    """A group arrives with its members."""
    with pytest.raises(ExceptionGroup) as error:
        shop.fail.delay("group").get(timeout=SECONDS)
    assert [type(member).__name__ for member in error.value.exceptions] == ["ValueError", "OutOfStock"]


@pytest.mark.parametrize(
    ("which", "kind", "text"),
    [("careless", "Careless", "shoe: 3 left"), ("unpicklable", "Unpicklable", "holds a lock")],
)
def test_exceptions_that_cannot_travel(which: str, kind: str, text: str, shop: Any) -> None:
    """One that cannot be pickled or unpickled becomes a TaskFailed that names it, with its text and traceback."""
    result = shop.fail.delay(which)
    with pytest.raises(TaskFailed, match=f"shop_tasks.fail#{result.id} failed: {kind}: {text}") as error:
        result.get(timeout=SECONDS)
    assert error.value.cause == kind
    assert error.value.task_id == result.id
    assert f"{kind}: {text}" in error.value.traceback


def test_exceptions_about_odd_file_names(shop: Any) -> None:
    """A file name that is no UTF-8 in an exception's text neither kills the child nor loses the exception."""
    with pytest.raises(FileNotFoundError, match="name \udcff"):
        shop.fail.delay("odd").get(timeout=SECONDS)


def test_get_gives_up_and_the_task_goes_on(shop: Any, gate: Any) -> None:
    """``get`` with a timeout raises in time; the task ends all the same, and can be asked again."""
    result = shop.add.delay(1, 2)
    began = time.monotonic()
    with pytest.raises(ResultTimeout, match=r"has not ended within 0\.1 s"):
        result.get(timeout=0.1)
    assert 0.1 <= time.monotonic() - began < 5
    with pytest.raises(TimeoutError):
        result.get(timeout=0)
    gate.open()
    assert result.get(timeout=SECONDS) == 3


def test_many_may_wait_for_one(shop: Any, gate: Any) -> None:
    """Several threads waiting for one task all get its value."""
    result_id = shop.add.delay(1, 2).id
    values: list[int] = []
    threads = [
        threading.Thread(target=lambda: values.append(shop.app.result(result_id).get(timeout=SECONDS)))
        for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    gate.open()
    for thread in threads:
        thread.join(SECONDS)
    assert values == [3] * 5


def test_ignored_results(shop: Any, gate: Any, tmp_path: Path) -> None:
    """``get`` of a task that keeps no result raises at once, also while it waits to run; afterwards it is unknown."""
    result = shop.silent.delay(str(tmp_path / "ledger"))
    began = time.monotonic()
    with pytest.raises(ResultIgnored, match="ignore_result=True"):
        result.get()
    assert time.monotonic() - began < 2
    gate.open()
    shop.add.delay(1).get(timeout=SECONDS)
    assert (tmp_path / "ledger").read_text() == "silent\n"
    assert result.state is TaskState.UNKNOWN
    with pytest.raises(ResultIgnored, match=f"task {result.id} is unknown"):
        shop.app.result(result.id).get(timeout=SECONDS)


def test_ignored_results_still_tell_failures(shop: Any, wait_for: Callable[..., None]) -> None:
    """A task that keeps no result still says why it failed."""
    result = shop.silent_failure.delay()
    wait_for(result.ready, "the task has failed")
    with pytest.raises(ValueError, match="still told"):
        result.get()


def test_forget(shop: Any) -> None:
    """A forgotten result is gone for everyone."""
    result = shop.add.delay(1, 1)
    assert result.get(timeout=SECONDS) == 2
    assert result.forget()
    assert not result.forget()
    assert result.state is TaskState.UNKNOWN
    with pytest.raises(
        ResultIgnored, match="unknown: never enqueued here, without a result, forgotten, or past its TTL"
    ):
        result.get(timeout=SECONDS)


def test_results_pass_away(shop: Any, wait_for: Callable[..., None]) -> None:
    """A record is gone once its app's ``result_ttl`` has passed and the file is purged; others stay."""
    brief, kept = shop.brief_add.delay(1, 2), shop.add.delay(3, 4)
    assert kept.get(timeout=SECONDS) == 7

    def gone() -> bool:
        shop.app.broker.purge()
        return shop.brief.result(brief.id).state is TaskState.UNKNOWN

    wait_for(gone, "the record that was kept for 50 ms is purged")
    assert kept.state is TaskState.SUCCEEDED
    assert shop.app.result(kept.id).get(timeout=SECONDS) == 7
