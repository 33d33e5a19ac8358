"""The node's files beside its broker: the lock that makes its name unique, the board, and the wake socket.

The lock's content lists the starts ("incarnations") that are not yet confirmed to hold nothing. A start that
gets the lock knows that the children of these are dead, or ends them: a forked stray keeps the lock, an
exec'ed one carries the mark in its environment.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import time
from pathlib import Path

import msgspec

from poolrt.board import Board, Running
from poolrt.errors import NodeNameTaken
from poolrt.events import EventKind
from poolrt.hygiene.temp_folders import TempFolders
from poolrt.incarnation import MARK, LockContent, left_running, listed
from poolrt.posix.files import open_private
from poolrt.posix.locks import LockHeld, NodeLock
from poolrt.posix.processes import holding, is_alive, marked
from poolrt.posix.unix_sockets import bind_datagram
from poolrt.supervisor.reporter import Reporter

log = logging.getLogger("poolrt.supervisor")

_DYING = 1.0
"""Seconds that what was killed may take to be gone."""


class NodeFiles:
    """Lock, board and wake socket of one start, and of those that follow it in the same supervisor.

    Attributes:
        former: starts of this node that may still hold deliveries, with what their board says was running
            (None: no board of theirs survived).
        swept: pids of processes that an earlier start had left, and that were ended.
    """

    def __init__(self, directory: Path, node: str, incarnation: str) -> None:
        """Take the node's name.

        Raises:
            NodeNameTaken: another supervisor holds it.
        """
        self.directory = directory
        self.node = node
        self.incarnation = incarnation
        self.swept: list[int] = []
        self.lock = self._acquire(directory / f"{node}.lock")
        starts = listed(self.lock.read())
        for earlier in starts:
            self.swept.extend(self._sweep(earlier))
        self.board_fd = open_private(directory / f"{node}.board", os.O_RDWR | os.O_CREAT)
        self.former = {earlier: seen or left_running(self.board_fd, earlier) for earlier, seen in starts.items()}
        self._write()  # before the board is emptied: the next start may come before these are confirmed
        Board.initialize(self.board_fd, incarnation)
        self.board = Board(self.board_fd)
        self._wake_path = directory / f"{node}.wake"
        with contextlib.suppress(FileNotFoundError):
            self._wake_path.unlink()
        self.wake: socket.socket = bind_datagram(self._wake_path)

    def _acquire(self, path: Path) -> NodeLock:
        """Take the lock; if only what a dead supervisor left behind holds it, end that first.

        Every process of a start but its supervisor carries the start's mark. So a holder without a listed mark is a
        supervisor that lives, and holders that cannot be seen (another container's) may be.
        """
        deadline = time.monotonic() + _DYING
        while True:
            try:
                return NodeLock.acquire(path)
            except LockHeld as error:
                pid = error.pid
            holders = set(holding(path))
            left = {pid for earlier in listed(path.read_bytes()) for pid in marked(MARK, earlier)}
            if not holders <= left or not (holders or self.swept) or time.monotonic() > deadline:
                raise NodeNameTaken(
                    f"node {self.node!r} runs already (pid {pid or 'unknown'}, lock {path}); "
                    "stop it, or give this one another --node-name"
                )
            self.swept.extend(self._end(sorted(holders)))

    def _write(self, *, without_us: bool = False) -> None:
        ours: dict[str, tuple[Running, ...] | None] = {} if without_us else {self.incarnation: None}
        self.lock.write(msgspec.json.encode(LockContent(os.getpid(), {**self.former, **ours})) + b"\n")

    def _try_write(self, *, without_us: bool = False) -> None:
        """As ``_write``; a name too many costs the next start an idempotent reclaim, so a full disk stops nobody."""
        try:
            self._write(without_us=without_us)
        except OSError as error:
            log.warning("cannot update %s: %s", self.lock.path, error)

    @classmethod
    def _sweep(cls, incarnation: str) -> list[int]:
        """End what an earlier start left."""
        return cls._end(marked(MARK, incarnation))

    @staticmethod
    def _end(left: list[int]) -> list[int]:
        """SIGKILL these, and see them dead for at most a second."""
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + _DYING
        while any(is_alive(pid) for pid in left) and time.monotonic() < deadline:
            time.sleep(0.002)
        return left

    def confirm(self, incarnation: str) -> None:
        """Note that an earlier start holds nothing any more."""
        self.former.pop(incarnation, None)
        self._try_write()

    def begin_anew(self, incarnation: str) -> None:
        """Be the files of another start, under the same lock; the one before is fenced, and holds nothing.

        It stays listed until its last process is dead: only what is listed is swept by a next start.

        Raises:
            OSError: the disk is full.
        """
        fenced, self.incarnation = self.incarnation, incarnation
        self.former[fenced] = None
        self._write()
        self._sweep(fenced)
        Board.initialize(self.board_fd, incarnation)
        if not marked(MARK, fenced):
            self.confirm(fenced)

    def close(self, *, clean: bool) -> None:
        """Give the name back; ``clean`` says that this start holds nothing any more."""
        with contextlib.suppress(FileNotFoundError):
            self._wake_path.unlink()
        self.wake.close()
        self.board.close()
        os.close(self.board_fd)
        if clean:
            self._try_write(without_us=True)
        TempFolders(self.node, self.incarnation, str(self.directory)).leave()
        self.lock.release()


def open_files(directory: Path, node: str, incarnation: str, reporter: Reporter) -> NodeFiles:
    """Take the node's name, and say if something of an earlier start had to be ended for it; raises NodeNameTaken."""
    files = NodeFiles(directory, node, incarnation)
    if files.swept:
        numbers = {"ended": len(files.swept)}
        reporter.emit(EventKind.LEFT_BEHIND, cause="an earlier start had left processes", numbers=numbers)
    return files
