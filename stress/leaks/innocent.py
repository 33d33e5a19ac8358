"""Workloads that leak nothing, though much of what they do looks like it: nothing may be found.

To add one, write a function with `@innocent`: it is called once and returns what one run does; its first sentence says
what it is.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import subprocess
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from stress.leaks.site import Pool, Site, ask

Run = Callable[[], object]
INNOCENT: Final[dict[str, Callable[[Site], Run]]] = {}


def innocent(make: Callable[[Site], Run]) -> Callable[[Site], Run]:
    """Enter a workload by its function's name."""
    INNOCENT[make.__name__.replace("_", " ")] = make
    return make


# ---- pools


@innocent
def one_pooled_connection(site: Site) -> Run:
    """One connection, used by each run."""
    return Pool(site.connect, 1).use


@innocent
def pool_to_20_first_in_first_out(site: Site) -> Run:
    """Up to 20 at once."""
    pool = Pool(site.connect, 20)
    return lambda: pool.use(site.rng.randint(1, 20))


@innocent
def pool_to_20_last_in_first_out(site: Site) -> Run:
    """The same, taking the last one first; rarely more than two at once."""
    pool = Pool(site.connect, 20, last_first=True)
    return lambda: pool.use(min(20, int(site.rng.paretovariate(1))))


@innocent
def pool_grows_by_one_in_100_tasks(site: Site) -> Run:
    """One more in a hundred runs, to 50, and each run draws one of them."""
    kept = [site.connect()]
    runs = itertools.count(1)

    def run() -> None:
        if next(runs) % 100 == 0 and len(kept) < 50:
            kept.append(site.connect())
        ask(site.rng.choice(kept))

    return run


@innocent
def pool_with_peaks(site: Site) -> Run:
    """One run in 50 needs 15, of which 5 are kept."""
    pool = Pool(site.connect, 5)
    return lambda: pool.use(15 if site.rng.random() < 0.02 else 1)


@innocent
def pool_opened_in_advance(site: Site) -> Run:
    """Ten connections in the first ten runs, of which two are used."""
    kept: list[socket.socket] = []

    def run() -> None:
        if len(kept) < 10:
            kept.append(site.connect())
        ask(site.rng.choice(kept[:2]))

    return run


@innocent
def pool_with_a_lifetime(site: Site) -> Run:
    """Eight connections, each closed and made anew after 100 uses."""
    kept: list[tuple[socket.socket, int]] = []
    runs = itertools.count()

    def run() -> None:
        now = next(runs)
        place = now % 8
        if len(kept) <= place:
            kept.append((site.connect(), now))
        elif now - kept[place][1] > 100:
            kept[place][0].close()
            kept[place] = (site.connect(), now)
        ask(kept[place][0])

    return run


@innocent
def pool_over_a_unix_socket(site: Site) -> Run:
    """Up to 20 connections that do not tell their use, one more in a hundred runs."""
    kept: list[socket.socket] = []
    runs = itertools.count()

    def run() -> None:
        if next(runs) % 100 == 0 and len(kept) < 20:
            kept.append(site.connect_unix())
        ask(site.rng.choice(kept))

    return run


@innocent
def connection_of_each_thread(site: Site) -> Run:
    """A pool of 16 threads, each with its own connection."""
    executor = ThreadPoolExecutor(16)
    own = threading.local()

    def work() -> None:
        if not hasattr(own, "sock"):
            own.sock = site.connect()
        ask(own.sock)

    def run() -> None:
        for done in [executor.submit(work) for _ in range(site.rng.randint(1, 4))]:
            done.result()

    return run


# ---- clients that keep connections


def _keep_alive(site: Site, hosts: int) -> Run:
    kept: dict[str, socket.socket] = {}

    def run() -> None:
        host = f"127.0.1.{site.rng.randrange(hosts)}"
        if host not in kept:
            kept[host] = site.connect(host)
        ask(kept[host])

    return run


@innocent
def keep_alive_to_40_hosts(site: Site) -> Run:
    """One connection to each host."""
    return _keep_alive(site, 40)


@innocent
def keep_alive_to_250_hosts(site: Site) -> Run:
    """The same with more hosts than are used twice in some hundred runs."""
    return _keep_alive(site, 250)


