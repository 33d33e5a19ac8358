"""What became of each message, written down by the database itself: an oracle that the runtime neither feeds nor reads.

    broker ──insert, update, delete──▶ table task ──trigger──▶ chaos_journal ◀──reads── the test

A trigger is part of the transaction that fires it: what was rolled back, or cut by a SIGKILL, is not in the journal,
and what was committed is. A record that was offered for an id that has one is ignored by the broker, but stands here.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from pathlib import Path
from typing import Final, NamedTuple

PLACED: Final = "placed"
"""The message was stored: by a producer, or as the retry of itself."""
ENDED: Final = "ended"
"""The message was deleted: its task ended, or its retry follows in the same transaction."""
KEPT: Final = "kept"
"""A record was offered; a second one of an id would be a second outcome, also if the broker ignored it."""
MOVED: Final = "moved"
"""The message changed its state: reserved, put back, delayed, promoted."""

TWICE: Final = "held twice"
"""It was reserved while another owner held it."""
UNHELD: Final = "dropped"
"""Its owner lost it, and it was put nowhere."""

NEVER_STORED: Final = "it was never stored"

_STATES: Final = ("queued", "suspect", "delayed", "reserved", "queued behind a gate")

_NOW: Final = "(julianday('now') - 2440587.5) * 86400.0"
"""Wall time in seconds, to the ms; unixepoch('subsec') needs SQLite 3.42."""


def _trigger(name: str, event: str, what: str, row: str) -> str:
    return (
        f"create trigger if not exists {name} {event} begin insert into chaos_journal (at, what, id, state, lost) "
        f"values ({_NOW}, '{what}', {row}.id, {row}.state, {row}.lost); end;"
    )


_SCRIPT: Final = (
    "create table if not exists chaos_journal (seq integer primary key, at real not null, what text not null, "
    "id text not null, state integer not null, lost integer not null);"
    + _trigger("chaos_placed", "after insert on task", PLACED, "new")
    + _trigger("chaos_moved", "after update on task when new.state != old.state", MOVED, "new")
    + _trigger("chaos_ended", "after delete on task", ENDED, "old")
    + _trigger("chaos_kept", "before insert on record", KEPT, "new")
)


class Entry(NamedTuple):
    """One thing that happened to a message."""

    at: float
    """Wall time, seconds since the epoch."""
    what: str
    state: int
    """The broker's code: of a message for all but ``kept``, of a record for that."""
    lost: int
    note: str = ""
    order: int = 0
    """Its place among all entries."""

    def __str__(self) -> str:
        """For reports."""
        state = _STATES[self.state] if self.state < len(_STATES) else f"record {self.state}"
        note = f", {self.note}" if self.note else ""
        return f"{self.at % 1000:.3f} {self.what} as {state}, lost {self.lost}{note}"


class Journal:
    """The journal of one broker file."""

    def __init__(self, database: Path) -> None:
        self._database = database

    def install(self) -> None:
        """Begin to write it; the broker must have made its tables."""
        self._run(lambda db: db.executescript(_SCRIPT))

    def read(self) -> dict[str, list[Entry]]:
        """What happened to each message, in order."""
        found: dict[str, list[Entry]] = defaultdict(list)
        for task_id, *entry, seq in self._run(
            lambda db: db.execute("select id, at, what, state, lost, seq from chaos_journal order by seq").fetchall()
        ):
            found[task_id].append(Entry(*entry, order=seq))
        return found

    def _run(self, work):
        db = sqlite3.connect(self._database, timeout=10, isolation_level=None)
        try:
            return work(db)
        finally:
            db.close()


def complaints(entries: list[Entry], placed: int = 1) -> list[str]:
    """What is wrong with the life of a message that was placed at most ``placed`` times (1, and once a retry)."""
    whats = [entry.what for entry in entries]
    life = [what for what in whats if what in (PLACED, ENDED)]
    wrong = []
    if not life:
        return [NEVER_STORED, *_outcomes(whats)]
    if life != [PLACED, ENDED] * (len(life) // 2):
        wrong.append("it is still there" if life[-1] == PLACED else f"its life was {' '.join(life)}")
    if life.count(PLACED) > placed:
        wrong.append(f"it was stored {life.count(PLACED)} times, not at most {placed}")
    wrong += [f"it was {what}" for what in (TWICE, UNHELD) if what in whats]
    return wrong + _outcomes(whats)


def _outcomes(whats: list[str]) -> list[str]:
    return [f"it had {whats.count(KEPT)} outcomes"] if whats.count(KEPT) > 1 else []
