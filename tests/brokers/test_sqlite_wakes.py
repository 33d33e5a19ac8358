"""SQLite: who is told what, when. Nobody polls: idle children, stewards and waiters are woken by datagrams."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from poolrt.brokers.base import Broker, Found
from poolrt.brokers.sqlite import SqliteBroker
from poolrt.clock import FakeClock
from poolrt.message import Enqueue, Outcome, Owner, Requeue, new_task_id
from poolrt.posix.unix_sockets import bind_datagram
from poolrt.states import TaskState

Child = Callable[..., Broker]
Put = Callable[..., list[str]]
Listen = Callable[[str], socket.socket]


@pytest.fixture(scope="session")
def service() -> None:
    """The suite's own fixtures, for this broker alone: there is no server."""


@pytest.fixture
def listen(broker: Broker) -> Iterator[Listen]:
    """Binds a socket in the node directory, as a node's children and steward do."""
    sockets: list[socket.socket] = []

    def bind(name: str) -> socket.socket:
        sock = bind_datagram(broker.node_directory() / name, 0o600)
        sock.setblocking(False)
        sockets.append(sock)
        return sock

    yield bind
    for sock in sockets:
        sock.close()


def woken(sock: socket.socket) -> int:
    """How many datagrams have come; they are there when the call that sent them has returned."""
    count = 0
    while True:
        try:
            sock.recv(64)
        except BlockingIOError:
            return count
        count += 1


def test_enqueue_wakes_one_child_of_each_node(put: Put, listen: Listen) -> None:
    """One datagram to each node for each call, however many messages; a node that comes later is seen."""
    first = listen("a.wake")
    put(3)
    assert woken(first) == 1
    second = listen("b.wake")
    put(1)
    assert (woken(first), woken(second)) == (1, 1)


def test_a_dead_node_does_not_disturb(put: Put, listen: Listen) -> None:
    """A socket that nobody reads any more is passed over, and a full one never blocks."""
    listen("dead.wake").close()
    living = listen("living.wake")
    for _ in range(600):  # more than any queue of datagrams holds
        put(1)
    assert woken(living) > 0


def test_known_ids_wake_nobody(broker: Broker, put: Put, listen: Listen) -> None:
    """Nothing new, nothing to do."""
    (task,) = put()
    wake = listen("a.wake")
    broker.enqueue([Enqueue(task, b"", "default", 0, None)])
    assert woken(wake) == 0


def test_a_delayed_message_wakes_the_steward_only_if_it_is_the_next(put: Put, listen: Listen, clock: FakeClock) -> None:
    """The steward sleeps until the earliest eta; only an earlier one needs to wake it, and no child."""
    wake, steward = listen("a.wake"), listen("a.steward")
    put(1, eta=clock.wall() + 100)
    assert (woken(wake), woken(steward)) == (0, 1)
    put(1, eta=clock.wall() + 200)
    assert woken(steward) == 0
    put(2, eta=clock.wall() + 50)
    assert (woken(wake), woken(steward)) == (0, 1)


