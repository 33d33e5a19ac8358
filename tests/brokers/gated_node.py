"""A namespace with gates, its clients on a fake clock, and children of another node that wait in it."""

from __future__ import annotations

import itertools
import select
import time

from poolrt.brokers.redis import RedisBroker
from poolrt.clock import FakeClock
from poolrt.message import Delivery, Enqueue, Outcome, Owner, new_task_id
from poolrt.queue_choice import ALL_QUEUES, QueueChoice
from poolrt.states import TaskState
from poolrt.terms import Gate
from tests.brokers.waiter import Waiter
from tests.servers import Server

ONE = Gate("k", slots=1)
RATE = Gate("k", rate=1)
PATIENCE = 10.0
NUMBERS = itertools.count(1000)


class Node:
    """A namespace with one node, whose clients count by a fake clock unless told otherwise."""

    def __init__(self, url: str, server: Server) -> None:
        self.url, self.server = url, server
        self.tag = "{" + url.partition("namespace=")[2] + "}"
        self.clock = FakeClock()
        self.made: list[RedisBroker] = []
        self.broker = self.client()
        self.broker.join("inc", "node")

    def client(self, *, fake: bool = True) -> RedisBroker:
        self.made.append(RedisBroker(self.url, clock=self.clock if fake else None))
        return self.made[-1]

    def child(self, slot: int = 0, choice: QueueChoice = ALL_QUEUES, *, fake: bool = True) -> RedisBroker:
        client = self.client(fake=fake)
        client.attach(Owner("inc", slot, 1), choice)
        return client

    def put(self, gate: Gate | None, count: int = 1, queue: str = "default", eta: float | None = None) -> list[str]:
        ids = [new_task_id() for _ in range(count)]
        self.broker.enqueue([Enqueue(task, b"", queue, 0, eta, "t", gate) for task in ids])
        return ids

    def idle(self, choice: QueueChoice = ALL_QUEUES) -> Waiter:
        """A child of another node that waits; the server knows its queue, and wake-ups from before are taken."""
        self.broker.pause("default")
        self.broker.unpause("default")
        self.broker.join("idle", "other")
        client = self.client()
        client.attach(Owner("idle", next(NUMBERS), 1), choice)
        waiter = Waiter(client)
        while woken(waiter, 0.05):
            pass
        return waiter

    def call(self, command: str, key: str, *rest: object) -> object:
        return self.server.call(command, f"{self.tag}:{key}", *rest)


def woken(waiter: Waiter, seconds: float = PATIENCE) -> bool:
    """Whether it is woken within the time; a wait that ends by itself is begun anew."""
    deadline = time.monotonic() + seconds
    while True:
        fd = waiter.arm()
        left = deadline - time.monotonic()
        if select.select([fd], [], [], max(left, 0))[0] and waiter.take():
            return True
        if left <= 0:
            return False


def done(held: list[Delivery]) -> list[Outcome]:
    return [Outcome(each, TaskState.SUCCEEDED) for each in held]


def ids(held: list[Delivery]) -> list[str]:
    return [each.task_id for each in held]
