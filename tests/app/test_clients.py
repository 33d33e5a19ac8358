"""Clients in every kind of process: forks, multiprocessing, threads, several apps, other brokers."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import poolrt
from poolrt import App

SECONDS = 20.0
ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.usefixtures("pool")


def in_fork(work: Callable[[], object]) -> int:
    """Run ``work`` in a forked child; its exit code is 0 when ``work`` was true."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pytest's watchdog is a thread
        pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if work() else 2
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_before_and_after_a_fork(shop: Any) -> None:
    """A client that was used before a fork works on both sides of it, one after the other and again."""
    assert shop.add.delay(1, 1).get(timeout=SECONDS) == 2
    for _ in range(3):
        assert in_fork(lambda: shop.add.delay(2, 2).get(timeout=SECONDS) == 4) == 0
        assert shop.add.delay(3, 3).get(timeout=SECONDS) == 6


def test_both_sides_of_a_fork_at_once(shop: Any) -> None:
    """Parent and child enqueue and wait at the same time, and neither gets the other's answers."""
    results: list[bool] = []

    def work(base: int) -> bool:
        wanted = [base + number for number in range(200)]
        return [result.get(timeout=SECONDS) for result in shop.add.enqueue_many((x, 0) for x in wanted)] == wanted

    thread = threading.Thread(target=lambda: results.append(work(1000)))
    thread.start()
    code = in_fork(lambda: work(5000))
    thread.join()
    assert (code, results) == (0, [True])


def test_a_grandchild(shop: Any) -> None:
    """A fork of a fork is no different."""
    assert in_fork(lambda: in_fork(lambda: shop.add.delay(4, 4).get(timeout=SECONDS) == 8) == 0) == 0


def test_a_result_crosses_a_fork(shop: Any, gate: Any) -> None:
    """A result made before a fork can be asked for after it."""
    result = shop.add.delay(5, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if result.get(timeout=SECONDS) == 10 else 2
        finally:
            os._exit(code)
    gate.open()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert result.get(timeout=SECONDS) == 10


def test_a_fork_while_another_thread_enqueues(shop: Any) -> None:
    """A fork in the middle of another thread's transaction leaves no lock behind in the child."""
    stop = threading.Event()
    ids: list[str] = []

    def enqueue() -> None:
        while not stop.is_set():
            ids.extend(result.id for result in shop.add.enqueue_many((number, 0) for number in range(20)))

    thread = threading.Thread(target=enqueue)
    thread.start()
    try:
        codes = [in_fork(lambda: shop.add.delay(1, 1).get(timeout=SECONDS) == 2) for _ in range(5)]
    finally:
        stop.set()
        thread.join()
    assert codes == [0] * 5
    assert shop.app.result(ids[-1]).get(timeout=SECONDS) == 19


def _double(x: int) -> int:
    import shop_tasks  # type: ignore[import-not-found]

    value: int = shop_tasks.add.delay(x, x).get(timeout=SECONDS)
    return value


def test_multiprocessing(shop: Any) -> None:
    """The workers of a forking multiprocessing pool are clients like any other."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        with multiprocessing.get_context("fork").Pool(2) as workers:
            assert workers.map(_double, range(6)) == [0, 2, 4, 6, 8, 10]
            workers.close()
            workers.join()


def test_another_program(shop: Any) -> None:
    """A program that imports the app enqueues and waits, and ends cleanly with nothing on stderr."""
    script = "import shop_tasks; print(shop_tasks.add.delay(20, 22).get(timeout=20))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), str(ROOT)])}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "42\n", "")


def test_threads(shop: Any) -> None:
    """Twenty threads over one app each get the values of their own calls."""
    wrong: list[object] = []

    def work(base: int) -> None:
        results = [shop.add.delay(base, number) for number in range(10)]
        values = [result.get(timeout=SECONDS) for result in results]
        if values != [base + number for number in range(10)]:
            wrong.append(values)

    threads = [threading.Thread(target=work, args=(1000 * base,)) for base in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert wrong == []


def test_two_apps_and_two_pools(shop: Any, place: Path, wait_for: Callable[..., None]) -> None:
    """Two apps of one process, each with its broker and pool, do not see each other's tasks."""
    other = App("other", f"sqlite:///{place}/other.db")
    name = "shop_tasks.add"
    task = other.task(name=name)(lambda x, y: ["other", x, y])
    try:
        with poolrt.Supervisor(other, concurrency=1) as pool:
            assert task.delay(1, 2).get(timeout=SECONDS) == ["other", 1, 2]
            assert shop.add.delay(1, 2).get(timeout=SECONDS) == 3
            assert pool.status()["app"] == "other"
        assert other.result("unknown").state == "unknown"
    finally:
        other.close()


def test_a_closed_app_opens_again(place: Path) -> None:
    """``close`` is for now: the next call opens the broker again."""
    app = App("again", f"sqlite:///{place}/again.db")
    task = app.task(name="t")(lambda: None)
    for _ in range(2):
        result = task.delay()
        assert result.state == "queued"
        app.close()
