"""How fast and how fairly processes share the SQLite broker: settle and reserve, enqueue, open, wake.

    python stress/bench/sqlite_claims.py [--tasks 20000] [--reps 3] [--dir DIR] [--quick]

``fair`` is the fewest over the most tasks of one process. Children do no work between their calls: the worst case
for the lock, since each asks for it again at once.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import time
from multiprocessing.synchronize import Barrier
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from poolrt.brokers.sqlite import SqliteBroker
from poolrt.message import Enqueue, Outcome, Owner, new_task_id
from poolrt.states import TaskState

FORK = multiprocessing.get_context("fork")


def filled(folder: str, tasks: int, durability: Any) -> SqliteBroker:
    """A new database with ``tasks`` messages of 180 bytes."""
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    broker = SqliteBroker(f"{folder}/q.db", durability=durability)
    broker.join("bench", "node")
    broker.enqueue([Enqueue(new_task_id(), os.urandom(180), "default", 0, None) for _ in range(tasks)])
    return broker


def child(broker: SqliteBroker, slot: int, batch: int, record: bytes | None, barrier: Barrier, out: Any) -> None:
    """Settle and reserve until nothing is left."""
    broker.attach(Owner("bench", slot, 1))
    barrier.wait()
    started, cpu, done, n = time.monotonic(), time.process_time(), 0, 1
    held = broker.settle([], batch, n).deliveries
    while held:
        n += 1
        done += len(held)
        held = broker.settle([Outcome(d, TaskState.SUCCEEDED, record) for d in held], batch, n).deliveries
    out.put((done, started, time.monotonic(), time.process_time() - cpu))
    broker.close()


def settle(folder: str, tasks: int, processes: int, batch: int, record: bytes | None, durability: str) -> Any:
    """One run: tasks per second, CPU microseconds per task, fairness."""
    broker = filled(folder, tasks, durability)
    broker.close()
    barrier, out = FORK.Barrier(processes), FORK.SimpleQueue()
    children = [
        FORK.Process(target=child, args=(broker, slot, batch, record, barrier, out)) for slot in range(processes)
    ]
    for process in children:
        process.start()
    results = [out.get() for _ in children]
    for process in children:
        process.join()
    done = [result[0] for result in results]
    assert sum(done) == tasks, (done, tasks)
    wall = max(result[2] for result in results) - min(result[1] for result in results)
    return tasks / wall, sum(result[3] for result in results) / tasks * 1e6, min(done) / max(done)


def enqueue(folder: str, tasks: int, batch: int, durability: str) -> float:
    """Messages per second of one producer."""
    broker = filled(folder, 0, durability)
    items = [Enqueue(new_task_id(), os.urandom(180), "default", 0, None) for _ in range(tasks)]
    started = time.perf_counter()
    for first in range(0, tasks, batch):
        broker.enqueue(items[first : first + batch])
    rate = tasks / (time.perf_counter() - started)
    broker.close()
    return rate


def opening(folder: str) -> float:
    """Milliseconds to open a connection and attach, as each new child does, while others hold theirs."""
    keeper = filled(folder, 100, "process")
    broker = SqliteBroker(f"{folder}/q.db")
    taken = []
    for generation in range(1, 51):
        started = time.perf_counter()
        broker.attach(Owner("bench", 0, generation))
        taken.append((time.perf_counter() - started) * 1e3)
        broker.close()
    keeper.close()
    return statistics.median(taken)


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument("--reps", type=int, default=3)
    parser.add_argument("--dir")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    folder = tempfile.mkdtemp(prefix="sqlite-claims-", dir=args.dir)
    runs: list[tuple[int, int, bytes | None, str]] = [
        (processes, batch, record, "process")
        for processes in ((2,) if args.quick else (1, 2, 8))
        for batch in ((32,) if args.quick else (1, 8, 32, 64))
        for record in (None, b"r" * 60)
    ]
    if not args.quick:
        runs += [(2, 32, None, "power"), (2, 32, b"r" * 60, "power")]
    try:
        print(
            f"{'procs':>5} {'batch':>5} {'record':>6} {'survives':>8} "
            f"{'tasks/s':>9} {'min..max':>16} {'cpu us':>7} fair"
        )
        for processes, batch, record, durability in runs:
            tasks = args.tasks if batch >= 8 else args.tasks // 4
            got = [settle(folder, tasks, processes, batch, record, durability) for _ in range(args.reps)]
            rates = sorted(run[0] for run in got)
            middle = [statistics.median(run[field] for run in got) for field in range(3)]
            print(
                f"{processes:5} {batch:5} {len(record or b''):6} {durability:>8} {middle[0]:9.0f} "
                f"{f'{rates[0]:.0f}..{rates[-1]:.0f}':>16} {middle[1]:7.1f} {middle[2]:.2f}",
                flush=True,
            )
        for durability in ("process", "power"):
            for batch in (1, 100):
                rates = sorted(enqueue(folder, 3000, batch, durability) for _ in range(args.reps))
                print(f"enqueue, {batch} at once, survives {durability}: {statistics.median(rates):.0f}/s")
        print(f"open and attach: {opening(folder):.2f} ms")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
