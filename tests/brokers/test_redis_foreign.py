"""Redis: what another program, or an older mistake, left in our keys is set aside with its reason; the rest goes on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from poolrt.brokers.redis import calls
from poolrt.brokers.redis.channel import Deadline
from poolrt.brokers.redis.mending import repair
from poolrt.errors import BrokerDamaged, Fenced
from poolrt.message import Enqueue, Filled, NewGroup, Outcome, Owner, new_task_id
from poolrt.states import TaskState
from poolrt.terms import Gate, Slot, Unique
from tests.brokers.foreign_store import A_RECORD, Store, living
from tests.brokers.waiter import Waiter
from tests.servers import Server


@pytest.fixture
def store(redis_server: Server) -> Iterator[Store]:
    """See ``Store``."""
    made = Store(redis_server)
    yield made
    made.close()


KEYS = [
    "msg", "ready:default", "ready:other", "suspect:default", "delayed", "held:inc/0.1", "own:inc", "nodes", "beats",
    "gone", "queues", "wake:default", "wake", "res", "expiry", "ended:failed", "ended:succeeded", "ended:cancelled",
    "seq", "waiters", "cancel", "leaks", "quarantine", "gates", "opens", "slots", "unique", "behind:default",
    "open:default", "ready:default\0slot", "ready:default\0token",
    "ready:default\0open", "swept", "group:g", "filled:g", "groups", "planned",
]  # fmt: skip
KINDS: dict[str, tuple[object, ...]] = {
    "string": ("SET", "not poolrt's"),
    "list": ("RPUSH", "not poolrt's"),
    "stream": ("XADD", "*", "not", "poolrt's"),
}


def test_every_key_is_tried(store: Store) -> None:
    """The list above is what a namespace with something of everything has."""
    store.fill()
    found = {key.partition(":")[2] for key in store.server.call("KEYS", store.key("*"))} - {"wake:other"}
    found = {key for key in found if not key.startswith("producer:")}  # a random name, for ten minutes
    assert found - set(KEYS) == set()
    assert set(KEYS) - found <= {"wake", "waiters", "quarantine", "ended:cancelled", "swept"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", KEYS)
def test_a_key_of_another_program(store: Store, name: str, kind: str) -> None:
    """It is renamed and the reason kept; every message whose envelope is still there runs, and new ones do."""
    ids = store.fill()
    ours = store.call("TYPE", name)
    if ours == kind or (name in {"wake", "quarantine"} and kind == "list"):
        pytest.skip("it is of our type")
    store.call("DEL", name)
    command, *rest = KINDS[kind]
    store.call(str(command), name, *rest)
    store.go_on()
    expected = living(ids) - ({"body"} if name == "group:g" else set()) if name != "msg" else set()
    assert (expected | {store.new}) - store.ran == set()
    assert store.without_record(expected | {store.new}) == []
    used = name not in {"gone", "waiters", "ended:cancelled", "wake", "quarantine", "expiry", "ended:failed", "swept"}
    aside = store.server.call("KEYS", store.key(f"foreign:{name}:*"))
    if used or aside:
        assert [store.server.call("TYPE", key) for key in aside] == [kind]
        assert any(f"a key of type {kind} where poolrt keeps a" in reason for reason in store.reasons())


@pytest.mark.parametrize(
    "name", [*KEYS, "ready:new", "wake:new", "ready:newer", "ready:new\0k", "behind:new", "open:new"]
)
def test_the_end_of_a_task_is_not_lost(store: Store, name: str) -> None:
    """A settle that meets another program's key is done, or the task runs again: none of its follow-ups is missing."""
    store.put()
    store.put()
    if name == "msg":
        pytest.skip("all envelopes are gone")
    store.put("other")
    first, second, other = store.settle([], 3)
    links = [Enqueue(new_task_id(), b"link", queue, 0, None) for queue in ("new", "newer", "new")]
    links.append(Enqueue(new_task_id(), b"link", "default", 0, store.clock.wall() + 50))
    links.append(Enqueue(new_task_id(), b"link", "new", 0, None, "t", Gate("k", slots=9), Unique("key")))
    retry = Enqueue(second.task_id, b"retry", "default", 0, None)
    outcomes = [
        Outcome(first, TaskState.SUCCEEDED, b"ran", follow_ups=(links[0],)),
        Outcome(second, None, None, follow_ups=(retry, *links[1:])),
    ]
    store.call("DEL", name)
    store.call("SET", name, "not poolrt's")
    for _ in range(3):
        try:
            store.settle(outcomes, 0)
            break
        except BrokerDamaged:
            left = store.resume([outcome.delivery for outcome in outcomes])
            outcomes = [outcome for outcome in outcomes if outcome.delivery in left]
        except Fenced:  # it is lost with its owner, and runs again
            store.restart()
            break
    store.go_on()
    if first.envelope not in store.envelopes:
        assert links[0].id in store.ran
    if second.envelope not in store.envelopes:
        assert {each.id for each in (retry, *links[1:])} - store.ran == set()
    assert store.without_record({first.task_id, second.task_id, other.task_id}) == []


