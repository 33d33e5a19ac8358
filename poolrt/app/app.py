"""``App``: a name, a broker, and the tasks registered with it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Concatenate, Literal, ParamSpec, Protocol, TypeVar, Unpack, overload

from poolrt.app.cancel import Cancels
from poolrt.app.canvas.builtin import BUILTIN
from poolrt.app.canvas.dicts import call_of, signature_of
from poolrt.app.canvas.signature import Signature
from poolrt.app.middleware import HOOKS, Middleware, refuse_async
from poolrt.app.options import Options, TaskOptions
from poolrt.app.result import AsyncResult
from poolrt.app.routing import Router, Routes
from poolrt.app.task import Task, check_base, make_task, options_of
from poolrt.brokers.base import Broker
from poolrt.brokers.urls import broker_from_url
from poolrt.errors import ConfigurationError, DuplicateTask
from poolrt.script import SCRIPT_MODULE
from poolrt.units import parse_duration

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T", bound=Task[..., Any])


class Decorator(Protocol):
    """``@app.task(...)``."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R]: ...


class BoundDecorator(Protocol):
    """``@app.task(bind=True, ...)``: callers do not pass the first argument."""

    @overload
    def __call__(self, function: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /) -> Task[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[Any, P], R], /) -> Task[P, R]: ...


