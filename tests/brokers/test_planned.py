"""Contract: later steps are known before they are enqueued, and may end without having been."""

from __future__ import annotations

import contextlib
import select
from collections.abc import Callable

import pytest

from poolrt.brokers.base import Broker, Found
from poolrt.clock import FakeClock
from poolrt.message import DEAD_TTL, Delivery, Outcome, Owner
from poolrt.states import TaskState
from tests.brokers.grouped import (
    CANCELLED,
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
from tests.brokers.test_waiting import waiting

Child = Callable[..., Broker]
Waiters = Callable[[Broker], int]


@pytest.fixture
def worker(child: Child) -> Worker:
    """The client of one owner."""
    return Worker(child())


def test_a_planned_id(broker: Broker, clock: FakeClock) -> None:
    """It is found, and waited for, for its time; it is not queued, and no message."""
    broker.enqueue([item("step", last="end")], [a_group(1, last="after")])
    for task in ("end", "g-body", "after"):
        assert broker.find(task) == Found(task, TaskState.PLANNED, None, None, 0)
        assert broker.wait(task, 0.01) is None
        assert not broker.cancel_held(task)
    assert broker.depth().queued == 1
    assert [found.id for found in broker.messages()[0]] == ["step"]
    clock.advance(DEAD_TTL - 1)
    broker.purge()
    assert state(broker, "end") is TaskState.PLANNED
    clock.advance(2)
    assert broker.find("end") is None
    assert broker.wait("end", None) is None
    broker.purge()
    assert [broker.find(task) for task in ("end", "g-body", "after")] == [None] * 3


def test_it_is_planned_from_each_step_on(broker: Broker, worker: Worker, clock: FakeClock) -> None:
    """A step that names it makes it known for its time anew; one that is refused does not."""
    broker.enqueue([item("step", last="end")])
    (held,) = worker.take()
    clock.advance(DEAD_TTL - 10)
    worker.end(Outcome(held, SUCCEEDED, WHY, follow_ups=(item("next", last="end"),)))
    assert broker.enqueue([item("step", last="no"), item("next", last="no")]) == [False, False]
    assert broker.find("no") is None
    clock.advance(DEAD_TTL - 10)
    broker.purge()
    assert state(broker, "end") is TaskState.PLANNED


@pytest.mark.parametrize("record", [WHY, None])
def test_it_is_enqueued(broker: Broker, worker: Worker, record: bytes | None) -> None:
    """Then it is a message, and it has ended when that has, with a record or without one."""
    broker.enqueue([item("step", last="end")])
    (held,) = worker.take()
    (held,), _ = worker.end(Outcome(held, SUCCEEDED, WHY, follow_ups=(item("end"),)), reserve=1)
    assert state(broker, "end") is TaskState.RESERVED
    worker.end(Outcome(held, FAILED, record))
    assert state(broker, "end") is (FAILED if record else None)
    broker.enqueue([item("other", last="end")])
    broker.forget("end")
    assert state(broker, "end") is (None if record else TaskState.PLANNED)


def test_a_client_enqueues_it(broker: Broker, worker: Worker) -> None:
    """As one that was not planned."""
    broker.enqueue([item("step", last="end")])
    assert broker.enqueue([item("end")]) == [True]
    held = worker.take()
    assert ids(held) == ["step", "end"]
    worker.end(Outcome(held[1], SUCCEEDED))
    assert broker.find("end") is None


def test_it_is_enqueued_and_its_queue_emptied(broker: Broker) -> None:
    """Then it has ended without a record, as any other message."""
    broker.enqueue([item("step", last="end"), item("end")])
    assert broker.empty("default") == 2
    assert broker.find("end") is None


def test_what_ends_beside_an_outcome(broker: Broker, worker: Worker) -> None:
    """``also``: its records are kept, but not over another nor of a message, and nothing follows under their ids."""
    broker.enqueue([item("step", last="end"), item("ended"), item("queued")])
    step, ended, queued = worker.take()
    worker.client.release([queued])
    worker.end(Outcome(ended, SUCCEEDED, a_record("ended", SUCCEEDED)))
    also = (("end", WHY), ("ended", WHY), ("queued", WHY), ("new", a_record("new", CANCELLED)))
    outcome = Outcome(step, FAILED, a_record("step"), also=also)
    worker.end(outcome)
    assert (state(broker, "end"), kept(broker, "end")) == (FAILED, WHY)
    assert state(broker, "new") is CANCELLED
    assert state(broker, "ended") is SUCCEEDED
    assert state(broker, "queued") is TaskState.QUEUED
    assert broker.enqueue([item("end"), item("new")]) == [False, False]
    assert {found.id for found in broker.ended(FAILED)} == {"end", "step"}


def test_of_a_stale_outcome_nothing_ends(broker: Broker, worker: Worker) -> None:
    """Its ``also`` has no effect."""
    broker.enqueue([item("step", last="end")])
    (step,) = worker.take()
    worker.client.release([step])
    assert worker.end(Outcome(step, FAILED, WHY, also=(("end", WHY),))) == ([], 1)
    assert state(broker, "end") is TaskState.PLANNED


def test_records_that_are_kept_with_an_outcome_pass(broker: Broker, worker: Worker, clock: FakeClock) -> None:
    """After the outcome's ttl; then nothing is known of the id, which is not planned any more."""
    broker.enqueue([item("step", last="end")])
    (step,) = worker.take()
    worker.end(Outcome(step, FAILED, WHY, ttl=5, also=(("end", WHY),)))
    broker.end_ahead([("ahead", WHY)], 5)
    clock.advance(4)
    broker.purge()
    assert kept(broker, "end") == kept(broker, "ahead") == WHY
    clock.advance(2)
    broker.purge()
    assert [broker.find(task) for task in ("step", "end", "ahead")] == [None] * 3


def test_end_ahead(broker: Broker, worker: Worker) -> None:
    """Of what is planned or unknown, not of a message or what has ended; a follow-up of the id does not come."""
    broker.enqueue([item("step", last="end"), item("queued")])
    record = a_record("gone", CANCELLED)
    asked = [("end", record), ("queued", record), ("new", record), ("end", WHY), ("step", record)]
    assert broker.end_ahead(asked, 1000) == [True, False, True, False, False]
    assert (state(broker, "end"), kept(broker, "end")) == (CANCELLED, record)
    step, queued = worker.take()
    follow_ups = (item("end"), item("new"), item("other", last="end"))
    got, _ = worker.end(Outcome(step, SUCCEEDED, WHY, follow_ups=follow_ups), reserve=9)
    assert ids(got) == ["other"]
    assert kept(broker, "end") == record
    worker.end(Outcome(queued, SUCCEEDED))
    assert broker.end_ahead([("queued", record)], 1000) == [True]


def test_a_body_that_ended_ahead(broker: Broker, worker: Worker) -> None:
    """It is not enqueued, nor has a failure another record."""
    record = a_record("gone", CANCELLED)
    for name in ("g", "h"):
        broker.enqueue(members(name, 1), [a_group(1, name)])
        assert broker.end_ahead([(f"{name}-body", record)], 1000) == [True]
    of_g, of_h = worker.take()
    assert worker.end(done(of_g), failed(of_h), reserve=9) == ([], 0)
    assert kept(broker, "g-body") == kept(broker, "h-body") == record


def test_a_last_step_that_ended_ahead(broker: Broker, worker: Worker) -> None:
    """A body before it is enqueued all the same, and leaves it that record."""
    broker.enqueue(members("g", 1), [a_group(1, last="end")])
    assert broker.end_ahead([("end", WHY)], 1000) == [True]
    assert ids(worker.end(done(worker.take()[0]), reserve=9)[0]) == ["g-body"]
    assert kept(broker, "end") == WHY


def test_a_retry_drops_the_record_of_the_last_step(broker: Broker, worker: Worker) -> None:
    """It is planned again; not by a retry that does nothing."""
    broker.enqueue([item("step", last="end"), item("other")])
    step, _ = worker.take()
    worker.end(Outcome(step, FAILED, WHY, also=(("end", WHY),)))
    assert not broker.retry(item("other", last="end"))
    assert kept(broker, "end") == WHY
    assert broker.retry(item("step", last="end"))
    assert state(broker, "end") is TaskState.PLANNED
    (step,) = worker.take()
    got, _ = worker.end(Outcome(step, SUCCEEDED, WHY, follow_ups=(item("end"),)), reserve=9)
    assert ids(got) == ["end"]


def test_records(broker: Broker, worker: Worker) -> None:
    """In the order asked for; None for what has none."""
    names = [f"task-{number}" for number in range(1000)]
    broker.enqueue([item(name) for name in names])
    worker.end(*(Outcome(each, SUCCEEDED, each.task_id.encode()) for each in worker.take(900)))
    asked = [*reversed(names), "nobody", "task-3"]
    expected = [name.encode() if int(name[5:]) < 900 else None for name in reversed(names)]
    assert broker.records(asked) == [*expected, None, b"task-3"]
    assert broker.records([]) == []


def end_of(way: str, broker: Broker, held: Delivery, worker: Worker) -> None:
    """End ``g-body`` or ``end`` in some way, without a message of theirs."""
    if way == "also":
        worker.end(Outcome(held, FAILED, b"", also=(("end", WHY),)))
    elif way == "buried":
        broker.bury(Owner("inc", 0, 1), Outcome(held, FAILED, b"", also=(("end", WHY),)))
    elif way == "ahead":
        broker.end_ahead([("end", WHY)], 1000)
    elif way == "fails":
        worker.end(failed(held))
    else:
        broker.fail_group("g", WHY)


WAYS = pytest.mark.parametrize("way", ["also", "buried", "ahead", "fails", "fail_group"])


@WAYS
def test_who_waits_is_told(broker: Broker, worker: Worker, waiters: Waiters, way: str) -> None:
    """With the record, at once, though no message of the id has ended."""
    broker.enqueue(members("g", 1), [a_group(1, last="end")])
    (held,) = worker.take()
    thread, answers = waiting(broker, waiters, "end")
    end_of(way, broker, held, worker)
    thread.join(10)
    assert [found and found.record for found in answers] == [WHY]


@WAYS
def test_who_watches_is_told(broker: Broker, worker: Worker, way: str) -> None:
    """Once, with the record; while it is planned it has not ended."""
    broker.enqueue(members("g", 1), [a_group(1, last="end")])
    (held,) = worker.take()
    with contextlib.closing(broker.watch()) as watch:
        watch.add(["end"])
        assert watch.ended() == []
        assert not select.select([watch.fileno()], [], [], 0.05)[0]
        assert watch.patience() != 0
        end_of(way, broker, held, worker)
        ended = watch.ended()
        while not ended:
            patience = watch.patience()
            assert select.select([watch.fileno()], [], [], 10 if patience is None else patience)[0] or patience == 0
            ended = watch.ended()
        assert [(task, found and found.record) for task, found in ended] == [("end", WHY)]


def test_a_wait_lasts_through_the_enqueueing(broker: Broker, worker: Worker, waiters: Waiters) -> None:
    """Who waits for a planned id gets the record of its message, also after steward's ticks."""
    broker.enqueue(members("g", 1), [a_group(1)])
    (held,) = worker.take()
    thread, answers = waiting(broker, waiters, "g-body")
    broker.nudge()
    (body,), _ = worker.end(done(held), reserve=1)
    broker.nudge()
    assert answers == []
    worker.end(Outcome(body, SUCCEEDED, b"value"))
    thread.join(10)
    assert [found and found.record for found in answers] == [b"value"]


def test_a_plan_that_is_swept_is_told(broker: Broker, waiters: Waiters, clock: FakeClock) -> None:
    """After its time nobody waits any more: the steward's tick says so."""
    broker.enqueue([item("step", last="end")])
    thread, answers = waiting(broker, waiters, "end")
    clock.advance(DEAD_TTL + 1)
    broker.purge()
    broker.nudge()
    thread.join(10)
    assert answers == [None]
