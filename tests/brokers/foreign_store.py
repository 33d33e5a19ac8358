"""A namespace that a test damages, and all that a node, its children and an operator go on to do with it."""

from __future__ import annotations

import itertools
import uuid
from typing import Any

import msgspec
import pytest

from poolrt.brokers.redis import RedisBroker
from poolrt.clock import FakeClock
from poolrt.errors import BrokerDamaged, Fenced
from poolrt.hygiene.findings import LeakKind, LeakRow
from poolrt.message import Delivery, Enqueue, Filled, NewGroup, Outcome, Owner, Record, encode_record, new_task_id
from poolrt.states import TaskState
from poolrt.terms import Gate, Slot, Unique
from tests.servers import Server

SLOT = Gate("slot", slots=1)
TOKEN = Gate("token", rate=0.01)
LEAK = LeakRow(LeakKind.FILES, "t", "/tmp/x", 1, 1, 5.0, 5.0, "it leaves /tmp/x")
A_RECORD = encode_record(Record(TaskState.FAILED, "t", 1.0))


class Store:
    """A namespace of its own with a node, a child, and messages in every state."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.namespace = f"t-{uuid.uuid4().hex}"
        self.clock = FakeClock()
        self.made: list[RedisBroker] = []
        self.broker = self.client()
        self.child = self.client()
        self.start = "inc"
        self.n = 0
        self.numbers = itertools.count(1)
        self.ran: set[str] = set()
        self.envelopes: set[bytes] = set()
        self.broker.join("inc", "node")
        self.child.attach(Owner("inc", 0, 1))

    def client(self) -> RedisBroker:
        self.made.append(RedisBroker(self.server.url(namespace=self.namespace), clock=self.clock))
        return self.made[-1]

    def key(self, name: str) -> str:
        return f"{{{self.namespace}}}:{name}"

    def call(self, command: str, name: str, *rest: object) -> Any:
        return self.server.call(command, self.key(name), *rest)

    def put(self, queue: str = "default", eta: float | None = None) -> str:
        task = new_task_id()
        self.broker.enqueue([Enqueue(task, b"envelope of " + task.encode(), queue, 0, eta)])
        return task

    def put_with_terms(self, gate: Gate | None, unique: Unique | None = None, priority: int = 9) -> str:
        task = new_task_id()
        item = Enqueue(task, b"envelope of " + task.encode(), "default", priority, None, "t", gate, unique)
        self.broker.enqueue([item])
        return task

    def settle(self, outcomes: list[Outcome], reserve: int) -> list[Delivery]:
        self.n += 1
        return self.child.settle(outcomes, reserve, self.n).deliveries

    def fill(self) -> dict[str, str]:
        """Messages in each state, records, and a group: their ids by what they are."""
        members = [Enqueue("g.0", b"", "default", 0, None), Enqueue("g.1", b"", "default", 0, self.clock.wall() + 100)]
        self.broker.enqueue(members, [NewGroup("g", 2, Enqueue("body", b"", "default", 0, None), 1e6)])
        (member,) = self.settle([], 1)
        self.settle([Outcome(member, TaskState.SUCCEEDED, b"r", filled=Filled(Slot("g", 0)))], 0)
        ids = {"member": "g.1", "body": "body"}
        ids |= {"failed": self.put(), "succeeded": self.put(), "suspect": self.put(), "held": self.put()}
        failed, succeeded = self.settle([], 2)
        self.settle([Outcome(failed, TaskState.FAILED, b"r"), Outcome(succeeded, TaskState.SUCCEEDED, b"r")], 0)
        self.broker.join("other", "neighbour")
        neighbour = self.client()
        neighbour.attach(Owner("other", 0, 1))
        neighbour.settle([], 1, 1)
        (held,) = self.settle([], 1)
        assert held.task_id == ids["held"]
        self.broker.rescue("other", [], suspect=True)
        ids |= {"queued": self.put(), "another": self.put("other"), "delayed": self.put(eta=self.clock.wall() + 100)}
        self.broker.cancel_held(held.task_id)
        self.broker.note_leaks([LEAK], call="first")
        for what, gate in (("slot", SLOT), ("token", TOKEN), ("no slot", SLOT), ("no token", TOKEN)):
            ids[what] = self.put_with_terms(gate)
        assert {each.task_id for each in self.settle([], 2)} == {ids["slot"], ids["token"]}
        ids["open"] = self.put_with_terms(Gate("open", slots=9), Unique("key"), priority=0)
        return ids

    def without_record(self, tasks: set[str]) -> list[str]:
        """Those that have not ended with a record of having run."""
        return [task for task in tasks if not (found := self.broker.find(task)) or found.record != b"ran"]

    def close(self) -> None:
        for broker in self.made:
            broker.close()

    # ---- what goes on

    def go_on(self) -> None:
        """Everything that a node, its children and an operator do, until nothing is left; as the runtime would."""
        self.broker.depth()
        self.broker.queues()
        self.broker.nudge()
        self.broker.to_cancel(self.start)
        self.broker.purge()
        self.broker.leaks()
        for state in (TaskState.FAILED, TaskState.SUCCEEDED):
            self.broker.ended(state)
        self.new = self.put()
        try:
            self.broker.renew(self.start)
        except Fenced:
            self.restart()
        self.drain()
        for _ in range(4):
            self.clock.advance(200)
            self.broker.promote()
            self.drain()
        assert self.broker.depth()[:3] == (0, 0, 0)

    def restart(self) -> None:
        """What a node does that was told that it is fenced: it starts anew, and the old start is rescued."""
        self.broker.rescue(self.start, [], suspect=False)
        self.start = f"start-{next(self.numbers)}"
        self.broker.join(self.start, "node")
        self.child.attach(Owner(self.start, 0, 1))

    def drain(self) -> None:
        """Run what there is, as a child does: after trouble it resumes, and gives up what it does not know."""
        held: list[Delivery] = []
        for _ in range(40):
            try:
                held = self.settle(list(map(self.ran_well, held)), 3)
                self.ran |= {each.task_id for each in held}
                self.envelopes |= {each.envelope for each in held}
                if not held:
                    break
            except BrokerDamaged:
                held = self.resume(held)
            except Fenced:
                self.restart()
                held = []
        else:
            pytest.fail("it never ends")
        self.release_what_is_left()

    def ran_well(self, held: Delivery) -> Outcome:
        filled = Filled(Slot("g", 1)) if held.task_id == "g.1" else None
        return Outcome(held, TaskState.SUCCEEDED, b"ran", filled=filled)

    def resume(self, held: list[Delivery]) -> list[Delivery]:
        known = {(each.n, each.i): each for each in held}
        try:
            places = self.child.resume()
        except Fenced:
            self.restart()
            return []
        unknown = [Delivery(b"", n, i, "", 0, False) for n, i in places if (n, i) not in known]
        self.child.release(unknown)
        return [known[place] for place in places if place in known]

    def release_what_is_left(self) -> None:
        """What the child was given before, and never ran: the first batch of a test."""
        unknown = [Delivery(b"", n, i, "", 0, False) for n, i in self.child.resume()]
        if self.child.release(unknown):
            self.drain()

    def reasons(self) -> list[str]:
        """What is in the quarantine, the newest first."""
        raw = [each.encode(errors="surrogateescape") for each in self.call("LRANGE", "quarantine", 0, -1)]
        return [msgspec.msgpack.decode(_binaries(each))[0] for each in raw]


def living(ids: dict[str, str]) -> set[str]:
    """Of the ids that ``fill`` gave those that have not ended."""
    return {task for what, task in ids.items() if what not in {"failed", "succeeded"}}


def _binaries(packed: bytes) -> bytes:
    """Its reason alone: the second part may hold any bytes."""
    size = packed[1] - 0xA0 if packed[1] < 0xC0 else packed[2]
    return b"\x91" + packed[1 : 2 + size + (packed[1] >= 0xC0)]
