"""From what SQLite and the operating system report to the broker's own errors, each saying what to do."""

from __future__ import annotations

import errno
import os
import sqlite3
from typing import Final

from poolrt.errors import BrokerBusy, BrokerCorrupt, BrokerError, BrokerFull, BrokerReadOnly

_BUSY: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_DAMAGED: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_REFUSED: Final = frozenset({sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM})
_CANNOT_GROW: Final = frozenset({sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE})
"""A quota (EDQUOT), a limit of the process (EFBIG) or a full /dev/shm come as these, not as SQLITE_FULL."""

_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NO_WRITING: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


def code_of(error: sqlite3.Error) -> int:
    """The primary result code; 0 for an error of Python's own wrapper."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def is_busy(error: sqlite3.Error) -> bool:
    """Whether another connection stands in the way, so that trying again makes sense."""
    return code_of(error) in _BUSY


def breaks_connection(error: sqlite3.Error) -> bool:
    """Whether the connection should not be used again: a new one looks at the file afresh (it may be opened for
    reading only, and would stay so)."""
    return code_of(error) not in {*_BUSY, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CONSTRAINT}


def translated(error: sqlite3.Error, path: str) -> BrokerError:
    """The broker's error for ``error`` on the database at ``path``."""
    code = code_of(error)
    extended = int(getattr(error, "sqlite_errorcode", 0))
    if code in _BUSY:
        return BrokerBusy(f"{path} is locked by another process; try again ({error})")
    if code == sqlite3.SQLITE_FULL or extended in _CANNOT_GROW:
        return BrokerFull(f"{path} cannot grow: the disk, a quota or a limit is full; make room ({error})")
    if code in _DAMAGED:
        return BrokerCorrupt(
            f"{path} is damaged or no SQLite database ({error}); look at it: sqlite3 {path} 'pragma integrity_check'"
        )
    if code in _REFUSED or (code == sqlite3.SQLITE_CANTOPEN and _unwritable(path)):
        return BrokerReadOnly(f"{path} cannot be written: check its permissions, its folder's, and the mount ({error})")
    return BrokerError(f"{path}: {error} ({getattr(error, 'sqlite_errorname', type(error).__name__)})")


def translated_os(error: OSError, path: str) -> BrokerError:
    """The broker's error for a failed system call on ``path`` or a file beside it."""
    if error.errno in _NO_SPACE:
        return BrokerFull(f"{path}: no space is left beside it; make room ({error.strerror})")
    if error.errno in _NO_WRITING:
        return BrokerReadOnly(f"{path}: {error.strerror} for {error.filename or 'a file beside it'}")
    if error.errno == errno.ENOENT:
        return BrokerError(f"{path}: its folder {os.path.dirname(path)} does not exist; make it first")
    return BrokerError(f"{path}: {error}")


def _unwritable(path: str) -> bool:
    return os.path.exists(path) and not (os.access(path, os.W_OK) and os.access(os.path.dirname(path), os.W_OK))
