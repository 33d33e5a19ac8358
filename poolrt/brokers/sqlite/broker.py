"""``SqliteBroker``: each call of the contract is one transaction, and what is told to others after it.

    producer        enqueue ──▶ place ──────────┐                         ┌──▶ datagram to an idle child, a steward
    ---------------------------------- one transaction of the store ──────┼──────────────────────────────────────
    child           settle ──▶ end, reserve ────┤   then, committed:      └──▶ datagram to those who wait for a result
    ---------------------------------------------------------------
    steward         bury, rescue, promote ──────┘

It must never decode an envelope, and never send before the commit: the receiver would look and find nothing.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Final, Literal, TypeVar
from urllib.parse import urlencode

from poolrt.brokers.base import Broker, Buried, Depth, Found, Settled
from poolrt.brokers.sqlite import ending, holding, placing, statements
from poolrt.brokers.sqlite.placing import News
from poolrt.brokers.sqlite.store import SYNCHRONOUS, Store
from poolrt.brokers.sqlite.wakes import Wakes
from poolrt.clock import Clock, SystemClock
from poolrt.errors import ConfigurationError, Fenced
from poolrt.message import Delivery, Enqueue, Outcome, Owner, Requeue
from poolrt.states import TaskState

T = TypeVar("T")

SCHEME: Final = "sqlite:///"

TIMEOUT: Final = 5.0
"""Seconds a call may block unless it is told otherwise."""

DESERTED_AFTER: Final = 60.0
"""Seconds after which a waiter's socket that no row names is taken for one whose process was killed."""


