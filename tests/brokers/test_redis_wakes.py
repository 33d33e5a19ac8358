"""Redis: who is told what, when. Nobody polls: idle children and stewards wait on the server."""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterator

import pytest

from poolrt.brokers.redis import RedisBroker
from poolrt.brokers.redis.bell import AGAIN_AFTER
from poolrt.brokers.redis.owner import WAIT
from poolrt.clock import FakeClock
from poolrt.errors import Fenced
from poolrt.message import Enqueue, Outcome, Owner, Requeue, new_task_id
from poolrt.queue_choice import QueueChoice
from poolrt.states import TaskState
from tests.brokers.waiter import Waiter
from tests.servers import Server, Servers, until

Child = Callable[..., RedisBroker]
Put = Callable[..., list[str]]
Idle = Callable[..., Waiter]

PATIENCE = 10.0
NOT_YET = 0.2
"""Seconds in which what must not come would have come: a token is there before the call that left it returns."""


@pytest.fixture
def url(redis_url: str) -> str:
    """A namespace of this test alone."""
    return redis_url


@pytest.fixture
def clock() -> FakeClock:
    """Decides what is due."""
    return FakeClock()


@pytest.fixture
def open_broker(url: str, clock: FakeClock) -> Iterator[Child]:
    """Makes clients, closed at the end."""
    made: list[RedisBroker] = []

    def make(where: str = url, timeout: float = 5.0) -> RedisBroker:
        made.append(RedisBroker(where, timeout=timeout, clock=clock))
        return made[-1]

    yield make
    for broker in made:
        broker.close()


@pytest.fixture
def broker(open_broker: Child) -> RedisBroker:
    """A producer's and steward's client; the node ``inc`` has joined."""
    client = open_broker()
    client.join("inc", "node")
    return client


@pytest.fixture
def child(open_broker: Child, broker: RedisBroker) -> Child:
    """``child(slot, generation, queues)``: a client attached as that owner."""

    def make(slot: int = 0, generation: int = 1, queues: tuple[str, ...] = ()) -> RedisBroker:
        client = open_broker()
        client.attach(Owner("inc", slot, generation), QueueChoice(queues))
        return client

    return make


@pytest.fixture
def idle(child: Child, broker: RedisBroker) -> Idle:
    """``idle(slot, queues=())``: where that child waits; the server has heard of it, and of the queue "default"."""
    broker.pause("default")
    broker.unpause("default")

    def make(slot: int = 9, queues: tuple[str, ...] = ()) -> Waiter:
        before = blocked(broker)
        waiter = Waiter(child(slot, queues=queues))
        waiter.arm()
        until(lambda: blocked(broker) > before, "the child waits")
        return waiter

    return make


@pytest.fixture
def put(broker: RedisBroker) -> Put:
    """``put(3, queue="default", eta=None)``: enqueue that many messages; their ids, in order."""

    def enqueue(count: int = 1, queue: str = "default", eta: float | None = None) -> list[str]:
        ids = [new_task_id() for _ in range(count)]
        broker.enqueue([Enqueue(task, b"", queue, 0, eta) for task in ids])
        return ids

    return enqueue


def blocked(broker: RedisBroker) -> int:
    """How many connections of the namespace's server wait in a BLPOP."""
    info = broker._calls.attempt(lambda channel: channel.ask("INFO", "clients")).decode()
    return int(info.split("blocked_clients:")[1].split()[0])


def came(*wakes: Waiter, seconds: float = PATIENCE) -> Waiter | None:
    """The first that is woken within the time; a wait that ends by itself is begun anew."""
    deadline = time.monotonic() + seconds
    while True:
        fds = {wake.arm(): wake for wake in wakes}
        left = deadline - time.monotonic()
        for fd in select.select(list(fds), [], [], max(left, 0))[0]:
            if fds[fd].take():
                return fds[fd]
        if left <= 0:
            return None


def rung(bell: object, seconds: float = PATIENCE) -> bool:
    """Whether the steward's bell rings within the time; answers it."""
    rings = bool(select.select([bell.fileno()], [], [], seconds)[0])  # type: ignore[attr-defined]
    bell.answer()  # type: ignore[attr-defined]
    return rings


# ---- idle children


def tokens(broker: RedisBroker) -> None:
    """Take every token that nobody waits for, so that the next one is of the next call."""
    names = broker._calls.attempt(lambda channel: channel.ask("HKEYS", broker._key("queues")))
    keys = [broker._key("wake"), *(broker._key("wake:" + name.decode()) for name in names)]
    broker._calls.attempt(lambda channel: channel.ask("DEL", *keys))


