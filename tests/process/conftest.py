"""Nodes of real processes: ``poolrt serve`` in a private folder, and what it said, read from its JSON log.

    test ──serve("process_apps:app", …)──▶ Node ──exec──▶ python -m poolrt serve … 2> node.log
    node.log ──one JSON object a line──▶ node.events("child-recycled"), node.wait_event(…)
    process_apps tasks ──O_APPEND──▶ ledger ──▶ ledger.lines()

A node ends with its test: whatever is left of it then is ended, and a log that tells of an impossible move, or of
a traceback nobody asked for, fails the test.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from poolrt.control import ControlClient
from poolrt.errors import SupervisorNotRunning
from poolrt.message import decode_record

HERE = Path(__file__).parent
POLL = 0.005
_numbers = itertools.count(1)


@pytest.fixture(autouse=True)
def place(node_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of this test's nodes, their control sockets' too; supervisors raise on an impossible move."""
    prepare(node_dir, monkeypatch)
    return node_dir


def prepare(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point what is started from now on at ``folder``."""
    for name in [name for name in os.environ if name.startswith("POOLRT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("POOLRT_RUNTIME_DIR", str(folder / "run"))
    monkeypatch.setenv("POOLRT_STRICT", "1")
    monkeypatch.setenv("TEST_BROKER", f"sqlite:///{folder}/p.db")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), str(HERE.parents[1])]))
    monkeypatch.syspath_prepend(str(HERE))


@pytest.fixture
def app(place: Path) -> Iterator[object]:
    """The App of process_apps on this test's broker file."""
    import process_apps

    made = process_apps.build(f"sqlite:///{place}/p.db")
    yield made
    made.close()


@pytest.fixture
def tasks(app) -> types.SimpleNamespace:
    """The app's tasks by name."""
    return types.SimpleNamespace(**app.tasks)


class Ledger:
    """What tasks wrote."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def lines(self) -> list[list[str]]:
        """Each line's words."""
        try:
            return [line.split() for line in self.path.read_text().splitlines()]
        except FileNotFoundError:
            return []

    def column(self, number: int = 0) -> list[str]:
        """One word of each line."""
        return [words[number] for words in self.lines()]

    def strays(self) -> list[int]:
        """The pids that tasks wrote as strays."""
        return [int(words[1]) for words in self.lines() if words[0] == "stray"]


@pytest.fixture
def ledger(place: Path) -> Ledger:
    """A ledger for this test."""
    return Ledger(place / "ledger")


@pytest.fixture
def gate(place: Path) -> Path:
    """A file that tasks wait for: ``gate.touch()`` lets them go."""
    return place / "gate"


@pytest.fixture
def record(app) -> Callable[[object], object]:
    """``record(result)``: the stored record of a task that ended, or None."""

    def find(result):
        found = app.broker.find(result.id)
        return None if found is None or found.record is None else decode_record(found.record)

    return find


class Node:
    """One ``poolrt serve`` and its log."""

    def __init__(self, command: list[str], log: Path, name: str, env: dict[str, str], cwd: Path) -> None:
        self.name = name
        self.log = log
        self.expects_traceback = False
        self._seen = 0
        self._lines: list[dict] = []
        with open(log, "wb") as file:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=env, cwd=cwd, process_group=0
            )
        self.pid = self.process.pid

    # ---- what it says

    def lines(self) -> list[dict]:
        """Every whole line of its log; one that is no JSON is ``{"text": …}``."""
        with open(self.log, "rb") as file:
            file.seek(self._seen)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._seen += len(whole)
        for line in whole.decode(errors="replace").splitlines():
            try:
                found = json.loads(line)
            except ValueError:
                found = None
            # A traceback may have torn a line of the log in two, or consist of what is JSON by chance.
            self._lines.append(found if isinstance(found, dict) and "ts" in found else {"text": line})
        return self._lines

    def text(self) -> str:
        """The log as it is."""
        return self.log.read_text(errors="replace")

    def told(self) -> list[str]:
        """The log as people read it."""
        return [
            line["text"] if "text" in line else f"{line['ts'] % 1000:7.3f} {line['level'][:4]} {line['msg']}"
            for line in self.lines()
        ]

    def plain(self) -> str:
        """What was written beside the log: a traceback of our own, the one line of a refusal."""
        return "\n".join(line["text"] for line in self.lines() if "text" in line)

    def messages(self, level: str = "") -> list[str]:
        """The texts of its log, of one level or all."""
        return [line["msg"] for line in self.lines() if "msg" in line and level in ("", line["level"])]

    def events(self, kind: str = "", **fields: object) -> list[dict]:
        """Its events so far, of one kind, with these fields."""
        return [
            event
            for event in (line["event"] for line in self.lines() if "event" in line)
            if kind in ("", event["kind"]) and all(event.get(name) == value for name, value in fields.items())
        ]

    def wait_event(self, kind: str, count: int = 1, timeout: float = 15.0, **fields: object) -> list[dict]:
        """Wait until there are ``count`` such events."""
        self.wait(lambda: len(self.events(kind, **fields)) >= count, f"{count} event(s) {kind} {fields or ''}", timeout)
        return self.events(kind, **fields)

    def wait(self, condition: Callable[[], object], what: str, timeout: float = 15.0) -> None:
        """Wait until the condition is true while the node lives."""
        deadline = time.monotonic() + timeout
        while not condition():
            if self.process.poll() is not None and not condition():
                pytest.fail(f"node {self.name} ended with {self.process.returncode}, still not: {what}")
            if time.monotonic() > deadline:
                pytest.fail(f"after {timeout:g} s still not: {what}")
            time.sleep(POLL)

    def wait_up(self, children: int = 1) -> Node:
        """Wait until so many children pull tasks."""
        self.wait_event("child-up", children)
        return self

    # ---- what it is

    def call(self, do: str, **arguments: object):
        """Ask the supervisor."""
        with ControlClient.connect(self.name) as client:
            return client.call(do, **arguments)

    def status(self) -> dict:
        """Its status."""
        return self.call("status")

    def child(self, slot: int | None = None) -> dict:
        """The status row of the child in ``slot``, or of the first one."""
        children = self.status()["children"]
        return next(child for child in children if slot is None or child["slot"] == slot)

    def pids(self) -> dict[str, list[int]]:
        """The pids of its processes by role."""
        status = self.status()
        return {
            "supervisor": [self.pid],
            "template": [status["template"]["pid"]],
            "steward": [status["steward"]["pid"]],
            "children": [child["pid"] for child in status["children"]],
        }

    def child_of(self, role: str) -> int:
        """The pid of its template or steward."""
        return self.pids()[role][0]

    def tree(self) -> list[int]:
        """Every process of it that is there now, the supervisor first."""
        return [self.pid, *(process.pid for process in psutil.Process(self.pid).children(recursive=True))]

    # ---- its end

    def send(self, number: int) -> None:
        """Send the supervisor a signal."""
        self.process.send_signal(number)

    def wait_end(self, timeout: float = 15.0) -> int:
        """Wait for its end; the exit code."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            pytest.fail(f"node {self.name} has not ended within {timeout:g} s")

    def stop(self, number: int = signal.SIGTERM, timeout: float = 15.0) -> int:
        """Ask it to end, wait; the exit code."""
        if self.process.poll() is None:
            self.send(number)
        return self.wait_end(timeout)

    def end(self) -> None:
        """Whatever happened before: leave nothing of it running."""
        if self.process.poll() is None:
            for patience in (0.3, 8):  # signals closer together are one wish
                self.send(signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(patience)
                    break
        if self.process.poll() is None:
            for pid in self.tree():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.wait(5)
            pytest.fail(f"node {self.name} did not end on a second TERM\n{self.text()}")

    def complaints(self) -> list[str]:
        """What no log may hold: impossible moves, and tracebacks beside the log."""
        lines = self.lines()
        wrong = [line["msg"] for line in lines if line.get("msg", "").startswith("impossible")]
        if not self.expects_traceback:
            wrong += [line["text"] for line in lines if "Traceback" in line.get("text", "")]
        return wrong


class Nodes:
    """Starts nodes, and ends those that are left."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made: list[Node] = []

    def __call__(
        self, target: str = "process_apps:app", *flags: str, name: str = "", env: dict[str, str] | None = None,
        cwd: Path | None = None, patch: str = "", **settings: object,
    ) -> Node:  # fmt: skip
        """Start ``poolrt serve TARGET`` with the settings as flags; ``patch`` is code that runs in it before."""
        number = next(_numbers)
        name = name or f"n{os.getpid()}-{number}"
        settings = {"concurrency": 1, "log_format": "json", "log_level": "debug", **settings}
        arguments = ["serve", target, "--node-name", name, *flags]
        for key, value in settings.items():
            arguments += ["--" + key.replace("_", "-"), str(value)]
        start = ["-m", "poolrt"]
        if patch:
            start = ["-c", f"{patch}\nfrom poolrt.cli.main import main\nmain()"]
        node = Node(
            [sys.executable, *start, *arguments],
            self.folder / f"{name}.{number}.log", name, {**os.environ, **(env or {})}, cwd or self.folder,
        )  # fmt: skip
        self.made.append(node)
        return node

    def end(self) -> None:
        """End those that still run, show every log (of a failed test), and judge them."""
        try:
            for node in self.made:
                node.end()
        finally:
            for node in self.made:
                print(f"---- log of {node.name}, exit code {node.process.returncode}", *node.told(), sep="\n")
        complaints = [complaint for node in self.made for complaint in node.complaints()]
        if complaints:
            pytest.fail("the log of a node complains: " + "\n".join(complaints), pytrace=False)


