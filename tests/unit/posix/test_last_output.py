"""The head of the stacks file: what a process printed last, also once it is dead."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from poolrt.posix import stacks
from poolrt.posix.last_output import HEAD_BYTES, TAIL_BYTES, OutputTail, open_tails, read_tails


@pytest.fixture
def file():
    """A stacks file."""
    fd = stacks.open_stacks()
    yield fd
    os.close(fd)


def test_it_outlives_a_sigkill(file, spawn_quiet):
    """What a process wrote is there after a kill that nothing in it could see coming."""
    ready, says = os.pipe()
    pid = spawn_quiet()
    if pid == 0:
        out, err = open_tails(file)
        out.add("first\n", 1)
        out.add("second\n", 1)
        err.add("of the other\n", 1)
        os.write(says, b".")
        signal.pause()
    os.read(ready, 1)
    os.close(ready)
    os.close(says)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert read_tails(file, 1) == (b"first\nsecond\n", b"of the other\n")


def test_stacks_and_output_share_the_file(file):
    """Stacks that are written, forgotten and written again leave the output alone, and the output them."""
    out, _ = open_tails(file)
    out.add("printed", 1)
    for text in ("stacks", "again"):
        stacks.forget_stacks(file)
        assert stacks.size_of_stacks(file) == 0
        os.write(file, text.encode())
        out.add(".", 1)
        assert stacks.read_stacks(file) == text
    assert read_tails(file, 1).stdout == b"printed.."


def test_only_the_end_is_kept(file):
    """A line longer than the room, and many lines, leave the last bytes."""
    out, err = open_tails(file)
    out.add("x" * 3 * TAIL_BYTES + "end", 1)
    for number in range(2000):
        err.add(f"line {number}\n", 1)
    kept = read_tails(file, 1)
    assert len(kept.stdout) == len(kept.stderr) == TAIL_BYTES
    assert kept.stdout.endswith(b"xend")
    assert kept.stderr.endswith(b"line 1998\nline 1999\n")


def test_another_run_s_output_is_not_shown(file):
    """A run begins with nothing, and what is asked for is of one run alone."""
    out, _ = open_tails(file)
    out.add("of the first", 1)
    assert read_tails(file, 2).stdout == b""
    out.add("of the second", 2)
    assert read_tails(file, 2).stdout == b"of the second"


def test_text_that_is_no_utf_8_is_kept(file):
    """A lone surrogate, as an odd file name brings it, is written as its escape and stops nothing."""
    out, _ = open_tails(file)
    out.add("caf\udce9 é\n", 1)
    assert read_tails(file, 1).stdout == "caf\\udce9 é\n".encode()


def test_threads_lose_no_line():
    """Threads that print at once: whatever order, every line is whole, and the last state holds them all."""
    memory = bytearray(HEAD_BYTES)
    tail = OutputTail(memory, 0)
    lines = [f"{name}{number:02d}\n" for name in "abcdefgh" for number in range(60)]  # 1,920 bytes: all fit
    threads = [
        threading.Thread(target=lambda mine=lines[at : at + 60]: [tail.add(line, 1) for line in mine])
        for at in range(0, 480, 60)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(bytes(memory[8 : 8 + TAIL_BYTES]).rstrip(b"\0").decode().splitlines(keepends=True)) == lines


def test_a_fork_lets_go(file):
    """What a forked process of the task prints does not stand where its parent's output is looked for."""
    out, _ = open_tails(file)
    out.add("parent", 1)
    out.let_go()
    out.add("fork", 1)
    assert read_tails(file, 1).stdout == b"parent"


def test_a_file_without_a_head_holds_nothing():
    """A file that is shorter than its head, which nothing of ours makes, is read as empty."""
    fd = os.memfd_create("short", os.MFD_CLOEXEC)
    try:
        assert read_tails(fd, 0) == (b"", b"")
    finally:
        os.close(fd)
