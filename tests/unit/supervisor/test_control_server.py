"""The control protocol, both sides over a socketpair: what is asked is answered, and nothing sent does harm."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from poolrt.control import ControlClient
from poolrt.errors import ControlError, SupervisorNotRunning
from poolrt.supervisor import requests
from poolrt.supervisor.control_server import MAX_REQUEST, ControlServer, Gate
from poolrt.supervisor.watcher import Watcher


class FakePool:
    """What ``scale`` and ``recycle`` ask of a pool."""

    wanted = 2
    quiet = False

    def set_quiet(self, *, quiet: bool) -> None:
        self.quiet = quiet

    def __init__(self) -> None:
        self.reconciled = 0
        self.recycled: list[list[int]] = []

    def reconcile(self) -> None:
        self.reconciled += 1

    def recycle(self, slots: list[int]) -> int:
        self.recycled.append(slots)
        return len(slots) or self.wanted


class FakeReporter:
    """Keeps what is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def emit(self, kind: str, **fields: Any) -> None:
        self.told.append(str(kind))


class FakeTemplate:
    """A template keeper that counts."""

    def __init__(self) -> None:
        self.reloads = 0

    def reload(self) -> None:
        self.reloads += 1


class FakeSupervisor:
    """What the requests ask of a supervisor."""

    node = "the-node"
    state = "serving"

    @property
    def serves(self) -> bool:
        return self.state in ("serving", "quiet")

    def __init__(self) -> None:
        self.pool: FakePool | None = FakePool()
        self.template = FakeTemplate()
        self.reporter = FakeReporter()
        self.gate = Gate()
        self.drained: list[tuple[str, float | None]] = []

    def drain(self, why: str, grace: float | None) -> None:
        self.drained.append((why, grace))

    failure = ""
    exit_code = 0


class Wire:
    """A client and its server, stepped by hand: no thread, no wait."""

    def __init__(self, *, owner: bool) -> None:
        self.supervisor = FakeSupervisor()
        self.gone = 0
        self.watcher = Watcher()
        self.server = ControlServer(self.watcher, self._serve, self._owner_gone)
        ours, theirs = socket.socketpair()
        if owner:
            self.server.adopt(theirs)
        else:
            from poolrt.supervisor.control_server import Client

            self.server._add(Client(theirs))
        self.socket = ours
        self.socket.settimeout(5)
        self.client = ControlClient(ours)

    def _serve(self, client: Any, request: dict[str, Any]) -> None:
        requests.serve(self.supervisor, client, request)  # type: ignore[arg-type]

    def _owner_gone(self) -> None:
        self.gone += 1

    def step(self) -> None:
        """What the supervisor's loop does when the connection is readable."""
        for client in list(self.server.clients):
            self.server._read(client)

    def say(self, raw: bytes) -> bytes:
        """Send raw bytes; what comes back."""
        self.socket.sendall(raw)
        self.step()
        return self.socket.recv(65536)

    def call(self, do: str, **arguments: Any) -> Any:
        """A client's call, whose answer is already under way when it reads."""
        send = self.socket.sendall
        step = self.step

        class Stepping:
            def __getattr__(self, name: str) -> Any:
                return getattr(wire_socket, name)

            def sendall(self, data: bytes) -> None:
                send(data)
                step()

        wire_socket = self.socket
        self.client._socket = Stepping()  # type: ignore[assignment]
        return self.client.call(do, timeout=5, **arguments)

    def close(self) -> None:
        self.server.close()
        self.watcher.close()
        self.socket.close()


@pytest.fixture
def wire() -> Iterator[Wire]:
    """An ordinary client."""
    wire = Wire(owner=False)
    yield wire
    wire.close()


def test_scale(wire: Wire) -> None:
    """Scaling changes what is wanted and acts at once."""
    assert wire.call("scale", n=5) == {"concurrency": 5}
    assert wire.supervisor.pool is not None
    assert (wire.supervisor.pool.wanted, wire.supervisor.pool.reconciled) == (5, 1)


@pytest.mark.parametrize("n", [-1, 501, "3", None, 2.5, [1]])
def test_scale_refuses_what_is_no_number_of_children(n: object, wire: Wire) -> None:
    """Anything but 0 to 500 is refused, and nothing changes."""
    with pytest.raises(ControlError, match="scale takes a number of children from 0 to 500, not"):
        wire.call("scale", n=n)
    assert wire.supervisor.pool is not None
    assert wire.supervisor.pool.wanted == 2


def test_recycle(wire: Wire) -> None:
    """Some slots, or all of them."""
    assert wire.call("recycle", slots=[0, 2]) == {"recycling": 2}
    assert wire.call("recycle") == {"recycling": 2}
    assert wire.supervisor.pool is not None
    assert wire.supervisor.pool.recycled == [[0, 2], []]
    with pytest.raises(ControlError):
        wire.call("recycle", slots=["first"])


