"""What every test gets: proof that it left nothing, a short folder to run a node in, and servers to ask for.

The library's promise is that nothing lingers, so its tests are held to it: no process, fd, thread or temp file
outlives the test that made it. What a module or session fixture made before the test is not the test's.
"""

from __future__ import annotations

import gc
import os
import shutil
import signal
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests import servers
from tests.certificates import Certificates
from tests.topologies import Cluster

PATIENCE = 2.0  # seconds that an exit may take to be seen; nothing waits when nothing is left
POLL = 0.01

HAS_PROC = os.path.exists("/proc/self/stat")

# Every process exec'ed by a test carries this in its environment, also one whose parent has died since.
MARK_NAME = "TEST_OF_POOLRT"  # not POOLRT_*: those are settings, and an unknown one is warned of
MARK = uuid.uuid4().hex


class Process(NamedTuple):
    """One process of the table; ``(pid, started)`` names it for good, a pid alone is reused."""

    pid: int
    parent: int
    started: int
    state: str
    name: str

    def __str__(self) -> str:
        cmdline = _read(self.pid, "cmdline").replace(b"\0", b" ").decode(errors="replace").strip()
        state = "a zombie that nobody reaped" if self.state == "Z" else f"state {self.state}"
        return f"process {self.pid} (parent {self.parent}, {state}): {cmdline or f'[{self.name}]'}"


class Snapshot(NamedTuple):
    """What exists at one moment, each thing by its identity."""

    processes: dict[tuple[int, int], Process]
    fds: dict[int, str]
    threads: set[threading.Thread]
    files: set[str]


@pytest.fixture(scope="session", autouse=True)
def private_tmp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A temp folder of this run alone, so that a file left in it is a test's; short, for socket paths."""
    tmp_path_factory.getbasetemp()  # pytest's own folder stays where a person looks for it
    patch = pytest.MonkeyPatch()
    folder = Path(tempfile.mkdtemp(prefix="prt-", dir="/tmp" if os.path.isdir("/tmp") else None))
    patch.setenv("TMPDIR", str(folder))
    patch.setattr(tempfile, "tempdir", str(folder))
    patch.setenv("XDG_STATE_HOME", str(folder / "state"))  # the nodes of a server's store keep their locks there
    (folder / "state").mkdir()
    patch.setenv(MARK_NAME, MARK)
    yield folder
    patch.undo()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def nothing_left(private_tmp: Path) -> Iterator[None]:
    """Fail a test that leaves a process, fd, thread or temp file, naming it; then end the processes it left."""
    before = _snapshot(private_tmp)
    yield
    left = _left_since(before, private_tmp)
    if left:
        gc.collect()  # garbage in a cycle may hold an fd: not a leak
        deadline = time.monotonic() + PATIENCE
        while left and time.monotonic() < deadline:
            time.sleep(POLL)
            left = _left_since(before, private_tmp)
    if left:
        said = [str(thing) for thing in left]  # before the kill: a dead process has no command line
        _end([thing for thing in left if isinstance(thing, Process)])
        pytest.fail("left behind: " + "\n         and: ".join(said), pytrace=False)


@pytest.fixture
def node_dir(private_tmp: Path) -> Iterator[Path]:
    """A folder for a node's lock, board, socket and database; its path is short enough for a socket (108 bytes)."""
    folder = Path(tempfile.mkdtemp(prefix="n-", dir=private_tmp))
    yield folder
    shutil.rmtree(folder)


# ---- Redis or Valkey: fixtures of the session are made before a test is watched, so it is not blamed for them


@pytest.fixture(scope="session")
def redis_server(private_tmp: Path) -> Iterator[servers.Server]:
    """The server that tests share, each in a namespace of its own (``redis_url``); nobody stops it or sets it up."""
    with servers.servers(private_tmp) as made:
        yield made.server()


@pytest.fixture
def redis_url(redis_server: servers.Server) -> str:
    """A namespace of this test alone on the shared server."""
    return redis_server.url(namespace=f"t-{uuid.uuid4().hex}")


@pytest.fixture(scope="session")
def redis_cluster(private_tmp: Path) -> Iterator[Cluster]:
    """The Cluster that tests share: three masters, all alive. A test moves the slot of its own namespace only."""
    with servers.servers(private_tmp) as made:
        yield made.cluster()


