"""``poolrt leaks``: where it reads, what it sums, what it draws, and that no name can bend it."""

from __future__ import annotations

import io
import json
import time
from typing import Any, ClassVar

import pytest
from rich.cells import cell_len
from rich.console import Console

from poolrt.brokers.sqlite import SqliteBroker
from poolrt.cli.pool_view import leaks_in_full, leaks_table, status_view
from poolrt.errors import ControlError, ExitCode, SupervisorNotRunning
from poolrt.hygiene.findings import LeakKind, LeakRow

NOW = 1e9


def a_leak(**fields: Any) -> LeakRow:
    """Connections of a task whose name is markup, to a peer whose name is an escape sequence."""
    known: dict[str, Any] = {
        "kind": LeakKind.CONNECTIONS, "task": "shop.tasks.fetch[bold]", "what": "db\x1b[31m:5432", "count": 3000,
        "runs": 3100, "first_seen": NOW - 10_000, "last_seen": NOW - 4, "reason": "3000 connections to db\x1b[31m",
        "stack": "shop/tasks.py:12 in fetch\nshop/tasks.py:40 in call\x1b[2J",
    }  # fmt: skip
    return LeakRow(**{**known, **fields})


def drawn(what: Any, width: int = 120) -> str:
    """It as text."""
    console = Console(file=io.StringIO(), width=width, highlight=False, color_system=None)
    console.print(what)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


class FakeClient:
    """A node's control connection."""

    answers: ClassVar[dict[str, Any]] = {}
    asked: ClassVar[list[tuple[str, bool]]] = []

    def __init__(self, node: str) -> None:
        self.node = node

    @classmethod
    def connect(cls, node: str) -> FakeClient:
        return cls(node)

    def call(self, do: str, *, forget: bool) -> Any:
        assert do == "leaks"
        self.asked.append((self.node, forget))
        answer = self.answers[self.node]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def __enter__(self) -> FakeClient:
        return self

    def __exit__(self, *_: object) -> None: ...


@pytest.fixture
def nodes(monkeypatch):
    """``nodes(web=[row, …])``: the nodes that run on this machine, and what each answers."""

    def run(**answers):
        FakeClient.answers, FakeClient.asked = answers, []
        monkeypatch.setattr("poolrt.control.nodes", lambda: list(answers))
        monkeypatch.setattr("poolrt.control.ControlClient", FakeClient)
        return FakeClient.asked

    return run


@pytest.fixture
def store(node_dir):
    """A broker with a leak, and its URL."""
    url = f"sqlite:///{node_dir}/q.db"
    broker = SqliteBroker(url)
    broker.note_leaks([a_leak()], call="1")
    yield broker, url
    broker.close()


# ---- the nodes of this machine


def test_nothing_runs_is_exit_8_and_one_line(poolrt, nodes):
    """It says where else to look."""
    nodes()
    said = poolrt("leaks")
    assert (said.code, said.out, said.err.count("\n")) == (ExitCode.NOT_RUNNING, "", 1)
    assert "'poolrt leaks APP' asks the app's broker" in said.err


def test_the_answers_of_all_nodes_are_summed(poolrt, nodes):
    """By kind, task and what."""
    asked = nodes(
        one=[a_leak().as_object(), a_leak(what="cache:6379", count=1).as_object()],
        two=[a_leak(count=5, last_seen=NOW).as_object()],
        idle=[],
    )
    said = poolrt("leaks", "--json")
    assert (said.code, said.err) == (ExitCode.OK, "")
    told = json.loads(said.out)
    assert told["schema"] == 1
    assert [(row["what"], row["count"], row["last_seen"]) for row in told["leaks"]] == [
        ("db\x1b[31m:5432", 3005, NOW), ("cache:6379", 1, NOW - 4),
    ]  # fmt: skip
    assert asked == [("one", False), ("two", False), ("idle", False)]


def test_a_node_that_cannot_answer_is_named_and_passed_over(poolrt, nodes):
    """It may be of an older version, or end this moment."""
    nodes(
        old=ControlError("unknown request 'leaks'"),
        gone=SupervisorNotRunning("it went away"),
        web=[a_leak().as_object()],
    )
    said = poolrt("leaks", "--json")
    assert said.code == ExitCode.OK
    assert len(json.loads(said.out)["leaks"]) == 1
    assert said.err.splitlines() == ["poolrt: node old: unknown request 'leaks'", "poolrt: node gone: it went away"]


