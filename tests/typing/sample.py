"""What a user writes, checked by mypy --strict in test_typing.py: a comment that begins with E announces an error."""

from __future__ import annotations

import datetime as dt
from typing import Any, assert_type

from poolrt import App, AsyncResult, Request, Supervisor, Task, TaskState

app = App("typed", broker="sqlite:///typed.db", result_ttl="1d")


# ---- declarations


@app.task
def add(x: int, y: int) -> int:
    return x + y


@app.task
async def fetch(url: str, *, retries: int = 3) -> bytes:
    return b""


@app.task(
    name="mail", queue="q", max_retries=2, retry_backoff="2s", retry_for=[OSError, ValueError], time_limit="60s",
    soft_time_limit=50, memory_limit="512MiB", ignore_result=True, priority=9, expires=3600, bind=False,
)  # fmt: skip
def mail(to: str) -> None: ...


@app.task(retry_for=OSError)
async def slow(n: int) -> list[str]:
    return []


@app.task(bind=True, max_retries=2)
def bound(self: Task[Any, Any], a: int, *, b: str = "") -> float:
    assert_type(self.request, Request)
    assert_type(self.request.attempt, int)
    return 1.0


@app.task(bind=True)
async def async_bound(self: Task[Any, Any], a: int) -> dict[str, int]:
    return {}


@app.task()
def nothing() -> None: ...


assert_type(nothing.delay(), AsyncResult[None])


# ---- calls and results

assert_type(add.delay(1, 2), AsyncResult[int])
assert_type(add.delay(x=1, y=2).get(timeout=1), int)
assert_type(add.delay(1, 2).result, int | BaseException | None)
assert_type(add.delay(1, 2).state, TaskState)
assert_type(add.delay(1, 2).traceback, str | None)
assert_type(add(1, 2), int)
assert_type(add.apply_async((1, 2), countdown="5m", priority=3).get(), int)
assert_type(add.enqueue_many([(1, 2), (3, 4)]), list[AsyncResult[int]])
assert_type(fetch.delay("url", retries=1), AsyncResult[bytes])
assert_type(fetch.delay("url").get(), bytes)
assert_type(mail.delay("me"), AsyncResult[None])
assert_type(slow.delay(1).get(), list[str])
assert_type(bound.delay(1, b="x").get(), float)
assert_type(async_bound.delay(1).get(), dict[str, int])
assert_type(app.result("id").get(), Any)
add.apply_async((1, 2), eta=dt.datetime.now(dt.UTC), expires=30, queue="q", task_id="id")

with Supervisor(app, concurrency=2) as pool:
    assert_type(pool, Supervisor)
    assert_type(pool.exit_code, int | None)


# ---- mistakes

add.delay(1, "x")  # E: arg-type
add.delay(1)  # E: call-arg
add.delay(1, 2, 3)  # E: call-arg
add.delay(1, z=2)  # E: call-arg
add(1, "x")  # E: arg-type
fetch.delay(5)  # E: arg-type
fetch.delay("url", retry=1)  # E: call-arg
slow.delay("n")  # E: arg-type
mail.delay(to=None)  # E: arg-type
bound.delay("a")  # E: arg-type
async_bound.delay(bound, 1)  # E: call-arg, arg-type
text: str = add.delay(1, 2).get()  # E: assignment
add.delay(1, 2).get(timeout="5s")  # E: arg-type
add.apply_async((1, 2), eta="tomorrow")  # E: arg-type
add.apply_async((1, 2), countdwon=5)  # E: call-arg
add.apply_async((1, 2), priority="high")  # E: arg-type
add.delay(1, 2).id()  # E: operator
App("x", broker=5)  # E: arg-type


@app.task(time_limit=None, tiem_limit=3)  # E: call-overload, untyped-decorator
def misspelt() -> None: ...


@app.task(priority="high")  # E: call-overload, untyped-decorator
def no_number() -> None: ...


@app.task(bind=True, retry_for="OSError")  # E: call-overload, untyped-decorator
def no_class(self: Task[Any, Any]) -> None: ...


@app.task(memory_limit=512)  # E: call-overload, untyped-decorator
def bare_size() -> None: ...
