"""``poolrt top`` on a pty, with a thread of the test in the supervisor's place.

test ──keys, resizes──▶ pty ──▶ python -m poolrt top ──▶ control socket ──▶ StandIn, a thread of the test
test ◀── Screen, a terminal of the few sequences that top uses ◀── pty
"""

from __future__ import annotations

import codecs
import json
import os
import pty
import re
import select
import socket
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import pytest

from poolrt.control import socket_path
from poolrt.posix.unix_sockets import listen_stream

ROOT = Path(__file__).resolve().parents[3]
PATIENCE = 20.0
ON_A_TERMINAL = "import os; e = os.dup(2); os.login_tty(0); os.dup2(e, 2); from poolrt.cli.main import main; main()"
"""Makes stdin's pty the controlling terminal, as a login does; stderr stays the test's."""
SEQUENCE = re.compile(r"\x1b\[(\??)([\d;]*)([A-Za-z])")


def node_status(**changes):
    """What the stand-in answers: a node with three children that run something."""
    rows = [
        {"slot": slot, "generation": 1, "pid": 100 + slot, "state": "up", "activity": "run", "task": f"jobs.t{slot}",
         "task_id": "a", "running_for": 1.0, "done": slot, "rss": 1 << 20, "max_tasks": 0}
        for slot in range(3)
    ]  # fmt: skip
    return {
        "node": "n", "app": "shop", "broker": "sqlite:////jobs.db", "incarnation": "i", "state": "serving",
        "uptime": 1.0, "concurrency": 3, "supervisor": {"pid": 7, "rss": 1 << 20}, "children": rows,
        "totals": {"done": 5, "failed": 0}, "queue": {"queued": 4}, "last_events": [], **changes,
    }  # fmt: skip


class StandIn:
    """Answers as a supervisor does.

    Attributes:
        status: what it says of itself; an uptime that counts is put in.
        asked: every request but for the status.
        looks: how many statuses were asked for.
        silent: whether it hears and says nothing.
        refusal: what it says to anything but a status.
    """

    def __init__(self) -> None:
        self.status = node_status()
        self.asked = []
        self.looks = 0
        self.silent = False
        self.refusal = ""
        self._listener = listen_stream(socket_path("n"))
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, name="stand-in")
        self._thread.start()

    def _serve(self) -> None:
        clients: dict[socket.socket, bytes] = {}
        while True:
            readable, _, _ = select.select([self._listener, self._woken, *clients], (), ())
            if self._woken in readable:
                break
            for sock in readable:
                if sock is self._listener:
                    clients[sock.accept()[0]] = b""
                    continue
                try:
                    data = sock.recv(65536)
                except ConnectionResetError:
                    data = b""
                *lines, clients[sock] = (clients[sock] + data).split(b"\n")
                for line in lines:
                    self._answer(sock, json.loads(line))
                if not data:
                    del clients[sock]
                    sock.close()
        for sock in clients:
            sock.close()

    def _answer(self, sock, request) -> None:
        if request["do"] == "status":
            self.looks += 1
            answer = {"ok": True, "result": {**self.status, "uptime": self.looks}}
        else:
            self.asked.append(request)
            results = {"scale": {"concurrency": request.get("n")}, "recycle": {"recycling": 1}}
            answer = {"ok": True, "result": results[request["do"]]}
            if self.refusal:
                answer = {"ok": False, "error": self.refusal}
        if not self.silent:
            try:
                sock.sendall(json.dumps(answer).encode() + b"\n")
            except BrokenPipeError:
                return  # it ended meanwhile

    def close(self) -> None:
        """Go away, with all connections; safe to call twice."""
        if self._thread.is_alive():
            self._wake.send(b"x")
            self._thread.join(10)
            for sock in (self._listener, self._wake, self._woken):
                sock.close()
            socket_path("n").unlink()


