"""Database connections that the app opened by itself, of no pool.

psycopg and psycopg2 tell of each as it is opened (poolrt.hygiene.pools.opened). Others are looked for: the garbage
collector knows every object that was made since the fork, 30 ns each. It is asked once the process has more descriptors
than before, some looks later, and less often when that keeps finding nothing; and when the child leaves.
"""

from __future__ import annotations

import functools
import gc
import inspect
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from poolrt.hygiene.pools import drivers
from poolrt.hygiene.pools.taken import Taken
from poolrt.posix.descriptors import lowest_free

if TYPE_CHECKING:
    from poolrt.hygiene.pools.checked_out import CheckedOut

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
    """A session that no pool gave out; who uses it is not known, but the thread that opened it may be: else 0."""

    def __init__(self, connection: Any, thread: int) -> None:  # one is made of each at every look: no super() call
        self.thread = thread
        self.stack = ""
        self._connection = connection

    def what(self) -> str:
        """As the driver tells."""
        return drivers.where(self._connection) or type(self._connection).__module__

    def driver(self) -> object:
        """Itself."""
        return self._connection

    def is_ours(self) -> bool:
        """Where there is no other thread."""
        return threading.active_count() == 1

    def roll_back(self) -> bool:
        """Unless another thread, or an event loop, may be using it."""
        if not self.is_ours() or inspect.iscoroutinefunction(self._connection.rollback):
            return False
        self._connection.rollback()
        return True


class Unpooled:
    """Sessions that were opened or found so far and are still there; it keeps none of them alive.

    Args:
        out: tells what psycopg and psycopg2 open, and what is a pool's.
    """

    def __init__(self, out: CheckedOut) -> None:
        self._out = out
        self._lowest = lowest_free()
        self._due_in = 0
        self._wait = _SEARCH_AFTER
        self._known: dict[int, tuple[Callable[[], Any], int]] = {}
        """How to get at each and the thread that opened it, by a number that is its own while it lives."""
        self._find()
        out.opened = self._opened

    @property
    def knows_any(self) -> bool:
        """Whether any is known."""
        return bool(self._known)

    def stirs(self) -> bool:
        """Whether any known one is in a transaction. 0.1 us, and 0.2 us for each."""
        if not self._known:
            return False
        return any(drivers.is_in_transaction(weak()) for weak, _ in list(self._known.values()))

    def search(self, *, now: bool = False) -> set[int] | None:
        """Search now, or some looks after there may be new ones; the numbers of these. None without a search. 1 us."""
        lowest = lowest_free()
        if self._due_in:
            self._due_in -= 1
            now = now or not self._due_in
        elif lowest > self._lowest:
            self._due_in = self._wait
        self._lowest = lowest
        if not now:
            return None
        self._due_in = 0
        new = self._find()
        self._wait = _SEARCH_AFTER if new else min(_MOST_IN_VAIN, 2 * self._wait)
        return new

    @property
    def may_be_more(self) -> bool:
        """Whether there may be some that no search has met yet."""
        return self._due_in > 0 or lowest_free() > self._lowest

    def sessions(self) -> Iterator[tuple[int, TakenByApp]]:
        """Each by its number."""
        for number, (weak, thread) in list(self._known.items()):
            connection = weak()
            if connection is None or self._is_pooled(connection):
                self._known.pop(number, None)
            else:
                yield number, TakenByApp(connection, thread)

    def _opened(self, connection: Any) -> None:
        number = id(connection)
        weak = weakref.ref(connection, lambda _: self._known.pop(number, None))
        self._known[number] = weak, threading.get_ident()

    def _find(self) -> set[int]:
        modules = [(sys.modules[module], names) for module, names in _DRIVERS.items() if module in sys.modules]
        kinds = tuple(kind for module, names in modules for name in names if (kind := getattr(module, name, None)))
        found = [thing for thing in gc.get_objects() if isinstance(thing, kinds)] if kinds else []
        known = {number for number, (weak, _) in list(self._known.items()) if weak() is not None}
        new = {id(thing): thing for thing in found if id(thing) not in known and not self._is_pooled(thing)}
        self._known |= {number: (_weakly(thing), 0) for number, thing in new.items()}
        return set(new)

    def _is_pooled(self, connection: Any) -> bool:
        return connection in self._out.pooled


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
