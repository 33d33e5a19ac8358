"""One process, read from /proc. A process that is gone reads as None or as an empty list, never as an error.

Kernel facts that bite:

- The name in /proc/PID/stat may hold spaces and brackets: fields count from the last ``)``.
- A zombie keeps stat and loses memory, environment and descriptors. A process whose first thread has ended while
  others run also reads Z; only its thread count (or its pidfd) tells.
- /proc/PID/stat shows the first thread: T there does not say that the others have stopped.
- /proc/PID/environ is what the last exec was given; later changes of ``os.environ`` do not show, a fork keeps it.
- In the middle of an exec, command line and environment are empty for an instant.
- /proc/PID/task/TID/children may miss entries while children come and go; an empty answer is exact.

EMFILE and ENOMEM are raised: to answer "gone" would be a lie that gets processes declared dead.
"""

import functools
import os
from typing import Final

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_GONE: Final = (FileNotFoundError, ProcessLookupError, NotADirectoryError)

# Places in /proc/PID/stat, counted from the state.
_STATE, _PARENT, _USER_TICKS, _SYSTEM_TICKS, _THREADS, _START = 0, 1, 11, 12, 17, 19


def pids() -> list[int]:
    """Every process this one may see."""
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def state(pid: int) -> str | None:
    """The one-letter state of the first thread (R, S, D, T, t, Z, X, I); None when the process is gone. About 8 us."""
    stat = _stat(f"/proc/{pid}/stat")
    return None if stat is None else stat[_STATE].decode()


def is_alive(pid: int) -> bool:
    """Whether the process can still run: it exists and is no zombie."""
    stat = _stat(f"/proc/{pid}/stat")
    return stat is not None and _runs(stat)


def is_stopped(pid: int) -> bool:
    """Whether every thread of the process is stopped (or held by a debugger), so that it executes nothing."""
    stat = _stat(f"/proc/{pid}/stat")
    if stat is None:
        return False
    if stat[_THREADS] == b"1":
        return stat[_STATE] in b"Tt"
    stats = [_stat(f"/proc/{pid}/task/{tid}/stat") for tid in _thread_ids(pid)]
    states = {stat[_STATE] for stat in stats if stat is not None} - {b"Z", b"X"}
    return bool(states) and states <= {b"T", b"t"}


def identity(pid: int) -> tuple[int, bool] | None:
    """Start time (see `start_time`) and whether it is alive (see `is_alive`), in one read; None when it is gone."""
    stat = _stat(f"/proc/{pid}/stat")
    return None if stat is None else (int(stat[_START]), _runs(stat))


def parent(pid: int) -> int | None:
    """The parent's pid; 0 when it lies outside this pid namespace."""
    stat = _stat(f"/proc/{pid}/stat")
    return None if stat is None else int(stat[_PARENT])


def start_time(pid: int) -> int | None:
    """When the process began, in clock ticks since boot: with the pid it names one process for good."""
    stat = _stat(f"/proc/{pid}/stat")
    return None if stat is None else int(stat[_START])


def cpu_seconds(pid: int) -> float | None:
    """CPU time used by all its threads, user and system, in seconds (resolution 10 ms)."""
    stat = _stat(f"/proc/{pid}/stat")
    return None if stat is None else (int(stat[_USER_TICKS]) + int(stat[_SYSTEM_TICKS])) / _TICKS


def command(pid: int) -> str:
    """Its command line for messages, unprintable characters escaped; ``[name]`` for a zombie; empty when gone."""
    raw = _read(f"/proc/{pid}/cmdline")
    text = b"" if raw is None else raw.rstrip(b"\0").replace(b"\0", b" ")
    if not text:
        name = _read(f"/proc/{pid}/comm")
        text = b"" if name is None else b"[" + name.rstrip(b"\n") + b"]"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text.decode(errors="backslashreplace"))


