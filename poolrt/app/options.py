"""``TaskOptions``: what ``@app.task`` accepts, checked where it is written; and the checks of a call's options."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TypedDict

from poolrt.errors import ConfigurationError
from poolrt.hygiene.findings import parse_policies
from poolrt.message import HIGHEST_PRIORITY, LOWEST_PRIORITY, MAX_ID_BYTES
from poolrt.units import format_duration, parse_duration, parse_size

if TYPE_CHECKING:
    from poolrt.app.task import Task

MAX_KEY_BYTES: Final = 240
"""Of the keys of gates and of unique tasks: they are part of names in the broker's store."""
_DURATIONS: Final = (
    "time_limit", "soft_time_limit", "expires", "retry_backoff", "retry_backoff_max", "retry_within", "unique_for",
    "result_ttl",
)  # fmt: skip
_BOOLEANS: Final = ("ignore_result", "bind", "acks_late", "retry_jitter", "unique", "track_started")
_PER: Final = {"s": 1.0, "m": 60.0, "h": 3600.0}


class Options(TypedDict, total=False):
    """The options of ``@app.task`` beside ``bind``, as type checkers see them; TaskOptions says what each means."""

    name: str | None
    base: type[Task[..., Any]] | None
    queue: str | None
    priority: int | None
    expires: float | str | None
    max_retries: int | None
    retry_for: type[BaseException] | Iterable[type[BaseException]] | None
    no_retry_for: type[BaseException] | Iterable[type[BaseException]] | None
    retry_backoff: float | str | None
    retry_backoff_max: float | str | None
    retry_jitter: bool | None
    retry_within: float | str | None
    time_limit: float | str | None
    soft_time_limit: float | str | None
    memory_limit: str | None
    rate_limit: float | str | None
    max_concurrency: int | None
    limit_key: str | Callable[..., str] | None
    unique: bool | None
    unique_for: float | str | None
    unique_key: Callable[..., str] | None
    ignore_result: bool | None
    result_ttl: float | str | None
    track_started: bool | None
    acks_late: bool | None
    leaks: str | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TaskOptions:
    """What ``@app.task`` accepts; checked when the task is declared. Durations in seconds, sizes in bytes."""

    queue: str | None = None
    """None: by the app's ``routes``, else ``default``."""
    priority: int = 0
    expires: float | None = None
    """It must have started within so much time."""
    max_retries: int | None = 3
    """Retries after the first attempt; None for no end."""
    retry_for: tuple[type[BaseException], ...] = ()
    """Exceptions that are tried again."""
    no_retry_for: tuple[type[BaseException], ...] = ()
    """But not these of them."""
    retry_backoff: float = 1.0
    """Before the first retry; doubled for each next one."""
    retry_backoff_max: float = 600.0
    """It grows up to this."""
    retry_jitter: bool = True
    """Draw the time before a retry from 0 to its backoff, so that what failed together is not tried again together."""
    retry_within: float | None = None
    """No retry starts later than this after the first enqueueing; None for no such end."""
    time_limit: float | None = None
    soft_time_limit: float | None = None
    memory_limit: int | None = None
    rate: float = 0.0
    """Starts a second, over all nodes, of all calls with one ``limit_key``; 0 for no limit. Written ``rate_limit``."""
    max_concurrency: int = 0
    """As many run at the same time, over all nodes, of all calls with one ``limit_key``; 0 for no limit."""
    limit_key: str | Callable[..., str] | None = None
    """What is limited together: a text, or a function of the arguments that gives one. None: the task."""
    unique: bool = False
    """A call is not enqueued while one with the same ``unique_key`` waits or runs."""
    unique_for: float = 0.0
    """Nor within so much time after that was enqueued."""
    unique_key: Callable[..., str] | None = None
    """A function of the arguments that says which calls are the same; None: those with the same arguments."""
    ignore_result: bool = False
    result_ttl: float | None = None
    """How long its records are kept; None: the app's."""
    track_started: bool = False
    """Let its state be ``started`` while it runs. Costs a write to the broker for each run."""
    bind: bool = False
    """Give the function its task as first argument, ``self``."""
    acks_late: bool = True
    """False: it runs at most once. If its child dies or is stopped while running it, it has failed with WorkerLost."""
    leaks: str = ""
    """What to do about what it leaves behind, ``"threads=ignore"``; it goes before the node's ``leak_policy``."""
    base: type[Task[..., Any]] | None = None
    """The class of the task, with its hooks; None: the app's ``task_base``."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant; raises ConfigurationError."""
        check_priority(self.priority)
        if self.queue is not None:
            check_queue(self.queue)
        for name in _BOOLEANS:
            check_boolean(getattr(self, name), name)
        check_max_retries(self.max_retries)
        for name in ("retry_for", "no_retry_for"):
            for kind in getattr(self, name):
                if not (isinstance(kind, type) and issubclass(kind, BaseException)):
                    raise ConfigurationError(f"{name} takes exception classes, not {kind!r}")
        self._check_keys()
        if not isinstance(self.leaks, str):
            raise ConfigurationError(f"leaks is a text such as 'threads=ignore', not {self.leaks!r}")
        parse_policies(self.leaks)

    def _check_keys(self) -> None:
        """Those of gates and of unique tasks."""
        if type(self.max_concurrency) is not int or self.max_concurrency < 0:
            raise ConfigurationError(f"max_concurrency is a whole number from 1, not {self.max_concurrency!r}")
        if self.limit_key is not None:
            if not callable(self.limit_key):
                check_key(self.limit_key, "limit_key")
            if not self.rate and not self.max_concurrency:
                raise ConfigurationError("limit_key says what rate_limit or max_concurrency limits: give one of them")
        if self.unique_key is not None and not callable(self.unique_key):
            raise ConfigurationError(f"unique_key is a function of the task's arguments, not {self.unique_key!r}")

    def __reduce__(self) -> Any:
        """By value only what differs from the defaults, so that another release's options may be read."""
        fields = dataclasses.fields(self)
        given = {each.name: getattr(self, each.name) for each in fields}
        return _of, ({each.name: given[each.name] for each in fields if given[each.name] != each.default},)

    @classmethod
    def parse(cls, **given: Any) -> TaskOptions:
        """Options as a user writes them: durations ``"60s"``, sizes ``"512MiB"``, one class or several in retry_for.

        None is the default, but for ``max_retries``.
        """
        options = {name: value for name, value in given.items() if value is not None or name == "max_retries"}
        for name in _DURATIONS:
            if name in options:
                options[name] = parse_duration(options[name])
        if "memory_limit" in options:
            options["memory_limit"] = parse_size(options["memory_limit"])
        if "rate_limit" in options:
            options["rate"] = parse_rate(options.pop("rate_limit"))
        for name in ("retry_for", "no_retry_for"):
            if name in options:
                options[name] = _classes(options[name], name)
        if options.get("unique_key") is not None or options.get("unique_for"):
            if options.get("unique") is False:
                raise ConfigurationError("unique_key and unique_for say how a task is unique, but unique is False")
            options["unique"] = True
        try:
            return cls(**options)
        except TypeError as error:
            raise ConfigurationError(f"task option: {error}") from None


