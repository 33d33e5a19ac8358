"""The conformance suite's brokers: each test runs on every broker, through the contract alone.

A new broker adds its parameter to ``service``: where its store is, and how to make one more client of it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest

from poolrt.brokers.base import Broker
from poolrt.brokers.sqlite import SqliteBroker
from poolrt.clock import FakeClock
from poolrt.message import Enqueue, Owner, new_task_id

ROOT = Path(__file__).resolve().parents[2]


class Factory(Protocol):
    """One more client of the test's store, closed at its end."""

    def __call__(self, *, timeout: float = 5.0, real_clock: bool = False) -> Broker: ...


@pytest.fixture
def clock() -> FakeClock:
    """The wall clock of the test's brokers."""
    return FakeClock()


@pytest.fixture(params=["sqlite"])
def broker_factory(request: pytest.FixtureRequest, node_dir: Path, clock: FakeClock) -> Iterator[Factory]:
    """Makes clients of one new, empty store; each is closed after the test."""
    assert request.param == "sqlite"
    made: list[Broker] = []

    def make(*, timeout: float = 5.0, real_clock: bool = False) -> Broker:
        broker = SqliteBroker(f"sqlite:///{node_dir}/q.db", timeout=timeout, clock=None if real_clock else clock)
        made.append(broker)
        return broker

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
