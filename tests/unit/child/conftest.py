"""A child's parts with a broker, a row and a lifeline that only record."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from poolrt import notice
from poolrt.app.app import App
from poolrt.board import RowWriter
from poolrt.brokers.base import Settled
from poolrt.child.executor import Execution, Executor
from poolrt.child.interruption import Interrupter
from poolrt.child.limits import Limits
from poolrt.errors import BrokerBusy
from poolrt.message import Delivery, Enqueue, Message, Outcome, Owner, Record, decode_record, encode_message
from poolrt.posix.memory import ResidentSize
from poolrt.settings import Settings
from poolrt.states import Activity, Order

OWNER = Owner("inc", 0, 1)


class FakeRow:
    """A row that remembers what was written, in order; the supervisor's cells are attributes."""

    def __init__(self) -> None:
        self.order: int = Order.WORK
        self.next_wake = 2**64 - 1
        self.done = 0
        self.failed = 0
        self.word = Activity.NONE
        self.held_now = 0
        self.sequence = 0
        self.interruption = 0
        self.soft = self.memory = 0
        self.log: list[tuple[Any, ...]] = []

    def activity(self, activity: Activity) -> None:
        self.word = activity
        self.log.append((activity.name,))

    def reserving(self, n: int) -> None:
        self.log.append(("reserving", n))

    def held(self, count: int) -> None:
        self.held_now = count

    def run(
        self, n: int, i: int, task_id: bytes, name: bytes, started: int, hard: int, soft: int, memory: int
    ) -> None:  # fmt: skip
        for value in (n, i, started, hard, soft, memory):
            assert 0 <= value < 2**64, "it would not fit its cell"
        self.sequence += 1
        self.word = Activity.RUN
        self.soft, self.memory = soft - started if soft else 0, memory
        self.log.append(("RUN", n, i, task_id, name, hard - started if hard else 0))

    def ended(self, *, failed: bool) -> None:
        self.word = Activity.COMMIT
        self.done += 1
        self.failed += failed
        self.log.append(("ended", failed))


class FakeBroker:
    """A queue in memory that checks what a child promises: settled once, in time, nothing kept."""

    trusted = True

    def __init__(self) -> None:
        self.queue: deque[Message] = deque()
        self.held: dict[tuple[int, int], Message] = {}
        self.log: list[tuple[Any, ...]] = []
        self.outcomes: list[Outcome] = []
        self.trouble: list[Exception] = []
        self.max_held = 0
        self.nudges = 0

    def settle(self, outcomes: list[Outcome], reserve: int, n: int, *, without: Any = ()) -> Settled:
        self.log.append(("settle", len(outcomes), reserve, n))
        if self.trouble:
            raise self.trouble.pop(0)
        stale = 0
        for outcome in outcomes:
            if self.held.pop((outcome.delivery.n, outcome.delivery.i), None) is None:
                stale += 1
            else:
                self.outcomes.append(outcome)
        deliveries = []
        for i in range(min(reserve, len(self.queue))):
            message = self.queue.popleft()
            self.held[n, i] = message
            deliveries.append(Delivery(encode_message(message), n, i, message.id, 0, suspect=False))
        self.max_held = max(self.max_held, len(self.held))
        return Settled(deliveries, stale, bool(self.queue))

    def release(self, deliveries: list[Delivery]) -> int:
        self.log.append(("release", len(deliveries)))
        for delivery in reversed(deliveries):
            self.queue.appendleft(self.held.pop((delivery.n, delivery.i)))
        return len(deliveries)

    def nudge(self) -> None:
        self.nudges += 1


class FakeLifeline:
    """A lifeline whose waits call the test back, instead of waiting."""

    def __init__(self) -> None:
        self.cut = False
        self.sent: list[notice.Notice] = []
        self.waits: list[float | None] = []
        self.when_idle: Callable[[], bool] = self._end
        self.when_ordered: Callable[[], object] = lambda: None

    def _end(self) -> bool:
        self.cut = True
        return False

    def send(self, message: notice.Notice) -> None:
        self.sent.append(message)

    def wait_for_order(self, timeout: float | None = None) -> None:
        self.waits.append(timeout)
        self.when_ordered()

    def wait_for_work(self, timeout: float | None = None) -> bool:
        return self.when_idle()


@pytest.fixture
def row() -> FakeRow:
    """The child's row."""
    return FakeRow()


@pytest.fixture
def broker() -> FakeBroker:
    """The child's broker."""
    return FakeBroker()


@pytest.fixture
def lifeline() -> FakeLifeline:
    """The child's lifeline: when the child is idle for the first time, the supervisor is gone."""
    return FakeLifeline()


@pytest.fixture
def app(node_dir: Any) -> App:
    """An app whose broker is never opened."""
    return App("shop", f"sqlite:///{node_dir}/never.db")


@pytest.fixture
def pokes() -> list[float]:
    """When the child poked its supervisor."""
    return []


@pytest.fixture
def told() -> list[tuple[str, ...]]:
    """What the child reported: kind, task, id, cause."""
    return []


@pytest.fixture
def executor(app: App, row: RowWriter, pokes: list[float], told: list[tuple[str, ...]]) -> Iterator[Executor]:
    """The executor of ``app`` without a time limit of its own."""
    with contextlib.closing(ResidentSize(os.getpid())) as resident:
        executor = Executor(
            app, OWNER, row, Limits(Settings(), resident), 3, Interrupter(row), lambda: pokes.append(time.monotonic()),
            lambda *event: told.append(event),
        )  # fmt: skip
        yield executor
        executor.close()
    if executor._loop is not None:
        asyncio.set_event_loop(None)


class Ran:
    """An Outcome with its record and follow-ups decoded."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self.state = outcome.state
        self.record: Record | None = None if outcome.record is None else decode_record(outcome.record)
        self.follow_ups: tuple[Enqueue, ...] = outcome.follow_ups

    @property
    def kind(self) -> str:
        assert self.record is not None
        assert self.record.error is not None
        return self.record.error.type

    @property
    def text(self) -> str:
        assert self.record is not None
        assert self.record.error is not None
        return self.record.error.text


Run = Callable[..., Ran]


@pytest.fixture
def run(executor: Executor) -> Run:
    """``run(message_or_envelope)``: prepare it, run it if it can be, and tell what came of it."""

    def run(what: Message | bytes, lost: int = 0) -> Ran:
        envelope = what if isinstance(what, bytes) else encode_message(what)
        delivery = Delivery(envelope, 5, 6, what.id if isinstance(what, Message) else "an-id", lost, suspect=False)
        prepared = executor.prepare(delivery)
        outcome = executor.run(prepared) if isinstance(prepared, Execution) else prepared
        assert outcome.delivery is delivery
        return Ran(outcome)

    return run


@pytest.fixture
def busy() -> Exception:
    """What a broker in trouble raises."""
    return BrokerBusy("locked by another process")
