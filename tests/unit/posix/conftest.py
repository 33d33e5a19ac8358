"""Forked children that do what a test tells them and are gone when it ends."""

from __future__ import annotations

import os
import pickle
import select
import signal
import socket
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

PATIENCE_MS = 20_000


class Talk:
    """One end of a conversation between the test and its child; every receive has a limit."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def say(self, what: Any) -> None:
        self.sock.send(pickle.dumps(what))

    def hear(self) -> Any:
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        assert poll.poll(PATIENCE_MS), "nothing was said for 20 s"
        raw = self.sock.recv(65536)
        if not raw:
            raise EOFError("the other end is gone")
        what = pickle.loads(raw)
        if isinstance(what, BaseException):
            raise what
        return what


class Child(Talk):
    """A forked child, seen from the test."""

    def __init__(self, pid: int, sock: socket.socket) -> None:
        super().__init__(sock)
        self.pid = pid
        self.code: int | None = None

    def kill(self) -> int:
        os.kill(self.pid, signal.SIGKILL)
        return self.wait()

    def wait(self) -> int:
        """Its exit code, or minus the signal that ended it."""
        if self.code is None:
            self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.code

    def end(self) -> None:
        """End it with all below it; by psutil, because what is tested here is no judge of itself."""
        self.sock.close()
        if self.code is not None:
            return
        try:
            below = psutil.Process(self.pid).children(recursive=True)
            self.kill()
        except (psutil.NoSuchProcess, ProcessLookupError, ChildProcessError):
            return  # the test reaped it in its own way
        for process in below:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                pass


def quiet_fork() -> int:
    """``os.fork`` without the warning about threads: under pytest the one thread is faulthandler's watchdog."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


Fork = Callable[..., Child]


@pytest.fixture
def fork() -> Iterator[Fork]:
    """``fork(main, *arguments)``: a child that runs ``main(talk, *arguments)``, says its exception, and leaves."""
    children: list[Child] = []

    def start(main: Callable[..., object], *arguments: object) -> Child:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = quiet_fork()
        if pid == 0:
            code = 1
            try:
                ours.close()
                for sibling in children:
                    sibling.sock.close()
                main(Talk(theirs), *arguments)
                code = 0
            except EOFError:
                pass
            except BaseException as error:
                traceback.print_exc()
                try:
                    theirs.send(pickle.dumps(AssertionError(f"in the child: {error!r}")))
                except OSError:
                    pass
            finally:
                os._exit(code)
        theirs.close()
        children.append(Child(pid, ours))
        return children[-1]

    yield start
    for child in children:
        child.end()


@pytest.fixture
def in_child(fork: Fork) -> Callable[..., Any]:
    """``in_child(function, *arguments)``: what it returns, run in a forked child because it changes its process."""

    def main(talk: Talk, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        talk.say(function(*arguments))

    def run(function: Callable[..., Any], *arguments: Any) -> Any:
        child = fork(main, function, arguments)
        answer = child.hear()
        assert child.wait() == 0
        return answer

    return run


@pytest.fixture
def spawn_quiet() -> Callable[[], int]:
    """`quiet_fork`, for tests that fork by hand."""
    return quiet_fork
