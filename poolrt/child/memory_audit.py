"""What tasks do to the memory of their child: who keeps some, how soon the ceiling is reached, whether it is.

samples_next ─ run ─ sample     on some runs: hygiene.live_memory, the only thing that names a task for sure
look(task)       with a ceiling: the resident size ── above ──▶ gc, trim, look again ──▶ leave
                                                   └─ its floor rises, and few runs are left ──▶ leave
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from poolrt.child.watches import Verdict
from poolrt.hygiene.live_memory import LiveMemory
from poolrt.hygiene.rss_floor import RssFloor
from poolrt.posix.memory import release_free_memory
from poolrt.units import format_size

if TYPE_CHECKING:
    from collections.abc import Callable

    from poolrt.hygiene.findings import Finding
    from poolrt.message import Outcome
    from poolrt.posix.memory import ResidentSize

OUTCOME_BYTES: Final = 2048
"""Of an outcome beside its record: itself, its delivery, its place in a batch."""
_READ_AGAIN_NS: Final = 1_000_000
"""Runs of one task within a millisecond share a reading: they grow by 2 MiB at most, and by the same name."""


class MemoryAudit:
    """Looks at the memory of one child.

    Args:
        ceiling: max_memory_per_child in bytes; 0 for none.
        resident: the child's resident size.
        collect: a full collection.
        samples: whether runs are sampled for what they keep.
        settle: called before a sample's collections: finalizers may hang or crash.
    """

    def __init__(
        self, ceiling: int, resident: ResidentSize, collect: Callable[[], object], *, samples: bool,
        settle: Callable[[], object],
    ) -> None:  # fmt: skip
        self.ceiling = ceiling
        self._resident = resident
        self._collect = collect
        self._live = LiveMemory(ceiling, resident.read, settle=settle) if samples else None
        self._floor = RssFloor()
        self.found: list[Finding] = []
        self._rss = resident.read() if ceiling else 0
        self._read_at = 0
        self._runs = 0
        """Since the last reading."""
        self._last_task = ""
        self._grown: dict[str, int] = {}

    def samples_next(self, task: str) -> bool:
        """To be called right before each run; whether this one is sampled. 0.1 us if not; else all is settled first."""
        if self._live is None or not self._live.due(task):
            return False
        self._live.before(task)
        return True

    def sample(self, task: str, runtime: float, outcome: Outcome) -> None:
        """A sampled run of ``runtime`` seconds has ended with this outcome; it is settled first, and kept for 2 s."""
        if self._live is not None:
            follow_ups = sum(len(each.envelope) for each in outcome.follow_ups)
            own = len(outcome.record or b"") + follow_ups + OUTCOME_BYTES
            self.found += self._live.after(task, int(runtime * 1e9), own)

    def findings(self) -> list[Finding]:
        """What samples have found since they were asked for."""
        found, self.found = self.found, []
        return found

    def leaving(self) -> list[Finding]:
        """What was found and is not reported yet."""
        return self._live.leaving() if self._live is not None else []

    def look(self, task: str) -> Verdict | None:
        """Above the ceiling it looks again after a collection and a trim: garbage and freed pages are no reason.

        Named is who was seen to keep memory, else the task during whose runs the child has grown most. The latter is a
        hint and no proof: a leak may fill pages that another task's peak has left.
        """
        now = time.monotonic_ns()
        self._runs += 1
        if task == self._last_task and now - self._read_at < _READ_AGAIN_NS:
            return None
        self._last_task, self._read_at = task, now
        before = self._resident.read()
        runs, self._runs = self._runs, 0
        self._note(task, before)
        if before <= self.ceiling:
            ended = self._floor.note(before, runs)
            why = self._floor.should_recycle(self.ceiling) if ended else ""
            return Verdict(why, self._culprit()) if why else None
        self._collect()
        release_free_memory()
        after = self._resident.read()
        self._note(task, after)
        if after <= self.ceiling:
            return None
        named = self._culprit()
        grown = max(0, self._grown.get(named, 0))
        return Verdict(
            f"max_memory_per_child: {format_size(after)} ({format_size(before)} before a collection), its ceiling is "
            f"{format_size(self.ceiling)}; it has grown by {format_size(grown)} during {named}",
            named,
        )

    def _note(self, task: str, rss: int) -> None:
        if rss != self._rss:
            self._grown[task] = self._grown.get(task, 0) + rss - self._rss
            self._rss = rss

    def _culprit(self) -> str:
        keeper = self._live.culprit() if self._live is not None else ""
        return keeper or max(self._grown, key=lambda name: self._grown[name], default=self._last_task)
