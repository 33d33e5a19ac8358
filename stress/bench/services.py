"""What a peer's queue lives in: a private Redis, or a SQLite file."""

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Protocol

from stress.bench import environments, process_tree

START_S = 10.0
STOP_S = 5.0


class Service(Protocol):
    """A queue's home, emptied before every measure."""

    def empty(self) -> None:
        """Forget every task and result."""

    def cpu_seconds(self) -> float:
        """Return the CPU the service has used in processes of its own."""


class SqliteFile:
    """A database file: its CPU is the workers' own."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def empty(self) -> None:
        """Remove the database with its journal files."""
        for file in self.path.parent.glob(self.path.name + "*"):
            shutil.rmtree(file) if file.is_dir() else file.unlink()

    def cpu_seconds(self) -> float:
        """Return nothing: there is no server."""
        return 0.0


class RedisServer:
    """A server of the bench's own, on loopback and a free port, without persistence."""

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port: int = probe.getsockname()[1]
        binary = environments.redis_server()
        self.version = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout.strip()
        self.log = open(folder / "redis.log", "wb")  # noqa: SIM115  # the server's for its whole life
        options = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(folder)]
        self.process = subprocess.Popen(
            [binary, "--port", str(self.port), *options], stdout=self.log, stderr=self.log, start_new_session=True,
            preexec_fn=process_tree.die_with_parent,  # noqa: PLW1509  # the bench has one thread
        )  # fmt: skip
        self._await_start()

    @property
    def url(self) -> str:
        """The address that clients take."""
        return f"redis://127.0.0.1:{self.port}/0"

    def _await_start(self) -> None:
        give_up = time.monotonic() + START_S
        while time.monotonic() < give_up and self.process.poll() is None:
            try:
                self._ask(b"PING\r\n")
            except OSError:
                time.sleep(0.02)
            else:
                return
        self.stop()
        raise RuntimeError(f"redis-server did not start: see {self.log.name}")

    def _ask(self, command: bytes) -> bytes:
        """Return the answer to one command: its line, or the text that follows if it says how long that is."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
            connection.sendall(command)
            with connection.makefile("rb") as answer:
                line = answer.readline()
                return answer.read(int(line[1:])) if line.startswith(b"$") else line

    def empty(self) -> None:
        """Forget every key."""
        answer = self._ask(b"FLUSHALL\r\n")
        if not answer.startswith(b"+OK"):
            raise RuntimeError(f"redis did not flush: {answer!r}")

    def cpu_seconds(self) -> float:
        """Return the server's CPU."""
        return process_tree.cpu_seconds(self.process.pid)

    def used_memory(self) -> int:
        """Return the bytes that the server's allocator has handed out."""
        lines = self._ask(b"INFO memory\r\n").decode().splitlines()
        return next(int(line.partition(":")[2]) for line in lines if line.startswith("used_memory:"))

    def stop(self) -> None:
        """End the server."""
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.log.close()
