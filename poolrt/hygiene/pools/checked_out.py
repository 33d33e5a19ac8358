"""What is out of which pool now, told by the libraries as it happens.

A library is followed once the app has imported it: in the template, since to follow SQLAlchemy and redis-py takes 2 ms,
and from the child on if that imports it later. What is out when a child begins, by a start hook for instance, is
nobody's fault and forgotten.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import weakref
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, Final

from poolrt.hygiene.pools import method_pools, opened, sqlalchemy_pools

if TYPE_CHECKING:
    from types import FrameType

    from poolrt.hygiene.pools.taken import Taken

log = logging.getLogger("poolrt.hygiene")

_LIBRARIES: Final = {
    "sqlalchemy.pool": sqlalchemy_pools.follow_pools,
    "sqlalchemy.orm": sqlalchemy_pools.follow_sessions,
    "redis.client": method_pools.follow_redis,
    "psycopg_pool": method_pools.follow_psycopg,
    "psycopg": opened.follow_psycopg,
    "psycopg2": opened.follow_psycopg2,
}
"""By the module whose import means that the app may use the library."""
_LIBRARY_FRAMES: Final = frozenset(("contextlib", "functools", "greenlet", "psycopg_pool", "redis", "sqlalchemy"))
"""Packages whose frames do not say where the app took a connection."""
_MOST_FRAMES: Final = 8


class CheckedOut:
    """What is out now, of this process's pools.

    Attributes:
        now: by a key of the library's choice.
        traces: whether to remember where a connection is taken, for 5 us each; on from the first suspicion.
        pooled: connections of pools; those in their pool now are the pool's to look after.
        opened: is called with each connection that psycopg or psycopg2 opens.
    """

    def __init__(self) -> None:
        self.now: dict[Hashable, Taken] = {}
        self.traces = False
        self.pooled: weakref.WeakSet[Any] = weakref.WeakSet()
        self.opened: Callable[[Any], object] = lambda _: None
        self._awaited = dict(_LIBRARIES)
        self._undo: list[Callable[[], object]] = []
        self.follow()

    def begin(self) -> None:
        """In a child that is ready for its first task: what is out now is nobody's."""
        self.follow()
        self.now.clear()

    def follow(self) -> bool:
        """Follow the libraries that were imported since; whether there are any. 0.3 us."""
        new = [module for module in self._awaited if module in sys.modules]
        for module in new:
            try:
                self._awaited.pop(module)(self)
            except Exception as error:  # noqa: BLE001  a version unlike those that were tested must not end the child
                log.warning("the connections of %s are not watched: %s: %s", module, type(error).__name__, error)
        return bool(new)

    def on_close(self, undo: Callable[[], object]) -> None:
        """What a library's part does to stop following."""
        self._undo.append(undo)

    def close(self) -> None:
        """Follow no library any more."""
        while self._undo:
            self._undo.pop()()

    def take(self, key: Hashable, taken: Taken) -> None:
        """A pool has given this out."""
        if self.traces:
            taken.stack = _callers()
        before = self.now.get(key)
        if before is not None and before.driver() is None:
            self.now[object()] = before  # it was dropped, and its number given to this one
        self.now[key] = taken

    def of_pool(self, connection: Any) -> None:
        """A pool has this connection of a driver's."""
        with contextlib.suppress(TypeError):  # sqlite3's know no weak references
            self.pooled.add(connection)

    def off_pool(self, connection: Any) -> None:
        """It is the app's own from now on."""
        with contextlib.suppress(TypeError):
            self.pooled.discard(connection)
            self.opened(connection)

    def give_back(self, key: Hashable) -> None:
        """It is back, or no pool's any more."""
        self.now.pop(key, None)

    def still_out(self) -> dict[Hashable, Taken]:
        """What is out now, less what has gone with its pool; a copy, since other threads take and give back."""
        for key, taken in list(self.now.items()):
            if taken.is_gone():
                self.give_back(key)
        return dict(self.now)


def _callers() -> str:
    """Where the app asked for it: ``file:line in function`` of the app's frames, the innermost first."""
    lines: list[str] = []
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and len(lines) < _MOST_FRAMES:
        package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if package == "poolrt" and lines:
            break  # its executor, below the task
        if package != "poolrt" and package not in _LIBRARY_FRAMES:
            lines.append(f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_qualname}")
        frame = frame.f_back
    return "\n".join(lines)
