"""An app of tasks with gates and unique keys; as a user's module (see shop_tasks)."""

from __future__ import annotations

import os
import time

from poolrt import App

app = App("limited", broker=os.environ["TEST_BROKER"])


@app.task(rate_limit="20/s")
def start() -> float:
    return time.time()


@app.task(max_concurrency=1, limit_key=lambda tenant: f"tenant-{tenant}")
def hold(tenant: str) -> tuple[float, float]:
    began = time.time()
    time.sleep(0.05)
    return began, time.time()


@app.task(max_concurrency=1, retry_for=OSError, retry_backoff="10ms", bind=True)
def flaky(self: object) -> int:
    request = app.tasks["limited_tasks.flaky"].request
    if request.attempt < 3:
        raise OSError
    return request.attempt


@app.task(unique=True)
def wait_for(path: str) -> str:
    while not os.path.exists(path):
        time.sleep(0.002)
    return "done"


@app.task
def free() -> str:
    return "free"
