"""A child that is interrupted: an Interrupter on a row of two cells, with a fake clock or the real one."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
import traceback
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from poolrt.child.interruption import Interrupter
from poolrt.shielding import SHIELD
from poolrt.states import Interruption

HERE = os.path.dirname(__file__)


class FakeRow:
    """The two cells that an Interrupter reads."""

    def __init__(self) -> None:
        self.sequence = 7
        self.interruption = 0

    def want(self, reason: int = Interruption.SOFT_LIMIT, sequence: int | None = None) -> None:
        self.interruption = (self.sequence if sequence is None else sequence) << 8 | reason


class FakeClock:
    """Moves when told to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Child:
    """An Interrupter with its row, and the function that runs user code as the executor does."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.row = FakeRow()
        self.interrupter = Interrupter(self.row, clock)  # type: ignore[arg-type]
        self.interrupter.install()

    def run(self, task: Callable[[], object], encode: Callable[[], object] = lambda: None) -> object:
        """Run ``task`` and then, outside the window, ``encode``: what the executor does with its result."""
        try:
            self.interrupter.open()
            return task()
        finally:
            self.interrupter.close()
            encode()

    def run_async(self, coroutine: Any) -> object:
        async def go() -> object:
            task = asyncio.current_task()
            assert task is not None
            self.interrupter.entering_loop(asyncio.get_running_loop(), task)
            return await coroutine

        def in_loop() -> object:
            try:
                return asyncio.run(go())
            finally:
                self.interrupter.leaving_loop()

        return self.run(in_loop)


@pytest.fixture(autouse=True)
def handler() -> Iterator[None]:
    """SIGUSR2 is put back, and neither a shield nor a tracer is left."""
    before, tracer = signal.getsignal(signal.SIGUSR2), sys.gettrace()
    yield
    signal.signal(signal.SIGUSR2, before)
    assert (SHIELD.depth, SHIELD.pending) == (0, None)
    assert sys.gettrace() is tracer
    if sys.version_info >= (3, 12):
        assert "poolrt" not in [sys.monitoring.get_tool(tool) for tool in range(6)]


@pytest.fixture
def clock() -> FakeClock:
    """The Interrupter's clock."""
    return FakeClock()


@pytest.fixture
def child(clock: FakeClock) -> Child:
    """A child on the fake clock, whose run the supervisor wants interrupted."""
    child = Child(clock)
    child.row.want()
    return child


@pytest.fixture
def real_child() -> Child:
    """The same on the real clock."""
    child = Child(time.monotonic)
    child.row.want()
    return child


@pytest.fixture
def kick(clock: FakeClock) -> Callable[..., None]:
    """``kick(waited)``: a signal of the supervisor, handled at once, ``waited`` seconds after the first."""

    def kick(waited: float = 0.0) -> None:
        clock.now = 1000.0 + waited
        signal.raise_signal(signal.SIGUSR2)

    return kick


@pytest.fixture
def library(kick: Callable[..., None]) -> types.SimpleNamespace:
    """Functions whose module is called ``redis.connection``; ``library.call(f)`` calls f."""
    return functions_of("redis.connection", kick)


@pytest.fixture
def ours(kick: Callable[..., None]) -> types.SimpleNamespace:
    """The same functions, as if they stood in the module that is tested."""
    return functions_of("poolrt.child.interruption", kick)


def functions_of(module: str, kick: Callable[..., None]) -> types.SimpleNamespace:
    """Functions that call back, in frames of ``module``."""
    space: dict[str, Any] = {"__name__": module, "kick": kick, "after": []}
    source = (
        "def kicked(*stages):\n for s in stages:\n  kick(s)\n  after.append(s)\n return after\n"
        "def call(f):\n f()\n after.append('f')\n"
        "def shielded(shield):\n with shield():\n  kick(0.0)\n after.append('shield')\n"
    )
    exec(source, space)
    return types.SimpleNamespace(**space)


@pytest.fixture
def signals() -> Iterator[Callable[..., None]]:
    """``signals(0, 0.1, 1)``: send real ones so long after now, as the supervisor does, until the test ends."""
    over = threading.Event()
    threads = []

    def start(*moments: float) -> None:
        main = threading.main_thread().ident
        began = time.monotonic()

        def send() -> None:
            for moment in moments:
                if over.wait(max(0.0, began + moment - time.monotonic())):
                    return
                signal.pthread_kill(main, signal.SIGUSR2)

        threads.append(threading.Thread(target=send))
        threads[-1].start()

    yield start
    over.set()
    for thread in threads:
        thread.join()


@pytest.fixture
def line_raised() -> Callable[[BaseException], str]:
    """``line_raised(error)``: the line of the test where ``error`` came up."""

    def line(error: BaseException) -> str:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith(HERE + "/test_")]
        return frames[-1].line or ""

    return line
