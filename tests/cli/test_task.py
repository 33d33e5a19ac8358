"""``poolrt task``: list, show, cancel and retry, on each broker, without a node."""

from __future__ import annotations

import io
import json
import sys

import pytest

from poolrt import App, chain
from poolrt.app.result import AsyncResult
from poolrt.brokers.urls import broker_from_url
from poolrt.errors import ExitCode
from poolrt.message import Enqueue, decode_message
from poolrt.states import TaskState
from poolrt.terms import Terms
from tests.cli.kept_tasks import OWNER, SECRET, fill, message

KEYS = (
    *("id", "task", "state", "queue", "priority", "root", "attempt", "lost"),
    *("enqueued_at", "eta", "finished_at", "runtime", "error", "progress"),
)
LIVE = ["started-1", "reserved-1", "queued-9", "queued-1", "delayed-1"]


@pytest.fixture
def url(store):
    """A broker with tasks in every state."""
    fill(broker_from_url(store))
    return store


@pytest.fixture
def broker(url):
    """A client of it."""
    client = broker_from_url(url)
    yield client
    client.close()


def ids(poolrt, *arguments):
    """The ids that a list prints."""
    said = poolrt("task", "list", *arguments, "--ids")
    assert said.code == ExitCode.OK
    return said.out.split()


# ---- list


def test_what_has_not_ended(poolrt, url):
    """What runs, then what waits in the order in which it runs, then what is delayed."""
    assert set(ids(poolrt, url)[:2]) == set(LIVE[:2])
    assert ids(poolrt, url)[2:] == LIVE[2:]


@pytest.mark.parametrize(
    ("arguments", "chosen"),
    [
        (["--state", "queued"], ["queued-9", "queued-1"]),
        (["--state", "delayed"], ["delayed-1"]),
        (["--state", "progress"], ["started-1"]),
        (["--state", "dead"], ["dead-2", "dead-1"]),
        (["--state", "failed,dead"], ["failed-1", "dead-2", "dead-1"]),
        (["--state", "succeeded", "--state", "failed"], ["succeeded-1", "failed-1"]),
        (["--state", "dead", "--task", "mail.*"], ["dead-2"]),
        (["--state", "dead", "--limit", "1"], ["dead-2"]),
        (["--state", "queued", "--limit", "1"], ["queued-9"]),
        (["--queue", "mail", "--task", "*.send"], ["reserved-1", "queued-9"]),
        (["--state", "all", "--root", "cart-1"], ["delayed-1", "failed-1"]),
        (["--root", "queued-1"], ["queued-1"]),
        (["--task", "nothing.*"], []),
    ],
)
def test_choice(poolrt, url, arguments, chosen):
    """Each option leaves what it says, the newest of what ended first."""
    found = ids(poolrt, url, *arguments)
    assert sorted(found) == sorted(chosen)
    if "failed,dead" not in arguments and "succeeded" not in arguments:
        assert found == chosen


def test_reserved_is_all_that_children_have(poolrt, url):
    """Also what has given itself a state."""
    assert set(ids(poolrt, url, "--state", "reserved")) == {"started-1", "reserved-1"}


def test_all_is_all(poolrt, url):
    """Every task, and each once."""
    found = ids(poolrt, url, "--state", "all")
    assert sorted(found) == sorted([*LIVE, "dead-1", "dead-2", "failed-1", "succeeded-1"])


def test_a_misspelt_state_is_refused(poolrt, url):
    """In place of an empty list."""
    said = poolrt("task", "list", url, "--state", "faild")
    assert (said.code, said.out, said.err.count("\n")) == (ExitCode.USAGE, "", 1)
    assert "did you mean failed?" in said.err


