"""``poolrt queue``: list, pause, resume, purge and move, on each broker, without a node."""

from __future__ import annotations

import io
import json
import sys

import pytest

from poolrt.brokers.urls import broker_from_url
from poolrt.cli import queue
from poolrt.errors import ExitCode
from poolrt.message import Enqueue
from tests.cli.kept_tasks import message


@pytest.fixture
def broker(store):
    """A broker with five messages for mail, one for default, and a delayed one."""
    broker = broker_from_url(store)
    messages = [message(f"mail-{number}", queue="mail") for number in range(5)]
    messages += [message("other"), message("later", eta=2e10)]
    broker.enqueue([Enqueue.of(each) for each in messages])
    yield broker
    broker.close()


@pytest.fixture
def call(poolrt, store):
    """``call("pause", "mail")``."""
    return lambda name, *arguments: poolrt("queue", name, store, *arguments)


def queued(broker):
    """How much waits in each queue."""
    return {each.name: each.queued for each in broker.queues()}


def test_list(call, broker):
    """A row a queue, a pause is told, and the sum of all."""
    broker.pause("mail")
    head, *rows, total = call("list").out.splitlines()
    assert head.split() == ["QUEUE", "QUEUED", "OLDEST"]
    assert [(row.split()[:2], row.split()[3:]) for row in rows] == [(["default", "1"], []), (["mail", "5"], ["paused"])]
    assert total.startswith("all  queued 6  delayed 1  reserved 0  dead 0  oldest ")


def test_list_as_json(call, broker):
    """One document with stable keys."""
    broker.pause("mail")
    listed = json.loads(call("list", "--json").out)
    assert set(listed) == {"schema", "queues", "totals"}
    assert [(each["name"], each["queued"], each["paused"]) for each in listed["queues"]] == [
        ("default", 1, False),
        ("mail", 5, True),
    ]
    assert set(listed["queues"][0]) == {"name", "queued", "paused", "oldest"}
    assert {name: listed["totals"][name] for name in ("queued", "delayed", "reserved", "dead")} == {
        "queued": 6, "delayed": 1, "reserved": 0, "dead": 0,
    }  # fmt: skip


def test_pause_and_resume(call, broker):
    """Several at once; each again is no mistake."""
    assert call("pause", "mail", "slow") == (ExitCode.OK, "mail, slow paused\n", "")
    assert call("pause", "mail").code == ExitCode.OK
    assert {each.name for each in broker.queues() if each.paused} == {"mail", "slow"}
    assert json.loads(call("resume", "mail", "slow", "--json").out) == {"schema": 1, "resumed": ["mail", "slow"]}
    assert not [each for each in broker.queues() if each.paused]


def test_purge(call, broker, monkeypatch):
    """All that waits there, in steps of the broker; nothing else."""
    monkeypatch.setattr(queue, "_STEP", 2)
    assert call("purge", "mail", "--yes") == (ExitCode.OK, "5 deleted\n", "")
    assert queued(broker) == {"default": 1}
    assert broker.depth().delayed == 1
    assert json.loads(call("purge", "mail", "--json").out) == {"schema": 1, "queue": "mail", "deleted": 0}


def test_purge_asks(call, broker, monkeypatch):
    """Where nobody can be asked, it is refused; with a no nothing is deleted."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    said = call("purge", "mail")
    assert (said.code, said.out) == (ExitCode.USAGE, "")
    assert "elete the 5 messages that wait in mail? (nobody is there to be asked: write --yes)\n" in said.err
    stdin = io.StringIO("n\n")
    monkeypatch.setattr(stdin, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", stdin)
    assert call("purge", "mail").code == 130
    assert queued(broker) == {"default": 1, "mail": 5}


def test_move(call, broker, monkeypatch):
    """All of it, or the first of it, in steps of the broker."""
    monkeypatch.setattr(queue, "_STEP", 2)
    assert call("move", "mail", "slow", "--limit", "1").out == "1 moved\n"
    assert [each.id for each in broker.peek("slow")] == ["mail-0"]
    assert json.loads(call("move", "mail", "slow", "--json").out) == {
        "schema": 1, "from": "mail", "to": "slow", "moved": 4,
    }  # fmt: skip
    assert queued(broker) == {"default": 1, "slow": 5}


@pytest.mark.parametrize(
    "arguments",
    [("pause",), ("purge",), ("purge", "mail", "more"), ("move", "mail"), ("move", "mail", "mail"), ("list", "mail")],
)
def test_a_usage_error_is_one_line_and_exit_2(call, broker, arguments):
    """And nothing is changed."""
    said = call(*arguments)
    assert (said.code, said.out, said.err.count("\n")) == (ExitCode.USAGE, "", 1)
    assert queued(broker) == {"default": 1, "mail": 5}
