"""Huey's side of the bench, on SQLite or Redis."""

from collections.abc import Callable
from typing import Any

from bench_env import OPTIONS, REDIS_URL, RESULTS, SQLITE
from huey import RedisHuey, SqliteHuey
from recorder import hit

_options = dict(OPTIONS)
if _options.pop("storage") == "redis":
    huey = RedisHuey("bench", url=REDIS_URL, results=RESULTS, **_options)
else:
    huey = SqliteHuey("bench", filename=SQLITE, results=RESULTS, **_options)


@huey.task()
def noop() -> None:
    """Do nothing; huey keeps no result of None."""
    hit()


@huey.task()
def add(x: int, y: int) -> int:
    """Add; the result is kept if the run asks for it."""
    hit()
    return x + y


def sender(task: str) -> Callable[..., Any]:
    """Return what a user calls to enqueue one task."""
    return {"noop": noop, "add": add}[task]
