"""What each signal to the supervisor does: QUIT, HUP, TSTP, CONT, TTIN, TTOU, USR1, and what a terminal changes."""

import os
import pty
import signal
import subprocess
import sys
import time

import pytest

from poolrt.errors import ExitCode
from poolrt.states import TaskState


def runs(node, ledger, count=1):
    """Wait until so many tasks have begun."""
    node.wait(lambda: ledger.column().count("begin") >= count, f"{count} tasks run")


def test_quit_interrupts_what_runs_and_stops(serve, tasks, ledger, gate, app):
    """QUIT raises TaskInterrupted in the task, whose cleanup runs; it is put back, uncounted; the node ends in 1 s."""
    node = serve()
    result = tasks.tidy.delay(str(ledger), str(gate))
    runs(node, ledger)
    began = time.monotonic()
    node.send(signal.SIGQUIT)
    assert node.wait_end() == ExitCode.FORCED_STOP
    assert time.monotonic() - began < 1.5
    assert ledger.column() == ["begin", "tidied"]
    found = app.broker.find(result.id)
    assert (found.state, found.lost) == (TaskState.QUEUED, 0)
    (told,) = node.events("task-requeued")
    assert told["task_id"] == result.id
    gate.touch()
    again = serve(name=node.name)
    assert result.get(10) == "done"
    assert again.stop() == ExitCode.OK


@pytest.mark.parametrize("how", ["hold_async", "stubborn"])
def test_quit_ends_other_kinds_of_tasks(serve, tasks, ledger, gate, app, how):
    """An async task is cancelled through its loop, one that swallows everything killed: both put back, uncounted."""
    node = serve()
    result = getattr(tasks, how).delay(str(ledger), "t", str(gate))
    runs(node, ledger)
    began = time.monotonic()
    node.send(signal.SIGQUIT)
    assert node.wait_end() == ExitCode.FORCED_STOP
    assert time.monotonic() - began < 1.5
    found = app.broker.find(result.id)
    assert (found.state, found.lost) == (TaskState.QUEUED, 0)
    assert bool(node.events("child-killed")) is (how == "stubborn")


@pytest.mark.parametrize("how", ["hold_once", "stubborn_once"])
def test_what_must_not_run_twice_is_not_put_back(serve, tasks, ledger, gate, record, how):
    """With ``acks_late=False`` a task that the stop interrupts, or kills, has failed with WorkerLost."""
    node = serve()
    result = getattr(tasks, how).delay(str(ledger), "t", str(gate))
    runs(node, ledger)
    node.send(signal.SIGQUIT)
    assert node.wait_end() == ExitCode.FORCED_STOP
    ended = record(result)
    assert (ended.state, ended.error.type) == (TaskState.FAILED, "WorkerLost")


def test_quit_of_an_idle_node_is_clean(serve):
    """Where nothing runs, nothing is forced: exit code 0."""
    assert serve().wait_up().stop(signal.SIGQUIT) == ExitCode.OK


def test_when_the_grace_is_over_the_node_is_gone_within_a_second(serve, tasks, ledger, gate, app):
    """Four tasks of all kinds outlast the grace: interrupted or killed, put back uncounted, all of it within 1 s."""
    node = serve(concurrency=4, graceful_timeout="500ms").wait_up(4)
    results = [
        getattr(tasks, name).delay(str(ledger), "t", str(gate)) for name in ("hold", "hold_async", "stubborn", "hold")
    ]
    runs(node, ledger, 4)
    began = time.monotonic()
    node.send(signal.SIGTERM)
    assert node.wait_end() == ExitCode.FORCED_STOP
    assert 0.5 <= time.monotonic() - began < 1.5
    found = [app.broker.find(result.id) for result in results]
    assert {(each.state, each.lost) for each in found} == {(TaskState.QUEUED, 0)}


def test_quiet_and_resume(serve, tasks, ledger, gate, record):
    """TSTP: what runs finishes, what is held goes back, nothing starts; CONT: it goes on, in the same children."""
    node = serve()
    tasks.step.enqueue_many([(str(ledger), i) for i in range(200)])[-1].get(10)
    pid = node.child()["pid"]
    first = tasks.step.delay(str(ledger), "gated", str(gate))
    rest = tasks.step.enqueue_many([(str(ledger), f"r{i}") for i in range(20)])
    node.wait(lambda: "gated" in ledger.column(), "it runs")
    node.send(signal.SIGTSTP)
    node.wait_event("node-quiet")
    gate.touch()
    assert first.get(10) == "gated"
    node.wait(lambda: node.child()["activity"] == "standby", "the child is quiet")
    assert (node.status()["state"], node.child()["held"]) == ("quiet", 0)
    began = ledger.column()[201:]
    assert {result.state for result in rest[len(began) :]} <= {TaskState.QUEUED}
    node.send(signal.SIGCONT)
    assert [result.get(10) for result in rest] == [f"r{i}" for i in range(20)]
    assert {record(result).lost for result in rest} == {0}
    assert (node.child()["pid"], node.status()["state"]) == (pid, "serving")
    assert node.stop() == ExitCode.OK


def test_a_quiet_node_can_be_stopped_scaled_and_loses_a_child(serve, tasks, ledger):
    """Quiet is kept by new children too, and TERM ends a quiet node at once."""
    node = serve().wait_up()
    node.send(signal.SIGTSTP)
    node.wait_event("node-quiet")
    node.send(signal.SIGTTIN)
    node.wait_up(2)
    os.kill(node.child()["pid"], signal.SIGKILL)
    node.wait_up(3)
    result = tasks.note.delay(str(ledger), "t")
    node.wait(lambda: {child["activity"] for child in node.status()["children"]} == {"standby"}, "all are quiet")
    assert result.state is TaskState.QUEUED
    assert node.stop() == ExitCode.OK
    assert result.state is TaskState.QUEUED


