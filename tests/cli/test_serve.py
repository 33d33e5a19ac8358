"""``poolrt serve``: its flags are the settings table, and what they say reaches the supervisor."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from poolrt.cli.serve import banner
from poolrt.cli.setting_flags import unknown_variables
from poolrt.errors import ExitCode
from poolrt.settings import Burst, Kind, Settings, settings_from, table

ROOT = Path(__file__).resolve().parents[2]

OTHER_VALUES = {
    Kind.TEXT: ("web-1", "web-1"),
    Kind.COUNT: ("7", 7),
    Kind.DURATION: ("1m30s", 90.0),
    Kind.SIZE: ("512MiB", 512 * 1024 * 1024),
    Kind.BURST: ("3/30s", Burst(3, 30.0)),
}


@pytest.fixture
def served(poolrt: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[str, Settings]]:
    """``served("a:b", "-c", "2")``: the app and the settings that the supervisor would be started with."""
    calls: list[tuple[str, Settings]] = []

    def serve(location: object, settings: Settings, **_: object) -> int:
        calls.append((str(location), settings))
        return ExitCode.OK

    monkeypatch.setattr("poolrt.service.serve", serve)

    def call(*arguments: str) -> tuple[str, Settings]:
        said = poolrt("serve", *arguments)
        assert said.code == ExitCode.OK, said.err
        return calls.pop()

    return call


def _value(setting: Any) -> tuple[str, Any]:
    if setting.name in {"leak_policy", "leak_allow"}:
        return ("files=warn" if setting.name == "leak_policy" else "files:*",) * 2
    return (setting.row.choices[-1],) * 2 if setting.row.choices else OTHER_VALUES[setting.row.kind]


# ---- flags


@pytest.mark.parametrize("setting", table(), ids=lambda setting: setting.name)
def test_every_setting_is_in_the_help(poolrt, setting):
    """The help shows each setting's flag, environment variable, default and group."""
    text = " ".join(poolrt("serve", "--help").out.split())
    assert setting.flag in text
    assert f"[{setting.env};" in text
    assert f"default {setting.default_text}" in text
    assert f" {setting.row.group}: " in text


@pytest.mark.parametrize("setting", table(), ids=lambda setting: setting.name)
def test_every_setting_can_be_given_as_a_flag_and_in_the_environment(served, setting, monkeypatch):
    """A flag, and a variable, set exactly the one setting they are named for; the flag wins."""
    text, value = _value(setting)
    needed = ("-Q", "mail,images") if setting.name == "queue_order" else ()
    _, settings = served("a:b", setting.flag, text, *needed)
    assert getattr(settings, setting.name) == value
    monkeypatch.setenv(setting.env, text)
    _, from_variable = served("a:b", *needed)
    assert from_variable == settings
    other = setting.row.choices[0] if setting.row.choices else "3" if setting.row.kind is Kind.COUNT else None
    if other is not None:
        assert getattr(served("a:b", setting.flag, other)[1], setting.name) == setting.parse(other)


def test_precedence_is_flag_then_variable_then_default(served, monkeypatch):
    """Without anything the default holds, a variable replaces it, a flag replaces both; an empty variable is none."""
    assert served("a:b")[1].max_deliveries == 3
    monkeypatch.setenv("POOLRT_MAX_DELIVERIES", "5")
    assert served("a:b")[1].max_deliveries == 5
    assert served("a:b", "--max-deliveries", "8")[1].max_deliveries == 8
    monkeypatch.setenv("POOLRT_MAX_DELIVERIES", "")
    assert served("a:b")[1].max_deliveries == 3


@pytest.mark.parametrize(
    ("flag", "value", "says"),
    [
        ("--max-lifetime", "12xx", "'12xx' is not a duration; write for example 60s, 250ms or 1h30m"),
        ("--concurrency", "many", "'many' is not a whole number"),
        ("--max-deliveries", "0", "must be at least 1, not 0"),
        ("--max-tasks-jitter", "95", "is a percentage up to 90, not 95"),
        ("--restart-burst", "6", "'6' is not COUNT/DURATION; write for example 10/60s"),
        ("--log-level", "loud", "'loud' is not one of 'debug', 'info', 'warning', 'error'"),
        ("--node-name", "a b", "'a b': use up to 64 letters"),
    ],
)
def test_a_bad_value_is_one_line_that_names_its_source(poolrt, monkeypatch, flag, value, says):
    """A value the table refuses is exit code 2 and one line in the table's words, naming the flag or the variable."""
    said = poolrt("serve", "a:b", flag, value)
    assert (said.code, said.out, said.err.count("\n")) == (ExitCode.USAGE, "", 1)
    assert said.err.startswith(f"poolrt: {flag}: {says}")
    variable = "POOLRT_" + flag.removeprefix("--").replace("-", "_").upper()
    monkeypatch.setenv(variable, value)
    said = poolrt("serve", "a:b")
    assert (said.code, said.err.count("\n")) == (ExitCode.USAGE, 1)
    assert said.err.startswith(f"poolrt: {variable}: {says}")


# ---- which app


