"""Redis: what is no stored message, record or row is set aside with a reason by whoever meets it; all else goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings

from poolrt.brokers.redis.wire import is_readable
from poolrt.errors import BrokerDamaged
from poolrt.hygiene.findings import LeakTable
from poolrt.message import Outcome, Owner, Requeue
from poolrt.states import TaskState
from tests.brokers.foreign_store import LEAK, Store, living
from tests.servers import Server


@pytest.fixture
def store(redis_server: Server) -> Iterator[Store]:
    """See ``Store``."""
    made = Store(redis_server)
    yield made
    made.close()


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
