"""``Supervisor``: a pool that belongs to the program that starts it.

    program ──Supervisor(app).start()──exec──▶ python -m poolrt.service ──▶ template ──▶ children
            ──owner's socketpair: requests──▶
            program ends, however it ends ──end-of-file──▶ the pool drains and is gone

The supervisor is a process of its own, so it is safe from notebooks, threads and web servers: it forks
nothing of the program, and installs no signal handler in it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from poolrt.app.loading import refuse_effects
from poolrt.app.location import locate
from poolrt.control import ControlClient
from poolrt.errors import BootFailed, ControlError, ExitCode, NodeNameTaken, PoolrtError, SupervisorNotRunning
from poolrt.posix.interpreter import environment
from poolrt.service import complete, template_config
from poolrt.settings import settings_from
from poolrt.units import parse_duration

if TYPE_CHECKING:
    from types import TracebackType

    from poolrt.app.app import App

_started = itertools.count(1)
_live: weakref.WeakSet[Supervisor] = weakref.WeakSet()
_ERRORS = {ExitCode.NODE_NAME_TAKEN: NodeNameTaken, ExitCode.BOOT_FAILED: BootFailed}


_STOP_MARGIN = 20.0
"""Seconds, beyond the grace, that a supervisor may take to stop before it is taken for stuck."""


class Supervisor:
    """A supervisor with its children, started and stopped by this program.

    Args:
        app: the App, or ``"module:attribute"``.
        settings: any setting of the table, for example ``concurrency=4``, ``max_tasks_per_child=100``,
            ``graceful_timeout="10s"``; see docs/reference/settings.md.

    Raises:
        ConfigurationError: a setting is unknown or wrong.
        EncodingError: the app has no name in a module, and cannot be carried by value.
    """

    def __init__(self, app: App | str, **settings: Any) -> None:
        settings.setdefault("log_level", "warning")
        name = app if isinstance(app, str) else app.name
        settings.setdefault("node_name", _default_name(name))
        self._settings = complete(settings_from(settings), name)
        self._app = app
        self._process: subprocess.Popen[bytes] | None = None
        self._client: ControlClient | None = None
        self._connection: socket.socket | None = None
        self._lock = threading.Lock()
        self._exit_code: int | None = None
        _live.add(self)

    def __repr__(self) -> str:
        """For bug reports."""
        state = f"pid={self._process.pid}" if self._process else "not running"
        return f"<Supervisor {self.node} {state} concurrency={self._settings.concurrency}>"

    @property
    def node(self) -> str:
        """The node's name: ``poolrt status NAME`` shows it."""
        return self._settings.node_name

    @property
    def pid(self) -> int | None:
        """The supervisor's pid while it runs."""
        return self._process.pid if self._process else None

    @property
    def exit_code(self) -> int | None:
        """The exit code of the last run; see errors.ExitCode."""
        return self._exit_code

    def start(self) -> Supervisor:
        """Start the pool and wait until its first child pulls tasks.

        Raises:
            BootFailed: the app cannot be imported by a fresh interpreter; its traceback is on stderr.
            NodeNameTaken: another supervisor runs under this name.
            PoolrtError: the broker cannot be used, or the start was refused for another reason.
        """
        refuse_effects("Supervisor.start")
        if self._process is not None:
            raise PoolrtError(f"{self!r} runs already")
        location = locate(self._app)
        config = msgspec.msgpack.encode((self._settings, template_config(location, self._settings)))
        ours, theirs = socket.socketpair()
        with tempfile.TemporaryFile() as file:
            file.write(config)
            file.flush()
            file.seek(0)
            fds = (theirs.fileno(), file.fileno())
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "poolrt.service", *map(str, fds)],
                pass_fds=fds, stdin=subprocess.DEVNULL, process_group=0, env=environment(),
            )  # fmt: skip
        theirs.close()
        self._connection, self._client = ours, ControlClient(ours)
        try:
            self._call("ready", timeout=None)
        except (ControlError, SupervisorNotRunning) as error:
            self._close()
            kind = _ERRORS.get(ExitCode(self._exit_code or 0), PoolrtError)
            raise kind(str(error)) from None
        except BaseException:
            self._close()
            raise
        return self

    def stop(self, timeout: float | str | None = None) -> int:
        """Drain and end the pool; returns its exit code.

        Args:
            timeout: how long running tasks may finish, instead of ``graceful_timeout``; the rest is put back.
        """
        if self._process is None:
            return self._exit_code or 0
        with contextlib.suppress(ControlError, SupervisorNotRunning):
            self._call("drain", grace=None if timeout is None else parse_duration(timeout))
        return self._close()

    def drain(self) -> None:
        """Start no task any more, let the running ones finish within ``graceful_timeout``; returns at once."""
        self._call("drain")

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait for the pool to end, at most ``timeout`` seconds; its exit code, or None if it still runs."""
        if self._process is None:
            return self._exit_code
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout)
            return self._close()
        return None

    def scale(self, concurrency: int) -> None:
        """Run this many children from now on."""
        self._call("scale", n=concurrency)

    def recycle(self, *slots: int) -> int:
        """Replace the children in these slots, or all of them; each successor is up before its predecessor leaves."""
        answer: dict[str, int] = self._call("recycle", slots=list(slots))
        return answer["recycling"]

    def reload(self) -> None:
        """Import the code anew and move the children to it; an import that fails leaves the old code serving."""
        self._call("reload")

    def quiet(self) -> None:
        """Start no task from now on; running ones finish. ``resume`` ends it."""
        self._call("quiet")

    def resume(self) -> None:
        """Start tasks again."""
        self._call("resume")

    def status(self) -> dict[str, Any]:
        """The node as one object, as ``poolrt status --json`` prints it."""
        answer: dict[str, Any] = self._call("status")
        return answer

    def events(self) -> Iterator[dict[str, Any]]:
        """What happens from now on, until the pool has ended; on a connection of its own, so for any thread.

        The connection is there when this returns, so nothing that happens afterwards is missed.
        """
        client = ControlClient.connect(self.node)
        stream = client.events()

        def until_closed() -> Iterator[dict[str, Any]]:
            with client:
                yield from stream

        return until_closed()

    def __enter__(self) -> Supervisor:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _call(self, do: str, **arguments: Any) -> Any:
        if self._client is None:
            raise SupervisorNotRunning(f"{self!r}: start it first")
        with self._lock:
            return self._client.call(do, **arguments)

    def _forget(self) -> None:
        """After a fork, in the child: a pool that does not run, whatever the parent's does."""
        self._lock = threading.Lock()
        self._client = None
        process, self._process = self._process, None
        if self._connection is not None:
            self._connection.close()  # this copy only
        if process is not None:
            process.returncode = 0  # not ours: nothing to reap, nothing to warn of

    def _close(self) -> int:
        """End-of-file makes it drain if it has not; then it is reaped."""
        client, self._client = self._client, None
        process, self._process = self._process, None
        if client is not None and process is not None and process.poll() is None:
            with contextlib.suppress(OSError):
                client.half_close()
        if process is not None:
            try:
                self._exit_code = process.wait(self._settings.graceful_timeout + _STOP_MARGIN)
            except subprocess.TimeoutExpired:
                process.kill()  # it stands still; its template sees that and ends what is below
                self._exit_code = process.wait()
        if client is not None:
            client.close()
        return self._exit_code or 0


def _leave_to_parent() -> None:
    """In a process forked by the program: the pool is its parent's; a copy of the connection would keep it alive."""
    for supervisor in list(_live):
        supervisor._forget()  # noqa: SLF001  it is this class that the module is about


os.register_at_fork(after_in_child=_leave_to_parent)


def _default_name(app: str) -> str:
    """A name no other pool takes: one that belongs to a program needs none that lasts."""
    number = next(_started)
    suffix = f"-{os.getpid()}" + (f".{number}" if number > 1 else "")
    return f"{re.sub(r'[^A-Za-z0-9._-]+', '-', app).strip('-._') or 'app'}"[:40] + suffix