def test_whatever_queues_wakes(broker: Broker, child: Child, put: Put, listen: Listen, clock: FakeClock) -> None:
    """Promote, release, bury, rescue and a settle's follow-ups wake a child, and do not when they queue nothing."""
    wake, steward = listen("a.wake"), listen("a.steward")
    put(1, eta=clock.wall() + 1)
    broker.promote()
    assert woken(wake) == 0
    clock.advance(1)
    broker.promote()
    assert woken(wake) == 1

    client = child()
    (held,) = client.settle([], 1, 1).deliveries
    client.release([held])
    assert woken(wake) == 1
    client.release([held])
    assert woken(wake) == 0

    (held,) = client.settle([], 1, 2).deliveries
    broker.bury(Owner("inc", 0, 1), None)
    assert woken(wake) == 1
    broker.bury(Owner("inc", 0, 1), None)
    assert woken(wake) == 0

    (held,) = child(0, 2).settle([], 1, 1).deliveries
    woken(steward)
    broker.bury(Owner("inc", 0, 2), Requeue(held, 10))
    assert (woken(wake), woken(steward)) == (0, 1)
    clock.advance(10)
    broker.promote()
    woken(wake)

    client = child(0, 3)
    (held,) = client.settle([], 1, 1).deliveries
    link = Enqueue(new_task_id(), b"", "default", 0, None)
    (held,) = client.settle([Outcome(held, TaskState.SUCCEEDED, follow_ups=(link,))], 1, 2).deliveries
    assert woken(wake) == 0, "it took its own follow-up: nothing is left for another"
    link = Enqueue(new_task_id(), b"", "default", 0, None)
    client.settle([Outcome(held, TaskState.SUCCEEDED, follow_ups=(link,))], 0, 3)
    assert woken(wake) == 1

    client.settle([], 1, 4)
    broker.rescue("inc", [], suspect=True)
    assert woken(wake) == 1


def test_nudge_wakes_only_for_work(broker: Broker, put: Put, listen: Listen) -> None:
    """The steward's tick repeats a lost wake-up while something is queued."""
    wake = listen("a.wake")
    broker.nudge()
    assert woken(wake) == 0
    put()
    woken(wake)
    broker.nudge()
    assert woken(wake) == 1


def test_nudge_tells_a_waiter_whose_settler_died(
    broker: Broker,
    child: Child,
    put: Put,
    waiters: Callable[[Broker], int],
    wait_for: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A child killed between its commit and its datagrams leaves the telling to the steward's tick."""
    (task,) = put()
    client = child()
    (held,) = client.settle([], 1, 1).deliveries
    answers: list[Found | None] = []
    thread = threading.Thread(target=lambda: answers.append(broker.wait(task, 30)))
    thread.start()
    wait_for(lambda: waiters(broker), "it listens")
    with monkeypatch.context() as killed:
        killed.setattr("socket.socket.sendto", lambda *_: 0)
        client.settle([Outcome(held, TaskState.SUCCEEDED, b"r")], 0, 2)
    assert answers == []
    broker.nudge()
    thread.join(10)
    assert [found and found.record for found in answers] == [b"r"]


WAIT = """
import sys
from poolrt.brokers.urls import broker_from_url
broker = broker_from_url(sys.argv[1])
print(broker.wait(sys.argv[2], None), flush=True)
"""


def test_purge_removes_what_a_killed_waiter_left(
    broker: Broker,
    child: Child,
    put: Put,
    script: Callable[..., subprocess.Popen[str]],
    wait_for: Callable[..., None],
    node_dir: Path,
) -> None:
    """The row of a killed waiter goes when its task ends, its socket when it is old and no row names it."""
    (task,) = put()
    folder = broker.node_directory()
    process = script(WAIT, broker.url, task)
    wait_for(lambda: os.listdir(folder), "the waiter listens")
    process.kill()
    process.wait()
    client = child()
    client.settle([Outcome(client.settle([], 1, 1).deliveries[0], TaskState.SUCCEEDED)], 0, 2)
    broker.nudge()
    broker.purge()
    assert os.listdir(folder) != [], "it might be about to register"
    (name,) = os.listdir(folder)
    os.utime(folder / name, (1, 1))
    broker.purge()
    assert os.listdir(folder) == []


def test_long_paths(node_dir: Path, clock: FakeClock) -> None:
    """Sockets work in a folder whose path is longer than a socket address."""
    deep = node_dir / ("d" * 60) / ("e" * 60)
    deep.mkdir(parents=True)
    broker = SqliteBroker(deep / "q.db", clock=clock)
    with bind_datagram(broker.node_directory() / "a.wake", 0o600) as wake:
        broker.enqueue([Enqueue("task", b"", "default", 0, None)])
        assert select.select([wake], [], [], 10)[0]
    broker.wait("task", 0.01)
    broker.close()
