"""The stacks file: what a process writes of itself when asked, and when it crashes."""

from __future__ import annotations

import ctypes
import os
import signal
import time

import pytest

from poolrt.posix import stacks
from poolrt.posix.pidfd import open_pidfd
from poolrt.posix.processes import state


@pytest.fixture
def file():
    """A stacks file."""
    fd = stacks.open_stacks()
    yield fd
    os.close(fd)


@pytest.fixture
def child(file, spawn_quiet):
    """``child(work)``: a fork that writes its stacks to ``file`` and does ``work``; its pid and pidfd."""
    made = []

    def make(work):
        ready, says = os.pipe()
        pid = spawn_quiet()
        if pid == 0:
            stacks.write_stacks_to(file)
            os.write(says, b".")
            work()
            os._exit(0)
        os.read(ready, 1)
        os.close(ready)
        os.close(says)
        made.append((pid, open_pidfd(pid)))
        return made[-1]

    yield make
    for pid, pidfd in made:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(pidfd)


def sleeps_in_c():
    sleep = ctypes.PyDLL(None).sleep  # holds the GIL; a signal ends it early
    while True:
        sleep(60)


def crashes():
    ctypes.string_at(0)


def test_a_process_that_holds_the_gil_answers(file, child, wait_for):
    """Asked twice, the file holds the second answer alone: it is emptied before each."""
    pid, pidfd = child(sleeps_in_c)
    wait_for(lambda: state(pid) == "S", "it sleeps")
    for _ in range(2):
        stacks.ask_for_stacks(pidfd, file)
        wait_for(lambda: "in sleeps_in_c" in stacks.read_stacks(file), "it has answered")
        assert stacks.read_stacks(file).count("in sleeps_in_c") == 1


def test_a_crash_leaves_its_stacks(file, child):
    """A segfault is written with its name and stack, without being asked."""
    _, pidfd = child(crashes)
    os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT)
    text = stacks.read_stacks(file)
    assert text.startswith("Fatal Python error: Segmentation fault")
    assert "in crashes" in text


def test_a_stopped_process_does_not_answer(file, child):
    """Nothing is written while it is stopped, and nothing waits for it."""
    pid, pidfd = child(lambda: time.sleep(60))
    os.kill(pid, signal.SIGSTOP)
    os.waitid(os.P_PIDFD, pidfd, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    stacks.ask_for_stacks(pidfd, file)
    assert stacks.read_stacks(file) == ""


def test_a_long_text_loses_its_middle(file):
    """What is kept has a bound, and shows the beginning and the end."""
    os.write(file, b"first\n" + b"x" * 100_000 + b"\nlast")
    text = stacks.read_stacks(file)
    assert len(text) <= stacks.MAX_STACKS + 8
    assert text.startswith("first")
    assert text.endswith("last")


def test_many_signals_at_once_do_no_harm(file, child, wait_for):
    """Signals that come while the stacks are written find room: on faulthandler's own stack they broke the heap."""

    def takes_many():
        others = [*range(34, 60), signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR2]
        for number in others:
            signal.signal(number, lambda *_: None)
        for _ in range(20):
            for number in (signal.SIGUSR1, *others):
                os.kill(os.getpid(), number)
            [str(i) for i in range(1000)]  # where a broken heap shows
        stacks.forget_stacks(file)
        os.write(file, b"fine")

    _, pidfd = child(takes_many)
    assert os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT).si_status == 0
    assert stacks.read_stacks(file) == "fine"
