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
    from poolrt.app.request import Request as Request
    from poolrt.app.result import AsyncResult as AsyncResult
    from poolrt.app.task import Task as Task
    from poolrt.embed import Supervisor as Supervisor
    from poolrt.errors import MemoryLimitExceeded as MemoryLimitExceeded
    from poolrt.errors import PoolrtError as PoolrtError
    from poolrt.errors import SoftTimeLimitExceeded as SoftTimeLimitExceeded
    from poolrt.errors import TaskInterrupted as TaskInterrupted
    from poolrt.errors import TimeLimitExceeded as TimeLimitExceeded
    from poolrt.shielding import shield as shield
    from poolrt.states import TaskState as TaskState

__version__ = VERSION

_HOMES = {
    "App": "poolrt.app.app",
    "AsyncResult": "poolrt.app.result",
    "MemoryLimitExceeded": "poolrt.errors",
    "PoolrtError": "poolrt.errors",
    "Request": "poolrt.app.request",
    "SoftTimeLimitExceeded": "poolrt.errors",
    "Supervisor": "poolrt.embed",
    "Task": "poolrt.app.task",
    "TaskInterrupted": "poolrt.errors",
    "TaskState": "poolrt.states",
    "TimeLimitExceeded": "poolrt.errors",
    "shield": "poolrt.shielding",
}

__all__ = [
    "App", "AsyncResult", "MemoryLimitExceeded", "PoolrtError", "Request", "SoftTimeLimitExceeded", "Supervisor",
    "Task", "TaskInterrupted", "TaskState", "TimeLimitExceeded", "__version__", "shield",
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
