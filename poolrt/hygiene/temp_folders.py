"""Where the children of a node put their temporary files: a folder each, which the child locks for as long as it lives.

$TMPDIR/poolrt-UID/NODE-xxxxxxxx/INCARNATION-TEMPLATE.SLOT/      all 0700
  child ── make ──▶ TMPDIR, locked; the slot's next child has the same one
  child leaves, or template has reaped it ── drop ──▶ nothing in it
  a template begins or ends ── sweep: what no living child has locked

A folder that stays empty stays: to make and to remove one for each child was a tenth of what a recycling costs (ext4).
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import stat
import sys
from pathlib import Path
from typing import Final

from poolrt.hygiene.temp_files import remove
from poolrt.posix.locks import hold_for_life, is_held_for_life

log = logging.getLogger("poolrt.hygiene")

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class TempFolders:
    """The folders of one template's children: no two of these that live have one slot.

    Args:
        node_directory: where the broker has the node keep its files; two nodes of one name differ in it.
        inside: the system's folder for temporary files; None: ``$TMPDIR``, else ``/tmp``.
    """

    def __init__(self, node: str, incarnation: str, node_directory: str, inside: str | None = None) -> None:
        base = inside or os.environ.get("TMPDIR") or "/tmp"  # noqa: S108  checked by _is_ours before it is used
        digest = hashlib.sha256(node_directory.encode("utf-8", "surrogateescape")).hexdigest()[:8]
        self._ours = f"{base}/poolrt-{os.getuid()}"
        self._parent = f"{self._ours}/{node}-{digest}"
        self._stem = f"{self._parent}/{incarnation}-{os.getpid()}."

    def make(self, slot: int) -> Path | None:
        """In a child: its folder, empty, its TMPDIR from now on; None, with a warning, if there can be none."""
        path = self._stem + str(slot)
        try:
            # Never closed: the lock ends with the child, whatever its end.
            hold_for_life(self._open(path))
        except OSError as error:
            log.warning("this child has no TMPDIR of its own: %s", error)
            return None
        for name in ("TMPDIR", "TEMP", "TMP"):
            os.environ[name] = path
        tempfile = sys.modules.get("tempfile")
        if tempfile is not None:
            tempfile.tempdir = path  # type: ignore[attr-defined]  # else it may have chosen another one already
        return Path(path)

    def drop(self, slot: int) -> None:
        """Nothing of a child that is dead, or leaves, stays."""
        path = self._stem + str(slot)
        try:
            folder = os.open(path, _FOLDER)
        except FileNotFoundError:
            return
        except OSError:
            _clear_away(path)
            return
        try:
            is_empty = not os.listdir(folder)
        finally:
            os.close(folder)
        if not is_empty:
            _clear_away(path)

    def sweep(self) -> None:
        """Remove what dead children have left: of earlier starts, or of a template that died with them."""
        try:
            names = os.listdir(self._parent)
        except OSError:
            return
        for name in names:
            path = f"{self._parent}/{name}"
            if not _is_locked(path):
                _clear_away(path)

    def leave(self) -> None:
        """Sweep, and remove what the folders were in, if nobody else's are there."""
        self.sweep()
        with contextlib.suppress(OSError):
            os.rmdir(self._parent)
            os.rmdir(self._ours)

    def _open(self, path: str) -> int:
        """The descriptor of the folder that the slot's last child had, as it was made, or else of a new one."""
        try:
            folder = os.open(path, _FOLDER)
        except OSError:
            pass  # there is none, or a task has put something else there
        else:
            if _is_private(os.fstat(folder)):
                return folder
            os.close(folder)
        os.makedirs(self._ours, mode=0o700, exist_ok=True)
        if not _is_private(os.lstat(self._ours)):  # in /tmp anybody may have made one
            raise PermissionError(f"{self._ours} is not this user's alone")
        os.makedirs(self._parent, mode=0o700, exist_ok=True)
        _clear_away(path)
        os.mkdir(path, mode=0o700)
        return os.open(path, _FOLDER)


def _clear_away(path: str) -> None:
    """Remove a folder with all in it, or what a task has put in its place; what cannot be removed is logged."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    except OSError:  # a folder: EISDIR, elsewhere than on Linux EPERM
        remove(path)


def _is_locked(path: str) -> bool:
    try:
        folder = os.open(path, _FOLDER)
    except OSError:
        return False
    try:
        return is_held_for_life(folder)
    finally:
        os.close(folder)


def _is_private(found: os.stat_result) -> bool:
    """Whether it is a folder of this user's that he, and nobody else, may use."""
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and found.st_mode & 0o777 == 0o700
