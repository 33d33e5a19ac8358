"""The node in the storm: its processes by role, and its starts as systemd would make them.

Processes are found in /proc by a mark in their environment, and told apart by the titles they give themselves; so a
fault can also hit a node whose supervisor is booting or stands still. Nothing without the mark is ever signalled.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any, Final

from poolrt.control import ControlClient
from poolrt.errors import PoolrtError
from stress.chaos.limits import Signal

MARK: Final = "STORM_OF_POOLRT"
CONCURRENCY: Final = 3
ROOT: Final = Path(__file__).resolve().parents[2]


class Node:
    """One node name through all its starts, with a disk of its own.

    Args:
        folder: its own.
        url: of the broker.
        ledger: what all tasks write to.
        flags: more settings, as ``poolrt serve`` takes them.
    """

    app = "stress.chaos.storm_app:app"
    prefix: tuple[str, ...] = ()
    """What stands before its command."""

    def __init__(self, folder: Path, url: str, ledger: Path, flags: dict[str, object]) -> None:
        self.folder = folder
        self.name = folder.name
        self._flags = flags
        mark = str(uuid.uuid4())
        self._mark = f"{MARK}={mark}".encode()
        self.env = {
            **{name: text for name, text in os.environ.items() if not name.startswith("POOLRT_")},
            MARK: mark,
            "POOLRT_RUNTIME_DIR": str(folder / "run"),
            "POOLRT_STRICT": "1",
            "XDG_STATE_HOME": str(folder / "state"),
            "STORM_BROKER": url,
            "STORM_LEDGER": str(ledger),
            "TMPDIR": str(folder / "tmp"),
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
        }
        for name in ("state", "tmp"):
            (folder / name).mkdir(parents=True)
        self.starts = 0
        self.signals: list[Signal] = []
        """What was sent to its processes."""
        self.process: subprocess.Popen[bytes] | None = None

    # ---- its starts

    def start(self, max_deliveries: int) -> None:
        """Start it, again under the same name."""
        self.starts += 1
        flags = {
            "node-name": self.name, "concurrency": CONCURRENCY, "max-deliveries": max_deliveries, "boot-timeout": "3s",
            "max-tasks-per-child": 150, "restart-burst": "12/10s", "log-format": "json", "log-level": "debug",
            **self._flags,
        }  # fmt: skip
        arguments = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
        with open(self.log(self.starts), "wb") as log:
            self.process = subprocess.Popen(
                [*self.prefix, sys.executable, "-m", "poolrt", "serve", self.app, *arguments],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.env, cwd=self.folder, process_group=0,
            )  # fmt: skip

    def log(self, start: int) -> Path:
        """Where its start of this number logs."""
        return self.folder / f"node.{start:03d}.log"

    def ended(self) -> int | None:
        """The exit code of the supervisor; None while it is there."""
        assert self.process is not None
        return self.process.poll()

    def stop(self, timeout: float) -> int | None:
        """TERM; the exit code, or None when it has not ended in time."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def status(self) -> dict[str, Any] | None:
        """What its supervisor says; None when it does not answer."""
        directory = os.environ.get("POOLRT_RUNTIME_DIR")
        os.environ["POOLRT_RUNTIME_DIR"] = self.env["POOLRT_RUNTIME_DIR"]
        try:
            with ControlClient.connect(self.name, timeout=0.5) as client:
                found: dict[str, Any] = client.call("status", timeout=0.5)
                return found
        except (PoolrtError, OSError):
            return None
        finally:
            if directory is None:
                del os.environ["POOLRT_RUNTIME_DIR"]
            else:
                os.environ["POOLRT_RUNTIME_DIR"] = directory

    def messages(self, words: str) -> list[str]:
        """The lines of all logs that hold these words, as people read them."""
        return [
            f"{self.name} start {number}: {_told(line)}"
            for number in range(1, self.starts + 1)
            for line in self.log(number).read_text(errors="replace").splitlines()
            if words in line
        ]

    def told_at(self, kind: str) -> float:
        """When its present start told of its first event of this kind; wall time, 0 for not yet."""
        for line in self.log(self.starts).read_text(errors="replace").splitlines():
            if f'"{kind}"' in line:
                return float(json.loads(line)["ts"])
        return 0.0

    # ---- its processes

    def roles(self) -> dict[str, list[int]]:
        """The pids of what lives of it, by role; what a task has started is a ``stray``."""
        found: dict[str, list[int]] = {"supervisor": [], "template": [], "steward": [], "child": [], "stray": []}
        titles = {pid: _read(pid, "comm").decode(errors="replace").strip() for pid in self.marked()}
        for pid, title in titles.items():
            if self.process is not None and pid == self.process.pid:
                role = "supervisor"
            elif title == "poolrt:template":  # a child has this title until it gives itself its own
                role = "child" if titles.get(_parent(pid)) == title else "template"
            elif title.startswith("poolrt:"):
                role = "steward" if title == "poolrt:steward" else "child"
            else:
                role = "stray"
            found[role].append(pid)
        return found

    def marked(self) -> list[int]:
        """The pids of all processes that carry the mark, without zombies and without this one."""
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
        return sorted(pid for pid in pids if pid != os.getpid() and self._is_ours(pid))

    def _is_ours(self, pid: int) -> bool:
        return self._mark in _read(pid, "environ").split(b"\0")

    def send(self, pid: int, number: int) -> bool:
        """Signal a process that carries the mark; whether there was one (0 is none)."""
        if not pid:
            return False
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            return False
        try:
            if not self._is_ours(pid):  # read while the handle pins the process
                return False
            before = time.monotonic_ns()
            signal.pidfd_send_signal(handle, number)
            after = time.monotonic_ns()
            self.signals.append(Signal(pid, number, after if number == signal.SIGCONT else before))
            return True
        except ProcessLookupError:
            return False
        finally:
            os.close(handle)

    def gone(self, pid: int) -> bool:
        """Whether a process that was ours is there no more; a zombie is not."""
        return not self._is_ours(pid)

    def open_files(self) -> int:
        """How many descriptors the supervisor has."""
        assert self.process is not None
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def end(self) -> None:
        """Whatever happened: leave nothing of it."""
        deadline = time.monotonic() + 10
        while (left := self.marked()) and time.monotonic() < deadline:
            for pid in left:
                self.send(pid, signal.SIGKILL)
            time.sleep(0.02)
        if self.process is not None:
            self.process.wait(5)


def _told(line: str) -> str:
    try:
        told = json.loads(line)
        return f"{told['ts'] % 1000:.3f} {told['level']} {told['msg']}"
    except (ValueError, KeyError):
        return line


def _read(pid: int, what: str) -> bytes:
    try:
        with open(f"/proc/{pid}/{what}", "rb") as file:
            return file.read()
    except OSError:  # it ended, or it is another user's
        return b""


def _parent(pid: int) -> int:
    fields = _read(pid, "stat").rpartition(b")")[2].split()
    return int(fields[1]) if fields else 0
