"""What docs/how-to/use-redis.md says beside what runs: its addresses, its options, its rights, its settings."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from poolrt.brokers.redis import RedisBroker, address
from poolrt.brokers.redis.address import SCHEMES, Address
from poolrt.errors import Fenced
from poolrt.message import Enqueue, Outcome, Owner, new_task_id
from poolrt.states import TaskState
from tests.servers import Servers, until

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "use-redis.md"
TEXT = PAGE.read_text()


def block(beginning: str) -> str:
    """The fenced text that begins so."""
    (found,) = re.findall(rf"^```text\n({re.escape(beginning)}.*?)\n```$", TEXT, re.MULTILINE | re.DOTALL)
    return str(found)


def test_addresses() -> None:
    """Each address of the page is one, and every scheme's Redis spelling has its example."""
    written = [code for code in re.findall(r"`([^`\n]+)`", TEXT) if "://" in code]
    assert all(Address.parse(each) for each in written)
    shown = {each.partition("://")[0] for each in written}
    assert shown == {scheme for scheme in SCHEMES if not scheme.startswith("valkey")}


def test_options() -> None:
    """The table of options names every option that an address takes, and no other."""
    (table,) = re.findall(r"^\| option \|.*\n\| ---.*\n((?:\|.*\n)+)", TEXT, re.MULTILINE)
    named = {option for row in table.splitlines() for option in re.findall(r"`(\w+)=", row.split("|")[1])}
    groups = (address._ANY, address._SENTINEL, address._TLS, ("db",))
    assert named == {name for group in groups for name in group}


def test_the_server_takes_the_settings(own_servers: Servers) -> None:
    """A server starts with the settings that the page recommends, and has them."""
    settings = dict(line.split() for line in block("appendonly").splitlines())
    server = own_servers.server(**{name.replace("-", "_"): value for name, value in settings.items()})
    assert server.call("CONFIG", "GET", "maxmemory-policy")[1] == "noeviction"
    assert server.call("CONFIG", "GET", "appendfsync")[1] == "everysec"


def test_the_rights_are_enough(own_servers: Servers) -> None:
    """A user with the rights of the page can do all that a producer, a child and a steward do, and see to damage."""
    server = own_servers.server()
    server.call(*block("ACL SETUSER").split())
    broker = RedisBroker(server.url().replace("//", "//shop:PASSWORD@"))
    try:
        ids = [new_task_id() for _ in range(3)]
        broker.enqueue([Enqueue(task, b"x", "default", 0, None) for task in ids])
        broker.enqueue([Enqueue(new_task_id(), b"x", "default", 0, 1.0e10)])
        server.call("SET", "{poolrt}:waiters", "another program's")
        assert broker.wait(ids[0], 0.01) is None
        broker.join("one", "node")
        owner = Owner("one", 1, 1)
        broker.attach(owner)
        held = broker.settle([], 3, 1).deliveries
        bell = broker.doorbell("node")
        assert bell.fileno() >= 0
        broker.submit_when_woken(0, 9)
        broker.answer()
        assert broker.cancel_held(held[1].task_id)
        until(lambda: broker.to_cancel("one"), "the word is there")
        broker.settle([Outcome(held[0], TaskState.SUCCEEDED, b"record")], 0, 2)
        assert broker.recall(owner, (1, 1), 1) == 1
        assert broker.cancel(held[2].task_id, lambda each: Outcome(each, TaskState.CANCELLED, b"record"))
        assert broker.resume() == [(1, 1)]
        assert broker.running(owner, 1, 1)
        assert broker.release([held[1]]) == 1
        broker.pause("default")
        broker.unpause("default")
        assert len(broker.peek("default")) == broker.move("default", "other") == broker.empty("other") == 1
        assert broker.renew("one") == {"one": 1}
        assert broker.others() == [("one", "node")]
        assert broker.promote()
        assert broker.depth().delayed == 1
        assert broker.ended(TaskState.CANCELLED)
        assert broker.forget(held[0].task_id)
        broker.purge()
        broker.nudge()
        broker.bury(owner, None)
        broker.leave("one")
        with pytest.raises(Fenced):
            broker.renew("one")
        bell.close()
    finally:
        broker.close()
    assert server.call("ACL", "LOG") == []
    assert server.call("KEYS", "{poolrt}:foreign:*")
