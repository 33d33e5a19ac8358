"""What a running task tells of itself: how often, what, and where it may."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

import poolrt
from poolrt.app import progress, request
from poolrt.app.app import App
from poolrt.app.progress import decode_progress
from poolrt.errors import BrokerBusy, ConfigurationError, DecodingError, EncodingError
from poolrt.message import Delivery, Message


class FakeBroker:
    """Keeps what was noted."""

    trusted = True
    url = "fake://"

    def __init__(self) -> None:
        self.notes: list[tuple[str, bytes, float]] = []
        self.trouble: Exception | None = None

    def note_progress(self, task_id: str, blob: bytes, ttl: float) -> None:
        if self.trouble:
            raise self.trouble
        self.notes.append((task_id, blob, ttl))

    @property
    def told(self) -> list[tuple[str, bytes]]:
        """States and metas."""
        return [(each.state, each.meta) for each in (decode_progress(blob) for _, blob, _ in self.notes)]


@pytest.fixture
def broker() -> FakeBroker:
    """Its broker."""
    return FakeBroker()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic clock."""
    now = [100.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0], time=time.time))
    return now


@pytest.fixture
def task(broker: FakeBroker, clock: list[float]) -> Iterator[Any]:
    """A task that runs here; ``task.again()`` begins another run of it."""
    app = App("shop", "sqlite:////nowhere/never.db")
    app.broker = broker  # type: ignore[assignment]
    task: Any = app.task(name="t", bind=True)(lambda self: None)

    def again(attempt: int = 1) -> None:
        message = Message("the-id", "t", b"[[],{}]", attempt=attempt, result_ttl=60.0)
        delivery = Delivery(b"", 1, 2, "the-id", 0, suspect=False)
        request.enter(SimpleNamespace(message=message, delivery=delivery, task=task, deadline=0), "inc/0.1", "web-1")

    task.again = again
    again()
    yield task
    request.leave()


def test_states_and_metas(task: Any, broker: FakeBroker) -> None:
    """A state of the task's own, with a value; the attempt, the time, and how long it is kept."""
    task.again(attempt=3)
    task.update_state("loading", {"file": 7})
    ((task_id, blob, ttl),) = broker.notes
    told = decode_progress(blob)
    assert (task_id, ttl, told.state, told.meta, told.codec, told.attempt) == (
        "the-id", 60.0, "loading", b'{"file":7}', "json", 3,
    )  # fmt: skip
    assert abs(told.at - time.time()) < 5


def test_celerys_words(task: Any, broker: FakeBroker) -> None:
    """``update_state(state=, meta=)`` as in Celery."""
    task.update_state(state="PROGRESS", meta={"current": 1})
    assert broker.told == [("PROGRESS", b'{"current":1}')]


def test_a_loop_may_tell_each_step(task: Any, broker: FakeBroker, clock: list[float]) -> None:
    """Of one state at most every 100 ms, and the last step always."""
    for step in range(1, 1001):
        clock[0] += 0.001
        poolrt.progress(step, 1000)
    steps = [meta for _, meta in broker.told]
    assert len(steps) == 11
    assert (steps[0], steps[-1]) == (b'{"current":1,"total":1000}', b'{"current":1000,"total":1000}')


def test_another_state_is_told_at_once(task: Any, broker: FakeBroker) -> None:
    """Only what repeats a state waits."""
    for state in ("loading", "loading", "sorting", "loading"):
        task.update_state(state)
    assert [state for state, _ in broker.told] == ["loading", "sorting", "loading"]


def test_each_run_begins_anew(task: Any, broker: FakeBroker) -> None:
    """What the run before told last does not silence the next one's first word."""
    task.progress(1, 2)
    task.again()
    task.progress(1, 2)
    assert len(broker.notes) == 2


def test_a_broker_that_is_away_does_not_fail_the_task(
    task: Any, broker: FakeBroker, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged."""
    broker.trouble = BrokerBusy("locked")
    task.progress(1, 2)
    assert caplog.records[0].message == "task t#the-id: its progress is not told: locked"


@pytest.mark.parametrize("state", ["", 5, "succeeded", "failed", "unknown", "queued"])
def test_states_that_are_none(state: Any, task: Any, broker: FakeBroker) -> None:
    """What would look like an end, or like no run, is refused."""
    with pytest.raises(ConfigurationError, match="use a word that is not one of"):
        task.update_state(state)
    assert broker.notes == []


def test_meta_that_cannot_be_carried(task: Any, broker: FakeBroker) -> None:
    """Over an untrusted broker, as a result would be."""
    broker.trusted = False
    with pytest.raises(EncodingError, match=r"a value of type builtins\.object"):
        task.update_state("x", object())


def test_outside_a_task() -> None:
    """There is nothing to tell of."""
    with pytest.raises(RuntimeError, match="call them inside one"):
        poolrt.progress(1, 2)
    assert poolrt.current_task() is None


def test_current_task(task: Any) -> None:
    """The task that runs, for code that is not handed its ``self``."""
    assert poolrt.current_task() is task
    assert poolrt.current_task().request.id == "the-id"  # type: ignore[union-attr]


def test_damaged_progress() -> None:
    """What is no progress is told by name."""
    with pytest.raises(DecodingError, match="damaged progress"):
        decode_progress(b"\x93")
