"""Results in an event loop, and ``as_completed``, on each broker; a client here plays the workers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from poolrt import App, AsyncResult, Task, as_completed
from poolrt.brokers.base import Broker
from poolrt.brokers.redis import RedisBroker
from poolrt.errors import BrokerError, EncodingError, ResultIgnored, ResultTimeout
from poolrt.message import Outcome, Owner, Record, encode_record
from poolrt.states import TaskState
from tests.servers import Server, Servers

Waiters = Callable[[Broker], int]
WaitFor = Callable[..., None]
SECONDS = 20.0


@pytest.fixture
def app(broker_factory: Callable[..., Broker]) -> App:
    """An app on the test's broker, whose node has joined; with the tasks ``add`` and ``silent``."""
    made = App("t")
    made.broker = broker_factory(real_clock=True)
    made.broker.join("inc", "node")
    made.task(name="add")(lambda x, y: x + y)
    made.task(name="silent", ignore_result=True)(lambda: None)
    return made


@pytest.fixture
def add(app: App) -> Task[..., int]:
    """The task."""
    return app.tasks["add"]


class Worker:
    """Holds what it reserves until it is told how it ends."""

    def __init__(self, client: Broker) -> None:
        self._client = client
        client.attach(Owner("inc", 0, 1))
        self._n = 0

    def work(self, count: int = 1, value: str = "7") -> None:
        """Reserve so many and end them."""
        self._n += 1
        held = self._client.settle([], count, self._n).deliveries
        assert len(held) == count
        record = encode_record(Record(TaskState.SUCCEEDED, "add", time.time(), value=value.encode(), runtime=0.5))
        self._n += 1
        self._client.settle([Outcome(each, TaskState.SUCCEEDED, record) for each in held], 0, self._n)


@pytest.fixture
def worker(app: App, broker_factory: Callable[..., Broker]) -> Worker:
    """A worker of the app's node."""
    return Worker(broker_factory(real_clock=True))


@pytest.fixture(autouse=True)
def ended(app: App) -> Iterator[None]:
    """Threads of the event loops' calls end by themselves, soon after."""
    yield
    deadline = time.monotonic() + 2
    while ours() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not ours()


