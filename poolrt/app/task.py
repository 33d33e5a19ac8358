"""``Task``: a registered function and its options, and the ways to enqueue a call of it."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Generic, ParamSpec, TypeVar

import msgspec

from poolrt.app.loading import refuse_effects
from poolrt.app.request import Request, current_request
from poolrt.app.result import AsyncResult
from poolrt.codec import PICKLE, encode_arguments, pickle
from poolrt.errors import ConfigurationError, MemoryLimitExceeded, SoftTimeLimitExceeded, TimeLimitExceeded
from poolrt.hygiene.findings import parse_policies
from poolrt.message import HIGHEST_PRIORITY, LOWEST_PRIORITY, MAX_ID_BYTES, Enqueue, Message, new_task_id
from poolrt.script import main_script
from poolrt.units import format_duration, parse_duration, parse_size

if TYPE_CHECKING:
    from poolrt.app.app import App

P = ParamSpec("P")
R = TypeVar("R")

log = logging.getLogger("poolrt.app")

_CHUNK_BYTES = 4 * 1024 * 1024
"""And so many bytes: a server takes half a GiB at once, and others wait meanwhile."""
_CHUNK = 1000
"""Calls in one transaction of enqueue_many: long enough to spread its cost, short enough not to hold up others."""
MAX_ARGUMENT_BYTES = 16 * 1024 * 1024


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TaskOptions:
    """What ``@app.task`` accepts; checked when the task is declared."""

    queue: str = "default"
    max_retries: int = 3
    """Retries after the first attempt, for exceptions in ``retry_for``."""
    retry_backoff: float = 1.0
    """Seconds before the first retry; doubled for each next one, up to ten minutes."""
    retry_for: tuple[type[BaseException], ...] = ()
    time_limit: float | None = None
    soft_time_limit: float | None = None
    memory_limit: int | None = None
    ignore_result: bool = False
    priority: int = 0
    expires: float | None = None
    bind: bool = False
    acks_late: bool = True
    """False: it runs at most once. If its child dies or is stopped while running it, it has failed with WorkerLost."""
    leaks: str = ""
    """What to do about what it leaves behind, ``"threads=ignore"``; it goes before the node's ``leak_policy``."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant; raises ConfigurationError."""
        check_priority(self.priority)
        check_queue(self.queue)
        for name in ("ignore_result", "bind", "acks_late"):
            if type(getattr(self, name)) is not bool:
                raise ConfigurationError(f"{name} is True or False, not {getattr(self, name)!r}")
        if type(self.max_retries) is not int:
            raise ConfigurationError(f"max_retries is a whole number, not {self.max_retries!r}")
        if self.max_retries < 0:
            raise ConfigurationError(f"max_retries must be 0 or more, not {self.max_retries}")
        for kind in self.retry_for:
            if not (isinstance(kind, type) and issubclass(kind, BaseException)):
                raise ConfigurationError(f"retry_for takes exception classes, not {kind!r}")
        if not isinstance(self.leaks, str):
            raise ConfigurationError(f"leaks is a text such as 'threads=ignore', not {self.leaks!r}")
        parse_policies(self.leaks)

    @classmethod
    def parse(cls, **given: Any) -> TaskOptions:
        """Options as a user writes them: durations ``"60s"``, sizes ``"512MiB"``, one class or several in retry_for."""
        options = {name: value for name, value in given.items() if value is not None}
        for name in ("time_limit", "soft_time_limit", "expires", "retry_backoff"):
            if name in options:
                options[name] = parse_duration(options[name])
        if "memory_limit" in options:
            options["memory_limit"] = parse_size(options["memory_limit"])
        if "retry_for" in options:
            kinds = options["retry_for"]
            options["retry_for"] = (kinds,) if isinstance(kinds, type) else tuple(kinds)
        try:
            return cls(**options)
        except TypeError as error:
            raise ConfigurationError(f"task option: {error}") from None


def check_queue(queue: str) -> str:
    """``queue`` if it is a name; raises ConfigurationError."""
    if not isinstance(queue, str) or not queue:
        raise ConfigurationError(f"queue is a name, not {queue!r}")
    return queue


def check_priority(priority: int) -> int:
    """``priority`` if it is one; raises ConfigurationError."""
    if type(priority) is not int or not LOWEST_PRIORITY <= priority <= HIGHEST_PRIORITY:
        raise ConfigurationError(f"priority is 0 to 9 (9 runs first), not {priority!r}")
    return priority


def wall_time(moment: datetime, what: str) -> float:
    """Seconds since the epoch of an aware datetime; raises ConfigurationError for a naive one."""
    if moment.tzinfo is None:
        raise ConfigurationError(
            f"{what}={moment.isoformat()} has no time zone, and would mean another moment on another machine; "
            "write datetime.now(timezone.utc) + timedelta(...), or use countdown="
        )
    return moment.timestamp()


