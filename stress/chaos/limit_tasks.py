"""The tasks of hard_limit and memory_hog, on the broker that CHAOS_BROKER names."""

from __future__ import annotations

import os
import time

from poolrt import App

LIMIT_S = 0.02

app = App("limits", broker=os.environ["CHAOS_BROKER"])


@app.task(time_limit=LIMIT_S)
def about(ledger: str, number: int, seconds: float) -> int:
    """Run for so long."""
    until = time.perf_counter() + seconds
    fd = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    os.write(fd, f"begin {number}\n".encode())
    while time.perf_counter() < until:
        pass
    os.write(fd, f"end {number}\n".encode())
    os.close(fd)
    return number


@app.task
def hog(kind: str) -> None:
    """Fill memory as fast as it goes, for ever."""
    if kind == "bytes":
        kept: list[object] = []
        while True:
            kept.append(b"x" * (1 << 20))
    elif kind == "objects":
        objects: list[object] = []
        while True:
            objects.append([None] * 8)
    else:
        array = bytearray(1 << 20)
        while True:
            array.extend(array[: 64 << 20])


@app.task
def neighbour(number: int) -> int:
    """Work a little."""
    until = time.perf_counter() + 0.001
    while time.perf_counter() < until:
        pass
    return number