def test_drain(wire: Wire) -> None:
    """A drain may bring its own grace."""
    assert wire.call("drain") == {"state": "draining"}
    assert wire.call("drain", grace="1m") == {"state": "draining"}
    assert wire.supervisor.drained == [("asked to", None), ("asked to", 60.0)]


@pytest.mark.parametrize("do", ["scale", "recycle"])
def test_a_node_that_does_not_serve_says_so(do: str, wire: Wire) -> None:
    """Before it is up and while it drains, a pool is neither scaled nor recycled."""
    wire.supervisor.state = "draining"
    with pytest.raises(ControlError, match="the node is draining"):
        wire.call(do, n=1)


def test_unknown_requests_name_the_known(wire: Wire) -> None:
    """A misspelt request is answered with those there are."""
    with pytest.raises(
        ControlError,
        match=r"unknown request 'stauts'; known: drain, events, leaks, quiet, ready, recycle, reload, "
        r"resume, scale, status",
    ):
        wire.call("stauts")


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"[]",
        b"1",
        b"null",
        b'"do"',
        b"\x00",
        b'{"do": 1}',
        b"{}",
        b"{1: 2}",
        b'{"do": "\xff"}',
        b'{"do": ' + b"[" * 50_000,
    ],
)
def test_lines_that_are_no_request_are_refused(line: bytes, wire: Wire) -> None:
    """Garbage is answered with a refusal, and the connection goes on."""
    assert wire.say(line + b"\n").startswith(b'{"ok":false,"error":"')
    assert wire.call("scale", n=1) == {"concurrency": 1}


def test_requests_in_pieces_and_together(wire: Wire) -> None:
    """A request may come a byte at a time, or several at once; each is answered once, in order."""
    raw = b'{"do":"scale","n":1}\n{"do":"scale","n":2}\n'
    for byte in raw[:-1]:
        wire.socket.sendall(bytes([byte]))
        wire.step()
    answers = wire.say(raw[-1:])
    assert answers.split(b"\n")[:-1] == [
        b'{"ok":true,"result":{"concurrency":1}}',
        b'{"ok":true,"result":{"concurrency":2}}',
    ]


def test_an_endless_line_drops_its_client(wire: Wire) -> None:
    """A client that never ends its line is hung up on, before it fills the supervisor's memory."""
    sent = 0
    while wire.server.clients and sent < 10 * MAX_REQUEST:
        sent += wire.socket.send(b"x" * 65536)
        wire.step()
    assert not wire.server.clients
    assert sent <= 3 * MAX_REQUEST


def test_events_reach_who_asked_for_them(wire: Wire) -> None:
    """After ``events`` each event is one line; before, none is sent."""
    wire.server.broadcast({"kind": "early"})
    assert wire.call("events") == {"node": "the-node"}
    wire.server.broadcast({"kind": "child-up"})
    stream = wire.client._events()
    assert next(stream) == {"kind": "child-up"}
    wire.server.close()
    assert list(stream) == []


def test_a_client_that_does_not_read_is_dropped(wire: Wire) -> None:
    """Events for a reader that stopped pile up to 4 MiB, then it is hung up on: it cannot hold the node."""
    wire.call("events")
    wire.socket.setblocking(False)
    for _ in range(200):
        wire.server.broadcast({"text": "x" * 65536})
    assert not wire.server.clients


def test_the_owner_ends_the_node_by_going(wire: Wire) -> None:
    """End-of-file from the program that started the supervisor is told; from another client it is not."""
    owned = Wire(owner=True)
    owned.client.half_close()
    owned.step()
    assert owned.gone == 1
    owned.close()
    wire.client.half_close()
    wire.step()
    assert wire.gone == 0
    assert not wire.server.clients


def test_a_supervisor_that_goes_away_is_named(wire: Wire) -> None:
    """A call into a closed connection says that the supervisor went away."""
    wire.server.close()
    with pytest.raises(SupervisorNotRunning, match="went away"):
        wire.client.call("status")


def test_no_answer_in_time(wire: Wire) -> None:
    """A supervisor that does not answer costs its caller the timeout, and is named."""
    with pytest.raises(ControlError, match=r"did not answer 'status' within 0\.01 s"):
        wire.client.call("status", timeout=0.01)


def test_quiet_and_resume(wire: Wire) -> None:
    """A node is made quiet and resumes; asked twice, it tells it once."""
    assert wire.call("quiet") == wire.call("quiet") == {"state": "quiet"}
    assert wire.supervisor.pool is not None
    assert wire.supervisor.pool.quiet
    assert wire.call("resume") == {"state": "serving"}
    assert not wire.supervisor.pool.quiet
    assert wire.supervisor.reporter.told == ["node-quiet", "node-resumed"]


def test_reload(wire: Wire) -> None:
    """A node that starts or serves reloads; one that ends does not."""
    for wire.supervisor.state in ("serving", "quiet", "starting"):
        assert wire.call("reload") == {"state": "reloading"}
    wire.supervisor.state = "draining"
    with pytest.raises(ControlError, match="cannot be reloaded now"):
        wire.call("reload")
    assert wire.supervisor.template.reloads == 3
