"""A real broker against a reference in plain Python: the same calls, the same answers.

The reference is the oracle for what is found, how much waits, what is reserved in which order, and what is fenced.
Hypothesis chooses the calls; a failure is shrunk to the shortest list of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from poolrt.brokers.base import Broker, Buried, Found
from poolrt.clock import FakeClock
from poolrt.errors import Fenced
from poolrt.message import Delivery, Enqueue, Outcome, Owner, Requeue
from poolrt.states import TaskState

NAMES = 8
IDS = st.sampled_from([f"task-{number}" for number in range(NAMES)])
SLOTS = st.integers(0, 1)
FINAL = st.sampled_from([TaskState.SUCCEEDED, TaskState.FAILED, TaskState.DEAD])


@dataclass
class Message:
    """A message as the reference keeps it."""

    order: int
    id: str
    envelope: bytes
    priority: int
    eta: float | None
    created: float
    owner: Owner | None = None
    n: int = 0
    lost: int = 0
    suspect: bool = False
    delayed: bool = False

    @property
    def waits(self) -> bool:
        return self.owner is None and not self.delayed


class Machine(RuleBasedStateMachine):
    """Two slots of one node at a time; each slot's client keeps what it was given, also after it was put back."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.broker = self.open_client()
        self.messages: list[Message] = []
        self.records: dict[str, tuple[TaskState, bytes, float, int]] = {}
        self.ended: list[str] = []
        self.placed = 0
        self.start = 0
        self.n = 0
        self.clients: dict[int, Broker] = {}
        self.owners: dict[int, Owner] = {}
        self.fenced: dict[int, bool] = {}
        self.given: dict[int, list[Delivery]] = {0: [], 1: []}

    def open_client(self) -> Broker:
        """One more client of this example's own, empty store, which takes its time from ``clock``."""
        raise NotImplementedError

    def teardown(self) -> None:
        self.broker.close()
        for client in self.clients.values():
            client.close()

    # ---- the reference

    def place(self, item: Enqueue) -> bool:
        if item.id in self.records or any(message.id == item.id for message in self.messages):
            return False
        self.placed += 1
        now = self.clock.wall()
        delayed = item.eta is not None and item.eta > now
        self.messages.append(
            Message(self.placed, item.id, item.envelope, item.priority, item.eta, now, delayed=delayed)
        )
        return True

    def held(self, owner: Owner) -> list[Message]:
        return [message for message in self.messages if message.owner == owner]

    def take(self, owner: Owner, count: int, n: int) -> list[Delivery]:
        queue = sorted((m for m in self.messages if m.waits), key=lambda m: (-m.priority, m.order))
        suspect = next((place for place, message in enumerate(queue) if message.suspect), len(queue))
        taken = queue[: min(count, suspect)]
        if not taken and queue and count and not self.held(owner):
            taken = queue[:1]
        for message in taken:
            message.owner, message.n = owner, n
        return [Delivery(m.envelope, n, 0, m.id, m.lost, m.suspect) for m in taken]

    def find_held(self, owner: Owner, delivery: Delivery) -> Message | None:
        # The reference knows a delivery by its reserve number: a task is reserved once under one number.
        return next((m for m in self.held(owner) if (m.id, m.n) == (delivery.task_id, delivery.n)), None)

    def end(self, owner: Owner, outcome: Outcome) -> bool:
        message = self.find_held(owner, outcome.delivery)
        if message is not None:
            self.finish(message, outcome)
        return message is not None

    def finish(self, message: Message, outcome: Outcome) -> None:
        self.messages.remove(message)
        if outcome.record is not None and outcome.state is not None:
            until = self.clock.wall() + outcome.ttl
            self.records[message.id] = (outcome.state, outcome.record, until, outcome.delivery.lost)
            self.ended.append(message.id)
        for item in outcome.follow_ups:
            self.place(item)

    def requeue(self, owner: Owner) -> int:
        held = self.held(owner)
        for message in held:
            message.owner = None
        return len(held)

    def apply(self, owner: Owner, verdict: Outcome | Requeue | None) -> Buried:
        requeued, settled = 0, False
        if isinstance(verdict, Outcome):
            settled = self.end(owner, verdict)
        elif verdict is not None and (message := self.find_held(owner, verdict.delivery)):
            message.owner = None
            message.lost += 1
            if verdict.delay > 0:
                message.delayed, message.eta = True, self.clock.wall() + verdict.delay
            requeued, settled = 1, True
        return Buried(requeued + self.requeue(owner), settled)

    # ---- the calls

    @initialize()
    def begin(self) -> None:
        self.join_again()

    def join_again(self) -> None:
        self.start += 1
        self.broker.join(f"start-{self.start}", "node")
        for slot in (0, 1):
            self.attach(slot, 1)

    def attach(self, slot: int, generation: int) -> None:
        owner = Owner(f"start-{self.start}", slot, generation)
        if slot not in self.clients:
            self.clients[slot] = self.open_client()
        self.clients[slot].attach(owner)
        self.owners[slot], self.fenced[slot] = owner, False

    @rule(
        ids=st.lists(IDS, min_size=1, max_size=4),
        priority=st.integers(0, 9),
        delay=st.sampled_from([None, -1.0, 0.0, 5.0, 20.0]),
    )
    def enqueue(self, ids: list[str], priority: int, delay: float | None) -> None:
        eta = None if delay is None else self.clock.wall() + delay
        items = [Enqueue(task, f"envelope {self.placed}".encode(), "default", priority, eta) for task in ids]
        assert self.broker.enqueue(items) == [self.place(item) for item in items]

    @rule(slot=SLOTS, count=st.integers(1, 4))
    def reserve(self, slot: int, count: int) -> None:
        """Take more, while others may be held."""
        self.call(slot, [], count)

    @rule(slot=SLOTS, count=st.integers(0, 4), state=FINAL, data=st.data())
    def settle(self, slot: int, count: int, state: TaskState, data: st.DataObject) -> None:
        """Outcomes of what it was given lately, and so stale ones too; some keep no record, some are retries."""
        outcomes: list[Outcome] = []
        for delivery in self.some_of(slot, data):
            if again := [outcome for outcome in outcomes if outcome.delivery == delivery]:
                outcomes += again[:1]  # which of two different ends of one delivery counts is nowhere said
                continue
            kind = data.draw(st.sampled_from(["record", "nothing", "retry", "link"]))
            items: tuple[Enqueue, ...] = ()
            if kind in {"retry", "link"}:
                task = delivery.task_id if kind == "retry" else data.draw(IDS)
                eta = data.draw(st.sampled_from([None, self.clock.wall() + 3]))
                items = (Enqueue(task, b"follow-up", "default", data.draw(st.integers(0, 9)), eta),)
            record = b"record" if kind in {"record", "link"} else None
            ttl = data.draw(st.sampled_from([5.0, 50.0]))
            outcomes.append(Outcome(delivery, None if kind == "retry" else state, record, ttl, items))
        self.call(slot, outcomes, count)

    def some_of(self, slot: int, data: st.DataObject) -> list[Delivery]:
        """Some of what the slot was given lately, held or not."""
        lately = self.given[slot][-6:]
        return data.draw(st.lists(st.sampled_from(lately), max_size=4)) if lately else []

    def call(self, slot: int, outcomes: list[Outcome], count: int) -> None:
        """One settle of both, and the comparison."""
        owner = self.owners[slot]
        self.n += 1
        if self.fenced[slot]:
            with pytest.raises(Fenced):
                self.clients[slot].settle(outcomes, count, self.n)
            return
        got = self.clients[slot].settle(outcomes, count, self.n)
        assert got.stale == self.settled(owner, outcomes)
        assert [msgspec.structs.replace(delivery, i=0) for delivery in got.deliveries] == self.take(
            owner, count, self.n
        )
        assert got.more == any(message.waits for message in self.messages)
        self.given[slot] += got.deliveries

    def settled(self, owner: Owner, outcomes: list[Outcome]) -> int:
        """The reference's settle; how many were stale. All ends come first, then records, then follow-ups."""
        live = [o for o in outcomes if self.end(owner, Outcome(o.delivery, o.state, o.record, o.ttl))]
        for outcome in live:
            for item in outcome.follow_ups:
                self.place(item)
        return len(outcomes) - len(live)

    @rule(slot=SLOTS, data=st.data())
    def release(self, slot: int, data: st.DataObject) -> None:
        deliveries = self.some_of(slot, data)
        if self.fenced[slot]:
            with pytest.raises(Fenced):
                self.clients[slot].release(deliveries)
            return
        released = 0
        for delivery in deliveries:
            message = self.find_held(self.owners[slot], delivery)
            if message is not None:
                message.owner = None
                released += 1
        assert self.clients[slot].release(deliveries) == released

    @rule(task=IDS)
    def cancel(self, task: str) -> None:
        """Only what nobody holds, and with all that the reference knows of it."""
        message = next((m for m in self.messages if m.id == task and m.owner is None), None)
        given: list[Outcome] = []

        def outcome_of(delivery: Delivery) -> Outcome:
            given.append(Outcome(delivery, TaskState.CANCELLED, b"cancelled", 50.0))
            return given[-1]

        assert self.broker.cancel(task, outcome_of) == (message is not None) == bool(given)
        if message is not None:
            seen = msgspec.structs.replace(given[0].delivery, i=0)
            assert seen == Delivery(message.envelope, 0, 0, task, message.lost, message.suspect)
            self.finish(message, given[0])

    def verdict(self, data: st.DataObject, slot: int, state: TaskState) -> Outcome | Requeue | None:
        if not self.given[slot]:
            return None
        delivery = data.draw(st.sampled_from(self.given[slot][-4:]))
        choices = [None, Outcome(delivery, state, b"verdict", 50.0), Requeue(delivery, 0), Requeue(delivery, 7.0)]
        return data.draw(st.sampled_from(choices))

    @rule(slot=SLOTS, state=FINAL, again=st.booleans(), data=st.data())
    def bury(self, *, slot: int, state: TaskState, again: bool, data: st.DataObject) -> None:
        owner, verdict = self.owners[slot], self.verdict(data, slot, state)
        expected = Buried(0, settled=False) if self.fenced[slot] else self.apply(owner, verdict)
        assert self.broker.bury(owner, verdict) == expected
        self.fenced[slot] = True
        with pytest.raises(Fenced):
            self.clients[slot].attach(owner)
        if again:
            self.attach(slot, owner.generation + 1)

    @rule(suspect=st.booleans(), state=FINAL, data=st.data())
    def rescue(self, *, suspect: bool, state: TaskState, data: st.DataObject) -> None:
        incarnation = f"start-{self.start}"
        verdicts, requeued, settled = [], 0, False
        for slot in (0, 1):
            verdict = self.verdict(data, slot, state)
            if verdict is not None and self.given[slot] and not self.fenced[slot]:
                verdicts.append(verdict)
                running = self.find_held(self.owners[slot], verdict.delivery)
                held = [message for message in self.held(self.owners[slot]) if message is not running]
                others = {m.order: (m.owner, m.n) for m in held}
                for message in held:
                    message.owner = None
                done = self.apply(self.owners[slot], verdict)
                for message in self.messages:
                    if message.order in others:
                        message.owner, message.n = others[message.order]
                requeued, settled = requeued + done.requeued, settled or done.settled
        for slot in (0, 1):
            for message in self.held(self.owners[slot]):
                message.owner = None
                if suspect:
                    message.lost, message.suspect = message.lost + message.suspect, True
                requeued += 1
        assert self.broker.rescue(incarnation, verdicts, suspect=suspect) == Buried(requeued, settled)
        with pytest.raises(Fenced):
            self.broker.join(incarnation, "node")
        for slot in (0, 1):
            with pytest.raises(Fenced):
                self.clients[slot].settle([], 1, 0)
        self.join_again()

    @rule(seconds=st.sampled_from([1.0, 5.0, 30.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)
        now = self.clock.wall()
        left = self.broker.promote()
        for message in self.messages:
            if message.delayed and message.eta is not None and message.eta <= now:
                message.delayed = False
        etas = [m.eta for m in self.messages if m.delayed and m.eta is not None]
        assert left == (min(etas) - now if etas else None)

    @rule(limit=st.integers(1, 5))
    def purge(self, limit: int) -> None:
        passed = sorted(
            (task for task, record in self.records.items() if record[2] <= self.clock.wall()),
            key=lambda task: (self.records[task][2], self.ended.index(task)),
        )[:limit]
        assert self.broker.purge(limit) == len(passed)
        for task in passed:
            self.drop(task)

    @rule(task=IDS)
    def forget(self, task: str) -> None:
        assert self.broker.forget(task) == (task in self.records)
        self.drop(task)

    def drop(self, task: str) -> None:
        if self.records.pop(task, None):
            self.ended.remove(task)

    @rule()
    def close(self) -> None:
        self.broker.close()
        for client in self.clients.values():
            client.close()

    # ---- what is seen

    @invariant()
    def same_depth(self) -> None:
        depth = self.broker.depth()
        waiting = [message for message in self.messages if message.waits]
        assert depth.queued == len(waiting)
        assert depth.delayed == sum(message.delayed for message in self.messages)
        assert depth.reserved == sum(message.owner is not None for message in self.messages)
        assert depth.dead == sum(record[0] is TaskState.DEAD for record in self.records.values())
        assert (depth.oldest is None) == (not waiting)

    @invariant()
    def same_found(self) -> None:
        stored = {message.id: message for message in self.messages}
        for number in range(NAMES):
            task = f"task-{number}"
            found = self.broker.find(task)
            if task in stored:
                message = stored[task]
                reserved = TaskState.RESERVED if message.owner else TaskState.QUEUED
                state = TaskState.DELAYED if message.delayed else reserved
                assert found == Found(task, state, message.envelope, None, message.lost)
            elif task in self.records:
                state, record, _, lost = self.records[task]
                assert found == Found(task, state, None, record, lost)
            else:
                assert found is None

    @invariant()
    def same_ended(self) -> None:
        for state in (TaskState.SUCCEEDED, TaskState.FAILED, TaskState.DEAD, TaskState.CANCELLED):
            newest = [task for task in reversed(self.ended) if self.records[task][0] is state]
            assert [found.id for found in self.broker.ended(state)] == newest

    @precondition(lambda self: self.owners)
    @invariant()
    def same_running(self) -> None:
        for slot, deliveries in self.given.items():
            for delivery in deliveries[-2:]:
                found = self.broker.running(self.owners[slot], delivery.n, delivery.i)
                held = None if self.fenced[slot] else self.find_held(self.owners[slot], delivery)
                assert (found and found.task_id) == (held and held.id)


def compare(machine: type[Machine], examples: int = 100) -> None:
    """Every answer of the broker to random lists of calls is the reference's."""
    how = settings(
        max_examples=examples, stateful_step_count=60, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    run_state_machine_as_test(machine, settings=how)
