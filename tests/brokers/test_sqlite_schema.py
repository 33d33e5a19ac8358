"""SQLite: the version of the tables, what is refused by it, and the plans of the statements."""

from __future__ import annotations

import re
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from poolrt.brokers.sqlite import SqliteBroker, group_statements, schema, statements
from poolrt.clock import FakeClock
from poolrt.errors import (
    BrokerCorrupt,
    BrokerIncompatible,
)
from poolrt.message import Enqueue, Outcome, Owner, new_task_id
from poolrt.states import TaskState

Script = Callable[..., subprocess.Popen[str]]
Open = Callable[..., SqliteBroker]

WHOLE = re.compile(r"\s*(select|insert|update|delete|with)\b")
"""Statements, and not the pieces of some."""


def put(broker: SqliteBroker, envelope: bytes = b"") -> str:
    task = new_task_id()
    assert broker.enqueue([Enqueue(task, envelope, "default", 0, None)]) == [True]
    return task


def test_a_newer_file_is_refused(file: Path, open_broker: Open) -> None:
    """Both versions are named, and the file is not changed."""
    put(open_broker())
    open_broker().close()
    with sqlite3.connect(file) as db:
        db.execute("pragma user_version = 99")
    db.close()
    with pytest.raises(BrokerIncompatible, match=rf"version 99.* version {schema.VERSION}:"):
        SqliteBroker(file).depth()


def test_a_foreign_database_is_refused(file: Path) -> None:
    """Another application's file is named and left as it was."""
    with sqlite3.connect(file) as db:
        db.execute("create table their_invoices (x)")
    db.close()
    file.chmod(0o600)
    before = file.read_bytes()
    with pytest.raises(BrokerCorrupt, match="their_invoices"):
        SqliteBroker(file).depth()
    assert file.read_bytes() == before


def test_no_database_at_all_is_refused(file: Path) -> None:
    """A text file is named and left as it was."""
    file.write_text("my dear diary\n" * 1000)
    file.chmod(0o600)
    with pytest.raises(BrokerCorrupt, match="no SQLite database"):
        SqliteBroker(file).enqueue([])
    assert file.read_text() == "my dear diary\n" * 1000


def test_an_older_file_is_migrated_step_by_step(file: Path, open_broker: Open) -> None:
    """Each version has its step; all of them and the new version number are one transaction."""
    broker = open_broker()
    task = put(broker)
    broker.close()
    steps: list[int] = []

    def one(db: sqlite3.Connection) -> None:
        steps.append(1)
        db.execute("alter table task add column added text default 'by the migration'")

    def two(db: sqlite3.Connection) -> None:
        steps.append(2)
        if len(steps) == 2:
            raise RuntimeError("the power failed here")

    db = sqlite3.connect(file, isolation_level=None)
    migrations = {schema.VERSION: one, schema.VERSION + 1: two}
    goal = schema.VERSION + 2
    db.execute("begin immediate")
    with pytest.raises(RuntimeError):
        schema.upgrade(db, "q.db", goal, migrations)
    db.execute("rollback")
    assert schema.is_current(db)
    db.execute("begin immediate")
    schema.upgrade(db, "q.db", goal, migrations)
    db.execute("commit")
    assert steps == [1, 2, 1, 2]
    assert schema.is_current(db, goal)
    assert db.execute("select id, added from task").fetchall() == [(task, "by the migration")]
    db.close()


def test_every_older_version_has_its_migration() -> None:
    """No version is left behind."""
    assert sorted(schema.MIGRATIONS) == list(range(1, schema.VERSION))


def test_many_processes_make_one_file(file: Path, script: Script, open_broker: Open) -> None:
    """Processes that start at once on no file agree on one set of tables."""
    source = (
        "import sys\n"
        "from poolrt.brokers.sqlite import SqliteBroker\n"
        "from poolrt.message import Enqueue\n"
        "print('up', flush=True); sys.stdin.readline()\n"
        "SqliteBroker(sys.argv[1]).enqueue([Enqueue(sys.argv[2], b'', 'default', 0, None)])\n"
    )
    processes = [script(source, file, number) for number in range(6)]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.wait() for process in processes] == [0] * 6
    assert open_broker().depth().queued == 6


def test_hot_statements_use_their_indexes(file: Path, open_broker: Open) -> None:
    """No statement walks the table: a queue of a million messages is as fast as one of ten."""
    open_broker().depth()
    db = sqlite3.connect(file)
    may_walk = {"DEPTH", "OLDEST", "SUCCEEDED", "WAITING_SOCKETS", "ANSWERED_WAITER", "SWEEP_WAITERS", "NODES"}
    may_walk |= {"LEAKS", "FORGET_OLD_LEAKS", "FORGET_LEAKS"}  # a table of 500 rows
    walks = re.compile(
        r"SCAN (task|record|planned|filled|\w+_group|group_plan)"
        r"(?! USING (COVERING )?INDEX (task_(queued|suspect|delayed|held)|record_|planned_))"
    )
    for name, text in (*vars(statements).items(), *vars(group_statements).items()):
        if not isinstance(text, str) or not WHOLE.match(text) or name in may_walk:
            continue
        named = dict.fromkeys(re.findall(r":(\w+)", text))
        plan = [row[3] for row in db.execute(f"explain query plan {text}", named or [None] * text.count("?"))]
        assert not [line for line in plan if walks.search(line) or "TEMP B-TREE" in line], (name, plan)
    db.close()


def test_the_file_does_not_grow_for_ever(file: Path, open_broker: Open, clock: FakeClock) -> None:
    """Pages of settled messages and purged records are used again, without a vacuum."""
    broker = open_broker(clock=clock)
    broker.join("inc", "node")
    broker.attach(Owner("inc", 0, 1))
    sizes = []
    for turn in range(8):
        broker.enqueue([Enqueue(new_task_id(), b"x" * 300, "default", 0, None) for _ in range(500)])
        held = broker.settle([], 500, 2 * turn + 1).deliveries
        broker.settle([Outcome(d, TaskState.SUCCEEDED, b"r" * 100, ttl=10) for d in held], 0, 2 * turn + 2)
        clock.advance(20)
        assert broker.purge(500) == 500
        broker.close()  # the last connection moves the WAL into the file
        sizes.append(file.stat().st_size)
    assert max(sizes[2:]) <= sizes[1] * 1.1, sizes
