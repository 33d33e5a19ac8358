"""SQLite: rows of leaks that this poolrt does not know."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

from poolrt.brokers.sqlite import SqliteBroker
from poolrt.hygiene.findings import LeakKind, LeakRow


def test_a_kind_of_a_newer_poolrt(file: Path, open_broker: Callable[..., SqliteBroker]) -> None:
    """It is left out where rows are read, kept where they are written, and forgotten with the rest."""
    broker = open_broker()
    leak = LeakRow(LeakKind.FILES, "t", "/tmp/x", 1, 2, 3.0, 4.0, "it leaves /tmp/x")
    broker.note_leaks([leak], call="1")
    db = sqlite3.connect(file)
    with db:
        db.execute("insert into leak values ('comets', 't', 'x', 1, 1, 1.0, 1.0, '', '')")
    db.close()
    broker.note_leaks([leak], call="2")
    assert [row.count for row in broker.leaks()] == [2]
    assert broker.forget_leaks() == 2