class SqliteBroker(Broker):
    """One SQLite file as broker and result store, for the processes of one machine and one user.

    Args:
        url: ``sqlite:///relative.db``, ``sqlite:////absolute.db``, or a path. Resolved at once; nothing is opened.
        timeout: the longest any call but ``wait`` may block, in seconds.
        durability: ``process``: what was committed survives every crash of a process. ``power``: also a power failure,
            at one disk flush per transaction.
        clock: whose wall time decides what is due and what has passed.
    """

    trusted = True
    """Opening refuses a file that others own or can write."""

    def __init__(
        self,
        url: str | os.PathLike[str],
        *,
        timeout: float = TIMEOUT,
        durability: Literal["process", "power"] = "process",
        clock: Clock | None = None,
    ) -> None:
        if durability not in SYNCHRONOUS:
            raise ConfigurationError(f"durability={durability!r}: write 'process' or 'power'")
        if timeout <= 0:
            raise ConfigurationError(f"timeout={timeout!r}: seconds, more than 0")
        self.path = _resolved(os.fspath(url))
        options: dict[str, str] = {} if durability == "process" else {"durability": durability}
        if timeout != TIMEOUT:
            options["timeout"] = f"{timeout:g}"
        self.url = SCHEME + self.path + ("?" + urlencode(options) if options else "")
        self._clock = clock or SystemClock()
        self._store = Store(self.path, timeout, durability)
        self._wakes = Wakes(self.path + "-nodes")
        self._owner: Owner | None = None
        self._owner_pid = 0
        self._registered = False

    def __repr__(self) -> str:
        attached = f" as {self._owner}" if self._owner else ""
        return f"<SqliteBroker {self.path}{attached}>"

    # ---- producers

    def enqueue(self, items: Sequence[Enqueue]) -> list[bool]:
        """See ``Broker``."""
        return self._tell(lambda db, news: placing.place(db, items, self._clock.wall(), news))

    def find(self, task_id: str) -> Found | None:
        """See ``Broker``."""
        row = self._store.read(lambda db: db.execute(statements.FIND, (task_id, task_id)).fetchone())
        if row is None:
            return None
        code, lost, envelope, record = row
        state = statements.RECORD_STATES[code] if record is not None else statements.TASK_STATES[code]
        return Found(task_id, state, envelope, record, lost)

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

    def cancel(self, task_id: str, outcome_of: Callable[[Delivery], Outcome]) -> bool:
        """See ``Broker``."""
        return self._tell(lambda db, news: ending.cancel(db, task_id, outcome_of, self._clock.wall(), news))

    def forget(self, task_id: str) -> bool:
        """See ``Broker``."""
        return self._store.write(lambda db: db.execute(statements.FORGET, (task_id,)).rowcount) > 0

    # ---- the node

    def node_directory(self) -> Path:
        """See ``Broker``."""
        self._wakes.make()
        return Path(self._wakes.directory)

    def join(self, incarnation: str, node: str) -> None:
        """See ``Broker``. Raises Fenced for a start that has left or was rescued: it cannot come back."""

        def work(db: sqlite3.Connection) -> None:
            db.execute(statements.JOIN, (incarnation, node))
            holding.check_joined(db, incarnation)

        self._store.write(work)

    def leave(self, incarnation: str) -> int:
        """See ``Broker``."""
        return self.rescue(incarnation, (), suspect=False).requeued

    def others(self) -> list[tuple[str, str]]:
        """See ``Broker``."""
        return self._store.read(lambda db: db.execute(statements.NODES).fetchall())

    def running(self, owner: Owner, n: int, i: int) -> Delivery | None:
        """See ``Broker``."""
        return self._store.read(lambda db: holding.running(db, owner, n, i))

    def bury(self, owner: Owner, verdict: Outcome | Requeue | None) -> Buried:
        """See ``Broker``."""
        return self._tell(lambda db, news: ending.bury(db, owner, verdict, self._clock.wall(), news))

    def rescue(self, incarnation: str, verdicts: Iterable[Outcome | Requeue], *, suspect: bool) -> Buried:
        """See ``Broker``."""
        told = list(verdicts)
        return self._tell(
            lambda db, news: ending.rescue(db, incarnation, told, self._clock.wall(), news, suspect=suspect)
        )

    def promote(self) -> float | None:
        """See ``Broker``."""
        now = self._clock.wall()
        eta = self._store.read(placing.earliest_eta)
        if eta is not None and eta <= now:
            eta = self._tell(lambda db, news: placing.promote(db, now, news))
        return None if eta is None else max(0.0, eta - now)

    def purge(self, limit: int = 1000) -> int:
        """See ``Broker``. Also forgets starts of nodes long gone, and the sockets of waiters that were killed."""

        def work(db: sqlite3.Connection) -> int:
            db.execute(statements.FORGET_GONE)
            return db.execute(statements.PURGE, (self._clock.wall(), limit)).rowcount

        purged = self._store.write(work)
        waiting = self._store.read(lambda db: {row[0] for row in db.execute(statements.WAITING_SOCKETS)})
        self._wakes.remove_deserted(waiting, DESERTED_AFTER)
        return purged

    def nudge(self) -> None:
        """See ``Broker``. Also tells those whose task ended while its settler died before it could tell them."""

        def look(db: sqlite3.Connection) -> tuple[bool, bool]:
            return holding.any_queued(db), db.execute(statements.ANSWERED_WAITER).fetchone() is not None

        queued, answered = self._store.read(look)
        sockets: list[str] = []
        if answered:
            sockets = self._store.write(lambda db: [row[0] for row in db.execute(statements.SWEEP_WAITERS).fetchall()])
        self._wakes.send(children=queued, waiters=sockets)

    # ---- children

    def attach(self, owner: Owner) -> None:
        """See ``Broker``. Only looks: the owner is written by its first settle, in that transaction, so that a child
        that is recycled soon costs one write transaction less (docs/decisions/014)."""
        self._registered = self._store.read(lambda db: holding.check_attachable(db, owner))
        self._owner = owner
        self._owner_pid = os.getpid()

    def settle(self, outcomes: Sequence[Outcome], reserve: int, n: int, *, without: Collection[str] = ()) -> Settled:
        """See ``Broker``."""
        owner = self._attached()

        def work(db: sqlite3.Connection, news: News) -> Settled:
            number = self._number(db, owner)
            held = holding.held_by(db, number)
            stale = ending.settle(db, held, outcomes, self._clock.wall(), news) if outcomes else 0
            deliveries = (
                holding.reserve(db, number, n, reserve, holds=bool(held), without=without) if reserve > 0 else []
            )
            more = holding.any_queued(db)
            news.queued = news.queued and more  # else it has just reserved its own follow-ups
            return Settled(deliveries, stale, more)

        settled = self._tell(work)
        self._registered = True
        return settled

    def release(self, deliveries: Sequence[Delivery]) -> int:
        """See ``Broker``."""
        owner = self._attached()

        def work(db: sqlite3.Connection, news: News) -> int:
            released = holding.release(db, self._number(db, owner), deliveries)
            news.queued = released > 0
            return released

        return self._tell(work)

    # ---- operators

    def depth(self) -> Depth:
        """See ``Broker``."""

        def work(db: sqlite3.Connection) -> Depth:
            queued, delayed, reserved, dead = db.execute(statements.DEPTH).fetchone()
            since = db.execute(statements.OLDEST).fetchone()[0] if queued else None
            oldest = None if since is None else max(0.0, self._clock.wall() - since)
            return Depth(queued, delayed, reserved, dead, oldest)

        return self._store.read(work)

    def ended(self, state: TaskState, limit: int = 100) -> list[Found]:
        """See ``Broker``."""
        code = statements.RECORD_CODES.get(state)
        if code is None:
            raise ConfigurationError(f"{state!r} is not a final state")
        statement = statements.SUCCEEDED if state is TaskState.SUCCEEDED else statements.ENDED
        rows = self._store.read(lambda db: db.execute(statement, (code, limit)).fetchall())
        return [Found(task, statements.RECORD_STATES[kept], None, data, lost) for task, kept, lost, data in rows]

    def close(self) -> None:
        """See ``Broker``."""
        self._store.close()

    # ---- inside

    def _tell(self, work: Callable[[sqlite3.Connection, News], T]) -> T:
        """``work(db, news)`` in one write transaction; its news are sent once they are true."""
        news = News()
        result = self._store.write(lambda db: work(db, news))
        if news.queued or news.earlier or news.sockets:
            self._wakes.send(children=news.queued, stewards=news.earlier, waiters=news.sockets)
        return result

    def _number(self, db: sqlite3.Connection, owner: Owner) -> int:
        """The number of the attached owner, which its first transaction writes."""
        if not self._registered:
            holding.attach(db, owner)
        return holding.number_of(db, owner)

    def _attached(self) -> Owner:
        if self._owner is None or self._owner_pid != os.getpid():
            raise Fenced("this broker object is attached to no owner in this process")
        return self._owner


def _resolved(url: str) -> str:
    """The absolute path that ``url`` names; links are followed, since the files beside it must be the same for all."""
    path = url
    if "://" in url:
        if not url.startswith(SCHEME):
            raise ConfigurationError(f"{url!r} is no SQLite URL; write sqlite:///relative.db or sqlite:////absolute.db")
        path = url.removeprefix(SCHEME)
    if not path or path.endswith("/") or ":memory:" in path or "?" in path or "#" in path:
        raise ConfigurationError(
            f"{url!r} names no database file; write sqlite:///relative.db or sqlite:////absolute.db (a file: "
            "processes share it, so memory will not do)"
        )
    return os.path.realpath(path)
