"""What is found out about the dead, and of whom."""

from __future__ import annotations

import os
import signal
import time

import pytest

from poolrt import notice
from poolrt.hygiene.crash_report import report_of
from poolrt.message import Record
from poolrt.notice import Bury
from poolrt.posix.last_output import TAIL_BYTES, open_tails
from poolrt.posix.open_files import OpenFiles
from poolrt.posix.stacks import MAX_STACKS, open_stacks
from poolrt.states import Activity, ChildState, TaskState
from poolrt.supervisor import coroner
from poolrt.supervisor.coroner import Coroner
from poolrt.supervisor.exits import judge_exit
from poolrt.supervisor.lifecycle import Asked


class Oom:
    """An OomWatch that says what a test wants."""

    def __init__(self, *, knows: bool = True, struck: bool = False) -> None:
        self.knows = knows
        self.struck = struck
        self.asked: list[int] = []

    def killed(self, pid: int) -> bool:
        self.asked.append(pid)
        return self.struck


@pytest.fixture
def oom(monkeypatch):
    """What the coroner's OomWatch says; nothing struck unless a test says so."""
    watch = Oom()
    monkeypatch.setattr(coroner, "OomWatch", lambda: watch)
    return watch


@pytest.fixture
def child(make_child):
    """A child that has printed, and grown."""
    made = make_child()
    made.pid = 4242
    made.stacks_fd = open_stacks()
    out, err = open_tails(made.stacks_fd)
    out.add("printed\n", 9)  # the sequence of make_row's run
    err.add("complained\n", 9)
    made.rss.note(time.monotonic_ns(), 50 << 20)
    yield made
    made.close()


def examined(child, row, status, **changes):
    """The stacks, and the report as a reader of the record has it."""
    examiner = Coroner()
    verdict = judge_exit(child, row, status, oom=examiner.oom_killed(child, status))
    stacks, report = examiner.examine(child, row, verdict, status, changes.pop("peak_rss", 60 << 20))
    return stacks, report_of(Record(TaskState.DEAD, "t", 1.0, report=report))


def test_a_crash(oom, child, make_row):
    """Output, curve and the row's descriptors; nobody has killed it."""
    os.write(child.stacks_fd, b"Fatal Python error: Segmentation fault\n")
    stacks, report = examined(child, make_row(Activity.RUN), -signal.SIGSEGV)
    assert stacks.startswith("Fatal Python error")
    assert (report.pid, report.killer, report.stdout, report.stderr) == (4242, "", b"printed\n", b"complained\n")
    assert [size for _, size in report.rss] == [50 << 20]
    assert (report.lowest_free, report.kinds, report.peers) == (3, {}, {})
    assert oom.asked == []


def test_a_kill_of_ours(oom, child, make_row):
    """What it had open when it was stopped is there, and nobody asks whether the kernel did it."""
    child.open_files = OpenFiles({"socket": 2}, {f"10.0.0.{n}:5432": 1 for n in range(200)}, complete=False)
    child.state, child.cause, child.verdict = ChildState.CONDEMNED, "TimeLimitExceeded: ran 3 s", "failed"
    row = make_row(Activity.RUN)
    child.asked = Asked(row.sequence << 8 | row.activity, 1, 0)
    os.write(child.stacks_fd, b"its stack")
    stacks, report = examined(child, row, -signal.SIGKILL)
    assert stacks == "its stack"
    assert report.killer == "poolrt, for the cause above"
    assert (report.kinds, len(report.peers), report.complete) == ({"socket": 2}, 50, False)
    assert oom.asked == []


@pytest.mark.parametrize(
    ("knows", "struck", "killer"),
    [
        (True, True, "the kernel's OOM killer; it had 60.0 MiB"),
        (True, False, "somebody outside, or the task itself; not the kernel's OOM killer; it had 60.0 MiB"),
        (False, False, "somebody outside, perhaps the kernel's OOM killer; it had 60.0 MiB"),
    ],
)
def test_a_sigkill_that_was_not_ours(oom, child, make_row, knows, struck, killer):
    """The kernel's OOM killer is told from others where the system says so, and its memory is named."""
    oom.knows, oom.struck = knows, struck
    row = make_row(Activity.RUN)
    _, report = examined(child, row, -signal.SIGKILL)
    assert report.killer == killer
    by = " (the kernel's OOM killer)" if struck else ""
    told = judge_exit(child, row, -signal.SIGKILL, oom=struck).cause
    assert told == f"killed by SIGKILL{by} while running shop.add"


def test_output_of_an_earlier_run_is_not_shown(oom, child, make_row):
    """The run that died printed nothing: what the one before it had printed is not its own."""
    row = make_row(Activity.RUN)._replace(sequence=10)
    _, report = examined(child, row, 3)
    assert (report.stdout, report.stderr) == (b"", b"")


def test_no_report_where_nothing_becomes_of_a_task(oom, child, make_row):
    """An idle child that is killed, and one that leaves by plan, leave no report."""
    assert examined(child, make_row(Activity.IDLE), -signal.SIGSEGV)[1] is None
    child.state = ChildState.RETIRING
    assert examined(child, make_row(Activity.LEAVE), 0) == ("", None)


def test_the_largest_report_fits_a_notice(oom, child, make_row):
    """Everything at its bound: with the stacks it is one frame to the steward."""
    out, err = open_tails(child.stacks_fd)
    for tail in (out, err):
        tail.add("x" * 2 * TAIL_BYTES, 9)
    peers = {f"/run/{'p' * 200}-{n}": 10**6 for n in range(200)}
    child.open_files = OpenFiles(dict.fromkeys(["socket", "pipe", "file", "device", "anon", "other"], 10**6), peers)
    for step in range(60):
        child.rss.note(time.monotonic_ns() + step * 10**9, 2**40)
    row = make_row(Activity.RUN)
    examiner = Coroner()
    _, report = examiner.examine(child, row, judge_exit(child, row, -signal.SIGSEGV), -signal.SIGSEGV, 2**40)
    bury = Bury(1, 1, 1, 1, 1, "c" * 500, "lost", 1.0, -11, 2**40, "s" * (MAX_STACKS + 8), report)
    assert len(notice.encode(bury)) < notice.MAX_BYTES
