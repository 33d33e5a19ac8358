"""The conformance suite's brokers: each test runs on every broker, through the contract alone.

A new broker adds its parameter to ``service``: where its store is, and how to make one more client of it.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest

from poolrt.brokers.base import Broker
from poolrt.brokers.redis import RedisBroker
from poolrt.brokers.redis.address import Address
from poolrt.brokers.sqlite import SqliteBroker
from poolrt.clock import FakeClock
from poolrt.message import Enqueue, Owner, new_task_id
from poolrt.posix.unix_sockets import bind_datagram
from poolrt.queue_choice import QueueChoice
from poolrt.terms import Gate
from tests.brokers.connections import fakes
from tests.brokers.proxy import Proxy
from tests.servers import Server, Servers

ROOT = Path(__file__).resolve().parents[2]


class Factory(Protocol):
    """One more client of the test's store, closed at its end."""

    def __call__(self, *, timeout: float = 5.0, real_clock: bool = False) -> Broker: ...


@pytest.fixture
def clock() -> FakeClock:
    """The wall clock of the test's brokers."""
    return FakeClock()


@pytest.fixture(scope="session", params=["sqlite", "redis"])
def service(request: pytest.FixtureRequest) -> Server | None:
    """The shared server of the broker under test; None where its store is a file."""
    if request.param == "sqlite":
        return None
    server: Server = request.getfixturevalue("redis_server")  # here, so that no test is blamed for it
    return server


@pytest.fixture
def broker_factory(service: Server | None, node_dir: Path, clock: FakeClock) -> Iterator[Factory]:
    """Makes clients of one new, empty store; each is closed after the test."""
    made: list[Broker] = []
    redis_url = service and service.url(namespace=f"t-{uuid.uuid4().hex}")

    def make(*, timeout: float = 5.0, real_clock: bool = False) -> Broker:
        own_clock = None if real_clock else clock
        if redis_url:
            made.append(RedisBroker(redis_url, timeout=timeout, clock=own_clock))
        else:
            made.append(SqliteBroker(f"sqlite:///{node_dir}/q.db", timeout=timeout, clock=own_clock))
        return made[-1]

    yield make
    for broker in made:
        broker.close()


@pytest.fixture
def broker(broker_factory: Factory) -> Broker:
    """A producer's and steward's client; the node ``inc`` has joined."""
    client = broker_factory()
    client.join("inc", "node")
    return client


@pytest.fixture
def child(broker_factory: Factory, broker: Broker) -> Callable[..., Broker]:
    """``child(slot=0, generation=1, incarnation="inc")``: a client attached as that owner."""

    def make(slot: int = 0, generation: int = 1, incarnation: str = "inc") -> Broker:
        client = broker_factory()
        client.attach(Owner(incarnation, slot, generation))
        return client

    return make


@pytest.fixture
def put(broker: Broker) -> Callable[..., list[str]]:
    """``put(3, priority=0, eta=None)``: enqueue that many messages; their ids, in order."""

    def enqueue(count: int = 1, priority: int = 0, eta: float | None = None) -> list[str]:
        ids = [new_task_id() for _ in range(count)]
        assert all(
            broker.enqueue([Enqueue(task, b"envelope of " + task.encode(), "default", priority, eta) for task in ids])
        )
        return ids

    return enqueue


@pytest.fixture
def waiters(service: Server | None) -> Callable[[Broker], int]:
    """``waiters(broker)``: how many wait for a task's end."""

    def count(broker: Broker) -> int:
        if service is None:
            return sum(name.endswith(".wait") for name in os.listdir(broker.node_directory()))
        named = service.call("HVALS", f"{{{Address.parse(broker.url).namespace}}}:waiters")
        return sum(len(keys.split()) for keys in named)

    return count


@pytest.fixture
def script() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """``script(source, *arguments)``: start a Python process that runs ``source``; killed and reaped at the end."""
    started: list[subprocess.Popen[str]] = []

    def start(source: str, *arguments: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", source, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def fake() -> Iterator[Callable[..., int]]:
    """``fake(answer, …)``: the port of a server that answers whatever it is sent with these bytes in turn."""
    with fakes() as listen:
        yield listen


# ---- Redis alone: tests/brokers/test_redis_*.py


@pytest.fixture
def open_redis() -> Iterator[Callable[..., RedisBroker]]:
    """``open_redis(url, timeout=5.0)``: makes clients, closed at the end."""
    made: list[RedisBroker] = []

    def make(url: str, timeout: float = 5.0) -> RedisBroker:
        made.append(RedisBroker(url, timeout=timeout))
        return made[-1]

    yield make
    for broker in made:
        broker.close()


@pytest.fixture
def server(own_servers: Servers) -> Server:
    """A server of this test alone, which keeps what it answered for."""
    return own_servers.server(appendonly="yes", appendfsync="always")


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    """A network before the server."""
    made = Proxy(server.port)
    yield made
    made.close()


# ---- SQLite alone: tests/brokers/test_sqlite_*.py


@pytest.fixture
def file(node_dir: Path) -> Path:
    """Where the database is to be; nothing is there yet."""
    return node_dir / "q.db"


@pytest.fixture
def open_broker(file: Path) -> Iterator[Callable[..., SqliteBroker]]:
    """Makes clients of ``file``, closed at the end."""
    made: list[SqliteBroker] = []

    def make(**options: object) -> SqliteBroker:
        made.append(SqliteBroker(file, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for broker in made:
        broker.close()


@pytest.fixture
def store(open_broker: Callable[..., SqliteBroker], clock: FakeClock) -> SqliteBroker:
    """A client of a new file, on which the node ``node`` has joined."""
    broker = open_broker(clock=clock)
    broker.join("inc", "node")
    return broker


@pytest.fixture
def sqlite_child(
    open_broker: Callable[..., SqliteBroker], store: SqliteBroker, clock: FakeClock
) -> Callable[..., SqliteBroker]:
    """``sqlite_child(slot=0, choice=…)``: a client attached as that owner."""

    def make(slot: int = 0, choice: QueueChoice | None = None, incarnation: str = "inc") -> SqliteBroker:
        client = open_broker(clock=clock)
        client.attach(Owner(incarnation, slot, 1), choice or QueueChoice())
        return client

    return make


@pytest.fixture
def put_behind(store: SqliteBroker) -> Callable[..., list[str]]:
    """``put_behind(3, gate, queue="default", priority=0, eta=None, task="")``: enqueue that many; their ids."""

    def enqueue(
        count: int = 1,
        gate: Gate | None = None,
        queue: str = "default",
        priority: int = 0,
        eta: float | None = None,
        task: str = "",
    ) -> list[str]:
        ids = [new_task_id() for _ in range(count)]
        assert all(store.enqueue([Enqueue(name, b"", queue, priority, eta, task, gate) for name in ids]))
        return ids

    return enqueue


@pytest.fixture
def woken(store: SqliteBroker) -> Iterator[Callable[[], list[int]]]:
    """``woken()``: how many datagrams came to a child and to the steward since the last look."""
    sockets = []
    for name in ("node.wake", "node.steward"):
        sockets.append(bind_datagram(store.node_directory() / name))
        sockets[-1].setblocking(False)

    def count(sock: socket.socket) -> int:
        for number in range(100):
            try:
                sock.recv(64)
            except BlockingIOError:
                return number
        raise AssertionError("they do not end")

    yield lambda: [count(sock) for sock in sockets]
    for sock in sockets:
        sock.close()
