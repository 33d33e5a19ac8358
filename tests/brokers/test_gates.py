"""Contract: what passes a gate starts only so often, or so many at a time, over all owners; the rest is not held up."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from poolrt.brokers.base import Broker, Settled
from poolrt.clock import FakeClock
from poolrt.message import Delivery, Enqueue, Outcome, Owner, Requeue, new_task_id
from poolrt.queue_choice import QueueChoice
from poolrt.states import TaskState
from poolrt.terms import Gate

Child = Callable[..., Broker]
Factory = Callable[..., Broker]
Put = Callable[..., list[str]]

ONE = Gate("k", slots=1)
"""One at a time."""
NOTHING = Settled([], 0, more=False)


@pytest.fixture
def gated(broker: Broker) -> Put:
    """``gated(Gate("k"), 3, queue="default", priority=0, eta=None)``: enqueue that many; their ids, in order."""

    def enqueue(
        gate: Gate | None, count: int = 1, queue: str = "default", priority: int = 0, eta: float | None = None
    ) -> list[str]:
        items = [item(gate, queue, priority, eta) for _ in range(count)]
        assert all(broker.enqueue(items))
        return [each.id for each in items]

    return enqueue


def item(gate: Gate | None, queue: str = "default", priority: int = 0, eta: float | None = None) -> Enqueue:
    task = new_task_id()
    return Enqueue(task, b"envelope of " + task.encode(), queue, priority, eta, "t", gate)


def ids(deliveries: list[Delivery]) -> list[str]:
    return [delivery.task_id for delivery in deliveries]


def ended(deliveries: list[Delivery]) -> list[Outcome]:
    return [Outcome(delivery, TaskState.SUCCEEDED) for delivery in deliveries]


def pass_time(broker: Broker, clock: FakeClock, seconds: float) -> None:
    """And let the steward look, as it does when its last look said."""
    clock.advance(seconds)
    broker.promote()


# ---- rates


def test_a_burst_and_then_by_the_clock(broker: Broker, child: Child, gated: Put, clock: FakeClock) -> None:
    """So many at once after a pause, then one each time promote() has said; what waits is no reason to ask again."""
    tasks = gated(Gate("k", rate=2, burst=3), 12)
    client = child()
    got = client.settle([], 9, 1)
    assert (ids(got.deliveries), got.more) == (tasks[:3], False)
    assert client.settle([], 9, 2) == NOTHING
    wait = broker.promote()
    assert wait == pytest.approx(0.5, abs=1e-5)
    pass_time(broker, clock, 0.4)
    assert client.settle([], 9, 3) == NOTHING
    pass_time(broker, clock, wait - 0.4)
    assert ids(client.settle([], 9, 4).deliveries) == tasks[3:4]
    pass_time(broker, clock, 1.0)
    assert ids(client.settle([], 9, 5).deliveries) == tasks[4:6]
    pass_time(broker, clock, 100)
    assert ids(client.settle([], 9, 6).deliveries) == tasks[6:9]


@pytest.mark.parametrize(("rate", "burst"), [(5.0, 1), (100.0, 7), (0.5, 3)])
def test_starts_of_several_owners(
    broker: Broker, child: Child, gated: Put, clock: FakeClock, rate: float, burst: int
) -> None:
    """In no stretch of time are there more than its share and one burst; and none is wasted while something waits."""
    drawn = random.Random(7)
    clients = [child(slot) for slot in range(3)]
    left, n, starts = 120, 0, []
    gate = Gate("k", rate, burst)
    began = clock.wall()
    while len(starts) < 120:
        if left and drawn.random() < 0.5:
            count = min(left, drawn.randint(1, 20))
            gated(gate, count, drawn.choice(["default", "other"]))
            left -= count
        n += 1
        got = drawn.choice(clients).settle([], drawn.randint(1, 9), n)
        starts += [clock.wall()] * len(got.deliveries)
        if not got.more:
            wait = broker.promote()
            pass_time(broker, clock, drawn.random() / rate if wait is None or drawn.random() < 0.3 else wait)
    for first in range(120):
        for last in range(first + 1, 120):
            assert last - first + 1 <= (starts[last] - starts[first]) * rate + burst + 0.01
    assert clock.wall() - began < 2 * 120 / rate


def test_what_was_not_started_has_used_its_start(broker: Broker, child: Child, gated: Put, clock: FakeClock) -> None:
    """Put back, it waits for the next token, at its old place."""
    tasks = gated(Gate("k", rate=1), 2)
    client = child()
    assert client.release(client.settle([], 9, 1).deliveries) == 1
    assert client.settle([], 9, 2) == NOTHING
    pass_time(broker, clock, 1)
    assert ids(client.settle([], 9, 3).deliveries) == tasks[:1]


def test_a_follow_up_passes_the_gate_again(broker: Broker, child: Child, gated: Put, clock: FakeClock) -> None:
    """A retry is one more start."""
    gate = Gate("k", rate=1)
    (task,) = gated(gate)
    client = child()
    (held,) = client.settle([], 9, 1).deliveries
    again = Enqueue(task, b"attempt 2", "default", 0, None, "t", gate)
    assert client.settle([Outcome(held, None, follow_ups=(again,))], 9, 2) == NOTHING
    assert broker.depth()[:3] == (1, 0, 0)
    pass_time(broker, clock, 1)
    (held,) = client.settle([], 9, 3).deliveries
    assert (held.task_id, held.envelope) == (task, b"attempt 2")


# ---- slots


def test_so_many_at_a_time(child: Child, gated: Put) -> None:
    """Several owners hold no more than the slots; each end gives one back, also to who ends it, in the same call."""
    tasks = gated(Gate("k", slots=2), 5)
    one, two = child(0), child(1)
    first = one.settle([], 1, 1).deliveries
    got = two.settle([], 9, 1)
    assert (ids(first + got.deliveries), got.more) == (tasks[:2], False)
    assert one.settle([], 9, 2) == NOTHING
    third = two.settle(ended(got.deliveries), 9, 2).deliveries
    assert ids(third) == tasks[2:3]
    assert two.settle([], 9, 3) == NOTHING
    assert one.settle(ended(first), 0, 3).more
    assert ids(two.settle([], 9, 4).deliveries) == tasks[3:4]
    assert ids(one.settle([], 9, 4).deliveries) == []
    assert ids(two.settle(ended(third), 9, 5).deliveries) == tasks[4:]


WAYS = ["settle", "retry", "release", "recall", "bury", "outcome", "requeue", "later", "rescue", "suspect", "leave"]


@pytest.mark.parametrize("way", WAYS)
def test_a_slot_is_given_back(
    broker: Broker, child: Child, gated: Put, clock: FakeClock, way: str
) -> None:  # fmt: skip
    """However a delivery ends or is put back, the next one may start; and no slot is given back twice."""
    (task, *others) = gated(ONE, 3)
    client, owner = child(), Owner("inc", 0, 1)
    (held,) = client.settle([], 9, 1).deliveries
    retry = Enqueue(task, b"attempt 2", "default", 0, clock.wall() + 99, "t", ONE)
    failed = Outcome(held, TaskState.DEAD, b"record")
    match way:
        case "settle":
            client.settle(ended([held]), 0, 2)
        case "retry":
            client.settle([Outcome(held, None, follow_ups=(retry,))], 0, 2)
        case "release":
            client.release([held])
        case "recall":
            broker.recall(owner, (0, 0), 1)
        case "bury" | "outcome" | "requeue" | "later":
            verdicts = {"bury": None, "outcome": failed, "requeue": Requeue(held, 0), "later": Requeue(held, 99)}
            broker.bury(owner, verdicts[way])
        case "rescue" | "suspect":
            broker.rescue("inc", [], suspect=way == "suspect")
        case "leave":
            broker.leave("inc")
    broker.join("next", "node")
    one, two = child(0, incarnation="next"), child(1, incarnation="next")
    stays = way in {"settle", "retry", "outcome", "later"}
    expected = others[0] if stays else task
    got = one.settle([], 1, 1).deliveries
    assert ids(got) == [expected]
    assert two.settle([], 9, 1) == NOTHING
    (last,) = ids(one.settle(ended(got), 1, 2).deliveries)
    assert last == (others[1] if stays else others[0])


def test_keys_and_queues(child: Child, gated: Put) -> None:
    """A key's slots are shared by its queues; another key has its own."""
    tasks = gated(ONE, 1, "a") + gated(ONE, 1, "b") + gated(Gate("l", slots=1), 2, "b")
    client = child()
    held = client.settle([], 9, 1).deliveries
    assert ids(held) == [tasks[0], tasks[2]]
    held = client.settle(ended(held[:1]), 9, 2).deliveries
    assert ids(held) == tasks[1:2]


