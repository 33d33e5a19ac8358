"""``poolrt dead``: read from the broker, without a node."""

from __future__ import annotations

import io
import json
import sys

import msgspec
import pytest

from poolrt.brokers.urls import broker_from_url
from poolrt.cli import task_choice
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
from tests.cli.kept_tasks import OWNER, end, message

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
    said = poolrt("dead", "show", url, "task-1")
    assert said.code == ExitCode.OK
    assert [line for line in said.out.splitlines() if not line.startswith(("enqueued ", "ended "))] == [
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
        "queue     default, priority 0",
        "stack",
        "  in resize",
        "stdout",
        r"  printed \x1b[31m",
        "stderr",
        "  [bold]complained",
    ]


def test_show_with_arguments(poolrt, url):
    """The values only for whoever asks."""
    said = poolrt("dead", "show", url, "task-1", "--arguments")
    assert f"call      shop.resize('{SECRET}', width=7)" in said.out


def test_show_as_json(poolrt, url):
    """One object with a schema, the same facts as values, arguments hidden there too."""
    said = poolrt("dead", "show", url, "task-1", "--json")
    shown = json.loads(said.out)
    assert SECRET not in said.out
    assert (shown["schema"], shown["id"], shown["state"], shown["status"]) == (1, "task-1", "dead", -11)
    assert shown["call"] == "shop.resize(<str 12>, width=<int>)"
    assert shown["error"] == {"type": "WorkerLost", "text": "its child died 3 times"}
    assert shown["report"]["rss"] == [[2.0, 20 * MIB], [0.1, 100 * MIB]]
    assert shown["report"]["stderr"] == "[bold]complained"


def test_show_of_a_task_that_succeeded(poolrt, url):
    """Any record can be shown; what is not known of it is left out."""
    said = poolrt("dead", "show", url, "done")
    assert said.code == ExitCode.OK
    assert "state     succeeded" in said.out
    assert "call" not in said.out


@pytest.mark.parametrize(("task_id", "why"), [("nobody", "is unknown to"), ("waits", "is queued: there is no record")])
def test_an_unknown_id_is_exit_12_and_one_line(poolrt, url, task_id, why):
    """An id that the broker does not know, and one that has not ended, are refused."""
    said = poolrt("dead", "show", url, task_id)
    assert (said.code, said.out, said.err.count("\n")) == (ExitCode.TASK_REFUSED, "", 1)
    assert why in said.err


def test_list(poolrt, url):
    """The dead, and only they, with their whole ids: those are what ``show`` takes."""
    said = poolrt("dead", "list", url)
    assert said.code == ExitCode.OK
    (row,) = said.out.splitlines()
    assert row.split()[2:4] == ["task-1", "shop.resize"]
    assert row.endswith("WorkerLost: its child died 3 times")


def test_list_as_json(poolrt, url):
    """One object; no arguments in it."""
    listed = json.loads(poolrt("dead", "list", url, "--json").out)
    assert listed["schema"] == 1
    assert [(each["id"], each["lost"]) for each in listed["dead"]] == [("task-1", 3)]


def test_nothing_is_dead(poolrt, node_dir):
    """An empty list says so."""
    said = poolrt("dead", "list", f"sqlite:///{node_dir}/empty.db")
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
    assert "its broker's URL" in said.err


def test_an_app_that_cannot_be_imported_is_exit_3(poolrt):
    """As it is for serve, in one line."""
    said = poolrt("dead", "list", "no_such_module:app")
    assert (said.code, said.err.count("\n")) == (ExitCode.BOOT_FAILED, 1)
    assert "ModuleNotFoundError" in said.err


def test_without_a_command_it_explains_itself(poolrt):
    """``poolrt dead`` alone prints its help on stderr and exits 2, as ``poolrt`` does."""
    said = poolrt("dead")
    assert (said.code, said.out) == (ExitCode.USAGE, "")
    assert "  show   Show how a task ended: its crash report." in said.err


@pytest.mark.parametrize("name", ["list", "show", "retry", "purge"])
def test_each_command_explains_itself(poolrt, name):
    """Help with sections and examples."""
    said = poolrt("dead", name, "-h")
    assert said.code == ExitCode.OK
    assert f"poolrt dead {name}" in said.out.partition("Examples:")[2]


# ---- retry and purge, on each broker


