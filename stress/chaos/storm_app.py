"""The tasks of the storm. Each writes two lines to the ledger, outside the queue: that it starts, and that it ends.

One ``write`` with O_APPEND is one whole line, whoever else writes and whoever is killed meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Any

from poolrt import App
from poolrt.errors import BrokerError, Retry
from stress.chaos import flows
from stress.chaos.faults import ATTEMPTS, LIMITS, attempts_of, key_of, value_of

LIMIT = 4.0
"""Seconds a task may run: what replaces a child that was stopped for good in the middle of one."""

LEDGER = os.environ.get("STORM_LEDGER", "")
app = App("storm", broker=os.environ.get("STORM_BROKER", "sqlite:///never-opened.db"))


class Refused(Exception):
    """What failing tasks raise."""


def write(*words: object) -> None:
    """Append one line to the ledger."""
    fd = os.open(LEDGER, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, (" ".join(map(str, words)) + "\n").encode())
    finally:
        os.close(fd)


@contextlib.contextmanager
def told(task: Any) -> Iterator[None]:
    """Tell the ledger of this run, also of one that raises; a SIGKILL leaves the first line alone."""
    request = task.request
    write("start", request.id, request.attempt, request.lost, os.getpid(), time.monotonic_ns())
    try:
        yield
    finally:
        write("end", request.id, request.attempt, request.lost, os.getpid(), time.monotonic_ns())


@app.task(name="noop", bind=True, ignore_result=True, time_limit=LIMIT)
def noop(self: Any, number: int) -> None:
    """Nothing, and keeps no result."""
    with told(self):
        pass


@app.task(name="value", bind=True, time_limit=LIMIT)
def value(self: Any, number: int) -> int:
    """Nothing, with a result."""
    with told(self):
        return value_of(number)


@app.task(name="sleep", bind=True, time_limit=LIMIT)
def sleep(self: Any, number: int, seconds: float) -> int:
    """Wait."""
    with told(self):
        time.sleep(seconds)
        return value_of(number)


@app.task(name="spin", bind=True, time_limit=LIMIT)
def spin(self: Any, number: int, seconds: float) -> int:
    """Use a processor."""
    with told(self):
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            pass
        return value_of(number)


@app.task(name="delayed", bind=True, time_limit=LIMIT)
def delayed(self: Any, number: int, due: float) -> int:
    """Run not before ``due`` (wall time, seconds)."""
    with told(self):
        if time.time() < due:
            raise AssertionError(f"started {due - time.time():.3f} s too early")
        return value_of(number)


@app.task(name="fail", bind=True, time_limit=LIMIT)
def fail(self: Any, number: int) -> None:
    """Raise."""
    with told(self):
        raise Refused(f"task {number} fails, as planned")


@app.task(name="retry", bind=True, time_limit=LIMIT, max_retries=ATTEMPTS, retry_for=Refused, retry_backoff="20ms")
def retry(self: Any, number: int) -> int:
    """Raise at the first attempts, then return."""
    with told(self):
        if self.request.attempt < ATTEMPTS:
            raise Refused(f"task {number} fails at attempt {self.request.attempt}, as planned")
        return value_of(number)


@app.task(name="again", bind=True, time_limit=LIMIT, max_retries=ATTEMPTS, retry_backoff="30ms")
def again(self: Any, number: int) -> int:
    """Ask for another attempt at the first ones, in either way; then return."""
    with told(self):
        if self.request.attempt < ATTEMPTS:
            if number % 2:
                raise Retry(countdown=0.05)
            self.retry(exc=Refused(f"task {number} asks for another attempt"))
        return value_of(number)


@app.task(
    name="spent", bind=True, time_limit=LIMIT, max_retries=ATTEMPTS - 1, retry_for=Refused, retry_backoff="20ms",
    retry_backoff_max="30ms",
)  # fmt: skip
def spent(self: Any, number: int) -> None:
    """Raise, or ask for another attempt, until no retry is left."""
    with told(self):
        refused = Refused(f"task {number} fails at attempt {self.request.attempt}, as planned")
        if number % 2:
            self.retry(exc=refused, countdown="20ms")
        raise refused


@app.task(name="long", bind=True, time_limit=LIMIT)
def long(self: Any, number: int, seconds: float) -> int:
    """Run for so long that somebody may cancel it meanwhile."""
    with told(self):
        time.sleep(seconds)
        return value_of(number)


@app.task(
    name="rated", bind=True, time_limit=LIMIT, rate_limit=LIMITS["rated"].rate, retry_for=Refused, retry_backoff="20ms"
)  # fmt: skip
def rated(self: Any, number: int) -> int:
    """Start so often, the retries of some included."""
    with told(self):
        if self.request.attempt < attempts_of("rated", number):
            raise Refused(f"task {number} fails once, as planned")
        return value_of(number)


@app.task(
    name="narrow", bind=True, time_limit=LIMIT, max_concurrency=LIMITS["narrow"].slots,
    limit_key=lambda number, seconds: key_of("narrow", number),
)  # fmt: skip
def narrow(self: Any, number: int, seconds: float) -> int:
    """Be one of so many at a time."""
    with told(self):
        time.sleep(seconds)
        return value_of(number)


@app.task(
    name="strict", bind=True, time_limit=LIMIT, rate_limit=LIMITS["strict"].rate,
    max_concurrency=LIMITS["strict"].slots,
)  # fmt: skip
def strict(self: Any, number: int, seconds: float) -> int:
    """Both limits."""
    with told(self):
        time.sleep(seconds)
        return value_of(number)


@app.task(name="unique", bind=True, time_limit=LIMIT, unique_key=lambda number, seconds: key_of("unique", number))
def unique(self: Any, number: int, seconds: float) -> int:
    """Be the only one of its key that waits or runs."""
    with told(self):
        time.sleep(seconds)
        return value_of(number)


@app.task(name="stray", bind=True, time_limit=LIMIT)
def stray(self: Any, number: int) -> int:
    """Leave a daemon: a process in a session of its own, whose parent is gone at once."""
    with told(self):
        subprocess.run(["sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 &"], check=True)
        return value_of(number)


@app.task(name="suicide", bind=True, time_limit=LIMIT)
def suicide(self: Any, number: int) -> int:
    """Kill the own child, the first time."""
    with told(self):
        if self.request.lost == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return value_of(number)


@app.task(name="step", bind=True, time_limit=LIMIT, retry_for=Refused, retry_backoff="20ms")
def step(self: Any, value: int, number: int, place: int) -> int:
    """One step of a chain; some are retried once."""
    with told(self):
        _take_part(self)
        return flows.stepped(value, place)


@app.task(name="member", bind=True, time_limit=LIMIT, retry_for=Refused, retry_backoff="20ms")
def member(self: Any, number: int, place: int) -> int:
    """One member of a chord; some are retried once."""
    with told(self):
        _take_part(self)
        return flows.member_of(number, place)


def _take_part(task: Any) -> None:
    request = task.request
    kind, number = flows.kind_of(request.id)
    time.sleep(flows.LASTS[kind])
    if request.attempt < flows.attempts_of(kind, number):
        raise Refused(f"{request.id} fails once, as planned")


@app.task(name="body", bind=True, time_limit=LIMIT)
def body(self: Any, results: list[int], number: int) -> int:
    """The callback of a chord."""
    with told(self):
        _take_part(self)
        return flows.summed(results)


@app.task(name="make", bind=True, time_limit=LIMIT, max_retries=50, retry_for=BrokerError, retry_backoff="50ms")
def make(self: Any, number: int) -> int:
    """Enqueue another task, whose id says who made it: when this runs again, that is known already."""
    with told(self):
        value.apply_async((number,), task_id=f"made-{number:05d}")
        return value_of(number)
