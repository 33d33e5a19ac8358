"""A real PostgreSQL for tests: Debian's, in a folder of its own, on loopback and a socket file, gone with the test run.

PostgreSQL refuses to run as root: a root's server runs as ``nobody``. Its folder is beside the tests' private one,
which nobody else may enter.
"""

from __future__ import annotations

import contextlib
import ctypes  # noqa: F401  prctl needs it where the server's user may not read it any more
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from poolrt.posix.prctl import die_with_parent
from tests.servers import free_port

START: Final = 20.0
STOP: Final = 10.0
USER: Final = "poolrt"


def folder_of_programs() -> Path:
    """Where ``initdb`` and ``postgres`` are: the newest of Debian's; without one, a laptop skips and CI fails."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: float(path.parts[-3]))
    installed = shutil.which("postgres")
    if not found and not installed:
        missing = "no PostgreSQL server: apt-get install postgresql"
        if os.environ.get("CI"):
            pytest.fail(missing, pytrace=False)
        pytest.skip(missing)
    return found[-1].parent if found else Path(str(installed)).resolve().parent


class Postgres:
    """One server.

    Args:
        folder: where its data, its log and its socket file go; it is made over to the server's user.
        options: of its configuration: ``max_connections="20"``.
    """

    def __init__(self, folder: Path, **options: str) -> None:
        self.folder = folder
        self.port = free_port()
        self.log = folder / "log"
        self.options = {"fsync": "off", "max_connections": "60", **options}
        self._programs = folder_of_programs()
        self._owner = pwd.getpwnam("nobody") if os.getuid() == 0 else None
        self._process: subprocess.Popen[bytes] | None = None
        if self._owner:
            os.chown(folder, self._owner.pw_uid, self._owner.pw_gid)

    def url(self, driver: str = "psycopg", *, user: str = USER) -> str:
        """The address that SQLAlchemy takes."""
        return f"postgresql+{driver}://{user}@127.0.0.1:{self.port}/postgres"

    @property
    def dsn(self) -> str:
        """The address that libpq takes."""
        return f"host=127.0.0.1 port={self.port} user={USER} dbname=postgres"

    @property
    def peer(self) -> str:
        """What findings call it."""
        return f"127.0.0.1:{self.port}/postgres"

    def start(self) -> Postgres:
        """Make its data, start it, and wait until it answers."""
        data = self.folder / "data"
        made = subprocess.run(
            [self._programs / "initdb", "-D", data, "-U", USER, "-A", "trust", "--no-sync"],
            capture_output=True, text=True, cwd=self.folder, preexec_fn=self._become_owner, check=False,
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
        settings = {"listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": self.folder}
        words = [word for name, value in (settings | self.options).items() for word in ("-c", f"{name}={value}")]
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(
                [self._programs / "postgres", "-D", data, *words],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder, start_new_session=True,
                preexec_fn=self._become_owner,  # noqa: PLW1509  it only asks the kernel
            )  # fmt: skip
        deadline = time.monotonic() + START
        while not self._is_ready():
            if time.monotonic() > deadline or self._process.poll() is not None:
                said = self.log.read_text(errors="replace")[-2000:]
                self.stop()
                raise AssertionError(f"PostgreSQL did not start:\n{said}")
            time.sleep(0.02)
        return self

    def _become_owner(self) -> None:
        parent = os.getppid()
        if self._owner:
            os.setgroups([])
            os.setgid(self._owner.pw_gid)
            os.setuid(self._owner.pw_uid)
        die_with_parent(parent)  # a change of user would clear it

    def _is_ready(self) -> bool:
        asked = [self._programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(asked, check=False, cwd=self.folder).returncode == 0

    def ask(self, statement: str) -> list[str]:
        """The lines of the answer to one statement, over the socket file, by the superuser."""
        command = [self._programs / "psql", "-h", self.folder, "-p", str(self.port), "-U", USER, "-d", "postgres"]
        said = subprocess.run(
            [*command, "-XAtc", statement], capture_output=True, text=True, check=False, cwd=self.folder
        )
        assert said.returncode == 0, said.stderr
        return said.stdout.splitlines()

    def sessions(self, state: str = "") -> int:
        """How many clients are connected by port, in this state or any."""
        wanted = f" and state = '{state}'" if state else ""
        return int(self.ask(f"select count(*) from pg_stat_activity where client_port > 0{wanted}")[0])

    def stop(self) -> None:
        """End it, and its clients' sessions."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGINT)  # a fast shutdown
        try:
            process.wait(STOP)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGQUIT)
            process.wait(STOP)


@contextlib.contextmanager
def postgres(**options: str) -> Iterator[Postgres]:
    """A server that runs."""
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    try:
        server = Postgres(folder, **options)
        try:
            yield server.start()
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