def test_list_as_json(poolrt, url):
    """One document; every key is there, and no argument."""
    said = poolrt("task", "list", url, "--state", "all", "--json")
    listed = json.loads(said.out)
    assert SECRET not in said.out
    assert listed["schema"] == 1
    tasks = {each["id"]: each for each in listed["tasks"]}
    assert {tuple(each) for each in tasks.values()} == {KEYS}
    assert tasks["started-1"]["progress"]["meta"] == {"current": 3, "total": 7}
    assert (tasks["started-1"]["state"], tasks["reserved-1"]["state"]) == ("progress", "reserved")
    assert tasks["failed-1"]["error"] == {"type": "ValueError", "text": "no page failed-1"}
    assert (tasks["failed-1"]["attempt"], tasks["failed-1"]["root"]) == (2, "cart-1")
    assert (tasks["queued-9"]["queue"], tasks["queued-9"]["priority"]) == ("mail", 9)
    assert (tasks["succeeded-1"]["queue"], tasks["succeeded-1"]["error"]) == (None, None)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_table_fits_and_never_cuts_an_id(poolrt, url, monkeypatch, width):
    """Other columns are dropped, and causes and names cut."""
    monkeypatch.setenv("COLUMNS", str(width))
    lines = poolrt("task", "list", url, "--state", "all").out.splitlines()
    assert len(lines) == 10
    assert all(len(line) <= width for line in lines)
    assert sorted(line.split()[0] for line in lines[1:]) == sorted(ids(poolrt, url, "--state", "all"))
    assert "ValueErr" in "".join(lines)
    assert ("ATTEMPT" in lines[0], "QUEUE" in lines[0], "WHEN" in lines[0]) == (width > 80, width > 70, width > 70)


def test_the_table_says_when(poolrt, url, monkeypatch):
    """Since when it waits; of a delayed one, when it is due."""
    monkeypatch.setenv("COLUMNS", "120")
    rows = {line.split()[0]: line for line in poolrt("task", "list", url).out.splitlines()}
    assert "1m30s ago" in rows["queued-1"] or "1m31s ago" in rows["queued-1"]
    assert " in 59m" in rows["delayed-1"]
    assert "\x1b" not in "".join(rows.values())


def test_an_empty_list_says_so(poolrt, node_dir):
    """Without a table; as JSON it is an empty list."""
    empty = f"sqlite:///{node_dir}/empty.db"
    assert poolrt("task", "list", empty) == (ExitCode.OK, "no task waits or runs\n", "")
    assert poolrt("task", "list", empty, "--state", "dead").out == "there is no such task\n"
    assert json.loads(poolrt("task", "list", empty, "--json").out) == {"schema": 1, "tasks": []}


# ---- show


def test_show(poolrt, url):
    """State, place, times, every attempt with its cause, and the traceback last; arguments by type."""
    said = poolrt("task", "show", url, "failed-1")
    assert said.code == ExitCode.OK
    assert SECRET not in said.out
    names = [line.split()[0] for line in said.out.splitlines()]
    assert names == [
        *("id", "call", "task", "state", "cause", "run", "child", "queue", "root", "enqueued", "ended", "before"),
        *("traceback", "Traceback:"),
    ]
    assert "call      shop.resize(<str 12>, width=<int>)\n" in said.out
    assert "before    attempt 1, 2.500 s, KeyError: 'page'; " in said.out
    assert "ago) by inc/2.1\n" in said.out


def test_show_with_arguments(poolrt, url):
    """The values only for whoever asks."""
    assert f"shop.resize('{SECRET}', width=7)" in poolrt("task", "show", url, "failed-1", "--arguments").out
    assert f"shop.resize('{SECRET}', width=7)" in poolrt("task", "show", url, "queued-1", "--arguments").out


def test_show_what_runs(poolrt, url):
    """Its state is the one that it gave itself, with how far it is."""
    said = poolrt("task", "show", url, "started-1").out
    assert "state     progress\n" in said
    assert 'progress  {"current":3,"total":7}\n' in said


def test_show_what_is_delayed(poolrt, url):
    """When it is due, and who has enqueued it."""
    said = poolrt("task", "show", url, "delayed-1").out
    assert "parent    cart-1\n" in said
    assert "(in 59m" in next(line for line in said.splitlines() if line.startswith("due"))


def test_show_as_json(poolrt, url):
    """What the list has, and more."""
    said = poolrt("task", "show", url, "failed-1", "--json")
    shown = json.loads(said.out)
    assert SECRET not in said.out
    assert (shown["schema"], shown["id"], shown["state"], shown["owner"]) == (1, "failed-1", "failed", str(OWNER))
    assert [(each["number"], each["cause"]) for each in shown["attempts"]] == [(1, "KeyError")]
    assert shown["traceback"] == "Traceback: in resize"
    assert shown["call"] == "shop.resize(<str 12>, width=<int>)"


