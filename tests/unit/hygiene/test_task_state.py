"""`StateWatch` with this process's own state: whose a change is, what cannot be put back, and asyncio tasks."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from poolrt.hygiene.findings import LeakKind
from poolrt.hygiene.leftovers import FEW, LIVES_ON, SURE
from poolrt.hygiene.task_state import FEW_NAMES, SINGLY, StateWatch


def whats(watch: StateWatch, task: str = "t") -> list[str]:
    """What one run of the task is told to have changed."""
    found = watch.look({task: 1})
    assert all((each.kind, each.task, each.count) == (LeakKind.STATE, task, 1) for each in found)
    return [finding.what for finding in found]


def test_a_child_that_cannot_be_put_right_leaves(tmp_path: Path) -> None:
    """Its directory is gone by now; the reason names task and cause."""
    before = os.getcwd()
    (tmp_path / "gone").mkdir()
    os.chdir(tmp_path / "gone")
    try:
        watch = StateWatch()
        os.chdir("/")
        (tmp_path / "gone").rmdir()
        assert whats(watch, "mover") == ["cwd"]
        assert watch.must_leave.startswith("mover changed cwd, which cannot be put back: ")
        assert "No such file" in watch.must_leave
    finally:
        os.chdir(before)


def test_a_child_whose_output_was_closed_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every later print would fail."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    watch = StateWatch()
    stream.close()
    assert whats(watch) == ["closed sys.stdout"]
    assert "closed sys.stdout" in watch.must_leave


# ---- whose it is

MANY = dict.fromkeys(map("task {}".format, range(FEW_NAMES + 1)), 2)


def test_of_a_few_tasks_one_is_told_at_once() -> None:
    """With their names, but for none of them; and the one that does it again is named."""
    watch = StateWatch()
    os.chdir("/")
    (found,) = watch.look({"a": 3, "b": 2})
    assert (found.task, found.what, found.count, found.runs) == ("", "cwd", 1, 5)
    assert found.reason == "a or b changed cwd and left it so: put back"
    assert watch.wants_each
    os.chdir("/")
    assert whats(watch, "b") == ["cwd"]
    assert watch.unnamed() == []


def test_what_is_looked_at_seldom_is_not_blamed_on_who_ran_last() -> None:
    """Nor does an import long before it excuse it, or one meanwhile not."""
    watch = StateWatch()
    handler = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    assert watch.look({"culprit": 2}) == []
    (found,) = watch.look({"last": 1})
    assert (found.task, found.what, found.runs) == ("", "signal SIGTERM", 3)
    assert "culprit or last" in found.reason
    assert signal.getsignal(signal.SIGTERM) is handler


def test_an_import_excuses_what_is_looked_at_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library's recursion limit, set in a run of which the limit was not looked at."""
    watch = StateWatch()
    before = sys.getrecursionlimit()
    monkeypatch.setitem(sys.modules, "some_library", ModuleType("some_library"))
    sys.setrecursionlimit(before + 500)
    try:
        assert watch.look({"user": 2}) == []
        assert whats(watch, "user") == []
        assert sys.getrecursionlimit() == before + 500
        sys.setrecursionlimit(before + 700)
        assert whats(watch, "user") == ["recursion limit"]
        assert sys.getrecursionlimit() == before + 500
    finally:
        sys.setrecursionlimit(before)


def test_what_is_looked_at_seldom_is_looked_at_in_time() -> None:
    """However many runs there are between two looks."""
    watch = StateWatch()
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(before + 500)
    found = [each.what for _ in range(8) for each in watch.look({"a": 40, "b": 40})]
    assert found == ["recursion limit"]
    assert sys.getrecursionlimit() == before


def test_after_runs_of_several_tasks_the_one_that_does_it_again_is_named() -> None:
    """It is put back at once; the next runs are looked at singly until then."""
    watch = StateWatch()
    before = os.getcwd()
    os.chdir("/")
    assert watch.look(MANY) == []
    assert os.getcwd() == before
    assert watch.wants_each
    assert whats(watch, "a") == []
    os.chdir("/")
    assert whats(watch, "b") == ["cwd"]
    assert watch.unnamed() == []