def ours() -> list[str]:
    """Names of the client's threads."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("poolrt-")]


def test_a_call_is_awaited(add: Task[..., int], worker: Worker) -> None:
    """``adelay``, ``aapply_async``, ``await`` and ``aget`` do as their likes that block."""

    async def main() -> None:
        first = await add.adelay(3, y=4)
        assert first.state is TaskState.QUEUED
        second = await add.aapply_async((3, 4), countdown="1h", task_id="by-name")
        assert (second.id, second.state) == ("by-name", TaskState.DELAYED)
        waiting = asyncio.create_task(first.aget(timeout=SECONDS))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        await asyncio.to_thread(worker.work)
        assert await waiting == 7
        assert await first == 7
        assert await AsyncResult[int](first.id, first.broker) == 7
        with pytest.raises(EncodingError):
            await add.adelay(object() if not add.app.broker.trusted else threading.Lock(), 1)

    asyncio.run(main())


def test_what_it_raises(app: App, add: Task[..., int], worker: Worker) -> None:
    """Too late, unknown, without a result: as ``get`` does."""

    async def main() -> None:
        result = await add.adelay(1, 1)
        began = time.monotonic()
        with pytest.raises(ResultTimeout, match=rf"task {result.id} has not ended within 0\.05 s"):
            await result.aget(timeout=0.05)
        assert 0.05 <= time.monotonic() - began < 1
        with pytest.raises(ResultTimeout, match=r"has not ended$"):
            await result.aget(timeout=0)
        with pytest.raises(ResultIgnored, match="unknown"):
            await app.result("nobody")
        with pytest.raises(ResultIgnored, match="ignore_result=True"):
            await (await app.tasks["silent"].adelay())

    asyncio.run(main())


def test_a_thousand_are_awaited_on_one_connection(add: Task[..., int], worker: Worker) -> None:
    """By one thread, with a handful of descriptors; and each is told."""
    results = add.enqueue_many((n, n) for n in range(1000))
    before = len(os.listdir("/proc/self/fd"))

    async def main() -> None:
        waiting = [asyncio.ensure_future(result) for result in results]
        await asyncio.sleep(0.3)
        assert ours() == ["poolrt-results"]
        assert len(os.listdir("/proc/self/fd")) - before <= 8  # the loop's own three are among them
        for _ in range(10):
            await asyncio.to_thread(worker.work, 100)
        assert await asyncio.gather(*waiting) == [7] * 1000

    asyncio.run(main())


def test_who_is_cancelled_leaves_nothing(
    app: App, add: Task[..., int], worker: Worker, waiters: Waiters, wait_for: WaitFor
) -> None:
    """No thread, no descriptor, no word at the broker; the tasks go on, and others who wait are told."""
    results = add.enqueue_many((n, n) for n in range(50))

    async def main() -> None:
        waiting = [asyncio.ensure_future(result) for result in results]
        await asyncio.sleep(0.1)
        assert waiters(app.broker) > 0
        for each in waiting[1:]:
            each.cancel()
        await asyncio.gather(*waiting[1:], return_exceptions=True)
        assert all(each.cancelled() for each in waiting[1:])
        await asyncio.to_thread(worker.work)
        assert await waiting[0] == 7

    asyncio.run(main())
    wait_for(lambda: not ours(), "its threads have ended", 2)
    assert waiters(app.broker) == 0
    worker.work(49)
    assert results[-1].get(timeout=0) == 7


def ends(worker: Worker) -> Iterator[int]:
    """End one more with each step, with its number as value."""
    for number in range(1, 100):
        worker.work(1, str(number))
        yield number


def test_as_completed_in_a_thread(add: Task[..., int], worker: Worker) -> None:
    """Each as soon as it has ended, in whatever order they were given; one that is given twice, twice; again anew."""
    results = add.enqueue_many((n, n) for n in range(4))
    ending = ends(worker)
    next(ending)
    seen = []
    completion = as_completed([*results[::-1], results[0]], timeout=SECONDS)
    for result in completion:
        assert result.is_known
        seen.append(result)
        if len(seen) > 1 and len(seen) < 5:
            next(ending)
    assert seen == [results[0], results[0], *results[1:]]
    assert [result.get() for result in seen] == [1, 1, 2, 3, 4]
    assert {result.get() for result in completion} == {1, 2, 3, 4}


def test_as_completed_in_a_loop(add: Task[..., int], worker: Worker) -> None:
    """The same; left early, nothing waits for the others."""
    results = add.enqueue_many((n, n) for n in range(4))
    ending = ends(worker)
    next(ending)
    seen = []

    async def main() -> None:
        async for result in as_completed(results[::-1], timeout=SECONDS):
            seen.append(await result)
            if len(seen) == 3:
                break
            await asyncio.to_thread(next, ending)

    asyncio.run(main())
    assert seen == [1, 2, 3]


def test_as_completed_in_time(add: Task[..., int], worker: Worker) -> None:
    """Those that have ended are given, then it says how many have not; in a thread and in a loop."""
    results = add.enqueue_many((n, n) for n in range(3))
    worker.work()

    def in_a_thread() -> None:
        for result in as_completed(results, timeout=0.2):
            seen.append(result.id)  # noqa: PERF401  it raises, and what came before is looked at

    async def in_a_loop() -> None:
        async for result in as_completed(results, timeout=0.2):
            seen.append(result.id)  # noqa: PERF401  the same

    for wait in (in_a_thread, lambda: asyncio.run(in_a_loop())):
        seen: list[str] = []
        with pytest.raises(ResultTimeout, match=r"2 of 3 tasks have not ended within 0\.2 s"):
            wait()
        assert seen == [results[0].id]


def test_as_completed_of_what_keeps_no_result(app: App, add: Task[..., int], worker: Worker) -> None:
    """It is given once it has ended, and so is one that nobody knows."""
    silent = app.tasks["silent"].delay()
    given = {result.id for result in as_completed([app.result("nobody")], timeout=SECONDS)}
    assert given == {"nobody"}
    with pytest.raises(ResultTimeout):
        list(as_completed([silent], timeout=0.05))
    client = worker._client
    (held,) = client.settle([], 1, 50).deliveries
    client.settle([Outcome(held, TaskState.SUCCEEDED)], 0, 51)
    assert list(as_completed([silent], timeout=SECONDS)) == [silent]


def test_a_broker_that_does_not_answer_blocks_no_loop(
    app: App, add: Task[..., int], service: Server | None, own_servers: Servers
) -> None:
    """While it stands still, calls and results are awaited and the loop goes round; they raise BrokerError in time."""
    stall: contextlib.AbstractContextManager[Any]
    if service is None:
        result = add.delay(1, 1)
        stall = held(app.broker.url.removeprefix("sqlite:///"))
        app.broker._store.timeout = 1.0  # type: ignore[attr-defined]
    else:
        server = own_servers.server()
        app.broker.close()
        app.broker = RedisBroker(server.url(), timeout=1.0)
        result = add.delay(1, 1)
        stall = contextlib.closing(Paused(server))
    gaps = []

    async def beat() -> None:
        last = time.monotonic()
        while True:
            await asyncio.sleep(0.005)
            now = time.monotonic()
            gaps.append(now - last)
            last = now

    async def main() -> None:
        beating = asyncio.create_task(beat())
        await asyncio.sleep(0.05)
        with stall:
            began = time.monotonic()
            outcomes = await asyncio.gather(
                *(add.adelay(n, n) for n in range(8)), result, result.aget(timeout=10), return_exceptions=True
            )
            took = time.monotonic() - began
        beating.cancel()
        assert all(isinstance(outcome, BrokerError) for outcome in outcomes), outcomes
        assert 0.9 < took < 6
        assert max(gaps) < 0.1, f"the loop stood still for {max(gaps):.3f} s"
        assert len(gaps) > 50

    asyncio.run(main())
    app.broker.close()


@contextlib.contextmanager
def held(path: str) -> Iterator[None]:
    """Another process's write transaction that does not end."""
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("begin exclusive")
    try:
        yield
    finally:
        db.close()


class Paused:
    """A server that stands still until ``close``."""

    def __init__(self, server: Any) -> None:
        self._server = server
        server.pause()

    def close(self) -> None:
        """Let it go on."""
        self._server.go_on()
