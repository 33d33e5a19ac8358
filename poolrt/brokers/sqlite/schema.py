"""The tables, their version, and the way from an older version to this one.

new file        empty ──create──▶ VERSION
older poolrt    v ──MIGRATIONS[v]──▶ v + 1 ── … ──▶ VERSION      one transaction: all of it or nothing
newer poolrt    refused, naming both versions
anything else   refused: never written to
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from typing import Final

from poolrt.errors import BrokerCorrupt, BrokerIncompatible

APPLICATION_ID: Final = 0x706F6F6C
"""``pool`` in the file's header: the file is ours."""

VERSION: Final = 4
"""Of the tables below; stored as ``user_version``."""

OLDEST_SQLITE: Final = (3, 35, 0)
"""The first with ``returning``."""

PAUSE: Final = "create table pause (queue text primary key) without rowid"
"""The queues that give out nothing."""

TO_CANCEL: Final = "create table to_cancel (seq integer primary key, owner integer not null, n integer not null)"
"""The deliveries that are to be cancelled. A row counts only while ``task`` says that very delivery is held: so a
settle, a release or a recall need not look here."""

LEAK: Final = """create table leak (
        kind text not null,
        task text not null,
        what text not null,
        count integer not null,
        runs integer not null,
        first_seen real not null,
        last_seen real not null,
        reason text not null,
        stack text not null,
        primary key (kind, task, what)) without rowid"""
"""What tasks left behind: a ``LeakRow`` of hygiene/findings.py each, by its fields."""

QUEUE_INDEX: Final = "create index if not exists task_by_queue on task (queue, priority desc, seq) where state < 2"
"""Made by the first use of single queues (a node that chooses, a pause): it would cost each enqueue and each reserve
some microseconds, and most files never need it."""

GATE: Final = """create table gate (
        key text primary key,
        rate real not null,
        burst integer not null,
        slots integer not null,
        due real not null) without rowid"""
"""The limits of each gate, a ``Gate`` of message.py, and ``due``: the wall time at which its burst is whole again."""

GATE_INDEX: Final = """create index task_gated on task (state, gate, queue, priority desc, seq)
    where gate is not null"""
"""What waits behind each gate, first to run first within a queue, and what of each gate is held."""

HOLDER: Final = "create table holder (key text primary key, id text not null, until real not null) without rowid"
"""Which message has a unique key: while it is alive, and until then at least. Never deleted when a message ends."""

PROGRESS: Final = "create table progress (id text primary key, expires real not null, data blob not null) without rowid"
"""What a message that has not ended said of itself last."""

GROUP: Final = """create table member_group (
        seq integer primary key,
        id text not null unique,
        size integer not null,
        missing integer not null,
        failed integer not null default 0,
        collects integer not null,
        expires real not null)"""
"""The groups whose members are counted: ``missing`` slots are not filled yet. Written by each fill, so it is short."""

GROUP_PLAN: Final = "create table group_plan (grp integer primary key, plan blob not null)"
"""What follows each group: a ``NewGroup`` of message.py in msgpack. ``grp`` is its ``seq``."""

FILLED: Final = """create table filled (
        grp integer not null,
        word integer not null,
        bits integer not null,
        primary key (grp, word)) without rowid"""
"""The slots that are filled, as bits; see groups.py."""

GROUP_GONE: Final = """create trigger group_gone after delete on member_group begin
        delete from filled where grp = old.seq;
        delete from group_plan where grp = old.seq;
    end"""

PLANNED: Final = "create table planned (id text primary key, expires real not null) without rowid"
"""The ids that are known before they are enqueued; see ahead.py."""

GROUPS: Final = (
    GROUP,
    GROUP_PLAN,
    FILLED,
    GROUP_GONE,
    PLANNED,
    "create index member_group_expires on member_group (expires)",
    "create index planned_expires on planned (expires)",
)
"""All that workflows need."""

