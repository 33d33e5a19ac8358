"""Every store of the process is closed before a fork and opened again by whoever calls it next; closed also at exit.

    before            take each store's lock, close its connection
    after in parent   release the locks
    after in child    new locks: the old ones' waiters do not exist here

The hooks are those of ``os.fork``; ``subprocess`` does not run them, since what it starts is another program.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import weakref
from typing import Final, Protocol

from poolrt.errors import BrokerError


class Forkable(Protocol):
    """What a store does around a fork."""

    def before_fork(self) -> bool:
        """Get ready; False if that is impossible now."""

    def after_fork_in_parent(self) -> None:
        """Go on."""

    def after_fork_in_child(self, *, clean: bool) -> None:
        """Start anew."""

    def close_at_exit(self) -> None:
        """The program ends."""


_watched: Final[weakref.WeakSet[Forkable]] = weakref.WeakSet()
_registry = threading.Lock()
"""Held from before a fork until after it, so that two threads do not fork at once with the stores half closed."""
_forking: list[tuple[Forkable, bool]] = []
_hooked = False


def watch(store: Forkable) -> None:
    """Have the store closed around each fork, for as long as it exists."""
    global _hooked  # noqa: PLW0603  the hooks cannot be taken back, so they are set once, by the first store
    with _registry:
        _watched.add(store)
        if not _hooked:
            os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
            atexit.register(_at_exit)
            _hooked = True


def _at_exit() -> None:
    """A program ends without a warning of an open database, and the last one to close tidies the file up."""
    for store in list(_watched):
        with contextlib.suppress(BrokerError):  # another thread is in the middle of a call: its commit stands anyway
            store.close_at_exit()


def _before() -> None:
    _registry.acquire()
    _forking.extend((store, store.before_fork()) for store in list(_watched))


def _after_in_parent() -> None:
    for store, clean in _forking:
        if clean:
            store.after_fork_in_parent()
    _forking.clear()
    _registry.release()


def _after_in_child() -> None:
    global _registry  # noqa: PLW0603  see above
    _registry = threading.Lock()
    for store, clean in _forking:
        store.after_fork_in_child(clean=clean)
    _forking.clear()