class Task(Generic[P, R]):
    """A function that workers run. Calling the task runs it here and now; ``delay`` enqueues a call.

    Attributes:
        name: unique in its app; ``module.function`` unless given.
        app: the app it belongs to.
        options: see TaskOptions.
    """

    def __init__(self, app: App, function: Callable[..., Any], name: str, options: TaskOptions) -> None:
        self.app = app
        self.function = function
        self.name = name
        self.options = options
        self.name_bytes = name.encode()
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

    def where(self) -> str:
        """``file:line`` of the function that decorators may hide, for errors."""
        function = self.function
        while hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        code = getattr(function, "__code__", None)
        return f"{code.co_filename}:{code.co_firstlineno}" if code else self.__module__

    def is_again(self, other: Task[Any, Any]) -> bool:
        """Whether ``other`` is the same definition made again (a reload, a function run twice), not another task."""
        bound = getattr(self.function, "__self__", None) is getattr(other.function, "__self__", None)
        return bound and self.where() == other.where()

    @property
    def request(self) -> Request:
        """The request being run; raises RuntimeError outside a task."""
        request = current_request()
        if request is None:
            raise RuntimeError(f"{self.name}.request exists only while a worker runs the task")
        return request

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """Enqueue a call with these arguments.

        Raises:
            EncodingError: an argument cannot be carried.
            BrokerError: the broker did not take it; it is not enqueued.
        """
        message = self._message(args, kwargs)
        self.app.broker.enqueue([Enqueue.of(message)])
        return AsyncResult(message.id, self.app.broker, ignored=message.ignore_result)

    def apply_async(
        self,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        countdown: float | str | None = None,
        eta: datetime | None = None,
        queue: str | None = None,
        priority: int | None = None,
        expires: float | str | datetime | None = None,
        time_limit: float | str | None = None,
        soft_time_limit: float | str | None = None,
        memory_limit: str | None = None,
        task_id: str | None = None,
    ) -> AsyncResult[R]:
        """Enqueue a call with options.

        Args:
            args: positional arguments.
            kwargs: keyword arguments.
            countdown: do not start it before so many seconds have passed (or a duration such as ``"5m"``).
            eta: do not start it before this moment; an aware datetime.
            queue: the queue, instead of the task's own.
            priority: 0 to 9; 9 runs first.
            expires: do not start it after so many seconds, or after this aware datetime; it then ends as ``expired``.
            time_limit: kill this call when it runs longer, instead of the task's own limit.
            soft_time_limit: raise SoftTimeLimitExceeded in this call when it runs longer.
            memory_limit: kill this call when its child grows above this size, such as ``"512MiB"``.
            task_id: its id; a call whose id is known already is not enqueued again.

        Raises:
            ConfigurationError: an option is wrong, for example a naive ``eta``.
            EncodingError: an argument cannot be carried.
            BrokerError: the broker did not take it; it is not enqueued.
        """
        now = time.time()
        when: float | None = None
        if countdown is not None and eta is not None:
            raise ConfigurationError("give countdown or eta, not both")
        if countdown is not None:
            when = now + parse_duration(countdown)
        elif eta is not None:
            when = wall_time(eta, "eta")
        until: float | None = None
        if isinstance(expires, datetime):
            until = wall_time(expires, "expires")
        elif expires is not None:
            until = now + parse_duration(expires)
        if priority is not None:
            check_priority(priority)
        if queue is not None:
            check_queue(queue)
        if task_id is not None:
            check_task_id(task_id)
        message = self._message(
            args, kwargs or {}, now=now, eta=when, queue=queue, priority=priority, expires=until, task_id=task_id
        )
        if time_limit is not None or soft_time_limit is not None or memory_limit is not None:
            message = self._limited(message, time_limit, soft_time_limit, memory_limit)
        self.app.broker.enqueue([Enqueue.of(message)])
        return AsyncResult(message.id, self.app.broker, ignored=message.ignore_result)

    def _limited(
        self, message: Message, time_limit: float | str | None, soft_time_limit: float | str | None,
        memory_limit: str | None,
    ) -> Message:  # fmt: skip
        """The message with the limits of this call."""
        hard = message.time_limit if time_limit is None else parse_duration(time_limit)
        soft = message.soft_time_limit if soft_time_limit is None else parse_duration(soft_time_limit)
        memory = message.memory_limit if memory_limit is None else parse_size(memory_limit)
        if warning := soft_not_below_hard(soft, hard):
            log.warning("a call of %s: %s", self.name, warning)
        return msgspec.structs.replace(message, time_limit=hard, soft_time_limit=soft, memory_limit=memory)

    def enqueue_many(self, calls: Iterable[Sequence[Any]]) -> list[AsyncResult[R]]:
        """Enqueue one call for each tuple of positional arguments, a thousand in a transaction.

        Raises:
            EncodingError, BrokerError: as ``delay``; a note says how many calls were enqueued before.
        """
        results: list[AsyncResult[R]] = []
        broker, ignored = self.app.broker, self.options.ignore_result
        remaining = iter(calls)

        def batches() -> Iterator[list[Enqueue]]:
            batch: list[Enqueue] = []
            size = 0
            for args in remaining:
                batch.append(item := Enqueue.of(self._message(args, {})))
                size += len(item.envelope)
                if len(batch) == _CHUNK or size > _CHUNK_BYTES:
                    yield batch
                    batch, size = [], 0
            if batch:
                yield batch

        def stored(batch: Sequence[Enqueue]) -> None:
            results.extend(AsyncResult(item.id, broker, ignored=ignored) for item in batch)

        try:
            broker.enqueue_batches(batches(), stored)
        except Exception as error:
            error.add_note(f"{len(results)} calls of this enqueue_many were enqueued before")
            raise
        return results

    def _message(
        self,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        *,
        now: float | None = None,
        eta: float | None = None,
        queue: str | None = None,
        priority: int | None = None,
        expires: float | None = None,
        task_id: str | None = None,
    ) -> Message:
        refuse_effects(f"{self.name}.delay")
        options, trusted = self.options, self.app.broker.trusted
        codec, payload = encode_arguments(args, kwargs, trusted=trusted, task=self.name)
        if len(payload) > MAX_ARGUMENT_BYTES:
            raise ConfigurationError(
                f"a call of {self.name} has {len(payload)} bytes of arguments, more than {MAX_ARGUMENT_BYTES}: "
                "store the data elsewhere and pass its name"
            )
        now = time.time() if now is None else now
        if expires is None and options.expires is not None:
            expires = now + options.expires
        function: bytes | None = None
        if self.by_value and trusted:
            function = pickle((self.function, options), f"the task {self.name}, which workers cannot import,")
        return Message(
            id=task_id or new_task_id(),
            task=self.name,
            payload=payload,
            codec=codec,
            queue=queue or options.queue,
            priority=options.priority if priority is None else priority,
            enqueued_at=now,
            eta=eta,
            expires=expires,
            ignore_result=options.ignore_result,
            result_ttl=self.app.result_ttl,
            time_limit=options.time_limit,
            soft_time_limit=options.soft_time_limit,
            memory_limit=options.memory_limit,
            acks_late=options.acks_late,
            function=function,
            function_codec=PICKLE if function else "",
        )


