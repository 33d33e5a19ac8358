"""Forgets what is kept for its time only: free unique keys, idle gates, old progress, groups and plans.

What is to go is sought while others may write, and forgotten in a transaction that looks again.
"""

from __future__ import annotations

import json
from typing import Final

from poolrt.brokers.sqlite import gate_statements, group_statements, statements
from poolrt.brokers.sqlite.store import Store

_SWEPT: Final = (
    (statements.FREE_KEYS, statements.SWEEP_KEYS),
    (gate_statements.IDLE_GATES, gate_statements.SWEEP_GATES),
    (statements.OLD_PROGRESS, statements.SWEEP_PROGRESS),
    (group_statements.OLD_GROUPS, group_statements.SWEEP_GROUPS),
    (group_statements.OLD_PLANNED, group_statements.SWEEP_PLANNED),
)


def sweep(store: Store, now: float, batch: int) -> None:
    """All that may go, by transactions of ``batch`` rows."""
    for find, forget in _SWEPT:
        while keys := _found(store, find, now, batch):
            _forget(store, forget, now, keys)
            if len(keys) < batch:
                break


def _found(store: Store, find: str, now: float, batch: int) -> list[str]:
    return store.read(lambda db: [row[0] for row in db.execute(find, (now, batch))])


def _forget(store: Store, forget: str, now: float, keys: list[str]) -> None:
    store.write(lambda db: db.execute(forget, (json.dumps(keys), now)).rowcount)
