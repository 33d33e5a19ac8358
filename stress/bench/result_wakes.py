"""How long after a task has ended its value is there, for who waits for it: in a thread, in an event loop, among many.

    python -m stress.bench.result_wakes [--broker URL] [--runs N]

The task says when it ends, by the machine's clock; so this is what the settle, the wake-up and the look cost, and not
the way of the call to the worker.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time

from poolrt import App, Supervisor, as_completed

app = App("result-wakes", broker=os.environ.get("RESULT_WAKES_BROKER", "sqlite:///result-wakes.db"))
NAP = 0.005
"""Seconds that each task takes: who waits for it waits before it ends."""


@app.task
def ends_at() -> float:
    """When it ended, wall time."""
    time.sleep(NAP)
    return time.time()


def _since(ended: float) -> float:
    return time.time() - ended


def in_a_thread(runs: int) -> list[float]:
    """``get`` of one after the other."""
    return [_since(ends_at.delay().get(timeout=10)) for _ in range(runs)]


def in_a_loop(runs: int) -> list[float]:
    """``await`` of one after the other."""

    async def main() -> list[float]:
        found = []
        for _ in range(runs):
            result = await ends_at.adelay()
            ended = await result.aget(timeout=10)
            found.append(_since(ended))
        return found

    return asyncio.run(main())


def among_many(runs: int) -> list[float]:
    """``as_completed`` of all at once."""
    return [_since(result.get()) for result in as_completed(ends_at.enqueue_many([()] * runs), timeout=60)]


def main() -> None:
    """Measure, and print a line for each way."""
    parser = argparse.ArgumentParser(prog="python -m stress.bench.result_wakes", description=__doc__)
    parser.add_argument("--broker", default="", help="URL; a SQLite file in a folder of its own by default")
    parser.add_argument("--runs", type=int, default=500)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = options.broker or f"sqlite:///{folder}/result-wakes.db"
        os.environ["RESULT_WAKES_BROKER"] = url
        from stress.bench import result_wakes as this  # noqa: PLW0406  by the name that workers import

        with Supervisor(this.app, concurrency=1, log_level="error"):
            this.in_a_thread(20)
            for way in (this.in_a_thread, this.in_a_loop, this.among_many):
                found = sorted(way(options.runs))
                middle, late = found[len(found) // 2], found[len(found) * 99 // 100]
                print(f"{way.__name__:12} p50 {middle * 1e3:6.2f} ms   p99 {late * 1e3:6.2f} ms   of {len(found)}")
        this.app.close()


if __name__ == "__main__":
    main()
