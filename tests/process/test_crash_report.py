"""A task that ends its child leaves a report with what that end lets be known, on either kind of broker."""

from __future__ import annotations

import json
import os
import signal
import types

import pytest

from poolrt.cli.main import run
from poolrt.errors import TaskFailed
from poolrt.hygiene.crash_report import report_of

SECRET = "s3cret-t0ken"


@pytest.fixture(params=["sqlite", "redis"])
def url(request, place, redis_url):
    """The broker's URL."""
    return redis_url if request.param == "redis" else f"sqlite:///{place}/p.db"


@pytest.fixture
def app(url, monkeypatch):
    """The App of crash_report_apps on that broker."""
    import crash_report_apps

    monkeypatch.setenv("TEST_BROKER", url)
    made = crash_report_apps.build(url)
    yield made
    made.close()


@pytest.fixture
def tasks(app):
    """The app's tasks by the last part of their names."""
    return types.SimpleNamespace(**{name.rpartition(".")[2]: task for name, task in app.tasks.items()})


@pytest.fixture
def start(serve):
    """``start()``: a node with two children that gives a task up at its first death."""
    return lambda: serve("crash_report_apps:app", concurrency=2, max_deliveries=1)


def ended(result, record):
    """The record and the report of a task that did not succeed."""
    with pytest.raises(TaskFailed):
        result.get(20)
    found = record(result)
    report = report_of(found)
    assert report is not None
    assert SECRET not in result.crash_report
    assert (report.stdout, report.stderr) == (b"the last line of stdout\n", b"the last line of stderr\n")
    return found, report


def test_each_end_leaves_what_it_can(start, tasks, ledger, record):
    """Segfault, exit, time limit, memory limit, a kill from outside: cause, stack, curve, connections, output."""
    results = {how: tasks.die.delay(SECRET, how) for how in ("SIGSEGV", "3")}
    results |= {name: getattr(tasks, name).delay(SECRET) for name in ("hang", "grow")}
    node = start()

    found, report = ended(results["SIGSEGV"], record)
    assert (found.status, report.killer) == (-signal.SIGSEGV, "")
    assert "Segmentation fault" in found.stack
    assert "in die" in found.stack
    assert report.lowest_free > 3
    assert "exit      SIGSEGV" in results["SIGSEGV"].crash_report

    found, report = ended(results["3"], record)
    assert (found.status, found.stack, report.killer) == (3, "", "")

    found, report = ended(results["hang"], record)
    assert (found.error.type, found.status) == ("TimeLimitExceeded", -signal.SIGKILL)
    assert report.killer.startswith("poolrt")
    assert "in hang" in found.stack
    assert sum(report.kinds.values()) > 3
    assert report.kinds["socket"] >= 2 or not report.complete
    if report.complete:
        (listening,) = (peer for peer in report.peers if peer.startswith("listening on 127.0.0.1:"))
        assert report.peers[listening.removeprefix("listening on ")] == 1

    found, report = ended(results["grow"], record)
    assert found.error.type == "MemoryLimitExceeded"
    sizes = [size for _, size in report.rss]
    assert len(sizes) > 2
    assert sizes[-1] == max(sizes) > 160 << 20
    assert "growth    " in results["grow"].crash_report

    outside = tasks.wait.delay(SECRET, str(ledger))
    node.wait(ledger.lines, "it runs")
    pid = int(ledger.column()[0])
    os.kill(pid, signal.SIGKILL)
    found, report = ended(outside, record)
    assert (found.status, found.stack, report.pid) == (-signal.SIGKILL, "", pid)
    assert report.killer.startswith("somebody outside")
    assert node.stop() == 0


def test_a_task_that_ends_by_itself_has_no_report(start, tasks, ledger, record):
    """Neither a value nor an exception is a crash."""
    result = tasks.note.delay(str(ledger), "t")
    node = start()
    assert result.get(20) == "t"
    assert result.crash_report is None
    assert record(result).report is None
    assert node.stop() == 0


def test_dead_show_prints_it(start, tasks, url, capsys):
    """The command line reads it from the broker, arguments hidden, after the node has ended."""
    result = tasks.die.delay(SECRET, "SIGSEGV")
    node = start()
    node.wait_event("task-dead")
    assert node.stop() == 0
    assert run(["dead", "show", url, result.id]) == 0
    shown = capsys.readouterr().out
    assert "call      crash_report.die(<str 12>, <str 7>)" in shown
    assert "last: killed by SIGSEGV while running crash_report.die" in shown
    assert "in die" in shown
    assert "  the last line of stderr" in shown
    assert SECRET not in shown
    assert run(["dead", "list", url, "--json"]) == 0
    assert [each["id"] for each in json.loads(capsys.readouterr().out)["dead"]] == [result.id]
