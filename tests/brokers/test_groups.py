"""Contract: a group's body is enqueued once, by the settle that fills its last slot, and never after a failure."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable

import pytest

from poolrt.brokers.base import Broker
from poolrt.clock import FakeClock
from poolrt.message import Filled, NewGroup, Outcome, Owner, Requeue
from poolrt.states import TaskState
from poolrt.terms import Slot
from tests.brokers.grouped import (
    FAILED,
    SUCCEEDED,
    WHY,
    Worker,
    a_group,
    a_record,
    done,
    failed,
    ids,
    item,
    kept,
    members,
    state,
)

Child = Callable[..., Broker]

OWNER = Owner("inc", 0, 1)


@pytest.fixture
def worker(child: Child) -> Worker:
    """The client of one owner."""
    return Worker(child())


# ---- the body, once


def test_the_last_member_enqueues_the_body(broker: Broker, worker: Worker) -> None:
    """Not before it, in whatever order they end; the body is what it was, and the same settle may reserve it."""
    assert broker.enqueue(members("g", 3), [a_group(3)]) == [True, True, True]
    held = worker.take()
    assert ids(held) == ["g.0", "g.1", "g.2"]
    for each in (held[2], held[0]):
        assert worker.end(done(each), reserve=9) == ([], 0)
        assert state(broker, "g-body") is TaskState.PLANNED
    (body,), _ = worker.end(done(held[1]), reserve=9)
    assert (body.task_id, body.envelope) == ("g-body", b"envelope of g-body")


@pytest.mark.parametrize("size", [1, 2, 62, 63, 64, 130])
def test_sizes_and_batches(broker: Broker, worker: Worker, size: int) -> None:
    """Many slots filled by one settle, and the rest by others in any order."""
    broker.enqueue(members("g", size), [a_group(size)])
    held = worker.take(size)
    random.Random(size).shuffle(held)
    while len(held) > 1:
        batch, held = held[: len(held) // 2], held[len(held) // 2 :]
        worker.end(*map(done, batch))
        assert state(broker, "g-body") is TaskState.PLANNED
    assert ids(worker.end(done(held[0]), reserve=9)[0]) == ["g-body"]


def test_a_slot_is_filled_once(broker: Broker, worker: Worker) -> None:
    """By two messages in one settle, and again in another: it counts once; so does one that is none of the group's."""
    others = ["again", "twice", "beyond", "below"]
    broker.enqueue([*members("g", 3), *map(item, others)], [a_group(3)])
    first, second, third, again, twice, beyond, below = worker.take()
    slot = Slot("g", 0)
    assert worker.end(done(first), done(again, slot), reserve=9) == ([], 0)
    assert worker.end(done(second), reserve=9) == ([], 0)
    assert worker.end(done(twice, slot), reserve=9) == ([], 0)
    assert worker.end(done(beyond, Slot("g", 3)), done(below, Slot("g", -1)), reserve=9) == ([], 0)
    assert ids(worker.end(done(third), reserve=9)[0]) == ["g-body"]


def test_a_settle_that_comes_again_fills_nothing(broker: Broker, worker: Worker) -> None:
    """What is stale has no effect: neither on the group, nor on the body after it."""
    broker.enqueue(members("g", 2), [a_group(2)])
    first, second = worker.take()
    worker.end(done(first))
    assert worker.end(done(first), done(first), reserve=9) == ([], 2)
    (body,), _ = worker.end(done(second), reserve=9)
    worker.end(Outcome(body, SUCCEEDED, a_record("body", SUCCEEDED)))
    assert worker.end(done(first), done(second), reserve=9) == ([], 2)
    assert state(broker, "g-body") is SUCCEEDED


def test_an_ignored_body_does_not_come_again(broker: Broker, worker: Worker) -> None:
    """It leaves no record by which it would be known; the group is gone all the same."""
    others = ["late", "later"]
    broker.enqueue([*members("g", 1), *map(item, others)], [a_group(1)])
    only, late, later = worker.take()
    (body,), _ = worker.end(done(only), reserve=9)
    worker.end(Outcome(body, SUCCEEDED))
    assert worker.end(done(late, Slot("g", 0)), reserve=9) == ([], 0)
    assert worker.end(Outcome(later, FAILED, WHY, filled=Filled(Slot("g", 0), WHY)), reserve=9) == ([], 0)
    assert broker.find("g-body") is None


