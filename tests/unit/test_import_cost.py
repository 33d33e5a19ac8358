"""What ``import poolrt`` loads: clients, scripts and every process pay for it, so it is a list, not a feeling."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Change it on purpose: a module that joins this list is paid for by everyone who imports poolrt.
LOADED = ("poolrt", "poolrt.version")

# Optional or slow (milliseconds each, redis 117, rich 38): they load where they are used.
NOT_LOADED = (
    "asyncio",
    "celery",
    "click",
    "cloudpickle",
    "concurrent.futures",
    "ctypes",
    "http",
    "importlib.metadata",
    "inspect",
    "msgspec",
    "multiprocessing",
    "psutil",
    "redis",
    "rich",
    "sqlite3",
    "ssl",
    "subprocess",
)


@pytest.fixture(scope="module")
def loaded() -> set[str]:
    """The modules that ``import poolrt`` adds to a fresh interpreter."""
    script = "import sys; old = set(sys.modules); import poolrt; print(*set(sys.modules) - old)"
    # A coverage run or a debugger's PYTHON* setting would load modules of its own first, and hide ours.
    keep = {"PYTHONPYCACHEPREFIX", "PYTHONDONTWRITEBYTECODE"}
    own = ("COVERAGE", "PYTHON")
    env = {name: value for name, value in os.environ.items() if name in keep or not name.startswith(own)}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=env, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_import_loads_exactly_the_listed_modules(loaded):
    """``import poolrt`` loads the modules of poolrt that LOADED lists, no more and no fewer."""
    ours = {name for name in loaded if name.split(".")[0] == "poolrt"}
    more, fewer = sorted(ours - set(LOADED)), sorted(set(LOADED) - ours)
    assert not more, f"`import poolrt` also loads {more}: load them where they are used, or list them in LOADED"
    assert not fewer, f"`import poolrt` no longer loads {fewer}: take them out of LOADED"


@pytest.mark.parametrize("module", NOT_LOADED)
def test_import_does_not_load(module, loaded):
    """Importing poolrt loads no optional library and no slow part of the standard one."""
    assert module not in loaded, (
        f"`import poolrt` loads {module}: find who with `python -X importtime -c 'import poolrt'`"
    )
