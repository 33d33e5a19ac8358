"""``poolrt dead``: read from the broker, without a node."""

from __future__ import annotations

import json

import msgspec
import pytest

from poolrt.brokers.urls import broker_from_url
from poolrt.errors import ExitCode
from poolrt.hygiene.crash_report import CrashReport, encode_report
from poolrt.message import (
    DEAD_TTL,
    Enqueue,
    ErrorInfo,
    Message,
    Outcome,
    Owner,
    Record,
    encode_message,
    encode_record,
)
from poolrt.states import TaskState

SECRET = "s3cret-t0ken"
MIB = 1 << 20
REPORT = CrashReport(
    1.7e9, 4242, "", ((2.0, 20 * MIB), (0.1, 100 * MIB)), {}, {}, True, 14, b"printed \x1b[31m\n", b"[bold]complained\n"
)


@pytest.fixture
def url(node_dir):
    """A broker with a dead task ``task-1``, one that waits and one that succeeded."""
    url = f"sqlite:///{node_dir}/dead.db"
    broker = broker_from_url(url)
    owner = Owner("inc", 3, 1)
    payload = msgspec.json.encode(([SECRET], {"width": 7}))
    messages = {name: Message(name, "shop.resize", payload) for name in ("task-1", "done")}
    broker.join("inc", "node")
    broker.enqueue([Enqueue.of(message) for message in messages.values()])
    broker.attach(owner)
    outcomes = []
    for delivery in broker.settle([], 2, 1).deliveries:
        state, record = TaskState.SUCCEEDED, Record(TaskState.SUCCEEDED, "shop.resize", 1.7e9, b"1")
        if delivery.task_id == "task-1":
            state = TaskState.DEAD
            record = Record(
                state, "shop.resize", 1.7e9, error=ErrorInfo("WorkerLost", "its child died 3 times"), runtime=0.25,
                lost=3, owner="inc/3.1", status=-11, peak_memory=100 * MIB, stack="in resize",
                envelope=encode_message(messages["task-1"]), report=encode_report(REPORT),
            )  # fmt: skip
        outcomes.append(Outcome(delivery, state, encode_record(record), DEAD_TTL))
    broker.settle(outcomes, 0, 2)
    broker.enqueue([Enqueue.of(Message("waits", "shop.resize", payload))])
    broker.close()
    return url


def test_show(poolrt, url):
    """Everything that is known, one fact a line; arguments by type and size, nothing that is markup or an escape."""
    said = poolrt("dead", "show", "task-1", "--broker", url)
    assert said.code == ExitCode.OK
    assert said.out.splitlines() == [
        "id        task-1",
        "call      shop.resize(<str 12>, width=<int>)",
        "task      shop.resize",
        "state     dead",
        "cause     WorkerLost: its child died 3 times",
        "exit      SIGSEGV",
        "run       0.250 s, attempt 1, lost 3",
        "child     inc/3.1, pid 4242",
        "memory    at most 100.0 MiB",
        "growth    ▁█ 20.0 MiB to 100.0 MiB in the last 1.9 s",
        "open      about 14 descriptors before it ran",
        "stack",
        "  in resize",
        "stdout",
        r"  printed \x1b[31m",
        "stderr",
        "  [bold]complained",
    ]


def test_show_with_arguments(poolrt, url):
    """The values only for whoever asks."""
    said = poolrt("dead", "show", "task-1", "--broker", url, "--show-arguments")
    assert f"call      shop.resize('{SECRET}', width=7)" in said.out


def test_show_as_json(poolrt, url):
    """One object with a schema, the same facts as values, arguments hidden there too."""
    said = poolrt("dead", "show", "task-1", "--broker", url, "--json")
    shown = json.loads(said.out)
    assert SECRET not in said.out
    assert (shown["schema"], shown["id"], shown["state"], shown["status"]) == (1, "task-1", "dead", -11)
    assert shown["call"] == "shop.resize(<str 12>, width=<int>)"
    assert shown["error"] == {"type": "WorkerLost", "text": "its child died 3 times"}
    assert shown["report"]["rss"] == [[2.0, 20 * MIB], [0.1, 100 * MIB]]
    assert shown["report"]["stderr"] == "[bold]complained"


def test_show_of_a_task_that_succeeded(poolrt, url):
    """Any record can be shown; what is not known of it is left out."""
    said = poolrt("dead", "show", "done", "--broker", url)
    assert said.code == ExitCode.OK
    assert "state     succeeded" in said.out
    assert "call" not in said.out


@pytest.mark.parametrize(("task_id", "why"), [("nobody", "is unknown to"), ("waits", "is queued: there is no record")])
def test_an_unknown_id_is_exit_2_and_one_line(poolrt, url, task_id, why):
    """An id that the broker does not know, and one that has not ended, are refused as any wrong argument."""
    said = poolrt("dead", "show", task_id, "--broker", url)
    assert (said.code, said.out, said.err.count("\n")) == (ExitCode.USAGE, "", 1)
    assert why in said.err


def test_list(poolrt, url):
    """The dead, and only they, with their whole ids: those are what ``show`` takes."""
    said = poolrt("dead", "list", "--broker", url)
    assert said.code == ExitCode.OK
    (row,) = said.out.splitlines()
    assert row.split()[2:4] == ["task-1", "shop.resize"]
    assert row.endswith("WorkerLost: its child died 3 times")


def test_list_as_json(poolrt, url):
    """One object; no arguments in it."""
    listed = json.loads(poolrt("dead", "list", "--broker", url, "--json").out)
    assert listed["schema"] == 1
    assert [(each["id"], each["lost"]) for each in listed["dead"]] == [("task-1", 3)]


def test_nothing_is_dead(poolrt, node_dir):
    """An empty list says so."""
    said = poolrt("dead", "list", "--broker", f"sqlite:///{node_dir}/empty.db")
    assert (said.code, said.out) == (ExitCode.OK, "nothing is dead\n")


def test_by_the_app(poolrt, url, node_dir, monkeypatch):
    """APP, or POOLRT_APP, is imported to know its broker."""
    (node_dir / "dead_app.py").write_text(f"import poolrt\napp = poolrt.App('shop', broker={url!r})\n")
    monkeypatch.syspath_prepend(str(node_dir))
    assert "task-1" in poolrt("dead", "list", "dead_app:app").out
    monkeypatch.setenv("POOLRT_APP", "dead_app:app")
    assert "state     dead" in poolrt("dead", "show", "task-1").out


def test_no_app_and_no_broker_is_exit_2(poolrt):
    """One line says what to write."""
    said = poolrt("dead", "list")
    assert (said.code, said.err.count("\n")) == (ExitCode.USAGE, 1)
    assert "--broker URL" in said.err


def test_an_app_that_cannot_be_imported_is_exit_3(poolrt):
    """As it is for serve, in one line."""
    said = poolrt("dead", "list", "no_such_module:app")
    assert (said.code, said.err.count("\n")) == (ExitCode.BOOT_FAILED, 1)
    assert "ModuleNotFoundError" in said.err


def test_without_a_command_it_explains_itself(poolrt):
    """``poolrt dead`` alone prints its help on stderr and exits 2, as ``poolrt`` does."""
    said = poolrt("dead")
    assert (said.code, said.out) == (ExitCode.USAGE, "")
    assert "  show  Show how the task ID ended: its crash report." in said.err


@pytest.mark.parametrize("name", ["list", "show"])
def test_each_command_explains_itself(poolrt, name):
    """Help with sections and examples."""
    said = poolrt("dead", name, "-h")
    assert said.code == ExitCode.OK
    assert f"poolrt dead {name}" in said.out.partition("Examples:")[2]
