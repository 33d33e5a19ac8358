"""Real libraries as the subject: a PostgreSQL, a Redis, a web server, and runs of tasks that use them as people do.

``runs`` drives the watches directly, one look after each run; test_pool_*.py runs whole nodes.
"""

from __future__ import annotations

import gc
import http.server
import threading
from collections.abc import Callable, Iterator

import pytest

from poolrt.hygiene.findings import Finding, LeakKind
from poolrt.hygiene.pools.checked_out import CheckedOut
from poolrt.hygiene.pools.watch import PoolWatch
from poolrt.hygiene.transactions import TransactionWatch
from tests import postgres


@pytest.fixture(scope="session")
def pg() -> Iterator[postgres.Postgres]:
    """The PostgreSQL that tests share; nobody stops it or sets it up."""
    with postgres.postgres() as server:
        yield server


class Runs:
    """Runs of tasks, and what was found after each."""

    def __init__(self) -> None:
        self._out = CheckedOut()
        self._transactions = TransactionWatch(self._out)
        self._pools = PoolWatch(self._out)

    def __call__(
        self, body: Callable[[int], object], count: int = 5, task: str = "shop.pay", *, rolls_back: bool = True
    ) -> list[Finding]:
        """Run it so often; ``rolls_back``: transactions are looked at too, as under any policy but ignore."""
        found = []
        for number in range(count):
            body(number)
            if rolls_back:
                found += self._transactions.look({task: 1})
            found += self._pools.look({task: 1})
        return found

    def close(self) -> None:
        """Follow no library any more."""
        self._out.close()


@pytest.fixture
def runs() -> Iterator[Runs]:
    """``runs(body, count)``: the findings of so many runs of the task ``shop.pay``."""
    gc.collect()
    gc.freeze()  # as the template does: a collection is cheap then
    made = Runs()
    yield made
    made.close()
    gc.unfreeze()


def of_kind(kind: LeakKind, found: list[Finding]) -> list[Finding]:
    """Those of one kind."""
    return [each for each in found if each.kind is kind]


class _Pages(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections are kept alive

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(100_000))
        self.end_headers()
        self.wfile.write(b"x" * 100_000)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A client that leaves in the middle is the subject here."""


@pytest.fixture(scope="module")
def website() -> Iterator[str]:
    """The address of a page of 100 kB, on a server that keeps connections alive."""
    server = _Server(("127.0.0.1", 0), _Pages)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, name="website")
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    thread.join()
    server.server_close()
