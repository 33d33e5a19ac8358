"""An app whose processes die at a chosen step of one task's way; the template imports it.

    TEST_KILL_POINT=settle-answered; a task with the id "target.child+supervisor"
    import ──wraps broker, board row, lifeline, fork──▶ each step of that task calls ``reached(point, whom)``
    reached: the right point, the first time ──▶ SIGKILL to whom it says; if that is not us, wait for the death, go on

Production code knows nothing of it. The points lie on both sides of each promise: ``…-sent`` is inside the broker's
transaction, with all its statements done and nothing committed; ``…-answered`` is after the commit, before the caller
knows and before any wake-up is sent.
"""

from __future__ import annotations

import os
import select
import signal
import sys

from process_apps import await_file, write

import poolrt.child.main as child_main
from poolrt import App
from poolrt.board import RowWriter
from poolrt.brokers.sqlite.broker import SqliteBroker
from poolrt.brokers.sqlite.store import Store
from poolrt.child.audit import Audit
from poolrt.child.lifeline import Lifeline
from poolrt.child.pace import Pace
from poolrt.control import ControlClient
from poolrt.notice import Leaving, Up
from poolrt.steward import undertaking

POINT = os.environ.get("TEST_KILL_POINT", "")
FOLDER = os.environ.get("TEST_KILL_FOLDER", "")
"""Where the ledger is, the gate, what arms a fork, and for each fault made an empty file ``struck.<whom>``."""
LEDGER = os.path.join(FOLDER, "ledger")
TEMPLATE = os.getpid()
TARGET = "target."
"""How the id of a task begins whose way is cut; whom the fault takes follows."""

undertaking._FIRST_BACKOFF = 0.05  # of a lost delivery, seconds; ten times as long in half the rows is 25 s

app = App("kill-points", broker=os.environ.get("TEST_BROKER", "sqlite:///never-opened.db"))


# ---- the tasks


@app.task()
def step(tag, taints=False):  # noqa: FBT002  that is how it travels
    """Quick, so that a child holds many; one that taints its child makes it leave with the others it holds."""
    write(LEDGER, tag, os.getpid())
    if taints:
        sys.exit(3)
    return tag


@app.task()
def make(tag):
    """Enqueue another task, by an id of its own: when this runs again, that is known already."""
    write(LEDGER, tag, os.getpid())
    step.apply_async((f"made.{tag}",), task_id=f"made.{tag}")
    return tag


@app.task(bind=True)
def die_once(self, tag):
    """Kill the own child, the first time."""
    write(LEDGER, tag, os.getpid())
    if self.request.lost == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return tag


@app.task(bind=True, retry_for=ValueError, retry_backoff="10ms")
def again(self, tag):
    """Fail at the first attempt."""
    write(LEDGER, tag, os.getpid())
    if self.request.attempt == 1:
        raise ValueError(tag)
    return tag


@app.task()
def hold(tag):
    """Run until the test says so."""
    write(LEDGER, tag, os.getpid())
    await_file(os.path.join(FOLDER, f"gate.{tag}"))
    return tag


# ---- the fault