def test_nothing_was_found(poolrt, nodes):
    """It says so, and is no error."""
    nodes(web=[])
    assert poolrt("leaks")[:2] == (ExitCode.OK, "no task was seen to leave anything behind\n")
    assert json.loads(poolrt("leaks", "--json").out) == {"schema": 1, "leaks": []}


def test_nodes_forget(poolrt, nodes):
    """Each of them; told is how many rows that were."""
    asked = nodes(one=2, two=1)
    assert poolrt("leaks", "--forget")[:2] == (ExitCode.OK, "3 forgotten\n")
    assert asked == [("one", True), ("two", True)]


# ---- the broker


def test_the_brokers_table(poolrt, store):
    """By its URL, whole for a script; and it can be forgotten."""
    broker, url = store
    assert json.loads(poolrt("leaks", url, "--json").out)["leaks"] == [a_leak().as_object()]
    assert "3,000" in poolrt("leaks", url).out
    assert json.loads(poolrt("leaks", url, "--json", "--forget").out) == {"schema": 1, "forgotten": 1}
    assert broker.leaks() == []


def test_the_apps_broker(poolrt, store, node_dir, monkeypatch):
    """The app is imported; what it raises is one line and the exit code of an app that cannot be found."""
    monkeypatch.chdir(node_dir)
    monkeypatch.setattr("sys.path", ["."])
    (node_dir / "app_of_leaks.py").write_text(f"from poolrt import App\napp = App(broker={store[1]!r})\n")
    assert len(json.loads(poolrt("leaks", "app_of_leaks:app", "--json").out)["leaks"]) == 1
    (node_dir / "broken_of_leaks.py").write_text("1 / 0\n")
    for module in ("broken_of_leaks", "nowhere_of_leaks"):
        said = poolrt("leaks", module)
        assert (said.code, said.out, said.err.count("\n")) == (ExitCode.BOOT_FAILED, "", 1)
        assert said.err.startswith(f"poolrt: cannot import {module}:app: ")


def test_verbose_tells_reason_and_stack(poolrt, nodes):
    """Below each leak; no escape sequence of theirs reaches the terminal."""
    nodes(web=[a_leak().as_object()])
    said = poolrt("leaks", "-v")
    assert "3000 connections to db" in said.out
    assert "    shop/tasks.py:12 in fetch\n    shop/tasks.py:40 in call" in said.out
    assert "\x1b" not in said.out


# ---- the table


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 200])
def test_the_table_fits(width):
    """On a narrow terminal columns go and names are cut; names that are markup or escapes stay what they are."""
    rows = [a_leak().as_object(), a_leak(task="a.b." + "漢字" * 30, what="理由" * 30, count=10**9).as_object()]
    text = drawn(leaks_table(rows, NOW, width), width)
    assert "\x1b" not in text
    lines = text.splitlines()
    assert len(lines) == 3
    assert max(map(cell_len, lines)) <= width
    assert ("PER 100 RUNS" in text, "FIRST SEEN" in text) == (width >= 80, width >= 100)
    if width >= 100:
        assert "fetch[bold]" in text  # the end of a task's name tells more than its package
    if width == 200:
        assert r"db\x1b[31m:5432" in text
        assert "2h46m ago" in text


def test_bytes_are_sizes():
    """What is counted of memory is bytes, and so is its rate; else it is things."""
    text = drawn(leaks_table([a_leak(kind=LeakKind.MEMORY, count=3 << 20, runs=300).as_object()], NOW, 120))
    assert ("3.0 MiB" in text, "1.0 MiB" in text) == (True, True)
    assert "96.8" in drawn(leaks_table([a_leak().as_object()], NOW, 120))


@pytest.mark.parametrize("draw", [lambda row: leaks_table([row], NOW, 120), lambda row: leaks_in_full([row], NOW)])
def test_a_row_that_says_less_can_be_drawn(draw):
    """It may be of another version; a clock that is ahead of ours is no trouble either."""
    assert "–" in drawn(draw({}))
    assert "0.0s ago" in drawn(draw(a_leak(last_seen=NOW + 100).as_object()))


def test_status_shows_the_last_few():
    """Those seen last, and how many there are; without any there is no word of it."""
    rows = [a_leak(what=f"host-{number}.", last_seen=time.time() - number).as_object() for number in range(9)]
    text = drawn(status_view({"node": "n", "leaks": rows}, 120))
    assert [f"host-{number}." in text for number in range(9)] == [True] * 5 + [False] * 4
    assert "leaks, the last 5 of 9 (poolrt leaks)" in text
    assert "of 3" not in drawn(status_view({"node": "n", "leaks": rows[:3]}, 120))
    assert "leaks" not in drawn(status_view({"node": "n", "leaks": []}, 120))
