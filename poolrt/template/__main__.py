"""``python -m poolrt.template``: started by the supervisor, not by people."""

from __future__ import annotations

import os
import sys

from poolrt.template.main import main

if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # the app's exit handlers belong to programs that use it, not to a process that only forks
