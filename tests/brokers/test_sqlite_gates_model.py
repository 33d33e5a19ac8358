"""SQLite: gates against a reference in plain Python, through random calls of two owners."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from poolrt.brokers.sqlite import SqliteBroker
from poolrt.brokers.sqlite.gates import GRAIN
from poolrt.clock import FakeClock
from poolrt.message import Delivery, Enqueue, Outcome, Owner, Requeue
from poolrt.queue_choice import QueueChoice
from poolrt.states import TaskState
from poolrt.terms import Gate

SOMETIMES, MOSTLY = 0.1, 0.8
QUEUES = ("a", "b", "c")
CHOICES = (
    QueueChoice(),
    QueueChoice(("a", "b")),
    QueueChoice(("b", "a"), strict=True),
    QueueChoice(without=("a",)),
)


@dataclass
class Message:
    """A message as the reference keeps it."""

    order: int
    id: str
    queue: str
    priority: int
    key: str
    eta: float | None = None
    """While it is delayed."""
    owner: int | None = None

    @property
    def waits(self) -> bool:
        return self.owner is None and self.eta is None

    def place(self) -> tuple[int, int]:
        return -self.priority, self.order


class Reference:
    """Each call on the broker and on lists, and the comparison of what both answer."""

    def __init__(self, drawn: random.Random, open_client: Callable[[], SqliteBroker], clock: FakeClock) -> None:
        self.drawn = drawn
        self.clock = clock
        self.store = open_client()
        self.store.join("inc", "node")
        self.choices = [QueueChoice(), drawn.choice(CHOICES)]
        self.clients = [open_client(), open_client()]
        self.generations = [0, 0]
        for slot in (0, 1):
            self.attach(slot)
        self.held: list[list[Delivery]] = [[], []]
        self.limits = {
            "": (0.0, 1, 0), "rate": (10.0, 2, 0), "slots": (0.0, 1, 2), "both": (5.0, 3, 1), "slow": (1.0, 1, 0),
        }  # fmt: skip
        self.due = dict.fromkeys(self.limits, 0.0)
        self.paused: set[str] = set()
        self.messages: list[Message] = []
        self.placed = self.n = 0

    def attach(self, slot: int) -> None:
        self.generations[slot] += 1
        self.clients[slot].attach(Owner("inc", slot, self.generations[slot]), self.choices[slot])

    # ---- what a gate lets start

    def opens(self, key: str) -> float:
        rate, burst, _ = self.limits[key]
        return self.due[key] - (burst - 1) / rate if rate else 0.0

    def has_slot(self, key: str) -> bool:
        slots = self.limits[key][2]
        return not slots or sum(m.key == key and m.owner is not None for m in self.messages) < slots

    def is_open(self, key: str) -> bool:
        return self.has_slot(key) and self.opens(key) <= self.clock.wall() + GRAIN

    def mend(self, *, surely: bool = False) -> None:
        """What a look does when a gate of what waits says more than it can; ``promote`` also when anything is due."""
        now = self.clock.wall()
        most = {key: now + burst / rate for key, (rate, burst, _) in self.limits.items() if rate}
        wrong = {key for key, latest in most.items() if self.due[key] > latest + GRAIN}
        if surely or wrong & {m.key for m in self.messages if m.waits and m.queue not in self.paused}:
            self.due.update({key: most[key] for key in wrong})

    # ---- the calls

    def enqueue(self) -> None:
        items = []
        for _ in range(self.drawn.randint(1, 4)):
            key = self.drawn.choice(["", "", "rate", "slots", "both", "slow"])
            if key and self.drawn.random() < SOMETIMES:
                self.limits[key] = (
                    self.drawn.choice([0.0, 2.0, 20.0]), self.drawn.randint(1, 3), self.drawn.choice([0, 1, 3]),
                )  # fmt: skip
            eta = None if self.drawn.random() < MOSTLY else self.clock.wall() + self.drawn.choice([0.05, 0.3])
            items.append(
                self.place(f"task-{self.placed}", self.drawn.choice(QUEUES), self.drawn.choice([0, 5]), key, eta)
            )
        assert all(self.store.enqueue(items))

    def place(self, task: str, queue: str, priority: int, key: str, eta: float | None = None) -> Enqueue:
        self.placed += 1
        self.messages.append(Message(self.placed, task, queue, priority, key, eta))
        rate, burst, slots = self.limits[key]
        return Enqueue(task, b"", queue, priority, eta, gate=Gate(key, rate, burst, slots) if key else None)

    def settle(self) -> None:
        """Some of what is held ends, or is tried again, and more is reserved."""
        slot, count = self.drawn.randint(0, 1), self.drawn.randint(0, 4)
        self.n += 1
        outcomes = []
        for delivery in [each for each in self.held[slot] if self.drawn.random() < 0.5]:
            message = self.of(delivery)
            self.messages.remove(message)
            self.held[slot].remove(delivery)
            if self.drawn.random() < 0.5:
                outcomes.append(Outcome(delivery, TaskState.SUCCEEDED))
            else:
                again = self.place(message.id, message.queue, message.priority, message.key)
                outcomes.append(Outcome(delivery, None, follow_ups=(again,)))
        if count:
            self.mend()
        taken = self.take(slot, count)
        got = self.clients[slot].settle(outcomes, count, self.n)
        assert [each.task_id for each in got.deliveries] == taken
        assert (got.stale, got.more) == (0, any(self.is_open(m.key) for m in self.readable(slot)))
        self.held[slot] += got.deliveries

    def readable(self, slot: int) -> list[Message]:
        choice = self.choices[slot]
        found = [m for m in self.messages if m.waits and m.queue not in self.paused and m.queue not in choice.without]
        return [m for m in found if m.queue in choice.names] if choice.names else found

    def take(self, slot: int, count: int) -> list[str]:
        choice = self.choices[slot]
        line = sorted(
            self.readable(slot), key=lambda m: (choice.names.index(m.queue) if choice.strict else 0, m.place())
        )
        taken: list[Message] = []
        for message in line:
            if len(taken) == count or (self.is_open(message.key) and taken and message.place() < taken[-1].place()):
                break
            if not self.is_open(message.key):
                continue
            taken.append(message)
            message.owner = slot
            if rate := self.limits[message.key][0]:
                self.due[message.key] = max(self.due[message.key], self.clock.wall()) + 1 / rate
        return [message.id for message in taken]

    def release(self) -> None:
        slot = self.drawn.randint(0, 1)
        some = [each for each in self.held[slot] if self.drawn.random() < 0.5]
        for delivery in some:
            self.of(delivery).owner = None
            self.held[slot].remove(delivery)
        assert self.clients[slot].release(some) == len(some)

    def bury(self) -> None:
        slot = self.drawn.randint(0, 1)
        verdict = None
        if self.held[slot]:
            verdict = Requeue(self.drawn.choice(self.held[slot]), self.drawn.choice([0, 0.2]))
            self.of(verdict.delivery).eta = self.clock.wall() + verdict.delay if verdict.delay else None
        for message in self.messages:
            message.owner = None if message.owner == slot else message.owner
        self.store.bury(Owner("inc", slot, self.generations[slot]), verdict)
        self.held[slot] = []
        self.attach(slot)

    def pause(self) -> None:
        queue = self.drawn.choice(QUEUES)
        (self.store.unpause if queue in self.paused else self.store.pause)(queue)
        self.paused ^= {queue}

    def let_time_pass(self) -> None:
        self.clock.advance(self.drawn.choice([0, 0.01, 0.1, 0.3, 2]))
        if self.drawn.random() < SOMETIMES:
            self.clock.jump_wall(self.drawn.choice([-100, 100, -0.05]))
        now = self.clock.wall()
        self.mend()
        late = [m for m in self.messages if m.eta is not None and m.eta <= now]
        for message in late:
            message.eta = None
        self.mend(surely=bool(late))
        times = [m.eta for m in self.messages if m.eta is not None] + [
            self.opens(m.key) for m in self.messages
            if m.waits and m.queue not in self.paused and self.has_slot(m.key) and not self.is_open(m.key)
        ]  # fmt: skip
        due = self.store.promote()
        assert due == (pytest.approx(max(0, min(times) - now), abs=1e-5) if times else None)

    def of(self, delivery: Delivery) -> Message:
        return next(message for message in self.messages if message.id == delivery.task_id)

    def check(self) -> None:
        depth = self.store.depth()
        waiting = [message.queue for message in self.messages if message.waits]
        assert (depth.queued, depth.reserved) == (len(waiting), sum(map(len, self.held)))
        assert {queue.name: queue.queued for queue in self.store.queues() if queue.queued} == Counter(waiting)


@pytest.mark.parametrize("seed", range(40))
def test_gates_do_what_the_reference_does(
    open_broker: Callable[..., SqliteBroker], clock: FakeClock, seed: int
) -> None:
    """Every answer to a random list of calls is the reference's."""
    drawn = random.Random(seed)
    reference = Reference(drawn, lambda: open_broker(clock=clock), clock)
    calls = [reference.enqueue, reference.settle, reference.release, reference.bury, reference.pause]
    calls.append(reference.let_time_pass)
    for _ in range(60):
        drawn.choices(calls, weights=(30, 35, 7, 6, 5, 17))[0]()
        reference.check()