@pytest.fixture
def broker(store):
    """A broker with three dead tasks, the newest ``mail-3``, and one that failed."""
    broker = broker_from_url(store)
    broker.join("inc", "node")
    broker.attach(OWNER)
    end(broker, [message("mail-1", "mail.send"), message("image-2"), message("mail-3", "mail.send")], TaskState.DEAD)
    end(broker, [message("failed")], TaskState.FAILED)
    end(broker, [message("old", "mail.send")], TaskState.DEAD, ago=3 * 86_400)
    yield broker
    broker.close()


def states(broker):
    """Where each is."""
    found = {name: broker.find(name) for name in ("mail-1", "image-2", "mail-3", "failed", "old")}
    return {name: None if each is None else str(each.state) for name, each in found.items()}


@pytest.mark.parametrize(
    ("arguments", "queued"),
    [
        (["image-2"], ["image-2"]),
        (["--task", "mail.*", "--yes"], ["mail-1", "mail-3", "old"]),
        (["--task", "image.*"], []),
        (["--task", "*.send", "--limit", "1"], ["old"]),
        (["--all", "--yes"], ["image-2", "mail-1", "mail-3", "old"]),
        (["failed"], ["failed"]),
    ],
)
def test_retry(poolrt, broker, store, arguments, queued):
    """Those that are named or chosen wait again, and no other; of a limit, those that ended last."""
    said = poolrt("dead", "retry", store, *arguments)
    assert (said.code, sorted(said.out.split())) == (ExitCode.OK, queued)
    assert sorted(name for name, state in states(broker).items() if state == "queued") == queued


@pytest.mark.parametrize("arguments", [["--all"], [], ["image-2", "--all"]])
def test_retry_asks_and_wants_a_choice(poolrt, broker, store, monkeypatch, arguments):
    """Where nobody can be asked, nothing is done."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    said = poolrt("dead", "retry", store, *arguments)
    assert (said.code, said.err.count("\n")) == (ExitCode.USAGE, 1)
    assert "queued" not in states(broker).values()


def test_retry_as_json(poolrt, store, broker):
    """One document, as of ``task retry``."""
    said = poolrt("dead", "retry", store, "image-2", "nobody", "--json")
    assert said.code == ExitCode.TASK_REFUSED
    told = json.loads(said.out)
    assert (told["retried"], [each["id"] for each in told["refused"]]) == (["image-2"], ["nobody"])
    assert states(broker)["image-2"] == "queued"


def test_list_by_choice(poolrt, store, broker):
    """By name, and as ids for ``retry``."""
    assert sorted(poolrt("dead", "list", store, "--task", "mail.*", "--ids").out.split()) == ["mail-1", "mail-3", "old"]


@pytest.mark.parametrize(
    ("arguments", "deleted"),
    [
        (["--older-than", "2d"], ["old"]),
        (["--task", "image.*", "--older-than", "2d"], []),
        (["--task", "*resize"], ["image-2"]),
        (["--all"], ["image-2", "mail-1", "mail-3", "old"]),
    ],
)
def test_purge(poolrt, broker, store, arguments, deleted):
    """The records are gone; those of other states stay."""
    assert poolrt("dead", "purge", store, *arguments, "--yes").out == f"{len(deleted)} deleted\n"
    assert sorted(name for name, state in states(broker).items() if state is None) == deleted
    assert states(broker)["failed"] == "failed"


@pytest.mark.parametrize("arguments", [["--yes"], ["--all"]])
def test_purge_wants_a_choice_and_asks(poolrt, broker, store, monkeypatch, arguments):
    """Nothing is deleted by mistake."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    said = poolrt("dead", "purge", store, *arguments)
    assert (said.code, said.err.count("\n")) == (ExitCode.USAGE, 1)
    assert None not in states(broker).values()


def test_more_records_than_one_look_shows(broker, store, monkeypatch, poolrt):
    """They are read in growing windows, and each is told once, also while they are deleted."""
    monkeypatch.setattr(task_choice, "_STEP", 2)
    assert sorted(poolrt("dead", "list", store, "--ids").out.split()) == ["image-2", "mail-1", "mail-3", "old"]
    assert json.loads(poolrt("dead", "purge", store, "--all", "--yes", "--json").out) == {"schema": 1, "deleted": 4}
