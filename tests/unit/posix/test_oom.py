"""Whose SIGKILL it was: counts and log lines that a test writes in the kernel's place."""

from __future__ import annotations

import os

import pytest

from poolrt.posix import memory, oom
from poolrt.posix.oom import OomWatch, kills


@pytest.fixture
def counts(tmp_path, monkeypatch):
    """``counts(n)``: how many processes of our control group (version 2) the OOM killer has taken; no log to read."""
    group = tmp_path / "group"
    group.mkdir()
    monkeypatch.setattr(oom, "own_groups", lambda controller: iter([(str(group), 2)]))
    monkeypatch.setattr(oom, "_LOG", str(tmp_path / "no-log"))

    def count(number: int) -> None:
        (group / "memory.events").write_text(f"low 0\nhigh 0\nmax 9\noom 7\noom_kill {number}\noom_group_kill 5\n")

    count(3)
    return count


@pytest.fixture
def clock(monkeypatch):
    """``clock(seconds)`` lets time pass."""
    now = [100.0]
    monkeypatch.setattr(oom.time, "monotonic", lambda: now[0])

    def passes(seconds: float) -> None:
        now[0] += seconds

    return passes


def test_a_count_that_moved_answers_for_one_death(counts):
    """Two deaths after one kill: the first is the kernel's, the second somebody else's."""
    watch = OomWatch()
    assert watch.knows
    assert not watch.killed(7)
    counts(4)
    assert watch.killed(7)
    assert not watch.killed(8)


def test_two_victims_are_both_known(counts):
    """Two kills at once answer for two deaths, and not for a third."""
    watch = OomWatch()
    counts(5)
    assert [watch.killed(pid) for pid in (7, 8, 9)] == [True, True, False]


def test_a_victim_may_take_seconds_to_be_gone(counts, clock):
    """The count moved before a look, the exit comes after it: it is still that kill."""
    watch = OomWatch()
    counts(4)
    for _ in range(3):
        clock(1)
        watch.look()
    assert watch.killed(7)


def test_an_old_kill_is_no_answer(counts, clock):
    """What was killed long ago, a task's own process perhaps, does not explain a SIGKILL of today."""
    watch = OomWatch()
    counts(4)
    for _ in range(8):
        clock(1)
        watch.look()
    assert not watch.killed(7)


def test_version_1_counts_too(tmp_path, monkeypatch):
    """memory.oom_control has its own count."""
    (tmp_path / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 12\n")
    monkeypatch.setattr(oom, "own_groups", lambda controller: iter([(str(tmp_path), 1)]))
    assert kills() == 12


def test_the_closest_group_counts(tmp_path, monkeypatch):
    """A group without the file (the root has none) is passed over; the machine's count is the last resort."""
    monkeypatch.setattr(oom, "own_groups", lambda controller: iter([(str(tmp_path / "gone"), 2), (str(tmp_path), 1)]))
    (tmp_path / "memory.oom_control").write_text("oom_kill 2\n")
    assert kills() == 2
    (tmp_path / "memory.oom_control").unlink()
    with open("/proc/vmstat") as file:
        counted = any(line.startswith("oom_kill ") for line in file)
    assert (kills() is not None) == counted


def test_this_machine_is_read():
    """Whatever groups this machine has, reading them is no error."""
    assert kills() is None or kills() >= 0
    assert list(memory.own_groups("memory"))


def test_the_log_names_the_pid(counts, tmp_path, monkeypatch):
    """Where the kernel's log may be read, the pid in it decides, though no count moved; other lines say nothing."""
    path = tmp_path / "kmsg"
    os.mkfifo(path)
    writer = os.open(path, os.O_RDWR)
    monkeypatch.setattr(oom, "_LOG", str(path))
    monkeypatch.setattr(oom.os, "lseek", lambda *_: 0)  # a pipe cannot
    try:
        watch = OomWatch()
        os.write(writer, b"6,1,1,-;Memory cgroup out of memory: Killed process 4242 (python) total-vm:1kB\n")
        assert not watch.killed(7)
        os.write(writer, b"6,2,2,-;Out of memory: Killed process 7 (python), UID 0\n")
        assert watch.killed(7)
    finally:
        os.close(writer)