def test_one_more_and_one_less(serve, tasks, ledger):
    """TTIN adds a child, TTOU takes one away, never the last."""
    node = serve().wait_up()
    node.send(signal.SIGTTIN)
    node.wait_up(2)
    assert [event["cause"] for event in node.wait_event("node-scaled")] == ["from 1 to 2 children"]
    for _ in range(2):
        node.send(signal.SIGTTOU)
        node.wait_event("node-scaled", 2)
    node.wait(lambda: len(node.status()["children"]) == 1, "one child is left")
    assert node.status()["concurrency"] == 1
    assert tasks.note.delay(str(ledger), "t").get(10) == "t"


def test_stacks_of_all_children(serve, tasks, ledger, gate):
    """USR1 logs the stacks of every process of the pool, also of a child that hangs in C and one that is stopped."""
    node = serve(concurrency=3).wait_up(3)
    held = tasks.hold.delay(str(ledger), "t", str(gate))
    tasks.grip.delay(str(ledger))
    runs(node, ledger, 2)

    def idle_ones():
        return [child for child in node.status()["children"] if child["activity"] == "idle"]

    node.wait(idle_ones, "the third child is idle")
    (idle,) = idle_ones()
    os.kill(idle["pid"], signal.SIGSTOP)
    node.send(signal.SIGUSR1)

    def logged():
        return [text for text in node.messages() if text.startswith("stacks of")]

    node.wait(lambda: len(logged()) == 4, "three children and the steward are logged")
    texts = "\n".join(logged())
    assert "in await_file" in texts
    assert "in grip" in texts
    assert texts.count("it does not answer") == 1
    assert "steward/main.py" in texts
    os.kill(idle["pid"], signal.SIGCONT)
    gate.touch()
    assert held.get(10) == "t", "a task whose stacks were asked for goes on"


JOB = """
import fcntl, os, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
pid = os.fork()
if not pid:
    os.setpgid(0, 0)
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    os.tcsetpgrp(0, os.getpid())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
with open(sys.argv[1] + ".part", "w") as file:
    file.write(str(pid))
os.rename(sys.argv[1] + ".part", sys.argv[1])
signal.signal(signal.SIGHUP, signal.SIG_IGN)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@pytest.fixture
def job(place, wait_for):
    """``poolrt serve`` as the foreground job of a shell's stand-in: that process, the supervisor, the terminal."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "poolrt", "serve", "process_apps:app", "-c", "1"]
    shell = subprocess.Popen(
        [sys.executable, "-c", JOB, str(place / "job.pid"), *command[1:]],
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    wait_for((place / "job.pid").exists, "the job is started")
    pid = int((place / "job.pid").read_text())
    open_ends = {ours}
    yield shell, pid, open_ends
    for end in open_ends:
        os.close(end)
    if shell.poll() is None:
        os.kill(pid, signal.SIGKILL)
        shell.wait()


def test_a_closed_terminal_drains(job, tasks, ledger, gate, wait_for):
    """With a controlling terminal HUP is a dropped ssh: the running task finishes, and the node ends."""
    shell, pid, open_ends = job
    result = tasks.hold.delay(str(ledger), "t", str(gate))
    wait_for(ledger.lines, "the task runs")
    os.close(open_ends.pop())
    os.kill(pid, signal.SIGHUP)  # as a shell does to its jobs
    wait_for(lambda: not is_serving(), "the node drains")
    assert result.state is TaskState.RESERVED
    gate.touch()
    assert shell.wait(15) == ExitCode.OK
    assert result.state is TaskState.SUCCEEDED


def is_serving():
    """Whether the only node of this folder serves."""
    from poolrt.control import ControlClient

    with ControlClient.connect() as client:
        return client.call("status")["state"] == "serving"


def test_a_terminals_stop_keeps_its_meaning(job, tasks, ledger, wait_for):
    """^Z stops the supervisor as it does any program, and fg continues it."""
    import psutil

    shell, pid, open_ends = job
    assert tasks.note.delay(str(ledger), "before").get(15) == "before"
    (terminal,) = open_ends
    os.write(terminal, b"\x1a")
    wait_for(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED, "the supervisor is stopped")
    os.kill(pid, signal.SIGCONT)
    assert tasks.note.delay(str(ledger), "after").get(15) == "after"
    os.kill(pid, signal.SIGTERM)
    assert shell.wait(15) == ExitCode.OK


def is_zombie(process):
    """Whether it has ended and is not reaped; no longer, once it is."""
    import psutil

    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.skipif(os.geteuid() != 0, reason="a pid namespace needs root")
def test_works_as_pid_1(place, tasks, ledger, wait_for):
    """As the first process of a container: it reaps strangers' orphans, obeys TERM, leaves no zombie and no stray."""
    command = [
        "unshare", "--pid", "--fork", "--mount-proc", "--kill-child",
        sys.executable, "-m", "poolrt", "serve", "process_apps:app", "-c", "1", "--max-tasks-per-child", "2",
    ]  # fmt: skip
    log = place / "pid1.log"
    with open(log, "wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, stdin=subprocess.DEVNULL)
    try:
        for i in range(3):
            tasks.leave_strays.delay(str(ledger), "exec").get(20)
            assert tasks.note.delay(str(ledger), i).get(20) == i
        import psutil

        (init,) = psutil.Process(process.pid).children()
        wait_for(
            lambda: not any(is_zombie(below) for below in init.children(recursive=True)),
            "no zombie is left",
        )
        assert tasks.children_of_init.delay().get(20) == 1, "the template alone"
        init.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    assert "Traceback" not in log.read_text()