@pytest.mark.parametrize("way", ["release", "recall", "lost", "rescue"])
def test_a_member_that_was_put_back(broker: Broker, worker: Worker, child: Child, way: str) -> None:
    """It fills its slot when it is delivered again; what its first owner says comes too late."""
    broker.enqueue(members("g", 2), [a_group(2)])
    first, second = worker.take()
    if way == "release":
        worker.client.release([second])
    elif way == "recall":
        assert broker.recall(OWNER, (first.n, first.i), first.n) == 1
    elif way == "lost":
        broker.bury(OWNER, Requeue(second, 0))
    else:
        broker.rescue("inc", [Requeue(second, 0)], suspect=False)
        broker.join("next", "node")
    again = Worker(child(1, 1, "next" if way == "rescue" else "inc"))
    if way in ("release", "recall"):
        assert worker.end(done(second)) == ([], 1)
        worker.end(done(first))
        (redelivered,) = again.take()
    else:
        first, redelivered = sorted(again.take(), key=lambda each: each.task_id)
        again.end(done(first))
    assert redelivered.task_id == "g.1"
    assert state(broker, "g-body") is TaskState.PLANNED
    assert ids(again.end(done(redelivered), reserve=9)[0]) == ["g-body"]


@pytest.mark.parametrize("way", ["bury", "rescue", "cancel"])
def test_whoever_ends_a_member(broker: Broker, worker: Worker, way: str) -> None:
    """Burying, rescuing and cancelling do to the group what a settle does."""
    broker.enqueue(members("g", 1), [a_group(1)])
    if way == "cancel":
        assert broker.cancel("g.0", failed)
        assert kept(broker, "g-body") == WHY
        return
    (held,) = worker.take()
    for _ in range(2):
        if way == "bury":
            broker.bury(OWNER, done(held))
        else:
            broker.rescue("inc", [done(held)], suspect=False)
        assert state(broker, "g-body") is TaskState.QUEUED
    assert broker.depth().queued == 1


def test_a_group_made_by_a_settle(broker: Broker, worker: Worker) -> None:
    """Its members are follow-ups of what made it; of a stale outcome there is neither."""
    broker.enqueue([item("start")])
    (start,) = worker.take()
    outcome = Outcome(start, SUCCEEDED, WHY, follow_ups=tuple(members("g", 2)), groups=(a_group(2),))
    worker.client.release([start])
    assert worker.end(outcome) == ([], 1)
    assert broker.find("g-body") is None
    (start,) = worker.take()
    outcome = Outcome(start, SUCCEEDED, WHY, follow_ups=tuple(members("g", 2)), groups=(a_group(2),))
    (first, second), _ = worker.end(outcome, reserve=9)
    worker.end(done(first))
    assert ids(worker.end(done(second), reserve=9)[0]) == ["g-body"]


def test_a_group_that_is_known_is_not_made_again(broker: Broker, worker: Worker) -> None:
    """Enqueued again, as by a client that does not know whether it was: what is filled stays so."""
    for _ in range(2):
        broker.enqueue(members("g", 2), [a_group(2)])
    first, second = worker.take()
    worker.end(done(first))
    broker.enqueue(members("g", 2), [a_group(2), a_group(5)])
    assert ids(worker.end(done(second), reserve=9)[0]) == ["g-body"]


