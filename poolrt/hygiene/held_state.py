"""What belongs to the whole process and a task may change: how each is read, put back, and when a change is kept.

A change is put back, and its task named, with these exceptions, which keep what common libraries do from being broken
or reported:

- A run that imported a module from outside the standard library may have been its first use: matplotlib, torch and
  Django's ``setup()`` set variables, ``PATH``, ``sys.path``, root handlers, a locale or a decimal context then, once,
  and need them later. What is `Held.lenient` is kept then, and not reported. (Of the environment: what is new, or
  prolongs what was there, as cv2 does ``LD_LIBRARY_PATH``. What is changed to something else or removed is put back.)
- What is *added* without an import (a variable, an entry of sys.path, a handler of the root logger) is kept at first:
  libraries add once, ``os.environ.setdefault``, and rely on it. Told and taken back is a variable when it is given
  another value, and all that a task has added when ``SEVERAL`` of its runs have; from then on each time.
- A debugger's or coverage's trace function stays: it was attached on purpose.

Values of variables are never shown: they may be secret.
"""

from __future__ import annotations

import _locale
import _signal  # type: ignore[import-not-found]  # what ``signal`` wraps, without its enums: see posix.signals
import asyncio
import functools
import gc
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from poolrt.hygiene.leftovers import FEW, without_numbers
from poolrt.posix.signals import signal_name

_CHANGES: Final = object()
"""What no value equals."""
SEVERAL: Final = 3
"""Runs of one task that each added something: a first use is one run, or two."""
_NOT_OURS: Final = {signal.SIGKILL, signal.SIGSTOP, signal.SIGUSR1, signal.SIGUSR2}
"""Two that nobody handles, and two that `child.audit` looks after."""
_DEBUGGERS: Final = ("bdb", "pdb", "debugpy", "pydevd", "_pydevd", "coverage", "trace")
_DECIMAL: Final = (28, "ROUND_HALF_EVEN")


class Run(NamedTuple):
    """Who may have changed something.

    Attributes:
        task: empty if there are several.
        imported: whether a module from outside the standard library was imported.
    """

    task: str
    imported: bool


class Held:
    """One value that is held to its baseline.

    Arguments:
        what: its name in findings.
        read: gives the value; may put the baseline back at once.
        restore: puts a value back.
        lenient: whether a change is kept if the run imported a module.
    """

    def __init__(
        self, what: str, read: Callable[[], Any], restore: Callable[[Any], object], *, lenient: bool = False
    ) -> None:
        self.what = what
        self.read = read
        self.restore = restore
        self.lenient = lenient

    def baseline(self) -> Any:
        """What `read` is compared with."""
        return self.read()

    def settle(self, old: Any, new: Any, run: Run) -> list[str]:
        """Put a change back, or keep it; what of it is to be told.

        Raises:
            Exception: it cannot be put back.
        """
        if self.lenient and run.imported:
            return []
        self.restore(old)
        return [self.what]


class Additions:
    """What runs added, each under a key and with its value, and when it is a leak."""

    def __init__(self) -> None:
        self._of: dict[str, tuple[int, list[Any]]] = {}
        """Of each task (and of runs of several, which have no name): how many runs added, and what is kept of it."""
        self._values: dict[Any, Any] = {}
        """Of each key that is kept; ``_CHANGES`` of one that was seen with two values."""

    def leaked(self, task: str, added: Mapping[Any, Any]) -> list[Any]:
        """The keys that are to be taken back now that a run has added these."""
        changing = [key for key, value in added.items() if self._values.get(key, value) != value]
        self._values |= dict.fromkeys(changing, _CHANGES)
        new = [key for key in added if key not in self._values]
        self._values |= {key: added[key] for key in new}
        if not new:
            return changing
        runs, kept = self._of.get(task, (0, []))
        runs, kept = runs + 1, [*kept, *new]
        if runs < (SEVERAL if task else FEW):
            self._of[task] = (runs, kept)
            return changing
        self._of[task] = (runs, [])
        back = [key for key in kept if self._values[key] is not _CHANGES]
        for key in back:
            del self._values[key]
        return [*changing, *back]


