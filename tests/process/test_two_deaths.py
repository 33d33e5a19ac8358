"""Two deaths at once, in orders that the model found (tests/model/node_model.py): nothing is stranded or miscounted."""

import os
import signal
import sqlite3

import pytest

from poolrt import App
from poolrt.errors import ExitCode, TimeLimitExceeded, WorkerLost
from poolrt.states import TaskState

CODE = """
import os, time
from poolrt import App

app = App("reloaded", broker=os.environ["TEST_BROKER"])

@app.task(name="slow")
def slow(gate):
    open(gate + ".begun", "a").write("x")
    while not os.path.exists(gate):
        time.sleep(0.002)
    return os.getpid()
"""


def test_a_supervisor_killed_right_after_a_hard_limit(serve, tasks, ledger, gate, record, kill):
    """The board tells the next start that the run was killed for its limit: it has failed, and is not run again."""
    result = tasks.hold.apply_async((str(ledger), "t", str(gate)), time_limit="500ms")
    node = serve()
    node.wait(ledger.lines, "the task runs")
    os.kill(node.child_of("steward"), signal.SIGSTOP)  # so that nobody buries the child
    node.wait_event("child-killed")
    kill(node)
    gate.touch()
    again = serve(name=node.name)
    with pytest.raises(TimeLimitExceeded):
        result.get(10)
    assert record(result).lost == 0
    assert ledger.column().count("begin") == 1
    assert again.stop() == ExitCode.OK


def test_a_stop_whose_broker_is_busy_to_the_end(serve, tasks, app, ledger, gate, record):
    """Killed at the end of the grace and never buried: put back all the same, uncounted, by the next start."""
    result = tasks.stubborn.delay(str(ledger), "t", str(gate))
    node = serve(graceful_timeout="200ms")
    node.wait(ledger.lines, "the task runs")
    held = sqlite3.connect(app.broker.path, timeout=10, isolation_level=None)
    held.execute("begin immediate")
    node.send(signal.SIGTERM)
    assert node.wait_end(30) == ExitCode.FORCED_STOP
    held.execute("rollback")
    held.close()
    gate.touch()
    again = serve(name=node.name)
    assert result.get(10) == "t"
    assert record(result).lost == 0
    assert again.stop() == ExitCode.OK


def _idle(node):
    return [child["pid"] for child in node.status()["children"] if child["activity"] == "idle"]


def test_a_template_that_stands_still_is_not_the_tasks_fault(serve, tasks, ledger, gate, record):
    """What ran under a template that we kill is put back uncounted."""
    result = tasks.hold.delay(str(ledger), "t", str(gate))
    node = serve(concurrency=2, boot_timeout="1s").wait_up(2)
    node.wait(ledger.lines, "the task runs")
    node.wait(lambda: _idle(node), "the other child is idle")
    (idle,) = _idle(node)
    os.kill(node.child_of("template"), signal.SIGSTOP)
    os.kill(idle, signal.SIGKILL)
    node.wait_event("template-lost", timeout=10)
    gate.touch()
    assert result.get(10) == "t"
    assert record(result).lost == 0
    assert node.stop() == ExitCode.OK


def test_a_start_that_no_lock_file_lists(serve, tasks, app, ledger, gate, kill):
    """The lock file is gone at the restart of a killed node: the steward finds what it held all the same."""
    result = tasks.hold.delay(str(ledger), "t", str(gate))
    node = serve()
    node.wait(ledger.lines, "the task runs")
    kill(node)
    gate.touch()
    (app.broker.node_directory() / f"{node.name}.lock").unlink()
    serve(name=node.name)
    assert result.get(15) == "t"


def test_a_lock_file_deleted_under_a_living_node(serve, app):
    """Whoever deletes it gives the name away: the node says so and ends, before its tasks are taken from it."""
    node = serve().wait_up()
    (app.broker.node_directory() / f"{node.name}.lock").unlink()
    assert node.wait_end() == ExitCode.BROKER_UNUSABLE
    assert "was deleted while the node ran" in node.text()


