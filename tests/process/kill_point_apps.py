"""An app whose processes die at a chosen step of one task's way; the template imports it, and production code knows nothing.

    TEST_KILL_POINT=settle-answered  TEST_KILL_WHOM=child+supervisor  TEST_KILL_FLAG=/…/struck
    import ──wraps broker, board row, lifeline, fork──▶ each step of the task "target" calls ``reached(point)``
    reached: the right point, the first time ──▶ SIGKILL to whom it must; if that is not us, wait for the death, go on

The points lie on both sides of each promise: ``…-sent`` is inside the broker's transaction, with all its statements
done and nothing committed; ``…-answered`` is after the commit, before the caller knows and before any wake-up is sent.
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
from poolrt.child.lifeline import Lifeline
from poolrt.control import ControlClient
from poolrt.notice import Leaving, Up

POINT = os.environ.get("TEST_KILL_POINT", "")
WHOM = os.environ.get("TEST_KILL_WHOM", "")
FLAG = os.environ.get("TEST_KILL_FLAG", "")
LEDGER = os.environ.get("TEST_KILL_LEDGER", "")
GATE = os.environ.get("TEST_KILL_GATE", "")
ARMED = os.environ.get("TEST_KILL_ARMED", "")
"""Points that belong to no task (a fork, a boot) wait for this file."""
PRODUCER = "TEST_KILL_PRODUCER" in os.environ
"""This process enqueues; it is no node's."""

TARGET, MADE = "target", "made"
"""Id and tag of the task whose way is cut, and of the one that it enqueues; test_kill_points.py has them too."""
TEMPLATE = os.getpid()
OF_A_TASK = {"enqueue", "reserve", "run", "result", "settle", "audit", "leave", "release"}

app = App("kill-points", broker=os.environ.get("TEST_BROKER", "sqlite:///never-opened.db"))


# ---- the tasks


@app.task()
def step(tag):
    """Quick, so that a child holds many."""
    write(LEDGER, tag, os.getpid())
    return tag


@app.task()
def make(tag):
    """Enqueue another task, by a name of its own: when it runs again, that is known already."""
    write(LEDGER, tag, os.getpid())
    step.apply_async((MADE,), task_id=MADE)
    return tag


@app.task()
def leave(tag):
    """Taint the child, so that it leaves with what it holds."""
    write(LEDGER, tag, os.getpid())
    sys.exit(3)


@app.task()
def hold(tag):
    """Run until the test says so."""
    write(LEDGER, tag, os.getpid())
    await_file(GATE)
    return tag


# ---- the fault


def reached(point: str, child: int = 0) -> None:
    """A process is at this point; ``child`` is the one that a fork is about, else it is this process itself."""
    if point != POINT or (point.split("-")[0] not in OF_A_TASK and not os.path.exists(ARMED)):
        return
    try:
        os.close(os.open(FLAG, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        return
    me = os.getpid()
    victims = [me] if PRODUCER else [_pid_of(role, child or me) for role in WHOM.split("+")]
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
    if role == "child":
        return child
    if role == "template":
        return TEMPLATE
    with ControlClient.connect() as client:
        return client.call("status")[role]["pid"]


# ---- the points in a child (or a producer): what the broker is told, and what it answers


_call: dict[str, object] = {}
"""The broker call this process is in, and what it is about; one thread, one call at a time."""


def _during(name):
    """Wrap a method of the broker so that the store knows what its transaction is about."""
    original = getattr(SqliteBroker, name)

    def call(self, *args, **kwargs):
        _call.update(name=name, about=_ids(name, args))
        try:
            return original(self, *args, **kwargs)
        finally:
            _call.clear()

    setattr(SqliteBroker, name, call)


def _ids(name, args):
    if name == "enqueue":
        return {item.id for item in args[0]}
    if name == "settle":
        return {outcome.delivery.task_id for outcome in args[0]}
    return {delivery.task_id for delivery in args[0]}


def _points(side, result):
    """The points that this transaction is, with ``side`` "sent" or "answered"."""
    name, about = _call.get("name"), _call.get("about", set())
    if name == "enqueue" and about & {MADE, TARGET}:
        yield f"enqueue-{side}"
    elif name == "settle":
        if TARGET in about:
            yield f"settle-{side}"
        if any(delivery.task_id == TARGET for delivery in result.deliveries):
            yield f"reserve-{side}"
    elif name == "release" and about and _ran_target():
        yield f"release-{side}"


for _name in ("enqueue", "settle", "release"):
    _during(_name)

_write = Store.write


def _write_with_points(self, work):
    def working(db):
        done = work(db)
        for point in _points("sent", done):
            reached(point)
        return done

    result = _write(self, working)
    for point in _points("answered", result):
        reached(point)
    return result


Store.write = _write_with_points


# ---- the points in a child: its row, and what it says

_running: list[bytes] = [b""]


def _after(owner, name, point, when=lambda *args, **kwargs: True):
    original = getattr(owner, name)

    def call(self, *args, **kwargs):
        result = original(self, *args, **kwargs)
        if when(self, *args, **kwargs):
            reached(point)
        return result

    setattr(owner, name, call)


def _before(owner, name, point, when=lambda *args, **kwargs: True):
    original = getattr(owner, name)

    def call(self, *args, **kwargs):
        if when(self, *args, **kwargs):
            reached(point)
        return original(self, *args, **kwargs)

    setattr(owner, name, call)


def _runs_target(row, n, i, task_id, *rest):
    _running[0] = task_id
    return task_id == TARGET.encode()


def _ran_target(*args, **kwargs):
    return _running[0] == TARGET.encode()


_after(RowWriter, "run", "run-written", _runs_target)
_before(RowWriter, "ended", "result-ready", _ran_target)
_after(RowWriter, "ended", "result-kept", _ran_target)
_after(Lifeline, "send", "leave-said", lambda self, said: isinstance(said, Leaving) and _ran_target())
_before(Lifeline, "send", "boot-up", lambda self, said: isinstance(said, Up) and bool(_role))

# ---- the points of a fork

_role: list[str] = []
"""``child`` in a child, empty in the template and the steward."""

_settle_in = child_main.settle_in


def _settle_in_with_point(place, title):
    _role.append("child")
    reached("boot-begun")
    _settle_in(place, title)


child_main.settle_in = _settle_in_with_point

_fork = os.fork


def _fork_with_points():
    if os.getpid() != TEMPLATE:
        return _fork()
    reached("fork-asked")
    pid = _fork()
    if pid:
        reached("fork-done", pid)
    return pid


os.fork = _fork_with_points