class Environment(Held):
    """``os.environ``. It is read where Python keeps it, as bytes: a comparison with a copy costs 0.3 us."""

    def __init__(self) -> None:
        self._environ = os.environ
        self._data: dict[bytes, bytes] = os.environ._data  # type: ignore[attr-defined]  # noqa: SLF001  see above
        self._owned = dict(self._data)
        """What was there at first, and what imports set."""
        self._additions = Additions()
        super().__init__("environ", lambda: self._data, self._put_back)

    def baseline(self) -> dict[bytes, bytes]:
        """See `Held`."""
        return dict(self._data)

    def settle(self, old: dict[bytes, bytes], new: dict[bytes, bytes], run: Run) -> list[str]:
        """See `Held`, and the module."""
        back: dict[bytes, bytes | None] = {}
        added: dict[bytes, bytes] = {}
        for name in old.keys() | new.keys():
            was, now = old.get(name), new.get(name)
            if was == now:
                continue
            if run.imported and now is not None and (was is None or was in now):
                self._owned[name] = now
            elif name in self._owned:
                back[name] = self._owned[name]
            elif now is not None:
                added[name] = now
        back |= dict.fromkeys(self._additions.leaked(run.task, added))
        self._put_back(back)
        return sorted({f"{self.what} {without_numbers(os.fsdecode(name))}" for name in back})

    def _put_back(self, values: Mapping[bytes, bytes | None]) -> None:
        for name, value in values.items():
            if value is None:
                self._environ.pop(os.fsdecode(name), None)
            else:
                self._environ[os.fsdecode(name)] = os.fsdecode(value)
        if b"TZ" in values:
            time.tzset()


class Growing(Held):
    """A list that may grow by a few entries for each task."""

    def __init__(self, what: str, read: Callable[[], Any], restore: Callable[[list[Any]], object]) -> None:
        self._additions = Additions()
        super().__init__(what, read, restore, lenient=True)

    def baseline(self) -> list[Any]:
        """See `Held`."""
        return list(self.read())

    def settle(self, old: list[Any], new: list[Any], run: Run) -> list[str]:
        """See `Held`, and the module."""
        entries = iter(new)
        extended = all(entry in entries for entry in old)  # each is found behind the one before
        if extended and run.imported:
            return []
        added = [entry for entry in new if entry not in old]
        if extended and len(new) == len(old) + len(added):
            leaked = self._additions.leaked(run.task, dict.fromkeys(added))
            if leaked:
                self.restore([entry for entry in new if entry not in leaked])
            return [self.what] if leaked else []
        self.restore(old)
        return [self.what]


