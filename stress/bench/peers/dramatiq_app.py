"""Dramatiq's side of the bench."""

from collections.abc import Callable
from typing import Any

import dramatiq
from bench_env import REDIS_URL, RESULTS
from dramatiq.brokers.redis import RedisBroker
from recorder import hit

broker = RedisBroker(url=REDIS_URL)
if RESULTS:
    from dramatiq.results import Results
    from dramatiq.results.backends import RedisBackend

    broker.add_middleware(Results(backend=RedisBackend(url=REDIS_URL), store_results=True))
dramatiq.set_broker(broker)


@dramatiq.actor
def noop() -> None:
    """Do nothing."""
    hit()


@dramatiq.actor
def add(x: int, y: int) -> int:
    """Add; the result is kept if the run asks for it."""
    hit()
    return x + y


def sender(task: str) -> Callable[..., Any]:
    """Return what a user calls to enqueue one task."""
    return {"noop": noop, "add": add}[task].send
