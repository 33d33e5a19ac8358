"""Hogs at full speed against their memory limit: how far over it is a child when it is dead, and who suffers?

    python -m stress.chaos.memory_hog [--small | --full] [--runs N] [--limit SIZE]

Three kinds of hogs (bytes objects, small objects, one growing array) run beside a neighbour that must not lose a task.
The overshoot is the highest resident size the dead child ever had (ru_maxrss) less its limit. The exit code is 1 if the
95th percentile is 64 MiB or more, a neighbour's task was lost or failed, or the supervisor was replaced.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile

from poolrt import MemoryLimitExceeded, Supervisor
from poolrt.message import decode_record
from poolrt.units import parse_size

MIB = 1 << 20
TARGET_MIB = 64.0
KINDS = ("bytes", "objects", "array")


def run(runs: int, limit: int) -> bool:
    """Run so many hogs of each kind; print what was measured, and return whether it is as it should be."""
    from stress.chaos.limit_tasks import app, hog, neighbour  # the environment names its broker by now

    sound = True
    with Supervisor(app, concurrency=2, log_level="error") as pool:
        pid = pool.pid
        for kind in KINDS:
            over, numbers = [], []
            for _ in range(runs):
                result = hog.apply_async([kind], memory_limit=f"{limit}B", time_limit=60)
                work = neighbour.enqueue_many((number,) for number in range(200))
                try:
                    result.get(timeout=60)
                except MemoryLimitExceeded:
                    found = app.broker.find(result.id)
                    assert found is not None
                    assert found.record is not None
                    over.append((decode_record(found.record).peak_memory - limit) / MIB)
                numbers.append([each.get(timeout=60) for each in work] == list(range(200)))
            over.sort()
            p95 = over[min(len(over) - 1, int(len(over) * 0.95))]
            good = len(over) == runs and all(numbers) and p95 < TARGET_MIB
            sound &= good
            print(f"{kind:8} {len(over)}/{runs} killed, over the limit by {over[len(over) // 2]:.1f} MiB (median), "
                  f"{p95:.1f} (p95), {over[-1]:.1f} (most); neighbours {'fine' if all(numbers) else 'SUFFERED'}",
                  flush=True)  # fmt: skip
        sound &= pool.pid == pid and pool.status()["state"] == "serving"
    app.close()
    print(f"limit {limit / MIB:.0f} MiB, Python {sys.version.split()[0]}: {'sound' if sound else 'NOT SOUND'}")
    return sound


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m stress.chaos.memory_hog", description=__doc__.splitlines()[0])
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--small", action="store_const", const=5, dest="runs", help="5 hogs of each kind (the default)")
    size.add_argument("--full", action="store_const", const=40, dest="runs", help="40 of each kind")
    size.add_argument("--runs", type=int, help="so many of each kind")
    parser.add_argument("--limit", type=parse_size, default=256 * MIB, metavar="SIZE", help="default 256MiB")
    parser.set_defaults(runs=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="prt-") as folder:
        os.environ["CHAOS_BROKER"] = f"sqlite:///{folder}/hog.db"
        sound = run(options.runs, options.limit)
    sys.exit(0 if sound else 1)


if __name__ == "__main__":
    main()
