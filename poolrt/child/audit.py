"""What a task left behind in its child, looked at after each task; says whether the child must be recycled.

    after(task) ── lowest free descriptor (0.6 us) ──▶ hygiene.descriptors ── a finding ──▶ leave, or warn
                ── resident size (1.7 us, with a ceiling only) ── above ──▶ gc, trim, look again ──▶ leave
                ── every 64 tasks: zombies that came to this subreaper ──▶ reap

Processes that live on are ended with the child, whatever its end (see template/main.py); here only the dead are buried.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from poolrt.events import EventKind
from poolrt.hygiene.descriptors import DescriptorWatch
from poolrt.posix import descriptors
from poolrt.posix.memory import release_free_memory
from poolrt.posix.processes import dead_children
from poolrt.posix.reaping import reap_one
from poolrt.posix.signals import reserved_handlers
from poolrt.states import Activity
from poolrt.units import format_size

if TYPE_CHECKING:
    from collections.abc import Callable

    from poolrt.board import RowWriter
    from poolrt.posix.memory import ResidentSize
    from poolrt.settings import Settings

_ZOMBIES_EVERY: Final = 64
_READ_AGAIN_NS: Final = 1_000_000
"""Runs of one task within a millisecond share a reading: they grow by 2 MiB at most, and by the same name."""
_ADOPTED_AFTER: Final = 5.0
"""Seconds a zombie must have been one before it is taken for an orphan that nobody waits for."""


class Reason(NamedTuple):
    """Why a child must be recycled."""

    reason: str
    task: str
    """The task that is named."""


class Audit:
    """Looks at one child after each of its tasks.

    Args:
        settings: max_memory_per_child, leak_action.
        row: where the lowest free descriptor is published.
        resident: this child's resident size.
        tell: reports an event: kind, task, task id, cause.
    """

    def __init__(
        self, settings: Settings, row: RowWriter, resident: ResidentSize,
        tell: Callable[[EventKind, str, str, str], None], lock_fd: int = -1,
    ) -> None:  # fmt: skip
        self._ceiling = settings.max_memory_per_child
        self._row = row
        self._resident = resident
        self._tell = tell
        self._action = settings.leak_action
        self._watches = settings.leak_action != "ignore"
        self._lowest = descriptors.lowest_free()
        self._watch = DescriptorWatch(descriptors.limit(), self._lowest, descriptors.scan, collect=self._collect)
        self.settle_first: Callable[[], None] = lambda: None
        """Called before a collection: finalizers of what tasks left run there, and may hang or crash."""
        self._handlers = reserved_handlers()
        self._lock_fd = lock_fd
        self._lock = _file_of(lock_fd)
        self._tasks = 0
        self._zombies: dict[int, float] = {}
        self._rss = resident.read() if self._ceiling else 0
        self._read_at = 0
        self._last_task = ""
        self._grown: dict[str, int] = {}
        row.fds(self._lowest)

    def after(self, task: str) -> Reason | None:
        """Look at what this task left; why the child must be recycled, or None."""
        self._tasks += 1
        lowest = self._lowest
        if not self._tasks % _ZOMBIES_EVERY:
            self._reap_adopted()
            lowest = -1
        reason = self._look_at_descriptors(task) if self._watches else None
        if self._ceiling and reason is None:
            reason = self._look_at_memory(task)
        if reason is None and self._lowest != lowest and _file_of(self._lock_fd) != self._lock:
            # Without it nothing proves that this child is dead when its node has died (protocol.md, rule 16).
            reason = Reason(f"{task} closed the node's lock, which every child holds", task)
        if reason is None and reserved_handlers() != self._handlers:
            reason = Reason(f"{task} changed the handler of SIGUSR1 or SIGUSR2, which are poolrt's", task)
        return reason

    def _look_at_descriptors(self, task: str) -> Reason | None:
        lowest = descriptors.lowest_free()
        if lowest != self._lowest:
            self._lowest = lowest
            self._row.fds(lowest)
        finding = self._watch.after(task, lowest)
        if finding is None:
            return None
        if self._action == "recycle":
            return Reason(finding.reason, finding.task)
        self._tell(EventKind.WARNING, finding.task, "", finding.reason)
        return None

    def _look_at_memory(self, task: str) -> Reason | None:
        """Above the ceiling it looks again after a collection and a trim: garbage and freed pages are no reason.

        Named is the task during whose runs the child has grown most. That is a hint and no proof: a leak may fill pages
        that another task's peak has left.
        """
        now = time.monotonic_ns()
        if task == self._last_task and now - self._read_at < _READ_AGAIN_NS:
            return None
        self._last_task, self._read_at = task, now
        before = self._resident.read()
        if before != self._rss:
            self._grown[task] = self._grown.get(task, 0) + before - self._rss
            self._rss = before
        if before <= self._ceiling:
            return None
        self._collect()
        release_free_memory()
        after = self._resident.read()
        self._grown[task] = self._grown.get(task, 0) + after - before
        self._rss = after
        if after <= self._ceiling:
            return None
        most = max(self._grown, key=lambda name: self._grown[name])
        return Reason(
            f"max_memory_per_child: {format_size(after)} ({format_size(before)} before a collection), its ceiling is "
            f"{format_size(self._ceiling)}; it has grown by {format_size(max(0, self._grown[most]))} during {most}",
            most,
        )

    def _collect(self) -> int:
        self.settle_first()
        self._row.activity(Activity.AUDIT)
        return gc.collect()

    def _reap_adopted(self) -> None:
        """Reap orphans that came to this subreaper and ended. A task's own children are its own to wait for.

        Whose a zombie is cannot be read from /proc. So a ``Popen`` or ``multiprocessing`` process that someone still
        holds is left alone, and any other zombie is given some seconds in which a ``waitpid`` may come for it.
        """
        now = time.monotonic()
        dead = dead_children()
        self._zombies = {pid: self._zombies.get(pid, now) for pid in dead}
        old = [pid for pid, since in self._zombies.items() if now - since >= _ADOPTED_AFTER]
        if old:
            awaited = _awaited()
            for pid in old:
                if pid not in awaited:
                    reap_one(pid)
                    del self._zombies[pid]


def _awaited() -> set[int]:
    """Pids of processes that an object here will wait for. Few objects are looked at: what was imported is frozen."""
    found: set[int] = set()
    subprocess, process = sys.modules.get("subprocess"), sys.modules.get("multiprocessing.process")
    if subprocess is not None:
        found.update(thing.pid for thing in gc.get_objects() if isinstance(thing, subprocess.Popen))
    if process is not None:
        found.update(child.pid for child in process.active_children() if child.pid)
    return found


def _file_of(fd: int) -> tuple[int, int] | None:
    """Which file is open there, as device and inode; None for none."""
    try:
        found = os.fstat(fd)
    except OSError:
        return None
    return found.st_dev, found.st_ino
