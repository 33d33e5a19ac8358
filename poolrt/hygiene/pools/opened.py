"""Connections that psycopg and psycopg2 open, told as it happens; by whichever name the app calls ``connect``.

What all ways to open one go through is replaced, in the child alone: 0.5 us a connection. sqlite3 has no such place.
"""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Any

from poolrt.hygiene.pools.method_pools import replace

if TYPE_CHECKING:
    from poolrt.hygiene.pools.checked_out import CheckedOut


def follow_psycopg(out: CheckedOut) -> None:
    """Follow its connections, of asyncio too."""
    from psycopg import AsyncConnection, Connection

    def telling(original: Any) -> Any:
        @functools.wraps(original)
        def init(self: Any, *args: Any, **kwargs: Any) -> None:
            original(self, *args, **kwargs)
            out.opened(self)

        return init

    for kind in (Connection, AsyncConnection):
        replace(out, kind, "__init__", telling(kind.__init__))


def follow_psycopg2(out: CheckedOut) -> None:
    """Follow what its ``connect`` opens."""
    psycopg2 = sys.modules["psycopg2"]
    original = vars(psycopg2)["_connect"]

    @functools.wraps(original)
    def connect(*args: Any, **kwargs: Any) -> Any:
        connection = original(*args, **kwargs)
        out.opened(connection)
        return connection

    replace(out, psycopg2, "_connect", connect)
