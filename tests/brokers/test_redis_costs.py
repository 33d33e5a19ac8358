"""Redis: what calls cost the server, by the commands that it counted."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from poolrt.brokers.redis import RedisBroker
from poolrt.message import Enqueue, Outcome, Owner, new_task_id
from poolrt.states import TaskState
from tests.servers import Server, Servers

ENVELOPE = b"x" * 150
MANY = 100_000


@pytest.fixture
def server(own_servers: Servers) -> Server:
    """A server of this test alone, so that it counts nobody else's commands."""
    return own_servers.server()


@pytest.fixture
def broker(server: Server) -> Iterator[RedisBroker]:
    """Its client."""
    made = RedisBroker(server.url())
    yield made
    made.close()


def fill(broker: RedisBroker, count: int) -> None:
    """Queue that many messages, of all priorities."""
    for first in range(0, count, 2000):
        items = [
            Enqueue(new_task_id(), ENVELOPE, "default", number % 10, None)
            for number in range(first, min(first + 2000, count))
        ]
        broker.enqueue(items)


def commands(server: Server) -> int:
    """How many commands it has run since the last time, those of scripts too."""
    said = server.call("INFO", "commandstats")
    server.call("CONFIG", "RESETSTAT")
    return sum(int(count) for count in re.findall(r"calls=(\d+)", said))


def cost(server: Server, broker: RedisBroker) -> int:
    """Commands of one look at the depth."""
    broker.depth()
    commands(server)
    broker.depth()
    return commands(server)


def slow_ones(server: Server, broker: RedisBroker) -> int:
    """How many of an operator's looks took the server long, as one through all messages would."""
    server.call("SLOWLOG", "RESET")
    broker.depth()
    broker.queues()
    broker.peek("default", 10)
    return int(server.call("SLOWLOG", "LEN"))


def test_depth_costs_the_same_for_any_number(server: Server, broker: RedisBroker) -> None:
    """A look at 100,000 messages is as many commands as one at ten; each of them is O(1) or O(log n)."""
    fill(broker, 10)
    few = cost(server, broker)
    fill(broker, MANY)
    assert broker.depth().queued == MANY + 10
    assert cost(server, broker) == few
    assert few < 50
    server.call("CONFIG", "SET", "slowlog-log-slower-than", 5000)
    assert 0 in [slow_ones(server, broker) for _ in range(5)]  # the machine may be busy with others


@pytest.mark.parametrize("batch", [1, 64])
def test_a_settle_costs_the_same_for_any_backlog(server: Server, broker: RedisBroker, batch: int) -> None:
    """The last batch ended and the next reserved: as many commands with 20,000 messages waiting as with a few."""
    broker.join("inc", "node")
    broker.attach(Owner("inc", 0, 1))
    counted = []
    n = 1
    for waiting in (200, 20_000):
        fill(broker, waiting)
        held = broker.settle([], batch, n).deliveries
        commands(server)
        held = broker.settle([Outcome(each, TaskState.SUCCEEDED) for each in held], batch, n + 1).deliveries
        counted.append(commands(server))
        broker.settle([Outcome(each, TaskState.SUCCEEDED) for each in held], 0, n + 2)
        n += 3
    assert counted[0] == counted[1]
    assert counted[1] < 20
