"""Redis: who is told what, when. Nobody polls: idle children and stewards wait on the server."""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterator

import pytest

from poolrt.brokers.redis import RedisBroker
from poolrt.brokers.redis.bell import AGAIN_AFTER
from poolrt.brokers.redis.wake import WAIT, Wake
from poolrt.clock import FakeClock
from poolrt.message import Enqueue, Outcome, Owner, Requeue, new_task_id
from poolrt.states import TaskState
from tests.servers import Server, Servers, until

Child = Callable[..., RedisBroker]
Put = Callable[..., list[str]]
Idle = Callable[..., Wake]

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
        client.attach(Owner("inc", slot, generation), queues)
        return client

    return make


@pytest.fixture
def idle(child: Child, broker: RedisBroker) -> Iterator[Idle]:
    """``idle(slot, queues=())``: where that child waits; the server has heard of it, and of the queue "default"."""
    made: list[Wake] = []
    broker.pause("default")
    broker.unpause("default")

    def make(slot: int = 9, queues: tuple[str, ...] = (), client: RedisBroker | None = None) -> Wake:
        before = blocked(broker)
        made.append((client or child(slot, queues=queues)).wake_source())
        made[-1].arm()
        until(lambda: blocked(broker) > before, "the child waits")
        return made[-1]

    yield make
    for wake in made:
        wake.close()


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


def came(*wakes: Wake, seconds: float = PATIENCE) -> Wake | None:
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
    dying.close()  # it had the token and did nothing with it
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
    assert not wake.take(), "not armed: nothing to take"
    assert not came(wake, seconds=NOT_YET)
    put()
    assert came(wake)


def test_arming_twice_is_once(idle: Idle, put: Put) -> None:
    """The descriptor is the same, and one token is one answer."""
    wake = idle()
    assert wake.arm() == wake.arm()
    put()
    assert came(wake)
    assert not came(wake, seconds=NOT_YET)


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


def test_a_wake_source_that_was_closed(idle: Idle, put: Put) -> None:
    """It opens again when it is armed."""
    wake = idle()
    wake.close()
    wake.close()
    assert not wake.take()
    assert not wake.is_silent()
    put()
    assert came(wake)


def test_silence(own_servers: Servers, open_broker: Child) -> None:
    """A server that is stopped answers no wait: the watchdog sees it; a living one's wait is never overdue."""
    server = own_servers.server()
    client = open_broker(server.url(), timeout=0.5)
    client.join("inc", "node")
    client.attach(Owner("inc", 0, 1))
    wake = client.wake_source()
    wake.arm()
    assert not wake.is_silent()
    assert not came(wake, seconds=WAIT + 0.1)
    assert not wake.is_silent()
    wake.arm()
    server.pause()
    until(wake.is_silent, "it is seen", timeout=WAIT + 0.5 + PATIENCE)
    assert not select.select([wake.arm()], [], [], 0)[0]
    wake.close()
    server.go_on()
    put_one(client)
    assert came(wake)
    wake.close()


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
