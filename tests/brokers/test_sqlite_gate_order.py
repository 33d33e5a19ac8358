"""SQLite: where messages that have a gate wait, and in which order they start."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from poolrt.brokers.base import Depth, QueueDepth, Settled
from poolrt.brokers.sqlite import SqliteBroker
from poolrt.clock import FakeClock
from poolrt.message import Delivery, Enqueue, Outcome
from poolrt.queue_choice import QueueChoice
from poolrt.states import TaskState
from poolrt.terms import Gate

Open = Callable[..., SqliteBroker]
Child = Callable[..., SqliteBroker]
Put = Callable[..., list[str]]

NOTHING = Settled([], 0, more=False)
ONE = Gate("one", slots=1)
TENTH = Gate("tenth", rate=10.0)
"""One start in 0.1 s."""


def ids(deliveries: list[Delivery]) -> list[str]:
    return [delivery.task_id for delivery in deliveries]


def done(deliveries: list[Delivery]) -> list[Outcome]:
    return [Outcome(delivery, TaskState.SUCCEEDED) for delivery in deliveries]


# ---- the order


@pytest.mark.parametrize("choice", [QueueChoice(), QueueChoice(("a", "b")), QueueChoice(without=("c",))])
def test_merged_with_what_has_no_gate(sqlite_child: Child, put_behind: Put, choice: QueueChoice) -> None:
    """Open gates change no order, over queues too: priority, then age; what is over the limit is passed over."""
    wide, narrow = Gate("wide", slots=100), Gate("narrow", slots=1)
    first = put_behind(1, wide, "a")
    second = put_behind(1, None, "b")
    third = put_behind(2, narrow, "b")
    put_behind(1, wide, "c" if choice != QueueChoice() else "a", task="")
    fourth = put_behind(1, None, "a")
    urgent = put_behind(1, narrow, "a", priority=5)
    most_urgent = put_behind(1, None, "b", priority=9)
    more_urgent = put_behind(2, wide, "b", priority=7)
    client = sqlite_child(choice=choice)
    got = [name for n in range(1, 9) for name in ids(client.settle([], 2, n).deliveries)]
    wanted = [*most_urgent, *more_urgent, *urgent, *first, *second, *fourth]
    assert [name for name in got if name in wanted] == wanted
    assert not set(got) & set(third)
    assert len(got) == len(wanted) + (choice == QueueChoice())


def test_the_key_is_one_over_queues(sqlite_child: Child, put_behind: Put) -> None:
    """Messages of one key in two queues share its limits."""
    mail, bulk = put_behind(2, ONE, "mail"), put_behind(2, ONE, "bulk")
    reader, other = sqlite_child(0, QueueChoice(("bulk",))), sqlite_child(1, QueueChoice(("mail",)))
    held = reader.settle([], 9, 1).deliveries
    assert ids(held) == bulk[:1]
    assert other.settle([], 9, 1) == NOTHING
    reader.settle(done(held), 0, 2)
    got = other.settle([], 9, 2)
    assert (ids(got.deliveries), got.more) == (mail[:1], False)


def test_more_is_what_the_owner_may_reserve(sqlite_child: Child, put_behind: Put) -> None:
    """Behind an open gate of its queues, and not of others: else an idle child would look again and again."""
    put_behind(2, Gate("wide", slots=100), "mail")
    put_behind(2, ONE, "bulk")
    client = sqlite_child(choice=QueueChoice(("mail",)))
    assert client.settle([], 1, 1).more
    assert not client.settle([], 1, 2).more
    other = sqlite_child(1, QueueChoice(without=("mail",)))
    assert other.settle([], 0, 1).more
    assert not other.settle([], 1, 2).more


def test_strict_queues_with_gates(sqlite_child: Child, put_behind: Put) -> None:
    """What waits behind a gate of the first queue goes before the second queue, once the gate is open."""
    second = put_behind(2, None, "b", priority=9)
    first = put_behind(2, ONE, "a")
    client = sqlite_child(choice=QueueChoice(("a", "b"), strict=True))
    held = client.settle([], 1, 1).deliveries
    assert ids(held) == first[:1]
    assert ids(client.settle([], 1, 2).deliveries) == second[:1]
    assert ids(client.settle(done(held), 1, 3).deliveries) == first[1:]


def test_a_suspect_behind_a_gate(store: SqliteBroker, sqlite_child: Child, put_behind: Put) -> None:
    """Alone, when its gate is open; while that is closed it is in nobody's way."""
    suspect = put_behind(1, ONE)
    sqlite_child().settle([], 9, 1)
    store.rescue("inc", [], suspect=True)
    store.join("next", "node")
    holder = put_behind(1, ONE, priority=9)
    plain = put_behind(2)
    client = sqlite_child(incarnation="next")
    held = client.settle([], 1, 1).deliveries
    assert ids(held) == holder
    others = client.settle([], 9, 2).deliveries
    assert ids(others) == plain
    got = client.settle(done(held), 9, 3)
    assert (got.deliveries, got.more) == ([], True)
    (delivery,) = client.settle(done(others), 9, 4).deliveries
    assert (delivery.task_id, delivery.suspect) == (suspect[0], True)


