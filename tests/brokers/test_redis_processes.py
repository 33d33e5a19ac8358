"""Redis: forks, threads and interruptions while connections are open."""

from __future__ import annotations

import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

import pytest

from poolrt.brokers.redis import RedisBroker
from poolrt.message import Enqueue, Outcome, Owner, new_task_id
from poolrt.shielding import SHIELD
from poolrt.states import TaskState
from tests.brokers.waiter import Waiter
from tests.certificates import Certificates
from tests.servers import Server, Servers, tls_binary, until

Script = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def broker(redis_url: str) -> Iterator[RedisBroker]:
    """A client of a namespace of this test alone."""
    made = RedisBroker(redis_url)
    yield made
    made.close()


def put(broker: RedisBroker) -> str:
    task = new_task_id()
    assert broker.enqueue([Enqueue(task, task.encode(), "default", 0, None)]) == [True]
    return task


FORK = """
import os, select, sys
from poolrt.brokers.urls import broker_from_url
from poolrt.message import Enqueue, Owner

broker = broker_from_url(sys.argv[1])
put = lambda name, eta=None: broker.enqueue([Enqueue(name, b"", "default", 0, eta)])
broker.join("inc", "node")
broker.attach(Owner("inc", 0, 1))
put("first")
broker.submit([], 1, 1)
bell = broker.doorbell("node")
pid = os.fork()
if pid == 0:
    code = 1
    try:
        for each in (broker, bell):  # all that a child does on its way out
            each.close()
        assert put("child") == [True]
        for each in (broker, bell):
            each.close()
        code = 0
    finally:
        os._exit(code)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
assert [delivery.task_id for delivery in broker.answer().deliveries] == ["first"]
assert broker.resume() == [(1, 0)]
wait = broker.submit_when_woken(0, 2)
pid = os.fork()
if pid == 0:
    broker.close()
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
put("second")
assert select.select([wait], [], [], 10)[0] and broker.answer().woken
put("later", 4e9)
assert select.select([bell.fileno()], [], [], 10)[0]
for each in (broker, bell):
    each.close()
print("good")
"""


def test_a_fork_closes_nothing_of_its_parents(redis_url: str, script: Script) -> None:
    """What the child closes are its copies: an answer on its way, a wait and a subscription reach the parent."""
    process = script("import warnings; warnings.simplefilter('ignore')\n" + FORK, redis_url)
    said, _ = process.communicate()
    assert said == "good\n"


def test_many_threads(own_servers: Servers) -> None:
    """Each has a connection while it calls; afterwards no more than a few are kept."""
    server: Server = own_servers.server()
    broker, failures = RedisBroker(server.url()), list[BaseException]()
    gate = threading.Barrier(30)

    def call() -> None:
        try:
            for _ in range(10):
                gate.wait(30)
                task = put(broker)
                found = broker.find(task)
                assert found
                assert found.envelope == task.encode()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=call) for _ in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert broker.depth().queued == 300
    kept = [line for line in server.call("CLIENT", "LIST").splitlines() if "name=poolrt" in line]
    assert len(kept) <= 8
    broker.close()


class Interrupted(BaseException):
    """What a soft limit raises."""


def interrupt(*_: object) -> None:
    """The handler of a soft limit that comes at once where it may."""
    if SHIELD.depth:
        SHIELD.pending = deliver
    else:
        raise Interrupted


def deliver(_: FrameType) -> None:
    raise Interrupted


@pytest.fixture
def interrupted() -> Iterator[None]:
    """SIGALRM interrupts as a soft limit does."""
    former = signal.signal(signal.SIGALRM, interrupt)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, former)
    SHIELD.take_down()


@pytest.mark.usefixtures("interrupted")
def test_a_soft_limit_in_a_call(broker: RedisBroker) -> None:
    """It is held off until the call has its answer: no connection is left with another caller's value on it."""
    tasks = [put(broker) for _ in range(5)]
    hits = 0
    for number in range(400):
        task = tasks[number % 5]
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.00002 + number % 20 * 0.00002)
            found = broker.find(task)
            signal.setitimer(signal.ITIMER_REAL, 0)
        except Interrupted:
            hits += 1
        else:
            assert found
            assert (found.id, found.envelope) == (task, task.encode())
        SHIELD.take_down()
    assert hits > 20
    assert len(broker._calls._idle) == 1, "it was the same connection all the time"


@pytest.mark.usefixtures("interrupted")
def test_a_soft_limit_in_a_wait(broker: RedisBroker, redis_server: Server) -> None:
    """It ends the wait at once, and nobody is told of the end any more."""
    task = put(broker)
    began = time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    with pytest.raises(Interrupted):
        broker.wait(task, 30)
    assert time.monotonic() - began < 2
    assert redis_server.call("EXISTS", broker._key("waiters")) == 0


@pytest.mark.parametrize("how", ["tcp", "tls", "socket file"])
def test_every_kind_of_connection(own_servers: Servers, certificates: Certificates, how: str) -> None:
    """One connection serves all calls; a wait, a wake and the bell come through whatever buffers above the socket."""
    if how == "tls":
        server = own_servers.server(program=tls_binary(), tls=certificates)
        broker = RedisBroker(server.url(ca_file=certificates.ca))
    else:
        server = own_servers.server()
        broker = RedisBroker(server.url() if how == "tcp" else server.socket_url())
    broker.join("inc", "node")
    opened = connections(server)
    tasks = [put(broker) for _ in range(20)]
    assert connections(server) - opened == 1, "only the one that asks"
    broker.attach(Owner("inc", 0, 1))
    held = broker.settle([], 1, 1).deliveries
    bell, wake = broker.doorbell("node"), Waiter(broker)
    for _ in range(3):
        while not (select.select([wake.arm()], [], [], 10)[0] and wake.take()):
            broker.nudge()
        for eta in (9e9, 8e9, 7e9):
            broker.enqueue([Enqueue(new_task_id(), b"", "default", 0, eta - len(tasks))])
        tasks.append("one more")
        assert select.select([bell.fileno()], [], [], 10)[0]
        bell.answer()
    answers = list[object]()
    waiter = threading.Thread(target=lambda: answers.append(broker.wait(tasks[0], 30)))
    waiter.start()
    until(lambda: server.call("EXISTS", "{poolrt}:waiters"), "it waits")
    broker.settle([Outcome(held[0], TaskState.SUCCEEDED, b"r")], 0, 2)
    waiter.join()
    assert answers
    for each in (bell, broker):
        each.close()


def connections(server: Server) -> int:
    """How many the server has taken."""
    return int(server.call("INFO", "stats").split("total_connections_received:")[1].split()[0])