def test_the_app_may_be_named_four_ways(served, monkeypatch):
    """APP, -A, --app and POOLRT_APP name the app; on the line it wins over the variable; the attribute is ``app``."""
    assert served("proj.tasks:jobs")[0] == "proj.tasks:jobs"
    assert served("-A", "proj.tasks")[0] == "proj.tasks:app"
    assert served("--app", "proj.tasks:jobs")[0] == "proj.tasks:jobs"
    monkeypatch.setenv("POOLRT_APP", "other:app")
    assert served()[0] == "other:app"
    assert served("proj.tasks")[0] == "proj.tasks:app"
    assert served("-A", "proj.tasks")[0] == "proj.tasks:app"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "no app is named (write 'poolrt serve proj.tasks:app', or set POOLRT_APP)"),
        (("a:b", "-A", "c:d"), "two apps are named: a:b and -A c:d (name one)"),
        (("tasks.py",), "is a file; name its module"),
        (("not an app",), "is not module:attribute"),
    ],
)
def test_a_wrong_app_is_a_usage_error(poolrt, arguments, says):
    """No app, two apps, a file and nonsense are each exit code 2 and one line that says what to write."""
    said = poolrt("serve", *arguments)
    assert (said.code, said.err.count("\n")) == (ExitCode.USAGE, 1)
    assert says in said.err


# ---- what it says


def test_the_banner_is_logged_not_printed(served, poolrt, monkeypatch):
    """What will run is told by the logger, on stderr; stdout stays empty."""
    monkeypatch.setattr("poolrt.service.serve", lambda *_, **__: ExitCode.OK)
    said = poolrt("serve", "proj.tasks", "-c", "2", "--max-tasks-per-child", "50")
    assert said.out == ""
    assert f"node proj.tasks-app@{socket.gethostname()} runs proj.tasks:app with 2 children" in said.err
    assert "max-tasks-per-child 50, max-tasks-jitter 10, cancel-grace 5s, max-deliveries 3" in said.err


def test_the_banner_leaves_out_what_is_off():
    """Limits that are off, and the jitter of one that is off, are not listed."""
    first, second = banner("a:b", settings_from({"concurrency": 1, "node_name": "n"}))
    assert first.endswith("node n runs a:b with 1 child")
    assert "max-tasks" not in second
    assert "max-lifetime" not in second


def test_only_the_poolrt_logger_gets_a_handler(served):
    """The root logger is the app's: serve leaves it as it was."""
    before = logging.getLogger().handlers[:]
    served("a:b", "--log-level", "debug")
    assert logging.getLogger().handlers == before
    assert logging.getLogger("poolrt").handlers
    assert not logging.getLogger("poolrt").propagate


def test_an_unknown_variable_is_warned_of():
    """A POOLRT_* variable that is no setting is named with the nearest that is; known ones are not."""
    told = list(
        unknown_variables({"POOLRT_CONCURENCY": "3", "POOLRT_CONCURRENCY": "3", "POOLRT_DEBUG": "1", "PATH": ""})
    )
    assert told == ["the environment variable POOLRT_CONCURENCY is no setting (did you mean POOLRT_CONCURRENCY?)"]


# ---- for real


APP = """
from poolrt import App
app = App("shop [x]", broker="sqlite:///jobs.db")
@app.task(name="reports [paused]")
def add(x, y): return x + y
"""


def test_serve_runs_tasks_until_term(command, node_dir):
    """An app in the current folder is served: a task enqueued by another process is run, and TERM ends it with 0."""
    (node_dir / "shop.py").write_text(APP)
    node = command("serve", "shop", "-c", "1", "--node-name", "n1", cwd=node_dir)
    client = "import shop; print(shop.add.delay(2, 3).get(timeout=20))"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", client], cwd=node_dir, env=env, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.stdout == "5\n", done.stderr
    status = command("status", cwd=node_dir)
    out, err = status.communicate(timeout=20)
    assert (status.returncode, err) == (ExitCode.OK, "")
    assert "n1" in out
    assert "shop [x]" in out
    assert f"sqlite:///{node_dir}/jobs.db" in out
    node.send_signal(signal.SIGTERM)
    out, err = node.communicate(timeout=20)
    assert (node.returncode, out) == (ExitCode.OK, "")
    assert "runs shop:app with 1 child" in err


def test_a_second_supervisor_of_one_name_is_refused(command, node_dir, wait_for):
    """The same node name twice is exit code 7, and its last line says what to do."""
    (node_dir / "shop.py").write_text(APP)
    first = command("serve", "shop", "-c", "1", "-n", "n1", cwd=node_dir)
    wait_for(lambda: list((node_dir / "run").glob("n1.sock")), "the first node listens")
    second = command("serve", "shop", "-c", "1", "-n", "n1", cwd=node_dir)
    _, err = second.communicate(timeout=20)
    assert second.returncode == ExitCode.NODE_NAME_TAKEN
    assert "--node-name" in err.splitlines()[-1]
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=20)


def test_serve_stays_small(command, node_dir, wait_for):
    """The process that becomes the supervisor stays under 30 MiB, click included."""
    (node_dir / "shop.py").write_text(APP)
    node = command("serve", "shop", "-c", "1", "-n", "n1", cwd=node_dir)
    wait_for(lambda: list(node_dir.glob("jobs.db-nodes/n1.board")), "the node has its board")
    time.sleep(0.2)  # the claim is an upper bound: it may only grow
    with open(f"/proc/{node.pid}/statm") as file:
        resident = int(file.read().split()[1]) * 4096
    assert resident < 30 * 1024 * 1024
    node.send_signal(signal.SIGTERM)
    node.communicate(timeout=20)
