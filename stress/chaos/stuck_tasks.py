"""Tasks that never end by themselves, each with the signal that must end it at the latest."""

from __future__ import annotations

import asyncio
import enum
import hashlib
import queue
import subprocess
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from poolrt.child.interruption import Interrupter


class Signal(enum.Enum):
    """Which signal ends a task; its value is how long after the first one it may take, in ms."""

    FIRST = 50
    SECOND = 150
    THIRD = 1100


def a_busy_loop(_: object) -> None:
    """No call, no statement to stop at."""
    while True:
        pass


def a_retry_loop(_: object) -> None:
    """It catches every Exception."""
    while True:
        try:
            int("x")
        except Exception:
            continue


def a_sleep(_: object) -> None:
    """A C call that looks at signals."""
    time.sleep(60)


def a_lock(_: object) -> None:
    """The same."""
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def one_expression(_: object) -> None:
    """A comprehension without end."""
    [None for _ in iter(int, 1)]


def a_loop_of_hashes(_: object) -> None:
    """C calls of 1 ms without the GIL."""
    data = bytes(1 << 20)
    while True:
        hashlib.sha256(data)


def a_queue(_: object) -> None:
    """The library waits for an item."""
    queue.Queue[int]().get()


def a_program(_: object) -> None:
    """The library waits for a process, and ends it when it is cut."""
    subprocess.run(["sleep", "60"], check=True)


def an_async_sleep(interrupter: Interrupter) -> None:
    """A loop that waits in the kernel."""
    _run(interrupter, asyncio.sleep(60))


def an_async_task_that_blocks(interrupter: Interrupter) -> None:
    """Synchronous code on the loop."""

    async def block() -> None:
        time.sleep(60)  # noqa: ASYNC251  this is what is tested

    _run(interrupter, block())


def a_loop_of_its_own(_: object) -> None:
    """A plain task that calls ``asyncio.run``."""
    asyncio.run(asyncio.sleep(60))


def _run(interrupter: Interrupter, coroutine: object) -> None:
    loop = asyncio.new_event_loop()
    task = loop.create_task(coroutine)  # type: ignore[arg-type]
    interrupter.entering_loop(loop, task)
    try:
        loop.run_until_complete(task)
    finally:
        interrupter.leaving_loop()
        loop.close()


STUCK: tuple[tuple[Callable[[Interrupter], None], Signal], ...] = (
    (a_retry_loop, Signal.FIRST),
    (an_async_sleep, Signal.FIRST),
    (a_busy_loop, Signal.SECOND),
    (a_sleep, Signal.SECOND),
    (a_lock, Signal.SECOND),
    (one_expression, Signal.SECOND),
    (a_loop_of_hashes, Signal.SECOND),
    (a_queue, Signal.THIRD),
    (a_program, Signal.THIRD),
    (an_async_task_that_blocks, Signal.THIRD),
    (a_loop_of_its_own, Signal.THIRD),
)
