"""Redis: what older nodes, crashes and damage leave behind gates is mended, and what nobody needs is deleted."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec
import pytest

from poolrt.brokers.base import Settled
from poolrt.brokers.redis import RedisBroker
from poolrt.errors import BrokerDamaged
from poolrt.message import Enqueue, Owner, new_task_id
from poolrt.terms import Gate, Unique
from tests.brokers.gated_node import NUMBERS, ONE, RATE, Node, done, ids, woken
from tests.servers import Server, Servers, until


@pytest.fixture
def node(redis_url: str, redis_server: Server) -> Iterator[Node]:
    """See ``Node``."""
    made = Node(redis_url, redis_server)
    yield made
    for broker in made.made:
        broker.close()


def test_what_an_older_poolrt_puts_back(node: Node) -> None:
    """It takes an inner queue for one of this name. Nothing is lost; from the steward's next tick the gate holds."""
    tasks = node.put(ONE, 3, eta=node.clock.wall() + 5)
    for number, task in enumerate(tasks):  # as its promote does
        node.call("ZREM", "delayed", task)
        node.call("ZADD", "ready:default\0k", (9 << 48) + number, task)
    node.call("HSET", "queues", "default\0k", "1")
    node.call("RPUSH", "wake:default\0k", "1")
    assert [queue.name for queue in node.broker.queues()] == []
    node.broker.nudge()
    assert [(queue.name, queue.queued) for queue in node.broker.queues()] == [("default", 3)]
    assert node.call("EXISTS", "wake:default\0k") == 0
    client = node.child()
    assert ids(client.settle([], 9, 1).deliveries) == tasks[:1]
    assert ids(node.child(1).settle([], 9, 1).deliveries) == []


def test_an_older_poolrt_ends_a_pause(node: Node) -> None:
    """It does not know of gates; the next tick finds what may be taken."""
    tasks = node.put(ONE)
    node.broker.pause("default")
    node.call("HSET", "queues", "default", "1")
    node.broker.nudge()
    assert ids(node.child().settle([], 9, 1).deliveries) == tasks


def test_an_older_poolrt_cancels(node: Node) -> None:
    """It takes a message out of its inner queue and knows of no more: nobody looks there again and again."""
    (task,) = node.put(ONE)
    node.call("ZREM", "ready:default\0k", task)
    node.call("HDEL", "msg", task)
    client = node.child()
    assert client.settle([], 9, 1) == Settled([], 0, more=False)
    node.broker.purge()
    assert node.broker.depth()[:3] == (0, 0, 0)
    assert node.broker.peek("default") == []


def test_a_slot_that_nobody_gave_back(node: Node) -> None:
    """As an older poolrt's steward leaves it: a purge finds that nobody holds the message, and wakes who may go on."""
    tasks = node.put(ONE, 2)
    client = node.child()
    client.settle([], 1, 1)
    node.call("DEL", "held:inc/0.1")
    node.call("ZADD", "ready:default\0k", 9 << 48, tasks[0])
    waiter = node.idle()
    assert client.settle([], 9, 2).deliveries == []
    node.broker.purge()
    assert woken(waiter)
    (held,) = client.settle([], 9, 3).deliveries
    assert held.task_id == tasks[0]
    node.clock.advance(61)
    node.broker.purge()
    assert client.settle([], 9, 4).deliveries == [], "what is held keeps its slot"


def test_a_slot_of_what_cannot_be_read(node: Node) -> None:
    """It is given back when its child sets the message aside."""
    first, second = node.put(ONE, 2)
    no_envelope = [1, 0, 0, 0, 1.0, "default\0k", "t", first, 5]
    node.call("HSET", "msg", first, msgspec.msgpack.encode(no_envelope))
    client = node.child()
    with pytest.raises(BrokerDamaged):
        client.settle([], 1, 1)
    assert client.resume() == []
    assert ids(client.settle([], 1, 2).deliveries) == [second]


def test_a_purge_looks_at_gates_once_a_minute(node: Node) -> None:
    """It reads all slots, and each node's steward purges; a clock that was put back holds it up for no longer."""

    def swept() -> bool:
        node.put(None)
        node.call("ZADD", "behind:default", 1, "gone")
        node.broker.purge()
        return node.call("ZSCORE", "behind:default", "gone") is None

    assert swept()
    assert not swept()
    node.clock.advance(61)
    assert swept()
    node.clock.jump_wall(-3600)
    assert swept()
    node.broker.note_progress("unknown", b"half", 9)
    assert node.server.call("KEYS", f"{node.tag}:progress*") == []


def test_what_nobody_needs_is_deleted(node: Node) -> None:
    """Gates a day after their last use, unique keys whose task has ended, stale places: a purge sweeps them."""
    items = [
        Enqueue(new_task_id(), b"", "default", 0, None, "t", Gate(f"k{n}", 1, 1, 1), Unique(f"u{n}")) for n in range(50)
    ]
    node.broker.enqueue(items)
    client = node.child()
    held = client.settle([], 99, 1).deliveries
    assert len(held) == 50
    client.settle(done(held), 0, 2)
    assert node.call("EXISTS", "slots") == 0
    node.call("ZADD", "behind:default", 1, "gone")
    node.broker.purge()
    assert (node.call("HLEN", "unique"), node.call("HLEN", "gates")) == (0, 50)
    node.clock.advance(86_401)
    node.broker.purge()
    left = {key.partition(":")[2] for key in node.server.call("KEYS", f"{node.tag}:*")}
    assert {key for key in left if not key.startswith("producer:")} == {
        "queues", "nodes", "beats", "own:inc", "seq", "wake", "wake:default", "swept",
    }  # fmt: skip


