"""Celery's side of the bench."""

from collections.abc import Callable
from typing import Any

from bench_env import OPTIONS, REDIS_URL, RESULTS
from celery import Celery
from recorder import hit

app = Celery("bench", broker=REDIS_URL, backend=REDIS_URL if RESULTS else None)
app.conf.broker_connection_retry_on_startup = True
app.conf.update(OPTIONS)


@app.task(ignore_result=True)
def noop() -> None:
    """Do nothing, and keep no result."""
    hit()


@app.task
def add(x: int, y: int) -> int:
    """Add; the result is kept if the run gave the app a backend."""
    hit()
    return x + y


def sender(task: str) -> Callable[..., Any]:
    """Return what a user calls to enqueue one task."""
    return {"noop": noop, "add": add}[task].delay
