"""The calls of ``SqliteBroker`` for those who look after queues, and the transaction that all its calls share."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import TypeVar

from poolrt.brokers.base import Broker, Depth, Found, QueueDepth
from poolrt.brokers.sqlite import gates, leaks, queues, statements, uniques
from poolrt.brokers.sqlite.placing import News, place
from poolrt.brokers.sqlite.store import Store
from poolrt.brokers.sqlite.wakes import Wakes
from poolrt.clock import Clock
from poolrt.errors import ConfigurationError
from poolrt.hygiene.findings import LeakRow, LeakTable
from poolrt.message import Enqueue
from poolrt.states import TaskState

T = TypeVar("T")


class Operators(Broker):
    """The operators' part of the contract."""

    _clock: Clock
    _store: Store
    _wakes: Wakes

    def depth(self) -> Depth:
        """See ``Broker``."""

        def work(db: sqlite3.Connection) -> Depth:
            queued, delayed, reserved, dead = db.execute(statements.DEPTH).fetchone()
            since = db.execute(statements.OLDEST).fetchone()[0] if queued else None
            oldest = None if since is None else max(0.0, self._clock.wall() - since)
            return Depth(queued, delayed, reserved, dead, oldest)

        return self._store.read(work)

    def queues(self) -> list[QueueDepth]:
        """See ``Broker``. 0.1 s for a million messages, 1 s where no single queue was ever used."""
        return self._store.read(lambda db: queues.depths(db, self._clock.wall()))

    def pause(self, queue: str) -> None:
        """See ``Broker``."""
        self._store.write(lambda db: queues.pause(db, queue))

    def unpause(self, queue: str) -> None:
        """See ``Broker``."""
        self._tell(lambda db, news: queues.unpause(db, queue, news))

    def empty(self, queue: str, limit: int = 10_000) -> int:
        """See ``Broker``."""
        return self._tell(lambda db, news: queues.empty(db, queue, limit, news))

    def move(self, queue: str, to: str, limit: int = 10_000) -> int:
        """See ``Broker``. Each keeps its age, and so its place among those that wait there."""
        return self._tell(lambda db, news: queues.move(db, queue, to, limit, news))

    def peek(self, queue: str, limit: int = 100) -> list[Found]:
        """See ``Broker``."""
        return self._store.read(lambda db: queues.peek(db, queue, limit))

    def messages(self, after: str = "", limit: int = 1000) -> tuple[list[Found], str]:
        """See ``Broker``. Goes by their ids."""
        row = (self._clock.wall(), after, limit)
        rows = self._store.read(lambda db: db.execute(statements.MESSAGES, row).fetchall())
        found = [
            Found(task, statements.TASK_STATES[state], envelope, None, lost, progress)
            for task, state, lost, envelope, progress in rows
        ]
        return found, found[-1].id if 0 < limit <= len(found) else ""

    def retry(self, item: Enqueue) -> bool:
        """See ``Broker``."""

        def work(db: sqlite3.Connection, news: News) -> bool:
            now = self._clock.wall()
            if item.unique is not None and not uniques.is_free(db, item.unique.key, item.id, now):
                return False
            if not db.execute(statements.FORGET, (item.id,)).rowcount:
                return False
            db.execute(statements.FORGET, (item.last,))
            return place(db, [item], now, news)[0]

        return self._tell(work)

    def ended(self, state: TaskState, limit: int = 100) -> list[Found]:
        """See ``Broker``."""
        code = statements.RECORD_CODES.get(state)
        if code is None:
            raise ConfigurationError(f"{state!r} is not a final state")
        statement = statements.SUCCEEDED if state is TaskState.SUCCEEDED else statements.ENDED
        rows = self._store.read(lambda db: db.execute(statement, (code, limit)).fetchall())
        return [Found(task, statements.RECORD_STATES[kept], None, data, lost) for task, kept, lost, data in rows]

    def leaks(self) -> list[LeakRow]:
        """See ``Broker``."""
        return LeakTable(self._store.read(leaks.known)).rows()

    def forget_leaks(self) -> int:
        """See ``Broker``."""
        return self._store.write(lambda db: db.execute(statements.FORGET_LEAKS).rowcount)

    def _tell(self, work: Callable[[sqlite3.Connection, News], T]) -> T:
        """``work(db, news)`` in one write transaction; its news are sent once they are true."""
        news = News()

        def noted(db: sqlite3.Connection) -> T:
            result = work(db, news)
            self._ask_what_is_new(db, news)
            return result

        result = self._store.write(noted)
        self._send(news)
        return result

    def _ask_what_is_new(self, db: sqlite3.Connection, news: News) -> None:
        """At the end of a transaction: what was put into a paused queue or behind a closed gate wakes nobody."""
        if news.gated or news.freed:
            look = gates.look(db, self._clock.wall())
            news.queued = news.queued or look.open
            news.earlier = news.earlier or (news.gated and look.opens is not None)
        if news.queued:
            news.queued = queues.any_waiting(db, self._clock.wall())

    def _send(self, news: News) -> None:
        """Tell others what was committed."""
        if news.queued or news.earlier or news.sockets:
            self._wakes.send(children=news.queued, stewards=news.earlier, waiters=news.sockets)
