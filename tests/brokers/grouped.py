"""Groups of tests: their members, how these end, and a client that ends them."""

from __future__ import annotations

from collections.abc import Sequence

from poolrt.brokers.base import Broker
from poolrt.message import Delivery, Enqueue, Filled, NewGroup, Outcome, Record, encode_record
from poolrt.states import TaskState
from poolrt.terms import Slot

FAILED, CANCELLED, SUCCEEDED = TaskState.FAILED, TaskState.CANCELLED, TaskState.SUCCEEDED


def item(name: str, last: str = "") -> Enqueue:
    return Enqueue(name, b"envelope of " + name.encode(), "default", 0, None, last=last)


def members(group: str, size: int) -> list[Enqueue]:
    return [item(Slot(group, index).id) for index in range(size)]


def a_group(
    size: int, name: str = "g", *, last: str = "", ttl: float = 1000, outer: Slot | None = None,
    errbacks: Sequence[str] = (), collects: bool = False,
) -> NewGroup:  # fmt: skip
    """A group whose body has the id ``<name>-body``, or that of the slot it fills."""
    body = item(outer.id if outer else f"{name}-body", last)
    return NewGroup(name, size, body, ttl, outer, tuple(map(item, errbacks)), collects)


def a_record(text: str, state: TaskState = FAILED) -> bytes:
    return encode_record(Record(state, text, 1.0))


WHY = a_record("why")


def done(held: Delivery, *filled: Slot) -> Outcome:
    """It succeeded, and fills its own slot or another one."""
    slot = filled[0] if filled else slot_of(held.task_id)
    return Outcome(held, SUCCEEDED, a_record(held.task_id, SUCCEEDED), filled=Filled(slot))


def failed(held: Delivery, why: bytes = WHY) -> Outcome:
    """It failed, and so does its group."""
    return Outcome(held, FAILED, a_record(held.task_id), filled=Filled(slot_of(held.task_id), why))


def slot_of(task_id: str) -> Slot:
    group, _, index = task_id.rpartition(".")
    return Slot(group, int(index))


class Worker:
    """A client that numbers its reserves."""

    def __init__(self, client: Broker) -> None:
        self.client = client
        self._n = 0

    def take(self, count: int = 99) -> list[Delivery]:
        """Reserve what waits, up to so many."""
        return self.end(reserve=count)[0]

    def end(self, *outcomes: Outcome, reserve: int = 0) -> tuple[list[Delivery], int]:
        """Settle these; what it got, and how many were stale."""
        self._n += 1
        settled = self.client.settle(outcomes, reserve, self._n)
        return settled.deliveries, settled.stale


def ids(deliveries: Sequence[Delivery]) -> list[str]:
    return [each.task_id for each in deliveries]


def state(broker: Broker, task_id: str) -> TaskState | None:
    found = broker.find(task_id)
    return found and found.state


def kept(broker: Broker, task_id: str) -> bytes | None:
    found = broker.find(task_id)
    return found and found.record