def test_ten_thousand_members(broker: Broker, worker: Worker) -> None:
    """The body comes once, at the end; neither it nor what the client keeps is larger than of ten."""
    size = 10_000
    broker.enqueue([], [a_group(size)])
    for start in range(0, size, 1000):
        broker.enqueue(members("g", size)[start : start + 1000])
    held = worker.take(500)
    tracemalloc.start()
    for _ in range(size // 500 - 1):
        assert state(broker, "g-body") is TaskState.PLANNED
        held, stale = worker.end(*map(done, held), reserve=500)
        assert (len(held), stale) == (500, 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8_000_000
    (body,), _ = worker.end(*map(done, held), reserve=500)
    assert (body.task_id, body.envelope) == ("g-body", b"envelope of g-body")
    records = broker.records([Slot("g", index).id for index in range(0, size, 10)])
    assert records == [a_record(f"g.{index}", SUCCEEDED) for index in range(0, size, 10)]


# ---- failures


def test_the_first_failure_ends_the_body(broker: Broker, worker: Worker) -> None:
    """At once: the body and the last step after it have its record, the errbacks come once, the body never."""
    broker.enqueue(members("g", 3), [a_group(3, last="end", errbacks=["sorry", "call"])])
    first, second, third = worker.take()
    assert sorted(ids(worker.end(failed(second), reserve=9)[0])) == ["call", "sorry"]
    for task in ("g-body", "end"):
        assert (state(broker, task), kept(broker, task)) == (FAILED, WHY)
    assert worker.end(failed(first, a_record("another")), reserve=9) == ([], 0)
    assert worker.end(done(third), reserve=9) == ([], 0)
    assert kept(broker, "g-body") == kept(broker, "end") == WHY


def test_members_that_fail_in_one_settle(broker: Broker, worker: Worker) -> None:
    """The errbacks come once, and the body does not come though the others succeed."""
    broker.enqueue(members("g", 3), [a_group(3, errbacks=["sorry"])])
    first, second, third = worker.take()
    got, _ = worker.end(done(first), failed(second), failed(third), reserve=9)
    assert ids(got) == ["sorry"]
    assert state(broker, "g-body") is FAILED
    assert broker.find("") is None  # it has no last step


def test_errbacks_that_have_ended_do_not_come_again(broker: Broker, worker: Worker) -> None:
    """Nor if they left no record."""
    broker.enqueue(members("g", 2), [a_group(2, errbacks=["sorry"])])
    first, second = worker.take()
    (errback,), _ = worker.end(failed(first), reserve=9)
    worker.end(Outcome(errback, SUCCEEDED))
    assert worker.end(failed(second), reserve=9) == ([], 0)


def test_nested_groups(broker: Broker, worker: Worker) -> None:
    """The body of an inner group fills a slot of the outer one."""
    inner = a_group(2, "inner", outer=Slot("outer", 1))
    broker.enqueue([item("outer.0"), *members("inner", 2)], [a_group(2, "outer"), inner])
    first, left, right = worker.take()
    worker.end(done(first))
    worker.end(done(left))
    (body,), _ = worker.end(done(right), reserve=9)
    assert body.task_id == "outer.1"
    assert state(broker, "outer-body") is TaskState.PLANNED
    assert ids(worker.end(done(body), reserve=9)[0]) == ["outer-body"]


def three_deep(*, collects: bool = False) -> list[NewGroup]:
    """a ⊃ b ⊃ c, of two members each; the first one has its errback, as has the last."""
    return [
        a_group(2, "a", last="end", errbacks=["sorry-a"], collects=collects),
        a_group(2, "b", outer=Slot("a", 1)),
        a_group(2, "c", outer=Slot("b", 1), errbacks=["sorry-c"]),
    ]


def test_a_failure_goes_outwards(broker: Broker, worker: Worker) -> None:
    """Each body has its record and each group its errbacks, once, whichever fails first."""
    broker.enqueue([item("a.0"), item("b.0"), *members("c", 2)], three_deep())
    in_a, in_b, left, right = worker.take()
    assert sorted(ids(worker.end(failed(left), reserve=9)[0])) == ["sorry-a", "sorry-c"]
    for task in ("b.1", "a.1", "a-body", "end"):
        assert kept(broker, task) == WHY
    assert worker.end(failed(right), failed(in_b), failed(in_a, a_record("late")), reserve=9) == ([], 0)
    assert kept(broker, "a-body") == WHY


def test_an_outer_failure_leaves_the_inner_ones(broker: Broker, worker: Worker) -> None:
    """The inner body runs, and fails as it does; the outer one has failed once."""
    broker.enqueue([item("a.0"), item("b.0"), *members("c", 2)], three_deep())
    in_a, _, left, right = worker.take()
    assert ids(worker.end(failed(in_a), reserve=9)[0]) == ["sorry-a"]
    assert state(broker, "a.1") is TaskState.PLANNED
    (body,), _ = worker.end(done(left), done(right), reserve=9)
    assert body.task_id == "b.1"
    assert worker.end(failed(body, a_record("late")), reserve=9) == ([], 0)
    assert kept(broker, "a.1") == a_record("late")
    assert kept(broker, "a-body") == WHY


def test_a_group_that_collects(broker: Broker, worker: Worker) -> None:
    """Failed members fill their slots, once; nothing fails, and no errback comes."""
    broker.enqueue([*members("g", 3), item("again")], [a_group(3, errbacks=["sorry"], collects=True)])
    first, second, third, again = worker.take()
    twice = Outcome(again, FAILED, WHY, filled=Filled(Slot("g", 0), WHY))
    assert worker.end(failed(first), twice, reserve=9) == ([], 0)
    assert worker.end(done(second), reserve=9) == ([], 0)
    assert ids(worker.end(failed(third), reserve=9)[0]) == ["g-body"]


def test_inside_a_group_that_collects(broker: Broker, worker: Worker) -> None:
    """An inner group fails as ever, and fills its slot in one that collects: there its body's record is the result."""
    broker.enqueue([item("a.0"), item("b.0"), *members("c", 2)], three_deep(collects=True))
    in_a, in_b, left, right = worker.take()
    assert ids(worker.end(failed(left), reserve=9)[0]) == ["sorry-c"]
    assert kept(broker, "b.1") == kept(broker, "a.1") == WHY
    assert state(broker, "a-body") is TaskState.PLANNED
    assert worker.end(failed(in_b), done(right), reserve=9) == ([], 0)
    assert ids(worker.end(done(in_a), reserve=9)[0]) == ["a-body"]
    assert state(broker, "end") is TaskState.PLANNED


def test_a_failed_member_tried_again(broker: Broker, worker: Worker) -> None:
    """It fills its slot: the body is enqueued in the place of its record, and the last step after it is planned."""
    broker.enqueue(members("g", 2), [a_group(2, last="end", errbacks=["sorry"])])
    first, second = worker.take()
    (errback,), _ = worker.end(failed(first), done(second), reserve=9)
    worker.end(Outcome(errback, SUCCEEDED))
    assert broker.retry(item("g.0"))
    assert kept(broker, "g-body") == WHY
    (first,) = worker.take()
    assert worker.end(failed(first, a_record("again")), reserve=9) == ([], 0)
    assert kept(broker, "g-body") == WHY
    assert broker.retry(item("g.0"))
    (body,), _ = worker.end(done(worker.take()[0]), reserve=9)
    assert body.task_id == "g-body"
    assert kept(broker, "end") is None
    assert (state(broker, "g-body"), state(broker, "end")) == (TaskState.RESERVED, TaskState.PLANNED)


def test_an_inner_member_tried_again(broker: Broker, worker: Worker) -> None:
    """All that had failed around it comes after all, from the inside out."""
    broker.enqueue([item("a.0"), item("b.0"), *members("c", 2)], three_deep())
    in_a, in_b, left, right = worker.take()
    worker.end(failed(left), done(in_a), done(in_b), done(right), reserve=9)
    assert broker.retry(item("c.0"))
    for after, known in (("b.1", "a.1"), ("a.1", "a-body"), ("a-body", "end")):
        (held,) = worker.take()
        (held,), _ = worker.end(done(held), reserve=9)
        assert held.task_id == after
        assert kept(broker, known) == (None if after == "a-body" else WHY)
        worker.client.release([held])


def test_fail_group(broker: Broker, worker: Worker) -> None:
    """As by a member, also for one that collects; not one that is unknown, and once."""
    assert not broker.fail_group("g", WHY)
    outer = a_group(1, "outer", errbacks=["sorry-outer"])
    broker.enqueue(members("g", 1), [outer, a_group(1, outer=Slot("outer", 0), errbacks=["sorry"], last="end")])
    broker.enqueue([], [a_group(2, "all", collects=True)])
    (only,) = worker.take()
    assert broker.fail_group("g", WHY)
    assert not broker.fail_group("g", a_record("again"))
    assert not broker.fail_group("outer", a_record("again"))
    for task in ("outer.0", "end", "outer-body"):
        assert kept(broker, task) == WHY
    assert sorted(ids(worker.take())) == ["sorry", "sorry-outer"]
    assert ids(worker.end(done(only), reserve=9)[0]) == ["outer.0"]
    assert broker.fail_group("all", WHY)
    assert kept(broker, "all-body") == WHY


def test_fail_group_inside_one_that_collects(broker: Broker, worker: Worker) -> None:
    """It fills its slot there."""
    broker.enqueue([item("a.0")], [a_group(2, "a", collects=True), a_group(2, outer=Slot("a", 1))])
    (in_a,) = worker.take()
    worker.end(done(in_a))
    assert broker.fail_group("g", WHY)
    assert ids(worker.take()) == ["a-body"]


# ---- its time


def test_a_group_past_its_ttl(broker: Broker, worker: Worker, clock: FakeClock) -> None:
    """It is neither filled nor fails, swept or not; one of its id can be made anew, with nothing filled."""
    broker.enqueue(members("g", 2), [a_group(2, ttl=10)])
    broker.enqueue(members("h", 2), [a_group(2, "h", ttl=10)])
    broker.enqueue(members("k", 1), [a_group(1, "k", ttl=10)])
    (first, second, *of_h, of_k) = worker.take()
    worker.end(done(first))
    clock.advance(9)
    broker.purge()
    worker.end(done(of_h[0]), done(of_h[1]))
    assert state(broker, "h-body") is TaskState.QUEUED
    clock.advance(2)
    assert worker.end(done(second), reserve=1)[0][0].task_id == "h-body"
    assert not broker.fail_group("g", WHY)
    worker.end(failed(of_k))
    assert kept(broker, "g-body") is kept(broker, "k-body") is None
    broker.enqueue([item("one"), item("two")], [a_group(2, ttl=10)])
    one, two = worker.take()
    assert worker.end(done(one, Slot("g", 0)), reserve=9) == ([], 0)
    broker.purge()
    assert ids(worker.end(done(two, Slot("g", 1)), reserve=9)[0]) == ["g-body"]
