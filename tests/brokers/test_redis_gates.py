"""Redis: who is woken when a gate lets something through, and by which clock it counts."""

from __future__ import annotations

import select
import time
from collections.abc import Iterator

import pytest

from poolrt.brokers.redis.bell import Bell
from poolrt.clock import SystemClock
from poolrt.message import Enqueue, Outcome, Owner, Requeue, new_task_id
from poolrt.queue_choice import ALL_QUEUES, QueueChoice
from poolrt.states import TaskState
from poolrt.terms import Gate
from tests.brokers.gated_node import ONE, PATIENCE, RATE, Node, done, woken
from tests.brokers.waiter import Waiter
from tests.servers import Server

NOT_YET = 0.2
"""Seconds in which what must not come would have come: a token is there before the call that left it returns."""


@pytest.fixture
def node(redis_url: str, redis_server: Server) -> Iterator[Node]:
    """See ``Node``."""
    made = Node(redis_url, redis_server)
    yield made
    for broker in made.made:
        broker.close()


def rung(bell: Bell, seconds: float = PATIENCE) -> bool:
    """Whether it rings within the time; answers it."""
    rings = bool(select.select([bell.fileno()], [], [], seconds)[0])
    bell.answer()
    return rings


# ---- who is woken


@pytest.mark.parametrize("choice", [ALL_QUEUES, QueueChoice(("default",)), QueueChoice(without=("other",))])
def test_an_enqueue_wakes_if_the_gate_lets_it(node: Node, choice: QueueChoice) -> None:
    """The first one does; behind a gate that is known to be full or to wait nobody is woken, nor by the steward."""
    waiter = node.idle(choice)
    for slot, gate in enumerate((ONE, Gate("l", rate=1))):
        node.put(gate, 2)
        assert woken(waiter)
        assert len(node.child(slot).settle([], 9, 1).deliveries) == 1
        node.put(gate)
        node.broker.nudge()
        assert not woken(waiter, NOT_YET)


def test_a_lost_wake_up(node: Node) -> None:
    """The steward's tick leaves another one, for what a gate lets through."""
    waiter = node.idle()
    node.put(ONE)
    assert woken(waiter), "and it dies of it"
    node.broker.nudge()
    assert woken(waiter)


def test_a_token_wakes(node: Node) -> None:
    """Once promote() says that it is there; not before."""
    node.put(RATE, 2)
    node.child().settle([], 9, 1)
    waiter = node.idle()
    wait = node.broker.promote()
    assert wait == pytest.approx(1, abs=1e-5)
    assert not woken(waiter, NOT_YET)
    node.clock.advance(wait)
    assert node.broker.promote() is None
    assert woken(waiter)


@pytest.mark.parametrize("way", ["settle", "release", "recall", "bury", "requeue", "later", "rescue", "record"])
def test_a_slot_that_is_given_back_wakes(node: Node, way: str) -> None:
    """In the step that gives it back."""
    node.put(ONE, 2, "mail")
    client = node.child()
    (held,) = client.settle([], 9, 1).deliveries
    waiter = node.idle(choice=QueueChoice(("mail",)))
    owner = Owner("inc", 0, 1)
    match way:
        case "settle":
            client.settle(done([held]), 0, 2)
        case "record":
            client.settle([Outcome(held, TaskState.FAILED, b"record")], 0, 2)
        case "release":
            client.release([held])
        case "recall":
            node.broker.recall(owner, (0, 0), 1)
        case "bury":
            node.broker.bury(owner, None)
        case "requeue" | "later":
            node.broker.bury(owner, Requeue(held, 9 if way == "later" else 0))
        case "rescue":
            node.broker.rescue("inc", [Outcome(held, TaskState.DEAD, b"record")], suspect=False)
    assert woken(waiter)


def test_who_takes_the_slot_itself_wakes_nobody(node: Node) -> None:
    """An idle child would find nothing; it is woken if the one that settles may not take it, or takes other things."""
    node.put(ONE, 4)
    client = node.child()
    held = client.settle([], 1, 1).deliveries
    waiter = node.idle()
    held = client.settle(done(held), 1, 2).deliveries
    assert held
    assert not woken(waiter, NOT_YET)
    other = node.child(1, QueueChoice(("other",)))
    other.settle([], 1, 1)
    client.settle(done(held), 0, 3)
    assert woken(waiter)


def test_the_end_of_a_pause_wakes(node: Node) -> None:
    """If something may be taken then."""
    node.broker.pause("default")
    node.put(ONE, 2)
    waiter = Waiter(node.child(9))
    while woken(waiter, 0.05):
        pass
    node.broker.unpause("default")
    assert woken(waiter)
    node.child().settle([], 9, 1)
    node.broker.pause("default")
    node.broker.unpause("default")
    assert not woken(waiter, NOT_YET)


def test_a_closing_gate_rings(node: Node) -> None:
    """So that the steward looks when it opens; one that opens later than another rings nobody."""
    bell = node.broker.doorbell("node")
    node.put(RATE, 2)
    node.child().settle([], 9, 1)
    assert rung(bell)
    node.put(Gate("l", rate=0.01), 2)
    node.child(1).settle([], 9, 1)
    assert not rung(bell, NOT_YET)
    node.put(Gate("m", rate=100), 2)
    node.child(2).settle([], 9, 1)
    assert rung(bell)
    bell.close()


# ---- by which clock


def test_the_servers_clock_counts(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node whose clock is an hour ahead starts no more than the others, and holds up nobody."""
    gate = Gate("k", rate=20, burst=2)
    right, wrong, broker = node.child(fake=False), node.child(1, fake=False), node.client(fake=False)
    now = SystemClock.wall
    began = time.monotonic()
    broker.enqueue([Enqueue(new_task_id(), b"", "default", 0, None, "t", gate) for _ in range(50)])
    started = 0
    for n in range(1, 13):
        monkeypatch.setattr(SystemClock, "wall", staticmethod(lambda n=n: now() + (3600 if n % 2 else 0)))
        got = (wrong if n % 2 else right).settle([], 9, n).deliveries
        started += len(got)
        assert started <= (time.monotonic() - began) * 20 + 2
        wait = broker.promote()
        if wait is not None:  # else it was so late that the token was there
            assert wait < 0.06
            time.sleep(wait)
            broker.promote()
    assert started >= 12


def test_a_clock_that_was_put_back(node: Node) -> None:
    """Nothing waits for the time that was: a purge opens what would, and the gate counts from now."""
    node.put(RATE, 3)
    client = node.child()
    client.settle([], 9, 1)
    node.clock.jump_wall(-3600)
    assert client.settle([], 9, 2).deliveries == []
    node.broker.purge()
    for n in range(3, 6):
        got = client.settle([], 9, n).deliveries
        if got:
            break
        node.clock.advance(node.broker.promote() or 0)
        node.broker.promote()
    assert len(got) == 1
    assert node.clock.wall() < 1_800_000_000 - 3590
