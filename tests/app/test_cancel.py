"""Cancelling, end to end: what waits never starts and says so, and the message is kept.

What a worker has already: the word that is left here; the rest in tests/process/test_cancel_running.py.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from poolrt import App, TaskState
from poolrt.errors import TaskCancelled
from poolrt.message import (
    Delivery,
    Enqueue,
    Message,
    Outcome,
    Owner,
    Record,
    Requeue,
    decode_message,
    encode_message,
    encode_record,
)

SECONDS = 20.0
NOT_STARTED = r"cancelled at 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC: it had not started$"


def test_a_queued_task(shop: Any, gate: Any, record: Callable[[str], Record], tmp_path: Path) -> None:
    """It never starts; state, ``get`` and record say that it was cancelled, when, and that it had not started."""
    began = time.time()
    result = shop.note.delay(str(tmp_path / "ledger"), "ran")
    assert result.cancel()
    assert (result.state, result.ready(), result.successful(), result.failed()) == (
        TaskState.CANCELLED,
        True,
        False,
        True,
    )
    with pytest.raises(
        TaskCancelled, match=f"shop_tasks.note#{result.id} cancelled: Cancelled: {NOT_STARTED}"
    ) as error:
        result.get(timeout=0)
    assert (error.value.cause, error.value.task_id) == ("Cancelled", result.id)
    kept = record(result.id)
    assert (kept.state, kept.task, kept.attempt, kept.lost) == (TaskState.CANCELLED, "shop_tasks.note", 1, 0)
    assert (kept.owner, kept.runtime, kept.status, kept.peak_memory) == ("", 0.0, None, 0)
    assert began <= kept.finished_at <= time.time()
    gate.open()
    shop.add.delay(1).get(timeout=SECONDS)  # enqueued later, so the child has passed it by
    assert not (tmp_path / "ledger").exists()


def test_a_delayed_task(shop: Any, gate: Any) -> None:
    """One that waits for its time is cancelled too, here by its id as another process would."""
    result = shop.add.apply_async((1,), countdown="1h")
    assert shop.app.result(result.id).cancel()
    with pytest.raises(TaskCancelled, match=NOT_STARTED):
        result.get(timeout=SECONDS)


@pytest.mark.usefixtures("pool")
def test_an_ended_or_unknown_task(shop: Any) -> None:
    """Nothing is left to cancel: False, and the result stays what it is."""
    result = shop.add.delay(2, 3)
    assert result.get(timeout=SECONDS) == 5
    assert not result.cancel()
    assert shop.app.result(result.id).get(timeout=SECONDS) == 5
    assert not shop.app.result("nobody").cancel()


def test_cancelling_twice(shop: Any, gate: Any, record: Callable[[str], Record]) -> None:
    """Only the first one did it, and its record stands."""
    result = shop.add.delay(1)
    assert result.cancel()
    before = record(result.id)
    assert not result.cancel()
    assert not shop.app.result(result.id).cancel()
    assert record(result.id) == before


def test_who_waits_is_told(shop: Any, gate: Any, wait_for: Callable[..., None]) -> None:
    """A ``get`` in progress raises TaskCancelled at once."""
    result = shop.add.delay(1)
    seen: list[BaseException] = []

    def wait() -> None:
        try:
            shop.app.result(result.id).get(timeout=SECONDS)
        except TaskCancelled as error:
            seen.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    folder = shop.app.broker.node_directory()
    wait_for(lambda: list(folder.glob("*.wait")), "it waits")
    assert result.cancel()
    thread.join(SECONDS / 2)
    assert [type(error) for error in seen] == [TaskCancelled]


def test_an_ignored_result(shop: Any, gate: Any, tmp_path: Path) -> None:
    """A task that keeps no result still says that it was cancelled, as it says that it failed."""
    result = shop.silent.delay(str(tmp_path / "ledger"))
    assert result.cancel()
    with pytest.raises(TaskCancelled):
        result.get(timeout=SECONDS)


def test_the_record_is_kept_as_long_as_any_result(shop: Any, gate: Any, wait_for: Callable[..., None]) -> None:
    """It passes away after its app's ``result_ttl``, here 50 ms."""
    brief, kept = shop.brief_add.delay(1), shop.add.delay(1)
    assert brief.cancel()
    assert kept.cancel()

    def gone() -> bool:
        shop.app.broker.purge()
        return shop.brief.result(brief.id).state is TaskState.UNKNOWN

    wait_for(gone, "the record that was kept for 50 ms is purged")
    assert shop.app.result(kept.id).state is TaskState.CANCELLED


def test_it_can_be_retried_as_it_was(shop: Any, gate: Any, record: Callable[[str], Record]) -> None:
    """Its record keeps the message; enqueued again by hand it runs."""
    result = shop.add.delay(2, 3)
    envelope = shop.app.broker.find(result.id).envelope
    result.cancel()
    kept = record(result.id).envelope
    assert kept == envelope
    again = Enqueue.of(decode_message(kept))
    assert shop.app.broker.enqueue([again]) == [False], "its id is known while the record is kept"
    assert result.forget()
    assert shop.app.broker.enqueue([again]) == [True]
    gate.open()
    assert result.get(timeout=SECONDS) == 5