@pytest.fixture
def own_servers(private_tmp: Path) -> Iterator[servers.Servers]:
    """Servers of this test alone, to kill, stop and set up: ``own_servers.server(maxmemory="2mb")``."""
    with servers.servers(private_tmp) as made:
        yield made


@pytest.fixture(scope="session")
def certificates(private_tmp: Path) -> Iterator[Certificates]:
    """An authority and what it has signed."""
    folder = Path(tempfile.mkdtemp(prefix="c-", dir=private_tmp))
    yield Certificates(folder)
    shutil.rmtree(folder)


@pytest.fixture
def wait_for() -> Callable[..., None]:
    """``wait_for(lambda: condition, "what it is")``: poll until true, fail by name after ``timeout`` seconds.

    For what has no event to wait on (another process's exit, a file); prefer an event where there is one.
    """

    def wait(condition: Callable[[], object], what: str, timeout: float = 10.0) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"after {timeout:g} s still not: {what}")
            time.sleep(POLL)

    return wait


def _snapshot(tmp: Path) -> Snapshot:
    return Snapshot(_processes(), _fds(), set(threading.enumerate()), set(os.listdir(tmp)))


def _left_since(before: Snapshot, tmp: Path) -> list[object]:
    now = _snapshot(tmp)
    fds = [f"fd {fd} -> {target}" for fd, target in now.fds.items() if before.fds.get(fd) != target]
    threads = [
        f"thread {thread.name!r} ({'daemon' if thread.daemon else 'not daemon'})"
        for thread in now.threads - before.threads
        if thread.is_alive()
    ]
    files = [f"temp file {tmp / name}" for name in sorted(now.files - before.files)]
    return [*_ours(before.processes, now.processes), *fds, *threads, *files]


def _ours(before: dict[tuple[int, int], Process], now: dict[tuple[int, int], Process]) -> list[Process]:
    """The new processes that descend from pytest, or carry its mark."""
    parents = {process.pid: process.parent for process in now.values()}
    return [
        process
        for key, process in now.items()
        if key not in before
        and (_descends(process.pid, parents) or f"{MARK_NAME}={MARK}".encode() in _environ(process))
    ]


def _descends(pid: int, parents: dict[int, int]) -> bool:
    me = os.getpid()
    while pid not in {me, 0, None}:
        pid = parents.get(pid, 0)
    return pid == me


def _environ(process: Process) -> list[bytes]:
    return _read(process.pid, "environ").split(b"\0")


def _processes() -> dict[tuple[int, int], Process]:
    if not HAS_PROC:  # not Linux: direct and indirect children only
        import psutil

        children = psutil.Process().children(recursive=True)
        found = [
            Process(child.pid, child.ppid(), int(child.create_time() * 1e6), "?", child.name()) for child in children
        ]
        return {(process.pid, process.started): process for process in found}
    table = {}
    for entry in os.listdir("/proc"):
        stat = _read(int(entry), "stat").decode(errors="replace") if entry.isdigit() else ""
        if stat:  # "pid (name) state ppid ... starttime ..."; the name may hold spaces and parentheses
            name, _, rest = stat.partition("(")[2].rpartition(")")
            fields = rest.split()
            process = Process(int(entry), int(fields[1]), int(fields[19]), fields[0], name)
            table[process.pid, process.started] = process
    return table


def _read(pid: int, what: str) -> bytes:
    try:
        with open(f"/proc/{pid}/{what}", "rb") as file:
            return file.read()
    except OSError:  # it ended, or it is another user's
        return b""


def _fds() -> dict[int, str]:
    """This process's open files; the one that lists them is closed again when its target is read."""
    if not HAS_PROC:
        return {}
    found = {}
    for entry in os.listdir("/proc/self/fd"):
        try:
            found[int(entry)] = os.readlink(f"/proc/self/fd/{entry}")
        except FileNotFoundError:
            continue
    return found


def _end(processes: list[Process]) -> None:
    """SIGKILL what a test left, so that the next test starts clean; reap what is our own child."""
    for process in processes:
        try:
            os.kill(process.pid, signal.SIGKILL)
            if process.parent == os.getpid():
                os.waitpid(process.pid, 0)
        except (ProcessLookupError, PermissionError, ChildProcessError):
            continue
