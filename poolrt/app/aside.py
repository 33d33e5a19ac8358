"""Calls that may block, made for an event loop by a few threads that end when there is nothing to do.

asyncio's own pool is not used: a broker that does not answer would keep it from what else the program does there.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

MOST: Final = 4
"""Threads: a broker answers in well under a millisecond, and calls of one SQLite file go one after the other anyway."""
LINGER: Final = 0.25
"""Seconds that a thread waits for its next call."""


class Threads:
    """Up to ``MOST`` threads, made when they are needed."""

    def __init__(self) -> None:
        self._calls: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._changed = threading.Condition()
        self._threads = 0
        self._idle = 0

    def submit(self, call: Callable[[], T]) -> Future[T]:
        """Have it called soon; one that is cancelled before its turn is never called."""
        future: Future[T] = Future()
        with self._changed:
            self._calls.append((future, call))
            if len(self._calls) <= self._idle:
                self._changed.notify()
            elif self._threads < MOST:
                self._threads += 1
                threading.Thread(target=self._work, name="poolrt-calls", daemon=True).start()
        return future

    def _work(self) -> None:
        while (taken := self._next()) is not None:
            future, call = taken
            if not future.set_running_or_notify_cancel():
                continue
            try:
                value = call()
            except BaseException as error:  # noqa: BLE001  it is raised where the call is awaited
                future.set_exception(error)
            else:
                future.set_result(value)
            del taken, future, call  # what they hold must not live as long as this thread waits

    def _next(self) -> tuple[Future[Any], Callable[[], Any]] | None:
        """The next call; None when there was none for a while, and this thread is to end."""
        with self._changed:
            self._idle += 1
            self._changed.wait_for(lambda: self._calls, LINGER)
            self._idle -= 1
            if self._calls:
                return self._calls.popleft()
            self._threads -= 1
            return None


_threads = Threads()


async def aside(call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """``call(*args, **kwargs)``, without holding up the event loop.

    Cancelled before its turn, it is never made; once it is being made, it goes on, and nobody hears of its end.
    """
    return await asyncio.wrap_future(_threads.submit(lambda: call(*args, **kwargs)))


def _begin_anew() -> None:
    """A forked child has none of its parent's threads."""
    global _threads  # noqa: PLW0603  see above
    _threads = Threads()


os.register_at_fork(after_in_child=_begin_anew)