def test_many_gates(node: Node) -> None:
    """Of a thousand keys each is looked at once it may start; those that wait cost a reserve nothing."""
    gates = [Gate(f"k{n}", slots=1) for n in range(1000)]
    node.broker.enqueue([Enqueue(new_task_id(), b"", "default", 0, None, "t", gate) for gate in gates for _ in "ab"])
    client = node.child()
    held = []
    for n in range(1, 21):
        held += client.settle([], 50, n).deliveries
    assert len(set(ids(held))) == 1000
    assert client.settle([], 50, 21).deliveries == []
    assert node.call("EXISTS", "open:default") == 0
    assert node.call("HGET", "queues", "default") == "1"
    assert node.call("EXISTS", "quarantine") == 0
    assert len(client.settle(done(held[:7]), 50, 22).deliveries) == 7


def test_many_gates_that_nobody_knows_to_be_closed(node: Node) -> None:
    """A reserve reads past them, and closes them."""
    gates = [Gate(f"k{n}", rate=0.001) for n in range(250)]
    client = node.child()
    for n in (1, 2):
        node.broker.enqueue([Enqueue(new_task_id(), b"", "default", 9, None, "t", gate) for gate in gates])
        if n == 1:
            assert len(client.settle([], 300, n).deliveries) == 250
    (open_one,) = node.put(Gate("open", slots=1))
    assert ids(client.settle([], 1, 3).deliveries) == [open_one]
    assert node.call("EXISTS", "open:default") == 0
    assert node.call("ZCARD", "opens") == 250


def test_what_is_emptied_leaves_nothing(node: Node) -> None:
    """No place in any queue, and no entry for its gate to open."""
    node.put(ONE, 3)
    node.put(Gate("l", rate=1), 2)
    assert node.broker.empty("default") == 5
    left = {key.partition(":")[2] for key in node.server.call("KEYS", f"{node.tag}:*")}
    assert {key for key in left if key.startswith(("ready", "open", "behind"))} == set()


def test_a_gate_is_kept_for_a_day_after_its_last_use(node: Node) -> None:
    """Its last start counts as one: what was started may be put back."""
    node.put(RATE, 1)
    node.clock.advance(2 * 86_400)
    client = node.child()
    held = client.settle([], 1, 1).deliveries
    node.clock.advance(80_000)
    node.broker.purge()
    assert node.call("EXISTS", "gates") == 1
    client.release(held)
    node.clock.advance(86_400)
    node.broker.purge()
    assert node.call("EXISTS", "gates") == 1, "something waits for it"


@pytest.mark.parametrize(
    ("key", "field"), [("gates", "k"), ("unique", "u"), ("slots", "unknown"), ("queues", "default")]
)
def test_garbage(node: Node, key: str, field: str) -> None:
    """A value that is none of ours stops nobody."""
    node.put(ONE, 2)
    client = node.child()
    held = client.settle([], 1, 1).deliveries
    for garbage in (b"", b"\xff", b"text", *map(msgspec.msgpack.encode, ([], [1] * 7, [float("nan")] * 7, {}))):
        node.call("HSET", key, field, garbage)
        item = Enqueue(new_task_id(), b"", "default", 0, None, "t", ONE, Unique("u") if key == "unique" else None)
        assert node.broker.enqueue([item]) == [True]
        node.broker.purge()
        node.broker.nudge()
        node.broker.unique_holder("u")
        held = client.settle(done(held), 9, next(NUMBERS)).deliveries
        assert held
    while held:
        held = client.settle(done(held), 9, next(NUMBERS)).deliveries
    assert node.broker.depth()[:3] == (0, 0, 0)


def test_slots_outlive_the_server(own_servers: Servers, open_redis: Callable[..., RedisBroker]) -> None:
    """Killed and back, it knows who has them; the rescue of the node gives them back."""
    server = own_servers.server(appendonly="yes", appendfsync="always")
    broker, client = open_redis(server.url()), open_redis(server.url())
    broker.join("inc", "node")
    client.attach(Owner("inc", 0, 1))
    tasks = [Enqueue(new_task_id(), b"", "default", 0, None, "t", ONE) for _ in range(2)]
    broker.enqueue(tasks)
    assert len(client.settle([], 9, 1).deliveries) == 1
    server.restart()
    until(lambda: broker.depth()[:3] == (1, 0, 1), "it is back")
    client.resume()
    assert client.settle([], 9, 2).deliveries == []
    broker.rescue("inc", [], suspect=False)
    broker.join("next", "node")
    client.attach(Owner("next", 0, 1))
    assert len(client.settle([], 9, 1).deliveries) == 1
