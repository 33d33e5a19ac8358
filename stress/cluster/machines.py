"""The machines: nodes, the server's host and the sender's, each in its network namespace and with a disk of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from stress.chaos.aof_journal import OPTIONS
from stress.chaos.storm_node import ROOT, Node
from stress.cluster.network import Network
from tests.servers import Server, binary

CHILDREN: Final = 2
SERVER: Final = "server"
SENDER: Final = "sender"
_STOPPING: Final = 2.0


class Told(NamedTuple):
    """An event of a node's log."""

    at: float
    """CLOCK_MONOTONIC seconds."""
    node: str
    cause: str
    numbers: dict[str, Any]


class Machine(Node):
    """A host that runs a node."""

    app = "stress.cluster.cluster_app:app"

    def __init__(self, network: Network, folder: Path, url: str, ledger: Path, lease: float, on_lost: str) -> None:
        name = folder.name
        flags: dict[str, object] = {
            "lease": f"{lease:g}s", "on-lease-lost": on_lost, "concurrency": CHILDREN, "queues": f"default,{name}",
            "max-tasks-per-child": 0, "boot-timeout": "20s",
        }  # fmt: skip
        super().__init__(folder, url, ledger, flags)
        self.prefix = network.inside(name)
        self.keeps = on_lost == "keep"
        self.env |= {"CLUSTER_NODE": name, "HOME": str(folder)}

    def incarnation(self) -> str:
        """Its present start; empty when it does not answer."""
        status = self.status()
        return str(status["incarnation"]) if status else ""

    def is_up(self) -> bool:
        """Whether all its children pull tasks."""
        status = self.status()
        return bool(status) and [row["state"] for row in status["children"]].count("up") >= CHILDREN

    def kill(self) -> None:
        """SIGKILL everything of it at one instant; back when nothing is left."""
        while pids := self.marked():
            for pid in pids:
                self.send(pid, signal.SIGKILL)
            time.sleep(0.002)
        assert self.process is not None
        self.process.wait(5)

    def freeze(self) -> None:
        """SIGSTOP everything of it; back when all stand still."""
        stopped: set[int] = set()
        deadline = time.monotonic() + _STOPPING
        while time.monotonic() < deadline:
            pids = set(self.marked())
            for pid in pids - stopped:
                self.send(pid, signal.SIGSTOP)
            if pids == stopped and all(_state(pid) in "TtZX" for pid in pids):
                return
            stopped = pids
        raise TimeoutError(f"{self.name} does not stand still")

    def thaw(self) -> None:
        """SIGCONT: the children first, so that they can tell the server what they have finished while they stood."""
        roles = self.roles()
        for pid in roles["child"]:
            self.send(pid, signal.SIGCONT)
        time.sleep(0.1)
        for pid in self.marked():
            self.send(pid, signal.SIGCONT)

    def told(self, kind: str) -> Iterator[Told]:
        """The events of this kind, of all its starts."""
        offset = time.time() - time.monotonic()
        for number in range(1, self.starts + 1):
            for line in self.log(number).read_text(errors="replace").splitlines():
                if f'"{kind}"' in line:
                    try:
                        event = json.loads(line)["event"]
                    except (ValueError, KeyError):
                        continue  # half a line: it is being written
                    yield Told(event["at"] - offset, self.name, event.get("cause", ""), event.get("numbers", {}))


def server_on(network: Network, folder: Path) -> Server:
    """A server that listens on its host's address alone, and for us on a socket file."""
    folder.mkdir()
    inside = folder / "program"
    inside.write_text(f'#!/bin/sh\nexec {" ".join(network.inside(SERVER))} {binary()} "$@"\n')
    inside.chmod(0o700)
    address = network.address(SERVER)
    server = Server(folder, program=str(inside), bind=address, protected_mode="no", appendfsync="everysec", **OPTIONS)
    return server.start()


class Sender:
    """The process that enqueues; see sender.py."""

    def __init__(self, network: Network, folder: Path, url: str, rate: float, seed: int) -> None:
        self.accepted_file = folder / "accepted"
        environment = {**os.environ, "STORM_BROKER": url, "PYTHONPATH": str(ROOT), "HOME": str(folder)}
        arguments = [str(rate), str(seed), str(self.accepted_file)]
        with open(folder / "sender.log", "wb") as log:
            self.process = subprocess.Popen(
                [*network.inside(SENDER), sys.executable, "-m", "stress.cluster.sender", *arguments],
                stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment, cwd=folder, process_group=0, text=True,
            )  # fmt: skip

    def send(self, kind: str, task_id: str, *arguments: object, queue: str = "default") -> None:
        """Enqueue one more task."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"kind": kind, "id": task_id, "queue": queue, "args": arguments}) + "\n")
        self.process.stdin.flush()

    def accepted(self) -> list[str]:
        """The ids that the broker has taken."""
        return self.accepted_file.read_text().splitlines() if self.accepted_file.exists() else []

    def finish(self) -> int:
        """Send what was asked for, and nothing more; its exit code."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(20)

    def end(self) -> None:
        """Whatever happened: leave nothing of it."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(5)
        assert self.process.stdin is not None
        self.process.stdin.close()


def _state(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0].decode()
    except OSError:
        return "X"