def soft_not_below_hard(soft: float | None, hard: float | None) -> str:
    """What is wrong with a soft limit that can never come before the hard one, or an empty text."""
    if soft and hard and soft >= hard:
        return (
            f"soft_time_limit {format_duration(soft)} is not below time_limit {format_duration(hard)}: "
            "the task is killed without SoftTimeLimitExceeded"
        )
    return ""


def check_task_id(task_id: str) -> None:
    """Refuse an id that the board row or an operator could not carry; raises ConfigurationError."""
    if not task_id or not task_id.isprintable() or len(task_id.encode()) > MAX_ID_BYTES:
        raise ConfigurationError(f"task_id {task_id!r}: use 1 to {MAX_ID_BYTES} printable bytes")


LIMITS: Final[dict[str, type[BaseException]]] = {
    kind.__name__: kind for kind in (SoftTimeLimitExceeded, TimeLimitExceeded, MemoryLimitExceeded)
}
"""Our own kills by name. They are tried again only where ``retry_for`` names them: not by ``retry_for=Exception``."""


def retry_of(message: Message, options: TaskOptions, kind: type[BaseException], now: float) -> Message | None:
    """The next attempt of a request that ended with ``kind``, or None when it is not to be tried again."""
    named = kind in options.retry_for if kind.__name__ in LIMITS else issubclass(kind, options.retry_for)
    if not named or message.attempt > options.max_retries:
        return None
    delay = retry_delay(options, message.attempt)
    return msgspec.structs.replace(message, attempt=message.attempt + 1, eta=now + delay)


def retry_delay(options: TaskOptions, attempt: int) -> float:
    """Seconds before the attempt after ``attempt``: exponential from ``retry_backoff``, at most ten minutes."""
    return min(options.retry_backoff * 2.0 ** min(attempt - 1, 30), timedelta(minutes=10).total_seconds())
