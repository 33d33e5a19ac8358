"""What tasks leave in the temporary folder of their child (temp_folders.py): who fills it; and how it is removed.

What is no leak, beside what `leftovers` says: a cache's folder (matplotlib's, one of joblib) is left once in a child;
one that keeps some dozens of files removes the oldest in time; a file that a later task takes away ends. What grows
inside a folder that stays is not seen; it goes with the child.
"""

from __future__ import annotations

import logging
import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from poolrt.hygiene.findings import Finding, LeakKind
from poolrt.hygiene.leftovers import LIVES_ON, Leftovers, without_numbers
from poolrt.units import format_size

log = logging.getLogger("poolrt.hygiene")

HANDED_ON: Final = 60.0
"""Seconds: a file that one task leaves for the next one waits in a queue."""
CACHE: Final = 65
"""Runs: what keeps files by their keys, and removes the oldest, is commonly bounded at 32 or 64."""
MANY: Final = 300
"""Runs whose files need only be seconds old: more than a cache of 256, and more than wait in most queues."""
MOST: Final = 1000
"""At once, of one task. With twice as many in the folder no runs are looked at singly: a look lists it, in 2 ms."""
_MOST_WEIGHED: Final = 1000
"""Files whose sizes are added up: 2 ms."""
_TICK_NS: Final = 20_000_000
"""A folder's time has steps of up to 10 ms: what comes within one step of the last change does not move it."""
_HEX: Final = re.compile(r"[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}|[0-9a-f]{12,}")
_RANDOM: Final = re.compile(r"[a-z0-9_]{8}(?=$|\.)")
"""What ``tempfile`` puts before the suffix; a word of eight letters too, so that it costs a part of a name."""


def remove(path: Path | str) -> bool:
    """Remove a dead child's folder with all in it; whether it is gone. A folder that is not there is.

    Symbolic links are removed and never followed, what is mounted there is left alone. A folder without permissions is
    given them. What cannot be removed is logged.
    """
    try:
        device = os.lstat(path).st_dev
        fd = _open_folder(path, None)
    except FileNotFoundError:
        return True
    except OSError as error:
        log.warning("cannot remove a child's temporary files: %s", error)
        return False
    try:
        _empty(fd, device)
    except RecursionError:
        log.warning("cannot remove %s: its folders are too deep", path)
    finally:
        os.close(fd)
    try:
        os.rmdir(path)
    except OSError as error:
        log.warning("cannot remove a child's temporary files: %s", error)
        return False
    return True


def _open_folder(path: Path | str, above: int | None) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, flags, dir_fd=above)
    except PermissionError:
        if not stat.S_ISDIR(os.stat(path, dir_fd=above, follow_symlinks=False).st_mode):
            raise
        os.chmod(path, 0o700, dir_fd=above)
        return os.open(path, flags, dir_fd=above)


def _empty(folder: int, device: int) -> None:
    """Remove what is in this folder and on this device. It goes by descriptors: no path can be changed into a link."""
    if os.fstat(folder).st_dev != device:
        return
    try:
        os.fchmod(folder, 0o700)
    except PermissionError as error:
        log.debug("another user's folder: %s", error)  # if nothing can be removed, that is logged
    with os.scandir(folder) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_folder in found:
        try:
            if is_folder:
                inner = _open_folder(name, folder)
                try:
                    _empty(inner, device)
                finally:
                    os.close(inner)
                os.rmdir(name, dir_fd=folder)
            else:
                os.unlink(name, dir_fd=folder)
        except OSError as error:
            log.warning("cannot remove a child's temporary file %s: %s", name, error.strerror)


class TempWatch:
    """Looks for files that tasks left in the child's own temporary folder.

    A task that has removed the folder itself gets a new one: ``tempfile`` would fail for all that follow.

    Attributes:
        cost: microseconds of a look at which nothing has changed.
    """

    cost: Final = 1.6

    def __init__(
        self, folder: Path, clock: Callable[[], float] = time.monotonic, wall_ns: Callable[[], int] = time.time_ns
    ) -> None:
        """``clock`` is monotonic, in seconds; ``wall_ns`` the one that files are stamped with."""
        self._folder = os.fspath(folder)
        self._wall_ns = wall_ns
        self._left: Leftovers[str] = Leftovers(
            LeakKind.TEMP_FILES, "temporary files", enough=((CACHE, HANDED_ON), (MANY, LIVES_ON)), most=MOST,
            clock=clock, details=self._size_of,
        )  # fmt: skip
        self._changed = 0
        self._known: set[str] = set()
        self._known = self._names()

    @property
    def wants_each(self) -> bool:
        """Whether the next runs are to be looked at singly."""
        return self._left.wants_each and len(self._known) < 2 * MOST

    def look(self, ran: Mapping[str, int]) -> list[Finding]:
        """What these runs left, if it is a leak by now."""
        self._left.ran(ran)
        try:
            changed = os.stat(self._folder).st_mtime_ns
        except FileNotFoundError:
            changed = -1
        new = {} if changed == self._changed else self._look_closer()
        found = self._left.appeared(new, ran) if new else self._left.overdue()
        return [found] if found else []

    def _look_closer(self) -> dict[str, tuple[str, bool]]:
        before, self._known = self._known, self._names()
        for name in before - self._known:
            self._left.ended(name)
        return {name: (_pattern(name), False) for name in sorted(self._known - before)}

    def _names(self) -> set[str]:
        try:
            changed = os.stat(self._folder).st_mtime_ns
            names = set(os.listdir(self._folder))
            self._changed = changed if self._wall_ns() - changed > _TICK_NS else 0
        except FileNotFoundError:
            self._make_again()
            return set()
        except OSError as error:
            log.warning("cannot look into the child's TMPDIR: %s", error)  # a task has put something else there
            return self._known
        return names

    def _make_again(self) -> None:
        try:
            os.makedirs(self._folder, 0o700)
        except OSError as error:
            log.warning("cannot make the child's TMPDIR again, which a task has removed: %s", error)

    def _size_of(self, names: Iterable[str]) -> str:
        files = [file for name in names for file in _files(os.path.join(self._folder, name))]
        sizes = []
        for file in files[:_MOST_WEIGHED]:
            try:
                sizes.append(os.lstat(file).st_size)
            except OSError:
                continue  # removed meanwhile
        return ("more than " if len(files) > _MOST_WEIGHED else "") + format_size(sum(sizes))


def _files(path: str) -> Iterator[str]:
    yield path
    for folder, _, names in os.walk(path):
        yield from (os.path.join(folder, name) for name in names)


def _pattern(name: str) -> str:
    """``tmp*.csv`` for ``tmpab12cd_4.csv``: names made by ``tempfile``, with ids or numbers, become one."""
    return without_numbers(_RANDOM.sub("*", _HEX.sub("*", name)))
