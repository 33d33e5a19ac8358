"""`ProcessWatch` with a kernel in memory, and once with real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from poolrt.hygiene import processes
from poolrt.hygiene.leftovers import FEW, LIVES_ON, SURE
from poolrt.hygiene.processes import POOL, ProcessWatch

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="read from /proc")

OWN = "python -m poolrt.template 3 4"


class Kernel:
    """The children of this process: their commands, start times, and whether they are zombies."""

    def __init__(self) -> None:
        self.now = 0.0
        self.commands: dict[int, str] = {}
        self.born: dict[int, int] = {}
        self.zombies: set[int] = set()
        self.hidden: set[int] = set()
        self.pid = 1000

    def start(self, command: str = "/usr/bin/sleep 60") -> int:
        self.pid += 1
        self.commands[self.pid] = command
        self.born[self.pid] = self.pid
        return self.pid

    def end(self, pid: int) -> None:
        self.commands.pop(pid)
        self.zombies.discard(pid)

    def drive(self, runs: int, function: Callable[[], object], watch: ProcessWatch):
        found = []
        for _ in range(runs):
            function()
            self.now += 10.0
            found += watch.look({"t": 1})
        return found


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """It stands behind what the watch reads."""
    kernel = Kernel()

    def waitid(*_: object) -> object:
        if not kernel.commands:
            raise ChildProcessError
        return SimpleNamespace(si_pid=min(kernel.zombies)) if kernel.zombies else None

    def identity(pid: int) -> tuple[int, bool] | None:
        return (kernel.born[pid], pid not in kernel.zombies) if pid in kernel.commands else None

    def command(pid: int) -> str:
        if pid == os.getpid():
            return OWN
        name = kernel.commands[pid]
        return f"[{os.path.basename(name.split()[0])}]" if pid in kernel.zombies else name

    monkeypatch.setattr(os, "waitid", waitid)
    monkeypatch.setattr(processes, "children", lambda _: [pid for pid in kernel.commands if pid not in kernel.hidden])
    monkeypatch.setattr(processes, "identity", identity)
    monkeypatch.setattr(processes, "is_alive", lambda pid: pid in kernel.commands and pid not in kernel.zombies)
    monkeypatch.setattr(processes, "command", command)
    return kernel


@pytest.fixture
def watch(kernel: Kernel) -> ProcessWatch:
    """Of that kernel's."""
    return ProcessWatch(lambda: kernel.now)


def test_a_program_left_by_each_run_is_named(kernel: Kernel, watch: ProcessWatch) -> None:
    """By its task and its name, with pids in the reason."""
    (finding,) = kernel.drive(FEW + 1, kernel.start, watch)
    assert (finding.task, finding.what, finding.count, finding.runs) == ("t", "sleep", FEW + 1, FEW + 1)
    assert "(pid 1001, 1002, 1003, 1004, 1005, …)" in finding.reason


@pytest.mark.parametrize("ending", [0, 1])
def test_programs_that_became_old_are_named_without_a_further_one(
    kernel: Kernel, watch: ProcessWatch, ending: int
) -> None:
    """At the next look, whoever ran, also if that sees one end."""
    for _ in range(SURE):
        kernel.start()
        assert not watch.look({"t": 1})
    kernel.start()
    assert not watch.look({"a": 1, "b": 1})
    kernel.now += LIVES_ON
    if ending:
        kernel.end(kernel.pid)
    (finding,) = watch.look({"other": 1})
    assert (finding.task, finding.count, finding.runs) == ("t", SURE, SURE)


def test_a_helper_that_is_started_once_is_no_leak(kernel: Kernel, watch: ProcessWatch) -> None:
    """As multiprocessing's resource tracker, or a browser that is kept."""
    assert not kernel.drive(1, kernel.start, watch)
    assert not kernel.drive(100, lambda: None, watch)


