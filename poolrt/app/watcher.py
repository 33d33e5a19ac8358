"""Waiting for the end of many tasks: one thread and one socket for all that this process waits for at one broker.

    watch(id, tell) ──bell──▶ the thread ──add, drop──▶ Broker.watch() ──poll──▶ ended ──▶ tell(Found), in the thread
    forget(id, tell)

Nobody who asks waits for the broker, so an event loop may ask. The thread ends soon after the last task that anybody
waited for; nothing of it is left then.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from poolrt.brokers.base import Broker, Found
    from poolrt.brokers.watching import Watch

LINGER: Final = 0.25
"""Seconds that the thread stays when nobody waits for anything: who awaits one task mostly awaits another one then."""


class Watcher:
    """The thread of one broker, when there is anything to wait for.

    Invariant: ``_lock`` is never held while the broker is asked.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._lock = threading.Lock()
        self._waiting: dict[str, list[Callable[[Found | Exception | None], object]]] = {}
        self._changed = False
        """Whether the thread has been rung for, to look at ``_waiting``."""
        self._bell: tuple[int, int] | None = None
        """A pipe, while the thread runs."""

    def watch(self, task_id: str, tell: Callable[[Found | Exception | None], object]) -> None:
        """Have the thread call ``tell`` once the task has ended, or with what keeps it from knowing."""
        with self._lock:
            self._waiting.setdefault(task_id, []).append(tell)
            self._ring()

    def forget(self, task_id: str, tell: Callable[[Found | Exception | None], object]) -> None:
        """The same ``tell`` is not called any more, unless that happens just now; it may have been called."""
        with self._lock:
            tells = self._waiting.get(task_id, [])
            if tell in tells:
                tells.remove(tell)
                if not tells:
                    del self._waiting[task_id]
                    self._ring()

    def _ring(self) -> None:
        if self._bell is None:
            self._bell = os.pipe()
            threading.Thread(target=self._run, args=self._bell, name="poolrt-results", daemon=True).start()
        elif not self._changed:
            os.write(self._bell[1], b".")
        self._changed = True

    # ---- the thread

    def _run(self, bell: int, ringer: int) -> None:
        failure: Exception | None = None
        try:
            with contextlib.closing(self._broker.watch()) as watch:
                self._serve(watch, bell)
        except Exception as error:  # noqa: BLE001  whatever it is, those who wait must not wait for ever
            failure = error
        with self._lock:
            waiting, self._waiting = self._waiting, {}
            os.close(bell)
            os.close(ringer)
            self._bell, self._changed = None, False
            if failure is None and waiting:  # somebody came while it closed the watch
                self._waiting = waiting
                self._ring()
        for tell in (tell for tells in waiting.values() for tell in tells if failure is not None):
            tell(failure)

    def _serve(self, watch: Watch, bell: int) -> None:
        """Until nobody has waited for anything for a while."""
        watched: set[str] = set()
        idle_since = 0.0
        while True:
            wanted = self._wanted(bell)
            if wanted is not None:
                if gone := watched - wanted:
                    watch.drop(list(gone))
                if new := wanted - watched:
                    watch.add(list(new))
                watched = wanted
            for task_id, found in watch.ended():
                watched.discard(task_id)
                with self._lock:
                    tells = self._waiting.pop(task_id, [])
                for tell in tells:
                    tell(found)
            left = watch.patience()
            if watched:
                idle_since = 0.0
            else:
                idle_since = idle_since or time.monotonic()
                left = LINGER - (time.monotonic() - idle_since)
                if left <= 0:
                    return
            poll = select.poll()
            poll.register(bell, select.POLLIN)
            if (told := watch.fileno()) >= 0:
                poll.register(told, select.POLLIN)
            poll.poll(None if left is None else left * 1000 + 1)

    def _wanted(self, bell: int) -> set[str] | None:
        """What is waited for, if that has changed."""
        with self._lock:
            if not self._changed:
                return None
            self._changed = False
            if select.select([bell], [], [], 0)[0]:
                os.read(bell, 16)
            return set(self._waiting)


_watchers: WeakKeyDictionary[Broker, Watcher] = WeakKeyDictionary()
_making = threading.Lock()


def watcher_of(broker: Broker) -> Watcher:
    """This process's Watcher of a broker."""
    with _making:
        found = _watchers.get(broker)
        if found is None:
            found = _watchers[broker] = Watcher(broker)
        return found


def _begin_anew() -> None:
    """A forked child has none of its parent's threads."""
    global _making  # noqa: PLW0603  the parent's may be held by a thread that does not exist here
    _watchers.clear()
    _making = threading.Lock()


os.register_at_fork(after_in_child=_begin_anew)
