"""How idle children wait: many for one shared descriptor, without all waking for each event.

Facts that bite:

- With EPOLLEXCLUSIVE an event wakes one or more waiters, usually one, often the same; every waiter that looks later
  still sees the descriptor ready until someone has drained it. So whoever wakes may find nothing.
- An epoll belongs to the open file: made before a fork it is shared, and one child's registrations are everyone's.
  Make it after the fork.
- A registration ends when the last duplicate of the file is closed, in any process: unregister before closing.

Where there is no epoll (macOS), select() waits, and every waiter wakes.
"""

import select
import sys


class _SelectWait:
    """`ExclusiveWait` on select(): descriptors below 1024, no exclusiveness."""

    def __init__(self) -> None:
        self._fds: set[int] = set()

    def register_shared(self, fd: int) -> None:
        self._fds.add(fd)

    def register_own(self, fd: int) -> None:
        self._fds.add(fd)

    def unregister(self, fd: int) -> None:
        self._fds.discard(fd)

    def wait(self, timeout: float | None) -> set[int]:
        ready, _, _ = select.select(self._fds, (), (), timeout)
        return set(ready)

    def close(self) -> None:
        self._fds.clear()


if sys.platform == "linux":

    class ExclusiveWait:
        """Wait for reading on descriptors shared with sibling processes and on one's own. Made after the fork."""

        def __init__(self) -> None:
            self._epoll = select.epoll()

        def register_shared(self, fd: int) -> None:
            """Watch a descriptor that siblings watch too: of those waiting, not all are woken for an event.

            Raises:
                FileExistsError: it is registered already.
            """
            self._epoll.register(fd, select.EPOLLIN | select.EPOLLEXCLUSIVE)

        def register_own(self, fd: int) -> None:
            """Watch a descriptor of this process alone.

            Raises:
                FileExistsError: it is registered already.
            """
            self._epoll.register(fd, select.EPOLLIN)

        def unregister(self, fd: int) -> None:
            """Watch it no longer; to be called before it is closed. Nothing happens if it is not registered."""
            try:
                self._epoll.unregister(fd)
            except OSError:
                pass  # never registered, or closed already and gone with it

        def wait(self, timeout: float | None) -> set[int]:
            """The descriptors that can be read or have hung up; empty after ``timeout`` seconds (None: no limit).

            Goes on waiting after a signal handler has run; the timeout is kept to the millisecond.
            """
            return {fd for fd, _ in self._epoll.poll(timeout)}

        def close(self) -> None:
            """Forget all registrations; safe to call twice."""
            self._epoll.close()

else:
    ExclusiveWait = _SelectWait
