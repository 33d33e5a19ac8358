"""The last Python stacks of a process, written by itself into a file that its supervisor reads.

    supervisor ──SIGUSR1──▶ faulthandler's C handler in the child ──write──▶ the stacks file ──pread──▶ supervisor
    a segfault, an abort ──────────────────────┘

faulthandler needs neither the GIL nor a working interpreter, so a task that hangs in C answers too; one that is
stopped, or sleeps in the kernel (state D), does not. The file has no name (memfd; elsewhere an unlinked temp file) and
one open file description for both sides: whoever rewinds it rewinds it for the other. Its head is not for stacks: there
the child keeps what it printed last (`last_output`).

faulthandler's handlers run on an alternate stack of some 16 KiB, allocated on the heap. A signal that comes meanwhile
puts its frame there too, and one frame takes up to 11 KiB (AVX-512, AMX): two at a time wrote over the heap, and the
child crashed some calls later (six signals in a row, each time). So the stack is replaced by a larger one.
"""

import faulthandler
import functools
import mmap
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from typing import Final

from poolrt.posix.last_output import HEAD_BYTES
from poolrt.posix.pidfd import send_signal

MAX_STACKS: Final = 12 * 1024
"""Bytes kept: faulthandler writes the interrupted thread last or first, so the middle of a longer text is cut out."""


_SIGNAL_STACK_BYTES: Final = 512 * 1024


def open_stacks() -> int:
    """A new, empty stacks file; its close-on-exec descriptor is the caller's."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("poolrt-stacks", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    forget_stacks(fd)
    return fd


def write_stacks_to(fd: int) -> None:
    """In the child's main thread: write the stacks of all threads to ``fd`` on SIGUSR1, and when it crashes."""
    faulthandler.enable(fd, all_threads=True)
    faulthandler.register(signal.SIGUSR1, fd, all_threads=True, chain=False)
    _use_large_signal_stack()()


@functools.cache
def _use_large_signal_stack() -> Callable[[], None]:
    """What makes handlers on the alternate stack have half a MiB of it, room for every signal at once; 2 us a call.

    Made before the forks (100 us), it is each child's own: a private mapping.
    """
    if sys.platform != "linux":
        return lambda: None
    import ctypes  # the template has it loaded, for prctl

    class Stack(ctypes.Structure):
        _fields_ = (("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))

    memory = mmap.mmap(-1, _SIGNAL_STACK_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    stack = Stack(ctypes.addressof(ctypes.c_char.from_buffer(memory)), 0, _SIGNAL_STACK_BYTES)
    sigaltstack = ctypes.CDLL(None, use_errno=True).sigaltstack

    def use(kept: mmap.mmap = memory) -> None:  # or it would be unmapped with this function's end
        if sigaltstack(ctypes.byref(stack), None):
            number = ctypes.get_errno()
            raise OSError(number, f"sigaltstack: {os.strerror(number)}")

    return use


def prepare_stacks() -> None:
    """Do what children need not do each by itself; to be called before they are forked."""
    _use_large_signal_stack()


def ask_for_stacks(pidfd: int, fd: int) -> None:
    """Empty the file and ask the child to write; it takes 0.1 to 5 ms, or for ever."""
    forget_stacks(fd)
    send_signal(pidfd, signal.SIGUSR1)


def forget_stacks(fd: int) -> None:
    """Empty the file, its head excepted; what is written next stands at the beginning again."""
    os.ftruncate(fd, HEAD_BYTES)
    os.lseek(fd, HEAD_BYTES, os.SEEK_SET)


def size_of_stacks(fd: int) -> int:
    """How many bytes are written so far."""
    return max(0, os.fstat(fd).st_size - HEAD_BYTES)


def read_stacks(fd: int) -> str:
    """What the child wrote; empty if nothing."""
    size = size_of_stacks(fd)
    if size <= MAX_STACKS:
        return os.pread(fd, MAX_STACKS, HEAD_BYTES).decode("utf-8", "replace").strip()
    half = MAX_STACKS // 2
    head, tail = os.pread(fd, half, HEAD_BYTES), os.pread(fd, half, HEAD_BYTES + size - half)
    return f"{head.decode('utf-8', 'replace')}\n…\n{tail.decode('utf-8', 'replace')}".strip()
