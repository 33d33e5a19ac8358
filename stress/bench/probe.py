"""Drives a live pool through ``poolrt.Supervisor``, in an interpreter that has poolrt. Started by ``pool_checks``.

    python -m stress.bench.probe replacement MODULE SAMPLES
    python -m stress.bench.probe idle CHILDREN SECONDS
    python -m stress.bench.probe flat TASKS EVERY

The answer is one line of JSON after ``@@``.
"""

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from poolrt import Supervisor
from stress.bench import process_tree

WAIT_S = 30.0
REST_S = 0.05
SETTLE_S = 2.0
LOOK_EVERY_S = 0.002


class Pool:
    """A pool under watch: what its status says, looked at whenever an event arrives."""

    def __init__(self, supervisor: Any) -> None:
        self.supervisor = supervisor
        self._stirred = threading.Event()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        # The stream ends with the pool; a status look every 2 ms stands in for a stream that ended early.
        with contextlib.suppress(Exception):
            for _event in self.supervisor.events():
                self._stirred.set()

    def children(self) -> dict[int, dict[str, Any]]:
        """Return the children that are up, by pid."""
        rows = self.supervisor.status()["children"]
        return {row["pid"]: row for row in rows if str(row["state"]).upper() == "UP"}

    def supervisor_pid(self) -> int:
        """Return the supervisor's pid."""
        return int(self.supervisor.status()["supervisor"]["pid"])

    def until(self, holds: Callable[[dict[int, dict[str, Any]]], bool]) -> float:
        """Wait until the children are as asked; return the moment of the look that showed it."""
        give_up = time.monotonic() + WAIT_S
        while True:
            self._stirred.clear()
            children = self.children()
            now = time.monotonic()
            if holds(children):
                return now
            if now > give_up:
                raise TimeoutError(f"the pool did not get there in {WAIT_S:.0f} s: {children}")
            self._stirred.wait(LOOK_EVERY_S)

    def until_replaced(self, victim: int, count: int) -> float:
        """Wait until ``count`` children are up again, none of them the victim; return the moment."""
        return self.until(lambda children: victim not in children and len(children) == count)

    def until_idle(self, count: int) -> None:
        """Wait until ``count`` children are up and idle."""
        self.until(
            lambda children: (
                len(children) == count and all(str(row["activity"]).upper() == "IDLE" for row in children.values())
            )
        )


def replacement(module: str, samples: int) -> dict[str, Any]:
    """Kill idle children one at a time; each sample is from the SIGKILL to the successor being up."""
    marks = []
    with Supervisor(f"{module}:app", concurrency=2) as supervisor:
        pool = Pool(supervisor)
        for number in range(samples):
            pool.until_idle(2)
            time.sleep(REST_S)
            victim = sorted(pool.children())[number % 2]
            killed = time.monotonic()
            os.kill(victim, signal.SIGKILL)
            marks.append((pool.until_replaced(victim, 2) - killed) * 1e3)
    return {"ms": sorted(marks)}


def idle(count: int, seconds: float) -> dict[str, Any]:
    """Weigh idle children, and take the CPU that the whole pool spends on doing nothing."""
    with Supervisor("poolrt_app:app", concurrency=count) as supervisor:
        pool = Pool(supervisor)
        pool.until_idle(count)
        time.sleep(SETTLE_S)
        children = set(pool.children())
        root = pool.supervisor_pid()
        before, began = process_tree.run_seconds(process_tree.tree(root)), time.monotonic()
        time.sleep(seconds)
        after, took = process_tree.run_seconds(process_tree.tree(root)), time.monotonic() - began
        spent = {pid: used - before.get(pid, 0.0) for pid, used in after.items()}
        private = [used.private for pid in children if (used := process_tree.memory(pid))]
        return {
            "children": len(private),
            "replaced": len(children - pool.children().keys()),
            "seconds": took,
            "tree_cpu_share": sum(spent.values()) / took,
            "children_cpu_share": sum(used for pid, used in spent.items() if pid in children) / took,
            "child_private_mib_mean": sum(private) / len(private),
            "child_private_mib_max": max(private),
            "supervisor_rss_mib": process_tree.rss(root),
        }


def flat(count: int, every: int) -> dict[str, Any]:
    """Run ``count`` no-ops through the pool and take the supervisor's memory on the way."""
    from poolrt_app import noop

    records, record_size = os.environ["BENCH_RECORDS"], 16
    with Supervisor("poolrt_app:app", concurrency=2) as supervisor:
        pool = Pool(supervisor)
        pool.until_idle(2)
        root = pool.supervisor_pid()
        marks = [(0, process_tree.rss(root))]
        for done in range(every, count + 1, every):
            noop.enqueue_many([()] * every)
            give_up = time.monotonic() + 2 * WAIT_S
            while os.path.getsize(records) < done * record_size:
                if time.monotonic() > give_up:
                    raise TimeoutError(f"{os.path.getsize(records) // record_size} of {done} tasks ran")
                time.sleep(0.01)
            marks.append((done, process_tree.rss(root)))
        pool.until_idle(2)
        marks.append((count, process_tree.rss(root)))
    return {"rss_mib": marks}


def main() -> None:
    """Run one probe."""
    name, *rest = sys.argv[1:]
    if name == "replacement":
        answer = replacement(rest[0], int(rest[1]))
    elif name == "idle":
        answer = idle(int(rest[0]), float(rest[1]))
    else:
        answer = flat(int(rest[0]), int(rest[1]))
    print("\n@@" + json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
