"""The one place where the supervisor waits: fds and what to call when one is readable."""

from __future__ import annotations

import selectors
from collections.abc import Callable


class Watcher:
    """An fd has one handler. A handler may unwatch any fd, its own included."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()

    def fileno(self) -> int:
        """An fd that is readable when a watched one is (Linux: the epoll itself)."""
        fileno: Callable[[], int] = getattr(self._selector, "fileno", lambda: -1)
        return fileno()

    def watch(self, fd: int, handler: Callable[[], None]) -> None:
        """Call ``handler`` whenever ``fd`` is readable or has hung up."""
        self._selector.register(fd, selectors.EVENT_READ, handler)

    def unwatch(self, fd: int) -> None:
        """Forget ``fd``; nothing happens if it is not watched. To be called before it is closed."""
        try:
            self._selector.unregister(fd)
        except (KeyError, ValueError):
            return  # not watched, or closed already

    def wait(self, timeout: float) -> None:
        """Wait at most ``timeout`` seconds and call the handlers of what is ready."""
        for key, _ in self._selector.select(timeout):
            if key.fd in self._selector.get_map():  # an earlier handler of this round may have unwatched it
                key.data()

    def close(self) -> None:
        """Forget everything."""
        self._selector.close()
