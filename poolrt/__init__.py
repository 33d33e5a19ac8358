"""poolrt: a worker-pool runtime for background tasks. Nothing is lost, nothing lingers, everything is named.

    from poolrt import App, Supervisor

    app = App("shop", broker="sqlite:///shop.db")

    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    if __name__ == "__main__":
        with Supervisor(app, concurrency=2):
            print(add.delay(2, 3).get(timeout=10))

Names load at their first use, so that ``import poolrt`` costs a millisecond.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from poolrt.version import VERSION

if TYPE_CHECKING:
    from poolrt.app.app import App as App
    from poolrt.app.canvas.results import GroupResult as GroupResult
    from poolrt.app.canvas.signature import Signature as Signature
    from poolrt.app.canvas.signature import chain as chain
    from poolrt.app.canvas.signature import chord as chord
    from poolrt.app.canvas.signature import group as group
    from poolrt.app.completion import as_completed as as_completed
    from poolrt.app.joining import allow_join_result as allow_join_result
    from poolrt.app.middleware import Ended as Ended
    from poolrt.app.middleware import Middleware as Middleware
    from poolrt.app.progress import progress as progress
    from poolrt.app.progress import update_state as update_state
    from poolrt.app.request import Request as Request
    from poolrt.app.request import current_task as current_task
    from poolrt.app.result import AsyncResult as AsyncResult
    from poolrt.app.task import Task as Task
    from poolrt.embed import Supervisor as Supervisor
    from poolrt.errors import Cancelled as Cancelled
    from poolrt.errors import ChordError as ChordError
    from poolrt.errors import Ignore as Ignore
    from poolrt.errors import MaxRetriesExceeded as MaxRetriesExceeded
    from poolrt.errors import MemoryLimitExceeded as MemoryLimitExceeded
    from poolrt.errors import PoolrtError as PoolrtError
    from poolrt.errors import Reject as Reject
    from poolrt.errors import Retry as Retry
    from poolrt.errors import SoftTimeLimitExceeded as SoftTimeLimitExceeded
    from poolrt.errors import TaskInterrupted as TaskInterrupted
    from poolrt.errors import TimeLimitExceeded as TimeLimitExceeded
    from poolrt.errors import WaitInsideTask as WaitInsideTask
    from poolrt.shielding import shield as shield
    from poolrt.states import TaskState as TaskState

__version__ = VERSION

_HOMES = {
    "App": "poolrt.app.app",
    "AsyncResult": "poolrt.app.result",
    "Cancelled": "poolrt.errors",
    "ChordError": "poolrt.errors",
    "Ended": "poolrt.app.middleware",
    "GroupResult": "poolrt.app.canvas.results",
    "Ignore": "poolrt.errors",
    "MaxRetriesExceeded": "poolrt.errors",
    "MemoryLimitExceeded": "poolrt.errors",
    "Middleware": "poolrt.app.middleware",
    "PoolrtError": "poolrt.errors",
    "Reject": "poolrt.errors",
    "Request": "poolrt.app.request",
    "Retry": "poolrt.errors",
    "Signature": "poolrt.app.canvas.signature",
    "SoftTimeLimitExceeded": "poolrt.errors",
    "Supervisor": "poolrt.embed",
    "Task": "poolrt.app.task",
    "TaskInterrupted": "poolrt.errors",
    "TaskState": "poolrt.states",
    "TimeLimitExceeded": "poolrt.errors",
    "WaitInsideTask": "poolrt.errors",
    "allow_join_result": "poolrt.app.joining",
    "as_completed": "poolrt.app.completion",
    "chain": "poolrt.app.canvas.signature",
    "chord": "poolrt.app.canvas.signature",
    "current_task": "poolrt.app.request",
    "group": "poolrt.app.canvas.signature",
    "progress": "poolrt.app.progress",
    "shield": "poolrt.shielding",
    "update_state": "poolrt.app.progress",
}

__all__ = [
    "App", "AsyncResult", "Cancelled", "ChordError", "Ended", "GroupResult", "Ignore", "MaxRetriesExceeded",
    "MemoryLimitExceeded", "Middleware", "PoolrtError", "Reject", "Request", "Retry", "Signature",
    "SoftTimeLimitExceeded", "Supervisor", "Task", "TaskInterrupted", "TaskState", "TimeLimitExceeded",
    "WaitInsideTask", "__version__", "allow_join_result", "as_completed", "chain", "chord", "current_task", "group",
    "progress", "shield", "update_state",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'poolrt' has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