@pytest.mark.parametrize(
    "name", ["group:g", "filled:g", "groups", "planned", "res", "expiry", "ended:failed", "delayed", "unique",
             "ready:link", "wake:link", "group:outer", "filled:outer", "seq"],
)  # fmt: skip
@pytest.mark.parametrize("fails", [False, True])
def test_the_end_of_a_member_is_not_lost(store: Store, name: str, *, fails: bool) -> None:
    """A settle that meets another program's key does all that it does to its groups, or nothing, and is done again."""
    link = Enqueue("body", b"link", "link", 0, None, last="end")
    errback = Enqueue("errback", b"link", "link", 0, None)
    outer = NewGroup("outer", 1, link._replace(id="outer-body", last=""), 1000, None, (errback._replace(id="sorry"),))
    inner = NewGroup("g", 2, link, 1000, Slot("outer", 0), (errback,))
    members = [Enqueue(f"g.{index}", b"", "default", 0, None) for index in (0, 1)]
    store.broker.enqueue(members, [outer, inner])
    first, second = store.settle([], 2)
    store.settle([Outcome(first, TaskState.SUCCEEDED, A_RECORD, filled=Filled(Slot("g", 0)))], 0)
    store.call("DEL", name)
    store.call("XADD", name, "*", "not", "poolrt's")
    filled = Filled(Slot("g", 1), A_RECORD if fails else None)
    outcome = Outcome(second, TaskState.FAILED, A_RECORD, filled=filled)
    for _ in range(3):
        try:
            store.settle([outcome], 0)
            break
        except BrokerDamaged:
            if not store.resume([second]):
                break
    ran = {each.task_id for each in store.settle([], 9)}
    if name == "group:g":
        assert ran == set()
    elif fails:
        assert ran == {"errback"} | ({"sorry"} if name != "group:outer" else set())
        for ended in ("body", "end"):
            found = store.broker.find(ended)
            assert found
            assert found.record == A_RECORD
    else:
        assert ran == {"body"}
        assert store.broker.find("end").state is TaskState.PLANNED
    assert store.without_record({"g.1"}) == ["g.1"]  # it has one of another text
    assert store.broker.find("g.1").record == A_RECORD


@pytest.mark.parametrize("name", ["planned", "seq", "res", "expiry", "ended:failed", "ended:cancelled", "groups"])
@pytest.mark.parametrize("is_cancelled", [False, True])
def test_the_end_of_a_chain_is_not_lost(store: Store, name: str, *, is_cancelled: bool) -> None:
    """Nor are the records of later steps, nor what happens instead of the next attempt of what was cancelled."""
    task = store.put()
    (held,) = store.settle([], 1)
    outcome = Outcome(held, TaskState.FAILED, A_RECORD, also=(("end", A_RECORD),))
    if is_cancelled:
        store.broker.cancel_held(task)
        instead = msgspec.structs.replace(outcome, state=TaskState.CANCELLED)
        outcome = Outcome(held, None, if_cancelled=instead)
    store.call("DEL", name)
    store.call("XADD", name, "*", "not", "poolrt's")
    for _ in range(3):
        try:
            store.settle([outcome], 0)
            break
        except BrokerDamaged:
            if not store.resume([held]):
                break
    for ended in (task, "end"):
        found = store.broker.find(ended)
        assert found
        assert found.record == A_RECORD
    assert store.broker.depth()[:3] == (0, 0, 0)


