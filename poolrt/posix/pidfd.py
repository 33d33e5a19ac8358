"""A handle on one process: no signal sent through it can reach another process that was given the same pid.

Kernel facts that bite:

- A pidfd polls readable as soon as the whole process has ended, also before it is reaped.
- The status can only be taken by the parent (waitid, P_PIDFD); for anyone else it is ECHILD.
- A stop is not over when kill() returns: each thread stops where it next meets the signal. Only the parent may wait for
  it with waitid; everyone else has to read /proc until every thread shows T.
- A process between vfork and exec is in state D until the exec: stopping it takes until then.
- A zombie accepts every signal: success says nothing.

On macOS the handle is a kqueue that watches the process (duplicated, so that it is a plain descriptor to close), or the
read end of a closed pipe for a process already dead. Signals then go by pid and may reach a successor of that pid;
states are read by psutil.
"""

import enum
import errno
import os
import select
import signal
import sys
import time
from typing import Final

from poolrt.posix.reaping import exit_code

if sys.platform == "linux":
    from poolrt.posix.procfs import is_stopped
else:
    from poolrt.posix.psutil_readings import is_stopped

_pids: Final[dict[int, int]] = {}  # handle -> pid; used elsewhere than on Linux only, entries are replaced on reuse


class Stopped(enum.Enum):
    """How an attempt to stop a process ended."""

    STOPPED = "stopped"
    """No thread of it runs; it stays so until someone sends SIGCONT or SIGKILL."""
    EXITED = "exited"
    """It has ended, perhaps before the signal; it may be a zombie still."""
    TIMEOUT = "timeout"
    """It had not stopped in time (in the kernel, state D). The stop is pending: follow it by SIGCONT or SIGKILL."""


def open_pidfd(pid: int) -> int:
    """A close-on-exec descriptor for the process; the caller closes it. About 1 us.

    Raises:
        ProcessLookupError: no such process.
        OSError: out of descriptors (EMFILE).
    """
    if sys.platform == "linux":
        handle = os.pidfd_open(pid)
    else:
        handle = _watch(pid)
        _pids[handle] = pid
    return handle


def send_signal(pidfd: int, sig: int) -> bool:
    """Send ``sig`` to the process; False when it has already ended (a zombie counts as ended).

    Raises:
        PermissionError: it runs as another user now.
    """
    if is_exited(pidfd):
        return False
    try:
        if sys.platform == "linux":
            signal.pidfd_send_signal(pidfd, sig)
        else:
            os.kill(_pids[pidfd], sig)
    except ProcessLookupError:
        return False
    return True


def is_exited(pidfd: int, timeout: float = 0.0) -> bool:
    """Whether the process has ended; wait for it at most ``timeout`` seconds. About 1 us when not waiting.

    Raises:
        OSError: EBADF, the descriptor is closed (which must not read as "ended").
    """
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    events = poll.poll(timeout * 1000)
    if events and events[0][1] & select.POLLNVAL:
        raise OSError(errno.EBADF, f"descriptor {pidfd} is closed")
    return bool(events)


def exit_status(pidfd: int) -> int | None:
    """Reap the child: its exit code, or minus the signal that ended it; None while it runs. Never blocks.

    Raises:
        ChildProcessError: not a child of this process, or reaped already.
    """
    if sys.platform == "linux":
        info = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
        code = None if info is None else exit_code(info)
    else:
        reaped, status = os.waitpid(_pids[pidfd], os.WNOHANG)
        code = os.waitstatus_to_exitcode(status) if reaped else None
    return code


def stop_and_wait(pid: int, pidfd: int, timeout: float = 0.05) -> Stopped:
    """SIGSTOP the process and wait, at most ``timeout`` seconds, until no thread of it runs. Typically 50 us.

    The first half of "stop, compare, then kill or continue": whatever is read after STOPPED cannot change any more.
    The caller need not be the parent.

    Raises:
        PermissionError: it runs as another user now.
    """
    if not send_signal(pidfd, signal.SIGSTOP):
        return Stopped.EXITED
    deadline = time.monotonic() + timeout
    spins, nap = 4, 50e-6
    while True:
        stopped = is_stopped(pid)
        # After the reading, not before: were the pid another's by now, the reading would be of that one.
        if is_exited(pidfd):
            return Stopped.EXITED
        if stopped:
            return Stopped.STOPPED
        if time.monotonic() >= deadline:
            return Stopped.TIMEOUT
        if spins > 0:  # most stop within these 50 us; the shortest sleep takes 100 (timer slack)
            spins -= 1
            os.sched_yield()
        else:
            time.sleep(nap)
            nap = min(nap * 2, 1e-3)


if sys.platform != "linux":

    def _watch(pid: int) -> int:
        queue = select.kqueue()
        try:
            event = select.kevent(pid, select.KQ_FILTER_PROC, select.KQ_EV_ADD, select.KQ_NOTE_EXIT)
            queue.control([event], 0)
            return os.dup(queue.fileno())
        except ProcessLookupError:
            os.kill(pid, 0)  # raises ProcessLookupError unless it is a zombie
            ended, writer = os.pipe()
            os.close(writer)
            return ended
        finally:
            queue.close()