# ---- what it says of the past; a broker without workers


@pytest.fixture
def idle(node_dir: Path) -> Iterator[App]:
    """An app on a broker of its own, which the test serves by hand."""
    app = App("idle", f"sqlite:///{node_dir}/idle.db")
    app.broker.join("inc", "node")
    yield app
    app.close()


def put(app: App, envelope: bytes = b"", **changes: Any) -> str:
    """Enqueue a message, or these bytes."""
    message = msgspec.structs.replace(Message("t", "shop_tasks.add", b"[[1],{}]"), **changes)
    app.broker.enqueue([Enqueue("t", envelope or encode_message(message), "default", 0, None)])
    return "t"


def reason(app: App, task_id: str) -> str:
    """Cancel it; what ``get`` then says."""
    result = app.result(task_id)
    assert result.cancel()
    with pytest.raises(TaskCancelled) as error:
        result.get(timeout=0)
    return str(error.value)


def take(app: App, n: int = 1) -> Delivery:
    """Reserve it, as a child would."""
    app.broker.attach(Owner("inc", 0, 1))
    (held,) = app.broker.settle([], 1, n).deliveries
    return held


def test_what_a_worker_has(idle: App) -> None:
    """Its node is told until it has ended; asking again changes nothing, and if it ends first its result stands."""
    result = idle.result(put(idle))
    held = take(idle)
    assert result.cancel()
    assert result.cancel()
    assert result.state is TaskState.RESERVED
    assert idle.broker.to_cancel("inc") == [(Owner("inc", 0, 1), held)]
    record = encode_record(Record(TaskState.SUCCEEDED, "shop_tasks.add", time.time(), value=b"2"))
    idle.broker.settle([Outcome(held, TaskState.SUCCEEDED, record)], 0, 1)
    assert idle.broker.to_cancel("inc") == []
    assert not result.cancel()
    assert result.get(timeout=0) == 2


def test_what_is_put_back_with_the_word(idle: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """Word is left, and goes with the hold before anybody has read it: it is not missed."""
    result = idle.result(put(idle))
    held = take(idle)
    cancel_held = idle.broker.cancel_held

    def put_back_then(task_id: str) -> bool:
        told = cancel_held(task_id)
        idle.broker.release([held])
        return told

    monkeypatch.setattr(idle.broker, "cancel_held", put_back_then)
    assert result.cancel()
    assert result.state is TaskState.CANCELLED


def test_what_changes_hands_meanwhile(idle: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is put back between the two questions, whether it waits and whether somebody has it: it is not missed."""
    result = idle.result(put(idle))
    held = take(idle)
    cancel_held = idle.broker.cancel_held

    def put_back_first(task_id: str) -> bool:
        idle.broker.release([held])
        return cancel_held(task_id)

    monkeypatch.setattr(idle.broker, "cancel_held", put_back_first)
    assert result.cancel()
    assert result.state is TaskState.CANCELLED


def test_between_two_attempts(idle: App) -> None:
    """A retry that waits is cancelled, and is not said to have never started."""
    assert reason(idle, put(idle, attempt=3)).endswith("UTC: attempt 2 had failed, the next had not started")


def test_after_a_crash(idle: App) -> None:
    """So is a task that waits for its next delivery because its child died."""
    task = put(idle)
    idle.broker.attach(Owner("inc", 0, 1))
    (held,) = idle.broker.settle([], 1, 1).deliveries
    idle.broker.bury(Owner("inc", 0, 1), Requeue(held, 100.0))
    assert reason(idle, task).endswith("UTC: it had started; deliveries lost: 1")


def test_after_a_node_died(idle: App) -> None:
    """Of a suspect nobody knows whether it started."""
    task = put(idle)
    idle.broker.attach(Owner("inc", 0, 1))
    idle.broker.settle([], 1, 1)
    idle.broker.rescue("inc", [], suspect=True)
    assert reason(idle, task).endswith("UTC: a node that died had held it, and may have started it")


def test_what_nobody_can_read(idle: App) -> None:
    """A message that would be dead is cancelled like any other, its bytes kept."""
    assert reason(idle, put(idle, b"from elsewhere")).startswith("#t cancelled: Cancelled: cancelled at ")
    found = idle.broker.find("t")
    assert found is not None
    assert b"from elsewhere" in (found.record or b"")


@pytest.mark.parametrize("ttl", [math.nan, math.inf, -1.0])
def test_a_ttl_that_cannot_be_meant(idle: App, ttl: float) -> None:
    """What another program wrote as TTL is not believed: the record is kept for a day."""
    reason(idle, put(idle, result_ttl=ttl))
    idle.broker.purge()
    assert idle.result("t").state is TaskState.CANCELLED
