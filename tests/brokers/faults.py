"""What the tests of a failing server share: clients of it, a network before it, and what they put there."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from poolrt.brokers.redis import RedisBroker
from poolrt.brokers.redis.scripts import script
from poolrt.message import Delivery, Enqueue, Outcome, Owner, new_task_id
from poolrt.states import TaskState

Open = Callable[..., RedisBroker]

OWNER = Owner("inc", 0, 1)
SOON = 0.5
"""Seconds after its timeout within which a call must have ended, also on a loaded machine."""


def item(task: str | None = None, envelope: bytes = b"envelope") -> Enqueue:
    return Enqueue(task or new_task_id(), envelope, "default", 0, None)


def put(broker: RedisBroker, count: int = 1) -> list[str]:
    items = [item() for _ in range(count)]
    assert broker.enqueue(items) == [True] * count
    return [each.id for each in items]


def attached(broker: RedisBroker) -> RedisBroker:
    """The same, as the owner."""
    broker.join("inc", "node")
    broker.attach(OWNER)
    return broker


def places(deliveries: list[Delivery]) -> list[tuple[int, int]]:
    return [(delivery.n, delivery.i) for delivery in deliveries]


def done(delivery: Delivery) -> Outcome:
    return Outcome(delivery, TaskState.SUCCEEDED, b"record")


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """The block must end in time."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


def sha(name: str) -> bytes:
    return script(name).sha