class App(Cancels):
    """Tasks and the broker they travel through.

    Args:
        name: names the app in ``poolrt status``, logs and the default node name.
        broker: where messages wait; ``sqlite:///poolrt.db`` is a file in the current folder, resolved to an
            absolute path here and now.
        backend: where results are kept; None keeps them in the broker's own store.
        result_ttl: how long results are kept, in seconds or as ``"1d"``.
        routes: queues by name or glob of tasks, ``{"mail.*": "mail"}``, or a function; for calls that name no queue, of
            tasks that declare none. See Router.
        middleware: objects whose hooks are called around every call and every run, in this order. See Middleware.
        task_base: the class of the tasks that name none.

    Raises:
        ConfigurationError: a URL or an option is wrong. Nothing is opened here; that is done by the first use.
    """

    def __init__(
        self,
        name: str = "app",
        broker: str = "sqlite:///poolrt.db",
        backend: str | None = None,
        *,
        result_ttl: float | str = "1d",
        routes: Routes | None = None,
        middleware: Sequence[Middleware] = (),
        task_base: type[Task[..., Any]] = Task,
    ) -> None:
        self.name = name
        self.broker: Broker = broker_from_url(broker)
        results = self.broker if backend is None else broker_from_url(backend)
        if results.url != self.broker.url:
            raise ConfigurationError(
                f"backend={results.url!r}: results are kept in the broker's own store; leave backend out"
            )
        self.result_ttl = parse_duration(result_ttl)
        self.router = Router(routes)
        self.middleware = tuple(middleware)
        for each in self.middleware:
            if not isinstance(each, Middleware):
                raise ConfigurationError(f"middleware: {each!r} is no poolrt.Middleware object")
            refuse_async(each, HOOKS)
        self.task_base = check_base(task_base, "task_base")
        self.tasks: dict[str, Task[Any, Any]] = {}
        self.child_start_hooks: list[Callable[[], object]] = []
        self.leak_checks: list[Callable[[], Iterable[str]]] = []
        frame = sys._getframe(1)
        self.made_by: str = frame.f_code.co_qualname
        """The function that made this app, ``<module>`` for none: its local tasks are made with it, in workers too."""
        self.defined_in: str = frame.f_globals.get("__name__", "__main__")
        """The module that made this app: how a worker finds it again."""
        self.builtin: dict[str, Task[Any, Any]] = {
            task_name: make_task(self, function, task_name, TaskOptions(bind=binds, base=Task))
            for task_name, function, binds in BUILTIN
        }
        """The tasks that every app has: see app.canvas.builtin."""

    def __repr__(self) -> str:
        """For bug reports; the URL carries no secret."""
        return f"<App {self.name} broker={self.broker.url} tasks={len(self.tasks)}>"

    def __getstate__(self) -> dict[str, object]:
        """An app by value: everything but the broker's connection, which is opened again from its URL.

        That may hold a password: an app by value goes to this user's own processes, through unlinked files, only.
        """
        return {**self.__dict__, "broker": self.broker.secret_url}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """The app of ``__getstate__``, with a broker of its own."""
        self.__dict__.update(state, broker=broker_from_url(state["broker"]))

    # ``bind=True`` gives the function its task as first argument; the result of an async function is what it returns.
    @overload
    def task(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R]: ...
    @overload
    def task(self, function: Callable[P, R], /) -> Task[P, R]: ...
    @overload
    def task(self, /, *, bind: Literal[True], **options: Unpack[Options]) -> BoundDecorator: ...
    @overload
    def task(self, /, *, bind: Literal[False] | None = None, **options: Unpack[Options]) -> Decorator: ...

    def task(self, function: Callable[..., Any] | None = None, /, *, name: str | None = None, **options: Any) -> Any:
        """Register a function as a task; with or without options.

        Args:
            function: the function, when used as a bare decorator.
            name: unique in the app; ``module.function`` by default.
            options: see TaskOptions. What stands in the class ``base`` by the name of an option is its default.

        Raises:
            DuplicateTask: the name is taken by another function; both places are named.
            ConfigurationError: an option is wrong.
        """
        base = self.task_base if options.get("base") is None else check_base(options["base"], "base")
        in_class = options_of(base)
        own_name = name or in_class.pop("name", None)
        parsed = TaskOptions.parse(**{**in_class, **_given(options)})

        def register(function: Callable[..., Any]) -> Task[Any, Any]:
            return self._register(make_task(self, function, own_name or default_task_name(function), parsed))

        return register if function is None else register(function)

    def register_task(self, task: T, **options: Unpack[Options]) -> T:
        """Register an object of a class of tasks, whose ``run`` is what it does; the same object comes back.

        Args:
            task: ``Mail()``, where ``class Mail(poolrt.Task)`` has ``run``.
            options: as for ``task``, and ``name``, by default ``module.Class``. What stands in the class goes behind.

        Raises:
            DuplicateTask, ConfigurationError: as ``task``.
        """
        kind = check_base(type(task), "register_task takes an object of a class that")
        if kind.run is Task.run:
            raise ConfigurationError(f"register_task: {kind.__qualname__} has no method run")
        given = {**options_of(kind), **_given(options), "bind": True, "base": kind}
        name = given.pop("name", None) or default_task_name(kind.run).removesuffix(".run")
        task.bind_to(self, kind.run, name, TaskOptions.parse(**given))
        return self._register(task)

    def _register(self, task: T) -> T:
        known = self.tasks.get(task.name)
        if known is not None and not task.is_again(known) and not task.is_interactive:
            raise DuplicateTask(
                f"two tasks are named {task.name!r}: {known.where()} and {task.where()}; give one of them name=..."
            )
        self.tasks[task.name] = task
        return task

    def leak_check(self, check: Callable[[], Iterable[str]]) -> Callable[[], Iterable[str]]:
        """Let ``check`` name what is checked out of a pool that poolrt does not know, such as ``["db:5432"]``.

        Called in a child between two tasks, often: it must be quick. What it names after runs of a task, and did not
        before, that task did not give back.
        """
        self.leak_checks.append(check)
        return check

    def on_child_start(self, hook: Callable[[], object]) -> Callable[[], object]:
        """Run ``hook`` in each child after its fork, before its first task: open what must not cross a fork."""
        self.child_start_hooks.append(hook)
        return hook

    def result(self, task_id: str) -> AsyncResult[Any]:
        """The AsyncResult of a task enqueued anywhere."""
        return AsyncResult(task_id, self.broker)

    def signature(
        self, task: str | Mapping[str, Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Signature[Any]:  # fmt: skip
        """A call of the task of this name; or, from a dict, what ``Signature.to_dict`` made it of.

        Raises:
            ConfigurationError: the app has no such task, or the dict is no signature.
        """
        made = call_of(self, task) if isinstance(task, str) else signature_of(self, task)
        return made.clone(args, kwargs, **options)

    def close(self) -> None:
        """Close this process's connection to the broker; the next call opens it again."""
        self.broker.close()


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Without those that are None, which is the default; but for ``max_retries``, where it is no end."""
    return {name: value for name, value in options.items() if value is not None or name == "max_retries"}


def default_task_name(function: Callable[..., Any]) -> str:
    """``module.qualname``; a program's own functions are named alike in the program, its workers and its children:
    by the module's name under ``python -m``, else by the file."""
    module = getattr(function, "__module__", None) or "__main__"
    if module in ("__main__", "__mp_main__", SCRIPT_MODULE):
        home = getattr(function, "__globals__", {})
        spec, file = home.get("__spec__"), home.get("__file__")
        if spec is not None:
            module = spec.name
        elif file and os.path.isfile(file):
            module = Path(file).stem
        else:
            module = "__main__"
    return f"{module}.{getattr(function, '__qualname__', type(function).__name__)}"
