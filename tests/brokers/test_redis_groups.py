"""Redis: what groups cost the server, what is left of them, and answers that are lost on the way."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from poolrt.brokers.redis import RedisBroker
from poolrt.brokers.redis import broker as redis_broker
from poolrt.clock import FakeClock
from poolrt.errors import BrokerFull, BrokerUnreachable
from poolrt.message import Enqueue, NewGroup, Outcome, Owner
from poolrt.states import TaskState
from poolrt.terms import Slot
from tests.brokers.faults import Open, attached, sha
from tests.brokers.grouped import (
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
from tests.brokers.proxy import Proxy
from tests.servers import Server, Servers, until

MANY = 10_000


@pytest.fixture
def own(own_servers: Servers) -> Server:
    """A server of this test alone, so that it counts nobody else's commands."""
    return own_servers.server()


@pytest.fixture
def worker(own: Server, clock: FakeClock) -> Iterator[Worker]:
    """Its only client, attached as an owner."""
    broker = RedisBroker(own.url(), clock=clock)
    broker.join("inc", "node")
    broker.attach(Owner("inc", 0, 1))
    yield Worker(broker)
    broker.close()


def keys(server: Server) -> set[str]:
    """Those of groups and planned ids."""
    found = {key.partition(":")[2] for key in server.call("KEYS", "*")}
    return {key for key in found if key.partition(":")[0] in {"group", "groups", "filled", "planned"}}


def commands(server: Server, work: Callable[[], Any]) -> int:
    """How many commands it makes the server run, those of scripts too."""
    server.call("CONFIG", "RESETSTAT")
    work()
    return sum(int(count) for count in re.findall(r"calls=(\d+)", server.call("INFO", "commandstats")))


# ---- what it costs