@pytest.mark.parametrize("command", [OWN, "python -c from multiprocessing.spawn import spawn_main; spawn_main(3)"])
def test_a_pool_that_warms_up_is_no_leak(kernel: Kernel, watch: ProcessWatch, command: str) -> None:
    """Forked or spawned workers, one at a run up to its bound; later one is replaced at each run."""
    assert not kernel.drive(POOL - 1, lambda: kernel.start(command), watch)

    def replace() -> None:
        kernel.end(min(kernel.commands))
        kernel.start(command)

    assert not kernel.drive(10 * POOL, replace, watch)


def test_what_is_started_and_ended_by_the_run_is_no_leak(kernel: Kernel, watch: ProcessWatch) -> None:
    """Also if another child is there all the time."""
    kernel.start()
    assert not kernel.drive(100, lambda: kernel.end(kernel.start()), watch)


def test_a_zombie_that_nobody_waits_for_is_named(kernel: Kernel, watch: ProcessWatch) -> None:
    """By the name that it had, also if it ended some runs after it was left."""

    def run() -> None:
        kernel.zombies |= kernel.commands.keys()
        kernel.start()

    (finding,) = kernel.drive(FEW + 1, run, watch)
    assert finding.what == "zombie of sleep"


def test_a_zombie_that_was_never_seen_alive_is_named(kernel: Kernel, watch: ProcessWatch) -> None:
    """By what the kernel keeps of its name."""

    def run() -> None:
        kernel.zombies.add(kernel.start())

    (finding,) = kernel.drive(FEW + 1, run, watch)
    assert finding.what == "zombie of sleep"


def test_a_worker_has_the_name_that_multiprocessing_gave_it(
    kernel: Kernel, watch: ProcessWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its number."""
    made: list[object] = []
    monkeypatch.setitem(sys.modules, "multiprocessing.process", SimpleNamespace(_children=made))

    def run() -> None:
        made.append(SimpleNamespace(pid=kernel.start(OWN), name=f"ForkProcess-{len(made)}"))

    found = kernel.drive(POOL + 2, run, watch)
    assert found[0].what == "ForkProcess-*"


def test_a_child_that_the_kernels_list_misses_once_has_not_ended(kernel: Kernel, watch: ProcessWatch) -> None:
    """Its list may miss some while others come and go: those known are asked for."""
    kernel.start()
    watch.look({"t": 1})
    kernel.hidden.add(kernel.pid)
    kernel.start()
    watch.look({"t": 1})
    kernel.hidden.clear()
    watch.look({"t": 1})
    assert [left.run for left in watch._left.left.values()] == [1, 2]


def test_a_pid_that_was_given_again_is_another_process(kernel: Kernel, watch: ProcessWatch) -> None:
    """The one before has ended."""
    first = kernel.start()
    watch.look({"t": 1})
    kernel.born[first] += 1
    kernel.start()
    watch.look({"t": 1})
    assert [left.run for left in watch._left.left.values()] == [2, 2]


def test_a_pid_that_became_another_processs_child_is_gone(kernel: Kernel, watch: ProcessWatch) -> None:
    """It ended, and its pid was given to a process elsewhere: not in the list, and of another birth."""
    first = kernel.start()
    watch.look({"t": 1})
    kernel.born[first] += 1
    kernel.hidden.add(first)
    kernel.start()
    watch.look({"t": 1})
    assert [left.run for left in watch._left.left.values()] == [2]


def test_real_processes_are_seen(wait_for: Callable[..., None]) -> None:
    """A program that runs on is named by its program, and nothing is left to tell when it was waited for."""
    now = 0.0
    watch = ProcessWatch(lambda: now)
    left: list[subprocess.Popen[bytes]] = []
    try:
        found = []
        for _ in range(FEW + 1):
            left.append(subprocess.Popen(["sleep", "60"]))
            now += LIVES_ON + 1
            found += watch.look({"t": 1})
        assert [finding.what for finding in found] == ["sleep"]
        assert str(left[0].pid) in found[0].reason
    finally:
        for process in left:
            process.kill()
            process.wait()
    assert not watch.look({"t": 1})
    assert not watch._left.left
