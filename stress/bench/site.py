"""Where one run takes place: its folder, record file and services, and the workers started there."""

import contextlib
import fcntl
import json
import os
import signal
import struct
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from stress.bench import environments, process_tree
from stress.bench.services import RedisServer, Service, SqliteFile
from stress.bench.variants import Variant

RECORD = struct.Struct("<QII")
LOOK_EVERY_S = 0.004
STALLED_AFTER_S = 25.0
STOP_S = 5.0
PRODUCER_S = 300.0
STATUS_S = 30.0


class Ran(NamedTuple):
    """One task's own record of its start."""

    at_ns: int
    pid: int
    mark: int


class Records:
    """Harness side of the record that tasks write; on tmpfs, so a write costs no disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def clear(self) -> None:
        """Start an empty file; workers of the last measure, if any, hold the old one."""
        self.path.unlink(missing_ok=True)
        self.path.touch(mode=0o600)

    def count(self) -> int:
        """Return how many tasks have started."""
        return self.path.stat().st_size // RECORD.size

    def read(self) -> list[Ran]:
        """Return every task's record, in order of time."""
        data = self.path.read_bytes()
        whole = len(data) // RECORD.size * RECORD.size
        return sorted(map(Ran._make, RECORD.iter_unpack(data[:whole])))

    def reached(self, count: int) -> bool:
        """Wait for ``count`` records; False if none came for a while."""
        seen, changed = self.count(), time.monotonic()
        while seen < count:
            time.sleep(LOOK_EVERY_S)
            now = self.count()
            if now != seen:
                seen, changed = now, time.monotonic()
            elif time.monotonic() - changed > STALLED_AFTER_S:
                return False
        return True


class Workers:
    """A launched worker command, in a session of its own."""

    def __init__(self, command: Sequence[str], env: dict[str, str], log: Path) -> None:
        self.log = log
        self.survivors = 0
        self.exit_code: int | None = None
        with log.open("wb") as output:
            self.started_ns = time.monotonic_ns()
            self.process = subprocess.Popen(
                command, cwd=environments.PEERS, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True,
                preexec_fn=process_tree.die_with_parent,  # noqa: PLW1509  # the bench has one thread
            )  # fmt: skip
        self.root = self.process.pid

    def stop(self) -> None:
        """Ask the command to leave; then kill, and count, whatever of its tree is left."""
        members = process_tree.tree(self.root)
        self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_S)
        left = (members & process_tree.processes().keys()) | process_tree.tree(self.root)
        self.survivors = len(left)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.exit_code = self.process.wait()

    def last_words(self) -> str:
        """Return the end of what the command printed."""
        return self.log.read_text(errors="replace")[-800:]


class Site:
    """A run's folder, record file and services. One run at a time: two would measure each other."""

    def __init__(self, poolrt_python: Path) -> None:
        self.poolrt_python = poolrt_python
        self.folder = environments.ROOT / "run"
        self.folder.mkdir(parents=True, exist_ok=True)
        # One name per folder: what a killed run left there, the next one clears.
        self.records = Records(Path("/dev/shm", f"poolrt-bench.{self.folder.stat().st_ino}"))
        self.sqlite = SqliteFile(self.folder / "queue.db")
        self.redis: RedisServer | None = None

    def __enter__(self) -> Self:
        self._lock = os.open(self.folder / "lock", os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise RuntimeError(f"another bench is running in {self.folder}") from None
        self.records.clear()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.redis:
            self.redis.stop()
        self.records.path.unlink(missing_ok=True)
        os.close(self._lock)

    def service(self, variant: Variant) -> Service:
        """Return the variant's service, started on first use."""
        if variant.service == "sqlite":
            return self.sqlite
        if not self.redis:
            self.redis = RedisServer(self.folder)
        return self.redis

    def bin(self, peer: str) -> Path:
        """Return the bin directory of a peer's interpreter."""
        return environments.poolrt_bin(self.poolrt_python) if peer == "poolrt" else environments.environment(peer)

    def env(self, bin_folder: Path, **more: str) -> dict[str, str]:
        """Return the environment of a peer's process."""
        return os.environ | {
            "BENCH_RECORDS": str(self.records.path),
            "BENCH_SQLITE": str(self.sqlite.path),
            "BENCH_REDIS_URL": self.redis.url if self.redis else "",
            "PYTHONPATH": str(environments.PEERS),
            "PATH": f"{bin_folder}:{os.environ['PATH']}",
            "C_FORCE_ROOT": "1",  # celery refuses to run as root without
            **more,
        }

    def variant_env(self, variant: Variant, *, results: bool) -> dict[str, str]:
        """Return the environment of a variant's workers and producer."""
        options = json.dumps(dict(variant.options))
        bin_folder = self.bin(variant.peer)
        return self.env(bin_folder, BENCH_RESULTS=str(int(results)), BENCH_OPTIONS=options, **variant.environment)

    @contextlib.contextmanager
    def workers(self, variant: Variant, env: dict[str, str], *more: str) -> Iterator[Workers]:
        """Run the variant's workers for the length of a block."""
        program = str(self.bin(variant.peer) / variant.command[0])
        workers = Workers([program, *variant.command[1:], *more], env, self.folder / "worker.log")
        try:
            yield workers
        finally:
            workers.stop()

    def produce(self, variant: Variant, env: dict[str, str], *arguments: object) -> dict[str, Any]:
        """Run the producer in the peer's interpreter and return its answer."""
        command = [str(self.bin(variant.peer) / "python"), "producer.py", variant.module, *map(str, arguments)]
        return answer_of(command, env, PRODUCER_S)

    def status(self, env: dict[str, str]) -> dict[str, Any]:
        """Return what ``poolrt status`` says of the bench's node."""
        command = [str(self.bin("poolrt") / "poolrt"), "status", "bench", "--json"]
        ran = subprocess.run(command, env=env, capture_output=True, text=True, timeout=STATUS_S, check=False)
        if ran.returncode:
            raise RuntimeError(f"poolrt status: {ran.stderr[-800:]}")
        told: dict[str, Any] = json.loads(ran.stdout)
        return told


def answer_of(command: Sequence[str], env: dict[str, str], timeout: float) -> dict[str, Any]:
    """Run a program of the bench in the peers' folder and return the JSON it prints after ``@@``."""
    ran = subprocess.run(
        command, cwd=environments.PEERS, env=env, capture_output=True, text=True, timeout=timeout, check=False
    )
    if "@@" not in ran.stdout:
        raise RuntimeError(f"{' '.join(command[1:4])} gave no answer: {(ran.stderr or ran.stdout)[-800:]}")
    answer: dict[str, Any] = json.loads(ran.stdout.rsplit("@@", 1)[1])
    return answer
