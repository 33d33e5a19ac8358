"""Whether an app that leaks database connections brings its database down: on poolrt not one task is refused.

    python -m stress.postgres [--small | --full] [--only poolrt | celery]

    PostgreSQL, max_connections = 20 (16 for the app) ◀── 3 children ──▶ ledger: a letter a task

The same tasks run on Celery's prefork pool with its defaults, for comparison. The exit code is 0 if poolrt refused
nothing, 1 if it did.
"""

from __future__ import annotations

import argparse
import collections
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from stress.bench import environments, process_tree
from stress.bench.services import RedisServer
from stress.postgres.leaky import OK, REFUSED, TITLES
from tests.postgres import Postgres, postgres

COUNTS: Final = {"small": 2_000, "full": 50_000}
FEWER: Final = {"small": 400, "full": 4_000}
"""Of the case in which a child is replaced after each second task."""
CELERY_COUNT: Final = 2_000
"""Enough to see it: what is refused takes as long as what is not."""
CASES: Final = (("session", 1.0), ("session", 0.02), ("connection", 1.0), ("connection", 0.02))
MAX_CONNECTIONS: Final = 20
CHILDREN: Final = 3
"""Each may have two leaked connections and one in use, and a successor beside it: 12 of the 16."""
STALLED_AFTER: Final = 40.0
environments.PACKAGES["celery-postgres"] = (
    *environments.PACKAGES["celery"], "sqlalchemy==2.1.9", "psycopg[binary]==3.3.9",
)  # fmt: skip


class Ran(NamedTuple):
    """What one case came to."""

    peer: str
    kind: str
    rate: float
    sent: int
    outcomes: collections.Counter[bytes]
    most: int
    """Sessions of the server at once, of those that were seen."""
    seconds: float
    said: str = ""
    """What poolrt told of it."""


class Ledger:
    """What tasks wrote."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def clear(self) -> None:
        """Start anew."""
        self.path.write_bytes(b"")

    def wait(self, count: int) -> collections.Counter[bytes]:
        """Wait for so many letters, or for as many as come."""
        seen, changed = -1, time.monotonic()
        while time.monotonic() - changed < STALLED_AFTER:
            now = self.path.stat().st_size
            if now >= count:
                break
            if now != seen:
                seen, changed = now, time.monotonic()
            time.sleep(0.05)
        return collections.Counter(bytes([letter]) for letter in self.path.read_bytes())


class Gauge:
    """Reads how many sessions the server has, from a thread: the largest number is kept."""

    def __init__(self, server: Postgres) -> None:
        import psycopg

        self.most = 0
        self._over = threading.Event()
        self._connection = psycopg.connect(f"{server.dsn} host={server.folder}", autocommit=True)
        self._thread = threading.Thread(target=self._read)

    def _read(self) -> None:
        query = "select count(*) from pg_stat_activity where client_port > 0"
        while not self._over.wait(0.02):
            (now,) = self._connection.execute(query).fetchone() or (0,)
            self.most = max(self.most, now)

    def __enter__(self) -> Gauge:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._connection.close()


def on_poolrt(count: int, kind: str, rate: float, server: Postgres, ledger: Ledger) -> Ran:
    """The case on a pool of this checkout, with its defaults."""
    from poolrt import Supervisor
    from stress.postgres.poolrt_app import app, ask

    ledger.clear()
    ask.enqueue_many([(kind, rate)] * count)
    began = time.monotonic()
    with Gauge(server) as gauge, Supervisor("stress.postgres.poolrt_app:app", concurrency=CHILDREN) as pool:
        outcomes = ledger.wait(count)
        took = time.monotonic() - began
        rows = pool.status().get("leaks", [])
        said = "; ".join(f"{row['task']} {row['kind']} {row['what']}: {row['count']}" for row in rows)
    app.close()
    return Ran("poolrt", kind, rate, count, outcomes, gauge.most, took, said)


@contextmanager
def celery_worker(folder: Path, env: dict[str, str]) -> Iterator[Path]:
    """A worker; where its interpreter is."""
    programs = environments.environment("celery-postgres")
    command = [programs / "celery", "-A", "stress.postgres.celery_app", "worker", "-c", str(CHILDREN), "-l", "CRITICAL"]
    with open(folder / "celery.log", "ab") as log:
        worker = subprocess.Popen(
            command, env=env, cwd=environments.CHECKOUT, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            preexec_fn=process_tree.die_with_parent,  # noqa: PLW1509  no other thread runs yet
        )  # fmt: skip
    try:
        yield programs
    finally:
        members = process_tree.tree(worker.pid)
        worker.terminate()
        try:
            worker.wait(10)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()
        for pid in members & process_tree.processes().keys():
            os.kill(pid, 9)


def on_celery(count: int, kind: str, rate: float, server: Postgres, ledger: Ledger) -> Ran:
    """The case on Celery's prefork pool, with its defaults."""
    ledger.clear()
    with ExitStack() as stack:
        redis = RedisServer(ledger.path.parent)
        stack.callback(redis.stop)
        env = {**os.environ, "LEAKY_BROKER": redis.url, "PYTHONPATH": str(environments.CHECKOUT)}
        python = stack.enter_context(celery_worker(ledger.path.parent, env)) / "python"
        gauge = stack.enter_context(Gauge(server))
        began = time.monotonic()
        subprocess.run(
            [python, "-m", "stress.postgres.celery_app", str(count), kind, str(rate)], env=env, check=True,
            cwd=environments.CHECKOUT,
        )  # fmt: skip
        outcomes = ledger.wait(count)
    return Ran("celery", kind, rate, count, outcomes, gauge.most, time.monotonic() - began)


