"""What a user writes, checked by mypy --strict in test_typing.py: a comment that begins with E announces an error."""

from __future__ import annotations

import datetime as dt
from typing import Any, assert_type

import msgspec

from poolrt import (
    App,
    AsyncResult,
    Ended,
    GroupResult,
    Ignore,
    Middleware,
    Reject,
    Request,
    Retry,
    Signature,
    Supervisor,
    Task,
    TaskState,
    as_completed,
    chain,
    chord,
    current_task,
    group,
    progress,
    update_state,
)  # fmt: skip
from poolrt.message import Message


class Tracing(Middleware):
    def before_enqueue(self, message: Message) -> Message | None:
        return msgspec.structs.replace(message, headers={"trace": "1"})

    def after_run(self, request: Request, ended: Ended) -> None:
        assert_type(ended.status, str)
        assert_type(request.deadline, float | None)


class Base(Task[..., Any]):
    queue = "base"

    def on_failure(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: str) -> None: ...


def route(name: str, args: Any, kwargs: Any, options: Any) -> str | None:
    return None


app = App(
    "typed", broker="sqlite:///typed.db", result_ttl="1d", routes={"mail.*": "mail"}, middleware=[Tracing()],
    task_base=Base,
)  # fmt: skip
App("routed", routes=route)


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


@app.task(
    base=Base, retry_for=OSError, no_retry_for=[TimeoutError], retry_backoff_max="10m", retry_jitter=False,
    retry_within="1h", rate_limit="100/s", max_concurrency=2, limit_key=lambda x: f"tenant-{x}", unique_for="1m",
    unique_key=str, track_started=True, result_ttl="1h", max_retries=None,
)  # fmt: skip
def everything(x: int) -> int:
    progress(1, 2)
    update_state("loading", {"file": 1})
    task = current_task()
    if task is not None:
        assert_type(task.request, Request)
    raise Retry(countdown="5m", exc=ValueError()) if x else Reject("no", requeue=True) if x > 1 else Ignore()


class Mail(Task[[str, int], bool]):
    priority = 3

    def run(self, to: str, copies: int) -> bool:
        self.update_state(state="PROGRESS", meta={"current": 1})
        self.progress(1, 2)
        if not to:
            self.retry(exc=ValueError(), countdown=5)
        return True


class Loose(Base):
    def run(self, to: str) -> bool:
        return True


send = app.register_task(Mail(), queue="mail")
loose = app.register_task(Loose(), name="loose")


@app.task()
def nothing() -> None: ...


assert_type(nothing.delay(), AsyncResult[None])


# ---- workflows


@app.task
def total(numbers: list[int], more: int = 0) -> float:
    return 0.0


assert_type((add.s(1) | total.si([1])).delay(), AsyncResult[float])
assert_type(add.si(1, 2).set(queue="q").link(total.s()).delay().get(), int)
assert_type(group(add.s(1, 1), add.s(2, 2)).delay(), GroupResult)
assert_type(chord([add.s(1, 1)], total.s(more=3)).apply_async(countdown=3), AsyncResult[float])
assert_type(group(add.s(1, 1)) | total.s(), chain[float])
assert_type(add.map([1]).delay().get(), list[int])
assert_type(add.chunks([(1, 2)], 10).delay().get(timeout=1), list[Any])
assert_type(app.signature("add", (1, 2)), Signature[Any])
add.si(1)  # E: call-arg
add.si(1, "2")  # E: arg-type
add.s(1).set(3)  # E: call-arg
add.s(1) | 3  # E: operator

# ---- calls and results

assert_type(add.delay(1, 2), AsyncResult[int])
assert_type(add.delay(x=1, y=2).get(timeout=1), int)
assert_type(add.delay(1, 2).result, int | BaseException | None)
assert_type(add.delay(1, 2).state, TaskState | str)
assert_type(add.delay(1, 2).get(propagate=True), int)
assert_type(add.delay(1, 2).get(propagate=False), int | BaseException)
assert_type(list(as_completed(add.enqueue_many([(1, 2)]))), list[AsyncResult[int]])
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
assert_type(everything.delay(1).get(), int)
assert_type(send, Mail)
assert_type(send.delay("me", 1), AsyncResult[bool])
assert_type(send.run("me", 1), bool)
assert_type(send("me", 1), bool)
assert_type(loose.delay("me").get(), Any)
add.apply_async(
    (1, 2), headers={"a": "b"}, ignore_result=False, result_ttl="1h", track_started=True, max_retries=5,
    time_limit="5m", soft_time_limit=5, memory_limit="1GiB",
)  # fmt: skip
add.apply_async((1, 2), eta=dt.datetime.now(dt.UTC), expires=30, queue="q", task_id="id")


async def in_a_loop() -> None:
    """The same for an event loop."""
    assert_type(await add.adelay(1, y=2), AsyncResult[int])
    assert_type(await add.aapply_async((1, 2), countdown=5), AsyncResult[int])
    assert_type(await add.delay(1, 2), int)
    assert_type(await fetch.delay("url").aget(timeout=1), bytes)
    async for result in as_completed([add.delay(1, 2)]):
        assert_type(result, AsyncResult[int])


with Supervisor(app, concurrency=2) as pool:
    assert_type(pool, Supervisor)
    assert_type(pool.exit_code, int | None)


# ---- mistakes


async def mistakes_in_a_loop() -> None:
    """What a type checker finds there."""
    await add.adelay(1, "x")  # E: arg-type
    await fetch.adelay(5)  # E: arg-type


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
add.delay(1, 2).get(timeout="5s")  # E: call-overload
add.apply_async((1, 2), eta="tomorrow")  # E: arg-type
add.apply_async((1, 2), countdwon=5)  # E: call-arg
add.apply_async((1, 2), priority="high")  # E: arg-type
add.delay(1, 2).id()  # E: operator
send.delay("me")  # E: call-arg
send.delay("me", "1")  # E: arg-type
add.apply_async((1, 2), headers={"a": 1})  # E: dict-item
app.register_task(add.function)  # E: type-var
App("x", middleware=[Tracing])  # E: list-item
App("x", routes={"a": 1})  # E: dict-item
App("x", broker=5)  # E: arg-type


@app.task(time_limit=None, tiem_limit=3)  # E: call-overload, untyped-decorator
def misspelt() -> None: ...


@app.task(priority="high")  # E: call-overload, untyped-decorator
def no_number() -> None: ...


@app.task(bind=True, retry_for="OSError")  # E: call-overload, untyped-decorator
def no_class(self: Task[Any, Any]) -> None: ...


@app.task(memory_limit=512)  # E: call-overload, untyped-decorator
def bare_size() -> None: ...


@app.task(rate_limit=[1])  # E: call-overload, untyped-decorator
def no_rate() -> None: ...


@app.task(base=int)  # E: arg-type
def no_task_class() -> None: ...
