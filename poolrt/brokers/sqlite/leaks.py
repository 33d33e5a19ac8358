"""What tasks left behind, in the table ``leak``. Runs inside a transaction of the store."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from poolrt.brokers.sqlite import statements
from poolrt.hygiene.findings import LeakKind, LeakRow, LeakTable


def note(db: sqlite3.Connection, rows: Iterable[LeakRow]) -> None:
    """Add the rows to what is known, and begin none that counts runs alone; beyond ``LeakTable.MOST_ROWS`` those go
    that were not seen for longest."""
    for row in rows:
        known = db.execute(statements.LEAK, row.key).fetchone()
        if known is None and not row.count:
            continue
        summed = row if known is None else _row(known).with_more(row)
        db.execute(statements.KEEP_LEAK, msgspec.structs.astuple(summed))
    db.execute(statements.FORGET_OLD_LEAKS, (LeakTable.MOST_ROWS,))


def known(db: sqlite3.Connection) -> Iterator[LeakRow]:
    """Every row; one of a kind that a newer poolrt has named is passed over."""
    kinds = frozenset(map(str, LeakKind))
    return (_row(fields) for fields in db.execute(statements.LEAKS).fetchall() if fields[0] in kinds)


def _row(fields: Sequence[Any]) -> LeakRow:
    return LeakRow(LeakKind(fields[0]), *fields[1:])
