"""The app of the process tests: tasks that note what they do, wait for a file, misbehave or die.

A ledger is a file that many processes append whole lines to: one ``write`` with O_APPEND is never torn.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
import random
import signal
import socket
import subprocess
import sys
import time
from typing import Any

from poolrt import App, TaskInterrupted

TASKS: dict[str, tuple[Any, dict[str, Any]]] = {}
HOOK_LEDGER = os.environ.get("TEST_HOOK_LEDGER", "")


def task(**options):
    """Keep a function for every App that ``build`` makes."""

    def keep(function):
        TASKS[function.__name__] = (function, options)
        return function

    return keep


def build(url):
    """An App on this broker with all tasks."""
    app = App("process", broker=url)
    for name, (function, options) in TASKS.items():
        app.task(name=name, **options)(function)
    if HOOK_LEDGER:
        app.on_child_start(lambda: write(HOOK_LEDGER, "hook", os.getpid()))
    return app


def write(ledger, *words):
    """Append one line to the ledger."""
    fd = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, (" ".join(map(str, words)) + "\n").encode())
    finally:
        os.close(fd)


def await_file(path):
    """Wait until the test makes the file."""
    while not os.path.exists(path):
        time.sleep(0.002)


@task()
def note(ledger, tag):
    """Say that it ran, and where."""
    write(ledger, tag, os.getpid())
    return tag


@task()
def nap(ledger, tag, seconds):
    """As ``note``, and take a while."""
    write(ledger, tag, os.getpid())
    time.sleep(seconds)


@task()
def hold(ledger, tag, gate):
    """Say that it began, wait for the gate, say that it ended."""
    write(ledger, "begin", tag, os.getpid())
    await_file(gate)
    write(ledger, "end", tag, os.getpid())
    return tag


@task()
async def hold_async(ledger, tag, gate):
    """``hold`` as a coroutine."""
    write(ledger, "begin", tag, os.getpid())
    while not os.path.exists(gate):  # noqa: ASYNC110, ASYNC240  another process makes the file
        await asyncio.sleep(0.002)
    write(ledger, "end", tag, os.getpid())
    return tag


@task()
def step(ledger, tag, gate="", how=""):
    """Quick, so that a child holds many; one with a gate waits for it, one with a ``how`` dies of it."""
    write(ledger, tag, os.getpid())
    if gate:
        await_file(gate)
    if how:
        end_by(how)
    return tag


@task(bind=True)
def step_once(self, ledger, tag, how=""):
    """``step`` that dies only at its first delivery."""
    write(ledger, tag, os.getpid())
    if how and self.request.lost == 0:
        end_by(how)
    return tag


@task()
def die(ledger, tag, how):
    """Say that it ran, then end the child."""
    write(ledger, tag, os.getpid(), time.time())
    end_by(how)


def end_by(how):
    """End this process in one of the ways tasks do."""
    if how == "SIGKILL":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "SIGSEGV":
        ctypes.string_at(0)
    elif how == "SIGABRT":
        os.abort()
    elif how == "hang":
        time.sleep(60)
    else:
        os._exit(int(how))


@task(max_retries=3, retry_for=[Exception], retry_backoff=0.01)
def leave(ledger, tag, kind):
    """Raise what is no Exception."""
    write(ledger, tag, os.getpid())
    if kind == "SystemExit":
        sys.exit(3)
    raise {"KeyboardInterrupt": KeyboardInterrupt, "GeneratorExit": GeneratorExit}[kind]


@task(time_limit=0.3)
def overrun(ledger, tag, how):
    """Run past its limit, each in its own stubborn way."""
    write(ledger, tag, os.getpid(), time.time())
    if how == "sleep":
        time.sleep(60)
    elif how == "grip":
        ctypes.PyDLL(None).sleep(60)
    elif how == "stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
    while True:
        if how == "loop":
            continue
        try:
            time.sleep(60)
        except BaseException:
            continue


@task(time_limit=0.02)
def about(ledger, tag, seconds):
    """Run for about its limit."""
    until = time.perf_counter() + seconds
    write(ledger, tag, os.getpid())
    while time.perf_counter() < until:
        pass
    return tag


@task(time_limit=0.4)
def limited_step(ledger, tag, how=""):
    """``step`` with a limit."""
    write(ledger, tag, os.getpid())
    if how:
        end_by(how)
    return tag


@task()
def leave_strays(ledger, kind, gate="", how=""):
    """Start processes that want to outlive their child: a session of their own, and a daemon."""
    if kind == "exec":
        nested = subprocess.Popen(["sleep", "1000"], start_new_session=True)
        write(ledger, "stray", nested.pid)
        # a daemon: its parent is gone at once, so that it belongs to whoever is subreaper
        out = subprocess.run(
            ["sh", "-c", "setsid sleep 1001 >/dev/null 2>&1 & echo $!"], stdout=subprocess.PIPE, check=True
        )
        write(ledger, "stray", int(out.stdout))
    else:
        there, says = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.setsid()
            if os.fork():
                os._exit(0)
            write(ledger, "stray", os.getpid())
            os.write(says, b".")
            while True:
                time.sleep(60)
        os.waitpid(pid, 0)
        os.read(there, 1)
    if gate:
        await_file(gate)
    if how:
        end_by(how)


@task()
def tidy(ledger, gate):
    """``hold`` that says when it was interrupted and cleaned up."""
    write(ledger, "begin", os.getpid())
    try:
        await_file(gate)
    except TaskInterrupted:
        write(ledger, "tidied", os.getpid())
        raise
    return "done"


@task()
def stubborn(ledger, tag, gate):
    """``hold`` that swallows whatever is raised in it."""
    write(ledger, "begin", tag, os.getpid())
    while True:
        try:
            await_file(gate)
            return tag
        except BaseException:
            continue


@task(acks_late=False)
def hold_once(ledger, tag, gate):
    """``hold`` that must not run twice."""
    write(ledger, "begin", tag, os.getpid())
    await_file(gate)


@task(acks_late=False)
def stubborn_once(ledger, tag, gate):
    """``stubborn`` that must not run twice."""
    return TASKS["stubborn"][0](ledger, tag, gate)


@task(time_limit=20)
def grip(ledger):
    """Hold the GIL in C until killed."""
    write(ledger, "begin", os.getpid())
    ctypes.PyDLL(None).sleep(60)


@task()
def children_of_init():
    """How many children the first process of this pid namespace has."""
    with open("/proc/1/task/1/children") as file:
        return len(file.read().split())


@task()
def close_all():
    """Close what is not this task's, as code that makes daemons does."""
    os.closerange(3, 256)


