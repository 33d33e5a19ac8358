"""``SqliteBroker``: each call of the contract is one transaction, and what is told to others after it.

    producer        enqueue ──▶ place ──────────┐                         ┌──▶ datagram to an idle child, a steward
    ---------------------------------- one transaction of the store ──────┼──────────────────────────────────────
    child           submit ──▶ end, reserve ────┤   then, committed:      └──▶ datagram to those who wait for a result
    ---------------------------------------------------------------
    steward         bury, recall, promote ──────┘

It must never decode an envelope, and never send before the commit: the receiver would look and find nothing.
"""

from __future__ import annotations

import os
import sqlite3
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlencode

from poolrt.brokers.base import Buried, Doorbell, Settled
from poolrt.brokers.sqlite import choosing, ending, gates, holding, leaks, placing, statements, sweeping
from poolrt.brokers.sqlite import queues as single_queues
from poolrt.brokers.sqlite.failures import translated_os
from poolrt.brokers.sqlite.placing import News
from poolrt.brokers.sqlite.producers import Producers
from poolrt.brokers.sqlite.store import SYNCHRONOUS, Store
from poolrt.brokers.sqlite.wakes import Wakes
from poolrt.clock import Clock, SystemClock
from poolrt.errors import ConfigurationError, Fenced
from poolrt.hygiene.findings import LeakRow
from poolrt.message import Delivery, Outcome, Owner, Requeue
from poolrt.queue_choice import ALL_QUEUES, QueueChoice

SCHEME: Final = "sqlite:///"

TIMEOUT: Final = 5.0
"""Seconds a call may block unless it is told otherwise."""

DESERTED_AFTER: Final = 60.0
"""Seconds after which a waiter's socket that no row names is taken for one whose process was killed."""


