"""SQLAlchemy's pools, by the events it has for that; those of its asyncio engines too.

    connect ──▶ a pool's    checkout ──▶ taken    checkin ──▶ given back    detach ──▶ given back, and no pool's
    begin, after_begin ──▶ whose transaction it is

A transaction is ended by whoever began it, the session or the connection, for these keep a state of their own: rolled
back below it, a session would take rows for stored that are not. A session that is rolled back gives its connection
back to the pool, and takes one again when it is used again.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from poolrt.hygiene.pools import drivers
from poolrt.hygiene.pools.taken import Taken

if TYPE_CHECKING:
    from poolrt.hygiene.pools.checked_out import CheckedOut


class TakenFromEngine(Taken):
    """A record of SQLAlchemy's pool, and who uses it: a session, a connection, or only the pool's proxy."""

    def __init__(self, record: Any, proxy: Any) -> None:
        super().__init__()
        self._record = record
        self._proxy = weakref.ref(proxy)
        self.session: weakref.ref[Any] | None = None
        self.connection: weakref.ref[Any] | None = None

    def what(self) -> str:
        """As the driver tells, else the engine's URL without its password."""
        return drivers.where(self.driver()) or self._url() or type(self._record.dbapi_connection).__module__

    def _url(self) -> str:
        connection = self.connection() if self.connection else None
        return str(connection.engine.url.render_as_string(hide_password=True)) if connection is not None else ""

    def driver(self) -> object:
        """Below an asyncio engine's adapter too."""
        return self._record.driver_connection

    def roll_back(self) -> bool:
        """By the session, then by the connection, then by the proxy, until it is in no transaction."""
        if self._record.driver_connection is not self._record.dbapi_connection:
            return False  # asyncio: only in its event loop
        for owner in (self.session, self.connection, self._proxy):
            user = owner() if owner else None
            if user is not None and drivers.is_in_transaction(self.driver()):
                user.rollback()
        return not drivers.is_in_transaction(self.driver())


# ``info`` is the one public object that a pool's record and what it hands out have in common.


def follow_pools(out: CheckedOut) -> None:
    """Follow all pools, those that are there already too."""
    from sqlalchemy.engine import Engine
    from sqlalchemy.pool import Pool

    def taken(_: Any, record: Any, proxy: Any) -> None:
        out.take(id(record.info), TakenFromEngine(record, proxy))

    def returned(_: Any, record: Any) -> None:
        out.give_back(id(record.info))

    def connected(_: Any, record: Any) -> None:
        out.of_pool(record.driver_connection)

    def detached(connection: Any, record: Any) -> None:
        out.give_back(id(record.info))
        out.off_pool(connection)

    def begun(connection: Any) -> None:
        known = out.now.get(id(connection.info))
        if isinstance(known, TakenFromEngine):
            known.connection = weakref.ref(connection)

    for target, name, listener in (
        (Pool, "connect", connected), (Pool, "checkout", taken), (Pool, "checkin", returned),
        (Pool, "detach", detached), (Engine, "begin", begun),
    ):  # fmt: skip
        _listen(out, target, name, listener)


def follow_sessions(out: CheckedOut) -> None:
    """Follow all sessions."""
    from sqlalchemy.orm import Session

    def begun(session: Any, _: Any, connection: Any) -> None:
        known = out.now.get(id(connection.info))
        if isinstance(known, TakenFromEngine):
            known.session = weakref.ref(session)

    _listen(out, Session, "after_begin", begun)


def _listen(out: CheckedOut, target: Any, name: str, listener: Any) -> None:
    from sqlalchemy import event

    event.listen(target, name, listener)
    out.on_close(lambda: event.remove(target, name, listener))