def test_tasks_left_to_others(sqlite_child: Child, put_behind: Put) -> None:
    """They are passed over behind gates too, and take no slot; also while a suspect waits elsewhere."""
    put_behind(2, ONE, task="app.unknown")
    known = put_behind(1, ONE, task="app.known")
    assert ids(sqlite_child().settle([], 9, 1, without=["app.unknown"]).deliveries) == known


def test_tasks_left_to_others_without_any_gate(sqlite_child: Child, put_behind: Put) -> None:
    """They are passed over, and are there for who knows them."""
    unknown = put_behind(2, task="app.unknown")
    known = put_behind(1, task="app.known")
    assert ids(sqlite_child().settle([], 9, 1, without=["app.unknown"]).deliveries) == known
    assert ids(sqlite_child(1).settle([], 9, 1).deliveries) == unknown


def test_tasks_left_to_others_while_a_suspect_waits(store: SqliteBroker, sqlite_child: Child, put_behind: Put) -> None:
    """A suspect somewhere is no reason to be given what the node does not know."""
    put_behind(1)
    sqlite_child().settle([], 9, 1)
    store.rescue("inc", [], suspect=True)
    store.join("next", "node")
    put_behind(1, priority=9, task="app.unknown")
    known = put_behind(1, priority=8, task="app.known")
    assert ids(sqlite_child(incarnation="next").settle([], 9, 1, without=["app.unknown"]).deliveries) == known


# ---- coming and going


def test_due_behind_its_gate(store: SqliteBroker, sqlite_child: Child, put_behind: Put, clock: FakeClock) -> None:
    """A delayed message passes its gate once it is due."""
    late = put_behind(2, ONE, eta=clock.wall() + 5)
    client = sqlite_child()
    assert client.settle([], 9, 1) == NOTHING
    assert store.promote() == pytest.approx(5)
    clock.advance(5)
    assert store.promote() is None
    assert ids(client.settle([], 9, 2).deliveries) == late[:1]


def test_a_retry_passes_the_gate_again(sqlite_child: Child, put_behind: Put, clock: FakeClock) -> None:
    """As a follow-up of the same settle: by a free slot at once, by a token when there is one."""
    (task,) = put_behind(1, Gate("key", rate=10.0, slots=1))
    client = sqlite_child()
    (held,) = client.settle([], 9, 1).deliveries
    again = Enqueue(task, b"again", "default", 0, None, gate=Gate("key", rate=10.0, slots=1))
    assert client.settle([Outcome(held, None, follow_ups=(again,))], 9, 2) == NOTHING
    clock.advance(0.1)
    (held,) = client.settle([], 9, 3).deliveries
    link = Enqueue("link", b"", "default", 0, None, gate=ONE)
    assert ids(client.settle([Outcome(held, TaskState.SUCCEEDED, follow_ups=(link,))], 9, 4).deliveries) == ["link"]


def test_found_and_cancelled(store: SqliteBroker, put_behind: Put) -> None:
    """Behind a gate a message is queued as any other."""
    task, other = put_behind(2, ONE)
    found = store.find(other)
    assert found is not None
    assert found.state is TaskState.QUEUED
    assert store.cancel(task, lambda delivery: Outcome(delivery, TaskState.CANCELLED, b"cancelled"))
    assert [each.id for each in store.messages()[0]] == [other]
    assert not store.cancel_held(other)


def test_what_operators_see(store: SqliteBroker, sqlite_child: Child, put_behind: Put, clock: FakeClock) -> None:
    """What waits behind gates belongs to its queue: counted, shown, moved and deleted with it, in the common order."""
    first = put_behind(1, ONE, "mail")
    clock.advance(10)
    second = put_behind(1, None, "mail")
    third = put_behind(2, TENTH, "mail", priority=-1)
    urgent = put_behind(1, ONE, "mail", priority=9)
    put_behind(1, ONE, "bulk")
    assert store.depth() == Depth(6, 0, 0, 0, pytest.approx(10))
    before = store.queues()
    assert before == [
        QueueDepth("bulk", 1, paused=False, oldest=pytest.approx(0)),
        QueueDepth("mail", 5, paused=False, oldest=pytest.approx(10)),
    ]
    assert [each.id for each in store.peek("mail")] == urgent + first + second + third
    assert [each.id for each in store.peek("mail", 2)] == urgent + first
    assert store.move("mail", "bulk", 2) == 2
    assert [each.queued for each in store.queues()] == [3, 3]
    assert store.empty("mail", 2) == 2
    assert [each.id for each in store.peek("mail")] == third[1:]
    assert ids(sqlite_child(choice=QueueChoice(("bulk",))).settle([], 9, 1).deliveries) == urgent
    assert ids(sqlite_child(1, QueueChoice(("mail",))).settle([], 9, 1).deliveries) == third[1:]