@task()
def close_lock():
    """Close the node's lock, as code does that closes what it does not know; the pid of this child."""
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{fd}").endswith(".lock"):
                os.close(int(fd))
    return os.getpid()


@task(time_limit=0.3)
def deadly():
    """Let the signal that asks for stacks kill."""
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    time.sleep(60)


class Hanging:
    """Garbage in a cycle whose finalizer hangs."""

    def __init__(self):
        self.me = self
        self.size = b"x" * (60 << 20)

    def __del__(self):
        time.sleep(3600)


@task()
def hang_in_gc():
    """Leave a ``Hanging`` to the collector."""
    gc.disable()
    Hanging()
    return "done"


KEPT = []


@task(memory_limit="200MiB")
def hog(ledger, tag, mebibytes):
    """Take so much memory, as fast as it goes."""
    write(ledger, tag, os.getpid())
    kept = [b"x" * (1 << 20) for _ in range(mebibytes)]
    return len(kept)


@task()
def swell(ledger, tag, mebibytes, keep=False):  # noqa: FBT002  an argument of a task
    """``hog`` without a limit; it may keep what it took."""
    write(ledger, tag, os.getpid())
    taken = [b"x" * (1 << 20) for _ in range(mebibytes)]
    if keep:
        KEPT.extend(taken)
    return len(taken)


@task()
def leak(ledger, port):
    """Leave a connection open, if there is a port to connect to."""
    write(ledger, "leak", os.getpid())
    if port:
        KEPT.append(socket.create_connection(("127.0.0.1", port)))
    return "leaked" if port else "clean"


@task()
def open_some(ledger, count):
    """Need so many descriptors for a moment."""
    write(ledger, "open", os.getpid())
    fds = [os.open("/dev/null", os.O_RDONLY) for _ in range(count)]
    for fd in fds:
        os.close(fd)
    return len(fds)


@task()
def litter(ledger, tag, mebibytes):
    """Leave so much garbage in cycles, which only a collection frees."""
    write(ledger, tag, os.getpid())
    gc.disable()
    for _ in range(mebibytes):
        cycle = [b"x" * (1 << 20)]
        cycle.append(cycle)
    return mebibytes


@task()
def out_of_memory():
    """What a refused allocation raises."""
    raise MemoryError


@task()
def draw():
    """The first random number of this task's process, and which process it was."""
    time.sleep(0.02)
    return os.getpid(), random.random()


@task()
def look():
    """What a task sees of its process."""
    fds = {name: os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd") if _is_open(name)}
    return {
        "pid": os.getpid(),
        "group": os.getpgid(0),
        "parent": os.getppid(),
        "mark": os.environ.get("POOLRT_INCARNATION", ""),
        "fds": fds,
        "handlers": {name: _disposition(name) for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGCHLD")},
    }


def _is_open(name):
    return os.path.lexists(f"/proc/self/fd/{name}")


def _disposition(name):
    found = signal.getsignal(getattr(signal, name))
    return found.name if isinstance(found, signal.Handlers) else getattr(found, "__name__", str(found))


app = build(os.environ.get("TEST_BROKER", "sqlite:///never-opened.db"))
