"""Read a process's memory cheaply, give free memory back, and read what the cgroup leaves of the machine.

Facts that bite:

- After a big task glibc keeps freed pages: RSS stays high though nothing leaks. malloc_trim returns them (ms for
  gigabytes); musl and macOS have no such call, and nothing is done there.
- ``os.cpu_count()`` is the machine's; a container's share is in the affinity mask and in the CPU quota of *any* group
  above it. The same holds for memory.
- In a container with version 1 cgroups, /proc/self/cgroup shows the host's path while the mount shows only our part:
  groups that do not exist are skipped up to the mount's root.
"""

import functools
import os
import resource
import sys
from collections.abc import Callable, Iterator

from poolrt.posix.reaping import MAXRSS_UNIT

_MALLINFO2 = (
    "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
)  # fmt: skip
SMALL_BLOCK = 96
"""Bytes of the average block of what tasks keep in lists, dicts and strings: measured, and a guess for any one task."""
_CGROUPS = "/sys/fs/cgroup"
_OWN_GROUPS = "/proc/self/cgroup"
_PAGE = os.sysconf("SC_PAGE_SIZE")
_NO_LIMIT = 1 << 60  # version 1 writes "no limit" as a number near 2**63


class ResidentSize:
    """The resident size of one process, read through a kept descriptor: 1.7 us a reading, where opening costs 18.

    Elsewhere than on Linux it is psutil's, much slower.
    """

    __slots__ = ("_fd", "_pid")

    def __init__(self, pid: int) -> None:
        """``pid`` must exist; raises ProcessLookupError or FileNotFoundError when it does not."""
        self._pid = pid
        self._fd = os.open(f"/proc/{pid}/statm", os.O_RDONLY | os.O_CLOEXEC) if sys.platform == "linux" else -1

    def read(self) -> int:
        """Bytes, shared pages included; 0 once the process has ended."""
        if self._fd < 0:
            from poolrt.posix.psutil_readings import rss_bytes

            return rss_bytes(self._pid) or 0
        try:
            fields = os.pread(self._fd, 128, 0).split(None, 2)
        except ProcessLookupError:
            return 0
        return int(fields[1]) * _PAGE if len(fields) > 1 else 0

    def close(self) -> None:
        """Close the descriptor; safe to call twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def own_peak() -> int:
    """The highest resident size this process has had, in bytes; after a fork it begins with the parent's."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_UNIT


def release_free_memory() -> bool:
    """Return freed heap pages to the system; whether there were any. From 5 us to some milliseconds."""
    return bool(_malloc_trim()(0))


def live_bytes() -> int:
    """About how many bytes are in use in this process: what malloc has given out, and Python's own small blocks.

    Unlike the resident size it goes back with each free. Differences are what it is for: freed blocks that malloc's
    thread caches or Python's free lists hold still count (a full collection empties the latter), and small blocks count
    with what they have on average. Without glibc 2.33 they alone count. What has an allocator of its own is not seen.
    1 us, on a fragmented heap of hundreds of megabytes some milliseconds: it walks malloc's free chunks and Python's
    pools.
    """
    return _malloc_in_use()() + sys.getallocatedblocks() * SMALL_BLOCK


def available_cpus() -> int:
    """How many CPUs this process may use: affinity mask and cgroup quotas, rounded up, at least 1."""
    if sys.platform == "linux":
        cpus = float(len(os.sched_getaffinity(0)))
    else:
        cpus = float(os.cpu_count() or 1)
    for group, version in own_groups("cpu"):
        if version == 2:
            quota, _, period = _content(f"{group}/cpu.max").partition(" ")
        else:
            quota, period = _content(f"{group}/cpu.cfs_quota_us"), _content(f"{group}/cpu.cfs_period_us")
        if quota.isdecimal() and period.isdecimal() and int(period) > 0:  # "max" and -1 are no quota
            cpus = min(cpus, int(quota) / int(period))
    return max(1, -int(-cpus // 1))


def cgroup_memory_limit() -> int | None:
    """The lowest memory limit, in bytes, of this process's cgroup and those above it; None where there is none."""
    limits = []
    for group, version in own_groups("memory"):
        text = _content(f"{group}/memory.max" if version == 2 else f"{group}/memory.limit_in_bytes")
        if text.isdecimal() and int(text) < _NO_LIMIT:
            limits.append(int(text))
    return min(limits, default=None)


def own_groups(controller: str) -> Iterator[tuple[str, int]]:
    """Directory and cgroup version of this process's groups for a controller, from its own up to the root."""
    for line in _content(_OWN_GROUPS).splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0":
            unified = os.path.exists(f"{_CGROUPS}/cgroup.controllers")
            base, version = (_CGROUPS if unified else f"{_CGROUPS}/unified"), 2
        elif controller in controllers.split(","):
            base, version = f"{_CGROUPS}/{controller}", 1
        else:
            continue
        while path != "/":
            yield base + path, version
            path = os.path.dirname(path)
        yield base, version


def _content(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    except OSError:
        return ""


@functools.cache
def _malloc_trim() -> Callable[[int], int]:
    import ctypes  # 5 ms and 0.7 MiB: only processes that need it pay

    try:
        function = ctypes.CDLL(None).malloc_trim
    except AttributeError:
        return lambda pad: 0  # musl, macOS
    function.argtypes = [ctypes.c_size_t]
    function.restype = ctypes.c_int
    return lambda pad: int(function(pad))


@functools.cache
def _malloc_in_use() -> Callable[[], int]:
    """Gives the bytes that malloc has given out, mapped ones included; Python's arenas are not malloc's."""
    import ctypes

    class MallInfo2(ctypes.Structure):
        _fields_ = tuple((name, ctypes.c_size_t) for name in _MALLINFO2)

    try:
        mallinfo2 = ctypes.CDLL(None).mallinfo2
    except AttributeError:
        return lambda: 0  # musl, macOS, an older glibc
    mallinfo2.restype = MallInfo2

    def in_use() -> int:
        info = mallinfo2()
        return int(info.uordblks) + int(info.hblkhd)

    return in_use
