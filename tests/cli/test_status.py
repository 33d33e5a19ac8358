"""``poolrt status``: what it draws from a status, and that no name can bend it."""

from __future__ import annotations

import io
import itertools
import json
from typing import Any

import pytest
from rich.console import Console

from poolrt.cli import status as status_command
from poolrt.cli.pool_view import COLUMNS, cell, event_text, fitting_columns, printable, seconds, status_view, task_name
from poolrt.errors import ExitCode

TASK = "reports [paused].[bold]render[/]"
TASK_ID = "0192f0c2-aaaa-7bbb-8ccc-0123456789ab"


def a_status(**changes: Any) -> dict[str, Any]:
    """A status as the supervisor answers, with a task whose name is markup and whose app's is an escape sequence."""
    child = {
        "slot": 1, "generation": 3, "pid": 41205, "state": "up", "activity": "run", "task": TASK, "task_id": TASK_ID,
        "running_for": 14.3, "held": 2, "done": 376, "failed": 1, "age": 62.0, "rss": 459 << 20, "max_tasks": 500,
    }  # fmt: skip
    idle = {
        **child, "slot": 0, "pid": 41200, "activity": "idle", "task": "", "task_id": "", "running_for": None,
        "max_tasks": 0,
    }  # fmt: skip
    return {
        "node": "web-1", "app": "shop\x1b[31m", "broker": "sqlite:////srv/jobs.db", "incarnation": "i",
        "version": "9.9", "state": "serving", "started_at": 0.0, "uptime": 273.4, "concurrency": 2,
        "supervisor": {"pid": 10, "rss": 20 << 20}, "template": {"pid": 11, "rss": 33 << 20},
        "steward": {"pid": 12, "state": "up", "rss": 21 << 20}, "children": [idle, child],
        "totals": {"done": 1204881, "failed": 311, "recycled": 41, "crashed": 1, "killed": 0, "recalled": 12},
        "queue": {"queued": 1204, "delayed": 3, "reserved": 2, "dead": 2, "oldest": 4.25},
        "last_events": [
            {"kind": "child-crashed", "at": 1e9, "slot": 1, "generation": 2, "pid": 7, "task": TASK, "task_id": TASK_ID,
             "cause": f"killed by [SIGSEGV] while running {TASK}",
             "numbers": {"rss": 61 << 20, "age": 0.25, "done": 4}},
        ],
        **changes,
    }  # fmt: skip


def drawn(status: dict[str, Any], width: int = 160) -> str:
    """The view as text."""
    console = Console(file=io.StringIO(), width=width, highlight=False, force_terminal=True, color_system=None)
    console.print(status_view(status, width))
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


# ---- the command


def test_nothing_runs_is_exit_8_and_one_line(poolrt, monkeypatch, node_dir):
    """Without a supervisor status exits 8 and says how to start one."""
    monkeypatch.setenv("POOLRT_RUNTIME_DIR", str(node_dir))
    said = poolrt("status")
    assert (said.code, said.out, said.err.count("\n")) == (ExitCode.NOT_RUNNING, "", 1)
    assert "'poolrt serve APP' starts one" in said.err


def test_an_unknown_node_is_exit_8_and_named(poolrt, monkeypatch, node_dir):
    """A node that does not run is exit code 8, also with --json."""
    monkeypatch.setenv("POOLRT_RUNTIME_DIR", str(node_dir))
    for arguments in (("status", "web-9"), ("status", "web-9", "--json")):
        said = poolrt(*arguments)
        assert (said.code, said.out, said.err.count("\n")) == (ExitCode.NOT_RUNNING, "", 1)
        assert "'web-9'" in said.err


def test_json_is_one_object_with_a_schema(poolrt, monkeypatch):
    """--json prints the supervisor's own answer with the schema's number, and nothing else."""
    monkeypatch.setattr(status_command, "ask", lambda node: a_status())
    said = poolrt("status", "--json")
    assert said.code == ExitCode.OK
    assert json.loads(said.out) == {"schema": 1, **a_status()}


def test_a_pipe_gets_every_column(poolrt, monkeypatch):
    """Where the output is no terminal nothing is dropped for its width, and nothing is coloured."""
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(status_command, "ask", lambda node: a_status())
    said = poolrt("status")
    assert said.code == ExitCode.OK
    assert all(column.title in said.out for column in COLUMNS)
    assert "\x1b" not in said.out


