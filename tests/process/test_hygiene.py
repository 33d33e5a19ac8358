"""Nothing of a task outlives its child, and a child is cut off from everything but its own."""

import os
import signal

import pytest


@pytest.fixture
def strays_gone(is_gone):
    """``strays_gone(ledger, n)``: whether n strays were made and all have ended."""

    def check(ledger, count):
        return len(ledger.strays()) == count and all(is_gone(pid) for pid in ledger.strays())

    return check


@pytest.mark.parametrize("kind", ["exec", "fork"])
def test_strays_die_with_a_recycled_child(serve, tasks, ledger, strays_gone, kind):
    """Session leaders and daemons that a task left are ended when its child is recycled, and are named."""
    tasks.leave_strays.delay(str(ledger), kind)
    node = serve(max_tasks_per_child=1)
    node.wait_event("child-recycled")
    node.wait(lambda: strays_gone(ledger, 2 if kind == "exec" else 1), "the strays are gone", 3)
    assert node.wait_event("left-behind")[0]["numbers"]["ended"] >= 1


@pytest.mark.parametrize("kind", ["exec", "fork"])
@pytest.mark.parametrize("how", ["SIGKILL", "3"])
def test_strays_die_with_a_crashed_child(serve, tasks, ledger, strays_gone, kind, how):
    """The same when the child crashes: nobody was left in it to clean up."""
    tasks.leave_strays.delay(str(ledger), kind, "", how)
    node = serve(max_deliveries=1)
    node.wait_event("child-crashed")
    node.wait(lambda: strays_gone(ledger, 2 if kind == "exec" else 1), "the strays are gone", 3)
    assert node.stop() == 0


def test_strays_die_with_a_child_over_its_time_limit(serve, tasks, ledger, strays_gone):
    """A child killed for its task's time limit takes with it what the task had started."""
    tasks.leave_strays.delay(str(ledger), "exec", "", "hang")
    node = serve(time_limit="500ms")
    node.wait_event("child-killed")
    node.wait(lambda: strays_gone(ledger, 2), "the strays are gone", 3)


def test_strays_of_a_living_child_die_at_shutdown(serve, tasks, ledger, strays_gone, is_gone):
    """What a task left running while its child lives on is gone when the node has stopped."""
    done = tasks.leave_strays.delay(str(ledger), "exec")
    node = serve()
    done.get(10)
    assert not any(is_gone(pid) for pid in ledger.strays())
    assert node.stop() == 0
    assert strays_gone(ledger, 2)


def test_what_a_task_sees_of_its_process(serve, tasks):
    """The mark of its start in the environment, a process group of its own, handlers instead of ignored signals."""
    node = serve(concurrency=2).wait_up(2)
    seen = tasks.look.delay().get(10)
    status = node.status()
    assert seen["mark"] == status["incarnation"]
    assert seen["group"] == seen["pid"]
    assert seen["parent"] == status["template"]["pid"]
    assert seen["handlers"] == {
        "SIGTERM": "do_nothing", "SIGINT": "do_nothing", "SIGHUP": "do_nothing", "SIGUSR1": "do_nothing",
        "SIGCHLD": "SIG_DFL",
    }  # fmt: skip


def test_a_late_child_holds_no_more_than_the_first_one(serve, tasks, ledger):
    """No child inherits a sibling's lifeline, nor anything else that grows: the 100th has as many fds as the first."""
    node = serve(max_tasks_per_child=1, concurrency=2)
    first = tasks.look.delay().get(10)
    tasks.note.enqueue_many([(str(ledger), i) for i in range(100)])
    node.wait_event("child-recycled", 100)
    last = tasks.look.delay().get(10)
    assert last["pid"] != first["pid"]
    assert len(last["fds"]) == len(first["fds"]), f"{first['fds']}\n{last['fds']}"
    sockets = [target for target in last["fds"].values() if target.startswith("socket:")]
    assert len(sockets) <= 2, f"its lifeline and the node's wake socket, no other: {last['fds']}"


def test_signals_from_outside_do_not_touch_a_task(serve, tasks, ledger, gate):
    """TERM, INT, HUP and QUIT sent to a child are nothing to its task: orders come from the supervisor alone."""
    result = tasks.hold.delay(str(ledger), "t", str(gate))
    node = serve()
    node.wait(ledger.lines, "the task runs")
    pid = int(ledger.lines()[0][2])
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP, signal.SIGUSR1):
        os.kill(pid, number)
    gate.touch()
    assert result.get(5) == "t"
    assert ledger.column(1) == ["t", "t"]
    assert tasks.note.delay(str(ledger), "after").get(5) == "after"
    assert node.stop() == 0


def test_a_task_may_signal_its_own_group(serve, tasks, ledger):
    """``os.killpg(0, TERM)`` of a task reaches nobody but its own child."""
    node = serve(concurrency=2).wait_up(2)
    assert tasks.note.delay(str(ledger), "t").get(5) == "t"
    groups = {pid: os.getpgid(pid) for pid in node.tree()}
    assert len(set(groups.values())) == len(groups), f"two processes share a group: {groups}"
