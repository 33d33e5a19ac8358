"""The enqueuing side, in the peer's interpreter.

    producer.py MODULE enqueue TASK COUNT                       one call at a time
    producer.py MODULE preload TASK COUNT                       the fastest way the module has
    producer.py MODULE mixed COUNT PLACE SECONDS                many calls of ``rest`` at once, a long one at PLACE
    producer.py MODULE workflow KIND COUNT                      one chord or chain of that many no-ops
    producer.py MODULE latency SAMPLES MAX_SECONDS GAP_SECONDS  one call at a time, each once the last one has run

A module has ``sender(task)``, or ``async_sender(task)`` to be awaited, and may have ``bulk(task)`` and
``workflow(kind)``. The answer is one line of JSON after ``@@``, since a peer may print lines of its own.
"""

import asyncio
import importlib
import json
import os
import random
import sys
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

from bench_env import RECORD_FILE

ARGUMENTS: dict[str, tuple[int, ...]] = {"noop": (), "add": (1, 2), "millisecond": ()}
RECORD_SIZE = 16
LOST_AFTER_S = 15.0
WARM_CALLS = 10
SETTLE_S = 0.2


class Sender:
    """What enqueues one call, awaited where the peer is asynchronous: one loop measures both."""

    def __init__(self, call: Callable[..., Any], *, awaited: bool) -> None:
        self.call = call
        self.awaited = awaited

    @classmethod
    async def of(cls, module: ModuleType, task: str) -> "Sender":
        """Open the sender of a task."""
        if hasattr(module, "async_sender"):
            return cls(await module.async_sender(task), awaited=True)
        return cls(module.sender(task), awaited=False)

    async def send(self, args: tuple[int, ...], count: int) -> None:
        """Enqueue ``count`` calls, one after the other."""
        call = self.call
        if self.awaited:
            for _ in range(count):
                await call(*args)
        else:
            for _ in range(count):
                call(*args)


class Costs:
    """Wall time and CPU from here on."""

    def __init__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def of(self, count: int) -> dict[str, Any]:
        """Return what ``count`` calls have cost."""
        return {"count": count, "seconds": time.perf_counter() - self.wall, "cpu": time.process_time() - self.cpu}


async def enqueue(module: ModuleType, task: str, count: int) -> dict[str, Any]:
    """Enqueue ``count`` calls, the first few outside the account: they connect."""
    sender, args = await Sender.of(module, task), ARGUMENTS[task]
    warm = min(WARM_CALLS, count // 2)
    await sender.send(args, warm)
    costs = Costs()
    await sender.send(args, count - warm)
    return costs.of(count - warm)


async def preload(module: ModuleType, task: str, count: int) -> dict[str, Any]:
    """Enqueue ``count`` calls at once where the peer can, else one by one."""
    if not hasattr(module, "bulk"):
        return await enqueue(module, task, count)
    enqueue_many, args = module.bulk(task), ARGUMENTS[task]
    enqueue_many([args] * WARM_CALLS)
    costs = Costs()
    enqueue_many([args] * (count - WARM_CALLS))
    return costs.of(count - WARM_CALLS)


def mixed(module: ModuleType, count: int, place: int, seconds: float) -> dict[str, Any]:
    """Enqueue ``count`` short calls at once, a long one after the first ``place`` of them; none if that is negative."""
    calls = [(0.0,)] * count
    if place >= 0:
        calls.insert(place, (seconds,))
    enqueue_many = module.bulk("rest")
    began = time.monotonic_ns()
    enqueue_many(calls)
    return {"began_ns": began, "seconds": (time.monotonic_ns() - began) / 1e9}


def workflow(module: ModuleType, kind: str, count: int) -> dict[str, Any]:
    """Apply one workflow, after a small one that connects; the answer's ``count`` is of both, callbacks included."""
    apply, beside = module.workflow(kind), int(kind == "chord")
    base = recorded()
    apply(WARM_CALLS)
    if next_record(base + WARM_CALLS + beside - 1) is None:
        raise TimeoutError(f"the {kind} before the one to be timed did not end")
    time.sleep(SETTLE_S)
    began, costs = time.monotonic_ns(), Costs()
    apply(count)
    return {**costs.of(count + WARM_CALLS + 2 * beside), "began_ns": began}


def recorded() -> int:
    """Return how many records there are."""
    return os.path.getsize(RECORD_FILE) // RECORD_SIZE


def next_record(base: int) -> int | None:
    """Wait for record number ``base`` and return its time, or None if the task never ran."""
    give_up = time.monotonic() + LOST_AFTER_S
    while recorded() <= base:
        if time.monotonic() > give_up:
            return None
        time.sleep(0.0002)
    with open(RECORD_FILE, "rb") as records:
        records.seek(base * RECORD_SIZE)
        return int.from_bytes(records.read(8), "little")


async def timed(sender: Sender) -> float | None:
    """Enqueue one task; return the time from before the call to the task's own record in us, None if it never ran."""
    base = recorded()
    before = time.monotonic_ns()
    await sender.send((), 1)
    ran = next_record(base)
    return None if ran is None else (ran - before) / 1e3


async def latency(module: ModuleType, samples: int, max_seconds: float, gap: float) -> dict[str, Any]:
    """Time one task after the other, the gap before each."""
    sender = await Sender.of(module, "noop")
    marks: list[float] = []
    costs, end = Costs(), time.monotonic() + max_seconds
    took = await timed(sender)  # not a sample: it connects
    while took is not None and len(marks) < samples and time.monotonic() < end:
        await asyncio.sleep(gap * random.uniform(0.75, 1.25))  # not in step with a peer's poll
        took = await timed(sender)
        if took is not None:
            marks.append(took)
    return {"us": marks, "lost": int(took is None), **costs.of(len(marks))}


async def answer(module: ModuleType, mode: str, rest: list[str]) -> dict[str, Any]:
    """Run one mode."""
    if mode == "latency":
        return await latency(module, int(rest[0]), float(rest[1]), float(rest[2]))
    if mode == "workflow":
        return workflow(module, rest[0], int(rest[1]))
    if mode == "mixed":
        return mixed(module, int(rest[0]), int(rest[1]), float(rest[2]))
    return await {"enqueue": enqueue, "preload": preload}[mode](module, rest[0], int(rest[1]))


def main() -> None:
    """Run one mode and leave at once: a peer's exit handlers are not what is measured."""
    module, mode, *rest = sys.argv[1:]
    found = asyncio.run(answer(importlib.import_module(module), mode, rest))
    found["process_cpu"] = time.process_time()  # imports and all
    sys.stdout.write("\n@@" + json.dumps(found) + "\n")
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
