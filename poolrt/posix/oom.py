"""Tells the kernel's own kills for want of memory from every other SIGKILL.

Facts that bite:

- A SIGKILL has no sender that anyone could read afterwards.
- The kernel's log names the pid, of the outermost pid namespace, and may be read by few: in a container mostly nobody.
- A control group counts what the OOM killer took from it, whosever limit it was: ``memory.events`` in version 2,
  ``memory.oom_control`` in version 1 (Linux 4.13). Its root has no count; /proc/vmstat counts for the whole machine.
- The count moves before the victim is gone, which may take it seconds: all its memory is given back first.
"""

import os
import re
import time
import weakref
from collections import deque
from typing import Final

from poolrt.posix.memory import own_groups

_LOG: Final = "/dev/kmsg"
_KILLED: Final = re.compile(rb"Killed process (\d+)")
_MOST_LINES: Final = 500
"""Lines of the log read for one death, 5 us each; the rest is skipped."""
_REMEMBERED: Final = 5.0
"""Seconds that a victim may take to be gone."""


class OomWatch:
    """Remembers how often the OOM killer struck; to be asked about each SIGKILL that we did not send.

    Attributes:
        knows: whether the system counts, so that "no" is an answer.
    """

    def __init__(self) -> None:
        count = kills()
        self.knows = count is not None
        self._counts: deque[tuple[float, int]] = deque([(time.monotonic(), count or 0)])
        """When the count was read, and what it was; those that are older than needed go."""
        self._log = _open_log()
        self._finalizer = weakref.finalize(self, _close, self._log)

    def close(self) -> None:
        """Give the kernel's log back."""
        self._finalizer()

    def look(self) -> None:
        """Note the count; to be called about once a second. 25 us."""
        now = time.monotonic()
        self._counts.append((now, kills() or 0))
        while len(self._counts) > 1 and self._counts[1][0] < now - _REMEMBERED:
            self._counts.popleft()

    def killed(self, pid: int) -> bool:
        """Whether the kernel killed this process, which has ended by SIGKILL just now.

        Where its log does not say so, each kill that was counted in the last seconds answers for one death.
        """
        logged = self._log >= 0 and pid in _read_log(self._log)
        if not logged and (kills() or 0) <= self._counts[0][1]:
            return False
        self._counts = deque((at, count + 1) for at, count in self._counts)
        return True


def kills() -> int | None:
    """How many processes of our control group (else: of the machine) the OOM killer has taken; None: nobody counts."""
    for group, version in own_groups("memory"):  # the first that counts is the closest: one above counts others too
        count = _count_in(f"{group}/memory.events" if version == 2 else f"{group}/memory.oom_control")
        if count is not None:
            return count
    return _count_in("/proc/vmstat")


def _count_in(path: str) -> int | None:
    try:
        with open(path, "rb") as file:
            found = re.search(rb"^oom_kill (\d+)$", file.read(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) if found else None


def _close(fd: int) -> None:
    if fd >= 0:
        os.close(fd)


def _open_log() -> int:
    """The kernel's log, from now on; -1 where it may not be read."""
    try:
        fd = os.open(_LOG, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return -1
    os.lseek(fd, 0, os.SEEK_END)
    return fd


def _read_log(fd: int) -> set[int]:
    """The pids of the processes that were killed since the last call."""
    victims = set()
    for _ in range(_MOST_LINES):
        try:
            line = os.read(fd, 8192)
        except BrokenPipeError:
            continue  # lines were overwritten before they were read; the next one comes next
        except OSError:
            break  # EAGAIN: that was the last one
        if found := _KILLED.search(line):
            victims.add(int(found[1]))
    else:
        os.lseek(fd, 0, os.SEEK_END)
    return victims
