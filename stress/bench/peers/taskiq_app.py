"""Taskiq's side of the bench, with async tasks: its fastest."""

from collections.abc import Awaitable, Callable
from typing import Any

from bench_env import OPTIONS, REDIS_URL, RESULTS
from recorder import hit
from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend, RedisStreamBroker

KINDS = {"stream": RedisStreamBroker, "list": ListQueueBroker}
# redis-py 8 gives up a read after 5 s by itself, and the list's blocking pop has no limit: the idle worker would die.
broker = KINDS[OPTIONS["broker"]](url=REDIS_URL, queue_name="bench", socket_timeout=None)
if RESULTS:
    broker = broker.with_result_backend(RedisAsyncResultBackend(REDIS_URL))


@broker.task
async def noop() -> None:
    """Do nothing."""
    hit()


@broker.task
async def add(x: int, y: int) -> int:
    """Add; the result is kept if the run asks for it."""
    hit()
    return x + y


async def async_sender(task: str) -> Callable[..., Awaitable[Any]]:
    """Return what a user awaits to enqueue one task."""
    await broker.startup()
    return {"noop": noop, "add": add}[task].kiq