def reached(point: str, whom: str | None, child: int = 0) -> None:
    """This process is at ``point`` of a task that says ``whom`` to kill; ``child`` is the fork that it is about."""
    if point != POINT or whom is None:
        return
    try:
        os.close(os.open(os.path.join(FOLDER, f"struck.{whom}"), os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        return
    me = os.getpid()
    # The template last but for ourselves: its children die with it.
    roles = sorted(whom.split("+"), key="supervisor steward template child producer".index)
    victims = [_pid_of(role, child or me) for role in roles]
    handles = [os.pidfd_open(pid) for pid in victims if pid != me]
    for handle in handles:
        signal.pidfd_send_signal(handle, signal.SIGKILL)
    if me in victims:
        os.kill(me, signal.SIGKILL)
    for handle in handles:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        poll.poll(2000)
        os.close(handle)


def _pid_of(role: str, child: int) -> int:
    if role in ("child", "producer"):
        return child
    if role == "template":
        return TEMPLATE
    with ControlClient.connect() as client:
        return client.call("status")[role]["pid"]


def _whom(task_ids):
    """What the target among these tasks says; None without one."""
    return next((name.removeprefix(TARGET) for name in task_ids if name.startswith(TARGET)), None)


def _armed():
    """What the test says of a point that belongs to no task."""
    try:
        with open(os.path.join(FOLDER, "armed")) as file:
            return file.read()
    except FileNotFoundError:
        return None


# ---- points in a child, or in a producer: what the broker is told, and what it answers

_call: dict[str, object] = {}
"""The broker call this process is in, and the tasks it is about; one thread, one call at a time."""


def _during(method, ids_of, name=""):
    """Wrap a method of the broker, so that the store's transaction knows what it is about, under this name."""
    original = getattr(SqliteBroker, method)

    def call(self, *args, **kwargs):
        _call.update(name=name or method, about=_whom(ids_of(*args)))
        try:
            return original(self, *args, **kwargs)
        finally:
            _call.clear()

    setattr(SqliteBroker, method, call)


def _ids_of_verdicts(_, verdicts):
    """The tasks that a burial or a rescue judges."""
    listed = verdicts if isinstance(verdicts, list) else [verdicts]
    return [verdict.delivery.task_id for verdict in listed if verdict]


def _ids_of_outcomes(outcomes, *_):
    _call["retried"] = _whom(outcome.delivery.task_id for outcome in outcomes if outcome.follow_ups)
    return [outcome.delivery.task_id for outcome in outcomes if not outcome.follow_ups]


_during("enqueue", lambda items: [item.id.replace("made.", TARGET) for item in items])
_during("submit", _ids_of_outcomes, "settle")
_during("release", lambda _: [f"{TARGET}{_running[0]}"] if _running[0] else [])  # what was held beside the target
_during("bury", _ids_of_verdicts)
_during("rescue", _ids_of_verdicts)
_during("promote", lambda: [f"{TARGET}{_armed()}"] if _armed() else [])


def _reached_in_call(side, result):
    if not _call:
        return
    reached(f"{_call['name']}-{side}", _call["about"])
    if _call["name"] == "settle":
        reached(f"retry-{side}", _call["retried"])
        reached(f"reserve-{side}", _whom(delivery.task_id for delivery in result.deliveries))


_write = Store.write


def _write_with_points(self, work):
    def working(db):
        done = work(db)
        _reached_in_call("sent", done)
        return done

    result = _write(self, working)
    _reached_in_call("answered", result)
    return result


Store.write = _write_with_points

# ---- points in a child: its row, and what it says

_running: list[str | None] = [None]
"""What the task that this child ran last says."""

_run, _ended, _after_task, _send = RowWriter.run, RowWriter.ended, Audit.after, Lifeline.send


def _run_with_point(self, n, i, task_id, *rest):
    _run(self, n, i, task_id, *rest)
    _running[0] = _whom([task_id.decode()])
    reached("run-written", _running[0])


def _ended_with_point(self, **how):
    reached("result-ready", _running[0])
    _ended(self, **how)


def _audit_with_point(self, task, runtime):
    verdict = _after_task(self, task, runtime)
    reached("audit", _running[0])
    return verdict


def _send_with_points(self, said):
    if isinstance(said, Up) and _is_child:
        reached("boot-up", _armed())
    _send(self, said)
    if isinstance(said, Leaving):
        reached("leave-said", _running[0])


RowWriter.run, RowWriter.ended = _run_with_point, _ended_with_point
Audit.after, Lifeline.send = _audit_with_point, _send_with_points

if POINT.startswith("release"):  # whatever the machine is doing: the target is held together with others
    Pace.ask_for, Pace.keep = lambda self: 8, lambda self, tasks: len(tasks)

# ---- points of a fork

_is_child: list[bool] = []
"""Filled in a child; empty in the template and the steward."""

_settle_in, _fork = child_main.settle_in, os.fork


def _settle_in_with_point(*place):
    _is_child.append(True)
    reached("boot-begun", _armed())
    _settle_in(*place)


def _fork_with_points():
    if os.getpid() != TEMPLATE:
        return _fork()
    reached("fork-asked", _armed())
    pid = _fork()
    if pid:
        reached("fork-done", _armed(), pid)
    return pid


child_main.settle_in, os.fork = _settle_in_with_point, _fork_with_points
