"""Whether this process is loading an app for a pool, where enqueueing would repeat the program's own work.

The template runs an unguarded script again to learn its tasks, as multiprocessing's spawn does. The first
call with an effect (``delay``, ``Supervisor.start``) ends that run: the tasks above it are registered, and
what stands below it belongs to the program that started the pool. The script's frames are not unwound: the
template goes on from inside that call, so that no ``finally`` or ``except`` of the script runs a second time.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from poolrt.errors import ConfigurationError


class ScriptBodyReached(BaseException):
    """Where a script's run in the template ends; raised only where nobody goes on from there."""

    def __init__(self, what: str, line: int) -> None:
        super().__init__(what, line)
        self.what = what
        self.line = line


_mode: str = ""
_go_on: Callable[[ScriptBodyReached], object] | None = None


def begin(mode: str, go_on: Callable[[ScriptBodyReached], object] | None = None) -> None:
    """Say that a ``script`` or a ``module`` is being loaded from now on; an empty text ends it.

    Args:
        mode: what is loaded.
        go_on: called at a script's first effect; it does not return.
    """
    global _mode, _go_on
    _mode, _go_on = mode, go_on


def refuse_effects(what: str) -> None:
    """Called before each effect; cheap when nothing is being loaded.

    Raises:
        ScriptBodyReached: a script is being loaded.
        ConfigurationError: a module is being loaded: it would enqueue at each start of each worker.
    """
    if not _mode:
        return
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("poolrt."):
        frame = frame.f_back
    if _mode == "script":
        stop = ScriptBodyReached(what, frame.f_lineno)
        if _go_on is not None:
            _go_on(stop)
        raise stop
    raise ConfigurationError(
        f"{frame.f_code.co_filename}:{frame.f_lineno} calls {what} while the module is imported by a worker: "
        "move it into a function, or every start of a worker would do it again"
    )
