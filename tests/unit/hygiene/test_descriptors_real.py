"""`DescriptorWatch` with this process's own descriptors: what a pure test assumes of the kernel is true."""

from __future__ import annotations

import gc
import os
import resource
import socket
import tempfile
import threading
from contextlib import ExitStack

import pytest

from poolrt.hygiene.descriptors import DescriptorWatch
from poolrt.hygiene.findings import LeakKind
from poolrt.posix.descriptors import limit, lowest_free, open_count, scan

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="read from /proc")


class Server:
    """Listens on loopback; accepts at once, and answers what comes by the same."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.address = self.listener.getsockname()
        self.name = "{}:{}".format(*self.address)

    def close(self) -> None:
        self.listener.close()


class Clients:
    """Connections to servers, made from the test's process alone: what is accepted waits in the backlog."""

    def __init__(self) -> None:
        self.open: list[socket.socket] = []

    def connect(self, server: Server) -> socket.socket:
        sock = socket.create_connection(server.address)
        sock.send(b"hello")
        self.open.append(sock)
        return sock

    def close(self) -> None:
        while self.open:
            self.open.pop().close()


@pytest.fixture
def server():
    """One server, closed at the end."""
    server = Server()
    yield server
    server.close()


@pytest.fixture
def clients():
    """Connections that end with the test."""
    clients = Clients()
    yield clients
    clients.close()


def drive(runs, *tasks):
    """Run tasks in turn under a new watch, until there is a Finding: ``(runs of its task, Finding)``, or None."""
    gc.collect()  # garbage of earlier tests must not close anything meanwhile
    watch = DescriptorWatch(limit(), lowest_free(), scan)
    had = dict.fromkeys((name for name, _ in tasks), 0)
    for run in range(runs):
        name, function = tasks[run % len(tasks)]
        function()
        had[name] += 1
        found = watch.after(name, lowest_free())
        if found:
            (finding,) = found
            return had[name], finding
    return None


def temp_file():
    with tempfile.TemporaryFile() as file:
        file.write(b"x")


def pair_closed():
    for end in socket.socketpair():
        end.close()


def test_a_leaking_task_is_found_within_fifty_runs(server, clients):
    """Used in its own run or not, its connections are never used again."""
    had, found = drive(50, ("shop.fetch", lambda: clients.connect(server)))
    assert had == 30
    assert found.key == (LeakKind.CONNECTIONS, "shop.fetch", server.name)
    assert (found.count, found.runs) == (30, 30)
    assert found.reason == f"leak: 30 of 30 runs of shop.fetch left a socket to {server.name} open"


def test_it_is_told_from_two_innocent_tasks(server, clients):
    """Between tasks that open and close files and sockets, it alone is named."""
    had, found = drive(150, ("files", temp_file), ("leaky", lambda: clients.connect(server)),
                       ("pairs", pair_closed))  # fmt: skip
    assert (had, found.task, found.what) == (30, "leaky", server.name)


def test_a_connection_made_under_an_open_file_is_found(server, clients):
    """It does not move the lowest free number: the count finds it."""

    def work():
        with tempfile.TemporaryFile():
            clients.connect(server)

    had, found = drive(50, ("t", work))
    assert (had, found.task, found.what) == (30, "t", server.name)
    assert found.count >= 29  # the first is nobody's where the table had holes to begin with


def test_an_answer_that_nobody_read_is_no_use(server, clients):
    """A response left open with its body still coming is leaked like any other."""
    accepted = []

    def work():
        for end in accepted:
            end.send(b"more of the answer")
        clients.connect(server)
        accepted.append(server.listener.accept()[0])
        accepted[-1].send(b"the answer")

    # The server's ends are open here too, and are written to: half of what is left is in use.
    had, found = drive(50, ("t", work))
    for end in accepted:
        end.close()
    assert (had, found.task, found.what, found.count) == (30, "t", server.name, 30)


@pytest.mark.parametrize("kind", ["file", "listener", "pipe", "unix pair", "event loop"])
def test_other_things_left_at_each_run_are_found(kind):
    """Files, listeners, pipes, pairs, and the loops that nobody closed."""
    import asyncio

    with ExitStack() as left:

        def work():
            if kind == "file":
                left.enter_context(tempfile.TemporaryFile())
            elif kind == "listener":
                left.enter_context(socket.create_server(("127.0.0.1", 0)))
            elif kind == "pipe":
                for fd in os.pipe():
                    left.callback(os.close, fd)
            elif kind == "unix pair":
                for end in socket.socketpair():
                    left.enter_context(end)
            else:
                left.callback(asyncio.new_event_loop().close)

        had, found = drive(50, ("t", work))
    assert had == 30
    assert found.task == "t"
    said = {
        "file": "a file /", "listener": "a socket listening on 127.0.0.1", "pipe": "a pipe (60 in all)",
        "unix pair": "a socketpair (60 in all)", "event loop": "a socketpair (60 in all) and 30 others",
    }  # fmt: skip
    assert said[kind] in found.reason


