"""A child's parts with a broker, a row and a lifeline that only record."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from poolrt import notice
from poolrt.app.app import App
from poolrt.board import RowWriter
from poolrt.brokers.base import Settled
from poolrt.child import executor as executor_module
from poolrt.child import loop as loop_module
from poolrt.child import settler as settler_module
from poolrt.child.executor import Execution, Executor
from poolrt.child.interruption import Interrupter
from poolrt.child.limits import Limits
from poolrt.child.loop import Loop
from poolrt.child.watches import Verdict
from poolrt.codec import encode_arguments
from poolrt.errors import BrokerBusy, BrokerUnreachable
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
        self.recall_mark = (0, 0, 0)
        self.lease_until = 0
        self.too_late = 0
        self.log: list[tuple[Any, ...]] = []

    def refused(self, count: int) -> None:
        self.too_late += count

    @property
    def recalled(self) -> int:
        return self.recall_mark[0]

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

    def failed_after_all(self) -> None:
        self.failed += 1


class FakeBroker:
    """A queue in memory that checks what a child promises: settled once, in time, nothing kept.

    Pipelined, it does what was submitted only when its answer is asked for, or when the connection breaks (``cut``).

    Attributes:
        done: ids of the tasks it took an outcome of, each time it did.
        trouble: raised by the next submits.
        refusals: raised by the next resumes.
        floor: reserves up to it give nothing (what a steward recalled).
        woken: what it says of a submit that waited: whether a wake-up ended the wait.
    """

    trusted = True
    leases = False

    def __init__(self) -> None:
        self.pipelined = self.wakes_children = False
        self.queue: deque[Message] = deque()
        self.held: dict[tuple[int, int], Message] = {}
        self.log: list[tuple[Any, ...]] = []
        self.outcomes: list[Outcome] = []
        self.done: list[str] = []
        self.trouble: list[Exception] = []
        self.refusals: list[Exception] = []
        self.floor = 0
        self.max_held = 0
        self.nudges = 0
        self.woken = True
        self.is_cut = False
        self._waits = False
        self._requests: deque[tuple[Sequence[Outcome], int, int]] = deque()
        self._answers: deque[Settled] = deque()
        self._known: dict[tuple[int, int], Message] = {}

    def submit(self, outcomes: Sequence[Outcome], reserve: int, n: int, *, without: Any = ()) -> None:
        self.log.append(("submit", len(outcomes), reserve, n))
        if self.trouble:
            raise self.trouble.pop(0)
        if self.is_cut:
            raise BrokerUnreachable("cut")
        self._requests.append((outcomes, reserve, n))
        if not self.pipelined:
            self._answers.append(self._do())

    def submit_when_woken(self, reserve: int, n: int, *, without: Any = ()) -> int:
        assert not self._requests
        assert not self._answers
        self.log.append(("wait", reserve, n))
        if self.trouble:
            raise self.trouble.pop(0)
        self._requests.append(((), reserve, n))
        self._waits = True
        return 7

    def answer(self) -> Settled:
        if self.is_cut:
            raise BrokerUnreachable("cut")
        if self._answers:
            return self._answers.popleft()
        return self._do()

    def _do(self) -> Settled:
        outcomes, reserve, n = self._requests.popleft()
        stale = 0
        for outcome in outcomes:
            if self.held.pop((outcome.delivery.n, outcome.delivery.i), None) is None:
                stale += 1
            else:
                self.outcomes.append(outcome)
                self.done.append(outcome.delivery.task_id)
        deliveries = []
        for i in range(0 if n <= self.floor else min(reserve, len(self.queue))):
            message = self.queue.popleft()
            self.held[n, i] = self._known[n, i] = message
            deliveries.append(Delivery(encode_message(message), n, i, message.id, 0, suspect=False))
        self.max_held = max(self.max_held, len(self.held))
        woken, self._waits = self._waits and self.woken, False
        return Settled(deliveries, stale, bool(self.queue), woken)

    def cut(self, arrived: int = 1000) -> None:
        """Break the connection: of what was submitted and not answered the first ``arrived`` still take effect."""
        for _ in range(min(arrived, len(self._requests))):
            self._do()
        self._requests.clear()
        self._answers.clear()
        self.is_cut = True

    def roll_back(self, outcomes: int) -> None:
        """Forget that the last ``outcomes`` were settled, as a server that was killed does."""
        for outcome in self.outcomes[len(self.outcomes) - outcomes :]:
            fence = (outcome.delivery.n, outcome.delivery.i)
            self.held[fence] = self._known[fence]
            self.done.remove(outcome.delivery.task_id)
        del self.outcomes[len(self.outcomes) - outcomes :]

    def resume(self) -> list[tuple[int, int]]:
        self.log.append(("resume", 0, 0, 0))
        if self.refusals:
            raise self.refusals.pop(0)
        self._requests.clear()
        self._answers.clear()
        self.is_cut = self._waits = False
        return list(self.held)

    def close(self) -> None:
        self.log.append(("close", 0, 0))
        self.cut(arrived=0)

    def release(self, deliveries: Sequence[Delivery]) -> int:
        self.log.append(("release", len(deliveries)))
        if self.is_cut:
            raise BrokerUnreachable("cut")
        known = [self.held.pop((each.n, each.i)) for each in deliveries if (each.n, each.i) in self.held]
        self.queue.extendleft(reversed(known))
        return len(known)

    def nudge(self) -> None:
        self.nudges += 1


class FakeLifeline:
    """A lifeline whose waits call the test back, instead of waiting."""

    def __init__(self) -> None:
        self.cut = False
        self.sent: list[notice.Notice] = []
        self.pokes = 0
        self.waits: list[float | None] = []
        self.when_idle: Callable[[], bool] = self._end
        self.when_ordered: Callable[[], object] = lambda: None

    def _end(self) -> bool:
        self.cut = True
        return False

    def send(self, message: notice.Notice) -> None:
        if isinstance(message, notice.Poke):
            self.pokes += 1
        else:
            self.sent.append(message)

    def wait_for_order(self, timeout: float | None = None) -> None:
        self.waits.append(timeout)
        self.when_ordered()

    def wait_for_work(self, timeout: float | None = None) -> bool:
        return self.when_idle()

    def wait_for_answer(self, fd: int, timeout: float) -> bool:
        assert fd == 7
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
            lambda *event: told.append(event), "web-1",
        )  # fmt: skip
        yield executor
        executor.close()
    if executor.current_loop() is not None:
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


Put = Callable[..., None]
Make = Callable[..., Loop]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The child's monotonic clock, in ns: tasks take no time unless they move it, however loaded the machine is."""
    now = [10**9]

    class Time:
        monotonic_ns = staticmethod(lambda: now[0])
        time = staticmethod(time.time)
        monotonic = staticmethod(lambda: now[0] / 1e9)

    monkeypatch.setattr(loop_module, "time", Time)
    monkeypatch.setattr(settler_module, "time", Time)
    monkeypatch.setattr(executor_module, "time", Time)
    return now