def test_rate_and_slots_together(broker: Broker, child: Child, gated: Put, clock: FakeClock) -> None:
    """A start needs both."""
    tasks = gated(Gate("k", rate=1, burst=2, slots=1), 4)
    client = child()
    held = client.settle([], 9, 1).deliveries
    assert ids(held) == tasks[:1]
    pass_time(broker, clock, 1)
    assert client.settle([], 9, 2) == NOTHING
    held = client.settle(ended(held), 9, 3).deliveries
    assert ids(held) == tasks[1:2]
    held = client.settle(ended(held), 9, 4).deliveries
    assert ids(held) == tasks[2:3]
    assert client.settle(ended(held), 9, 5) == NOTHING
    pass_time(broker, clock, 1)
    assert ids(client.settle([], 9, 6).deliveries) == tasks[3:]


# ---- order, and what is not held up


def test_priority_and_age_inside_a_gate_and_outside(child: Child, gated: Put) -> None:
    """What the gate lets through is merged with the rest, in the order of all."""
    gate = Gate("k", slots=3)
    free, first, high, other, low = (
        gated(None, 1)[0], gated(gate, 1)[0], gated(gate, 1, priority=5)[0],
        gated(None, 1, priority=5)[0], gated(gate, 2)[0],
    )  # fmt: skip
    client = child()
    got = client.settle([], 4, 1)
    assert (ids(got.deliveries), got.more) == ([high, other, free, first], True)
    client.release(got.deliveries)
    got = client.settle([], 9, 2)
    assert (ids(got.deliveries), got.more) == ([high, other, free, first, low], False)