TABLES: Final = (
    # What stands before the envelope can be read without walking a large one's pages.
    """create table task (
        seq integer primary key,
        state integer not null,
        priority integer not null,
        owner integer,
        n integer,
        lost integer not null default 0,
        suspect integer not null default 0,
        eta real,
        created real not null,
        queue text not null,
        name text not null,
        id text not null unique,
        gate text,
        envelope blob not null)""",
    GATE_INDEX,
    "create index task_queued on task (priority desc, seq) where state = 0",
    "create index task_suspect on task (priority desc, seq) where state = 1",
    "create index task_delayed on task (eta) where state = 2",
    "create index task_held on task (owner, n) where state = 3",
    """create table record (
        seq integer primary key,
        id text not null unique,
        state integer not null,
        lost integer not null,
        expires real not null,
        data blob not null)""",
    "create index record_expires on record (expires)",
    "create index record_ended on record (state) where state > 11",
    """create table node (
        seq integer primary key,
        incarnation text not null unique,
        name text not null,
        gone integer not null default 0)""",
    """create table owner (
        id integer primary key,
        incarnation text not null,
        slot integer not null,
        generation integer not null,
        floor integer not null default 0,
        unique (incarnation, slot, generation))""",
    """create table bar (
        incarnation text not null,
        slot integer not null,
        generation integer not null,
        primary key (incarnation, slot)) without rowid""",
    "create table waiter (id text not null, socket text not null, primary key (id, socket)) without rowid",
    PAUSE,
    TO_CANCEL,
    LEAK,
    GATE,
    HOLDER,
    PROGRESS,
    *GROUPS,
)

Migration = Callable[[sqlite3.Connection], None]


def _to_2(db: sqlite3.Connection) -> None:
    """Floors of recalls, paused queues, held messages that are to be cancelled."""
    db.execute("alter table owner add column floor integer not null default 0")
    db.execute(PAUSE)
    db.execute(TO_CANCEL)


def _to_3(db: sqlite3.Connection) -> None:
    """What tasks left behind."""
    db.execute(LEAK)


def _to_4(db: sqlite3.Connection) -> None:
    """Gates, unique keys, progress, groups. The new column is behind the envelope, where a null costs no reading."""
    db.execute("alter table task add column gate text")
    for table in (GATE_INDEX, GATE, HOLDER, PROGRESS, *GROUPS):
        db.execute(table)


MIGRATIONS: Final[dict[int, Migration]] = {1: _to_2, 2: _to_3, 3: _to_4}
"""From a version to the next. Each runs inside the one transaction of the upgrade; none may commit."""


def is_current(db: sqlite3.Connection, version: int = VERSION) -> bool:
    """Whether the file is ours and of this version: all that most openings ask."""
    return _header(db) == (APPLICATION_ID, version)


def upgrade(
    db: sqlite3.Connection, name: str, version: int = VERSION, migrations: Mapping[int, Migration] = MIGRATIONS
) -> None:
    """Create the tables or bring them up to ``version``, inside the caller's transaction. Safe to call again.

    Raises:
        BrokerCorrupt: the file is another application's.
        BrokerIncompatible: a newer poolrt wrote it, or one so old that its migration is gone.
    """
    found = check(db, name, version)
    if found == version:
        return
    if found == 0:
        for table in TABLES:
            db.execute(table)
    else:
        for step in range(found, version):
            migrations[step](db)
    db.execute(f"pragma application_id = {APPLICATION_ID}")
    db.execute(f"pragma user_version = {version}")


def check(
    db: sqlite3.Connection, name: str, version: int = VERSION, migrations: Mapping[int, Migration] = MIGRATIONS
) -> int:
    """The version of the file, 0 for an empty one; raises as ``upgrade`` does. Only reads."""
    application, found = _header(db)
    if application != APPLICATION_ID:
        tables = db.execute("select name from sqlite_schema limit 3").fetchall()
        if application or found or tables:
            holds = ", ".join(row[0] for row in tables)
            raise BrokerCorrupt(f"{name} is another application's database (it holds {holds}); name another file")
        return 0
    if found > version:
        raise BrokerIncompatible(
            f"{name} has schema version {found}, written by a newer poolrt; this one knows version {version}: "
            "upgrade this one, or name another file"
        )
    return found


def _header(db: sqlite3.Connection) -> tuple[int, int]:
    application: int = db.execute("pragma application_id").fetchone()[0]
    version: int = db.execute("pragma user_version").fetchone()[0]
    return application & 0xFFFFFFFF, version
