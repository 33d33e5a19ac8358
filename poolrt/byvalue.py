"""Pickling by value: cloudpickle, but a script's own classes stay themselves on both sides.

A script is ``__main__`` in the program and ``__poolrt_main__`` in its workers. cloudpickle would send its
classes by value, as others of the same name: ``isinstance`` and ``except`` would silently be wrong. So such a
class is sent by its script and name, and by value only for a reader that has not run that script.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any, Final

import cloudpickle

from poolrt.script import SCRIPT_MODULE, main_script

_MAIN: Final = frozenset({"__main__", "__mp_main__", SCRIPT_MODULE})


def dumps(value: Any) -> bytes:
    """``value`` pickled; raises whatever its classes' own hooks raise."""
    file = io.BytesIO()
    _Pickler(file).dump(value)
    return file.getvalue()


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
    def reducer_override(self, obj: Any) -> Any:
        """A class of the running script by its name; everything else as cloudpickle does."""
        script = main_script()
        if isinstance(obj, type) and obj.__module__ in _MAIN and script is not None and "<" not in obj.__qualname__:
            return class_of_script, (Path(script).stem, obj.__qualname__, cloudpickle.dumps(obj))
        return super().reducer_override(obj)


def class_of_script(script: str, qualname: str, value: bytes) -> Any:
    """The class of that name, where this process has run that script or imported it; else the one by value."""
    running = main_script()
    names = [script] if running is None or Path(running).stem != script else ["__main__", script]
    for name in names:
        found: Any = sys.modules.get(name)
        for part in qualname.split("."):
            found = getattr(found, part, None)
        if isinstance(found, type):
            return found
    return cloudpickle.loads(value)
