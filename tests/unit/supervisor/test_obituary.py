"""What is kept of a dead child's stacks: the task's frames, of the right moment."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from poolrt.board import Row
from poolrt.posix.stacks import open_stacks
from poolrt.states import Activity
from poolrt.supervisor.lifecycle import Asked, Child
from poolrt.supervisor.obituary import last_stacks, without_ours

DUMP = """Fatal Python error: Segmentation fault

Thread 0x01 (most recent call first):
  File "/app/worker.py", line 3 in side
  File "/usr/lib/python3/threading.py", line 975 in run

Current thread 0x02 (most recent call first):
  File "/app/tasks.py", line 17 in crash
  File "/venv/poolrt/child/executor.py", line 207 in _run
  File "/venv/poolrt/child/loop.py", line 147 in _run_next

Extension modules: msgspec._core (total: 1)"""


@pytest.fixture
def written(make_child: Callable[..., Child]) -> Iterator[Child]:
    """A child that has written its stacks."""
    child = make_child()
    child.stacks_fd = open_stacks()
    os.write(child.stacks_fd, DUMP.encode())
    yield child
    child.close()


def test_our_frames_are_left_out() -> None:
    """Below the task's function stand only the runtime's frames: they say nothing, and are cut in each stack."""
    kept = without_ours(DUMP)
    assert "poolrt" not in kept
    assert kept == "\n".join(line for line in DUMP.splitlines() if "/venv/poolrt/" not in line)


def test_a_crash_has_stacks(written: Child, make_row: Callable[..., Row]) -> None:
    """What the interpreter wrote when it crashed belongs to the crash; after a SIGKILL from outside nothing does."""
    row = make_row(Activity.RUN)
    assert "in crash" in last_stacks(written, row, -11)
    assert last_stacks(written, row, -9) == last_stacks(written, row, 3) == ""


def test_stacks_of_an_earlier_task_are_not_taken(written: Child, make_row: Callable[..., Row]) -> None:
    """Stacks that were asked for belong to the run whose word was seen then, and to no other."""
    row = make_row(Activity.RUN)
    word = row.sequence << 8 | row.activity
    written.asked = Asked(word, 1, 0)
    assert "in crash" in last_stacks(written, row, -9)
    written.asked = Asked(word - 256, 1, 0)
    assert last_stacks(written, row, -9) == ""
