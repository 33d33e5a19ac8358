"""The last Python stacks of a process, written by itself into a file that its supervisor reads.

    supervisor ──SIGUSR1──▶ faulthandler's C handler in the child ──write──▶ the stacks file ──pread──▶ supervisor
    a segfault, an abort ──────────────────────┘

faulthandler needs neither the GIL nor a working interpreter, so a task that hangs in C answers too; one that is
stopped, or sleeps in the kernel (state D), does not. The file has no name (memfd; elsewhere an unlinked temp file) and one open
file description for both sides: whoever rewinds it rewinds it for the other.
"""

import faulthandler
import os
import signal
import tempfile
from typing import Final

from poolrt.posix.pidfd import send_signal

MAX_STACKS: Final = 12 * 1024
"""Bytes kept: faulthandler writes the interrupted thread last or first, so the middle of a longer text is cut out."""


def open_stacks() -> int:
    """A new, empty stacks file; its close-on-exec descriptor is the caller's."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("poolrt-stacks", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def write_stacks_to(fd: int) -> None:
    """In the child: write the stacks of all threads to ``fd`` on SIGUSR1, and when a signal of a crash comes."""
    faulthandler.enable(fd, all_threads=True)
    faulthandler.register(signal.SIGUSR1, fd, all_threads=True, chain=False)


def ask_for_stacks(pidfd: int, fd: int) -> None:
    """Empty the file and ask the child to write; it takes 0.1 to 5 ms, or for ever."""
    os.ftruncate(fd, 0)
    os.lseek(fd, 0, os.SEEK_SET)
    send_signal(pidfd, signal.SIGUSR1)


def size_of_stacks(fd: int) -> int:
    """How many bytes are written so far."""
    return os.fstat(fd).st_size


def read_stacks(fd: int) -> str:
    """What the child wrote; empty if nothing."""
    size = size_of_stacks(fd)
    if size <= MAX_STACKS:
        return os.pread(fd, MAX_STACKS, 0).decode("utf-8", "replace").strip()
    half = MAX_STACKS // 2
    head, tail = os.pread(fd, half, 0), os.pread(fd, half, size - half)
    return f"{head.decode('utf-8', 'replace')}\n…\n{tail.decode('utf-8', 'replace')}".strip()
