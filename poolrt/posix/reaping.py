"""Collect dead children, own and adopted, without stealing a status.

``waitpid(-1)`` hands out whichever child died, and the one who owned that child gets ECHILD later. So the next dead
child is peeked at first (WNOWAIT leaves it a zombie), then reaped by its pid.

Kernel facts that bite:

- waitid with WSTOPPED alone on a child that has just died is ECHILD, as if it were no child: WEXITED is always asked.
- SIGCHLD set to SIG_IGN makes the kernel reap by itself: every status is lost. `signals.restore_defaults` undoes it.
"""

import os
import sys
from collections.abc import Container, Iterator
from typing import Final, NamedTuple, Protocol

MAXRSS_UNIT: Final = 1 if sys.platform == "darwin" else 1024
"""Bytes in one unit of ``ru_maxrss``."""


class Reaped(NamedTuple):
    """One process that has ended."""

    pid: int
    status: int
    """Its exit code, or minus the signal that ended it."""
    peak_rss: int
    """The highest resident size it ever had, in bytes; 0 where it is not known."""


class ExitInfo(Protocol):
    """The two fields of ``os.waitid_result`` that say how a process ended."""

    @property
    def si_code(self) -> int: ...
    @property
    def si_status(self) -> int: ...


def exit_code(info: ExitInfo) -> int:
    """What ``os.waitstatus_to_exitcode`` would say: the exit code, or minus the signal that ended the process."""
    return info.si_status if info.si_code == os.CLD_EXITED else -info.si_status


def reap_any(known: Container[int]) -> Iterator[Reaped]:
    """Reap every child that is dead now, known children and adopted strays alike.

    Never blocks; without children, nothing is yielded. A child is reaped just before it is yielded: stopping the
    iteration early leaves the others for the next call. A ``known`` child is yielded even if other code of this
    process reaped it between the peek and the wait, so its end is never missed; a stray is then left out.

    Where ``os.waitid`` is missing (macOS before Python 3.13) only ``known`` children are reaped; there are no strays.
    """
    if not hasattr(os, "waitid"):
        yield from _reap_known(known)
        return
    while True:
        try:
            info = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return  # no children at all
        if info is None:
            return  # children, all alive
        try:
            _, status, usage = os.wait4(info.si_pid, 0)
        except ChildProcessError:
            if info.si_pid in known:
                yield Reaped(info.si_pid, exit_code(info), 0)
            continue
        yield Reaped(info.si_pid, os.waitstatus_to_exitcode(status), usage.ru_maxrss * MAXRSS_UNIT)


def reap_one(pid: int) -> None:
    """Reap this child if it is dead; nothing happens if it is not, or if someone has done it."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return


def _reap_known(known: Container[int]) -> Iterator[Reaped]:
    from poolrt.posix import psutil_readings

    for pid in psutil_readings.children(os.getpid()):
        if pid not in known:
            continue
        try:
            reaped, status, usage = os.wait4(pid, os.WNOHANG)
        except ChildProcessError:
            continue
        if reaped:
            yield Reaped(pid, os.waitstatus_to_exitcode(status), usage.ru_maxrss * MAXRSS_UNIT)
