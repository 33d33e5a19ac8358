"""Workloads that leave temporary files, threads and processes for a while, or keep some, and leak nothing."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import tempfile
import threading
import time
from collections import OrderedDict, deque
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from stress.leaks.innocent import Run, innocent
from stress.leaks.site import Site

_SECOND: Final = 1 / 500
"""As long as `scenario.quickened` makes of it."""


def _left() -> str:
    fd, path = tempfile.mkstemp()
    os.close(fd)
    return path


@innocent
def lru_of_64_temporary_files(site: Site) -> Run:
    """Of 500 keys; the oldest is removed."""
    kept: OrderedDict[int, str] = OrderedDict()

    def run() -> None:
        key = site.rng.randrange(500)
        if key not in kept:
            if len(kept) == 64:
                os.unlink(kept.popitem(last=False)[1])
            kept[key] = _left()
        kept.move_to_end(key)

    return run


@innocent
def temporary_file_of_each_tenant(site: Site) -> Run:
    """Made at first use, of 60 tenants, and kept."""
    kept: dict[int, str] = {}

    def run() -> None:
        tenant = min(59, int(site.rng.paretovariate(0.5)))
        kept[tenant] = kept.get(tenant) or _left()

    return run


@innocent
def files_that_a_later_run_removes(site: Site) -> Run:
    """Of 60 that wait, the first."""
    waiting: deque[str] = deque()

    def run() -> None:
        waiting.append(_left())
        if len(waiting) > 60:
            os.unlink(waiting.popleft())

    return run


@innocent
def files_that_a_thread_removes(site: Site) -> Run:
    """Each a second later; in one of ten runs."""
    waiting: queue.SimpleQueue[tuple[float, str]] = queue.SimpleQueue()

    def work() -> None:
        while True:
            at, path = waiting.get()
            time.sleep(max(0.0, at - time.monotonic()))
            with contextlib.suppress(FileNotFoundError):  # the folder goes first, at the end
                os.unlink(path)

    threading.Thread(target=work, daemon=True).start()

    def run() -> None:
        if site.rng.random() < 0.1:
            waiting.put((time.monotonic() + _SECOND, _left()))

    return run


@innocent
def threads_that_end_after_a_second(site: Site) -> Run:
    """One at each run, which nobody waits for."""
    return lambda: threading.Thread(target=time.sleep, args=(_SECOND,), daemon=True).start()


@innocent
def pool_of_40_threads(site: Site) -> Run:
    """Of its own make, one more in three runs; they share a queue."""
    work: queue.SimpleQueue[object] = queue.SimpleQueue()
    started: list[threading.Thread] = []

    def wait() -> None:
        while True:
            work.get()

    def run() -> None:
        if len(started) < 40 and site.rng.random() < 0.3:
            started.append(threading.Thread(target=wait, daemon=True))
            started[-1].start()

    return run


@innocent
def executor_of_40_threads(site: Site) -> Run:
    """One more at each run, then as many as are needed."""
    executor = ThreadPoolExecutor(40)

    def run() -> None:
        for _ in range(site.rng.randint(1, 40)):
            executor.submit(time.sleep, 0)

    return run


@innocent
def pool_of_8_processes(site: Site) -> Run:
    """Forked, one more in ten runs; one in 500 is replaced."""
    started: deque[multiprocessing.process.BaseProcess] = deque()
    forking = multiprocessing.get_context("fork")

    def run() -> None:
        if len(started) < 8 and site.rng.random() < 0.1:
            started.append(forking.Process(target=time.sleep, args=(600,), daemon=True))
            started[-1].start()
        elif started and site.rng.random() < 0.002:
            gone = started.popleft()
            gone.kill()
            gone.join()

    return run
