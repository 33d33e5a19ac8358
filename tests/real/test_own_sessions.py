"""Sessions that an app opens by itself, on PostgreSQL: known from the moment they are opened."""

from __future__ import annotations

import importlib

import pytest

from poolrt.hygiene.findings import LeakKind


@pytest.fixture(params=["psycopg", "psycopg2"])
def connect(request, pg):
    """``connect()``: a session by this driver."""
    driver = importlib.import_module(request.param)
    opened = []

    def do():
        opened.append(driver.connect(f"host=127.0.0.1 port={pg.port} user=poolrt dbname=postgres"))
        return opened[-1]

    yield do
    for session in opened:
        session.close()


def test_it_is_told_after_the_run_that_left_it(connect, runs, pg):
    """The first too: nothing is looked for."""
    found = runs(lambda _: connect().cursor().execute("select 1"), 3)
    assert [(each.kind, each.task, each.what, each.count, each.runs) for each in found] == [
        (LeakKind.TRANSACTIONS, "shop.pay", pg.peer, 1, 1)
    ] * 3  # fmt: skip
    assert pg.sessions("idle in transaction") == 0


def test_other_tasks_are_not_blamed_for_it(connect, runs):
    """One in ten of the runs leaves it, others run between."""
    session = connect()

    def body(number):
        session.cursor().execute("select 1")
        if number % 10:
            session.rollback()

    found = [each for _ in range(5) for each in runs(lambda _: None, 3, "shop.good") + runs(body, 20)]
    assert {each.task for each in found} == {"shop.pay"}
    assert (sum(each.count for each in found), sum(each.runs for each in found)) == (10, 91)
