"""``as_completed``: results in the order in which their tasks end, for threads and for event loops."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from poolrt.app.joining import refuse_join
from poolrt.app.watcher import watcher_of
from poolrt.errors import ResultTimeout

if TYPE_CHECKING:
    from poolrt.app.result import AsyncResult
    from poolrt.brokers.base import Found

R = TypeVar("R")


class Completion(Generic[R]):
    """What ``as_completed`` returns; each ``for`` over it begins anew."""

    def __init__(self, results: Iterable[AsyncResult[R]], timeout: float | None) -> None:
        self._results = list(results)
        self._timeout = timeout

    def __iter__(self) -> Iterator[AsyncResult[R]]:
        """Wait in this thread."""
        told: queue.SimpleQueue[tuple[AsyncResult[R], Any]] = queue.SimpleQueue()
        ends = _end_of(self._timeout)
        with self._watched(told.put):
            for left in range(len(self._results), 0, -1):
                try:
                    result, found = told.get(timeout=None if ends is None else max(0.0, ends - time.monotonic()))
                except queue.Empty:
                    raise self._too_late(left) from None
                yield _kept(result, found)

    async def __aiter__(self) -> AsyncIterator[AsyncResult[R]]:
        """Wait in this event loop."""
        loop = asyncio.get_running_loop()
        told: asyncio.Queue[tuple[AsyncResult[R], Any]] = asyncio.Queue()

        def tell(end: tuple[AsyncResult[R], Any]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(told.put_nowait, end)

        ends = _end_of(self._timeout)
        with self._watched(tell):
            for left in range(len(self._results), 0, -1):
                try:
                    async with asyncio.timeout(None if ends is None else max(0.0, ends - time.monotonic())):
                        result, found = await told.get()
                except TimeoutError:
                    raise self._too_late(left) from None
                yield _kept(result, found)

    @contextlib.contextmanager
    def _watched(self, tell: Callable[[tuple[AsyncResult[R], Any]], object]) -> Iterator[None]:
        """Have the end of each told until the block is left."""
        refuse_join(f"{len(self._results)} results")
        with contextlib.ExitStack() as watched:
            for result in self._results:
                if result.is_known:
                    tell((result, None))
                    continue
                watcher = watcher_of(result.broker)

                def heard(found: Found | Exception | None, result: AsyncResult[R] = result) -> None:
                    tell((result, found))

                watcher.watch(result.id, heard)
                watched.callback(watcher.forget, result.id, heard)
            yield

    def _too_late(self, left: int) -> ResultTimeout:
        return ResultTimeout(f"{left} of {len(self._results)} tasks have not ended within {self._timeout:g} s")


def as_completed(results: Iterable[AsyncResult[R]], timeout: float | None = None) -> Completion[R]:
    """The results in the order in which their tasks end, whether with a value or without: ``get`` of each is at once.

    For ``for`` in a thread, and ``async for`` in an event loop, which is never blocked. However many there are, they
    are waited for on one connection.

    Args:
        results: of tasks of any app; one whose task keeps no result, or is unknown, counts as ended once it is gone.
        timeout: seconds for all of them, from the beginning of the loop; None: no such time.

    Raises:
        ResultTimeout: in the loop: some have not ended in time.
        WaitInsideTask: in the loop: a running task waits.
        BrokerError: in the loop.
    """
    return Completion(results, timeout)


def _end_of(timeout: float | None) -> float | None:
    return None if timeout is None else time.monotonic() + timeout


def _kept(result: AsyncResult[R], found: Found | Exception | None) -> AsyncResult[R]:
    if isinstance(found, Exception):
        raise found
    result.keep(found)
    return result