def test_what_nobody_does_again_is_told_without_a_name() -> None:
    """After a while; and it says who it may have been."""
    watch = StateWatch()
    os.chdir("/")
    watch.look(MANY)
    found = [each for _ in range(SINGLY) for each in watch.look({"c": 1})]
    assert [(each.task, each.what) for each in found] == [("", "cwd")]
    assert "task 0, task 1, task 2, task 3" in found[0].reason
    assert not watch.wants_each


def test_what_is_changed_now_and_then_has_its_rate() -> None:
    """Each change is told with all runs of its task since the one before; the rest when the child leaves."""
    watch = StateWatch()
    found = []
    for number in range(40):
        if number % 10 == 9 and number < 35:
            os.umask(0o77)
        found += watch.look({"t": 1})
        assert watch.look({"other": 3}) == []
    assert [(each.task, each.what, each.count, each.runs) for each in found] == [("t", "umask", 1, 10)] * 3
    rest = {each.task: each for each in watch.rest()}
    assert (rest["t"].runs, rest["t"].since) == (40, [(LeakKind.STATE, "umask", 0, 10)])
    assert (rest["other"].runs, rest["other"].since) == (120, [])
    assert (rest[""].runs, rest[""].since) == (160, [])


# ---- asyncio


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """The child's loop, of which tasks may be left."""
    loop = asyncio.new_event_loop()
    yield loop
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    if left:
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
    loop.close()


class AsyncRuns:
    """Runs of async tasks in the child's loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.now = 0.0
        self.watch = StateWatch(lambda: loop, lambda: self.now)
        self.tasks: list[asyncio.Task[None]] = []

    async def poll(self) -> None:
        await asyncio.sleep(3600)

    async def leave(self) -> None:
        self.tasks.append(asyncio.ensure_future(self.poll()))
        await asyncio.sleep(0)

    def run(self, *, leaves: bool = True, takes: float = LIVES_ON + 1):
        self.loop.run_until_complete(self.leave() if leaves else asyncio.sleep(0))
        self.now += takes
        return self.watch.look({"t": 1})


def test_pending_tasks_left_by_each_run_are_told_and_cancelled(loop: asyncio.AbstractEventLoop) -> None:
    """They would go on in every later run."""
    runs = AsyncRuns(loop)
    found = [each for _ in range(FEW + 1) for each in runs.run()]
    assert [(each.what, each.count) for each in found] == [("asyncio task AsyncRuns.poll", FEW + 1)]
    runs.run(leaves=False)
    assert [task.cancelled() for task in runs.tasks] == [True] * (FEW + 1)


def test_pending_tasks_are_told_when_they_are_old_enough(loop: asyncio.AbstractEventLoop) -> None:
    """The runs that left them were quick, and the next one leaves none."""
    runs = AsyncRuns(loop)
    assert not [each for _ in range(SURE) for each in runs.run(takes=0.0)]
    runs.now += LIVES_ON + 1
    assert [each.count for each in runs.run(leaves=False)] == [SURE]
    runs.run(leaves=False)
    assert all(task.cancelled() for task in runs.tasks)


def test_a_clients_reader_is_no_leak(loop: asyncio.AbstractEventLoop) -> None:
    """Started once, it stays pending over all runs."""
    runs = AsyncRuns(loop)
    assert not runs.run()
    assert not [each for _ in range(50) for each in runs.run(leaves=False)]
    assert not runs.tasks[0].done()


def test_tasks_that_end_a_few_runs_later_are_no_leak(loop: asyncio.AbstractEventLoop) -> None:
    """However long these runs take."""
    runs = AsyncRuns(loop)
    for number in range(50):
        if number >= 3:
            runs.tasks[number - 3].cancel()
        assert not runs.run()


def test_a_loop_that_still_counts_as_running_is_taken_down() -> None:
    """Else no later task could start one."""
    watch = StateWatch()
    loop = asyncio.new_event_loop()
    asyncio._set_running_loop(loop)
    assert whats(watch) == ["running asyncio loop"]
    asyncio.run(asyncio.sleep(0))
    loop.close()