@pytest.mark.parametrize("name", ["expiry", "ended:failed", "ready:link", "planned", "seq"])
def test_a_group_that_a_call_lets_fail(store: Store, name: str) -> None:
    """It fails wholly: what the call met is set aside before anything of it is done."""
    link = Enqueue("body", b"link", "link", 0, None)
    store.broker.enqueue([], [NewGroup("g", 2, link, 1000, None, (link._replace(id="errback"),))])
    store.call("DEL", name)
    store.call("XADD", name, "*", "not", "poolrt's")
    assert store.broker.fail_group("g", A_RECORD)
    assert [each.task_id for each in store.settle([], 9)] == ["errback"]
    assert store.broker.ended(TaskState.FAILED)[0].record == A_RECORD


def test_the_list_of_groups_is_made_anew(store: Store) -> None:
    """Where another program's key was in its place: what is past its time is deleted as ever."""
    store.broker.enqueue([], [NewGroup("g", 2, Enqueue("body", b"", "default", 0, None), 1000)])
    store.call("DEL", "groups")
    store.call("SET", "groups", "not poolrt's")
    store.broker.purge()
    assert store.call("ZRANGE", "groups", 0, -1) == ["g"]
    store.clock.advance(1001)
    store.broker.purge()
    assert store.call("EXISTS", "group:g") == 0


def test_a_delayed_message_keeps_its_time(store: Store) -> None:
    """Where its place was in a key of another program, it waits on."""
    task = store.put(eta=store.clock.wall() + 100)
    store.call("SET", "delayed", "not poolrt's")
    store.drain()
    assert store.broker.promote() == pytest.approx(100)
    assert store.ran == set()
    store.clock.advance(100)
    store.broker.promote()
    store.drain()
    assert store.ran == {task}


def test_what_is_behind_gates_is_counted_again(store: Store) -> None:
    """Where the key that has it in the order of its queue was another program's."""
    ids = store.fill()
    store.call("DEL", "behind:default")
    store.call("SET", "behind:default", "not poolrt's")
    store.broker.depth()
    shown = {found.id for found in store.broker.peek("default")}
    assert shown >= {ids[what] for what in ("no slot", "no token", "open")}
    assert store.broker.depth().reserved == 3


def test_the_order_outlives_the_counter(store: Store) -> None:
    """Messages enqueued after the counter was lost run after those before it."""
    first = [store.put() for _ in range(3)]
    store.call("DEL", "seq")
    store.call("RPUSH", "seq", "not poolrt's")
    last = store.put()
    assert [each.task_id for each in store.settle([], 9)] == [*first, last]


@pytest.mark.parametrize(("name", "field"), [("beats", "inc"), ("own:inc", "0.1"), ("seq", None)])
def test_a_number_that_is_none(store: Store, name: str, field: str | None) -> None:
    """Of a counter, a beat or an epoch: said, and the rest goes on."""
    ids = store.fill()
    if field is None:
        store.call("SET", name, "many")
    else:
        store.call("HSET", name, field, "many")
    store.go_on()
    assert living(ids) - store.ran == set()


