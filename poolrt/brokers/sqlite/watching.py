"""Waits for many tasks on one datagram socket: a row for each, and one look for all after each datagram.

    add ──▶ waiter(id, <random>.wait), …          settle, bury, cancel ──▶ <random>.wait ──▶ ended: which are gone?

A datagram does not say which task has ended; several that come together cost one look.
"""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Final

from poolrt.brokers.sqlite import statements

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from poolrt.brokers.base import Found
    from poolrt.brokers.sqlite.store import Store
    from poolrt.brokers.sqlite.wakes import Wakes

_WAIT_FOR: Final = "insert or ignore into waiter (id, socket) values (?, ?)"
"""The row of an earlier end of this id may still be there: see ``ended``."""
_GONE: Final = """
select value from json_each(?) where not exists (select 1 from task where task.id = value)
and not exists (select 1 from planned where planned.id = value)"""
"""Which of these ids have no message, and get none."""
_STOP_ALL: Final = "delete from waiter where socket = ?"


class SqliteWatch:
    """See ``Watch``. It has its socket from its beginning to ``close``.

    Args:
        store: where the messages are.
        wakes: makes the socket.
        find: the broker's.
    """

    def __init__(self, store: Store, wakes: Wakes, find: Callable[[str], Found | None]) -> None:
        self._store = store
        self._find = find
        self._open = contextlib.ExitStack()
        self._name, self._sock = self._open.enter_context(wakes.listening())
        self._sock.setblocking(False)
        self._ids: set[str] = set()
        self._looks = False
        """Whether there are new ones, which may have ended before anybody was to tell."""

    def add(self, task_ids: Sequence[str]) -> None:
        """See ``Watch``."""
        rows = [(task_id, self._name) for task_id in task_ids]
        self._store.write(lambda db: db.executemany(_WAIT_FOR, rows).rowcount)
        self._ids.update(task_ids)
        self._looks = True

    def drop(self, task_ids: Sequence[str]) -> None:
        """See ``Watch``."""
        self._ids.difference_update(task_ids)
        rows = [(task_id, self._name) for task_id in task_ids]
        self._store.write(lambda db: db.executemany(statements.STOP_WAITING, rows).rowcount)

    def ended(self) -> list[tuple[str, Found | None]]:
        """See ``Watch``. The rows of those that have ended are removed by the steward's next tick, or by ``close``."""
        told = self._looks
        with contextlib.suppress(BlockingIOError):
            while self._sock.recv(16):
                told = True
        if not told or not self._ids:
            return []
        ids = json.dumps(list(self._ids))
        gone = self._store.read(lambda db: [row[0] for row in db.execute(_GONE, (ids,))])
        ended = [(task_id, self._find(task_id)) for task_id in gone]
        ended = [(task_id, found) for task_id, found in ended if found is None or found.record is not None]
        self._looks = len(ended) < len(gone)  # one was retried by hand just now
        self._ids.difference_update(task_id for task_id, _ in ended)
        return ended

    def fileno(self) -> int:
        """See ``Watch``."""
        return self._sock.fileno()

    def patience(self) -> float | None:
        """See ``Watch``. A datagram that was lost with its sender is sent again by the steward's tick."""
        return 0 if self._looks else None

    def close(self) -> None:
        """See ``Watch``."""
        with self._open:
            self._store.write(lambda db: db.execute(_STOP_ALL, (self._name,)).rowcount)
