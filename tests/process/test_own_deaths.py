"""Our own processes die: the others see it, nothing lingers, and what ran is told from what was only held."""

import os
import signal

import psutil
import pytest

from poolrt.errors import ExitCode
from poolrt.states import TaskState


@pytest.fixture
def holding(serve, tasks, ledger, gate):
    """``holding(**settings)``: a node whose one child runs a gated task and holds others; the node and the results."""

    def start(**settings):
        node = serve(**settings)
        assert tasks.step.enqueue_many([(str(ledger), f"a{i}") for i in range(300)])[-1].get(10) == "a299"
        calls = [(str(ledger), "running", str(gate)), *((str(ledger), f"b{i}") for i in range(20))]
        results = tasks.step.enqueue_many(calls)
        node.wait(lambda: "running" in ledger.column(), "the task runs")
        assert node.child()["held"] > 1
        return node, results

    return start


def check_reclaimed(results, record, ledger):
    """The running one was lost once and ran again; the held ones were never lost and ran once."""
    running, *held = results
    assert [result.get(10) for result in held] == [f"b{i}" for i in range(20)]
    assert running.get(10) == "running"
    assert record(running).lost == 1
    assert {record(result).lost for result in held} == {0}
    assert ledger.column().count("running") == 2
    assert len([tag for tag in ledger.column() if tag.startswith("b")]) == 20


@pytest.mark.parametrize("kind", ["exec", "fork"])
def test_without_its_supervisor_the_pool_is_gone(serve, tasks, ledger, gate, is_gone, wait_for, kind):
    """SIGKILL of the supervisor: the template ends children, steward and what tasks had started, within 2 s."""
    tasks.leave_strays.delay(str(ledger), kind, str(gate))
    node = serve(concurrency=2).wait_up(2)
    node.wait(lambda: len(ledger.strays()) == (2 if kind == "exec" else 1), "the strays are there")
    everyone = [*node.tree(), *ledger.strays()]
    assert len(everyone) >= 6
    node.send(signal.SIGKILL)
    node.wait_end()
    wait_for(lambda: all(is_gone(pid) for pid in everyone), "the whole pool is gone", 2)


def test_a_restart_reclaims_what_the_killed_supervisor_held(holding, serve, record, ledger, gate, kill):
    """The next start of the name counts the one message the board shows running, and requeues the rest uncounted."""
    node, results = holding()
    kill(node)
    gate.touch()
    again = serve(name=node.name)
    check_reclaimed(results, record, ledger)
    (rescued,) = again.wait_event("node-rescued")
    assert rescued["numbers"]["running"] == 1
    (requeued,) = again.wait_event("task-requeued")
    assert requeued["task_id"] == results[0].id
    assert "whole node" in requeued["cause"]
    assert again.stop() == 0


def test_a_restart_right_after_the_kill_gets_the_name(serve, tasks, ledger, gate, is_gone):
    """A start at the very moment of the kill waits for the old children instead of calling the name taken."""
    result = tasks.hold.delay(str(ledger), "t", str(gate))
    node = serve(concurrency=4).wait_up(4)
    node.wait(ledger.lines, "the task runs")
    template = node.child_of("template")
    os.kill(template, signal.SIGSTOP)  # it cannot end its children yet
    node.send(signal.SIGKILL)
    node.wait_end()
    gate.touch()
    again = serve(name=node.name).wait_up()
    assert result.get(10) == "t"
    assert is_gone(template)
    assert again.stop() == 0


def test_crashes_of_the_whole_node_are_counted_up_to_the_limit(holding, serve, record, ledger, gate, kill):
    """A message that was running at ``max_deliveries`` deaths of its node is dead, and names that."""
    node, results = holding(max_deliveries=1)
    kill(node)
    gate.touch()
    again = serve(name=node.name, max_deliveries=1)
    assert results[-1].get(10) == "b19"
    (dead,) = again.wait_event("task-dead")
    assert dead["task_id"] == results[0].id
    ended = record(results[0])
    assert (ended.state, ended.lost) == (TaskState.DEAD, 1)
    assert {record(result).lost for result in results[1:]} == {0}


def test_a_killed_template_is_replaced_and_nothing_is_lost(holding, record, ledger, gate, is_gone):
    """SIGKILL of the template: named, its children end with it, a new one serves, and all tasks end."""
    node, results = holding()
    before = node.pids()
    os.kill(before["template"][0], signal.SIGKILL)
    (lost,) = node.wait_event("template-lost")
    assert lost["pid"] == before["template"][0]
    gate.touch()
    check_reclaimed(results, record, ledger)
    assert all(is_gone(pid) for role in ("template", "steward", "children") for pid in before[role])
    assert not set(node.pids()["template"]) & set(before["template"])
    assert node.stop() == 0