def _of(given: Mapping[str, Any]) -> TaskOptions:
    """What ``TaskOptions.__reduce__`` wrote; a newer release may have options that this one does not know."""
    known = TaskOptions.__dataclass_fields__
    return TaskOptions(**{name: value for name, value in given.items() if name in known})


def _classes(kinds: Any, name: str) -> tuple[type[BaseException], ...]:
    if isinstance(kinds, type):
        return (kinds,)
    try:
        return tuple(kinds)
    except TypeError:
        raise ConfigurationError(f"{name} takes exception classes, not {kinds!r}") from None


def parse_rate(rate: float | str) -> float:
    """Starts a second in ``"100/s"``, ``"10/m"``, ``"5/h"`` or a bare number a second; raises ConfigurationError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:/\s*([smh]))?\s*", "" if isinstance(rate, bool) else str(rate))
    value = float(match[1]) / _PER[match[2] or "s"] if match else 0.0
    if not 0 < value < math.inf:
        raise ConfigurationError(f"rate_limit={rate!r} is no rate; write for example 100/s, 10/m or 5/h")
    return value


def check_boolean(value: bool, name: str) -> bool:  # noqa: FBT001  what it is about
    """``value`` if it is a bool; raises ConfigurationError."""
    if type(value) is not bool:
        raise ConfigurationError(f"{name} is True or False, not {value!r}")
    return value


def check_max_retries(number: int | None) -> int | None:
    """``number`` if it is one of retries, or None for no end; raises ConfigurationError."""
    if number is not None and type(number) is not int:
        raise ConfigurationError(f"max_retries is a whole number, or None for no end, not {number!r}")
    if number is not None and number < 0:
        raise ConfigurationError(f"max_retries must be 0 or more, not {number}")
    return number


def check_queue(queue: str) -> str:
    """``queue`` if it is a name; raises ConfigurationError."""
    if not isinstance(queue, str) or not queue or "\0" in queue:  # as the inner queues of Redis have
        raise ConfigurationError(f"queue is a name, not {queue!r}")
    return queue


def check_priority(priority: int) -> int:
    """``priority`` if it is one; raises ConfigurationError."""
    if type(priority) is not int or not LOWEST_PRIORITY <= priority <= HIGHEST_PRIORITY:
        raise ConfigurationError(f"priority is 0 to 9 (9 runs first), not {priority!r}")
    return priority


def check_key(key: object, what: str) -> str:
    """``key`` if the broker can have it in a name; raises ConfigurationError."""
    if not isinstance(key, str) or not key.isprintable() or not 0 < len(key.encode()) <= MAX_KEY_BYTES:
        raise ConfigurationError(f"{what} is {key!r}: use a text of 1 to {MAX_KEY_BYTES} printable bytes")
    return key


def check_task_id(task_id: str) -> str:
    """``task_id`` if the board row and an operator can carry it; raises ConfigurationError."""
    fits = isinstance(task_id, str) and task_id.isprintable() and 0 < len(task_id.encode()) <= MAX_ID_BYTES
    if not fits:
        raise ConfigurationError(f"task_id {task_id!r}: use 1 to {MAX_ID_BYTES} printable bytes")
    return task_id


def check_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """``headers`` if they are texts by name; raises ConfigurationError."""
    if not isinstance(headers, Mapping):
        raise ConfigurationError(f"headers are texts by name, not {headers!r}")
    wrong = [each for pair in headers.items() for each in pair if not isinstance(each, str)]
    if wrong:
        raise ConfigurationError(f"headers are texts by name, not {wrong[0]!r}")
    return dict(headers)


def wall_time(moment: datetime, what: str) -> float:
    """Seconds since the epoch of an aware datetime; raises ConfigurationError for a naive one, or what is none."""
    if not isinstance(moment, datetime):
        raise ConfigurationError(f"{what} is an aware datetime, not {moment!r}; for seconds from now write countdown=")
    if moment.tzinfo is None:
        raise ConfigurationError(
            f"{what}={moment.isoformat()} has no time zone, and would mean another moment on another machine; "
            "write datetime.now(timezone.utc) + timedelta(...), or use countdown="
        )
    return moment.timestamp()


def soft_not_below_hard(soft: float | None, hard: float | None) -> str:
    """What is wrong with a soft limit that can never come before the hard one, or an empty text."""
    if soft and hard and soft >= hard:
        return (
            f"soft_time_limit {format_duration(soft)} is not below time_limit {format_duration(hard)}: "
            "the task is killed without SoftTimeLimitExceeded"
        )
    return ""