@pytest.fixture(scope="module")
def serve_all(private_tmp: Path) -> Iterator[Nodes]:
    """As ``serve``, for a fixture that starts nodes for a whole module; ``serve_all.folder`` is theirs."""
    folder = Path(tempfile.mkdtemp(prefix="m-", dir=private_tmp))
    with pytest.MonkeyPatch.context() as patch:
        prepare(folder, patch)
        nodes = Nodes(folder)
        yield nodes
        nodes.end()
    shutil.rmtree(folder)


@pytest.fixture
def serve(place: Path) -> Iterator[Nodes]:
    """``serve(target, **settings)`` starts a node; all are ended with the test."""
    nodes = Nodes(place)
    yield nodes
    nodes.end()


@pytest.fixture
def is_gone() -> Callable[[int], bool]:
    """Whether a process has ended (a zombie has)."""

    def check(pid: int) -> bool:
        try:
            return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    return check


@pytest.fixture
def kill(is_gone, wait_for):
    """``kill(node)``: SIGKILL its supervisor, and see that nothing of the node is left."""

    def end(node):
        tree = node.tree()
        node.send(signal.SIGKILL)
        node.wait_end()
        wait_for(lambda: all(is_gone(pid) for pid in tree), "the whole node is gone", 3)

    return end


@pytest.fixture
def run_script(place: Path) -> Iterator[Callable[..., subprocess.CompletedProcess]]:
    """``run_script(text, *arguments)``: run a program that embeds a pool to its end, in this test's folder."""

    def run(text: str, *arguments: object, name: str = "program.py", timeout: float = 20.0, code: int = 0):
        (place / name).write_text(text)
        done = subprocess.run(
            [sys.executable, name, *map(str, arguments)],
            cwd=place, capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip
        assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return run


@pytest.fixture
def no_node(place: Path) -> Callable[[str], bool]:
    """Whether no supervisor answers under a name."""

    def check(name: str) -> bool:
        try:
            ControlClient.connect(name).close()
        except SupervisorNotRunning:
            return True
        return False

    return check
