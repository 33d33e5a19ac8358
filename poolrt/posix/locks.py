"""Two locks on files, because they answer two questions.

- `NodeLock` (flock): does any process of this node still live? It belongs to the *open file*, so everyone who inherited
  the descriptor by fork holds it too, and it ends when the last of them has closed it or died.
- `RecordLock` (fcntl): who may claim now? It belongs to the *process*: no child inherits it, its holder's death frees
  it, and waiters queue in the kernel in order.

Kernel facts that bite:

- LOCK_UN in one process unlocks a flock for all who share it; closing is the only polite release.
- A file that is unlinked and made anew is another lock: after locking, path and descriptor are compared.
- Closing *any* descriptor of a file drops all fcntl locks the process holds on it, also one that a library opened.
- A second fcntl lock by the holder succeeds at once (it is his already): it excludes no threads.
"""

import fcntl
import os
import struct
import sys
import time
from typing import Final

from poolrt.errors import PoolrtError
from poolrt.posix.files import open_private

_FLOCK: Final = "hhqqi0q" if sys.platform == "linux" else "qqihh"


def _whole_file(kind: int) -> bytes:
    fields = (kind, 0, 0, 0, 0) if sys.platform == "linux" else (0, 0, 0, kind, 0)
    return struct.pack(_FLOCK, *fields)


_LOCK: Final = _whole_file(fcntl.F_WRLCK)
_UNLOCK: Final = _whole_file(fcntl.F_UNLCK)


class LockHeld(PoolrtError):
    """Another process holds the lock. ``path`` names it; ``pid`` is what the file says about its holder, or None."""

    def __init__(self, path: str, pid: int | None) -> None:
        super().__init__(f"{path} is locked by {'another process' if pid is None else f'process {pid}'}")
        self.path = path
        self.pid = pid


class NodeLock:
    """An exclusive flock on a small file that also says who holds it. Made by `acquire`; shared by fork.

    The file is never renamed or replaced: its inode is the lock.
    """

    def __init__(self, fd: int, path: str) -> None:
        self.fd = fd
        """The descriptor; close-on-exec, so that what a task execs does not hold the node."""
        self.path = path
        self.inode = os.fstat(fd).st_ino

    def __repr__(self) -> str:
        return f"NodeLock({self.path!r}, fd={self.fd}, inode={self.inode})"

    @classmethod
    def acquire(cls, path: str | os.PathLike[str], mode: int = 0o600) -> "NodeLock":
        """Lock the file, made with ``mode`` if missing, without waiting for its holder.

        Raises:
            LockHeld: someone holds it.
            OSError: the file cannot be opened; ELOOP for a symbolic link.
        """
        name = os.fspath(path)
        tries = 0
        while True:
            fd = open_private(name, os.O_RDWR | os.O_CREAT)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                lock = cls(fd, name)
                if lock.is_current():
                    os.fchmod(fd, mode)
                    return lock
            except BlockingIOError:
                tries += 1
                if tries == 4:  # a probe by is_held() lasts microseconds; a holder does not go away
                    pid = _holder(os.pread(fd, 4096, 0))
                    os.close(fd)
                    raise LockHeld(name, pid) from None
                time.sleep(0.001)
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)

    @classmethod
    def adopt(cls, fd: int, path: str | os.PathLike[str]) -> "NodeLock":
        """The lock that was taken before an exec and handed over as ``fd``; it is made close-on-exec again."""
        os.set_inheritable(fd, False)
        return cls(fd, os.fspath(path))

    def is_current(self) -> bool:
        """Whether the descriptor is still open and the path still names the locked file."""
        try:
            return os.path.samestat(os.fstat(self.fd), os.stat(self.path, follow_symlinks=False))
        except OSError:
            return False

    def read(self) -> bytes:
        """The whole content, without the newlines at its end."""
        return os.pread(self.fd, os.fstat(self.fd).st_size, 0).rstrip(b"\n")

    def write(self, data: bytes) -> None:
        """Replace the content in place and sync it to the disk.

        The old length is overwritten by one write, padded with newlines, before the file is shortened: a crash in
        between leaves the new content, not a mixture.
        """
        padded = data.ljust(os.fstat(self.fd).st_size, b"\n")
        written = os.pwrite(self.fd, padded, 0)
        if written != len(padded):
            raise OSError(f"{self.path}: {written} of {len(padded)} bytes were written (disk full?)")
        os.ftruncate(self.fd, len(data))
        os.fsync(self.fd)

    def release(self) -> None:
        """Close this process's share; safe to call twice. Processes forked meanwhile go on holding theirs.

        The file stays: unlinking it would hand the next two comers a lock each.
        """
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def is_held(path: str | os.PathLike[str]) -> bool:
    """Whether anyone, this process included, holds the `NodeLock` of this file; False also where there is no file.

    It tries the lock for some microseconds; `NodeLock.acquire` bears with that, other flock users might not.
    """
    try:
        fd = open_private(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(fd)


class RecordLock:
    """An exclusive fcntl lock on a file of its own, opened once per process: 1.5 us for acquire and release.

    Not reentrant, not for threads: the lock is the process's, so a second `acquire` succeeds at once and the first
    `release` ends it. Nobody else in the process may open and close this file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open the file, made with mode 0600 if missing."""
        self.path = os.fspath(path)
        self._fd = open_private(self.path, os.O_RDWR | os.O_CREAT)

    def __repr__(self) -> str:
        return f"RecordLock({self.path!r})"

    def acquire(self, timeout: float | None = None) -> None:
        """Take the lock; wait for it in the kernel's queue, or try for ``timeout`` seconds (in no order).

        Raises:
            TimeoutError: it was not free in time.
            OSError: EDEADLK where waiting would close a circle of waiters.
        """
        if timeout is None:
            fcntl.fcntl(self._fd, fcntl.F_SETLKW, _LOCK)
            return
        deadline = time.monotonic() + timeout
        nap = 50e-6
        while True:
            try:
                fcntl.fcntl(self._fd, fcntl.F_SETLK, _LOCK)
                return
            except (BlockingIOError, PermissionError):  # EAGAIN or EACCES: POSIX allows either
                left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"{self.path} was not free within {timeout} s")
            time.sleep(min(nap, left))
            nap = min(nap * 2, 5e-3)

    def release(self) -> None:
        """Give the lock up; nothing happens if it is not held."""
        fcntl.fcntl(self._fd, fcntl.F_SETLK, _UNLOCK)

    def reopen_after_fork(self) -> None:
        """Nothing to do, and that is the point: the child shares the open file, but holds none of its parent's locks.

        Neither its `release` nor its `close` can drop the parent's. (Reopening would mean closing, and that drops.)
        """

    def close(self) -> None:
        """Close the file, which releases the lock; safe to call twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _holder(content: bytes) -> int | None:
    """The pid in the holder's words: the number after ``"pid"``, else the one the content begins with."""
    _, named, after = content.partition(b'"pid"')
    text = (after if named else content).lstrip(b" \t\n:")
    digits = text[: len(text) - len(text.lstrip(b"0123456789"))]
    return int(digits) if 0 < len(digits) < 10 else None


def hold_for_life(fd: int) -> None:
    """Lock the file behind ``fd`` together with whoever else does, until all copies of ``fd`` are closed: by death."""
    fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)


def is_held_for_life(fd: int) -> bool:
    """Whether somebody holds the file behind ``fd`` (``hold_for_life``)."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    fcntl.flock(fd, fcntl.LOCK_UN)
    return False