class SqliteBroker(Producers):
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
        self._queues = ALL_QUEUES
        """What the owner reserves from."""
        self._registered = False
        self._answers: deque[Settled] = deque()
        """What ``submit`` did, until ``answer`` hands it out."""

    def __repr__(self) -> str:
        attached = f" as {self._owner}" if self._owner else ""
        return f"<SqliteBroker {self.path}{attached}>"

    # ---- the node

    def node_directory(self) -> Path:
        """See ``Broker``."""
        self._wakes.make()
        return Path(self._wakes.directory)

    def doorbell(self, node: str) -> Doorbell:
        """See ``Broker``. A datagram socket in the node directory; whoever had it before hears nothing any more."""
        try:
            return self._wakes.bell(node)
        except OSError as error:
            raise translated_os(error, self.path) from error

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

    def renew(self, incarnation: str) -> dict[str, int]:
        """See ``Broker``. There are no leases here: it only looks whether the start may go on, and answers nothing."""
        self._store.read(lambda db: holding.check_joined(db, incarnation))
        return {}

    def to_cancel(self, incarnation: str) -> list[tuple[Owner, Delivery]]:
        """See ``Broker``."""
        return self._store.read(lambda db: holding.to_cancel(db, incarnation))

    def recall(self, owner: Owner, after: tuple[int, int], upto: int) -> int:
        """See ``Broker``."""

        def work(db: sqlite3.Connection, news: News) -> int:
            recalled = holding.recall(db, owner, after, upto)
            news.queued = news.gated = recalled > 0
            return recalled

        return self._tell(work)

    def running(self, owner: Owner, n: int, i: int) -> Delivery | None:
        """See ``Broker``."""
        return self._store.read(lambda db: holding.running(db, owner, n, i))

    def bury(self, owner: Owner, verdict: Outcome | Requeue | None) -> Buried:
        """See ``Broker``."""
        return self._tell(lambda db, news: ending.bury(db, owner, verdict, self._clock.wall(), news))

    def rescue(
        self, incarnation: str, verdicts: Iterable[Outcome | Requeue], *, suspect: bool, beat: int | None = None
    ) -> Buried:
        """See ``Broker``. ``beat`` is ignored: there are no leases here, and only a node whose lock is free is rescued
        (protocol.md, rule 19)."""
        told = list(verdicts)
        return self._tell(
            lambda db, news: ending.rescue(db, incarnation, told, self._clock.wall(), news, suspect=suspect)
        )

    def promote(self) -> float | None:
        """See ``Broker``."""

        def look(db: sqlite3.Connection) -> tuple[float | None, gates.Look]:
            eta, behind = db.execute(statements.NEXT).fetchone()
            return eta, gates.look(db, self._clock.wall()) if behind else gates.NOTHING

        def work(db: sqlite3.Connection, news: News) -> tuple[float | None, gates.Look]:
            now = self._clock.wall()
            gates.mend(db, now)
            placing.promote(db, now, news)
            found = look(db)
            news.queued = news.queued or found[1].open
            return found

        eta, behind = self._store.read(look)
        if behind.jumped or (eta is not None and eta <= self._clock.wall()):
            eta, behind = self._tell(work)
        elif behind.open:
            self._wakes.send(children=True)
        times = [time for time in (eta, behind.opens) if time is not None]
        return max(0.0, min(times) - self._clock.wall()) if times else None

    def purge(self, limit: int = 1000) -> int:
        """See ``Broker``. Also forgets starts of nodes long gone, keys, gates and progress that nobody needs, and the
        sockets of waiters that were killed."""

        def work(db: sqlite3.Connection) -> int:
            db.execute(statements.FORGET_GONE)
            return db.execute(statements.PURGE, (self._clock.wall(), limit)).rowcount

        purged = self._store.write(work)
        sweeping.sweep(self._store, self._clock.wall(), limit)
        waiting = self._store.read(lambda db: {row[0] for row in db.execute(statements.WAITING_SOCKETS)})
        self._wakes.remove_deserted(waiting, DESERTED_AFTER)
        return purged

    def nudge(self) -> None:
        """See ``Broker``. Also tells those whose task ended while its settler died before it could tell them."""

        def look(db: sqlite3.Connection) -> tuple[bool, bool]:
            waiting = single_queues.any_waiting(db, self._clock.wall())
            return waiting, db.execute(statements.ANSWERED_WAITER).fetchone() is not None

        queued, answered = self._store.read(look)
        sockets: list[str] = []
        if answered:
            sockets = self._store.write(lambda db: [row[0] for row in db.execute(statements.SWEEP_WAITERS).fetchall()])
        self._wakes.send(children=queued, waiters=sockets)

    def note_leaks(self, rows: Sequence[LeakRow], *, call: str) -> None:
        """See ``Broker``. ``call`` is ignored: after an error nothing of it was done."""
        if rows:
            self._store.write(lambda db: leaks.note(db, rows))

    # ---- children

    def attach(self, owner: Owner, queues: QueueChoice = ALL_QUEUES) -> None:
        """See ``Broker``. Only looks: the owner is written by its first settle, in that transaction, so that a child
        that is recycled soon costs one write transaction less (docs/decisions/014)."""
        self._registered = self._store.read(lambda db: holding.check_attachable(db, owner))
        if (queues.names or queues.without) and not self._store.read(single_queues.has_index):
            self._store.write(single_queues.prepare)
        self._owner = owner
        self._owner_pid = os.getpid()
        self._queues = queues
        self._answers.clear()

    def submit(self, outcomes: Sequence[Outcome], reserve: int, n: int, *, without: Collection[str] = ()) -> None:
        """See ``Broker``. It is done when this returns, or never: an error is raised here, and ``answer`` only hands
        out what was done."""
        owner = self._attached()
        news = News()

        def work(db: sqlite3.Connection) -> Settled:
            number, floor, more_to_look_at = self._heard(db, owner)
            held = holding.held_by(db, number)
            stale = ending.settle(db, held, outcomes, self._clock.wall(), news) if outcomes else 0
            count = reserve if reserve > 0 and n > floor else 0
            if self._queues == ALL_QUEUES and not more_to_look_at and not news.gated:
                deliveries = holding.reserve(db, number, n, count, without) if count else []
                if deliveries is not None:
                    more = holding.any_queued(db)
                    news.queued = news.queued and more  # else it has just reserved its own follow-ups
                    return Settled(deliveries, stale, more)
            now = self._clock.wall()
            readable = choosing.Readable(db, self._queues)
            deliveries = choosing.reserve(db, number, n, count, readable, now, news, holds=bool(held), without=without)
            self._ask_what_is_new(db, news)
            return Settled(deliveries, stale, choosing.any_readable(db, readable, now))

        try:
            self._answers.append(self._store.write(work))
        except BaseException:
            self._answers.clear()
            raise
        self._registered = True
        self._send(news)

    def answer(self) -> Settled:
        """See ``Broker``."""
        try:
            return self._answers.popleft()
        except IndexError:
            raise RuntimeError("answer() without a submit() that is not answered yet") from None

    def resume(self) -> list[tuple[int, int]]:
        """See ``Broker``. No request outlives its call here, so there is nothing to bar."""
        owner = self._attached()
        self._answers.clear()

        def look(db: sqlite3.Connection) -> list[tuple[int, int]]:
            if not self._registered and not holding.check_attachable(db, owner):
                return []
            return sorted((n, seq) for seq, n in holding.held_by(db, holding.number_of(db, owner)))

        return self._store.read(look)

    def release(self, deliveries: Sequence[Delivery]) -> int:
        """See ``Broker``."""
        owner = self._attached()

        def work(db: sqlite3.Connection, news: News) -> int:
            released = holding.release(db, self._heard(db, owner)[0], deliveries)
            news.queued = news.gated = released > 0
            return released

        return self._tell(work)

    # ---- inside

    def close(self) -> None:
        """See ``Broker``."""
        self._store.close()

    def _heard(self, db: sqlite3.Connection, owner: Owner) -> tuple[int, int, int]:
        """The attached owner, which its first transaction writes; see ``holding.heard``."""
        if not self._registered:
            holding.attach(db, owner)
        return holding.heard(db, owner)

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
