"""The demo's app: one task that works, and eleven that do what tasks do at night."""

from __future__ import annotations

import ast
import faulthandler
import itertools
import os
import resource
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any, Final

from poolrt.app.app import App
from poolrt.cli.demo import BROKER_VARIABLE
from poolrt.posix.processes import start_time

app = App("demo", broker=os.environ.get(BROKER_VARIABLE, "sqlite:///poolrt-demo.db"))

MIB: Final = 1 << 20
LEAK: Final = 5 * MIB
"""Bytes that each run of ``leak-memory`` keeps."""

_cache: list[bytes] = []
_connections: list[socket.socket] = []


@app.task(name="parse")
def parse(path: str) -> dict[str, int]:
    """Parse one module and count what is in it."""
    source = Path(path).read_bytes()
    counts = {"lines": source.count(b"\n"), "nodes": 0, "functions": 0, "classes": 0}
    for node in ast.walk(ast.parse(source, path)):
        counts["nodes"] += 1
        counts["functions"] += isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        counts["classes"] += isinstance(node, ast.ClassDef)
    return counts


@app.task(name="raise")
def raises(what: str) -> None:
    """Raise as real tasks do; it ends as failed."""
    match what:
        case "no such file":
            Path("/no/such/module.py").read_bytes()
        case "broken source":
            ast.parse("def half(:")
        case _:
            int("seven")


@app.task(name="crash")
def crash(how: str) -> None:
    """End the process that runs it, each time; it ends as dead."""
    if how == "exit":
        os._exit(70)
    if how == "segfault":
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))  # no file of it
        # A real one, and without ctypes: the standard library keeps it for its own tests.
        faulthandler._sigsegv()  # type: ignore[attr-defined]  # noqa: SLF001  see above
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(name="crash-once", bind=True)
def crash_once(self: Any) -> int:
    """End the process that runs it the first time only; it succeeds, and returns how many children it cost."""
    lost: int = self.request.lost
    if not lost:
        os.kill(os.getpid(), signal.SIGKILL)
    return lost


@app.task(name="hang", soft_time_limit="300ms", time_limit="1s")
def hang() -> int:
    """Loop in C for ever and keep the GIL: no other thread runs, and no handler of a signal is called.

    ``sum`` asks neither for signals nor to give the GIL away, on 3.11 to 3.13. A catastrophic ``re.match`` keeps the
    GIL too, but asks for signals now and then: SoftTimeLimitExceeded would end that.
    """
    return sum(itertools.count())


@app.task(name="swallow", soft_time_limit="300ms", time_limit="1200ms")
def swallow() -> None:
    """Wait for ever, and begin again whatever is raised: SoftTimeLimitExceeded, a BaseException, does not end it.

    The inner loop is the point: with the outer one alone it would be raised between two rounds, outside of the ``try``.
    """
    while True:
        try:
            while True:
                time.sleep(0.02)
        except BaseException:  # noqa: BLE001, S112  that is its offence
            continue


@app.task(name="overrun", soft_time_limit="500ms", time_limit="5s")
def overrun(draft: str) -> None:
    """Run past its soft limit, and clean up when SoftTimeLimitExceeded tells it so: the draft is put away."""
    path = Path(draft)
    path.touch()
    try:
        while True:
            time.sleep(0.02)
    finally:
        path.rename(path.with_suffix(".cleaned"))


@app.task(name="hog", memory_limit="300MiB")
def hog() -> int:
    """Allocate without end, up to 1 GiB a second, as rows come from a database.

    It has an end for the sake of the machine: at 4 GiB the memory limit has failed.
    """
    rows: list[bytes] = []
    while len(rows) < 4096:
        rows.append(b"." * MIB)
        time.sleep(0.001)
    return len(rows)


@app.task(name="leak-memory")
def leak_memory() -> int:
    """Keep 5 MiB more at each run, like a cache without a bound; it works, and returns how many it keeps."""
    _cache.append(b"." * LEAK)
    return len(_cache)


@app.task(name="leak-socket")
def leak_socket(port: int) -> int:
    """Open a connection at each run and never close it; it works, and returns how many are open."""
    _connections.append(socket.create_connection(("127.0.0.1", port), timeout=5.0))
    return len(_connections)


@app.task(name="daemon")
def daemon() -> list[int]:
    """Leave a process behind, an orphan in a session of its own: neither a group's nor a terminal's signal finds it.

    It works, and returns the pid and start time of what it left.
    """
    started = subprocess.run(
        ["sh", "-c", "sleep 300 >/dev/null 2>&1 & echo $!"], start_new_session=True, stdout=subprocess.PIPE, check=True
    )
    pid = int(started.stdout)
    return [pid, start_time(pid) or 0]