def test_whatever_queues_wakes(
    broker: RedisBroker, child: Child, put: Put, idle: Idle, open_broker: Child, clock: FakeClock
) -> None:
    """Enqueue, promote, release, bury, rescue, follow-ups, unpause and nudge each wake an idle child."""
    wake = idle()
    put(2)
    assert came(wake), "enqueue"
    put(1, eta=clock.wall() + 1)
    assert broker.promote() == 1
    clock.advance(1)
    wake.arm()
    broker.promote()
    assert came(wake), "promote"

    client = child()
    held = client.settle([], 3, 1).deliveries
    assert len(held) == 3
    wake.arm()
    client.release(held[:1])
    assert came(wake), "release"
    wake.arm()
    broker.bury(Owner("inc", 0, 1), None)
    assert came(wake), "bury"

    client = child(0, 2)
    held = client.settle([], 3, 1).deliveries
    wake.arm()
    link = Enqueue(new_task_id(), b"", "default", 0, None)
    client.settle([Outcome(held[0], TaskState.SUCCEEDED, follow_ups=(link,))], 0, 2)
    assert came(wake), "a follow-up"
    broker.pause("default")
    broker.nudge()
    tokens(broker)
    wake.arm()
    broker.unpause("default")
    assert came(wake), "unpause"
    wake.arm()
    broker.nudge()
    assert came(wake), "nudge"
    broker.join("another", "another")
    other = open_broker()
    other.attach(Owner("another", 0, 1))
    wake = Waiter(other)
    wake.arm()
    broker.rescue("inc", [], suspect=False)
    assert came(wake), "rescue"


def test_nothing_wakes_for_nothing(broker: RedisBroker, child: Child, put: Put, idle: Idle, clock: FakeClock) -> None:
    """A known id, a delayed message, a promote of nothing, a paused queue, a nudge without work wake nobody."""
    (task,) = put()
    client = child()
    (held,) = client.settle([], 1, 1).deliveries
    tokens(broker)
    wake = idle()
    broker.enqueue([Enqueue(task, b"", "default", 0, None)])
    put(1, eta=clock.wall() + 1)
    broker.promote()
    broker.nudge()
    broker.pause("default")
    put()
    client.release([held])
    broker.nudge()
    assert not came(wake, seconds=NOT_YET)
    broker.bury(Owner("inc", 0, 1), None)
    assert not came(wake, seconds=NOT_YET)


def test_each_of_two_enqueues_wakes_one(put: Put, idle: Idle) -> None:
    """Two children wait: one enqueue wakes one, the next one the other."""
    both = {idle(1), idle(2)}
    put()
    woken = came(*both)
    assert woken
    (other,) = both - {woken}
    assert not came(other, seconds=NOT_YET)
    put()
    assert came(other)


def test_a_token_that_a_killed_waiter_ate(broker: RedisBroker, put: Put, idle: Idle) -> None:
    """The steward's tick leaves another one, and the next idle child has it."""
    dying = idle(1)
    put()
    assert came(dying)
    dying.client.close()  # it had the token and did nothing with it
    living = idle(2)
    assert not came(living, seconds=NOT_YET)
    broker.nudge()
    assert came(living)


def test_a_wait_ends_by_itself(idle: Idle, put: Put) -> None:
    """After about a second, so that a token that was lost costs no more; it is armed again and waits on."""
    wake = idle()
    began = time.monotonic()
    assert select.select([wake.arm()], [], [], PATIENCE)[0]
    assert not wake.take()
    assert 0.5 * WAIT < time.monotonic() - began < WAIT + 2
    assert not came(wake, seconds=NOT_YET)
    put()
    assert came(wake)


def test_it_waits_for_its_queues_only(idle: Idle, put: Put) -> None:
    """A child of chosen queues is not woken for others, and is for each of its own."""
    wake = idle(1, queues=("a", "b"))
    put(queue="c")
    assert not came(wake, seconds=NOT_YET)
    put(queue="b")
    assert came(wake)
    wake.arm()
    put(queue="a")
    assert came(wake)


def test_a_new_queue(put: Put, idle: Idle) -> None:
    """Who waits for all queues is woken for one that nobody knew, and waits for it from then on."""
    wake = idle()
    put(queue="new")
    assert came(wake)
    assert came(wake), "the queue's own token, from before it was known"
    wake.arm()
    put(queue="new")
    assert came(wake)


def test_the_reserve_comes_with_the_wake_up(child: Child, put: Put) -> None:
    """One answer for both; of what is queued already, and of what comes later."""
    client = child()
    fd = client.submit_when_woken(2, 1)
    assert not select.select([fd], [], [], NOT_YET)[0]
    ids = put(3)
    assert select.select([fd], [], [], PATIENCE)[0]
    answer = client.answer()
    assert [each.task_id for each in answer.deliveries] == ids[:2]
    assert [(each.n, each.i) for each in answer.deliveries] == [(1, 0), (1, 1)]
    assert (answer.stale, answer.more, answer.woken) == (0, True, True)


