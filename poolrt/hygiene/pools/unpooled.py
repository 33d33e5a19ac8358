"""Database connections that the app opened by itself: no pool tells of them, so they are looked for.

The garbage collector knows every object that was made since the fork: 30 ns each. It is asked once the process has more
descriptors than before, some looks later, and less often when that keeps finding nothing.
"""

from __future__ import annotations

import functools
import gc
import inspect
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Final

from poolrt.hygiene.pools import drivers
from poolrt.hygiene.pools.taken import Taken
from poolrt.posix.descriptors import lowest_free

_DRIVERS: Final = {
    "sqlite3": ("Connection",),
    "psycopg2.extensions": ("connection",),
    "psycopg": ("Connection", "AsyncConnection"),
}
_Cache: Final = type(functools.lru_cache(lambda: None))
_SEARCH_AFTER: Final = 16
"""Looks that a search waits for: it takes a millisecond, mostly for nothing, for a pool's connection or a file."""
_MOST_IN_VAIN: Final = 256
"""As many at most, where earlier searches found nothing."""


class TakenByApp(Taken):
    """A session that no pool gave out; who uses it is not known."""

    def __init__(self, connection: Any) -> None:  # one is made of each at every look: no super() call
        self.thread = 0
        self.stack = ""
        self._connection = connection

    def what(self) -> str:
        """As the driver tells."""
        return drivers.where(self._connection) or type(self._connection).__module__

    def driver(self) -> object:
        """Itself."""
        return self._connection

    def roll_back(self) -> bool:
        """Unless another thread, or an event loop, may be using it."""
        if threading.active_count() > 1 or inspect.iscoroutinefunction(self._connection.rollback):
            return False
        self._connection.rollback()
        return True


class Unpooled:
    """Sessions that were found so far and are still there; it keeps none of them alive."""

    def __init__(self) -> None:
        self._lowest = lowest_free()
        self._due_in = 0
        self._wait = _SEARCH_AFTER
        self.has_searched = False
        """Whether the last look was a slow one."""
        self._known: dict[int, Callable[[], Any]] = {}
        self._find()

    def look(self) -> bool:
        """Look for new ones some looks after there may be any; whether any are known. 1 us."""
        lowest = lowest_free()
        self.has_searched = False
        if self._due_in:
            self._due_in -= 1
            if not self._due_in:
                self.has_searched = True
                self._wait = _SEARCH_AFTER if self._find() else min(_MOST_IN_VAIN, 2 * self._wait)
        elif lowest > self._lowest:
            self._due_in = self._wait
        self._lowest = lowest
        return bool(self._known)

    def sessions(self) -> Iterator[tuple[int, TakenByApp]]:
        """Each by a number that is its own while it lives."""
        for number, weak in list(self._known.items()):
            connection = weak()
            if connection is None:
                del self._known[number]
            else:
                yield number, TakenByApp(connection)

    def _find(self) -> bool:
        """Whether there is a new one."""
        modules = [(sys.modules[module], names) for module, names in _DRIVERS.items() if module in sys.modules]
        kinds = tuple(kind for module, names in modules for name in names if (kind := getattr(module, name, None)))
        found = [thing for thing in gc.get_objects() if isinstance(thing, kinds)] if kinds else []
        before, self._known = self._known, {id(connection): _weakly(connection) for connection in found}
        return not self._known.keys() <= before.keys()


def _weakly(connection: Any) -> Callable[[], Any]:
    """A weak reference. sqlite3's connections know none, but each has a cache of statements that refers back to it."""
    try:
        return weakref.ref(connection)
    except TypeError:
        caches = [part for part in gc.get_referents(connection) if isinstance(part, _Cache)]
    if not caches:
        return lambda: None
    cache = weakref.ref(caches[0])
    kind = type(connection)
    return lambda: next((each for each in gc.get_referents(cache()) if isinstance(each, kind)), None)
