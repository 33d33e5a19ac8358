"""Redis: what another program, or an older mistake, left in our keys is set aside with its reason; the rest goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings

from poolrt.brokers.redis import calls
from poolrt.brokers.redis.channel import Deadline
from poolrt.brokers.redis.mending import repair
from poolrt.brokers.redis.wire import is_readable
from poolrt.errors import BrokerDamaged, Fenced
from poolrt.hygiene.findings import LeakTable
from poolrt.message import Enqueue, Outcome, Owner, Requeue, new_task_id
from poolrt.states import TaskState
from poolrt.terms import Gate, Unique
from tests.brokers.foreign_store import LEAK, Store, living
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
    "ready:default\0open", "swept",
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
    expected = living(ids) if name != "msg" else set()
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


GARBAGE = {
    "empty": b"", "text": b"hello", "number": b"\x01", "bytes": bytes(range(256)), "nothing": b"\xc0",
    "too short": msgspec.msgpack.encode([1, 0, 0, 0]),
    "wrong types": msgspec.msgpack.encode(["1", None, {}, 0.5, "now", 7, 7, 7, 7]),
    "no priority": b"\x99" + msgspec.msgpack.encode([1, 0, 0, 77, 1.0, "default", "t", "id", "e"])[1:],
    "many lost": b"\x99" + msgspec.msgpack.encode([1, "many", 0, 0, 1.0, "default", "t", "id", "e"])[1:],
    "no envelope": b"\x99" + msgspec.msgpack.encode([1, 0, 0, 0, 1.0, "default", "t", "id", 5])[1:],
    "not a number": b"\x99" + msgspec.msgpack.encode([1, 0, 0, float("nan"), 1.0, "default", "t", "id", "e"])[1:],
    "wide number": b"\x99\xd3" + bytes(7) + b"\x01\x00\x00\x00" + msgspec.msgpack.encode([1.0, "q", "t", "i", "e"])[1:],
}  # fmt: skip


@pytest.mark.parametrize("where", ["queued", "another", "suspect", "delayed", "held"])
@pytest.mark.parametrize("what", GARBAGE)
def test_garbage_for_a_message(store: Store, what: str, where: str) -> None:
    """It is kept in the quarantine; all others run, and nothing is counted as waiting or held any more."""
    ids = store.fill()
    bad = ids.pop(where)
    store.call("HSET", "msg", bad, GARBAGE[what])
    assert store.broker.find(bad) is not None
    store.broker.peek("default")
    store.broker.to_cancel("inc")
    store.go_on()
    assert living(ids) - store.ran == set()
    if not is_readable(GARBAGE[what]):
        assert bad not in store.ran
        assert [reason for reason in store.reasons() if bad in reason]


@pytest.mark.parametrize("way", ["bury", "requeue", "rescue", "release", "recall", "cancel", "move", "empty"])
@pytest.mark.parametrize("what", GARBAGE)
def test_garbage_is_met_by_everybody(store: Store, what: str, way: str) -> None:
    """Whoever puts back, moves or ends it neither fails nor loses the others."""
    good, bad = store.put(), store.put()
    owner = Owner("inc", 0, 1)
    held = store.settle([], 2) if way in {"bury", "requeue", "rescue", "release", "recall"} else []
    store.call("HSET", "msg", bad, GARBAGE[what])
    match way:
        case "bury":
            store.broker.bury(owner, None)
        case "requeue":
            store.broker.bury(owner, Requeue(held[1], 5.0))
        case "rescue":
            store.broker.rescue("inc", [Requeue(held[1], 0)], suspect=True)
        case "release":
            store.child.release(held)
        case "recall":
            store.broker.recall(owner, (0, 0), 1)
        case "cancel":
            with pytest.raises(BrokerDamaged) if store.broker.find(bad).state is TaskState.QUEUED else no_error():
                store.broker.cancel(bad, lambda delivery: Outcome(delivery, TaskState.CANCELLED, b""))
        case "move":
            store.broker.move("default", "elsewhere")
        case "empty":
            store.broker.empty("default", 1)
            good = store.put()
    if way in {"bury", "requeue", "rescue"}:
        store.restart()
    store.go_on()
    assert good in store.ran


class no_error:  # noqa: N801  used as pytest.raises is
    """Nothing is to be raised."""

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def test_unknown_ids(store: Store) -> None:
    """Ids without a message, in a queue, among the delayed and held: named in the quarantine, and passed over."""
    ids = store.fill()
    store.call("ZADD", "ready:default", 0, b"\xff\xfe", 1, "unknown")
    store.call("ZADD", "delayed", 0, "delayed-unknown")
    store.call("HSET", "held:inc/0.1", 99, msgspec.msgpack.encode(["held-unknown"]))
    store.go_on()
    assert living(ids) - store.ran == set()
    reasons = store.reasons()
    assert sum("there is no message of this id" in reason for reason in reasons) == 4, reasons


def test_garbage_for_a_record(store: Store) -> None:
    """``find`` says so, the list of records goes on without it, and it can be dropped."""
    ids = store.fill()
    store.call("HSET", "res", ids["failed"], b"\xff")
    with pytest.raises(BrokerDamaged, match="forget"):
        store.broker.find(ids["failed"])
    assert store.broker.ended(TaskState.FAILED) == []
    assert store.broker.forget(ids["failed"])
    assert store.broker.find(ids["failed"]) is None


GARBAGE_LEAKS = {
    "text": b"hello", "empty": b"", "too short": msgspec.msgpack.encode(["files", "t", "x", 1, 1, 5.0, 5.0, "r"]),
    "wrong types": msgspec.msgpack.encode(["files", "t", "x", "1", 1, 5.0, 5.0, "r", ""]),
    "less than nothing": msgspec.msgpack.encode(["files", "t", "x", -1, 1, 5.0, 5.0, "r", ""]),
    "not a time": msgspec.msgpack.encode(["files", "t", "x", 1, 1, 5.0, float("nan"), "r", ""]),
}  # fmt: skip


@pytest.mark.parametrize("what", GARBAGE_LEAKS)
def test_garbage_for_a_leak(store: Store, what: str) -> None:
    """It is put into the quarantine by whoever meets it: who adds to it, who reads, and who looks for the oldest."""
    field = msgspec.msgpack.encode(LEAK.key)
    store.call("HSET", "leaks", field, GARBAGE_LEAKS[what], "other", GARBAGE_LEAKS[what])
    store.broker.note_leaks([LEAK], call="adds to it")
    assert store.call("HLEN", "leaks") == 2
    assert store.broker.leaks() == [LEAK]
    assert store.call("HLEN", "leaks") == 1
    assert len([reason for reason in store.reasons() if "no row of what tasks left behind" in reason]) == 2
    store.call("HSET", "leaks", "other", GARBAGE_LEAKS[what])
    many = [msgspec.structs.replace(LEAK, what=f"/tmp/{number}") for number in range(LeakTable.MOST_ROWS)]
    store.broker.note_leaks(many, call="makes it look for the oldest")
    assert len(store.broker.leaks()) == LeakTable.MOST_ROWS
    assert store.call("HEXISTS", "leaks", "other") == 0


def test_a_leak_of_a_newer_poolrt(store: Store) -> None:
    """A kind that is unknown here is left out and kept, and so is one whose text is none; a longer row is read."""
    newer = [[*msgspec.structs.astuple(LEAK), "more"], ["comets", "t", "x", 1, 1, 5.0, 5.0, "r", ""]]
    for row in newer:
        store.call("HSET", "leaks", msgspec.msgpack.encode(row[:3]), msgspec.msgpack.encode(row))
    store.call(
        "HSET", "leaks", "odd", msgspec.msgpack.encode(["files", "t", "x", 1, 1, 5, 5, "?", ""]).replace(b"?", b"\xff")
    )
    assert store.broker.leaks() == [LEAK]
    store.broker.note_leaks([LEAK], call="again")
    assert [row.count for row in store.broker.leaks()] == [2]
    assert store.call("HLEN", "leaks") == 3
    assert store.broker.forget_leaks() == 3


def test_garbage_for_what_is_held(store: Store) -> None:
    """A child whose list of held messages is garbage holds nothing; what it held runs again."""
    task = store.put()
    store.settle([], 1)
    store.call("HSET", "held:inc/0.1", "1", b"\xff\x00", "x", "y")
    store.call("SET", "wake:default", "not poolrt's")
    store.go_on()
    assert {task, store.new} <= store.ran


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
@pytest.mark.parametrize("key", ["ready:default", "wake:default", "wake", "delayed", "queues", *OF_TERMS])
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


@st.composite
def damaged(draw: Any) -> Callable[[bytes], bytes]:
    """What happens to a stored message: other bytes for it, or some of its own changed, cut off or added."""
    kind = draw(st.sampled_from(["other", "change", "cut", "add"]))
    at, by = draw(st.integers(0, 200)), draw(st.binary(min_size=1, max_size=20))
    return {
        "other": lambda _: by,
        "change": lambda value: value[: at % len(value)] + by[:1] + value[at % len(value) + 1 :],
        "cut": lambda value: value[: at % len(value)],
        "add": lambda value: value + by,
    }[kind]


@given(damage=damaged(), where=st.sampled_from(["queued", "another", "suspect", "delayed", "held"]))
@settings(max_examples=150, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
def test_any_damage(redis_server: Server, damage: Callable[[bytes], bytes], where: str) -> None:
    """Whatever becomes of one message's bytes, the others run and nothing stays behind."""
    store = Store(redis_server)
    try:
        ids = store.fill()
        bad = ids.pop(where)
        value = store.call("HGET", "msg", bad).encode(errors="surrogateescape")
        store.call("HSET", "msg", bad, damage(value))
        store.go_on()
        assert living(ids) - store.ran == set()
    finally:
        store.close()


@pytest.mark.parametrize(
    ("command", "name", "rest"),
    [
        ("HSET", "queues", ("default", "garbage")),
        ("HSET", "own:inc", ("floor.0.1", "garbage")),
        ("HSET", "own:inc", ("bar.0", "garbage")),
        ("SET", "seq", (str(2**63 - 1),)),
    ],
    ids=["the state of a queue", "a floor", "a bar", "a counter at its end"],
)
def test_a_value_that_is_none_of_ours_stops_nobody(
    store: Store, command: str, name: str, rest: tuple[str, ...]
) -> None:
    """What a key holds is damaged, its type is ours: messages are taken and given out all the same."""
    store.fill()
    store.call(command, name, *rest)
    store.go_on()
    assert store.new in store.ran
