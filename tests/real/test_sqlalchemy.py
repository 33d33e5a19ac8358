"""SQLAlchemy on PostgreSQL, by psycopg 3 and psycopg2: what people forget to close, and how it is meant to be used."""

from __future__ import annotations

import gc

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from poolrt.hygiene.findings import LeakKind

QUERY = sa.text("select 1")


@pytest.fixture(params=["psycopg", "psycopg2"])
def engine(request, pg):
    """An engine with a pool of five."""
    made = sa.create_engine(pg.url(request.param), max_overflow=5)
    yield made
    gc.collect()
    made.dispose()


@pytest.fixture
def kept():
    """What an app keeps in a list."""
    things: list = []
    yield things
    for thing in things:
        thing.close()


def use(connection):
    """One query, whose transaction stays open."""
    connection.execute(QUERY)
    return connection


def test_a_session_in_a_with_block_leaves_nothing(engine, runs):
    """Nor a transaction, nor a connection: it is the documented way."""

    def body(_):
        with Session(engine) as session, session.begin():
            use(session)

    assert runs(body, 50) == []
    assert engine.pool.checkedin() == 1


def test_a_session_that_is_not_closed_is_rolled_back_and_named(engine, runs, pg):
    """Dropped at the end of the task, it would hold its connection until a collection; here one is enough."""
    gc.disable()
    try:
        found = runs(lambda _: use(Session(engine)), 30)
    finally:
        gc.enable()
    assert [(each.kind, each.task, each.what, each.count) for each in found] == [
        (LeakKind.TRANSACTIONS, "shop.pay", pg.peer, 1)
    ] * 30  # fmt: skip
    assert found[-1].stack.splitlines()[0].endswith("in use")
    assert engine.pool.checkedin() == 1
    assert pg.sessions("idle in transaction") == 0


def test_a_session_that_an_app_keeps_gives_its_connection_back(engine, runs, kept):
    """It goes on where it is used again, with a connection of its own, and knows that its changes are not stored."""
    assert len(runs(lambda _: kept.append(use(Session(engine))), 20)) == 20
    assert engine.pool.checkedout() == 0
    assert not any(session.in_transaction() for session in kept)
    assert kept[0].execute(QUERY).scalar() == 1


def test_without_roll_back_kept_sessions_are_connections_that_are_not_given_back(engine, runs, kept, pg):
    """As under ``transactions=ignore``: named at the second, before the pool is empty."""
    found = runs(lambda _: kept.append(use(Session(engine))), 3, rolls_back=False)
    assert [(each.kind, each.what, each.count) for each in found] == [
        (LeakKind.CHECKED_OUT, pg.peer, 2), (LeakKind.CHECKED_OUT, pg.peer, 1),
    ]  # fmt: skip


def test_a_connection_that_is_not_closed_is_rolled_back_and_freed(engine, runs, pg):
    """Its transaction made a cycle with it: without that it is freed, and in its pool again."""
    found = runs(lambda _: use(engine.connect()))
    assert [(each.kind, each.what) for each in found] == [(LeakKind.TRANSACTIONS, pg.peer)] * 5
    assert engine.pool.checkedout() == 0


def test_connections_that_an_app_keeps_are_named_at_the_second(engine, runs, kept, pg):
    """Committed or not."""

    def body(_):
        connection = use(engine.connect())
        connection.commit()
        kept.append(connection)

    found = runs(body, 3)
    assert [(each.kind, each.task, each.what, each.count, each.runs) for each in found] == [
        (LeakKind.CHECKED_OUT, "shop.pay", pg.peer, 2, 2),
        (LeakKind.CHECKED_OUT, "shop.pay", pg.peer, 1, 1),
    ]
    assert found[0].stack.splitlines()[0].endswith(".body")


def test_a_raw_connection_that_an_app_keeps_is_named_at_the_second(engine, runs, kept):
    """And its transaction at once."""

    def body(_):
        raw = engine.raw_connection()
        raw.cursor().execute("select 1")
        kept.append(raw)

    found = runs(body, 2)
    assert [each.kind for each in found] == [LeakKind.TRANSACTIONS, LeakKind.TRANSACTIONS, LeakKind.CHECKED_OUT]


def test_a_leak_of_one_in_fifty_is_named_with_its_rate(engine, runs, kept):
    """At its second, with the runs since the first look."""

    def body(number):
        connection = use(engine.connect())
        connection.commit()
        if number % 50 == 49:
            kept.append(connection)
        else:
            connection.close()

    (found,) = runs(body, 100)
    assert (found.kind, found.count, found.runs) == (LeakKind.CHECKED_OUT, 2, 100)


def test_a_scoped_session_is_no_leak(engine, runs):
    """One a thread, used by every run; in autocommit it keeps even its connection."""
    shared = scoped_session(sessionmaker(engine.execution_options(isolation_level="AUTOCOMMIT")))
    try:
        assert runs(lambda _: use(shared), 50) == []
        assert engine.pool.checkedout() == 1
    finally:
        shared.remove()


def test_a_scoped_session_that_is_left_in_a_transaction_is_told(engine, runs, pg):
    """At each run, and no leak of connections."""
    shared = scoped_session(sessionmaker(engine))
    found = runs(lambda _: use(shared))
    assert [(each.kind, each.what, each.count) for each in found] == [(LeakKind.TRANSACTIONS, pg.peer, 1)] * 5
    shared.remove()


def test_a_nested_transaction_is_rolled_back_to_its_root(engine, runs, kept):
    """A savepoint's end would not do."""

    def body(_):
        session = use(Session(engine))
        session.begin_nested()
        use(session)
        kept.append(session)

    assert len(runs(body, 2)) == 2
    assert engine.pool.checkedout() == 0


def test_a_session_on_a_connection_of_the_apps_own(engine, runs, kept):
    """Its connection is rolled back too, where the session leaves that to it."""

    def body(_):
        connection = engine.connect()
        connection.begin()
        session = Session(connection, join_transaction_mode="create_savepoint")
        kept.extend([use(session), connection])

    found = runs(body, 1)
    assert [each.kind for each in found] == [LeakKind.TRANSACTIONS]
    assert "was rolled back" in found[0].reason
    assert not kept[1].in_transaction()


def test_an_invalidated_connection_is_given_back(engine, runs):
    """So is a detached one: it is no pool's any more."""

    def body(number):
        connection = use(engine.connect())
        connection.commit()
        if number % 2:
            connection.invalidate()
            connection.close()
        else:
            connection.detach()
            connection.close()

    assert runs(body, 10) == []


def test_a_session_that_the_server_has_ended_is_told_once(engine, runs, kept, pg):
    """It cannot be rolled back any more: said in a line."""

    def body(number):
        if number == 0:
            session = use(Session(engine))
            kept.append(session)
            pid = session.execute(sa.text("select pg_backend_pid()")).scalar()
            pg.ask(f"select pg_terminate_backend({pid})")

    (found,) = runs(body, 4)
    assert found.kind is LeakKind.TRANSACTIONS
    assert "could not be rolled back: OperationalError" in found.reason
    assert "\n" not in found.reason
