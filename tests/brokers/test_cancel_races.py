"""A cancel that is acknowledged while its message changes hands: whoever is faster, it either runs or was cancelled.

Two threads meet at a barrier: one puts the message back where it waits, in one of the ways that there are, and reserves
whatever there is; the other one cancels it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from poolrt.app.cancelled import cancelled
from poolrt.brokers.base import Broker
from poolrt.message import Delivery, Enqueue, Message, Outcome, Owner, Requeue, new_task_id
from poolrt.states import TaskState

ROUNDS = 40


class Race:
    """One message, held by the owner ``inc/0.<round>`` unless it is delayed."""

    def __init__(self, broker: Broker, factory: Callable[..., Broker], number: int, way: str) -> None:
        self.broker = broker
        self.incarnation = f"inc{number}" if way == "rescue" else "inc"
        if way == "rescue":
            broker.join(self.incarnation, "other")
        self.owner = Owner(self.incarnation, 0, number + 1)
        self.child = factory(real_clock=True)
        self.child.attach(self.owner)
        self.other = factory(real_clock=True)
        self.other.attach(Owner("inc", 1, number + 1))
        self.task = new_task_id()
        eta = time.time() + 0.01 if way == "promote" else None
        self.message = Message(self.task, "t", b"[[],{}]", eta=eta)
        broker.enqueue([Enqueue.of(self.message)])
        self.held: list[Delivery] = []
        if way == "promote":
            time.sleep(0.011)
        else:
            self.held = self.child.settle([], 1, 1).deliveries
            assert [delivery.task_id for delivery in self.held] == [self.task]
        self.ran: list[str] = []

    def put_back(self, way: str) -> None:
        """Let it wait, now."""
        match way:
            case "promote":
                self.broker.promote()
            case "release":
                self.child.release(self.held)
            case "recall":
                self.broker.recall(self.owner, (0, 0), 1)
            case "bury":
                self.broker.bury(self.owner, Requeue(self.held[0], 0.0))
            case "rescue":
                self.broker.rescue(self.incarnation, (), suspect=True)
            case "retry":
                again = Enqueue.of(Message(self.task, "t", b"[[],{}]", attempt=2))
                self.child.settle([Outcome(self.held[0], None, follow_ups=(again,))], 0, 2)

    def reserve(self) -> None:
        """Take what waits, as another child does."""
        self.ran += [delivery.task_id for delivery in self.other.settle([], 5, 1).deliveries]


@pytest.mark.parametrize("way", ["promote", "release", "recall", "bury", "rescue", "retry"])
def test_it_is_cancelled_or_it_runs(broker_factory: Callable[..., Broker], way: str) -> None:
    """Never both, never neither; and what was cancelled stays so, whatever is reserved later."""
    broker, canceller = broker_factory(real_clock=True), broker_factory(real_clock=True)
    broker.join("inc", "node")
    counts = {True: 0, False: 0}
    for number in range(ROUNDS):
        race = Race(broker, broker_factory, number, way)
        barrier = threading.Barrier(2)

        def move(race: Race = race, barrier: threading.Barrier = barrier, pause: float = number % 4 * 0.0005) -> None:
            barrier.wait()
            race.put_back(way)
            time.sleep(pause)  # now and then the other one is to be faster
            race.reserve()

        thread = threading.Thread(target=move)
        thread.start()
        barrier.wait()
        said = False
        while thread.is_alive() and not said:
            said = canceller.cancel(race.task, cancelled)
        thread.join()
        found = broker.find(race.task)
        assert found is not None
        if said:
            assert found.state is TaskState.CANCELLED
            race.other.settle([], 0, 2)
            assert race.ran == []
        else:
            assert found.state is TaskState.RESERVED
            assert race.ran == [race.task]
        broker.bury(Owner("inc", 1, number + 1), None)
        canceller.cancel(race.task, cancelled)
        assert broker.depth().queued == 0
        counts[said] += 1
        for client in (race.child, race.other):
            client.close()
    assert counts[True], f"{counts}: the cancel was never faster"