def test_strays_do_not_outlive_a_killed_template(serve, tasks, ledger, gate, is_gone):
    """What tasks had started falls to the supervisor when template and children die at once, and is ended."""
    tasks.leave_strays.delay(str(ledger), "exec", str(gate))
    node = serve()
    node.wait(lambda: len(ledger.strays()) == 2, "the strays are there")
    strays = ledger.strays()
    os.kill(node.child_of("template"), signal.SIGKILL)
    node.wait(lambda: all(is_gone(pid) for pid in strays), "the strays are gone", 3)
    gate.touch()
    assert node.stop() == 0


def test_a_template_killed_again_and_again(serve, tasks, ledger):
    """Three templates in a row are killed; each time the node comes back and works."""
    node = serve(concurrency=2).wait_up(2)
    for number in range(1, 4):
        os.kill(node.child_of("template"), signal.SIGKILL)
        node.wait_event("template-lost", number)
        assert tasks.note.delay(str(ledger), number).get(10) == number
    assert node.stop() == 0


def test_a_template_killed_while_the_node_drains(serve, app, tasks, ledger, gate):
    """The node ends without it, and the running task is back in the queue or counted as lost once: not gone."""
    result = tasks.hold.delay(str(ledger), "t", str(gate))
    node = serve()
    node.wait(ledger.lines, "the task runs")
    template = node.child_of("template")
    node.send(signal.SIGTERM)
    node.wait_event("node-draining")
    os.kill(template, signal.SIGKILL)
    node.wait_end(10)
    gate.touch()
    again = serve(name=node.name)
    assert result.get(10) == "t"
    assert again.stop() == 0


def test_a_killed_steward_is_replaced_and_buries(serve, tasks, ledger, gate, record):
    """A child that dies while there is no steward is buried by the next one: its message is delivered again."""
    result = tasks.hold.delay(str(ledger), "t", str(gate))
    node = serve()
    node.wait(ledger.lines, "the task runs")
    pids = node.pids()
    os.kill(pids["steward"][0], signal.SIGKILL)
    os.kill(pids["children"][0], signal.SIGKILL)
    node.wait_event("steward-replaced")
    node.wait_event("task-requeued")
    gate.touch()
    assert result.get(10) == "t"
    assert record(result).lost == 1
    assert node.stop() == 0


def test_a_killed_steward_does_not_stop_the_work(serve, tasks, ledger):
    """Children go on without a steward, and delayed tasks are promoted again once there is a new one."""
    node = serve().wait_up()
    os.kill(node.pids()["steward"][0], signal.SIGKILL)
    delayed = tasks.note.apply_async((str(ledger), "delayed"), countdown=0.1)
    assert tasks.note.delay(str(ledger), "now").get(10) == "now"
    assert delayed.get(10) == "delayed"
    node.wait_event("steward-replaced")
    assert node.stop() == 0


SILENT = """
import importlib, pkgutil, poolrt.supervisor
found = False
for info in pkgutil.iter_modules(poolrt.supervisor.__path__):
    module = importlib.import_module("poolrt.supervisor." + info.name)
    for name in ("_STEWARD_SILENT_AFTER", "STEWARD_SILENT_AFTER", "_SILENT_AFTER", "SILENT_AFTER"):
        if hasattr(module, name):
            setattr(module, name, 1.5)
            found = True
assert found, "the constant has another name now"
"""


def test_a_steward_that_stands_still_is_replaced(serve, tasks, ledger, is_gone):
    """A stopped steward does not answer: it is killed and replaced (15 s; here 1.5 s)."""
    node = serve(patch=SILENT).wait_up()
    steward = node.pids()["steward"][0]
    os.kill(steward, signal.SIGSTOP)
    node.wait_event("steward-replaced", timeout=6)
    assert is_gone(steward)
    assert tasks.note.apply_async((str(ledger), "t"), countdown=0.05).get(10) == "t"
    assert node.stop() == 0


def test_a_template_that_stands_still_is_replaced(serve, tasks, ledger):
    """A stopped template does not fork: it is killed after ``boot_timeout``, and a new one serves."""
    node = serve(boot_timeout="1s").wait_up()
    assert tasks.note.delay(str(ledger), "before").get(10) == "before"
    os.kill(node.child_of("template"), signal.SIGSTOP)
    os.kill(node.pids()["children"][0], signal.SIGKILL)
    node.wait_event("template-lost", timeout=8)
    assert tasks.note.delay(str(ledger), "after").get(10) == "after"
    assert node.stop() == 0