def report(rows: list[Ran]) -> None:
    """Print the table."""
    print(f"\nPostgreSQL, max_connections = {MAX_CONNECTIONS}; {CHILDREN} children\n")
    titles = "".join(f"{title:>22}" for title in TITLES.values())
    print(f"{'':8}{'leaks':12}{'at':>6}{'tasks':>9}{titles}{'most sessions':>15}{'seconds':>9}")
    for ran in rows:
        counts = "".join(f"{ran.outcomes[letter]:22}" for letter in TITLES)
        print(f"{ran.peer:8}{ran.kind:12}{ran.rate:6}{ran.sent:9}{counts}{ran.most:15}{ran.seconds:9.1f}")
        if ran.said:
            print(f"{'':8}told: {ran.said}")


def main() -> int:
    """Do what the command line says; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m stress.postgres", description=__doc__.partition("\n")[0])
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--small", dest="size", action="store_const", const="small", default="small", help="2,000 tasks")
    size.add_argument("--full", dest="size", action="store_const", const="full", help="50,000 tasks on poolrt")
    parser.add_argument("--only", choices=("poolrt", "celery"), help="run one of both")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="leaky-"))
    ledger = Ledger(folder / "ledger")
    ledger.clear()
    rows = []
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder)
        server = stack.enter_context(postgres(max_connections=str(MAX_CONNECTIONS)))
        # Of the 20, three are kept for superusers, and one is the gauge's.
        server.ask("create role app login")
        os.environ |= {
            "LEAKY_DATABASE": server.url(user="app"), "LEAKY_LEDGER": str(ledger.path),
            "LEAKY_BROKER": f"sqlite:///{folder}/leaky.db", "POOLRT_RUNTIME_DIR": str(folder),
        }  # fmt: skip
        for kind, rate in CASES:
            if options.only != "celery":
                count = COUNTS[options.size] if (kind, rate) != ("connection", 1.0) else FEWER[options.size]
                rows.append(on_poolrt(count, kind, rate, server, ledger))
            if options.only != "poolrt":
                rows.append(on_celery(CELERY_COUNT, kind, rate, server, ledger))
        report(rows)
    lost = [ran for ran in rows if ran.peer == "poolrt" and (ran.outcomes[REFUSED] or ran.outcomes[OK] < ran.sent)]
    for ran in lost:
        print(f"WRONG: poolrt, {ran.kind} at {ran.rate}: {ran.outcomes[OK]} of {ran.sent} done")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