def test_a_slot_costs_the_same_in_any_group(own: Server, worker: Worker) -> None:
    """As many commands for the group of 10,000, half of it filled, as for one of 20; two more for each slot more."""
    counted = []
    for name, size in (("few", 20), ("many", MANY)):
        worker.client.enqueue([item(f"{name}.{index}") for index in range(20)], [a_group(size, name)])
        for index in range(size // 2):
            own.call("SETBIT", "{poolrt}:filled:" + name, index, 1)
        one, two, *more, _ = [done(each, Slot(name, size - at)) for at, each in enumerate(worker.take(6), 1)]
        worker.end(one)
        counted += [commands(own, lambda: worker.end(two)), commands(own, lambda: worker.end(*more))]  # noqa: B023
        worker.end(*(Outcome(each, SUCCEEDED) for each in worker.take(20)))
    assert counted[:2] == counted[2:]
    assert counted[1] - counted[0] == 2 * 2  # each its bit and its record


def test_workflows_cost_others_nothing(own: Server, worker: Worker) -> None:
    """A settle of messages in none of them is as many commands as without any."""
    worker.client.enqueue(list(map(item, "abcdefgh")))
    held = [Outcome(each, SUCCEEDED, WHY) for each in worker.take(6)]
    worker.end(held[0])
    counted = [commands(own, lambda: worker.end(*held[1:3], reserve=1))]
    worker.client.enqueue([], [a_group(3, last="end")])
    counted.append(commands(own, lambda: worker.end(*held[3:5], reserve=1)))
    assert counted[0] == counted[1]


def test_what_a_large_group_takes(own: Server, worker: Worker) -> None:
    """A bit for each member, and its body; nothing of it is left when it is complete. All made by one settle."""
    worker.client.enqueue([item("start")])
    (start,) = worker.take()
    worker.end(Outcome(start, SUCCEEDED, follow_ups=tuple(members("g", MANY)), groups=(a_group(MANY),)))
    assert keys(own) == {"group:g", "groups", "planned"}
    for at in range(0, MANY, 1000):
        worker.end(*map(done, worker.take(1000)))
        if at == MANY - 2000:
            used = {name: own.call("MEMORY", "USAGE", "{poolrt}:" + name) for name in ("group:g", "filled:g")}
            assert used["group:g"] < 1000
            assert used["filled:g"] < 2500  # it grows by doubling
    assert keys(own) == set()
    assert ids(worker.take()) == ["g-body"]


# ---- what is left


def test_what_is_past_its_time_is_deleted(own: Server, worker: Worker, clock: FakeClock) -> None:
    """By the steward's purge, so many at a time; what is not stays."""
    names = [f"g{number}" for number in range(5)]
    worker.client.enqueue([item(f"{name}.0") for name in names], [a_group(2, name, ttl=10) for name in names])
    worker.client.enqueue([], [a_group(2, "long", ttl=1e6)])
    worker.end(*map(done, worker.take()))
    clock.advance(11)
    worker.client.purge(limit=3)
    assert len(keys(own)) == 2 * 2 + 3
    worker.client.purge(limit=3)
    assert keys(own) == {"group:long", "groups", "planned"}
    clock.advance(1e6)
    worker.client.purge(limit=3)
    worker.client.purge(limit=3)
    assert keys(own) == set()


def test_a_group_of_an_old_name(worker: Worker, clock: FakeClock) -> None:
    """Nothing of it is filled, though the one before it was not deleted yet; of two of one name the first is made."""
    worker.client.enqueue([*members("g", 2), item("one")], [a_group(2, ttl=10)])
    first, second, one = worker.take()
    worker.end(done(first))
    clock.advance(11)
    worker.client.enqueue([], [a_group(2), a_group(5)])
    worker.end(done(second))
    assert state(worker.client, "g-body") is TaskState.PLANNED
    assert ids(worker.end(done(one, Slot("g", 0)), reserve=9)[0]) == ["g-body"]


def test_since_when_a_body_waits(worker: Worker, clock: FakeClock) -> None:
    """Since it was enqueued, and not since its group was made; a body with a time of its own waits for that."""
    groups = [a_group(1), NewGroup("h", 1, Enqueue("timed", b"", "default", 0, clock.wall() + 100), 1000)]
    worker.client.enqueue([*members("g", 1), *members("h", 1)], groups)
    clock.advance(50)
    worker.end(*map(done, worker.take()))
    clock.advance(1)
    assert worker.client.depth().oldest == pytest.approx(1)
    assert state(worker.client, "timed") is TaskState.DELAYED
    worker.take()
    clock.advance(100)
    worker.client.promote()
    assert worker.client.depth().oldest == pytest.approx(51)


def test_what_cannot_be_read_of_a_group(own: Server, worker: Worker) -> None:
    """It stops nobody: the member ends, and the group does as far as it is known."""
    damaged = {"body": "garbage", "ids": b"\xd9", "outer": b"\xd9", "size": "many", "until": "", "ttl": "x"}
    for field, value in damaged.items():
        worker.client.enqueue(members(field, 1), [a_group(1, field)])
        own.call("HSET", "{poolrt}:group:" + field, field, value)
    assert worker.end(*map(done, worker.take()), reserve=9) == ([], 0)
    assert {state(worker.client, f"{field}.0") for field in damaged} == {SUCCEEDED}


def test_what_succeeds_ahead(worker: Worker) -> None:
    """Its record is among those of its state, whichever that is."""
    worker.client.end_ahead([("ahead", a_record("ahead", SUCCEEDED)), ("failed", WHY)], 10)
    for its_state, name in ((SUCCEEDED, "ahead"), (TaskState.FAILED, "failed")):
        assert [each.id for each in worker.client.ended(its_state)] == [name]


def test_a_full_server(own: Server, worker: Worker) -> None:
    """What is planned can be cancelled, and groups fail; none is made."""
    worker.client.enqueue(members("g", 1), [a_group(1)])
    own.call("CONFIG", "SET", "maxmemory", 1)
    worker.client.timeout = 0.2
    with pytest.raises(BrokerFull):
        worker.client.enqueue([], [a_group(1, "h")])
    assert worker.client.end_ahead([("ahead", WHY)], 10) == [True]
    assert worker.client.fail_group("g", WHY)
    own.call("CONFIG", "SET", "maxmemory", 0)
    assert not worker.client.fail_group("h", WHY)


@pytest.mark.parametrize("way", ["also", "member", "end_ahead", "fail_group"])
def test_who_waits_for_what_will_not_come(
    own: Server, worker: Worker, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Is told in the same step that gave it a record, and does not find it by looking now and then."""
    monkeypatch.setattr(redis_broker, "_LOOK_AGAIN", 60.0)
    client = worker.client
    client.enqueue([item("step", "later"), *members("g", 1)], [a_group(1)])
    step, member = worker.take()
    later = "later" if way in ("also", "end_ahead") else "g-body"
    waiter = RedisBroker(own.url(), clock=clock)
    with contextlib.closing(waiter), ThreadPoolExecutor() as pool:
        waiting = pool.submit(waiter.wait, later, 12)
        until(lambda: own.call("HEXISTS", "{poolrt}:waiters", later), "somebody waits")
        ways: dict[str, Callable[[], object]] = {
            "also": lambda: worker.end(Outcome(step, TaskState.FAILED, WHY, also=((later, WHY),))),
            "member": lambda: worker.end(failed(member)),
            "end_ahead": lambda: client.end_ahead([(later, WHY)], 10),
            "fail_group": lambda: client.fail_group("g", WHY),
        }
        ways[way]()
        found = waiting.result(6)
    assert found is not None
    assert found.record == WHY


def test_how_long_the_record_of_a_body_is_kept(worker: Worker, clock: FakeClock) -> None:
    """As long as its group would have been known, from its failure on."""
    worker.client.enqueue(members("g", 1), [a_group(1, ttl=100)])
    clock.advance(50)
    worker.end(failed(worker.take()[0]))
    clock.advance(99)
    worker.client.purge()
    assert kept(worker.client, "g-body") == WHY
    clock.advance(2)
    worker.client.purge()
    assert kept(worker.client, "g-body") is None


# ---- an answer that is lost


@pytest.fixture
def behind(server: Server, proxy: Proxy, open_redis: Open) -> RedisBroker:
    """A client behind the proxy, attached as an owner, whose scripts the server has read."""
    broker = attached(open_redis(server.url().replace(str(server.port), str(proxy.port))))
    broker.end_ahead([("nobody", WHY)], 10)
    broker.fail_group("nobody", WHY)
    return broker


def test_a_lost_answer_of_an_enqueue(behind: RedisBroker, proxy: Proxy) -> None:
    """The group is made once."""
    proxy.lose_answer(sha("enqueue"))
    assert behind.enqueue(members("g", 1), [a_group(1)]) == [True]
    assert proxy.seen == 1
    worker = Worker(behind)
    assert ids(worker.end(done(worker.take()[0]), reserve=9)[0]) == ["g-body"]


@pytest.mark.parametrize("ends", [done, failed])
def test_a_lost_answer_of_a_settle(behind: RedisBroker, proxy: Proxy, ends: Any) -> None:
    """What follows comes once: whoever settles it again after the resume is told that it is stale."""
    behind.enqueue(members("g", 1), [a_group(1, errbacks=["sorry"])])
    (held,) = behind.settle([], 1, 1).deliveries
    proxy.lose_answer(sha("settle"))
    behind.submit([ends(held)], 0, 2)
    with pytest.raises(BrokerUnreachable):
        behind.answer()
    assert behind.resume() == []
    settled = behind.settle([ends(held)], 9, 3)
    assert settled.stale == 1
    (follows,) = settled.deliveries
    assert follows.task_id == ("g-body" if ends is done else "sorry")
    behind.settle([Outcome(follows, SUCCEEDED)], 0, 4)
    assert behind.settle([ends(held)], 9, 5).deliveries == []


def test_a_late_settle_of_a_member(behind: RedisBroker, proxy: Proxy) -> None:
    """What a cut connection still brings after the resume fills nothing; settled anew it does."""
    behind.enqueue(members("g", 1), [a_group(1)])
    (held,) = behind.settle([], 1, 1).deliveries
    proxy.delay(sha("settle"))
    behind.submit([done(held)], 0, 2)
    with pytest.raises(BrokerUnreachable):
        behind.answer()
    assert behind.resume() == [(1, 0)]
    assert proxy.deliver() == b"$-1\r\n"
    assert state(behind, "g-body") is TaskState.PLANNED
    assert behind.settle([done(held)], 0, 3).stale == 0
    assert state(behind, "g-body") is TaskState.QUEUED


def test_a_lost_answer_of_an_end_ahead(behind: RedisBroker, proxy: Proxy) -> None:
    """It was this call that kept them, and it says so; of those that had one before it does not."""
    behind.end_ahead([("known", a_record("before"))], 10)
    proxy.lose_answer(sha("end_ahead"))
    assert behind.end_ahead([("known", WHY), ("new", WHY)], 10) == [False, True]
    assert proxy.seen == 1
    assert behind.end_ahead([("new", WHY)], 10) == [False]
    assert kept(behind, "known") == a_record("before")


def test_a_lost_answer_of_a_failing_group(behind: RedisBroker, proxy: Proxy) -> None:
    """It was this call that let it fail."""
    behind.enqueue([], [a_group(1), a_group(1, "h")])
    proxy.lose_answer(sha("fail_group"))
    assert behind.fail_group("g", WHY)
    assert proxy.seen == 1
    assert not behind.fail_group("g", WHY)
    assert kept(behind, "g-body") == WHY


def test_calls_in_doubt_are_told_apart(proxy: Proxy, server: Server, open_redis: Open) -> None:
    """By the groups that they make, too: another one is not taken for the call that failed."""
    broker = open_redis(server.url().replace(str(server.port), str(proxy.port)) + "?retry=no")
    broker.enqueue([item("any")])
    proxy.lose_answer(sha("enqueue"))
    with pytest.raises(BrokerUnreachable):
        broker.enqueue([], [a_group(1)])
    broker.enqueue([], [a_group(1, "h")])
    assert broker.fail_group("g", WHY)
    assert broker.fail_group("h", WHY)
