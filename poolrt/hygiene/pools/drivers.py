"""What a driver's connection tells, known by its attributes: psycopg2, psycopg 3, sqlite3, asyncpg, PyMySQL.

The status costs 0.1 to 0.3 us: drivers keep it up to date from the server's answers.
"""

from __future__ import annotations

from typing import Any, Final

_IN_TRANSACTION: Final = (2, 3)
"""libpq's PQTRANS_INTRANS and PQTRANS_INERROR. PQTRANS_ACTIVE, 1, is a query that someone is running now."""


def is_in_transaction(connection: Any) -> bool:
    """Whether it sits in a transaction; False where the driver does not tell, as of one that is closed."""
    try:
        of = getattr(connection, "pgconn", None) or getattr(connection, "info", None)
        status = getattr(of, "transaction_status", None)  # psycopg 3, and psycopg2 since 2.8
        if status is not None:
            return status in _IN_TRANSACTION
        told = getattr(connection, "in_transaction", None)  # sqlite3, aiosqlite
        if told is None:
            told = getattr(connection, "is_in_transaction", None)  # asyncpg
        return bool(told() if callable(told) else told)
    except Exception:  # noqa: BLE001  the driver's, of a state that it does not tell
        return False


def where(connection: Any) -> str:
    """``host:port/database`` or a file; empty where the driver does not tell."""
    info: Any = getattr(connection, "info", None)
    if getattr(info, "dbname", None):  # psycopg 3 and psycopg2
        return f"{info.host or 'localhost'}:{info.port}/{info.dbname}"
    if getattr(connection, "server_status", None) is not None:  # PyMySQL
        database = connection.db.decode() if isinstance(connection.db, bytes) else connection.db
        return f"{connection.host}:{connection.port}/{database or ''}"
    if type(connection).__module__ == "sqlite3":
        return f"sqlite:///{connection.execute('pragma database_list').fetchone()[2]}"
    return ""