@pytest.mark.parametrize("kind", ["exec", "fork"])
def test_supervisor_and_template_killed_at_one_instant(serve, tasks, ledger, gate, record, is_gone, wait_for, kind):
    """Nobody is left to clean up; the next start ends what carries the old start's mark, and reclaims."""
    result = tasks.leave_strays.delay(str(ledger), kind, str(gate))
    node = serve()
    count = 2 if kind == "exec" else 1
    node.wait(lambda: len(ledger.strays()) == count, "the strays are there")
    strays = ledger.strays()
    template, child = node.child_of("template"), node.child()["pid"]
    for pid in (node.pid, template):
        os.kill(pid, signal.SIGSTOP)  # so that neither sees the other die
        node.wait(lambda pid=pid: psutil.Process(pid).status() == psutil.STATUS_STOPPED, "it stands still")
    os.kill(template, signal.SIGKILL)  # first: a stopped group that is orphaned would be continued by the kernel
    os.kill(node.pid, signal.SIGKILL)
    node.wait_end()
    wait_for(lambda: is_gone(template) and is_gone(child), "both are dead, and the child with its template")
    assert not any(is_gone(pid) for pid in strays), "the fault was not made: the strays are gone already"
    gate.touch()
    again = serve(name=node.name, max_tasks_per_child=1)
    (left,) = again.wait_event("left-behind")[:1]
    assert left["numbers"]["ended"] >= count
    assert all(is_gone(pid) for pid in strays)
    result.get(10)
    assert record(result).lost == 1
    assert again.stop() == 0


def test_another_node_rescues_what_a_dead_node_held(holding, serve, record, ledger, gate, kill):
    """A node of another name on the same file takes over at once: the dead node's lock is free."""
    node, results = holding()
    kill(node)
    gate.touch()
    other = serve()
    check_reclaimed(results, record, ledger)
    (rescued,) = other.wait_event("node-rescued")
    assert rescued["node"] == node.name
    assert other.stop() == 0


def test_a_living_node_is_never_rescued(holding, serve, record, gate):
    """A node that lives, however long its task runs, keeps what it holds while others come and go."""
    node, results = holding()
    other = serve().wait_up()
    other.wait(lambda: other.status()["queue"] is not None, "the other node's steward has looked")
    assert other.stop() == 0
    assert not other.events("node-rescued")
    gate.touch()
    assert results[0].get(10) == "running"
    assert {record(result).lost for result in results if result.get(10)} == {0}
    assert node.stop() == 0


def test_a_supervisor_killed_while_the_app_is_imported(serve, place, is_gone, wait_for):
    """A template in the middle of a long import does not outlive its supervisor."""
    (place / "slow_app.py").write_text(
        f"import os, time\nopen({str(place / 'importing')!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)\n"
    )
    node = serve("slow_app:app")
    node.wait(lambda: (place / "importing").exists() and (place / "importing").read_text(), "the import has begun")
    template = int((place / "importing").read_text())
    node.send(signal.SIGKILL)
    node.wait_end()
    wait_for(lambda: is_gone(template), "the template is gone", 2)


def test_a_stopped_and_continued_supervisor_goes_on(serve, tasks, ledger):
    """The work does not pass through the supervisor: tasks go on while it stands still, and it catches up after."""
    node = serve(concurrency=2).wait_up(2)
    os.kill(node.pid, signal.SIGSTOP)
    assert tasks.note.delay(str(ledger), "meanwhile").get(10) == "meanwhile"
    os.kill(node.pid, signal.SIGCONT)
    assert node.status()["totals"]["done"] == 1
    assert node.stop() == ExitCode.OK


@pytest.mark.parametrize("where", ["idle", "in a transaction"])
def test_a_child_stopped_outside_a_task_is_replaced(serve, tasks, app, ledger, where):
    """SIGSTOP on an idle child, or on one that holds the database's write lock: it is replaced; the rest works on."""
    node = serve("stopping_app:app" if where != "idle" else "process_apps:app", concurrency=2).wait_up(2)
    if where == "idle":
        os.kill(node.child()["pid"], signal.SIGSTOP)
    else:
        tasks.note.delay(str(ledger), "stops in its settle").get(15)
    (killed,) = node.wait_event("child-killed", timeout=10)
    assert killed["cause"] == "it was stopped from outside while it ran no task"
    assert [result.get(10) for result in tasks.note.enqueue_many([(str(ledger), i) for i in range(20)])] == list(
        range(20)
    )
    node.wait_up(3)
    assert node.stop() == 0
