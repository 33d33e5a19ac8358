"""Routes: which queue a task's calls go to, by its name (``App(routes={"mail.*": "mail"})``) or by a function."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from poolrt.app.options import check_queue
from poolrt.errors import ConfigurationError

Route = Callable[[str, Sequence[Any], Mapping[str, Any], Mapping[str, Any]], str | None]
"""``route(name, args, kwargs, options)``: the queue of a call, or None; ``options`` are those the call was given."""
Routes = Mapping[str, str] | Route

DEFAULT_QUEUE: Final = "default"


class Router:
    """Finds the queue of a call that names none, of a task that declares none.

    Args:
        routes: queues by name of the task, or by a glob of it: the name itself goes first, then the globs in their
            order. Or a function, which is called for each call.

    Raises:
        ConfigurationError: the routes are neither.
    """

    def __init__(self, routes: Routes | None) -> None:
        self._function: Route | None = None
        self._globs: dict[str, str] = {}
        self._known: dict[str, str] = {}
        if routes is None:
            return
        if callable(routes):
            self._function = routes
        elif isinstance(routes, Mapping):
            for glob, queue in routes.items():
                if not isinstance(glob, str) or not glob:
                    raise ConfigurationError(f"routes: {glob!r} is no name of a task, nor a glob such as 'mail.*'")
                self._globs[glob] = check_queue(queue)
        else:
            raise ConfigurationError(
                f"routes are queues by task, such as {{'mail.*': 'mail'}}, or a function, not {routes!r}"
            )

    def queue_of(
        self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], options: Callable[[], Mapping[str, Any]]
    ) -> str:  # fmt: skip
        """The queue of this call; its ``options`` are asked for where they matter. Raises what a function raises."""
        if self._function is not None:
            queue = self._function(name, args, kwargs, options())
            return DEFAULT_QUEUE if queue is None else check_queue(queue)
        known = self._known.get(name)
        if known is None:
            known = self._known[name] = self._look_up(name)
        return known

    def _look_up(self, name: str) -> str:
        if name in self._globs:
            return self._globs[name]
        return next(
            (queue for glob, queue in self._globs.items() if fnmatch.fnmatchcase(name, glob)), DEFAULT_QUEUE
        )  # fmt: skip
