"""Tasks as people write them: each forgets something of a real library, and beside it the same, done well.

``KEPT`` is what an app keeps by mistake; what is not in it is dropped at the end of the task.
"""

from __future__ import annotations

import os

import httpx
import pandas as pd
import redis
import requests
import sqlalchemy as sa
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from poolrt import App

app = App("shop", broker=os.environ.get("TEST_BROKER", "sqlite:///shop.db"))
DATABASE = os.environ.get("TEST_DATABASE", "postgresql+psycopg://")
REDIS = os.environ.get("TEST_REDIS", "redis://")
PAGE = os.environ.get("TEST_PAGE", "http://127.0.0.1/")
QUERY = sa.text("select 1")
KEPT: list[object] = []

engine = sa.create_engine(DATABASE)
psycopg2_engine = sa.create_engine(DATABASE.replace("+psycopg:", "+psycopg2:"))
shared = scoped_session(sessionmaker(engine))
store = redis.Redis.from_url(REDIS)
web = httpx.Client()


# ---- what is forgotten


@app.task
def session_not_closed() -> None:
    Session(engine).execute(QUERY)


@app.task
def session_kept() -> None:
    session = Session(psycopg2_engine)
    session.execute(QUERY)
    KEPT.append(session)


@app.task
def connection_kept() -> None:
    connection = engine.connect()
    connection.execute(QUERY)
    connection.commit()
    KEPT.append(connection)


@app.task
def engine_per_call() -> None:
    own = sa.create_engine(DATABASE)
    with own.connect() as connection:
        connection.execute(QUERY)
    KEPT.append(own)


@app.task
def table_read_from_a_connection() -> int:
    return len(pd.read_sql("select 1 as a", engine.connect()))


@app.task
def subscription_kept() -> None:
    subscription = store.pubsub()
    subscription.subscribe("orders")
    KEPT.append(subscription)


@app.task
def redis_client_per_call() -> None:
    client = redis.Redis.from_url(REDIS)
    client.ping()
    KEPT.append(client)


@app.task
def response_not_read() -> None:
    KEPT.append(requests.get(PAGE, stream=True, timeout=10))


@app.task
def http_client_per_call() -> None:
    client = httpx.Client()
    client.get(PAGE)
    KEPT.append(client)


# ---- the same, done well


@app.task
def good_session() -> None:
    with Session(engine) as session, session.begin():
        session.execute(QUERY)


@app.task
def good_scoped_session() -> None:
    shared.execute(QUERY)
    shared.commit()


@app.task
def good_engine_per_call() -> None:
    own = sa.create_engine(DATABASE)
    with own.connect() as connection:
        connection.execute(QUERY)
    own.dispose()


@app.task
def good_table() -> int:
    with psycopg2_engine.connect() as connection:
        return len(pd.read_sql("select 1 as a", connection))


@app.task
def good_subscription() -> None:
    with store.pubsub() as subscription:
        subscription.subscribe("orders")
    store.incr("orders")


@app.task
def good_response() -> int:
    with requests.get(PAGE, stream=True, timeout=10) as response:
        return len(response.content)


@app.task
def good_http() -> int:
    return len(web.get(PAGE).content)
