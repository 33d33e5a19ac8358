"""What a process asks of the kernel about its own life: die with the parent, adopt orphans, carry a name.

Kernel facts that bite:

- The parent-death signal belongs to the *thread* that forked: it comes when that thread ends, though its process may
  live on.
- It is not inherited by fork, and cleared by a change of uid or gid and by exec of a setuid file: ask for it last.
- Asked for after the parent died it never comes; so the parent is compared afterwards.
- Being a subreaper is not inherited by fork, and survives exec.

Elsewhere than on Linux there is neither: `die_with_parent` only compares, `become_subreaper` and
`set_process_title` do nothing; end-of-file on a socketpair and a sweep at the next start remain.
"""

import functools
import os
import signal
import sys
from collections.abc import Callable

from poolrt.errors import PoolrtError

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


class ParentGone(PoolrtError, RuntimeError):
    """The process that should be the parent has already died; nothing may be started for it."""


def die_with_parent(parent_pid: int) -> None:
    """Ask for SIGKILL at the death of the parent, ``parent_pid`` (read by the parent itself before it forked).

    Raises:
        ParentGone: the parent is another one already; the caller must leave with ``os._exit``.
        OSError: the kernel refused.
    """
    if sys.platform == "linux":
        _prctl()(_PR_SET_PDEATHSIG, signal.SIGKILL)
    now = os.getppid()
    if now != parent_pid:
        raise ParentGone(f"process {os.getpid()} was started by {parent_pid}, but its parent is {now} now")


def outlive_parent() -> None:
    """Take ``die_with_parent`` back.

    Raises:
        OSError: the kernel refused.
    """
    if sys.platform == "linux":
        _prctl()(_PR_SET_PDEATHSIG, 0)


def become_subreaper() -> None:
    """From now on orphaned descendants become children of this process, instead of init's.

    It must reap them (`poolrt.posix.reaping`), and a child it forks must ask for itself.

    Raises:
        OSError: the kernel refused.
    """
    if sys.platform == "linux":
        _prctl()(_PR_SET_CHILD_SUBREAPER, 1)


def set_process_title(title: str) -> None:
    """Set the name that ``ps -o comm``, ``top`` and /proc/PID/comm show; the kernel keeps 15 bytes.

    Cosmetic: it never fails. It does what PR_SET_NAME does for the main thread, without ctypes.
    """
    try:
        fd = os.open("/proc/self/comm", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return  # no /proc, or a read-only one: only the name is missing
    try:
        os.write(fd, title.encode(errors="replace")[:15] or b"-")
    except OSError:
        pass
    finally:
        os.close(fd)


@functools.cache
def _prctl() -> Callable[[int, int], None]:
    import ctypes  # 5 ms and 0.7 MiB: only processes that need it pay

    function = ctypes.CDLL(None, use_errno=True).prctl
    function.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong]
    function.restype = ctypes.c_int

    def prctl(option: int, value: int) -> None:
        if function(option, value, 0, 0, 0) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"prctl({option}, {value}): {os.strerror(number)}")

    return prctl