def test_the_end_of_a_wait_looks_too(child: Child, put: Put, broker: RedisBroker) -> None:
    """What no wake-up announced is found after a second, and said to be so."""
    client = child()
    ids = put(1)
    tokens(broker)
    assert select.select([client.submit_when_woken(2, 1)], [], [], PATIENCE)[0]
    answer = client.answer()
    assert [each.task_id for each in answer.deliveries] == ids
    assert not answer.woken


def test_a_wait_that_was_given_up(child: Child, put: Put, broker: RedisBroker) -> None:
    """Its reserve does nothing any more, whenever it is carried out; the next submit is heard."""
    client = child()
    client.submit_when_woken(2, 1)
    until(lambda: blocked(broker) == 1, "it waits")
    assert client.resume() == []
    ids = put(1)
    assert [each.task_id for each in client.settle([], 2, 2).deliveries] == ids


def test_a_wait_of_a_buried_child(child: Child, put: Put, broker: RedisBroker) -> None:
    """The server sees late that a child has gone: what it would have been given stays in the queue."""
    client = child()
    fd = client.submit_when_woken(2, 1)
    until(lambda: blocked(broker) == 1, "it waits")
    broker.bury(Owner("inc", 0, 1), None)
    put(1)
    assert select.select([fd], [], [], PATIENCE)[0]
    with pytest.raises(Fenced):
        client.answer()
    assert broker.depth().queued == 1
    assert broker.depth().reserved == 0


def put_one(broker: RedisBroker, eta: float | None = None) -> str:
    task = new_task_id()
    assert broker.enqueue([Enqueue(task, b"", "default", 0, eta)]) == [True]
    return task


# ---- the steward's bell


def test_an_earlier_eta_rings(broker: RedisBroker, put: Put, child: Child, clock: FakeClock) -> None:
    """Only a message that is due before all others; also one that a dead child's verdict delays."""
    bell = broker.doorbell("node")
    assert not rung(bell, 0)
    put(1, eta=clock.wall() + 100)
    assert rung(bell)
    put(1, eta=clock.wall() + 200)
    put()
    assert not rung(bell, NOT_YET)
    put(2, eta=clock.wall() + 50)
    assert rung(bell)
    assert not rung(bell, NOT_YET), "all that rang were answered"
    (held,) = child().settle([], 1, 1).deliveries
    broker.bury(Owner("inc", 0, 1), Requeue(held, 10))
    assert rung(bell)
    bell.close()


def test_a_word_for_a_held_message_rings(broker: RedisBroker, put: Put, child: Child) -> None:
    """``cancel_held`` rings every steward's bell; what nobody holds rings none."""
    (task,) = put()
    bell, other = broker.doorbell("node"), broker.doorbell("other")
    assert not broker.cancel_held(task)
    assert not rung(bell, NOT_YET)
    child().settle([], 1, 1)
    assert broker.cancel_held(task)
    assert rung(bell)
    assert rung(other)
    bell.close()
    other.close()


def test_a_bell_outlives_its_server(own_servers: Servers, open_broker: Child, clock: FakeClock) -> None:
    """While the server is away it is silent and raises nothing; back again, it rings."""
    server = own_servers.server()
    client = open_broker(server.url())
    bell = client.doorbell("node")
    put_one(client, clock.wall() + 10)
    assert rung(bell)
    server.kill()
    assert select.select([bell.fileno()], [], [], PATIENCE)[0], "its connection ended"
    bell.answer()
    assert bell.fileno() == -1
    bell.answer()
    server.start()
    until(lambda: bell.fileno() >= 0, "it has subscribed", timeout=AGAIN_AFTER + PATIENCE)
    put_one(client, clock.wall() + 5)
    assert rung(bell)
    bell.close()


def test_a_bell_of_a_stopped_server(own_servers: Servers, open_broker: Child) -> None:
    """It costs its steward the timeout and no more, and no error."""
    server: Server = own_servers.server()
    client = open_broker(server.url(), timeout=0.3)
    server.pause()
    began = time.monotonic()
    bell = client.doorbell("node")
    bell.answer()
    assert bell.fileno() == -1
    assert time.monotonic() - began < 0.3 + 0.5
    server.go_on()
    until(lambda: bell.fileno() >= 0, "it has subscribed", timeout=AGAIN_AFTER + PATIENCE)
    bell.close()