def test_show_a_workflow(poolrt, store):
    """From any of its ids; a step that is not enqueued yet is planned."""
    app = App("shop", broker=store)

    @app.task(name="shop.add")
    def add(x, y):
        return x + y

    chain(add.s(1, 2), add.s(3)).apply_async(task_id="order-17")
    app.close()
    for task_id in ("order-17", "order-17:0"):
        told = poolrt("task", "show", store, task_id, "--tree")
        assert told.code == ExitCode.OK
        assert told.out.splitlines() == [
            "chain of 2 steps: 1 queued, 1 planned",
            "  queued     shop.add order-17:0",
            "  planned    shop.add order-17",
        ]
    told = json.loads(poolrt("task", "show", store, "order-17", "--tree", "--json").out)
    assert told["schema"] == 1
    assert told["tree"]["counts"] == {"queued": 1, "planned": 1}
    assert poolrt("task", "show", store, "nothing", "--tree").code == ExitCode.TASK_REFUSED


def test_show_an_unknown_task(poolrt, url):
    """Exit code 12, and one line without the URL's password."""
    said = poolrt("task", "show", url, "nobody")
    assert (said.code, said.out, said.err.count("\n")) == (ExitCode.TASK_REFUSED, "", 1)
    assert "task nobody is unknown" in said.err


# ---- cancel


def state_of(broker, task_id):
    """Where it is."""
    found = broker.find(task_id)
    return None if found is None else found.state


def test_cancel(poolrt, url, broker):
    """What waits has ended; a node is told of what runs; the ids are told on stdout."""
    said = poolrt("task", "cancel", url, "queued-1", "delayed-1", "reserved-1")
    assert said == (ExitCode.OK, "queued-1\ndelayed-1\nreserved-1\n", "3 cancelled\n")
    assert state_of(broker, "queued-1") == state_of(broker, "delayed-1") == TaskState.CANCELLED
    assert [each.task_id for _, each in broker.to_cancel("inc")] == ["reserved-1"]


def test_cancel_refuses_what_has_ended_and_goes_on(poolrt, url, broker):
    """Exit code 12, a line for each that is not cancelled; the others are."""
    said = poolrt("task", "cancel", url, "failed-1", "nobody", "queued-1")
    assert (said.code, said.out) == (ExitCode.TASK_REFUSED, "queued-1\n")
    assert "poolrt: failed-1 is not cancelled: it has ended: failed\n" in said.err
    assert "poolrt: nobody is not cancelled: it is unknown" in said.err
    assert state_of(broker, "queued-1") == TaskState.CANCELLED


def test_cancel_as_json(poolrt, url):
    """One document, also when some are refused."""
    said = poolrt("task", "cancel", url, "failed-1", "queued-1", "--json")
    assert (said.code, said.err) == (ExitCode.TASK_REFUSED, "")
    assert json.loads(said.out) == {
        "schema": 1,
        "cancelled": ["queued-1"],
        "refused": [{"id": "failed-1", "reason": "it has ended: failed"}],
    }


def test_cancel_by_choice(poolrt, url, broker):
    """All that match and have not ended; nothing else."""
    said = poolrt("task", "cancel", url, "--task", "mail.*", "--yes")
    assert (said.code, sorted(said.out.split())) == (ExitCode.OK, ["queued-9", "reserved-1"])
    assert state_of(broker, "queued-9") == TaskState.CANCELLED
    assert state_of(broker, "queued-1") == TaskState.QUEUED
    assert state_of(broker, "dead-2") == TaskState.DEAD


def test_cancel_by_root(poolrt, url, broker):
    """The whole line, also what is delayed."""
    assert poolrt("task", "cancel", url, "--root", "cart-1", "-y").out == "delayed-1\n"
    assert state_of(broker, "delayed-1") == TaskState.CANCELLED


