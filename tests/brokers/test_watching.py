"""Contract: one watch waits for many tasks, is told of each that ends, whoever ends it, and leaves nothing."""

from __future__ import annotations

import contextlib
import select
from collections.abc import Callable, Iterator

import pytest

from poolrt.brokers.base import Broker, Found
from poolrt.brokers.watching import Watch
from poolrt.clock import FakeClock
from poolrt.message import Delivery, Enqueue, Outcome, Owner, Requeue
from poolrt.states import TaskState

Child = Callable[..., Broker]
Put = Callable[..., list[str]]
Waiters = Callable[[Broker], int]


@pytest.fixture
def watch(broker: Broker) -> Iterator[Watch]:
    """A watch, closed after the test."""
    with contextlib.closing(broker.watch()) as made:
        yield made


def told(watch: Watch, count: int, seconds: float = 10) -> dict[str, Found | None]:
    """The next ``count`` that have ended, without asking before there is something to read."""
    found = dict(watch.ended())
    while len(found) < count:
        patience = watch.patience()
        wait = seconds if patience is None else min(patience, seconds)
        ready, _, _ = select.select([watch.fileno()], [], [], wait)
        assert ready or patience == 0, "nobody has told"
        found.update(watch.ended())
    return found


def silent(watch: Watch) -> bool:
    """Whether nothing has ended, and nobody says so."""
    return not watch.ended() and not select.select([watch.fileno()], [], [], 0.05)[0] and not watch.ended()


def end(client: Broker, *deliveries: Delivery) -> None:
    """Settle these."""
    client.settle([Outcome(each, TaskState.SUCCEEDED, b"record") for each in deliveries], 0, 1000)


def test_each_is_told_once_when_it_ends(broker: Broker, child: Child, put: Put, watch: Watch) -> None:
    """With its record; the others go on."""
    tasks = put(30)
    watch.add(tasks)
    assert silent(watch)
    client = child()
    held = client.settle([], 30, 1).deliveries
    end(client, held[3])
    (found,) = told(watch, 1).values()
    assert found is not None
    assert (found.id, found.state, found.record) == (tasks[3], TaskState.SUCCEEDED, b"record")
    assert silent(watch)
    end(client, *(each for each in held if each is not held[3]))
    assert set(told(watch, 29)) == set(tasks) - {tasks[3]}
    assert silent(watch)


def test_what_has_ended_before_and_what_is_unknown(
    broker: Broker, child: Child, put: Put, watch: Watch, waiters: Waiters
) -> None:
    """They are told at once, the unknown without a record; no word is left for them."""
    (task,) = put()
    client = child()
    end(client, *client.settle([], 1, 1).deliveries)
    watch.add([task, "nobody"])
    found = told(watch, 2)
    assert found["nobody"] is None
    assert found[task] is not None
    watch.close()
    assert waiters(broker) == 0


@pytest.mark.parametrize("way", ["bury", "rescue", "cancel", "no record"])
def test_whoever_ends_it(broker: Broker, child: Child, put: Put, watch: Watch, way: str) -> None:
    """Its child's burial, its node's rescue, a cancel while it waits, an end without a record."""
    (task,) = put()
    watch.add([task])
    if way == "cancel":
        assert broker.cancel(task, lambda delivery: Outcome(delivery, TaskState.CANCELLED, b"record"))
    else:
        client = child()
        (held,) = client.settle([], 1, 1).deliveries
        verdict = Outcome(held, TaskState.FAILED, b"record")
        if way == "bury":
            broker.bury(Owner("inc", 0, 1), verdict)
        elif way == "rescue":
            broker.rescue("inc", [verdict], suspect=False)
        else:
            client.settle([Outcome(held, TaskState.SUCCEEDED)], 0, 2)
    assert [found is not None for found in told(watch, 1).values()] == [way != "no record"]


def test_a_retry_is_no_end(broker: Broker, child: Child, put: Put, watch: Watch, clock: FakeClock) -> None:
    """Neither is a delivery that is lost; the end of a later attempt is told."""
    (task,) = put()
    watch.add([task])
    client = child()
    (held,) = client.settle([], 1, 1).deliveries
    again = Enqueue(task, b"next attempt", "default", 0, None)
    client.settle([Outcome(held, None, follow_ups=(again,))], 0, 2)
    assert silent(watch)
    (held,) = client.settle([], 1, 3).deliveries
    broker.bury(Owner("inc", 0, 1), Requeue(held, 0.0))
    assert silent(watch)
    client = child(generation=2)
    end(client, *client.settle([], 1, 1).deliveries)
    assert list(told(watch, 1)) == [task]


def test_dropped(broker: Broker, child: Child, put: Put, watch: Watch, waiters: Waiters) -> None:
    """It is not told any more, and no word is left for it; who waits for it otherwise is told."""
    tasks = put(3)
    watch.add(tasks)
    with contextlib.closing(broker.watch()) as other:
        other.add(tasks[:1])
        watch.drop(tasks[:2])
        client = child()
        end(client, *client.settle([], 3, 1).deliveries)
        assert list(told(watch, 1)) == tasks[2:]
        assert silent(watch)
        assert list(told(other, 1)) == tasks[:1]


def test_closed_it_leaves_nothing(broker: Broker, put: Put, watch: Watch, waiters: Waiters) -> None:
    """No word, no socket, no row: also for what has not ended."""
    watch.add(put(700))
    watch.ended()
    assert waiters(broker) > 0
    watch.close()
    assert waiters(broker) == 0


def test_several_watches_of_one_task(broker: Broker, child: Child, put: Put, watch: Watch) -> None:
    """Each is told."""
    (task,) = put()
    with contextlib.closing(broker.watch()) as other:
        watch.add([task])
        other.add([task])
        client = child()
        end(client, *client.settle([], 1, 1).deliveries)
        assert list(told(watch, 1)) == list(told(other, 1)) == [task]