@pytest.mark.parametrize("name", ["nodes", "own:inc"])
def test_who_was_registered_in_such_a_key_is_barred(store: Store, name: str) -> None:
    """Nobody knows any more which owners were barred: all of that start are, and what they held is suspect."""
    task = store.put()
    (held,) = store.settle([], 1)
    store.call("DEL", name)
    store.call("SET", name, "not poolrt's")
    store.broker.others()
    store.broker.running(Owner("inc", 0, 1), 1, 0)
    store.broker.cancel_held(task)
    for refused in (
        lambda: store.settle([Outcome(held, TaskState.SUCCEEDED, b"late")], 0),
        store.child.resume,
        lambda: store.broker.renew("inc"),
        lambda: store.broker.join("inc", "node"),
    ):
        with pytest.raises(Fenced):
            refused()
    assert store.call("EXISTS", "held:inc/0.1") == 0
    store.restart()
    (again,) = store.settle([], 5)
    assert (again.task_id, again.suspect) == (task, True)


def test_a_repair_that_takes_long(store: Store) -> None:
    """It does not hold its caller for longer than its timeout: a steward's tick goes on where it stopped."""
    items = [Enqueue(new_task_id(), b"", "default", 0, None) for _ in range(5000)]
    store.broker.enqueue(items)
    store.call("DEL", "ready:default")
    store.call("SET", "ready:default", "not poolrt's")
    store.broker._calls.attempt(lambda channel: repair(channel, store.clock.wall(), Deadline(0)))
    assert 0 < store.broker.depth().queued < 5000
    store.broker.nudge()
    assert store.broker.depth().queued == 5000
    assert store.call("EXISTS", "mending") == 0
    assert [each.task_id for each in store.settle([], 20)] == [each.id for each in items[:20]]


def test_a_wait_on_another_programs_key(store: Store) -> None:
    """It is trouble, after which the key is set aside and the child waits on."""
    store.put()
    store.call("DEL", "wake:default")
    store.call("SET", "wake:default", "not poolrt's")
    wake = Waiter(store.child)
    wake.arm()
    with pytest.raises(BrokerDamaged):
        wake.take()
    store.child.resume()
    wake.arm()
    store.broker.nudge()
    assert wake.take()


@pytest.mark.parametrize("key", ["expiry", "ended:succeeded", "wake:default", "wake", "waiters", "cancel", "slots"])
def test_a_settle_that_meets_another_programs_key(store: Store, key: str) -> None:
    """What it did is not undone by the repair: a task that ended is not queued again."""
    task = store.put()
    (held,) = store.settle([], 1)
    store.call("DEL", key)
    store.call("SET", key, "not poolrt's")
    outcome = Outcome(held, TaskState.SUCCEEDED, b"ran")
    try:
        store.settle([outcome], 0)
    except BrokerDamaged:
        if store.child.resume():
            store.settle([outcome], 0)
    assert store.settle([], 5) == []
    found = store.broker.find(task)
    assert found
    assert found.record == b"ran"


OF_TERMS = ["gates", "opens", "unique", "behind:default", "open:default", "ready:default\0k", "suspect:default\0k"]


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("key", ["ready:default", "wake:default", "wake", "delayed", "planned", "queues", *OF_TERMS])
def test_an_enqueue_that_meets_another_programs_key(store: Store, key: str, count: int) -> None:
    """It is repeated after the repair as the same call: nothing is stored again that has run meanwhile."""
    store.call("DEL", key)
    store.call("SET", key, "not poolrt's")
    terms = ("t", Gate("k", slots=9), Unique("key")) if key in OF_TERMS else ()
    items = [Enqueue(new_task_id(), b"", "default", 0, None, *terms) for _ in range(count)]
    items[1:] = [each._replace(unique=None) for each in items[1:]]
    repaired = calls.repair

    def repair_and_run(*told: Any) -> None:
        repaired(*told)
        for each in store.settle([], 5):
            store.settle([Outcome(each, TaskState.SUCCEEDED)], 0)
            ran.append(each.task_id)

    ran: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calls, "repair", repair_and_run)
        store.broker.enqueue(items)
    ran += [each.task_id for each in store.settle([], 5)]
    assert sorted(ran) == sorted(each.id for each in items)
