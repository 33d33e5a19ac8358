"""Real input that every machine has: the modules of the running Python's standard library."""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path
from typing import Final

LEFT_OUT: Final = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"})
"""Folders that are no modules of the library; tests hold broken source on purpose."""


def library() -> Path:
    """Where the standard library's source lies."""
    return Path(sysconfig.get_path("stdlib"))


def modules(root: Path | None = None) -> list[str]:
    """The path of each module below ``root`` (the standard library), sorted."""
    found: list[str] = []
    for folder, folders, files in os.walk(library() if root is None else root):
        folders[:] = sorted(name for name in folders if name not in LEFT_OUT)
        found += [os.path.join(folder, name) for name in sorted(files) if name.endswith(".py")]
    return found