def test_a_pool_that_warms_up_is_innocent(server, clients):
    """To 100 connections by one a run, all in use; in runs far shorter than the kernel's clock tick."""

    def work():
        for sock in clients.open:
            sock.send(b"x")
        if len(clients.open) < 100:
            clients.connect(server)

    assert drive(2000, ("t", work)) is None


@pytest.mark.parametrize("each", ["all", "one"])
def test_keep_alive_to_forty_peers_is_innocent(clients, each):
    """Used by each run, or one of them by each run in turn."""
    with ExitStack() as stack:
        servers = [Server() for _ in range(40)]
        for server in servers:
            stack.callback(server.close)
        kept = {}
        turns = iter(range(10_000))

        def use(server):
            if server.name in kept:
                kept[server.name].send(b"x")
            else:
                kept[server.name] = clients.connect(server)

        def work():
            if each == "all":
                for server in servers:
                    use(server)
            else:
                use(servers[next(turns) % 40])

        assert drive(2000 if each == "one" else 300, ("t", work)) is None


def test_files_and_connections_that_are_closed_are_innocent(server):
    """2,000 runs that leave nothing are counted now and then, and never scanned."""

    def fetch():
        with tempfile.TemporaryFile(), socket.create_connection(server.address):
            server.listener.accept()[0].close()

    assert drive(2000, ("fetch", fetch), ("files", temp_file)) is None


def test_what_is_in_garbage_cycles_is_told_as_that():
    """Only the collector closes it, and it is asked before anything is said."""

    class Cycle:
        def __init__(self) -> None:
            self.me = self
            self.fds = os.pipe()

        def __del__(self) -> None:
            for fd in self.fds:
                os.close(fd)

    gc.disable()
    try:
        had, found = drive(500, ("t", Cycle))
        assert (had, found.kind, found.what, found.count) == (30, LeakKind.UNCLOSED, "pipe", 60)
    finally:
        gc.enable()
        gc.collect()


def test_reused_numbers_are_no_evidence(server, clients):
    """A task that opens a new connection for each old one, and one more, keeps none for long."""

    def work():
        count = len(clients.open)
        clients.close()
        server.listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            while True:
                server.listener.accept()[0].close()
        for _ in range(count + 1):
            clients.connect(server)

    assert drive(60, ("t", work)) is None


@pytest.mark.parametrize("hidden", [False, True])
def test_a_table_is_never_full(server, clients, hidden):
    """With a low limit the child is told in time, by task and peer; also where the numbers show nothing."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    gc.collect()
    room = open_count() + 60
    resource.setrlimit(resource.RLIMIT_NOFILE, (room, hard))
    try:
        turns = iter(range(1000))

        def work():
            with ExitStack() as stack:
                if hidden:
                    stack.enter_context(tempfile.TemporaryFile())
                for _ in range(3 if next(turns) % 2 else 0):
                    clients.connect(server)

        _, found = drive(200, ("t", work), ("files", temp_file))
        assert found.reason.startswith("near the limit: ")
        assert found.key == (LeakKind.CONNECTIONS, "t", server.name)
        assert 0.7 * room < open_count() < room - 3
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_full_table_is_survived(server, clients):
    """Where one run takes all there is, the watch still says so, by peer: it needs no descriptor."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_count() + 40, hard))
    try:

        def work():
            with pytest.raises(OSError, match="Too many open files"):
                while True:
                    clients.connect(server)

        had, found = drive(1, ("t", work))
        assert (had, found.task, found.what) == (1, "t", server.name)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_busy_thread_beside_it_hides_no_full_table(server, clients):
    """Another thread's descriptors blur the growth of single runs; the limit is watched all the same."""
    stop = threading.Event()

    def flicker():
        while not stop.is_set():
            pair_closed()

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_count() + 80, hard))
    thread = threading.Thread(target=flicker)
    thread.start()
    found = []
    try:
        watch = DescriptorWatch(limit(), lowest_free(), scan)
        for _ in range(100):
            clients.connect(server)
            if found := watch.after("t", lowest_free()):
                break
    finally:
        stop.set()
        thread.join()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert {each.task for each in found} == {"t"}, "before connect() met EMFILE"
    assert {each.what for each in found} <= {server.name, "socketpair"}, "the thread's may be seen as well"