def _tenants(site: Site, many: int) -> Callable[[], int]:
    """Draws one of so many, the n-th of which comes 1/n as often as the first."""
    weights = [1 / (n + 1) for n in range(many)]
    return lambda: site.rng.choices(range(many), weights)[0]


@innocent
def connection_of_each_tenant(site: Site) -> Run:
    """40 to one server, the last of which is used in one of 170 runs."""
    return _lru(site, 40, _tenants(site, 40))


@innocent
def connection_of_150_tenants(site: Site) -> Run:
    """The same, the last of which is used in one of 840 runs."""
    return _lru(site, 150, _tenants(site, 150))


def _lru(site: Site, most: int, draw: Callable[[], int]) -> Run:
    kept: OrderedDict[int, socket.socket] = OrderedDict()

    def run() -> None:
        key = draw()
        if key not in kept:
            if len(kept) == most:
                kept.popitem(last=False)[1].close()
            kept[key] = site.connect()
        kept.move_to_end(key)
        ask(kept[key])

    return run


@innocent
def lru_of_20_connections(site: Site) -> Run:
    """To one server; the oldest is closed, mostly without having been used again."""
    return _lru(site, 20, lambda: site.rng.randrange(1000))


@innocent
def lru_of_100_connections(site: Site) -> Run:
    """To one server, for 300 tenants; the oldest is closed."""
    return _lru(site, 100, _tenants(site, 300))


@innocent
def reconnecting_client(site: Site) -> Run:
    """The server closes the connection in every hundredth run; the next one makes another."""
    runs = itertools.count()
    kept: list[socket.socket] = []

    def run() -> None:
        if next(runs) % 100 == 0:
            for sock in kept:
                sock.sendall(b"bye\n")
                sock.close()
            kept[:] = [site.connect()]
        ask(kept[0])

    return run


@innocent
def subscribers_that_only_read(site: Site) -> Run:
    """Twelve connections, one more in a hundred runs, on which only the server speaks once they are made."""
    kept: list[socket.socket] = []
    runs = itertools.count()

    def run() -> None:
        if next(runs) % 100 == 0 and len(kept) < 12:
            sock = site.connect()
            sock.sendall(b"x" * 2000)
            kept.append(sock)
        site.rng.choice(kept).recv(1)

    return run


@innocent
def connection_for_each_run(site: Site) -> Run:
    """Made, used and closed."""

    def run() -> None:
        with site.connect() as sock:
            ask(sock)

    return run


@innocent
def udp_of_each_logger(site: Site) -> Run:
    """Eight UDP sockets, one more in fifty runs."""
    kept: list[socket.socket] = []
    runs = itertools.count()

    def run() -> None:
        if next(runs) % 50 == 0 and len(kept) < 8:
            kept.append(socket.socket(type=socket.SOCK_DGRAM))
            kept[-1].connect(("127.0.0.1", 9))
        site.rng.choice(kept)

    return run


# ---- others


@innocent
def listening_sockets(site: Site) -> Run:
    """Six, one more in a hundred runs."""
    kept: list[socket.socket] = []
    runs = itertools.count()

    def run() -> None:
        if next(runs) % 100 == 0 and len(kept) < 6:
            kept.append(socket.create_server(("127.0.0.1", 0)))

    return run


@innocent
def event_loop_for_each_run(site: Site) -> Run:
    """Made by asyncio.run, and closed."""
    return lambda: asyncio.run(asyncio.sleep(0))


@innocent
def event_loops_of_threads(site: Site) -> Run:
    """Ten loops that are kept, one more in a hundred runs."""
    kept: list[asyncio.AbstractEventLoop] = []
    runs = itertools.count()

    def run() -> None:
        if next(runs) % 100 == 0 and len(kept) < 10:
            kept.append(asyncio.new_event_loop())
        site.rng.choice(kept).run_until_complete(asyncio.sleep(0))

    return run


@innocent
def processes_that_end(site: Site) -> Run:
    """In one of ten runs a process with pipes, waited for."""

    def run() -> None:
        if site.rng.random() < 0.1:
            subprocess.run(["true"], input=b"x", stdout=subprocess.PIPE, check=True)

    return run


@innocent
def threads_that_end(site: Site) -> Run:
    """Each with a connection of its own, waited for."""

    def work() -> None:
        with site.connect() as sock:
            ask(sock)

    def run() -> None:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()

    return run