class Screen:
    """A terminal that knows moves, erasures and modes, and takes everything else for text."""

    def __init__(self) -> None:
        self.lines: dict[int, str] = {}
        self.modes: dict[str, bool] = {}
        self.clears = 0
        self.unknown: set[str] = set()
        self._row = self._column = 0
        self._rest = ""

    def feed(self, text: str) -> None:
        """Take what was written; a sequence or letter that is cut stays for the next time."""
        text, self._rest = self._rest + text, ""
        at = 0
        for found in SEQUENCE.finditer(text):
            self._put(text[at : found.start()])
            self._obey(*found.groups())
            at = found.end()
        rest = text[at:]
        cut = rest.find("\x1b")
        if cut >= 0:
            rest, self._rest = rest[:cut], rest[cut:]
        self._put(rest)

    def _put(self, text: str) -> None:
        if text:
            line = self.lines.get(self._row, "").ljust(self._column)
            self.lines[self._row] = line[: self._column] + text + line[self._column + len(text) :]
            self._column += len(text)

    def _obey(self, private: str, numbers: str, kind: str) -> None:
        if kind in "hl" and private:
            self.modes[numbers] = kind == "h"
        elif kind == "H":
            row, _, column = (numbers or "1;1").partition(";")
            self._row, self._column = int(row) - 1, int(column) - 1
        elif (numbers, kind) == ("2", "J"):
            self.lines.clear()
            self.clears += 1
        elif (numbers, kind) == ("2", "K"):
            self.lines.pop(self._row, None)
        elif kind != "m":
            self.unknown.add(private + numbers + kind)

    def __str__(self) -> str:
        return "\n".join(self.lines.get(row, "").rstrip() for row in range(max(self.lines, default=-1) + 1))


class Session:
    """``poolrt top`` on a terminal of the test."""

    def __init__(self, *arguments: str, columns: int, lines: int, env: dict[str, str]) -> None:
        self.ours, self.theirs = pty.openpty()
        termios.tcsetwinsize(self.theirs, (lines, columns))
        self.found = termios.tcgetattr(self.theirs)
        self.screen = Screen()
        self.decoder = codecs.getincrementaldecoder("utf-8")()
        self.process = subprocess.Popen(
            [sys.executable, "-c", ON_A_TERMINAL, "top", *arguments],
            stdin=self.theirs, stdout=self.theirs, stderr=subprocess.PIPE, start_new_session=True, env=env, text=True,
        )  # fmt: skip

    def read(self, timeout: float = 0.05) -> bool:
        """Take in what was written; whether there was something."""
        if not select.select([self.ours], (), (), timeout)[0]:
            return False
        self.screen.feed(self.decoder.decode(os.read(self.ours, 65536)))
        return True

    def until(self, condition, what: str):
        """Read until the condition holds."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, f"still not {what}:\n{self.screen}"
            assert self.read() or self.process.poll() is None, f"it ended: {self.process.stderr.read()}"
        return self

    def shows(self, text: str):
        """Wait until the text is on the screen."""
        return self.until(lambda: text in str(self.screen), f"shown: {text!r}")

    def press(self, keys: str):
        """Type."""
        os.write(self.ours, keys.encode())
        return self

    def resize(self, columns: int, lines: int) -> None:
        """Give the terminal another size; the kernel sends SIGWINCH."""
        termios.tcsetwinsize(self.ours, (lines, columns))

    def ends(self) -> tuple[int, str]:
        """Wait for the end: exit code and what is on stderr."""
        deadline = time.monotonic() + PATIENCE
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"it does not end:\n{self.screen}"
            self.read()
        while self.read(0.0):
            pass
        return self.process.returncode, self.process.stderr.read()

    @property
    def given_back(self) -> bool:
        """Whether settings, screen, cursor and wrapping are as they were found."""
        modes = self.screen.modes
        return (
            termios.tcgetattr(self.theirs) == self.found
            and modes == {"1049": False, "25": True, "7": True}
            and not self.screen.unknown
        )

    def close(self) -> None:
        """End whatever is left."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stderr.close()
        for fd in {self.ours, self.theirs} - {-1}:
            os.close(fd)


@pytest.fixture
def runtime(node_dir, monkeypatch):
    """The folder of control sockets."""
    monkeypatch.setenv("POOLRT_RUNTIME_DIR", str(node_dir / "run"))
    return node_dir / "run"


@pytest.fixture
def a_status():
    """``a_status(state="quiet")``: what a node of three children says."""
    return node_status


@pytest.fixture
def start_node(runtime):
    """``start_node()``: a supervisor that is a thread, under the name n; one at a time."""
    made = []

    def start() -> StandIn:
        made.append(StandIn())
        return made[-1]

    yield start
    for node in made:
        node.close()


@pytest.fixture
def node(start_node):
    """One that runs."""
    return start_node()


@pytest.fixture
def top(runtime):
    """``top("n")``: the command on a terminal of 100x30."""
    made = []

    def start(*arguments: str, columns: int = 100, lines: int = 30, **env: str) -> Session:
        env = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8", **env}
        made.append(Session(*arguments, columns=columns, lines=lines, env=env))
        return made[-1]

    yield start
    for session in made:
        session.close()
