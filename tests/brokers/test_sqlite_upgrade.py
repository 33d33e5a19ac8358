"""SQLite: files that an older poolrt wrote, as they were then, each version's tables written out."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from poolrt.brokers.base import Found
from poolrt.brokers.sqlite import SqliteBroker, schema
from poolrt.hygiene.findings import LeakKind, LeakRow
from poolrt.message import Enqueue, Filled, NewGroup, Outcome, Owner
from poolrt.queue_choice import QueueChoice
from poolrt.states import TaskState
from poolrt.terms import Gate, Slot, Unique

Open = Callable[..., SqliteBroker]

VERSION_1 = """
create table task (
    seq integer primary key, state integer not null, priority integer not null, owner integer, n integer,
    lost integer not null default 0, suspect integer not null default 0, eta real, created real not null,
    queue text not null, name text not null, id text not null unique, envelope blob not null);
create index task_queued on task (priority desc, seq) where state = 0;
create index task_suspect on task (priority desc, seq) where state = 1;
create index task_delayed on task (eta) where state = 2;
create index task_held on task (owner, n) where state = 3;
create table record (
    seq integer primary key, id text not null unique, state integer not null, lost integer not null,
    expires real not null, data blob not null);
create index record_expires on record (expires);
create index record_ended on record (state) where state > 11;
create table node (
    seq integer primary key, incarnation text not null unique, name text not null, gone integer not null default 0);
create table owner (
    id integer primary key, incarnation text not null, slot integer not null, generation integer not null,
    unique (incarnation, slot, generation));
create table bar (
    incarnation text not null, slot integer not null, generation integer not null,
    primary key (incarnation, slot)) without rowid;
create table waiter (id text not null, socket text not null, primary key (id, socket)) without rowid;
insert into node (incarnation, name) values ('inc', 'node');
insert into owner (incarnation, slot, generation) values ('inc', 0, 1);
insert into task (state, priority, owner, n, created, queue, name, id, envelope) values
    (3, 0, 1, 4, 1.0, 'mail', '', 'held-1', x'01'), (3, 0, 1, 4, 1.0, 'mail', '', 'held-2', x'02'),
    (0, 0, null, null, 1.0, 'mail', '', 'queued', x'03');
insert into record (id, state, lost, expires, data) values ('ended', 11, 0, 1e12, x'04');
pragma application_id = 1886351212;
pragma user_version = 1;
"""

VERSION_2 = (
    VERSION_1
    + """
alter table owner add column floor integer not null default 0;
create table pause (queue text primary key) without rowid;
create table to_cancel (seq integer primary key, owner integer not null, n integer not null);
pragma user_version = 2;
"""
)

VERSION_3 = (
    VERSION_2
    + """
create table leak (
    kind text not null, task text not null, what text not null, count integer not null, runs integer not null,
    first_seen real not null, last_seen real not null, reason text not null, stack text not null,
    primary key (kind, task, what)) without rowid;
pragma user_version = 3;
"""
)

VERSIONS = {"version 1": VERSION_1, "version 2": VERSION_2, "version 3": VERSION_3}
OLDER = pytest.mark.parametrize("tables", VERSIONS.values(), ids=VERSIONS.keys())


@OLDER
def test_an_older_file(file: Path, open_broker: Open, tables: str) -> None:
    """It is brought up to date by its first opening, with all that it holds, and then does all that a new one does."""
    db = sqlite3.connect(file)
    db.executescript(tables)
    db.close()
    file.chmod(0o600)
    broker = open_broker()
    assert broker.find("ended") == Found("ended", TaskState.SUCCEEDED, None, b"\x04", 0)
    client = open_broker()
    client.attach(Owner("inc", 0, 1), QueueChoice(("mail",)))
    (first, second) = client.resume()
    assert (first[0], second[0]) == (4, 4)
    assert broker.cancel_held("held-1")
    assert [delivery.task_id for _, delivery in broker.to_cancel("inc")] == ["held-1"]
    assert broker.recall(Owner("inc", 0, 1), first, 5) == 1
    assert client.settle([], 9, 5).deliveries == []
    broker.pause("mail")
    assert client.settle([], 9, 6).deliveries == []
    broker.unpause("mail")
    assert [delivery.task_id for delivery in client.settle([], 9, 7).deliveries] == ["held-2", "queued"]
    leak = LeakRow(LeakKind.FILES, "t", "/tmp/x", 1, 2, 3.0, 4.0, "it leaves /tmp/x")
    broker.note_leaks([leak], call="1")
    assert client.leaks() == [leak]
    limited = Enqueue("limited", b"x" * 100_000, "mail", 0, None, gate=Gate("key", slots=1), unique=Unique("key"))
    assert broker.enqueue([limited, limited._replace(id="other", unique=None)]) == [True, True]
    assert [delivery.task_id for delivery in client.settle([], 9, 8).deliveries] == ["limited"]
    broker.note_progress("limited", b"half", 10)
    assert broker.messages("limited", 1)[0][0].id == "other"
    assert broker.unique_holder("key") == "limited"
    broker.enqueue([], [NewGroup("g", 1, Enqueue("body", b"", "mail", 0, None), 10)])
    assert broker.find("body") == Found("body", TaskState.PLANNED, None, None, 0)
    broker.enqueue([Enqueue("g.0", b"", "mail", 9, None)])
    (member,) = client.settle([], 1, 9).deliveries
    client.settle([Outcome(member, TaskState.SUCCEEDED, filled=Filled(Slot("g", 0)))], 0, 10)
    assert broker.find("body") == Found("body", TaskState.QUEUED, b"", None, 0)


@OLDER
def test_an_upgraded_file_has_the_tables_of_a_new_one(file: Path, node_dir: Path, tables: str) -> None:
    """Every column, index and trigger, in name, type, default and key."""
    old, new = sqlite3.connect(file), sqlite3.connect(node_dir / "new.db")
    old.executescript(tables)
    for db in (old, new):
        schema.upgrade(db, "q.db")

    def shape(db: sqlite3.Connection) -> dict[str, list[tuple[object, ...]]]:
        names = [row[0] for row in db.execute("select name from sqlite_schema where type = 'table'")]
        columns = {name: sorted(row[1:] for row in db.execute(f"pragma table_info({name})")) for name in names}
        indexes = db.execute("select name, sql from sqlite_schema where type <> 'table' and sql is not null order by 1")
        return {**columns, "indexes": indexes.fetchall()}

    assert shape(old) == shape(new)
    assert schema.is_current(old)
    old.close()
    new.close()
