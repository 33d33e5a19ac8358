"""``Task``: what workers run, a function or a class with ``run``; its options, its hooks, and the ways to call it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, NoReturn, ParamSpec, TypeVar

from poolrt.app import progress
from poolrt.app.async_calls import AsyncCalls
from poolrt.app.calls import CallOptions, message_of, send, send_many
from poolrt.app.canvas.task_calls import Signatures
from poolrt.app.middleware import refuse_async
from poolrt.app.options import Options, TaskOptions, check_max_retries
from poolrt.app.request import Request, current_request, current_run
from poolrt.app.result import AsyncResult
from poolrt.app.retrying import has_no_retry_left
from poolrt.errors import ConfigurationError, MaxRetriesExceeded, Retry
from poolrt.script import main_script

if TYPE_CHECKING:
    from poolrt.app.app import App

P = ParamSpec("P")
R = TypeVar("R")


class Task(AsyncCalls[P, R], Signatures[P, R]):
    """What workers run. Calling the task runs it here and now; ``delay`` enqueues a call.

    ``@app.task`` makes one of a function. A class of your own has hooks, and perhaps ``run`` for ``app.register_task``;
    what stands in it by the name of an option (``queue = "mail"``) is that option's default. One object serves all runs
    of a process, one after the other.

    Attributes:
        name: unique in its app; ``module.function`` unless given.
        app: the app it belongs to.
        options: see TaskOptions.
    """

    app: App
    name: str
    options: TaskOptions
    function: Callable[..., Any]

    def bind_to(self, app: App, function: Callable[..., Any], name: str, options: TaskOptions) -> None:
        """Become the task of this function. Called once, by the app; raises ConfigurationError for an async hook."""
        refuse_async(self, HOOKS)
        self.app = app
        self.function = function
        self.name = name
        self.options = options
        self.name_bytes = name.encode()
        self.is_gated = bool(options.rate or options.max_concurrency)
        self.has_hooks = bool(app.middleware) or any(
            getattr(type(self), hook) is not getattr(Task, hook) for hook in HOOKS
        )
        self.__name__ = getattr(function, "__name__", name)
        self.__qualname__ = getattr(function, "__qualname__", name)
        self.__doc__ = function.__doc__
        self.__module__ = getattr(function, "__module__", "") or ""
        self.__wrapped__ = function
        self.is_interactive = self.__module__ == "__main__" and main_script() is None
        """A notebook's or a REPL's: it may be defined anew at any time."""
        place: str = getattr(function, "__qualname__", "<callable>")  # a partial, an object with __call__
        is_local = "<" in place and not place.startswith(f"{app.made_by}.<locals>.")
        self.by_value = self.is_interactive or is_local
        """Workers cannot import it, or would find an older one: it travels with each call, and what came is run."""

    def __repr__(self) -> str:
        """For bug reports."""
        return f"<Task {self.name} of app {self.app.name}>"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function in this process, as if it were not a task."""
        if self.options.bind:
            return self.function(self, *args, **kwargs)  # type: ignore[no-any-return]  # the function is untyped here
        return self.function(*args, **kwargs)  # type: ignore[no-any-return]

    def run(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """What the task does; to be overridden in a class that ``app.register_task`` gets."""
        return self(*args, **kwargs)

    def where(self) -> str:
        """``file:line`` of the function that decorators may hide, for errors."""
        function = self.function
        while hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        code = getattr(function, "__code__", None)
        return f"{code.co_filename}:{code.co_firstlineno}" if code else self.__module__

    def is_again(self, other: Task[..., Any]) -> bool:
        """Whether ``other`` is the same definition made again (a reload, a function run twice), not another task."""
        bound = getattr(self.function, "__self__", None) is getattr(other.function, "__self__", None)
        return bound and self.where() == other.where()

    # ---- calls

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """Enqueue a call with these arguments.

        Raises:
            EncodingError: an argument cannot be carried.
            BrokerError: the broker did not take it; it is not enqueued.
        """
        message = message_of(self, args, kwargs)
        return AsyncResult(send(self, message), self.app.broker, ignored=message.ignore_result)

    def apply_async(
        self,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        countdown: float | str | None = None,
        eta: datetime | None = None,
        expires: float | str | datetime | None = None,
        queue: str | None = None,
        priority: int | None = None,
        headers: Mapping[str, str] | None = None,
        ignore_result: bool | None = None,
        result_ttl: float | str | None = None,
        track_started: bool | None = None,
        max_retries: int | None = None,
        time_limit: float | str | None = None,
        soft_time_limit: float | str | None = None,
        memory_limit: str | None = None,
        task_id: str | None = None,
    ) -> AsyncResult[R]:
        """Enqueue a call with options, which go before the task's own.

        Args:
            args: positional arguments.
            kwargs: keyword arguments.
            countdown: do not start it before so many seconds have passed (or a duration such as ``"5m"``).
            eta: do not start it before this moment; an aware datetime.
            expires: do not start it after so many seconds, or after this aware datetime; it then ends as ``expired``.
            queue: the queue.
            priority: 0 to 9; 9 runs first.
            headers: texts by name that travel with it; the task sees them in ``request.headers``.
            ignore_result: keep no result.
            result_ttl: how long its record is kept.
            track_started: let its state be ``started`` while it runs.
            max_retries: retries after the first attempt.
            time_limit: kill this call when it runs longer.
            soft_time_limit: raise SoftTimeLimitExceeded in this call when it runs longer.
            memory_limit: kill this call when its child grows above this size, such as ``"512MiB"``.
            task_id: its id; a call whose id is known already is not enqueued again.

        Raises:
            ConfigurationError: an option is wrong, for example a naive ``eta``.
            EncodingError: an argument cannot be carried.
            BrokerError: the broker did not take it; it is not enqueued.
        """
        call = CallOptions.parse(
            countdown=countdown, eta=eta, expires=expires, queue=queue, priority=priority, headers=headers,
            ignore_result=ignore_result, result_ttl=result_ttl, track_started=track_started, max_retries=max_retries,
            time_limit=time_limit, soft_time_limit=soft_time_limit, memory_limit=memory_limit, task_id=task_id,
        )  # fmt: skip
        message = message_of(self, args, kwargs or {}, call)
        return AsyncResult(send(self, message), self.app.broker, ignored=message.ignore_result)

    def enqueue_many(self, calls: Iterable[Sequence[Any]]) -> list[AsyncResult[R]]:
        """Enqueue one call for each tuple of positional arguments, a thousand in a transaction.

        Raises:
            EncodingError, BrokerError: as ``delay``; a note says how many calls were enqueued before.
        """
        broker, ignored = self.app.broker, self.options.ignore_result
        return [AsyncResult(task_id, broker, ignored=ignored) for task_id in send_many(self, calls)]

    # ---- inside a run

    @property
    def request(self) -> Request:
        """The request being run; raises RuntimeError outside a task."""
        request = current_request()
        if request is None:
            raise RuntimeError(f"{self.name}.request exists only while a worker runs the task")
        return request

    def retry(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        exc: BaseException | None = None,
        *,
        countdown: float | str | None = None,
        eta: datetime | None = None,
        max_retries: int | None = None,
    ) -> NoReturn:
        """End this attempt, and have the task tried again: raises Retry, which ends the task's function.

        Args:
            args: positional arguments of the next attempt, instead of this one's.
            kwargs: keyword arguments of the next attempt, instead of this one's.
            exc: why; and what the task fails with when it has no retry left.
            countdown: seconds until the next attempt, or a duration; by default the task's backoff.
            eta: the moment of the next attempt, an aware datetime.
            max_retries: as many retries, instead of the call's or the task's.

        Raises:
            Retry: always, but
            MaxRetriesExceeded: it has no retry left, and no ``exc`` was given; else that.
            ConfigurationError: an argument is wrong.
        """
        check_max_retries(max_retries)
        retry = Retry(
            exc=exc, countdown=countdown, eta=eta, max_retries=max_retries, call_args=args, call_kwargs=kwargs
        )  # fmt: skip
        run = current_run()
        if run is None:  # the task was called as a function: nobody would try again
            error = exc or sys.exc_info()[1]
            raise RuntimeError(f"{self.name}.retry() outside a worker") if error is None else error
        if has_no_retry_left(run.message, self.options, max_retries):
            raise exc or MaxRetriesExceeded(f"{self.name} was tried {run.message.attempt} times")
        raise retry

    def update_state(self, state: str = progress.PROGRESS, meta: Any = None) -> None:
        """Tell ``AsyncResult.state`` and ``.info`` of the running call; see ``poolrt.update_state``."""
        progress.update_state(state, meta)

    def progress(self, done: float, total: float | None = None) -> None:
        """Tell how far the running call is; see ``poolrt.progress``."""
        progress.progress(done, total)

    # ---- hooks: they run in the child, with the task; what they raise is logged, and changes nothing

    def before_start(self, task_id: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Before the function. What this one raises, the task has raised: it may ask for a retry, or refuse."""

    def on_success(self, retval: Any, task_id: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """After the function returned ``retval``."""

    def on_failure(
        self, exc: BaseException, task_id: str, args: Sequence[Any], kwargs: Mapping[str, Any], einfo: str
    ) -> None:
        """After its last attempt raised ``exc``; ``einfo`` is the formatted traceback, as in the next two."""

    def on_retry(
        self, exc: BaseException | None, task_id: str, args: Sequence[Any], kwargs: Mapping[str, Any], einfo: str
    ) -> None:
        """After an attempt that is not the last; ``exc`` is what it raised, or what ``retry`` was given."""

    def after_return(
        self, status: str, retval: Any, task_id: str, args: Sequence[Any], kwargs: Mapping[str, Any], einfo: str
    ) -> None:
        """After every attempt, after the others: ``status`` is that of ``Ended``, ``retval`` the value or ``exc``."""


_CLASS_OPTIONS: Final = frozenset(Options.__annotations__) - {"base"}
HOOKS: Final = ("before_start", "on_success", "on_failure", "on_retry", "after_return")


def make_task(app: App, function: Callable[..., Any], name: str, options: TaskOptions) -> Task[..., Any]:
    """The task of a function, of the class that its options or the app say; raises ConfigurationError."""
    kind = options.base or app.task_base
    try:
        task = kind()
    except TypeError as error:
        raise ConfigurationError(f"{kind.__qualname__}() must need no arguments, as a base of tasks: {error}") from None
    task.bind_to(app, function, name, options)
    return task


def check_base(base: object, what: str) -> type[Task[..., Any]]:
    """``base`` if it is a class of tasks; raises ConfigurationError."""
    if not (isinstance(base, type) and issubclass(base, Task)):
        raise ConfigurationError(f"{what} is a subclass of poolrt.Task, not {base!r}")
    return base


def options_of(kind: type[Task[..., Any]]) -> dict[str, Any]:
    """The options that stand in a class of tasks, or in those that it is made from."""
    found: dict[str, Any] = {}
    for each in reversed(kind.__mro__):
        if each is not Task and issubclass(each, Task):
            found |= {name: each.__dict__[name] for name in _CLASS_OPTIONS if name in each.__dict__}
    return found
