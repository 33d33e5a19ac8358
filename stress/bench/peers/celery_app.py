"""Celery's side of the bench."""

from collections.abc import Callable
from typing import Any

from bench_env import OPTIONS, REDIS_URL, RESULTS
from celery import Celery, chain, chord
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


@app.task
def step(*_: object) -> None:
    """A no-op of a workflow, which keeps its result: Celery's chords need that, ours do it anyway."""
    hit()


@app.task
def last(*_: object) -> None:
    """The end of a workflow, marked in the record."""
    hit(1)


def sender(task: str) -> Callable[..., Any]:
    """Return what a user calls to enqueue one task."""
    return {"noop": noop, "add": add}[task].delay


def workflow(kind: str) -> Callable[[int], Any]:
    """Return what a user writes to apply a chord or a chain of that many no-ops."""
    if kind == "chord":
        return lambda count: chord([step.s() for _ in range(count)], last.s()).apply_async()
    return lambda count: chain(*(step.s() for _ in range(count - 1)), last.s()).apply_async()