def test_a_new_template_killed_while_the_node_drains(serve, place, gate, monkeypatch):
    """An old child still works after a reload, the new template dies in the drain: the task has its grace."""
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    (place / "reloaded.py").write_text(CODE)
    code = App("reloaded", broker=f"sqlite:///{place}/p.db")
    slow = code.task(name="slow")(lambda gate: None)
    node = serve("reloaded:app")
    result = slow.delay(str(gate))
    node.wait(lambda: os.path.exists(f"{gate}.begun"), "it runs")
    old = node.pids()
    node.send(signal.SIGHUP)
    node.wait_event("node-reloaded")

    def moved():
        status = node.status()
        up = [child for child in status["children"] if child["state"] == "up"]
        steward = status["steward"]
        return len(up) == 1 and steward and steward["pid"] not in old["steward"] and steward["state"] == "up"

    node.wait(moved, "steward and a new child are up")
    node.send(signal.SIGTERM)
    node.wait_event("node-draining")
    node.wait(lambda: len(node.status()["children"]) == 1, "only the old child is left")
    template = node.child_of("template")
    assert template not in old["template"]
    os.kill(template, signal.SIGKILL)
    node.wait_event("template-lost")
    assert result.state is TaskState.RESERVED
    gate.touch()
    assert node.wait_end() == ExitCode.OK
    assert result.successful()
    code.close()


def test_a_task_that_breaks_its_child_after_its_end(serve, tasks, record):
    """It closes all descriptors, so that its child cannot settle: named, counted, and dead after its deliveries."""
    result = tasks.close_all.delay()
    node = serve(max_deliveries=2)
    node.expects_traceback = True
    with pytest.raises(WorkerLost):
        result.get(15)
    assert record(result).lost == 2
    assert {event["task_id"] for event in node.events("child-crashed")} == {result.id}
    assert tasks.note.delay("/dev/null", "after").get(10) == "after"


def test_a_hard_limit_that_a_task_turns_into_a_crash(serve, tasks, record):
    """A task that makes SIGUSR1 deadly dies of the question for its stacks: it is over its limit, and runs once."""
    result = tasks.deadly.delay()
    serve()
    with pytest.raises(TimeLimitExceeded):
        result.get(10)
    assert record(result).lost == 0


def test_a_finalizer_that_hangs_holds_a_slot_for_seconds_not_for_good(serve, tasks, ledger):
    """The task is settled before the collection; the child that hangs in it is replaced, and the task is named."""
    node = serve(max_memory_per_child="40MiB")
    assert tasks.hang_in_gc.delay().get(10) == "done"
    (killed,) = node.wait_event("child-killed", timeout=20)
    assert "it hung for 10 s in what its tasks had left, last hang_in_gc" in killed["cause"]
    assert tasks.note.delay(str(ledger), "after").get(10) == "after"


def test_a_stop_whose_template_stands_still(serve):
    """A frozen template tells of no death: the node ends all the same, soon after its grace."""
    node = serve(graceful_timeout="200ms").wait_up()
    os.kill(node.child_of("template"), signal.SIGSTOP)
    assert node.stop(timeout=6) == ExitCode.FORCED_STOP


def test_a_template_lost_after_the_app_has_moved(serve, place, monkeypatch):
    """The code on disk names another broker when the template dies: the node gives up in words."""
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    (place / "reloaded.py").write_text(CODE)
    node = serve("reloaded:app").wait_up()
    (place / "reloaded.py").write_text(CODE.replace('os.environ["TEST_BROKER"]', '"sqlite:///moved.db"'))
    os.kill(node.child_of("template"), signal.SIGKILL)
    assert node.wait_end() == ExitCode.BROKER_UNUSABLE
    assert "giving up: it moves the app to" in node.text()
