"""Enqueueing from an event loop: ``adelay`` and ``aapply_async`` of every Task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, cast

from poolrt.app.loading import refuse_effects

if TYPE_CHECKING:
    from poolrt.app.result import AsyncResult
    from poolrt.app.task import Task

P = ParamSpec("P")
R = TypeVar("R")


class AsyncCalls(Generic[P, R]):
    """The calls of a Task that are awaited: middleware and broker are asked in a thread, and never block the loop.

    Who is cancelled meanwhile does not know whether the call was enqueued; give it a ``task_id`` to ask for it.
    """

    async def adelay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """``delay`` for an event loop."""
        from poolrt.app.aside import aside  # asyncio is slow to import, and most programs never need it

        task = cast("Task[P, R]", self)
        refuse_effects(f"{task.name}.adelay")
        return await aside(task.delay, *args, **kwargs)

    async def aapply_async(
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> AsyncResult[R]:
        """``apply_async`` for an event loop, with the same options."""
        from poolrt.app.aside import aside  # see adelay

        task = cast("Task[P, R]", self)
        refuse_effects(f"{task.name}.aapply_async")
        return await aside(task.apply_async, args, kwargs, **options)
