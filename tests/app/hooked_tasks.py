"""An app with everything around its tasks: middleware, a base class, routes; as a user's module (see shop_tasks)."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

import poolrt
from poolrt import App, Ended, Ignore, Middleware, Reject, Request, Retry, Task
from poolrt.message import Message

LEDGER = os.environ["TEST_LEDGER"]


def write(*words: object) -> None:
    """Append one whole line to the ledger."""
    fd = os.open(LEDGER, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, " ".join(str(word) for word in words).encode() + b"\n")
    finally:
        os.close(fd)


class Tracing(Middleware):
    """Carries a trace along: each task's own, or that of the task which enqueued it."""

    def before_enqueue(self, message: Message) -> Message | None:
        task = poolrt.current_task()
        trace = task.request.headers.get("trace", "") if task else ""
        return msgspec.structs.replace(message, headers={"trace": trace, **(message.headers or {})})

    def before_run(self, request: Request, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        write(request.id, "before", request.headers["trace"])

    def after_run(self, request: Request, ended: Ended) -> None:
        write(request.id, "after", ended.status, ended.value)


class Base(Task[..., Any]):
    """Tells of each attempt."""

    def on_retry(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: str) -> None:
        write(task_id, "on_retry", type(exc).__name__)

    def on_failure(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: str) -> None:
        write(task_id, "on_failure", type(exc).__name__)

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        if args == ["slow hook"]:
            try:
                while True:
                    time.sleep(0.01)
            finally:
                write(task_id, "interrupted")


app = App(
    "hooked", broker=os.environ["TEST_BROKER"], middleware=[Tracing()], task_base=Base,
    routes={"hooked_tasks.mail*": "mail"},
)  # fmt: skip


@app.task
def same(value: Any) -> Any:
    return value


@app.task(soft_time_limit="300ms", time_limit="10s")
def limited(value: Any) -> Any:
    if value == "slow task":
        time.sleep(60)
    return value


@app.task(bind=True, retry_for=OSError, retry_backoff="10ms", max_retries=2)
def flaky(self: Task[..., Any], succeed_at: int) -> int:
    if self.request.attempt < succeed_at:
        raise ConnectionError(f"attempt {self.request.attempt}")
    return self.request.attempt


@app.task(bind=True)
def counting(self: Task[..., Any], n: int) -> int:
    """Ask for attempts with other arguments, until n is 0."""
    if n:
        self.retry(kwargs={"n": n - 1}, args=(), countdown=0.01)
    return self.request.retries


@app.task(bind=True, max_retries=1)
def give_up(self: Task[..., Any]) -> None:
    self.retry(exc=KeyError("given"), countdown=0.01)


@app.task
def reject(requeue_until: float) -> str:
    write("reject", time.time())
    if requeue_until < 0:
        raise Reject("never")
    if time.time() < requeue_until:
        raise Reject("not yet", requeue=True)
    return "taken"


@app.task
def ignore() -> None:
    raise Ignore


@app.task(time_limit="200ms", retry_for=poolrt.TimeLimitExceeded, max_retries=1, retry_backoff="10ms")
def hang() -> None:
    time.sleep(60)


@app.task
def crash(times: int) -> int:
    request = app.tasks["hooked_tasks.crash"].request
    if request.deliveries <= times:
        os.kill(os.getpid(), 9)
    return request.deliveries


@app.task
def mail_queue() -> str:
    task = poolrt.current_task()
    assert task is not None
    return task.request.queue


@app.task(bind=True, time_limit="30s")
def about(self: Task[..., Any]) -> dict[str, Any]:
    return msgspec.structs.asdict(self.request)


@app.task
def family() -> list[str]:
    """Enqueue another, which says where it comes from."""
    return [about.delay().id]


@app.task(bind=True)
def stepping(self: Task[..., Any], folder: str) -> str:
    """Tell a step, and go on when the test says so."""
    self.update_state("sorting", {"step": 1})
    while not os.path.exists(f"{folder}/gate"):
        time.sleep(0.002)
    return "sorted"


@app.task(track_started=True)
def started(folder: str) -> str:
    while not os.path.exists(f"{folder}/gate"):
        time.sleep(0.002)
    return "ended"


@app.task(bind=True)
def broad(self: Task[..., Any]) -> int:
    try:
        if self.request.attempt == 1:
            raise Retry(countdown=0.01)
    except Exception:
        return -1
    return self.request.attempt


class Greeting(Base):
    """A task as a class, with an option in it."""

    priority = 7

    def run(self, name: str) -> str:
        return f"hello {name}, by {self.name} at {self.request.priority}"


greeting = app.register_task(Greeting())
