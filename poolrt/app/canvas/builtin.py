"""The tasks that every app has, for workflows: ``poolrt.map``, ``poolrt.starmap``, ``poolrt.collect``.

task.map([1, 2])             one call that returns [task(1), task(2)]
task.starmap([(1, 2), …])    the same with several arguments
task.chunks(items, 100)      a group of starmaps over 100 items each
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

from poolrt.app.canvas.parts import Lazy
from poolrt.app.canvas.signature import COLLECT, Call, Signature, group
from poolrt.errors import ConfigurationError

if TYPE_CHECKING:
    from poolrt.app.task import Task

R = TypeVar("R")

MAP: Final = "poolrt.map"
STARMAP: Final = "poolrt.starmap"


def _map(self: Task[..., Any], name: str, items: Sequence[Any]) -> Any:
    """Call a task with each of these, one after the other."""
    return _starmap(self, name, [(item,) for item in items])


def _starmap(self: Task[..., Any], name: str, items: Sequence[Sequence[Any]]) -> Any:
    """Call a task with each of these lists of arguments, one after the other."""
    task = self.app.tasks.get(name)
    if task is None:
        raise ConfigurationError(f"there is no task {name!r} here to call with each of {len(items)} items")
    if inspect.iscoroutinefunction(task.function):
        return _awaited(task, items)  # the child awaits what a task returns
    return [task(*args) for args in items]


async def _awaited(task: Task[..., Any], items: Sequence[Sequence[Any]]) -> list[Any]:
    return [await task(*args) for args in items]


def _collect(results: Any) -> Any:
    """What the results of a group are where nothing else is done with them."""
    return results


BUILTIN: Final = ((MAP, _map, True), (STARMAP, _starmap, True), (COLLECT, _collect, False))
"""Their names and functions, and whether these are given the task."""


def map_of(task: Task[..., R], items: Iterable[Any]) -> Call[list[R]]:
    """One call that calls the task with each item."""
    return Call(_builtin(task, MAP), (task.name, list(items)))


def starmap_of(task: Task[..., R], items: Iterable[Sequence[Any]]) -> Call[list[R]]:
    """One call that calls the task with each list of arguments."""
    return Call(_builtin(task, STARMAP), (task.name, [list(args) for args in items]))


def chunks_of(task: Task[..., Any], items: Iterable[Sequence[Any]], size: int) -> group:
    """A group of starmaps over ``size`` of the items each."""
    if type(size) is not int or size < 1:
        raise ConfigurationError(f"chunks of {size!r} items: give a whole number from 1")
    left = iter(items)
    return group(starmap_of(task, some) for some in iter(lambda: list(itertools.islice(left, size)), []))


def each_of(task: Task[..., Any], items: Collection[Any]) -> group:
    """A group of one call for each item; they are made when the group is applied, a thousand at a time."""
    return group(Each(task, items))


class Each(Lazy):
    """A call of a task for each item."""

    __slots__ = ("_items", "_task")

    def __init__(self, task: Task[..., Any], items: Collection[Any]) -> None:
        self._task = task
        self._items = items

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Signature[Any]]:
        return (Call(self._task, (item,)) for item in self._items)

    def __contains__(self, call: object) -> bool:
        return any(each == call for each in self)


def _builtin(task: Task[..., Any], name: str) -> Task[..., Any]:
    if task.by_value:
        raise ConfigurationError(
            f"{name} finds the task it calls by its name, but workers cannot import {task.name}: define it in a module"
        )
    return task.app.builtin[name]