class Handlers(Held):
    """Handlers of signals. Their names are made only for what has changed."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self._numbers = numbers
        super().__init__("signal handlers", lambda: [*map(_signal.getsignal, numbers)], _nothing)

    def settle(self, old: list[Any], new: list[Any], run: Run) -> list[str]:
        """See `Held`."""
        changed = {number: was for number, was, now in zip(self._numbers, old, new, strict=True) if was is not now}
        for number, handler in changed.items():
            if handler is not None:
                _signal.signal(number, handler)
        names = [f"signal {signal_name(number)}" for number in changed]
        if None in changed.values():
            raise RuntimeError(f"C code had set a handler of {' or '.join(names)}")
        return names


class WorkingDirectory(Held):
    """The working directory. If only its path changes, as when the app is deployed anew, no task has done it."""

    def __init__(self, path: str, folder: tuple[int, int]) -> None:
        self._folder = folder
        super().__init__("cwd", _path, lambda _: os.chdir(path))

    def settle(self, old: str, new: str, run: Run) -> list[str]:
        """See `Held`."""
        return [] if _folder() == self._folder else super().settle(old, new, run)


class Traced(Held):
    """A trace or profile function."""

    def settle(self, old: Any, new: Any, run: Run) -> list[str]:
        """See `Held`, and the module."""
        module = getattr(new, "__module__", None) or type(new).__module__
        return [] if module.partition(".")[0] in _DEBUGGERS else super().settle(old, new, run)


def often_changed() -> list[Held]:
    """What tasks and libraries change most, and what costs least: 2 us."""
    umask = os.umask(0o077)
    os.umask(umask)
    held = [
        _cwd(),
        Held("umask", lambda: os.umask(umask), _nothing),  # see rarely_changed
        Held("socket default timeout", socket.getdefaulttimeout, socket.setdefaulttimeout, lenient=True),
        Environment(),
        Held("environ", lambda: os.environ, functools.partial(setattr, os, "environ")),
        Growing("sys.path", lambda: sys.path, _set_path),
        Growing("a handler of logger root", lambda: logging.root.handlers, _set_root_handlers),
        Held("level of logger root", _levels, _set_levels, lenient=True),
        Held("garbage collector", gc.isenabled, lambda on: gc.enable() if on else gc.disable()),
        Held("sys.stdout", lambda: sys.stdout, functools.partial(setattr, sys, "stdout"), lenient=True),
        Held("sys.stderr", lambda: sys.stderr, functools.partial(setattr, sys, "stderr"), lenient=True),
        _closed("sys.stdout", sys.stdout),
        _closed("sys.stderr", sys.stderr),
        Traced("trace function", sys.gettrace, sys.settrace),
        Traced("profile function", sys.getprofile, sys.setprofile),
        Held("running asyncio loop", asyncio._get_running_loop, asyncio._set_running_loop),  # noqa: SLF001  public names run a check first
    ]
    return [each for each in held if each is not None]


def rarely_changed() -> list[Held]:
    """What costs more, or is seldom changed: 3 us.

    Mask, wake-up descriptor and umask are set to the baseline to be read: a change of them is undone in one step, and
    never is there a moment in which another thread would see a third value.
    """
    mask = _signal.pthread_sigmask(signal.SIG_BLOCK, ())
    held = [
        Held("signal mask", lambda: _signal.pthread_sigmask(signal.SIG_SETMASK, mask), _nothing),
        Handlers(sorted(_signal.valid_signals() - _NOT_OURS)),
        _alarm(),
        _wakeup(),
        Held("locale", lambda: _locale.setlocale(_locale.LC_ALL), _set_locale, lenient=True),
        Held("decimal context", _decimal, _set_decimal, lenient=True),
        Held("recursion limit", sys.getrecursionlimit, sys.setrecursionlimit, lenient=True),
    ]
    return [each for each in held if each is not None]


def _closed(name: str, stream: Any) -> Held | None:
    return Held(f"closed {name}", lambda: stream.closed, _cannot) if hasattr(stream, "closed") else None


def _wakeup() -> Held | None:
    first = signal.set_wakeup_fd(-1)
    if first == -1:
        return Held("signal wake-up descriptor", functools.partial(signal.set_wakeup_fd, -1), _nothing)
    signal.set_wakeup_fd(first, warn_on_full_buffer=False)  # a hook's of the app
    return None


def _alarm() -> Held | None:
    """A timer that would kill a later task, or this process."""
    if signal.getitimer(signal.ITIMER_REAL) != (0.0, 0.0):
        return None  # a hook's of the app
    read = functools.partial(signal.getitimer, signal.ITIMER_REAL)
    return Held("alarm", read, lambda old: signal.setitimer(signal.ITIMER_REAL, *old))


def _cwd() -> Held | None:
    return WorkingDirectory(os.getcwd(), _folder()) if _path() else None


def _path() -> str:
    try:
        return os.getcwd()
    except OSError:
        return ""  # it was removed


def _folder() -> tuple[int, int]:
    here = os.stat(".")
    return here.st_dev, here.st_ino


def _levels() -> tuple[int, int]:
    return logging.root.level, logging.root.manager.disable


def _set_levels(levels: tuple[int, int]) -> None:
    logging.root.setLevel(levels[0])
    logging.disable(levels[1])


def _set_root_handlers(handlers: list[logging.Handler]) -> None:
    logging.root.handlers[:] = handlers


def _set_path(path: list[str]) -> None:
    current: object = sys.path  # a task may have put anything there
    if isinstance(current, list):
        current[:] = path  # others hold this very list
    else:
        sys.path = list(path)


def _set_locale(names: str) -> None:
    _locale.setlocale(_locale.LC_ALL, names)


def _decimal() -> tuple[int, str]:
    decimal = sys.modules.get("decimal")
    if decimal is None:
        return _DECIMAL
    context = decimal.getcontext()
    return context.prec, context.rounding


def _set_decimal(values: tuple[int, str]) -> None:
    context = sys.modules["decimal"].getcontext()
    context.prec, context.rounding = values


def _nothing(_: object) -> None:
    """It is back already."""


def _cannot(_: object) -> None:
    raise RuntimeError("nothing can open it again")
