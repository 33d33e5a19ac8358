"""What the demo enqueues: every module of the library, and among them the offenders, each with the end it is meant for.

The order is part of it. Leakers come first, while every child is young: one that crashes, or is recycled for its number
of tasks, begins to leak anew. What leaves a daemon comes after all that has its child killed: then its own child leaves
by plan, and what outlives it is told.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Final, NamedTuple

from poolrt.app.task import Task
from poolrt.cli.demo import tasks
from poolrt.cli.demo.offenders import Accepted
from poolrt.cli.demo.tasks import LEAK, MIB
from poolrt.hygiene.descriptors import RUNS_IN_A_ROW
from poolrt.states import TaskState

MAX_DELIVERIES: Final = 3
SPARE: Final = 2
"""Every child can have almost as many runs of a leaker as get it recycled, and so can the successors of as many that
leave for their number of tasks meanwhile."""
LATE: Final = 1.0
"""Seconds after its limit within which a task must have been ended."""


class Call(NamedTuple):
    """One call to enqueue, and what `Accepted` says of it."""

    task: Task[..., Any]
    arguments: tuple[Any, ...]
    what: str
    meant: TaskState = TaskState.SUCCEEDED
    crashes: int = 0
    error: str = ""
    within: float = 0.0


def ceiling(resident: int, concurrency: int) -> int:
    """The max_memory_per_child under which ``leak-memory`` has its child recycled, in bytes.

    Args:
        resident: what a process that has imported the app has, in bytes: no child begins with more.
        concurrency: how many children may leak at once; many get less room each.
    """
    return resident + max(50, min(100, 800 // concurrency)) * MIB


def calls(files: Sequence[str], concurrency: int, max_memory: int, port: int, folder: Path) -> list[Call]:
    """All of them, in their order.

    Args:
        files: the modules.
        concurrency: how many children there are.
        max_memory: bytes at which a child is recycled.
        port: where ``leak-socket`` connects to.
        folder: where ``overrun`` writes its draft.
    """
    modules = [Call(tasks.parse, (path,), path) for path in files]
    tenth = max(len(modules) // 10, 1)
    sockets = (concurrency + SPARE) * RUNS_IN_A_ROW
    memory = (concurrency + SPARE) * math.ceil(max_memory / LEAK)
    return [
        *spread([Call(tasks.leak_socket, (port,), "leaves a socket open at each run")] * sockets, modules[:tenth]),
        *spread([Call(tasks.leak_memory, (), "keeps 5 MiB at each run")] * memory, modules[tenth : 2 * tenth]),
        *spread(misdeeds(folder), modules[2 * tenth : 4 * tenth]),
        *modules[4 * tenth : 7 * tenth],
        Call(tasks.daemon, (), "leaves a setsid daemon"),
        *modules[7 * tenth :],
    ]


def misdeeds(folder: Path) -> list[Call]:
    """Those that raise, crash, or must be killed."""
    dead, failed = TaskState.DEAD, TaskState.FAILED
    hang, swallow = tasks.hang, tasks.swallow
    return [
        Call(tasks.crash, ("SIGKILL",), "sends itself SIGKILL", dead, MAX_DELIVERIES),
        Call(tasks.crash, ("segfault",), "reads address 0", dead, MAX_DELIVERIES),
        Call(tasks.crash, ("exit",), "calls os._exit(70)", dead, MAX_DELIVERIES),
        Call(tasks.crash_once, (), "sends itself SIGKILL, once", crashes=1),
        Call(tasks.raises, ("no such file",), "opens a file that is not there", failed, error="FileNotFoundError"),
        Call(tasks.raises, ("broken source",), "parses half a function", failed, error="SyntaxError"),
        Call(tasks.raises, ("not a number",), "takes a word for a number", failed, error="ValueError"),
        Call(hang, (), "loops in C with the GIL held", failed, error="TimeLimitExceeded", within=_limit(hang)),
        Call(swallow, (), "swallows every BaseException", failed, error="TimeLimitExceeded", within=_limit(swallow)),
        Call(tasks.hog, (), "allocates without end", failed, error="MemoryLimitExceeded"),
        Call(
            tasks.overrun, (str(folder / "overrun.draft"),), "runs past its soft limit", failed,
            error="SoftTimeLimitExceeded",
        ),
    ]  # fmt: skip


def _limit(task: Task[..., Any]) -> float:
    return (task.options.time_limit or 0.0) + LATE


def spread(*groups: Iterable[Call]) -> list[Call]:
    """The groups in one, the calls of each spread evenly."""
    placed = []
    for group in groups:
        each = list(group)
        placed += [((index + 0.5) / len(each), call) for index, call in enumerate(each)]
    return [call for _, call in sorted(placed, key=lambda pair: pair[0])]


def enqueue(planned: Iterable[Call]) -> list[Accepted]:
    """Give them to the broker."""
    accepted: list[Accepted] = []
    for _, group in groupby(planned, key=lambda call: call.task.name):
        run = list(group)
        results = run[0].task.enqueue_many(call.arguments for call in run)
        accepted += [
            Accepted(result.id, call.task.name, call.what, call.meant, call.crashes, call.error, call.within)
            for result, call in zip(results, run, strict=True)
        ]
    return accepted
