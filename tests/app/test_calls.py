"""Enqueueing, end to end: when a call runs, in which order, how often, and with what."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable
from datetime import UTC, timedelta
from pathlib import Path
from typing import Any

import pytest

from poolrt import TaskState
from poolrt.errors import ConfigurationError, TaskExpired
from poolrt.message import decode_message

SECONDS = 20.0

pytestmark = pytest.mark.usefixtures("pool")


def test_delay(shop: Any) -> None:
    """A call runs with its arguments and its value comes back."""
    assert shop.add.delay(2, 3).get(timeout=SECONDS) == 5
    assert shop.add.delay(x=2, y=3).get(timeout=SECONDS) == 5
    assert shop.echo.delay(1, "two", three=[3, None, {"é": 4.5}]).get(timeout=SECONDS) == [
        [1, "two"],
        {"three": [3, None, {"é": 4.5}]},
    ]


def test_apply_async(shop: Any) -> None:
    """The same with options."""
    assert shop.add.apply_async((2,), {"y": 3}, queue="default", priority=9).get(timeout=SECONDS) == 5


def test_calling_a_task_runs_it_here(shop: Any) -> None:
    """A task is still a function."""
    assert shop.add(2, 3) == 5


def test_enqueue_many(shop: Any) -> None:
    """Thousands of calls in a few transactions, results in the order of the calls."""
    results = shop.add.enqueue_many((number, 1) for number in range(1500))
    assert len({result.id for result in results}) == 1500
    assert [result.get(timeout=SECONDS) for result in results] == list(range(1, 1501))


def test_a_task_may_enqueue(shop: Any) -> None:
    """A task enqueues others through the same app; the only child does not wait for them."""
    ids = shop.enqueue_more.delay(5).get(timeout=SECONDS)
    assert [shop.app.result(task_id).get(timeout=SECONDS) for task_id in ids] == [1, 2, 3, 4, 5]


def test_countdown(shop: Any) -> None:
    """A delayed call is DELAYED, starts no sooner than it may, and not much later."""
    began = time.time()
    result = shop.same.apply_async((1,), countdown=0.4)
    assert result.state is TaskState.DELAYED
    assert shop.add.delay(1, 1).get(timeout=SECONDS) == 2, "it is in nobody's way"
    assert result.get(timeout=SECONDS) == 1
    assert 0.4 <= time.time() - began < 0.4 + 5


def test_eta(shop: Any) -> None:
    """An eta in any zone is a moment; one that has passed is now."""
    zone = dt.timezone(timedelta(hours=5))
    began = time.time()
    soon = shop.same.apply_async((1,), eta=dt.datetime.now(zone) + timedelta(seconds=0.3))
    past = shop.same.apply_async((2,), eta=dt.datetime.now(UTC) - timedelta(days=1))
    assert past.get(timeout=SECONDS) == 2
    assert soon.get(timeout=SECONDS) == 1
    assert time.time() - began >= 0.3


def test_a_naive_eta_is_refused(shop: Any) -> None:
    """A naive eta means another moment on another machine: refused, with what to write, and nothing is enqueued."""
    before = shop.app.broker.depth()
    with pytest.raises(ConfigurationError, match=r"has no time zone.*write datetime\.now\(timezone\.utc\)"):
        shop.add.apply_async((1,), eta=dt.datetime(2030, 1, 1))  # noqa: DTZ001  the mistake
    assert shop.app.broker.depth()[:3] == before[:3]


def test_priorities(shop: Any, gate: Any, tmp_path: Path) -> None:
    """Nine runs first, then eight; within one priority the order of enqueueing."""
    ledger = tmp_path / "ledger"
    results = [
        shop.note.apply_async((str(ledger), f"{priority}{letter}"), priority=priority)
        for letter in "ab"
        for priority in (0, 5, 9, 3)
    ]
    gate.open()
    for result in results:
        result.get(timeout=SECONDS)
    assert ledger.read_text().split() == ["9a", "9b", "5a", "5b", "3a", "3b", "0a", "0b"]


def test_expires(shop: Any, gate: Any, tmp_path: Path, wait_for: Callable[..., None]) -> None:
    """A call whose time passed before it could start never runs, and says by how much; one in time runs."""
    ledger = str(tmp_path / "ledger")
    late = shop.note.apply_async((ledger, "late"), expires=0.01)
    dated = shop.note.apply_async((ledger, "dated"), expires=dt.datetime.now(UTC))
    ample = shop.note.apply_async((ledger, "ample"), expires="1h")
    expires = decode_message(shop.app.broker.find(late.id).envelope).expires
    wait_for(lambda: time.time() > expires, "its time has passed")
    gate.open()
    for result in (late, dated):
        with pytest.raises(
            TaskExpired, match=r"shop_tasks\.note#.* expired: Expired: expired .* s before it could start"
        ):
            result.get(timeout=SECONDS)
        assert (result.state, result.failed()) == (TaskState.EXPIRED, True)
    ample.get(timeout=SECONDS)
    assert Path(ledger).read_text().split() == ["ample"]


def test_a_known_id_is_not_enqueued_again(shop: Any, gate: Any, tmp_path: Path) -> None:
    """Two calls of one id run once, whether the first waits or has ended; both results are its."""
    ledger = tmp_path / "ledger"
    first = shop.note.apply_async((str(ledger), "first"), task_id=f"order-{tmp_path.name}")
    second = shop.note.apply_async((str(ledger), "second"), task_id=f"order-{tmp_path.name}")
    assert first.id == second.id
    gate.open()
    second.get(timeout=SECONDS)
    third = shop.note.apply_async((str(ledger), "third"), task_id=first.id)
    assert third.state is TaskState.SUCCEEDED
    shop.add.delay(1).get(timeout=SECONDS)
    assert ledger.read_text() == "first\n"


def test_odd_ids(shop: Any) -> None:
    """The longest id that is taken is also run and found; text beyond ASCII too."""
    for task_id in ("x" * 120, "é" * 60, "order 5/€"):
        assert shop.same.apply_async((task_id,), task_id=task_id).get(timeout=SECONDS) == task_id
        assert shop.app.result(task_id).get(timeout=SECONDS) == task_id


def test_huge_arguments(shop: Any) -> None:
    """A megabyte goes through unharmed; more than 16 MiB are refused with advice."""
    text = "é" * 500_000
    assert shop.same.delay(text).get(timeout=SECONDS) == text
    with pytest.raises(ConfigurationError, match="store the data elsewhere and pass its name"):
        shop.same.delay("x" * (16 * 1024 * 1024))


def test_states_on_the_way(shop: Any, gate: Any) -> None:
    """A task is QUEUED, then RESERVED while it runs, then SUCCEEDED; before and after, UNKNOWN."""
    waiting = shop.same.delay(1)
    assert (gate.result.state, waiting.state) == (TaskState.RESERVED, TaskState.QUEUED)
    assert not waiting.ready()
    assert waiting.result is None
    gate.open()
    waiting.get(timeout=SECONDS)
    assert waiting.state is TaskState.SUCCEEDED
    assert shop.app.result("never-enqueued").state is TaskState.UNKNOWN


def test_bound_tasks(shop: Any, pool: Any) -> None:
    """``self.request`` says what runs, for the how-manieth time, and on which child."""
    result = shop.about_me.apply_async((7,), priority=4)
    told = result.get(timeout=SECONDS)
    assert told["owner"].startswith(pool.status()["incarnation"])
    owner = told.pop("owner")
    assert told.pop("fence").startswith(f"{owner}/")
    assert told == {
        "x": 7, "id": result.id, "task": "shop_tasks.about_me", "attempt": 1, "queue": "default", "priority": 4,
        "name": "shop_tasks.about_me",
    }  # fmt: skip


def test_retries(shop: Any, tmp_path: Path, record: Callable[..., Any]) -> None:
    """An exception that retry_for names is tried again by the same id, until it succeeds."""
    ledger = tmp_path / "ledger"
    result = shop.flaky.delay(str(ledger), 3)
    assert result.get(timeout=SECONDS) == 3
    assert ledger.read_text().split() == ["1", "2", "3"]
    assert record(result.id).attempt == 3


def test_retries_end(shop: Any, tmp_path: Path, record: Callable[..., Any]) -> None:
    """With no retries left the last attempt's exception is the result, and the message is kept."""
    result = shop.flaky.delay(str(tmp_path / "ledger"), 99)
    with pytest.raises(ConnectionError, match="attempt 3"):
        result.get(timeout=SECONDS)
    kept = record(result.id)
    assert (kept.attempt, kept.state) == (3, TaskState.FAILED)
    assert kept.envelope is not None


def test_async_tasks(shop: Any) -> None:
    """Coroutines run to their end and give values and exceptions like any task."""
    assert shop.double.delay(21).get(timeout=SECONDS) == 42
    with pytest.raises(shop.OutOfStock, match="hat: 0 left") as error:
        shop.fail_later.delay().get(timeout=SECONDS)
    assert "in fail_later" in error.value.__notes__[0]


def test_async_tasks_run_one_at_a_time(shop: Any) -> None:
    """Two coroutines of one child never overlap."""
    results = shop.how_many_at_once.enqueue_many([()] * 20)
    assert {result.get(timeout=SECONDS) for result in results} == {1}