# ---- the view


def test_the_view_answers_what_one_looks_for():
    """Node, app, broker, state, uptime, queue with its oldest, totals, limits and the last events are all there."""
    text = drawn(a_status())
    for what in ("web-1", "sqlite:////srv/jobs.db", "serving", "4m33s", "queued 1,204", "oldest 4.2s", "done 1,204,881",
                 "376/500", "14s", "459.0 MiB", "child 1.2", "rss=61.0 MiB", "recalled 12"):  # fmt: skip
        assert what in text, what


@pytest.mark.parametrize("width", [40, 60, 80, 100, 132, 200])
def test_names_survive_markup_and_escapes(width):
    """A task named like rich markup is shown as it is, and an escape sequence in a name never reaches the terminal."""
    text = drawn(a_status(), width)
    assert "\x1b[31m" not in text
    assert r"\x1b[31m" in text.replace("\n", "")
    if width >= 132:
        assert text.count(TASK) == 2  # in the table and in the event
        assert "[SIGSEGV]" in text


@pytest.mark.parametrize("width", [40, 60, 80, 100, 132, 200])
def test_no_row_is_wider_than_the_terminal(width):
    """On a narrow terminal columns go and names are cut, so that no row of the table wraps."""
    table = [line for line in drawn(a_status(), width).splitlines() if line.startswith(("SLOT", "   0", "   1"))]
    assert len(table) == 3
    assert all(len(line) <= width for line in table)
    assert "456789ab" in table[2]  # the end of the id tells tasks apart; its beginning is the time


def test_columns_go_in_the_order_of_their_worth():
    """The narrower, the fewer: a column that is dropped stays dropped, and slot and task stay to the end."""
    widths = [10] * len(COLUMNS)
    kept = [set(fitting_columns(COLUMNS, widths, width)) for width in range(200, 10, -10)]
    assert kept[0] == set(range(len(COLUMNS)))
    assert all(later <= earlier for earlier, later in itertools.pairwise(kept))
    assert {COLUMNS[index].title for index in kept[-1]} == {"SLOT", "TASK", "RUNNING"}


def test_a_node_that_only_starts_can_be_drawn():
    """Before the template is up there is no queue, no steward and no child; the view says so and does not fail."""
    status = a_status(template=None, steward=None, queue=None, children=[], totals={}, last_events=[], state="starting")
    text = drawn(status)
    assert "starting" in text
    assert "not known yet" in text


def test_a_status_of_a_newer_supervisor_can_be_drawn():
    """Keys that are missing, unknown or null do not break the view: the supervisor may be of another version."""
    child = {"slot": 4, "state": "hibernating", "pid": None, "rss": None, "more": 1}
    assert "hibernating" in drawn({"node": "n", "children": [child], "news": {}, "last_events": [{"kind": "comet"}]})


# ---- its parts


def test_printable_keeps_text_and_writes_out_control():
    """Letters of any script stay; newlines, tabs, escapes and bidirectional overrides are written out."""
    assert printable("añß漢 [x] \\") == "añß漢 [x] \\"
    assert printable("a\n\x1b]0;b\x07\u202e") == r"a\n\x1b]0;b\x07\u202e"


def test_a_cell_holds_exactly_its_characters():
    """``cell`` makes a Text, so brackets are no markup."""
    assert cell("reports [paused]").plain == "reports [paused]"


def test_a_long_id_keeps_its_end():
    """A UUIDv7 begins with the time, alike for all tasks of a minute, so its end is shown; a short id is whole."""
    assert task_name("add", TASK_ID) == "add#…456789ab"
    assert task_name("add", "order-17") == "add#order-17"
    assert task_name("", "") == "–"


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.04, "0.0s"), (9.94, "9.9s"), (42.7, "42s"), (192.0, "3m12s"), (93784.0, "1d2h3m")],
)
def test_seconds(value, text):
    """Times are as exact as their size makes useful."""
    assert seconds(value) == text


def test_an_event_does_not_repeat_its_task():
    """The cause of a crash ends with the task's name; beside the name it is left out."""
    line = event_text(a_status()["last_events"][0]).plain
    assert line.count(TASK) == 1
    assert line.endswith("killed by [SIGSEGV]  rss=61.0 MiB age=0.25 done=4")
