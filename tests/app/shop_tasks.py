"""The app of these tests, as a user's module: the worker imports it by name, its broker comes from the environment."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

from poolrt import App, Task

app = App("shop", broker=os.environ["TEST_BROKER"])


class OutOfStock(Exception):
    """A user's exception, with arguments of its own."""

    def __init__(self, article: str, left: int) -> None:
        super().__init__(f"{article}: {left} left")
        self.article = article
        self.left = left

    def __reduce__(self) -> Any:
        return (OutOfStock, (self.article, self.left))


class Careless(Exception):
    """A user's exception that cannot be unpickled: its ``__init__`` takes other arguments than ``args``."""

    def __init__(self, article: str, *, left: int) -> None:
        super().__init__(f"{article}: {left} left")


class Unpicklable(Exception):
    """A user's exception that holds what cannot be pickled."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = __import__("threading").Lock()


ERRORS: dict[str, Any] = {
    "value": lambda: ValueError("the text"),
    "custom": lambda: OutOfStock("shoe", 3),
    "careless": lambda: Careless("shoe", left=3),
    "unpicklable": lambda: Unpicklable("holds a lock"),
    "odd": lambda: FileNotFoundError(os.fsdecode(b"name \xff")),
    "group": lambda: ExceptionGroup("several", [ValueError("a"), OutOfStock("b", 1)]),
}


def write(path: str, line: str) -> None:
    """Append one whole line."""
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, line.encode() + b"\n")
    finally:
        os.close(fd)


@app.task
def add(x: int, y: int = 0) -> int:
    return x + y


brief = App("brief", broker=os.environ["TEST_BROKER"], result_ttl="50ms")
"""Another app of the same process and broker; the workers are ``app``'s, and know the task by its name."""
brief_add = brief.task(name="shop_tasks.add")(add.function)


@app.task
def echo(*args: Any, **kwargs: Any) -> Any:
    return [args, kwargs]


@app.task
def same(value: Any) -> Any:
    return value


@app.task
def note(path: str, line: str) -> None:
    write(path, line)


@app.task(ignore_result=True)
def silent(path: str) -> None:
    write(path, "silent")


@app.task(ignore_result=True)
def silent_failure() -> None:
    raise ValueError("still told")


@app.task
def hold(folder: str) -> str:
    """Say that it runs, and go on when the test says so."""
    write(f"{folder}/started", "started")
    while not os.path.exists(f"{folder}/gate"):
        time.sleep(0.002)
    return "went on"


@app.task
def fail(which: str) -> None:
    error = ERRORS[which]()
    raise error


@app.task(bind=True)
def about_me(self: Task[Any, Any], x: int) -> dict[str, Any]:
    request = self.request
    fields = ("id", "task", "attempt", "queue", "priority", "owner", "fence")
    return {"x": x, "name": self.name, **{field: getattr(request, field) for field in fields}}


@app.task(bind=True, retry_for=[ConnectionError], max_retries=2, retry_backoff="10ms")
def flaky(self: Task[Any, Any], path: str, succeed_at: int) -> int:
    write(path, str(self.request.attempt))
    if self.request.attempt < succeed_at:
        raise ConnectionError(f"attempt {self.request.attempt}")
    return self.request.attempt


@app.task
async def double(x: int) -> int:
    await asyncio.sleep(0.001)
    return 2 * x


@app.task
async def fail_later() -> None:
    await asyncio.sleep(0.001)
    raise OutOfStock("hat", 0)


running = 0


@app.task
async def how_many_at_once() -> int:
    global running  # noqa: PLW0603  coroutines of one process share it
    running += 1
    await asyncio.sleep(0.002)
    seen = running
    running -= 1
    return seen


@app.task
def pid() -> int:
    return os.getpid()


@app.task
def enqueue_more(n: int) -> list[str]:
    """Enqueue from within a task."""
    return [result.id for result in add.enqueue_many((i, 1) for i in range(n))]


@app.task
def current() -> str:
    return os.environ.get("TEST_BROKER", "")
