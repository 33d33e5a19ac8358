"""What a task gives for workflows: signatures of calls of it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, cast

from poolrt.app.canvas import builtin
from poolrt.app.canvas.signature import Call, group

if TYPE_CHECKING:
    from poolrt.app.task import Task

P = ParamSpec("P")
R = TypeVar("R")


class Signatures(Generic[P, R]):
    """The signatures of a Task: calls that are not made yet."""

    def s(self, *args: Any, **kwargs: Any) -> Call[R]:
        """A call with these arguments; in a chain or a chord the value of what is before it is put before them."""
        return Call(cast("Task[P, R]", self), args, kwargs)

    def si(self, *args: P.args, **kwargs: P.kwargs) -> Call[R]:
        """A call with these arguments and no others, whatever is before it."""
        return Call(cast("Task[P, R]", self), args, kwargs, immutable=True)

    def signature(
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, *, immutable: bool = False,
        **options: Any,
    ) -> Call[R]:  # fmt: skip
        """A call with these arguments and options of ``apply_async``."""
        return Call(cast("Task[P, R]", self), args, kwargs, immutable=immutable, options=options)

    def map(self, items: Iterable[Any]) -> Call[list[R]]:
        """One call that calls the task with each item, one after the other, and returns their values."""
        return builtin.map_of(cast("Task[P, R]", self), items)

    def starmap(self, items: Iterable[Sequence[Any]]) -> Call[list[R]]:
        """``map`` with several arguments: each item is the list of them."""
        return builtin.starmap_of(cast("Task[P, R]", self), items)

    def chunks(self, items: Iterable[Sequence[Any]], size: int) -> group:
        """A group of starmaps, each over ``size`` of the items."""
        return builtin.chunks_of(cast("Task[P, R]", self), items, size)

    def each(self, items: Collection[Any]) -> group:
        """A group of one call for each item. They are made a thousand at a time when it is applied: of
        ``range(10_000)`` there are never more in memory."""
        return builtin.each_of(cast("Task[P, R]", self), items)
