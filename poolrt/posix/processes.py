"""Trees of processes: list them, end them, and miss none. The readings of one process come along from `procfs`.

Kernel facts that bite:

- Orphans go to the nearest living ancestor that is a subreaper, else to init, where no walk finds them. So a child is a
  subreaper, and its tree is ended before it is.
- A process with SIGKILL pending cannot fork any more, but one it forked just before may move to the subreaper in the
  middle of a walk: it was not there yet when the subreaper's children were read, and not there any more when its
  parent's were. So a walk that finds nobody alive only counts when every zombie in it was one before the walk began.
- Pids are reused: a victim is pinned by a pidfd and compared by start time before it is signalled.

Elsewhere than on Linux the readings are psutil's, victims are signalled by pid, and daemons (orphans) are not found.
"""

import os
import signal
import sys
import time
from collections import deque
from collections.abc import Container

from poolrt.posix import pidfd as handles

if sys.platform == "linux":
    from poolrt.posix.procfs import (
        children,
        command,
        cpu_seconds,
        holding,
        identity,
        is_alive,
        is_stopped,
        marked,
        parent,
        private_bytes,
        rss_bytes,
        start_time,
        state,
        threads,
    )
else:
    from poolrt.posix.psutil_readings import (
        children,
        command,
        cpu_seconds,
        holding,
        identity,
        is_alive,
        is_stopped,
        marked,
        parent,
        private_bytes,
        rss_bytes,
        start_time,
        state,
        threads,
    )

__all__ = [
    "children",
    "command",
    "cpu_seconds",
    "dead_children",
    "descendants",
    "holding",
    "identity",
    "is_alive",
    "is_stopped",
    "kill_descendants",
    "kill_tree",
    "marked",
    "parent",
    "private_bytes",
    "rss_bytes",
    "start_time",
    "state",
    "threads",
]


def descendants(pid: int) -> list[int]:
    """Its children, their children and so on, breadth first, zombies included, without ``pid`` itself.

    A picture taken while it moves: an orphan on its way to the subreaper may be missed, as explained above.
    """
    return list(_walk(pid, ()))


def dead_children() -> list[int]:
    """Children of this process that have ended and are not reaped, adopted ones too; nothing is reaped. About 1 us
    where there are none."""
    if not hasattr(os, "waitid"):
        return []
    try:
        if os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return []
    except ChildProcessError:
        return []
    return [pid for pid in children(os.getpid()) if not is_alive(pid)]


def kill_tree(pid: int, pidfd: int | None = None) -> dict[int, str]:
    """End a process and all its descendants; returns who was sent SIGKILL, with their command lines, ``pid`` last.

    It is stopped first, so that it cannot fork while its descendants are ended. If it is no subreaper, orphans of its
    descendants leave the tree and are not found. Give the ``pidfd`` where there is one; otherwise the pid is trusted.
    Blocks for at most 0.2 s, typically 1-3 ms; nothing is reaped.

    Raises:
        PermissionError: ``pid`` runs as another user now. (Descendants that do are left alive.)
    """
    try:
        handle = handles.open_pidfd(pid) if pidfd is None else pidfd
    except ProcessLookupError:
        return {}
    try:
        if handles.stop_and_wait(pid, handle) is handles.Stopped.EXITED:
            return {}
        killed = _kill_below(pid, (), time.monotonic() + 0.15)
        name = command(pid)
        if handles.send_signal(handle, signal.SIGKILL):
            killed[pid] = name
        return killed
    finally:
        if pidfd is None:
            os.close(handle)


def kill_descendants(pid: int, spare: Container[int] = ()) -> dict[int, str]:
    """SIGKILL every descendant of ``pid`` until none is alive; returns who was signalled, with their command lines.

    ``spare`` names descendants to leave alone together with all below them. Made for a subreaper and its own strays:
    below it nobody can hide. Nothing is reaped, so the dead stay as zombies until the caller reaps them. Blocks until
    they have ended, at most 2 s (then `descendants` shows who hangs in the kernel).
    """
    return _kill_below(pid, spare, time.monotonic() + 2.0)


def _kill_below(pid: int, spare: Container[int], deadline: float) -> dict[int, str]:
    killed: dict[int, str] = {}
    immune: set[tuple[int, int]] = set()  # other users' (a setuid program): trying again would not help
    dead_before: set[int] = set()
    nap = 50e-6
    while True:
        seen = _walk(pid, spare)
        living = [(found, born) for found, (born, alive) in seen.items() if alive and (found, born) not in immune]
        for found, born in living:
            try:
                if _kill_exactly(found, born) and found not in killed:
                    # Not before: who forks and leaves without a pause would be gone. A zombie keeps its short name.
                    killed[found] = command(found)
            except PermissionError:
                immune.add((found, born))
        dead = {found for found, (_, alive) in seen.items() if not alive}
        if (not living and dead <= dead_before) or time.monotonic() >= deadline:
            return killed
        dead_before = dead
        if living:
            time.sleep(nap)
            nap = min(nap * 2, 2e-3)


def _kill_exactly(pid: int, born: int) -> bool:
    try:
        handle = handles.open_pidfd(pid)
    except ProcessLookupError:
        return False
    try:
        return start_time(pid) == born and handles.send_signal(handle, signal.SIGKILL)
    finally:
        os.close(handle)


def _walk(pid: int, spare: Container[int]) -> dict[int, tuple[int, bool]]:
    """Everyone below ``pid``, breadth first, with start time and whether alive; ``(0, False)`` if gone in between."""
    seen: dict[int, tuple[int, bool]] = {}
    queue = deque([pid])
    while queue:
        for child in children(queue.popleft()):
            if child not in seen and child != pid and child not in spare:
                seen[child] = identity(child) or (0, False)
                queue.append(child)
    return seen
