"""Where one run allocated what it kept: tracemalloc, for that run alone.

Always on it makes allocations two to four times as slow; so it is for some runs of a task that keeps memory.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from poolrt.units import format_size

if TYPE_CHECKING:
    import tracemalloc

_SITES: Final = 3
_FRAMES: Final = 4
"""Deep enough to leave a library's own lines behind, in most cases."""
_WORTH_A_LINE: Final = 1024
_OURS: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


class AllocationTrace:
    """Traces from `start` to `stop`. Nothing is traced, and "" returned, if the application traces already.

    Attributes:
        kept: bytes in the places that `stop` returned.
    """

    __slots__ = ("_ours", "kept")

    def __init__(self) -> None:
        self._ours = False
        self.kept = 0

    def start(self) -> None:
        """Trace from now on."""
        import tracemalloc

        if not tracemalloc.is_tracing():
            tracemalloc.start(_FRAMES)
            self._ours = True

    def stop(self) -> str:
        """The three places that allocated most of what is still there, largest first.

        Each is a line: ``file:line < its caller's file:line: size in so many blocks``. Milliseconds for thousands of
        blocks. Garbage is to be collected before. Safe to call twice.
        """
        if not self._ours:
            return ""
        import tracemalloc

        self._ours = False
        try:
            snapshot = tracemalloc.take_snapshot()
        finally:
            tracemalloc.stop()
        largest = (site for site in snapshot.statistics("traceback") if site.size >= _WORTH_A_LINE)
        places = [(site, frames) for site in largest if (frames := _frames(site))][:_SITES]
        self.kept = sum(site.size for site, _ in places)
        return "\n".join(f"{' < '.join(frames)}: {_size(site)}" for site, frames in places)


def _frames(site: tracemalloc.Statistic) -> list[str]:
    """The innermost first, up to the first of poolrt, which called the task; none for what poolrt itself allocated."""
    frames = []
    for frame in reversed(site.traceback):
        if frame.filename.startswith(_OURS):
            break
        frames.append(f"{frame.filename}:{frame.lineno}")
    return frames


def _size(site: tracemalloc.Statistic) -> str:
    return f"{format_size(site.size)} in {site.count} block{'s' if site.count > 1 else ''}"
