"""The calls of ``SqliteBroker`` for those who enqueue, and who wait for, look at and cancel what they enqueued."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Sequence

from poolrt.brokers.base import Found
from poolrt.brokers.sqlite import ahead, ending, group_statements, holding, placing, statements, uniques
from poolrt.brokers.sqlite import groups as counted
from poolrt.brokers.sqlite.operators import Operators
from poolrt.brokers.sqlite.placing import News
from poolrt.brokers.sqlite.wakes import bell_name
from poolrt.brokers.sqlite.watching import SqliteWatch
from poolrt.message import Delivery, Enqueue, NewGroup, Outcome


class Producers(Operators):
    """The producers' part of the contract."""

    def enqueue(self, items: Sequence[Enqueue], groups: Sequence[NewGroup] = ()) -> list[bool]:
        """See ``Broker``."""

        def work(db: sqlite3.Connection, news: News) -> list[bool]:
            now = self._clock.wall()
            if groups:
                counted.make(db, groups, now)
            return placing.place(db, items, now, news)

        return self._tell(work)

    def unique_holder(self, key: str) -> str | None:
        """See ``Broker``."""
        return self._store.read(lambda db: uniques.holder(db, key, self._clock.wall()))

    def note_progress(self, task_id: str, progress: bytes, ttl: float) -> None:
        """See ``Broker``. Of a task that has ended nothing is kept."""
        row = (task_id, self._clock.wall() + ttl, progress, task_id)
        self._store.write(lambda db: db.execute(statements.NOTE_PROGRESS, row).rowcount)

    def records(self, ids: Sequence[str]) -> list[bytes | None]:
        """See ``Broker``."""
        sought = json.dumps(list(ids))
        found = dict(self._store.read(lambda db: db.execute(group_statements.RECORDS, (sought,)).fetchall()))
        return [found.get(task_id) for task_id in ids]

    def end_ahead(self, records: Sequence[tuple[str, bytes]], ttl: float) -> list[bool]:
        """See ``Broker``."""
        return self._tell(lambda db, news: ahead.keep(db, records, self._clock.wall() + ttl, news.sockets))

    def fail_group(self, group: str, failure: bytes) -> bool:
        """See ``Broker``."""
        return self._tell(lambda db, news: counted.fail(db, group, failure, self._clock.wall(), news))

    def find(self, task_id: str) -> Found | None:
        """See ``Broker``."""
        now = self._clock.wall()
        ids = (now, task_id, task_id, task_id, now)
        row = self._store.read(lambda db: db.execute(statements.FIND, ids).fetchone())
        if row is None:
            return None
        code, lost, envelope, record, progress = row
        state = statements.RECORD_STATES[code] if record is not None else statements.TASK_STATES[code]
        return Found(task_id, state, envelope, record, lost, progress)

    def wait(self, task_id: str, timeout: float | None) -> Found | None:
        """See ``Broker``. Returns None at once when there is neither message nor record of the id: it is unknown, or
        its task ended and keeps no result."""
        deadline = None if timeout is None else time.monotonic() + timeout
        found = self.find(task_id)
        if found is None or found.record is not None:
            return found
        with self._wakes.listening() as (name, sock):
            self._store.write(lambda db: db.execute(statements.WAIT_FOR, (task_id, name)).rowcount)
            while True:
                # Looked at after the row is there: whoever ends the task from now on sees the row.
                found = self.find(task_id)
                if found is None or found.record is not None:
                    return found  # the steward's next tick removes the row
                left = None if deadline is None else deadline - time.monotonic()
                if left is None or left > 0:
                    sock.settimeout(left)
                    try:
                        sock.recv(16)
                        continue
                    except TimeoutError:
                        pass
                self._store.write(lambda db: db.execute(statements.STOP_WAITING, (task_id, name)).rowcount)
                return None

    def watch(self) -> SqliteWatch:
        """See ``Broker``."""
        return SqliteWatch(self._store, self._wakes, self.find)

    def cancel(self, task_id: str, outcome_of: Callable[[Delivery], Outcome]) -> bool:
        """See ``Broker``."""
        return self._tell(lambda db, news: ending.cancel(db, task_id, outcome_of, self._clock.wall(), news))

    def cancel_held(self, task_id: str) -> bool:
        """See ``Broker``."""

        def work(db: sqlite3.Connection, news: News) -> bool:
            node = holding.leave_word(db, task_id)
            if node is not None:
                news.sockets.append(bell_name(node))
            return node is not None

        return self._tell(work)

    def forget(self, task_id: str) -> bool:
        """See ``Broker``."""
        return self._store.write(lambda db: db.execute(statements.FORGET, (task_id,)).rowcount) > 0
