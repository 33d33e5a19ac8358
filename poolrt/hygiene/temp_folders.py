"""Where the children of a node put their temporary files: a folder each, which the child locks for as long as it lives.

$TMPDIR/poolrt-UID/NODE-xxxxxxxx/INCARNATION-SLOT.GENERATION/      all 0700
  child ── make ──▶ TMPDIR, locked
  child leaves, or template has reaped it ── drop
  a template begins or ends ── sweep: what no living child has locked
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import stat
from pathlib import Path

from poolrt.hygiene.temp_files import folder_name, own_tempdir, remove
from poolrt.posix.locks import hold_for_life, is_held_for_life

log = logging.getLogger("poolrt.hygiene")


class TempFolders:
    """The folders of one start of a node.

    Args:
        node_directory: where the broker has the node keep its files; two nodes of one name differ in it.
        inside: the system's folder for temporary files; None: ``$TMPDIR``, else ``/tmp``.
    """

    def __init__(self, node: str, incarnation: str, node_directory: str, inside: str | None = None) -> None:
        base = inside or os.environ.get("TMPDIR") or "/tmp"  # noqa: S108  checked by _is_ours before it is used
        digest = hashlib.sha256(node_directory.encode("utf-8", "surrogateescape")).hexdigest()[:8]
        self._ours = Path(base) / f"poolrt-{os.getuid()}"
        self._parent = self._ours / f"{node}-{digest}"
        self._incarnation = incarnation

    def make(self, slot: int, generation: int) -> Path | None:
        """The folder of this child, its TMPDIR from now on; None, with a warning, if there can be none."""
        try:
            self._ours.mkdir(mode=0o700, exist_ok=True)
            if not _is_ours(self._ours):
                raise PermissionError(f"{self._ours} is not this user's alone")
            folder = own_tempdir(self._parent, folder_name(self._incarnation, slot, generation))
            # Never closed: the lock ends with the child, whatever its end.
            hold_for_life(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        except OSError as error:
            log.warning("this child has no TMPDIR of its own: %s", error)
            return None
        return folder

    def drop(self, slot: int, generation: int) -> None:
        """Remove the folder of a child that is dead, or leaves."""
        remove(self._parent / folder_name(self._incarnation, slot, generation))

    def sweep(self) -> None:
        """Remove what dead children have left: of earlier starts, or of a template that died with them."""
        try:
            names = os.listdir(self._parent)
        except OSError:
            return
        for name in names:
            if not _is_locked(self._parent / name):
                remove(self._parent / name)

    def leave(self) -> None:
        """Sweep, and remove what the folders were in, if nobody else's are there."""
        self.sweep()
        with contextlib.suppress(OSError):
            self._parent.rmdir()
            self._ours.rmdir()


def _is_locked(folder: Path) -> bool:
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return is_held_for_life(fd)
    finally:
        os.close(fd)


def _is_ours(folder: Path) -> bool:
    """Whether it is a folder of this user's that nobody else may write to: in /tmp anybody may have made one."""
    status = os.lstat(folder)
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077