class FakeAudit:
    """Remembers which tasks it looked at; ``finds`` is its answer."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.finds: Verdict | None = None
        self.goes_first = False
        self.sampling: Callable[[], bool] = lambda: False
        self.samples: list[tuple[str, Outcome]] = []
        self.left = False
        self.at_ease: set[str] = set()
        self.finds_before: Verdict | None = None

    def before(self, task: str) -> Verdict | None:
        self.at_ease.add(task)
        return self.finds_before

    def samples_next(self, task: str) -> bool:
        return self.sampling()

    def sample(self, task: str, runtime: float, outcome: Outcome) -> None:
        self.samples.append((task, outcome))

    def after(self, task: str, runtime: float) -> Verdict | None:
        self.seen.append(task)
        return self.finds

    def leaving(self) -> None:
        self.left = True


@pytest.fixture
def put(broker: FakeBroker) -> Put:
    """``put("name", 3, *args)``: three calls into the queue."""
    numbers = itertools.count()

    def put(task: str, count: int = 1, *args: object) -> None:
        codec, payload = encode_arguments(args, {}, trusted=True, task=task)
        broker.queue.extend(Message(f"id-{next(numbers)}", task, payload, codec) for _ in range(count))

    return put


@pytest.fixture
def audit() -> FakeAudit:
    """An audit that finds nothing, until a test says otherwise."""
    return FakeAudit()


@pytest.fixture
def make(
    broker: FakeBroker, executor: Executor, audit: FakeAudit, row: FakeRow, lifeline: FakeLifeline,
    told: list[tuple[str, ...]],
) -> Make:  # fmt: skip
    """``make(max_tasks=0)``: a loop; it ends when it is idle, as if the supervisor were gone."""
    return lambda max_tasks=0: Loop(
        broker, executor, audit, row, lifeline, max_tasks, lambda *event: told.append(event)
    )


@pytest.fixture
def noop(app: App) -> None:
    """A task that does nothing."""

    @app.task(name="noop")
    def noop() -> None:
        pass


@pytest.fixture
def waiting(broker: FakeBroker) -> FakeBroker:
    """A broker on a server, which wakes children itself."""
    broker.pipelined = broker.wakes_children = True
    return broker
