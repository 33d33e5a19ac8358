"""Whole nodes run tasks that use real libraries: what each leaves is told with the right task and peer, and no more."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import pytest

from poolrt import Supervisor

RUNS = 40
"""More than the 30 in a row after which unused connections are a leak."""
HERE = Path(__file__).parent


@pytest.fixture
def shop(pg, redis_server, website, node_dir, monkeypatch):
    """The app's module, on a broker of this test alone."""
    monkeypatch.setenv("POOLRT_RUNTIME_DIR", str(node_dir / "run"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), str(HERE.parents[1])]))
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.setenv("TEST_BROKER", f"sqlite:///{node_dir}/shop.db")
    monkeypatch.setenv("TEST_DATABASE", pg.url())
    monkeypatch.setenv("TEST_REDIS", redis_server.url())
    monkeypatch.setenv("TEST_PAGE", website)
    module = importlib.import_module("leaky_shop")
    yield module
    module.app.close()
    module.web.close()
    del sys.modules["leaky_shop"]


def leaks_of(shop, names, **settings):
    """What a node tells of these tasks, each run 40 times in turn: kinds and peers, by the task's name."""
    with Supervisor("leaky_shop:app", concurrency=1, **settings) as pool:
        for name in names:
            for result in getattr(shop, name).enqueue_many([()] * RUNS):
                result.get(30)
        rows = pool.status()["leaks"]
    found: dict[str, set[tuple[str, str]]] = {}
    for row in rows:
        found.setdefault(row["task"].rpartition(".")[2], set()).add((row["kind"], row["what"]))
    return found


@pytest.mark.timeout(180)
def test_what_is_forgotten_is_told_with_its_task_and_peer(shop, pg, redis_server, website):
    """Each under its own name, with the server it leads to; children that leave are replaced meanwhile."""
    names = [name for name in shop.app.tasks if not name.rpartition(".")[2].startswith("good_")]
    found = leaks_of(shop, [name.rpartition(".")[2] for name in names], leak_policy="memory=ignore")
    database = pg.peer
    address = database.partition("/")[0]
    server = f"127.0.0.1:{redis_server.port}"
    page = website.removeprefix("http://").rstrip("/")
    for task, told in {
        "session_not_closed": ("transactions", database),
        "session_kept": ("transactions", database),
        "connection_kept": ("checked-out", database),
        "engine_per_call": ("connections", address),
        "table_read_from_a_connection": ("transactions", database),
        "subscription_kept": ("checked-out", f"{server}/0"),
        "redis_client_per_call": ("connections", server),
        "response_not_read": ("connections", page),
        "http_client_per_call": ("connections", page),
    }.items():
        assert told in found.get(task, set()), (task, found)


@pytest.mark.timeout(180)
def test_what_is_done_well_is_not_told(shop):
    """Pools, shared clients, scoped sessions, with-blocks."""
    names = [short for name in shop.app.tasks if (short := name.rpartition(".")[2]).startswith("good_")]
    assert leaks_of(shop, names, leak_policy="memory=ignore") == {}


BAD_IMPORT = """
import os
import sqlalchemy as sa
from poolrt import App

app = App("shop", broker=os.environ["TEST_BROKER"])
engine = sa.create_engine(os.environ["TEST_DATABASE"])
with engine.connect() as connection:
    connection.execute(sa.text("select 1"))
"""


@pytest.mark.timeout(120)
def test_a_connection_that_would_cross_a_fork_is_refused(shop, node_dir, pg, monkeypatch, capfd):
    """With its peer, its library and what to do; unless the policies allow it, or the import closes it."""
    (node_dir / "bad_import.py").write_text(BAD_IMPORT)
    (node_dir / "good_import.py").write_text(BAD_IMPORT + "engine.dispose()\n")
    monkeypatch.syspath_prepend(str(node_dir))
    address = pg.peer.partition("/")[0]
    with pytest.raises(Exception, match=f"{address} [(]psycopg[)].*engine.dispose"):
        Supervisor("bad_import:app", concurrency=1).start()
    with Supervisor("good_import:app", concurrency=1) as pool:
        assert pool.status()
    with Supervisor("bad_import:app", concurrency=1, leak_allow=f"connections:{address}") as pool:
        assert pool.status()
    capfd.readouterr()
