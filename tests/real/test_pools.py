"""redis-py, psycopg_pool and asyncio engines: what their pools miss after a run."""

from __future__ import annotations

import asyncio

import psycopg
import psycopg2
import psycopg_pool
import pytest
import redis
import redis.asyncio
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from poolrt.hygiene.findings import LeakKind


def told(found):
    """What is compared: kind, name, how many."""
    return [(each.kind, each.what, each.count) for each in found]


# ---- redis-py


@pytest.fixture(params=[redis.ConnectionPool, redis.BlockingConnectionPool])
def client(request, redis_server):
    """A client with a pool, closed in the end."""
    pool = request.param(host="127.0.0.1", port=redis_server.port)
    yield redis.Redis(connection_pool=pool)
    pool.disconnect()


def test_commands_pipelines_and_subscriptions_that_are_closed_leave_nothing(client, runs):
    """As they are documented."""

    def body(number):
        client.set("paid", number)
        with client.pipeline() as pipe:
            pipe.watch("paid")
            pipe.multi()
            pipe.incr("paid")
            pipe.execute()
        with client.pubsub() as subscription:
            subscription.subscribe("orders")

    assert runs(body, 20) == []


def test_subscriptions_that_an_app_keeps_are_named_at_the_second(client, runs, redis_server):
    """With server and database."""
    kept = []

    def body(_):
        subscription = client.pubsub()
        subscription.subscribe("orders")
        kept.append(subscription)

    found = runs(body, 3)
    peer = f"127.0.0.1:{redis_server.port}/0"
    assert told(found) == [(LeakKind.CHECKED_OUT, peer, 2), (LeakKind.CHECKED_OUT, peer, 1)]
    assert found[0].stack.splitlines()[0].endswith(".body")
    for subscription in kept:
        subscription.close()


def test_connections_taken_by_hand_are_named_at_the_second(client, runs, redis_server):
    """A pool was there before it was followed."""
    kept = []
    found = runs(lambda _: kept.append(client.connection_pool.get_connection()), 2)
    assert told(found) == [(LeakKind.CHECKED_OUT, f"127.0.0.1:{redis_server.port}/0", 2)]
    for connection in kept:
        client.connection_pool.release(connection)
    assert runs(lambda _: client.get("paid"), 5) == []


def test_a_client_for_each_run_leaves_nothing_out(runs, redis_server):
    """What its pool had given out goes with it."""

    def body(_):
        client = redis.Redis(host="127.0.0.1", port=redis_server.port)
        client.pubsub().subscribe("orders")
        client.close()

    assert runs(body, 10) == []


def test_asyncio_clients_are_followed_too(runs, redis_server):
    """A connection that is released is none."""
    with asyncio.Runner() as loop:
        pool = redis.asyncio.ConnectionPool(host="127.0.0.1", port=redis_server.port)
        kept = []

        async def body(number):
            await redis.asyncio.Redis(connection_pool=pool).get("paid")
            if number >= 10:
                kept.append(await pool.get_connection())

        found = runs(lambda number: loop.run(body(number)), 12)
        assert told(found) == [(LeakKind.CHECKED_OUT, f"127.0.0.1:{redis_server.port}/0", 2)]
        loop.run(pool.disconnect())


# ---- psycopg_pool


@pytest.fixture
def psycopg3_pool(pg):
    """A pool of up to four."""
    with psycopg_pool.ConnectionPool(pg.dsn, min_size=1, max_size=4) as pool:
        pool.wait()
        yield pool


def test_psycopg_pools_connections_in_a_with_block_leave_nothing(psycopg3_pool, runs):
    """Though its threads take them back."""

    def body(_):
        with psycopg3_pool.connection() as connection:
            connection.execute("select 1")

    assert runs(body, 50) == []


def test_psycopg_pools_connections_that_are_kept_are_named_at_the_second(psycopg3_pool, runs, pg):
    """And each transaction is rolled back."""
    kept = []

    def body(_):
        connection = psycopg3_pool.getconn()
        connection.execute("select 1")
        kept.append(connection)

    assert told(runs(body, 2)) == [
        (LeakKind.TRANSACTIONS, pg.peer, 1),
        (LeakKind.TRANSACTIONS, pg.peer, 1),
        (LeakKind.CHECKED_OUT, pg.peer, 2),
    ]
    assert pg.sessions("idle in transaction") == 0
    for connection in kept:
        psycopg3_pool.putconn(connection)


# ---- no pool at all


@pytest.mark.parametrize("driver", [psycopg, psycopg2])
def test_a_connection_of_the_apps_own_that_is_not_committed_is_rolled_back(driver, runs, pg):
    """As an app's only connection, opened by its first run."""
    kept = {}

    def body(_):
        if not kept:
            kept["db"] = driver.connect(pg.dsn)
        kept["db"].cursor().execute("select 1")

    found = runs(body, 30)
    assert told(found) == [(LeakKind.TRANSACTIONS, pg.peer, 1)] * len(found)
    assert len(found) > 10, "it is looked for 16 runs after it was opened, then known"
    assert pg.sessions("idle in transaction") == 0
    kept["db"].close()


@pytest.mark.parametrize("driver", [psycopg, psycopg2])
def test_a_connection_of_the_apps_own_that_is_committed_is_none(driver, runs, pg):
    """However long it stays open."""
    kept = driver.connect(pg.dsn)

    def body(_):
        kept.cursor().execute("select 1")
        kept.commit()

    assert runs(body, 20) == []
    kept.close()


# ---- asyncio engines


def test_an_asyncio_engine_is_followed_too(runs, pg):
    """What it leaves can be told, but only its own event loop may roll it back."""
    engine = create_async_engine(pg.url("psycopg"))
    kept = []

    async def body(number):
        async with engine.connect() as connection:
            await connection.execute(sa.text("select 1"))
        if number >= 5:
            kept.append(await engine.connect())
            await kept[-1].execute(sa.text("select 1"))

    async def close():
        for connection in kept:
            await connection.close()
        await engine.dispose()

    with asyncio.Runner() as loop:
        found = runs(lambda number: loop.run(body(number)), 7)
        loop.run(close())
    assert told(found) == [
        (LeakKind.TRANSACTIONS, pg.peer, 1),
        (LeakKind.TRANSACTIONS, pg.peer, 1),
        (LeakKind.CHECKED_OUT, pg.peer, 2),
    ]
    assert found[0].reason.endswith("was let be")
