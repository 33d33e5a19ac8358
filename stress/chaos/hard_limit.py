"""Tasks about as long as their hard limit: does a kill ever hit another task?

    python -m stress.chaos.hard_limit [--small | --full] [--tasks N] [--seed N]

Each task busy-waits for its limit give or take some ms and says in a ledger that it began and that it ended. A wrong
kill shows as a task that began, did not end, and is not recorded as TimeLimitExceeded; as a record without its event;
as a child that crashed; or as a task that ran twice. The exit code is 1 if there is one, or if the run proves nothing.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path

from poolrt import Supervisor
from poolrt.message import decode_record
from poolrt.states import TaskState

SPREAD_S = (-0.004, 0.008)
"""Lengths around the limit; after it, up to some ms pass while stacks are asked for."""


def run(tasks: int, seed: int, folder: Path) -> bool:
    """Run so many; print what was found, and return whether it is sound."""
    from stress.chaos.limit_tasks import LIMIT_S, about, app  # the environment names its broker by now

    random.seed(seed)
    ledger = folder / "ledger"
    lengths = [LIMIT_S + random.uniform(*SPREAD_S) for _ in range(tasks)]
    events: list[dict[str, object]] = []
    with Supervisor(app, concurrency=2, log_level="error") as pool:
        reader = threading.Thread(target=events.extend, args=(pool.events(),))
        reader.start()
        results = about.enqueue_many((str(ledger), number, length) for number, length in enumerate(lengths))
        records = []
        for result in results:
            found = app.broker.wait(result.id, 60.0)
            if found is None or found.record is None:
                print(f"task {result.id} has not ended; seed {seed}")
                return False
            records.append(decode_record(found.record))
    reader.join()  # the stream ends with the pool
    app.close()
    killed = Counter(str(event["task_id"]) for event in events if event["kind"] == "child-killed")
    crashed = [event for event in events if event["kind"] == "child-crashed"]
    lines = Counter(ledger.read_text().splitlines())
    wrong = [f"a child crashed: {event}" for event in crashed]
    limited = 0
    for number, (result, record) in enumerate(zip(results, records, strict=True)):
        began, ended = lines[f"begin {number}"], lines[f"end {number}"]
        over = record.state is TaskState.FAILED and record.error is not None
        limited += over
        if over and record.error is not None and record.error.type != "TimeLimitExceeded":
            wrong.append(f"task {number} failed with {record.error.type}: {record.error.text}")
        if killed[result.id] != over:
            wrong.append(f"task {number} is {record.state}, and {killed[result.id]} children were killed for it")
        if began > 1 or (not over and (began, ended) != (1, 1)) or record.lost:
            wrong.append(f"task {number} is {record.state}, began {began}, ended {ended}, lost {record.lost}")
    print(f"{tasks} tasks about their limit of {LIMIT_S * 1000:.0f} ms: {limited} killed, {tasks - limited} spared, "
          f"{len(wrong)} wrong; Python {sys.version.split()[0]}, seed {seed}")  # fmt: skip
    print(*wrong, sep="\n", end="\n" if wrong else "")
    if not 0 < limited < tasks:
        print("all or none was killed: this run proves nothing")
        return False
    return not wrong


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m stress.chaos.hard_limit", description=__doc__.splitlines()[0])
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--small", action="store_const", const=200, dest="tasks", help="200 tasks (the default)")
    size.add_argument("--full", action="store_const", const=2000, dest="tasks", help="2,000 tasks")
    size.add_argument("--tasks", type=int, help="so many")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.set_defaults(tasks=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="prt-") as folder:
        os.environ["CHAOS_BROKER"] = f"sqlite:///{folder}/hard.db"
        sound = run(options.tasks, options.seed, Path(folder))
    sys.exit(0 if sound else 1)


if __name__ == "__main__":
    main()
