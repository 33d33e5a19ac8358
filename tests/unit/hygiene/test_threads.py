"""`ThreadWatch` with this process's own threads, on a fake clock."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from poolrt.hygiene.leftovers import FEW, LIVES_ON, SURE
from poolrt.hygiene.threads import POOL, ThreadWatch

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="read from /proc")


class Threads:
    """Starts threads that wait until the test ends."""

    def __init__(self) -> None:
        self.end = threading.Event()
        self.started: list[threading.Thread] = []
        self.executors: list[ThreadPoolExecutor] = []
        self.now = 0.0
        self.watch = ThreadWatch(lambda: self.now)

    def start(self, **how) -> threading.Thread:
        thread = threading.Thread(**{"target": self.wait, **how}, daemon=True)
        thread.start()
        self.started.append(thread)
        return thread

    def wait(self, *_: object) -> None:
        self.end.wait()

    def stop(self) -> None:
        self.end.set()
        _END.set()
        for thread in self.started:
            thread.join()
        for executor in self.executors:
            executor.shutdown()

    def executor(self, workers: int) -> ThreadPoolExecutor:
        self.executors.append(ThreadPoolExecutor(workers))
        return self.executors[-1]

    def drive(self, runs: int, function: Callable[[], object], task: str = "t"):
        found = []
        for _ in range(runs):
            function()
            self.now += 10.0
            found += self.watch.look({task: 1})
        return found


@pytest.fixture
def threads() -> Iterator[Threads]:
    """Threads that end with the test."""
    made = Threads()
    yield made
    made.stop()


class Poller:
    """Each has its own thread, as a client that is made at each run."""

    def __init__(self, threads: Threads) -> None:
        self.threads = threads
        threads.start(target=self.poll)

    def poll(self) -> None:
        self.threads.wait()


def test_a_thread_left_by_each_run_is_named_by_its_target(threads: Threads) -> None:
    """A client made at each run whose thread goes on: told after a few runs, by task and target."""
    found = threads.drive(FEW + 1, lambda: Poller(threads))
    (finding,) = found
    assert (finding.task, finding.what, finding.count, finding.runs) == (
        "t",
        "Thread-* (Poller.poll)",
        FEW + 1,
        FEW + 1,
    )


@pytest.mark.parametrize("ending", [0, 1])
def test_threads_that_became_old_are_named_without_a_further_one(threads: Threads, ending: int) -> None:
    """At the next look, whoever ran, also if that sees one end."""
    for _ in range(SURE):
        Poller(threads)
        assert not threads.watch.look({"t": 1})
    ends = threading.Event()
    other = threads.start(target=ends.wait)
    try:
        assert not threads.watch.look({"a": 1, "b": 1})
        threads.now += LIVES_ON
        if ending:
            ends.set()
            other.join()
        (finding,) = threads.watch.look({"other": 1})
    finally:
        ends.set()
    assert (finding.task, finding.count, finding.runs) == ("t", SURE, SURE)


def test_a_thread_of_a_class_is_named_by_it(threads: Threads) -> None:
    """As a timer, or a subclass."""

    class Beat(threading.Thread):
        def __init__(self) -> None:
            super().__init__(daemon=True)
            self.mine = threading.Lock()

        def run(self) -> None:
            threads.end.wait()

    def start() -> None:
        threads.started.append(Beat())
        threads.started[-1].start()

    (finding,) = threads.drive(FEW + 1, start)
    assert finding.what == f"Thread-* ({Beat.__qualname__})"


def test_one_monitor_thread_is_no_leak(threads: Threads) -> None:
    """Started at the first run, and kept."""
    assert not threads.drive(1, threads.start)
    assert not threads.drive(200, lambda: None)


def test_an_executor_that_warms_up_is_no_leak(threads: Threads) -> None:
    """One worker more at each of 64 runs, which is its bound: what it has counts as one."""
    executor = threads.executor(64)
    assert not threads.drive(80, lambda: executor.submit(threads.wait))


def test_an_executor_at_each_run_is_a_leak(threads: Threads) -> None:
    """Its workers wait for ever while someone keeps it."""

    def run() -> None:
        executor = threads.executor(2)
        for _ in range(2):
            executor.submit(threads.wait)

    (finding,) = threads.drive(FEW + 1, run)
    assert finding.what == "ThreadPoolExecutor-*_* (_worker)"
    assert finding.count == FEW + 1, "one for each executor"


@pytest.mark.parametrize("kind", ["method", "argument", "closure", "function"])
def test_a_pool_of_its_own_make_that_warms_up_is_no_leak(threads: Threads, kind: str) -> None:
    """Workers that share the pool, a queue, or nothing that can be seen: 32 of them, one at a run."""
    queue: list[object] = []
    end = threads.end

    def by_closure() -> None:
        queue.clear()
        end.wait()

    how = {
        "method": {"target": threads.wait},
        "argument": {"target": Threads.wait, "args": (threads,)},
        "closure": {"target": by_closure},
        "function": {"target": _wait_for_no_one},
    }[kind]
    _END.clear()
    assert not threads.drive(32, lambda: threads.start(**how))
    assert not threads.drive(100, lambda: None)
    found = threads.drive(POOL, lambda: threads.start(**how))
    assert len(found) == 1, "but it has a bound"


def test_threads_that_end_by_themselves_are_no_leak(threads: Threads) -> None:
    """Each run leaves one, and each has ended three runs later."""
    ends: list[threading.Event] = []

    def run() -> None:
        ends.append(threading.Event())
        threads.start(target=ends[-1].wait)
        if len(ends) > 3:
            ends[-4].set()
            threads.started[-4].join()

    try:
        assert not threads.drive(100, run)
    finally:
        for end in ends:
            end.set()


def test_a_thread_that_python_does_not_know_is_native(threads: Threads, monkeypatch: pytest.MonkeyPatch) -> None:
    """A C library's: it has the kernel's name, where it has one of its own."""
    real = threading.enumerate

    def known() -> list[threading.Thread]:
        return [thread for thread in real() if thread not in threads.started]

    monkeypatch.setattr(threading, "enumerate", known)
    (finding,) = threads.drive(FEW + 1, lambda: Poller(threads))
    assert finding.what.startswith("a native thread")


def test_a_thread_that_is_just_starting_is_looked_at_again(threads: Threads, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until Python knows its number it would be taken for a native one."""
    real = threading.enumerate
    started = threads.start()
    unstarted = threading.Thread(target=threads.wait)
    monkeypatch.setattr(threading, "enumerate", lambda: [unstarted, *(each for each in real() if each is not started)])
    assert not threads.watch.look({"t": 1})
    assert not threads.watch._left.left
    monkeypatch.undo()
    assert not threads.watch.look({"t": 1})
    assert [left.what for left in threads.watch._left.left.values()] == ["Thread-* (Threads.wait)"]


def test_a_thread_that_closes_over_its_own_client_is_a_leak(threads: Threads) -> None:
    """It has nothing in common with those before."""
    _END.clear()

    def run() -> None:
        client: list[object] = []

        def poll() -> None:
            client.clear()
            _END.wait()

        threads.start(target=poll)

    (finding,) = threads.drive(FEW + 1, run)
    assert finding.what.endswith("run.<locals>.poll)")


def test_a_pool_of_closures_that_share_its_queue_is_no_leak(threads: Threads) -> None:
    """Each closes over its number and over what all have."""
    _END.clear()
    queue: list[object] = []

    def start_worker() -> None:
        mine: list[object] = []

        def work() -> None:
            mine.extend(queue)
            _END.wait()

        threads.start(target=work)

    assert not threads.drive(32, start_worker)


def test_after_runs_of_several_tasks_the_next_ones_are_looked_at_singly(threads: Threads) -> None:
    """Nobody is blamed for what several may have left."""
    for _ in range(20):
        threads.start()
        threads.now += 10
        assert not threads.watch.look({"a": 1, "b": 1})
    assert threads.watch.wants_each


_END = threading.Event()


def _wait_for_no_one() -> None:
    _END.wait()
