"""poolrt's side of the bench: the same two tasks as every peer."""

from collections.abc import Callable
from typing import Any

from bench_env import OPTIONS, REDIS_URL, RESULTS, SQLITE
from recorder import hit

from poolrt import App

app = App("bench", broker=REDIS_URL if OPTIONS.get("broker") == "redis" else f"sqlite:///{SQLITE}")


@app.task(ignore_result=True)
def noop() -> None:
    """Do nothing, and keep no result."""
    hit()


@app.task(ignore_result=not RESULTS)
def add(x: int, y: int) -> int:
    """Add, and keep the result if the run asks for it."""
    hit()
    return x + y


def sender(task: str) -> Callable[..., Any]:
    """Return what a user calls to enqueue one task."""
    return {"noop": noop, "add": add}[task].delay