def test_a_full_gate_holds_nothing_up(child: Child, gated: Put) -> None:
    """A backlog behind it, older and more urgent, is passed by what has no gate or another one."""
    gated(ONE, 300, priority=9)
    client = child()
    client.settle([], 1, 1)
    plain, behind, elsewhere = gated(None), gated(Gate("l", slots=1), 2), gated(None, 1, "other")
    got = client.settle([], 9, 2)
    assert (ids(got.deliveries), got.more) == (plain + behind[:1] + elsewhere, False)


def test_a_suspect_behind_a_gate(broker: Broker, child: Child, gated: Put) -> None:
    """It is delivered alone, and has a slot like any other."""
    suspect, after = gated(ONE, 2)
    plain = gated(None)
    child().settle([], 1, 1)
    broker.rescue("inc", [], suspect=True)
    broker.join("next", "node")
    client = child(incarnation="next")
    got = client.settle([], 9, 1)
    assert [(each.task_id, each.suspect) for each in got.deliveries] == [(suspect, True)]
    assert ids(client.settle([], 9, 2).deliveries) == plain
    assert ids(client.settle(ended(got.deliveries), 9, 3).deliveries) == [after]


def test_a_choice_of_queues_and_of_tasks(broker_factory: Factory, broker: Broker, gated: Put) -> None:
    """Who chose other queues gets nothing of it; tasks left to others are passed behind a gate too."""
    tasks = gated(Gate("k", slots=9), 2, "mail")
    other = Enqueue(new_task_id(), b"", "mail", 0, None, "known", Gate("k", slots=9))
    broker.enqueue([other])
    elsewhere, mail = broker_factory(), broker_factory()
    elsewhere.attach(Owner("inc", 0, 1), QueueChoice(("other",)))
    mail.attach(Owner("inc", 1, 1), QueueChoice(("mail", "other")))
    assert elsewhere.settle([], 9, 1) == NOTHING
    assert ids(mail.settle([], 9, 1, without=["t"]).deliveries) == [other.id]
    assert ids(mail.settle([], 9, 2).deliveries) == tasks


# ---- limits change


def test_limits_are_those_of_the_last_message(broker: Broker, child: Child, gated: Put, clock: FakeClock) -> None:
    """Raised, they let through what had to wait, within the time of a burst; lowered, they hold for what waits."""
    tasks = gated(Gate("k", rate=0.001), 2)
    client = child()
    held = client.settle([], 9, 1).deliveries
    tasks += gated(Gate("k", rate=10, burst=2))
    began = clock.wall()
    for n in range(2, 5):
        if got := client.settle([], 1, n).deliveries:
            break
        pass_time(broker, clock, broker.promote() or 0)
    assert ids(got) == tasks[1:2]
    assert clock.wall() - began < 0.21
    client.settle(ended(held + got), 0, 9)
    gated(Gate("k", slots=1), 2, "other")
    held = child(1).settle([], 9, 1).deliveries
    assert len(held) == 1
    gated(Gate("k", slots=2), 1, "other")
    assert len(child(2).settle([], 9, 1).deliveries) == 1
    gated(Gate("k"), 1, "other")
    assert len(child(3).settle([], 9, 1).deliveries) == 3
