"""What belongs to the whole process and a task may change: how each is read, put back, and when a change is kept.

A change is put back, and its task named, with these exceptions, which keep what common libraries do from being broken
or reported:

- A run that imported a module from outside the standard library may have been its first use: matplotlib, torch and
  Django's ``setup()`` set variables, ``PATH``, ``sys.path``, root handlers, a locale or a decimal context then, once,
  and need them later. What is `Held.lenient` is kept then, and not reported. (Of the environment: what is new, or
  prolongs what was there, as cv2 does ``LD_LIBRARY_PATH``. What is changed to something else or removed is put back.)
- What is *added* (a variable, an entry of sys.path, a handler of the root logger) is kept, until ``FEW`` runs of one
  task have each added some: then all that it added is taken back. Libraries add once: ``os.environ.setdefault``.
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
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

from poolrt.hygiene.leftovers import FEW, without_numbers
from poolrt.posix.signals import signal_name

_OFTEN_SET: Final = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGTSTP", "SIGCHLD", "SIGALRM", "SIGPIPE")
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
    """What each task has added, run by run."""

    def __init__(self) -> None:
        self._of: dict[str, tuple[int, list[Any]]] = {}

    def of_a_leak(self, run: Run, things: Iterable[Any]) -> list[Any]:
        """What is to be taken back now: nothing, or all that this task has added."""
        if not run.task:
            return []
        runs, added = self._of.get(run.task, (0, []))
        runs, added = runs + 1, [*added, *things]
        leak = runs >= FEW
        self._of[run.task] = (runs, [] if leak else added)
        return added if leak else []


class Environment(Held):
    """``os.environ``. It is read where Python keeps it, as bytes: a comparison with a copy costs 0.5 us."""

    def __init__(self) -> None:
        self._environ = os.environ
        self._data: dict[bytes, bytes] = os.environ._data  # type: ignore[attr-defined]  # noqa: SLF001  see above
        self._first = dict(self._data)
        self._additions = Additions()
        super().__init__("environ", lambda: self._data, self._put_back)

    def baseline(self) -> dict[bytes, bytes]:
        """See `Held`."""
        return dict(self._data)

    def settle(self, old: dict[bytes, bytes], new: dict[bytes, bytes], run: Run) -> list[str]:
        """See `Held`, and the module."""
        changed = [name for name in old.keys() | new.keys() if old.get(name) != new.get(name)]
        back, added = [], []
        for name in changed:
            was, now = old.get(name), new.get(name)
            if run.imported and now is not None and (was is None or was in now):
                continue
            if name in self._first:
                back.append(name)
            elif now is not None:
                added.append(name)
        leaked = self._additions.of_a_leak(run, added) if added else []
        self._put_back({name: old[name] for name in back} | dict.fromkeys(leaked))
        return sorted({f"{self.what} {without_numbers(os.fsdecode(name))}" for name in (*back, *leaked)})

    def _put_back(self, values: dict[bytes, bytes | None]) -> None:
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
            leaked = self._additions.of_a_leak(run, added)
            if leaked:
                self.restore([entry for entry in new if entry not in leaked])
            return [self.what] if leaked else []
        self.restore(old)
        return [self.what]


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
    """What is looked at each time: what tasks and libraries were seen to change, and what costs no more than 1 us."""
    # umask, mask and wake-up descriptor are set to the baseline to be read: a change of them is undone in one step, and
    # never is there a moment in which another thread would see a third value.
    umask = os.umask(0o077)
    os.umask(umask)
    mask = _signal.pthread_sigmask(signal.SIG_BLOCK, ())
    held = [
        _cwd(),
        Held("umask", functools.partial(os.umask, umask), _nothing),
        Held("signal mask", functools.partial(_signal.pthread_sigmask, signal.SIG_SETMASK, mask), _nothing),
        _alarm(),
        _wakeup(),
        Held("locale", functools.partial(_locale.setlocale, _locale.LC_ALL), _set_locale, lenient=True),
        Held("socket default timeout", socket.getdefaulttimeout, socket.setdefaulttimeout, lenient=True),
        Environment(),
        Held("environ", lambda: id(os.environ), functools.partial(_set_environ, os.environ)),
        Growing("sys.path", lambda: sys.path, _set_path),
        Growing("a handler of logger root", lambda: logging.root.handlers, _set_root_handlers),
        Held("level of logger root", _levels, _set_levels, lenient=True),
        Held("decimal context", _decimal, _set_decimal, lenient=True),
        Held("garbage collector", gc.isenabled, lambda on: gc.enable() if on else gc.disable()),
        Held("recursion limit", sys.getrecursionlimit, sys.setrecursionlimit, lenient=True),
        *_stream("stdout"),
        *_stream("stderr"),
        Traced("trace function", sys.gettrace, sys.settrace),
        Traced("profile function", sys.getprofile, sys.setprofile),
        Held("running asyncio loop", asyncio._get_running_loop, asyncio._set_running_loop),  # noqa: SLF001  public names run a check first
        *(_handler(getattr(signal, name)) for name in _OFTEN_SET),
    ]
    return [each for each in held if each is not None]


def rarely_changed() -> list[Held]:
    """Handlers of the other signals: 50 of them, 4 us."""
    others = signal.valid_signals() - _NOT_OURS - {getattr(signal, name) for name in _OFTEN_SET}
    return [_handler(number) for number in sorted(others)]


def _handler(number: int) -> Held:
    def restore(handler: Any) -> None:
        if handler is None:
            raise RuntimeError("its handler was set by C code")
        _signal.signal(number, handler)

    return Held(f"signal {signal_name(number)}", functools.partial(_signal.getsignal, number), restore)


def _stream(name: str) -> list[Held]:
    stream = getattr(sys, name)

    def is_closed() -> object:
        return getattr(stream, "closed", False)

    return [
        Held(f"sys.{name}", lambda: getattr(sys, name), lambda old: setattr(sys, name, old), lenient=True),
        Held(f"closed sys.{name}", is_closed, _cannot),
    ]


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
    root = logging.root
    return root.level, root.manager.disable


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


def _set_environ(environ: os._Environ[str], _: int) -> None:
    os.environ = environ  # noqa: B003  a task has put another object there


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
