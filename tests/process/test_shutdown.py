"""How a node stops: what runs may finish, what cannot is put back uncounted, and the exit code says which."""

import contextlib
import os
import signal
import sqlite3
import time

import pytest

from poolrt.errors import ExitCode
from poolrt.states import TaskState


@pytest.fixture
def busy(serve, tasks, ledger, gate):
    """``busy(**settings)``: a node whose one child runs a held task; the node, its result, and a queued one."""

    def start(**settings):
        running = tasks.hold.delay(str(ledger), "running", str(gate))
        node = serve(**settings)
        node.wait(ledger.lines, "the task runs")
        queued = tasks.note.delay(str(ledger), "queued")
        return node, running, queued

    return start


def state_of(app, result):
    """The state of a task, and how often it was lost."""
    found = app.broker.find(result.id)
    return found.state, found.lost


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_running_task_finishes(busy, app, gate, ledger, number):
    """TERM and INT: the running task ends by itself, nothing new is started, exit code 0."""
    node, running, queued = busy()
    node.send(number)
    (draining,) = node.wait_event("node-draining")
    assert draining["cause"] == number.name
    gate.touch()
    assert node.wait_end() == ExitCode.OK
    assert running.get(1) == "running"
    assert state_of(app, queued) == (TaskState.QUEUED, 0)
    assert ledger.column() == ["begin", "end"]
    assert node.events("node-stopped")


def test_an_async_task_finishes_too(serve, tasks, ledger, gate):
    """A coroutine is drained as a function is."""
    running = tasks.hold_async.delay(str(ledger), "running", str(gate))
    node = serve()
    node.wait(ledger.lines, "the task runs")
    node.send(signal.SIGTERM)
    node.wait_event("node-draining")
    gate.touch()
    assert node.wait_end() == ExitCode.OK
    assert running.get(1) == "running"


def test_at_the_end_of_the_grace_the_rest_is_put_back(busy, app, tasks, ledger, gate):
    """What does not finish within ``--graceful-timeout`` is queued again, uncounted, and the exit code is 6."""
    node, running, queued = busy(graceful_timeout="200ms")
    began = time.monotonic()
    node.send(signal.SIGTERM)
    assert node.wait_end() == ExitCode.FORCED_STOP
    assert 0.2 <= time.monotonic() - began < 1.7
    assert state_of(app, running) == (TaskState.QUEUED, 0)
    assert state_of(app, queued) == (TaskState.QUEUED, 0)
    (told,) = node.events("task-requeued")
    assert told["task_id"] == running.id
    assert "the node stops; put back, uncounted" in told["cause"]


def test_what_was_put_back_runs_at_the_next_start(busy, serve, app, gate, record):
    """The next start of the node runs it, first in line, and it counts as never lost."""
    node, running, queued = busy(graceful_timeout="50ms")
    assert node.stop() == ExitCode.FORCED_STOP
    gate.touch()
    again = serve(name=node.name)
    assert (running.get(10), queued.get(10)) == ("running", "queued")
    assert record(running).lost == 0
    assert again.stop() == ExitCode.OK


def test_a_second_signal_stops_now(busy, app):
    """A second TERM does not wait for the grace: exit code 6 within 1.5 s, the task put back uncounted."""
    node, running, queued = busy(graceful_timeout="60s")
    node.send(signal.SIGTERM)
    (draining,) = node.wait_event("node-draining")
    node.wait(lambda: time.time() > draining["at"] + 0.25, "signals closer together are one wish")
    began = time.monotonic()
    node.send(signal.SIGTERM)
    assert node.wait_end() == ExitCode.FORCED_STOP
    assert time.monotonic() - began < 1.5
    assert state_of(app, running) == (TaskState.QUEUED, 0)
    assert state_of(app, queued) == (TaskState.QUEUED, 0)


def test_signals_close_together_are_one_wish(busy, gate):
    """``timeout`` and terminals signal a process and its group: the same TERM twice within 0.2 s drains."""
    node, running, _ = busy()
    node.send(signal.SIGTERM)
    node.send(signal.SIGINT)
    node.wait_event("node-draining")
    gate.touch()
    assert node.wait_end() == ExitCode.OK
    assert running.get(1) == "running"


def test_a_signal_to_every_process_still_lets_tasks_finish(busy, gate):
    """As systemd's TERM to the whole control group: supervisor, template, steward and child all get it."""
    node, running, _ = busy()
    tree = node.tree()
    assert len(tree) == 4
    for pid in tree:
        os.kill(pid, signal.SIGTERM)
    node.wait_event("node-draining")
    gate.touch()
    assert node.wait_end() == ExitCode.OK
    assert running.get(1) == "running"


def test_a_terminals_interrupt_lets_tasks_finish(busy, gate):
    """^C reaches the supervisor's whole process group, and drains it."""
    node, running, _ = busy()
    os.killpg(node.pid, signal.SIGINT)
    node.wait_event("node-draining")
    gate.touch()
    assert node.wait_end() == ExitCode.OK
    assert running.get(1) == "running"


