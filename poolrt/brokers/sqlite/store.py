"""This process's one connection to the database: opened lazily, locked, closed around a fork, its errors translated.

    a call ──▶ thread lock ──▶ open? ──▶ claims lock ──▶ begin immediate ──▶ work(db) ──▶ commit ──▶ both released
                                         (writers)          (writers)           └─ any error ──▶ rollback

    os.fork   before: take the lock, close the connection ── parent: let go │ child: a lock of its own; both reopen

SQLite's locks are fcntl locks: a child does not inherit them, but it inherits SQLite's belief to hold them. Its
connection would then read a WAL that another process's last close may delete. So no connection crosses a fork.

The store must never open and close the database by other means: closing any descriptor of a file drops all fcntl
locks of the process on it, and SQLite's connection with them. It only ever asks ``stat`` about the file.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar
from urllib.parse import quote

from poolrt.brokers.sqlite import fork, schema
from poolrt.brokers.sqlite.claims import ClaimsLock
from poolrt.brokers.sqlite.failures import breaks_connection, is_busy, translated, translated_os
from poolrt.errors import BrokerBusy, BrokerCorrupt, BrokerError, BrokerIncompatible, BrokerReadOnly
from poolrt.posix.files import is_network_filesystem, open_private
from poolrt.shielding import SHIELD

T = TypeVar("T")

Work = Callable[[sqlite3.Connection], T]

SYNCHRONOUS: Final = {"process": "normal", "power": "full"}
"""What survives: ``process``, everything committed when a process is killed; ``power``, also when the power fails."""

FIRST_NAP: Final = 0.5e-3
LONGEST_NAP: Final = 10e-3


class Store:
    """The database of one path for one process.

    Invariant: ``_db`` and ``_claims`` are touched only by the thread that holds ``_lock``.
    """

    def __init__(self, path: str, timeout: float, durability: str) -> None:
        self.path = path
        self.timeout = timeout
        self._synchronous = SYNCHRONOUS[durability]
        self._lock = threading.Lock()
        self._user: int | None = None
        """The thread inside a call; only to notice that a fork comes from inside one."""
        self._db: sqlite3.Connection | None = None
        self._claims: ClaimsLock | None = None
        self._pid = 0
        self._identity = (0, 0)
        self._unusable: BrokerError | None = None
        """Why no connection may be used in this process any more."""
        self._on_local_disk = False
        """Seen once: a forked child inherits it, and reads no mount table (0.2 ms)."""
        fork.watch(self)

    # ---- calls

    def read(self, work: Work[T]) -> T:
        """``work(db)`` outside a transaction: a single statement is a snapshot of its own."""
        with SHIELD, self._connected() as (db, deadline):
            return self._patiently(lambda: work(db), deadline)

    def write(self, work: Work[T]) -> T:
        """``work(db)`` in one write transaction, in turn with all other writers: all of it or nothing."""
        with SHIELD, self._connected() as (db, deadline):
            claims = self._claims
            assert claims is not None
            claims.acquire(deadline)
            try:
                self._patiently(lambda: db.execute("begin immediate"), deadline)
                try:
                    result = work(db)
                    self._refuse_if_stranded()
                    db.execute("commit")
                    return result
                except BaseException:
                    if not self._unusable and db.in_transaction:  # some errors roll back by themselves
                        db.execute("rollback")
                    raise
            finally:
                claims.release()

    def close(self) -> None:
        """Close the connection; the next call opens a new one."""
        with self._locked(time.monotonic() + self.timeout):
            self._disconnect()

    def close_at_exit(self) -> None:
        """Close the connection at the end of the program, if it is this process's own."""
        if self._pid == os.getpid():
            self.close()

    # ---- locking and errors

    @contextmanager
    def _connected(self) -> Iterator[tuple[sqlite3.Connection, float]]:
        deadline = time.monotonic() + self.timeout
        with self._locked(deadline):
            try:
                yield self._current(deadline), deadline
            except sqlite3.Error as error:
                if breaks_connection(error):
                    self._disconnect()
                raise translated(error, self.path) from error
            except BrokerError:
                raise
            except OSError as error:
                raise translated_os(error, self.path) from error

    @contextmanager
    def _locked(self, deadline: float) -> Iterator[None]:
        lock = self._lock  # after a fork from inside the call there is another one
        if not lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise BrokerBusy(f"{self.path}: another thread of this process did not finish in {self.timeout} s")
        try:
            self._user = threading.get_ident()
            yield
        finally:
            self._user = None
            lock.release()

    def _patiently(self, call: Callable[[], T], deadline: float) -> T:
        """``call()`` again and again while another connection stands in its way, until ``deadline``."""
        nap = FIRST_NAP
        while True:
            try:
                return call()
            except sqlite3.OperationalError as error:
                left = deadline - time.monotonic()
                if not is_busy(error) or left <= 0:
                    raise
            time.sleep(min(nap, left))
            nap = min(nap * 2, LONGEST_NAP)

    # ---- the connection

    def _current(self, deadline: float) -> sqlite3.Connection:
        """The open connection to the file that has the path now."""
        if self._db is not None and self._pid != os.getpid():
            self._strand("cannot be used here: C code forked this process while the connection was open; use os.fork")
        self._refuse_if_stranded()
        if self._db is None:
            return self._connect(deadline)
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            self._disconnect()
            raise BrokerCorrupt(f"{self.path} was deleted while it was used; what it held is gone") from None
        if (found.st_dev, found.st_ino) != self._identity:
            # SQLite sees on closing that the file has moved, and leaves the files beside it alone. But the next to
            # open the new file would apply the old one's WAL to it.
            self._disconnect()
            self._unusable = BrokerCorrupt(
                f"{self.path} was replaced by another file while it was used: stop all that use it, remove "
                f"{self.path}-wal and {self.path}-shm, and start again"
            )
            self._refuse_if_stranded()
        return self._db

    def _refuse_if_stranded(self) -> None:
        if self._unusable:
            raise type(self._unusable)(*self._unusable.args)

    def _connect(self, deadline: float) -> sqlite3.Connection:
        if sqlite3.sqlite_version_info < schema.OLDEST_SQLITE:
            oldest = ".".join(map(str, schema.OLDEST_SQLITE))
            raise BrokerIncompatible(f"this Python has SQLite {sqlite3.sqlite_version}; poolrt needs {oldest} or newer")
        if not self._on_local_disk and is_network_filesystem(self.path):
            raise BrokerIncompatible(
                f"{self.path} is on a network file system, where SQLite's locks do not hold; name a local path"
            )
        self._on_local_disk = True
        self._identity = _identity(self.path)
        self._claims = ClaimsLock(self.path + "-claims")
        self._pid = os.getpid()
        # mode=rw: SQLite must not make the file again, with other permissions, if it is gone by now.
        uri = f"file:{quote(self.path)}?mode=rw"
        self._db = sqlite3.connect(
            uri, uri=True, timeout=0, isolation_level=None, check_same_thread=False, cached_statements=128
        )
        try:
            self._patiently(self._prepare, deadline)
        except BaseException:
            self._disconnect()
            raise
        return self._db

    def _prepare(self) -> None:
        """Settings of the connection, and the tables if they are not there yet."""
        db = self._db
        assert db is not None
        if not schema.is_current(db):
            schema.check(db, self.path)  # before the first write to what may be another's
            db.execute("pragma journal_mode = wal")
            db.execute("begin immediate")
            try:
                schema.upgrade(db, self.path)
                db.execute("commit")
            except BaseException:
                if db.in_transaction:
                    db.execute("rollback")
                raise
        db.execute(f"pragma synchronous = {self._synchronous}")

    def _disconnect(self) -> None:
        db, claims = self._db, self._claims
        self._db = self._claims = None
        if claims is not None:
            claims.close()
        if db is not None:
            db.close()

    # ---- around a fork, called by `fork` alone

    def before_fork(self) -> bool:
        """Wait for the call in progress and close the connection; False if the fork comes from inside that call."""
        if self._user == threading.get_ident():
            return False
        self._lock.acquire()
        try:
            self._disconnect()
        except sqlite3.Error:  # it may be open still: the child must not touch it
            self._lock.release()
            return False
        return True

    def after_fork_in_parent(self) -> None:
        """Let the next call in."""
        self._lock.release()

    def after_fork_in_child(self, *, clean: bool) -> None:
        """A lock of its own; unusable if the fork came from inside a call, whose connection must not be touched."""
        self._lock = threading.Lock()
        self._user = None
        if not clean:
            self._strand("cannot be used here: this process was forked in the middle of a call to the broker")

    def _strand(self, why: str) -> None:
        """Never use or close the inherited connection, and open no other: SQLite would share its state with it."""
        self._unusable = BrokerError(f"{self.path} {why}")
        _abandoned.append(self._db)
        self._db = self._claims = None


_abandoned: Final[list[object]] = []
"""Connections that must not be closed, which their deletion would do."""


def _identity(path: str) -> tuple[int, int]:
    """Which file ``path`` is, made if missing.

    Raises:
        BrokerError: others could write to it, so that neither its messages nor its code could be trusted.
        BrokerReadOnly: this process cannot write to it, or to its folder.
    """
    try:
        found = os.stat(path)
    except FileNotFoundError:
        try:
            os.close(open_private(path, os.O_RDWR | os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            pass  # another process was faster
        found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise BrokerCorrupt(f"{path} is not a file; name another one")
    if found.st_uid != os.geteuid():
        raise BrokerError(f"{path} belongs to uid {found.st_uid}, not to {os.geteuid()}: run this as that user")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        mode = stat.S_IMODE(found.st_mode)
        raise BrokerError(f"{path} can be written by others (mode {mode:04o}); after a look at it: chmod 600 {path}")
    for needed in (path, os.path.dirname(path)):
        # Asked first: SQLite would open it for reading only, and leave a -wal and -shm of the same mode behind.
        if not os.access(needed, os.W_OK):
            raise BrokerReadOnly(f"{needed} cannot be written: check its permissions, or the mount")
    return found.st_dev, found.st_ino
