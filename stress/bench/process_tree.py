"""CPU and memory of a tree of processes, straight from /proc."""

import ctypes
import os
import signal
import time
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


PR_SET_PDEATHSIG = 1
_prctl = ctypes.CDLL(None).prctl


class Process(NamedTuple):
    """What /proc/PID/stat says, CPU in clock ticks."""

    parent: int
    session: int
    own_ticks: int
    reaped_ticks: int


class Memory(NamedTuple):
    """What /proc/PID/smaps_rollup says, in MiB."""

    rss: float
    pss: float
    private: float


class Host(NamedTuple):
    """The whole machine at one moment."""

    at: float
    busy: float
    steal: float


def processes() -> dict[int, Process]:
    """Return every process of the machine by pid."""
    found = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            stat = Path("/proc", name, "stat").read_text(errors="replace")
        except OSError:  # gone since the listing
            continue
        fields = stat[stat.rindex(")") + 2 :].split()
        own, reaped = int(fields[11]) + int(fields[12]), int(fields[13]) + int(fields[14])
        found[int(name)] = Process(int(fields[1]), int(fields[3]), own, reaped)
    return found


def tree(root: int, table: dict[int, Process] | None = None) -> set[int]:
    """Return the pids descended from ``root``, and those of the session it leads: a double fork leaves the first."""
    table = processes() if table is None else table
    found = {root} & table.keys()
    grew = True
    while grew:
        more = {pid for pid, process in table.items() if process.parent in found or process.session == root} - found
        found |= more
        grew = bool(more)
    return found


def cpu_seconds(root: int) -> float:
    """Return the CPU of the tree, children it has reaped included."""
    table = processes()
    return sum(table[pid].own_ticks + table[pid].reaped_ticks for pid in tree(root, table)) / TICKS


def run_seconds(pids: Iterable[int]) -> dict[int, float]:
    """Return each live process's CPU to the nanosecond: a tick of 10 ms is too coarse for an idle one."""
    spent = {}
    for pid in pids:
        try:
            threads = list(Path("/proc", str(pid), "task").iterdir())
            spent[pid] = sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9
        except OSError:  # gone
            continue
    return spent


def memory(pid: int) -> Memory | None:
    """Return a process's memory, or None if it is gone."""
    try:
        lines = Path("/proc", str(pid), "smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        return None
    kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    return Memory(kib["Rss"] / 1024, kib["Pss"] / 1024, (kib["Private_Clean"] + kib["Private_Dirty"]) / 1024)


def rss(pid: int) -> float:
    """Return a process's resident memory in MiB, cheaply."""
    return int(Path("/proc", str(pid), "statm").read_text().split()[1]) * PAGE / 2**20


def tree_memory(root: int, children: Collection[int]) -> dict[str, float]:
    """Return the memory of a tree, and the mean of those of its processes that have executed tasks."""
    found = {pid: used for pid in tree(root) if (used := memory(pid))}
    private = [used.private for pid, used in found.items() if pid in children]
    return {
        "processes": len(found),
        "tree_pss_mib": sum(used.pss for used in found.values()),
        "child_private_mib": sum(private) / len(private) if private else 0.0,
    }


def host() -> Host:
    """Return the machine's clock, busy CPU seconds and stolen CPU seconds."""
    with open("/proc/stat") as stat:
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, stat.readline().split()[1:9])
    return Host(time.monotonic(), (user + nice + system + irq + softirq) / TICKS, steal / TICKS)


def die_with_parent() -> None:
    """Ask to be killed when the parent dies: a ``preexec_fn``, so that a killed bench leaves no server behind."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
