"""The tasks of the cluster. Each tells the ledger, a file that all share, where and under which fence it runs.

One ``write`` with O_APPEND is one whole line, whoever else writes and whoever is killed meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from typing import Any

from poolrt import App
from poolrt.errors import ConfigurationError

NODE = os.environ.get("CLUSTER_NODE", "")
LEDGER = os.environ.get("STORM_LEDGER", "")
LONGEST_HOLD = 60.0
LOOK_EVERY = 0.005

if not (url := os.environ.get("STORM_BROKER", "")):
    raise ConfigurationError("STORM_BROKER names no broker")
app = App("cluster", broker=url)


@contextlib.contextmanager
def told(task: Any) -> Iterator[None]:
    """Tell the ledger of this run; one that is killed has no second line."""
    request = task.request
    who = f"{request.id} {NODE} {request.owner} {request.fence} {os.getpid()}"
    _write(f"start {who} {time.monotonic_ns()}")
    yield
    _write(f"end {who} {time.monotonic_ns()}")


def _write(line: str) -> None:
    fd = os.open(LEDGER, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, line.encode() + b"\n")
    finally:
        os.close(fd)


@app.task(name="work", bind=True)
def work(self: Any, seconds: float) -> str:
    """Wait."""
    with told(self):
        time.sleep(seconds)
        return self.request.id


@app.task(name="hold", bind=True)
def hold(self: Any, node: str, gate: str) -> str:
    """Wait for a file on that node; nothing on any other."""
    with told(self):
        deadline = time.monotonic() + LONGEST_HOLD
        while node == NODE and not os.path.exists(gate) and time.monotonic() < deadline:
            time.sleep(LOOK_EVERY)
        return self.request.id
