"""The running program when it is a script: its file, and the other name under which workers run it."""

from __future__ import annotations

import os
import sys
from typing import Final

SCRIPT_MODULE: Final = "__poolrt_main__"
"""The ``__name__`` under which a pool runs a script, so that its ``__main__`` guard is false."""


def main_script() -> str | None:
    """The file of the running program; None in a notebook, a REPL, or a program read from stdin."""
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    return os.path.abspath(file) if file and os.path.isfile(file) else None