def test_held_messages_are_put_back_at_their_old_place(serve, app, tasks, ledger, gate):
    """What a child has reserved and not started is queued again, in the old order, uncounted."""
    node = serve()
    assert tasks.step.enqueue_many([(str(ledger), f"a{i}") for i in range(300)])[-1].get(10) == "a299"
    calls = [(str(ledger), "running", str(gate)), *((str(ledger), f"b{i}") for i in range(20))]
    running, *others = tasks.step.enqueue_many(calls)
    node.wait(lambda: "running" in ledger.column(), "the task runs")
    assert node.child()["held"] > 1
    node.send(signal.SIGTERM)
    node.wait_event("node-draining")
    gate.touch()
    assert node.wait_end() == ExitCode.OK
    assert running.get(1) == "running"
    assert {state_of(app, other) for other in others} == {(TaskState.QUEUED, 0)}
    again = serve(name=node.name)
    assert others[-1].get(10) == "b19"
    assert [tag for tag in ledger.column() if tag.startswith("b")] == [f"b{i}" for i in range(20)]
    assert again.stop() == 0


def test_a_signal_while_the_app_is_imported(serve, place, gate):
    """TERM during a slow import ends the node at once, with nothing left; a second one is not needed."""
    (place / "slow_app.py").write_text(
        f"import os, time\nopen({str(place / 'importing')!r}, 'w').close()\ntime.sleep(60)\n"
    )
    node = serve("slow_app:app")
    node.wait((place / "importing").exists, "the import has begun")
    began = time.monotonic()
    node.send(signal.SIGTERM)
    assert node.wait_end() == ExitCode.OK
    assert time.monotonic() - began < 1.5


def test_a_signal_at_any_moment_of_the_start(serve, tasks, ledger):
    """TERM 20 ms to 400 ms after the exec: the node ends clean, or by the signal before it has started anything."""
    for delay in range(20, 400, 38):
        node = serve(concurrency=2)
        time.sleep(delay / 1000)  # the moment is what is tested
        node.send(signal.SIGTERM)
        code = node.wait_end(5)
        assert code == ExitCode.OK or (code == -signal.SIGTERM and not node.events()), f"{code} after {delay} ms"


def test_a_taken_name_is_refused_in_one_line(serve):
    """A second supervisor of the same name exits with 7, says so in one line, and leaves the first one alone."""
    node = serve().wait_up()
    second = serve(name=node.name, log_level="error")
    assert second.wait_end(5) == ExitCode.NODE_NAME_TAKEN
    (line,) = second.text().splitlines()
    assert line.startswith("poolrt: ")
    assert node.name in line
    assert "--node-name" in line
    assert node.status()["state"] == "serving"
    assert node.stop() == 0


def test_a_taken_name_is_refused_where_only_the_lock_tells(serve, place):
    """The same with another runtime folder, as in two containers that share the broker's file."""
    node = serve().wait_up()
    second = serve(name=node.name, env={"POOLRT_RUNTIME_DIR": str(place / "other")}, log_level="error")
    assert second.wait_end(10) == ExitCode.NODE_NAME_TAKEN
    assert node.name in second.text()
    assert node.status()["state"] == "serving"
    assert node.stop() == 0


def make_junk(path):
    path.write_bytes(b"not a database at all, but long enough to have a header" * 40)


def make_foreign(path):
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("create table theirs (x)")
        db.commit()
    path.chmod(0o600)


def make_newer(path):
    from poolrt import App
    from poolrt.message import Enqueue

    app = App("x", broker=f"sqlite:///{path}")
    app.broker.enqueue([Enqueue("id", b"x", "default", 0, None)])
    app.close()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("pragma user_version = 99")


@pytest.mark.parametrize(
    ("make", "words"),
    [(make_junk, "not a database"), (make_foreign, "another application"), (make_newer, "newer poolrt")],
)
def test_an_unusable_broker_is_refused(serve, place, make, words):
    """A file that is no database, another application's, or a newer poolrt's: exit code 4 at once, with the reason."""
    path = place / "bad.db"
    make(path)
    path.chmod(0o600)
    node = serve(env={"TEST_BROKER": f"sqlite:///{path}"})
    assert node.wait_end(10) == ExitCode.BROKER_UNUSABLE
    assert words in node.text()
    assert not node.events("child-up")


def test_a_broker_that_cannot_be_written_is_refused(serve):
    """A folder where no file can be made (here the kernel's own): exit code 4 at once."""
    node = serve(env={"TEST_BROKER": "sqlite:////proc/poolrt/x.db"})
    assert node.wait_end(10) == ExitCode.BROKER_UNUSABLE
    assert "/proc/poolrt" in node.text()


def test_a_deleted_database_ends_the_node(serve, tasks, ledger, place):
    """What the file held is gone: the node says so and ends, instead of serving a new and empty one."""
    node = serve()
    tasks.note.delay(str(ledger), 1).get(timeout=10)
    tasks.note.app.close()
    (place / "p.db").unlink()
    assert node.wait_end(20) == ExitCode.BROKER_UNUSABLE
    assert "was deleted while it was used" in node.text()
    assert not (place / "p.db").exists()
