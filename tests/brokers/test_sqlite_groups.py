"""SQLite: what groups and plans cost, that nothing of them is done by halves, and that they are forgotten."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from poolrt.brokers.sqlite import SqliteBroker, groups
from poolrt.clock import FakeClock
from poolrt.message import DEAD_TTL, Outcome
from poolrt.states import TaskState
from tests.brokers.grouped import WHY, Worker, a_group, done, failed, ids, item, kept, members, state

Child = Callable[..., SqliteBroker]

TABLES = ("member_group", "group_plan", "filled", "planned")


@pytest.fixture
def worker(sqlite_child: Child) -> Worker:
    """The client of one owner."""
    return Worker(sqlite_child())


def rows(store: SqliteBroker) -> list[int]:
    """How many rows each of the tables has."""
    return store._store.read(lambda db: [db.execute(f"select count(*) from {table}").fetchone()[0] for table in TABLES])


def statements_of(client: SqliteBroker, call: Callable[[], object]) -> list[str]:
    """What a call asks SQLite."""
    told: list[str] = []
    client._store.read(lambda db: db.set_trace_callback(told.append))
    call()
    client._store.read(lambda db: db.set_trace_callback(None))
    return told


@pytest.mark.parametrize("fails", [False, True])
def test_all_of_a_settle_or_nothing(
    store: SqliteBroker, worker: Worker, monkeypatch: pytest.MonkeyPatch, *, fails: bool
) -> None:
    """One that breaks off where the body or an errback is enqueued has filled no slot and ended nothing."""
    store.enqueue(members("g", 2), [a_group(2, errbacks=["sorry"])])
    first, second = worker.take()
    worker.end(done(first))

    def broken(*_: object) -> None:
        raise RuntimeError("the power failed here")

    end = failed if fails else done
    before = rows(store)
    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(groups, "place", broken)
        worker.end(end(second))
    assert rows(store) == before
    assert (state(store, "g.1"), state(store, "g-body")) == (TaskState.RESERVED, TaskState.PLANNED)
    assert ids(worker.end(end(second), reserve=9)[0]) == ["sorry" if fails else "g-body"]


def test_a_member_costs_the_same_in_any_group(store: SqliteBroker, worker: Worker) -> None:
    """As many statements for the last but one of 5,000 as for the first of ten, however large the body is."""
    large = a_group(5000, "large")
    large = type(large)(large.id, large.size, large.body._replace(envelope=b"x" * 500_000), large.ttl)
    store.enqueue([*members("small", 10), *members("large", 5000)], [a_group(10, "small"), large])
    small = worker.take(10)
    costs = [len(statements_of(worker.client, lambda: worker.end(done(small[0]))))]
    held = worker.take(5000)
    costs.append(len(statements_of(worker.client, lambda: worker.end(done(held[0])))))
    worker.end(*map(done, held[1:-2]))
    costs.append(len(statements_of(worker.client, lambda: worker.end(done(held[-2])))))
    assert len(set(costs)) == 1
    pages = store._store.read(
        lambda db: db.execute("select sum(length(bits)), count(*) from filled where grp = 2").fetchone()
    )
    assert pages[1] == 5000 // groups.WIDTH + 1
    written = store._store.read(lambda db: db.execute("select * from member_group where id = 'large'").fetchone())
    assert not [column for column in written if isinstance(column, bytes)]
    worker.end(done(held[-1]), *map(done, small[1:]))
    assert rows(store) == [0, 0, 0, 2]


def test_messages_without_a_group(store: SqliteBroker, worker: Worker) -> None:
    """They ask no more than whether any id is planned, and that only where they end."""
    store.enqueue([item("plain")])
    (held,) = worker.take()
    again = Outcome(held, None, follow_ups=(item("plain"),))
    told = statements_of(worker.client, lambda: worker.end(again, reserve=1))
    told += statements_of(store, lambda: store.enqueue([item("other")]))
    tables = [text for text in told if re.search(rf"\b({'|'.join(TABLES)})\b", text)]
    assert len(tables) == 1
    assert "exists (select 1 from planned)" in tables[0]


def test_what_nobody_needs_is_forgotten(store: SqliteBroker, worker: Worker, clock: FakeClock) -> None:
    """Groups past their time, with their slots, and old plans go with a purge, however many."""
    for number in range(20):
        name = f"g{number}"
        store.enqueue([item(f"{name}.0", last=f"end{number}")], [a_group(2, name, ttl=10 if number else 1000)])
    worker.end(*map(done, worker.take()))
    assert rows(store) == [20, 20, 20, 40]
    clock.advance(11)
    store.purge(7)
    assert rows(store) == [1, 1, 1, 40]
    clock.advance(DEAD_TTL)
    store.purge(7)
    assert rows(store) == [0, 0, 0, 0]


def test_a_failed_body_s_record_is_kept_as_long_as_a_group(
    store: SqliteBroker, worker: Worker, clock: FakeClock
) -> None:
    """From its failure on: until then it may be tried again."""
    store.enqueue(members("g", 1), [a_group(1, ttl=100)])
    clock.advance(50)
    worker.end(failed(worker.take()[0]))
    clock.advance(99)
    store.purge()
    assert kept(store, "g-body") == WHY
    clock.advance(2)
    store.purge()
    assert store.find("g-body") is None