def children(pid: int) -> list[int]:
    """Its children, zombies included, those of every thread; empty when it has none or is gone."""
    if not _lists_children():
        return [other for other in pids() if parent(other) == pid]
    found: list[int] = []
    for tid in _thread_ids(pid):
        found += map(int, (_read(f"/proc/{pid}/task/{tid}/children") or b"").split())
    return found


def threads(pid: int | str = "self") -> list[tuple[int, str]]:
    """``(thread id, name)`` of each thread, the first one first; empty when the process is gone."""
    found = []
    for tid in _thread_ids(pid):
        name = _read(f"/proc/{pid}/task/{tid}/comm")
        if name is not None:
            found.append((tid, name.rstrip(b"\n").decode(errors="replace")))
    return found


def rss_bytes(pid: int) -> int | None:
    """Resident memory in bytes, shared pages included; 0 for a zombie, None when the process is gone. About 8 us."""
    raw = _read(f"/proc/{pid}/statm")
    return None if not raw else int(raw.split()[1]) * _PAGE


def private_bytes(pid: int) -> int | None:
    """Memory no other process shares, in bytes: what its end would free. None when gone, a zombie or another user's.

    It walks the page tables (0.1 ms for a small process, several ms for gigabytes): never on a hot path.
    """
    raw = _read(f"/proc/{pid}/smaps_rollup")
    if not raw:
        return None
    return sum(int(line.split()[1]) for line in raw.splitlines() if line.startswith(b"Private_")) * 1024


def marked(name: str, value: str) -> list[int]:
    """Processes, without this one, exec'ed with exactly ``name=value`` in their environment, or forked from such.

    Only those this user may read; a zombie or a dying process has none, one in the middle of an exec is missed: who
    must be sure asks again. About 6 us a process of the machine.
    """
    wanted = os.fsencode(f"{name}={value}")
    found = []
    for pid in pids():
        raw = _read(f"/proc/{pid}/environ")
        if raw and wanted in raw and wanted in raw.split(b"\0") and pid != os.getpid():
            found.append(pid)
    return found


def holding(path: str | os.PathLike[str]) -> list[int]:
    """Processes, without this one, that hold an open descriptor of this file: whoever can keep its flock alive."""
    wanted = os.stat(path)
    name = os.path.basename(os.path.realpath(path))
    return [pid for pid in pids() if pid != os.getpid() and _holds(f"/proc/{pid}/fd", name, wanted)]


@functools.cache
def _lists_children() -> bool:
    return os.path.exists("/proc/thread-self/children")  # False: a kernel without CONFIG_PROC_CHILDREN


def _holds(directory: str, name: str, wanted: os.stat_result) -> bool:
    try:
        for fd in os.listdir(directory):
            link = f"{directory}/{fd}"
            try:
                # The name first: stat through the link would hang on a dead network file system.
                if os.path.basename(os.readlink(link)) == name and os.path.samestat(os.stat(link), wanted):
                    return True
            except (*_GONE, PermissionError):
                continue  # closed meanwhile
    except (*_GONE, PermissionError):
        pass
    return False


def _runs(stat: list[bytes]) -> bool:
    return stat[_STATE] not in b"ZX" or int(stat[_THREADS]) > 1


def _thread_ids(pid: int | str) -> list[int]:
    try:
        return sorted(map(int, os.listdir(f"/proc/{pid}/task")), key=lambda tid: (str(tid) != str(pid), tid))
    except _GONE:
        return []


def _stat(path: str) -> list[bytes] | None:
    raw = _read(path)
    return raw[raw.rindex(b")") + 2 :].split() if raw else None


def _read(path: str) -> bytes | None:
    """The whole file; None where the process is gone or not ours to read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (*_GONE, PermissionError):
        return None
    try:
        parts = [os.read(fd, 4096)]
        while parts[-1]:  # a short read is no end in /proc
            parts.append(os.read(fd, 65536))
    except (ProcessLookupError, PermissionError):
        return None
    finally:
        os.close(fd)
    return b"".join(parts)
