"""The readings of `procfs` where there is no /proc, by psutil: the same names and meanings, much slower.

What psutil cannot tell reads as its absence: threads have ids but no names, `is_stopped` judges the process as a whole,
and `holding` knows open files by path, so that it misses unlinked ones. psutil is loaded at the first call.
"""

import os
from collections.abc import Callable
from typing import Any, TypeVar

_T = TypeVar("_T")
_LETTERS = {
    "running": "R",
    "sleeping": "S",
    "disk-sleep": "D",
    "stopped": "T",
    "tracing-stop": "t",
    "zombie": "Z",
    "dead": "X",
    "idle": "I",
}


def _ask(pid: int | None, question: Callable[[Any], _T]) -> _T | None:
    """The answer, or None where the process is gone, a zombie that cannot tell, or another user's."""
    import psutil

    try:
        return question(psutil.Process(pid))
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return None


def pids() -> list[int]:
    """See `procfs.pids`."""
    import psutil

    return list(psutil.pids())


def state(pid: int) -> str | None:
    """See `procfs.state`."""
    return _ask(pid, lambda process: _LETTERS.get(process.status(), "S"))


def is_alive(pid: int) -> bool:
    """See `procfs.is_alive`."""
    return state(pid) not in {None, "Z", "X"}


def is_stopped(pid: int) -> bool:
    """See `procfs.is_stopped`."""
    return state(pid) in {"T", "t"}


def identity(pid: int) -> tuple[int, bool] | None:
    """See `procfs.identity`."""
    started = start_time(pid)
    return None if started is None else (started, is_alive(pid))


def parent(pid: int) -> int | None:
    """See `procfs.parent`."""
    return _ask(pid, lambda process: int(process.ppid()))


def start_time(pid: int) -> int | None:
    """Hundredths of a second since the epoch: to be compared with itself only."""
    return _ask(pid, lambda process: int(process.create_time() * 100))


def cpu_seconds(pid: int) -> float | None:
    """See `procfs.cpu_seconds`."""
    return _ask(pid, lambda process: float(sum(process.cpu_times()[:2])))


def command(pid: int) -> str:
    """See `procfs.command`."""
    text = " ".join(_ask(pid, lambda process: process.cmdline()) or ())
    if not text:
        name = _ask(pid, lambda process: process.name())
        text = f"[{name}]" if name else ""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def children(pid: int) -> list[int]:
    """See `procfs.children`."""
    return _ask(pid, lambda process: [child.pid for child in process.children()]) or []


def threads(pid: int | str = "self") -> list[tuple[int, str]]:
    """``(thread id, "")``: psutil knows no names."""
    whose = None if pid == "self" else int(pid)
    return _ask(whose, lambda process: [(thread.id, "") for thread in process.threads()]) or []


def rss_bytes(pid: int) -> int | None:
    """See `procfs.rss_bytes`."""
    return _ask(pid, lambda process: int(process.memory_info().rss))


def private_bytes(pid: int) -> int | None:
    """See `procfs.private_bytes`."""
    return _ask(pid, lambda process: int(process.memory_full_info().uss))


def marked(name: str, value: str) -> list[int]:
    """See `procfs.marked`."""
    return [
        pid for pid in pids() if pid != os.getpid() and _ask(pid, lambda process: process.environ().get(name)) == value
    ]


def holding(path: str | os.PathLike[str]) -> list[int]:
    """See `procfs.holding`; by path."""
    wanted = os.path.realpath(path)
    return [
        pid
        for pid in pids()
        if pid != os.getpid() and _ask(pid, lambda process: wanted in {file.path for file in process.open_files()})
    ]
