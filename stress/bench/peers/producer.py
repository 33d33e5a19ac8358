"""The enqueuing side, in the peer's interpreter.

    producer.py MODULE enqueue TASK COUNT
    producer.py MODULE latency SAMPLES MAX_SECONDS GAP_SECONDS

The answer is one line of JSON after ``@@``, since a peer may print lines of its own.
"""

import importlib
import json
import os
import random
import sys
import time
from collections.abc import Callable
from typing import Any

from bench_env import RECORD_FILE

ARGUMENTS: dict[str, tuple[int, ...]] = {"noop": (), "add": (1, 2)}
RECORD_SIZE = 16
LOST_AFTER_S = 15.0


def enqueue(send: Callable[..., Any], args: tuple[int, ...], count: int) -> dict[str, Any]:
    """Enqueue ``count`` tasks one call at a time."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(count):
        send(*args)
    return {"count": count, "seconds": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def next_record(base: int) -> int | None:
    """Wait for record number ``base`` and return its time, or None if the task never ran."""
    give_up = time.monotonic() + LOST_AFTER_S
    while os.path.getsize(RECORD_FILE) < (base + 1) * RECORD_SIZE:
        if time.monotonic() > give_up:
            return None
        time.sleep(0.0002)
    with open(RECORD_FILE, "rb") as records:
        records.seek(base * RECORD_SIZE)
        return int.from_bytes(records.read(8), "little")


def latency(send: Callable[..., Any], samples: int, max_seconds: float, gap: float) -> dict[str, Any]:
    """Enqueue one task at a time; each sample is from before the call to the task's own record."""
    marks: list[float] = []
    end = time.monotonic() + max_seconds
    while len(marks) < samples and time.monotonic() < end:
        base = os.path.getsize(RECORD_FILE) // RECORD_SIZE
        before = time.monotonic_ns()
        send()
        ran = next_record(base)
        if ran is None:
            return {"us": marks, "lost": 1}
        marks.append((ran - before) / 1e3)
        time.sleep(gap * random.uniform(0.75, 1.25))  # not in step with a peer's poll
    return {"us": marks, "lost": 0}


def main() -> None:
    """Run one mode and leave at once: a peer's exit handlers are not what is measured."""
    module, mode, *rest = sys.argv[1:]
    sender = importlib.import_module(module).sender
    if mode == "enqueue":
        task, count = rest
        answer = enqueue(sender(task), ARGUMENTS[task], int(count))
    else:
        samples, max_seconds, gap = rest
        answer = latency(sender("noop"), int(samples), float(max_seconds), float(gap))
    sys.stdout.write("\n@@" + json.dumps(answer) + "\n")
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
