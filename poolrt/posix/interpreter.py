"""Starting a fresh interpreter that finds poolrt where this one found it."""

from __future__ import annotations

import os
import site
from pathlib import Path


def environment() -> dict[str, str]:
    """This process's environment; with poolrt's folder in PYTHONPATH where a fresh interpreter would not find it.

    At the end of the path, and only then: a task's own programs inherit it.
    """
    root = str(Path(__file__).resolve().parents[2])
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if root in {*site.getsitepackages(), site.getusersitepackages(), *paths}:
        return dict(os.environ)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [*paths, root]))}
