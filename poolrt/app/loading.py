"""Whether this process is loading an app for a pool, where enqueueing would repeat the program's own work.

The template runs an unguarded script again to learn its tasks, as multiprocessing's spawn does. The first
call with an effect (``delay``, ``Supervisor.start``) ends that run: the tasks above it are registered, and
what stands below it belongs to the program that started the pool.
"""

from __future__ import annotations

import sys

from poolrt.errors import ConfigurationError


class ScriptBodyReached(BaseException):
    """Ends the template's run of a script; a BaseException, so that no ``except Exception`` of the script keeps it."""

    def __init__(self, what: str, line: int) -> None:
        super().__init__(what, line)
        self.what = what
        self.line = line


_mode: str = ""


def begin(mode: str) -> None:
    """Say that a ``script`` or a ``module`` is being loaded from now on; an empty text ends it."""
    global _mode  # noqa: PLW0603  a process loads one app at a time
    _mode = mode


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
        raise ScriptBodyReached(what, frame.f_lineno)
    raise ConfigurationError(
        f"{frame.f_code.co_filename}:{frame.f_lineno} calls {what} while the module is imported by a worker: "
        "move it into a function, or every start of a worker would do it again"
    )
