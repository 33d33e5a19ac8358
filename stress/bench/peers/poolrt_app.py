"""poolrt's side of the bench: the same tasks as every peer, one that may be short or long, one of a millisecond."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from bench_env import OPTIONS, REDIS_URL, RESULTS, SQLITE
from recorder import hit

from poolrt import App, chain, chord

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


@app.task(ignore_result=True)
def rest(seconds: float) -> None:
    """Rest as long as the call says: nothing but its argument tells a short one from a long one."""
    hit(seconds > 0)
    if seconds > 0:
        time.sleep(seconds)


@app.task(ignore_result=True)
def millisecond() -> None:
    """Work for a millisecond: on the processor, making and dropping objects."""
    hit()
    until = time.perf_counter() + 0.001
    while time.perf_counter() < until:
        [{"name": "x", "n": n} for n in range(10)]


@app.task
def step(*_: object) -> None:
    """A no-op of a workflow, which keeps its result: Celery's chords need that, ours do it anyway."""
    hit()


@app.task
def last(*_: object) -> None:
    """The end of a workflow, marked in the record."""
    hit(1)


TASKS = {"noop": noop, "add": add, "rest": rest, "millisecond": millisecond}


def sender(task: str) -> Callable[..., Any]:
    """Return what a user calls to enqueue one task."""
    return TASKS[task].delay


def bulk(task: str) -> Callable[[Sequence[Sequence[Any]]], Any]:
    """Return what a user calls to enqueue many."""
    return TASKS[task].enqueue_many


def workflow(kind: str) -> Callable[[int], Any]:
    """Return what a user writes to apply a chord or a chain of that many no-ops."""
    if kind == "chord":
        return lambda count: chord([step.s() for _ in range(count)], last.s()).apply_async()
    return lambda count: chain(*(step.s() for _ in range(count - 1)), last.s()).apply_async()