def test_cancel_many_asks(poolrt, url, broker, monkeypatch):
    """Where nobody can be asked, it is refused."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    said = poolrt("task", "cancel", url, "--queue", "mail")
    assert (said.code, said.out, said.err.count("\n")) == (ExitCode.USAGE, "", 1)
    assert "--yes" in said.err
    assert "2 wait or run" in said.err
    assert state_of(broker, "queued-9") == TaskState.QUEUED


def test_cancel_by_root_finds_what_came_meanwhile(poolrt, url, broker, monkeypatch):
    """What a task of the line enqueued before it was cancelled is cancelled too."""
    cancel = AsyncResult.cancel

    def and_enqueue(result):
        if result.id == "delayed-1":
            late = message("late", terms=Terms(root="cart-1"))
            broker.enqueue([Enqueue.of(late)])
        return cancel(result)

    monkeypatch.setattr(AsyncResult, "cancel", and_enqueue)
    assert poolrt("task", "cancel", url, "--root", "cart-1", "-y").out == "delayed-1\nlate\n"
    assert state_of(broker, "late") == TaskState.CANCELLED


@pytest.mark.parametrize(("answer", "code"), [("y", ExitCode.OK), ("n", 130)])
def test_the_answer_decides(poolrt, url, broker, monkeypatch, answer, code):
    """On a terminal it is asked, and no means no."""
    stdin = io.StringIO(f"{answer}\n")
    monkeypatch.setattr(stdin, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", stdin)
    assert poolrt("task", "cancel", url, "--task", "mail.send", "--queue", "mail").code == code
    assert (state_of(broker, "queued-9") == TaskState.CANCELLED) == (answer == "y")


@pytest.mark.parametrize("arguments", [[], ["queued-1", "--task", "mail.*"]])
def test_ids_or_a_choice(poolrt, url, broker, arguments):
    """Neither is nothing, and both are a mistake."""
    said = poolrt("task", "cancel", url, *arguments)
    assert (said.code, said.err.count("\n")) == (ExitCode.USAGE, 1)
    assert state_of(broker, "queued-1") == TaskState.QUEUED


def test_ids_from_stdin(poolrt, url, broker, monkeypatch):
    """``-`` stands for them; empty lines are none, and one named twice is one."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("queued-1\n\n queued-9 \nqueued-1\n"))
    assert poolrt("task", "cancel", url, "-", "delayed-1").out.split() == ["queued-1", "queued-9", "delayed-1"]
    assert state_of(broker, "queued-9") == TaskState.CANCELLED


# ---- retry


def test_retry(poolrt, url, broker):
    """The same call under the same id waits again, from its first attempt on, and knows of those before."""
    assert poolrt("task", "retry", url, "failed-1", "dead-2") == (ExitCode.OK, "failed-1\ndead-2\n", "2 retried\n")
    found = broker.find("failed-1")
    again = decode_message(found.envelope)
    assert (found.state, found.record) == (TaskState.QUEUED, None)
    assert (again.task, again.attempt, again.eta, again.root) == ("shop.resize", 1, None, "cart-1")
    assert [(each.number, each.cause) for each in again.terms.history] == [(1, "KeyError"), (2, "ValueError")]
    assert SECRET.encode() in again.payload
    assert decode_message(broker.find("dead-2").envelope).queue == "mail"


@pytest.mark.parametrize(
    ("task_id", "why"),
    [
        ("queued-1", "it is queued and has not ended"),
        ("reserved-1", "it is reserved and has not ended"),
        ("succeeded-1", "it succeeded, and its message is not kept"),
        ("nobody", "it is unknown: never enqueued, or past its TTL"),
    ],
)
def test_what_cannot_be_retried(poolrt, url, broker, task_id, why):
    """Each says why, the exit code is 12, and nothing is changed."""
    before = state_of(broker, task_id)
    said = poolrt("task", "retry", url, task_id)
    assert said == (ExitCode.TASK_REFUSED, "", f"poolrt: {task_id} is not retried: {why}\n0 retried\n")
    assert state_of(broker, task_id) == before


# ---- on a terminal


def test_colours_only_on_a_terminal(poolrt, url, monkeypatch):
    """States are coloured there, and nothing that a task says is obeyed as markup or as an escape sequence."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    assert "\x1b[31mfailed" in poolrt("task", "list", url, "--state", "failed").out
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[31m" not in poolrt("task", "list", url, "--state", "failed").out


def test_what_a_name_holds_is_not_obeyed(poolrt, url, broker, monkeypatch):
    """Markup and escape sequences come out as they are written."""
    monkeypatch.setenv("COLUMNS", "160")
    broker.enqueue([Enqueue.of(message("odd", "[bold]x[/] \x1b[31m"))])
    for said in (poolrt("task", "list", url, "--state", "queued"), poolrt("task", "show", url, "odd")):
        assert r"[bold]x[/] \x1b[31m" in said.out
        assert "\x1b" not in said.out


def test_an_envelope_that_cannot_be_read_is_listed(poolrt, url, broker):
    """With why; it can be shown, and cancelled."""
    broker.enqueue([Enqueue("damaged", b"\x7fnothing of ours", "default", 0, None)])
    listed = {each["id"]: each for each in json.loads(poolrt("task", "list", url, "--json").out)["tasks"]}
    assert (listed["damaged"]["task"], listed["damaged"]["error"]["type"]) == ("", "DecodingError")
    assert "call      unreadable: not a poolrt message" in poolrt("task", "show", url, "damaged").out
    assert poolrt("task", "cancel", url, "damaged").out == "damaged\n"
