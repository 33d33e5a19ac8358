"""Pools without events, redis-py's and psycopg_pool's: their methods to take and to give back tell it, 0.5 us a call.

A method is replaced on the class, in the child alone, so that pools that are there already are followed too; classes
of the app that bring a method of their own are followed if they were there by then.
"""

from __future__ import annotations

import functools
import inspect
import sys
import weakref
from collections.abc import Callable, Iterator
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from poolrt.hygiene.pools import drivers
from poolrt.hygiene.pools.taken import Taken

if TYPE_CHECKING:
    from poolrt.hygiene.pools.checked_out import CheckedOut


class TakenByMethod(Taken):
    """A connection, held as weakly as its pool: a watch keeps nothing open."""

    def __init__(self, pool: Any, connection: Any) -> None:
        super().__init__()
        self._pool = weakref.ref(pool)
        self._connection = weakref.ref(connection)
        self._what = ""

    def is_gone(self) -> bool:
        """A dropped connection is not: its pool counts it for ever."""
        return self._pool() is None

    def driver(self) -> Any:
        """None once it was dropped."""
        return self._connection()


class TakenFromRedis(TakenByMethod):
    """Of redis-py."""

    def __init__(self, pool: Any, connection: Any) -> None:
        super().__init__(pool, connection)
        self._place = pool.connection_kwargs

    def what(self) -> str:
        """Of the connection; a Sentinel's pool does not know it."""
        of, kwargs = self.driver(), self._place
        path = getattr(of, "path", kwargs.get("path"))
        host, port = getattr(of, "host", kwargs.get("host", "localhost")), getattr(of, "port", kwargs.get("port", 6379))
        return f"{path or f'{host}:{port}'}/{kwargs.get('db') or 0}"


class TakenFromPsycopg(TakenByMethod):
    """Of psycopg_pool."""

    def __init__(self, pool: Any, connection: Any) -> None:
        super().__init__(pool, connection)
        self._name = pool.name

    def what(self) -> str:
        """As the driver tells, else the pool's name."""
        return drivers.where(self.driver()) or self._name

    def roll_back(self) -> bool:
        """Not from here for an asyncio pool."""
        connection = self.driver()
        if connection is None or inspect.iscoroutinefunction(connection.rollback):
            return False
        connection.rollback()
        return True


def follow_redis(out: CheckedOut) -> None:
    """Follow the pools of its clients, of asyncio too if the app uses that."""
    from redis.connection import ConnectionPool

    _follow(out, ConnectionPool, "get_connection", "release", TakenFromRedis)
    if "redis.asyncio" in sys.modules:
        from redis.asyncio.connection import ConnectionPool as AsyncConnectionPool

        _follow(out, AsyncConnectionPool, "get_connection", "release", TakenFromRedis)


def follow_psycopg(out: CheckedOut) -> None:
    """Follow its pools, and remember which connections are theirs."""
    from psycopg_pool import AsyncConnectionPool, ConnectionPool

    def taken(pool: Any, connection: Any) -> Taken:
        out.of_pool(connection)
        return TakenFromPsycopg(pool, connection)

    for pool in (ConnectionPool, AsyncConnectionPool):
        _follow(out, pool, "getconn", "putconn", taken)


def _follow(out: CheckedOut, pools: type[Any], take: str, give: str, made: Callable[[Any, Any], Taken]) -> None:
    """Have ``take`` and ``give`` tell ``out``, on the class and those of its subclasses that have their own."""
    for kind in (pools, *_subclasses(pools)):
        if take in vars(kind):
            replace(out, kind, take, _telling_taken(out, vars(kind)[take], made))
        if give in vars(kind):
            replace(out, kind, give, _telling_given(out, vars(kind)[give]))


def replace(out: CheckedOut, of: Any, name: str, method: Any) -> None:
    """Replace what this class or module has by that name, until ``out`` is closed."""
    original = vars(of)[name]
    setattr(of, name, method)
    out.on_close(lambda: setattr(of, name, original))


def _telling_taken(out: CheckedOut, original: Any, made: Callable[[Any, Any], Taken]) -> Any:
    async def awaited(pool: Any, coming: Any) -> Any:
        connection = await coming
        out.take(id(connection), made(pool, connection))
        return connection

    @functools.wraps(original)
    def take(self: Any, *args: Any, **kwargs: Any) -> Any:
        connection = original(self, *args, **kwargs)
        if isinstance(connection, CoroutineType):
            return awaited(self, connection)
        out.take(id(connection), made(self, connection))
        return connection

    return take


def _telling_given(out: CheckedOut, original: Any) -> Any:
    """Told first: once it is back in the pool, another thread may have taken it again."""

    @functools.wraps(original)
    def give(self: Any, *args: Any, **kwargs: Any) -> Any:
        for connection in (*args, *kwargs.values()):
            out.give_back(id(connection))
        return original(self, *args, **kwargs)

    return give


def _subclasses(of: type[Any]) -> Iterator[type[Any]]:
    for kind in of.__subclasses__():
        yield kind
        yield from _subclasses(kind)
