"""From a call to its Message, and to the broker: options of the call before the task's, before the app's.

args, kwargs ─▶ payload            CallOptions ─┐
                   │                TaskOptions ─┼─▶ Message ─▶ middleware ─▶ Enqueue ─▶ broker
the running task ─▶ parent, root    routes, gate ┘
"""

from __future__ import annotations

import hashlib
import inspect
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from poolrt.app.loading import refuse_effects
from poolrt.app.middleware import changed_by, tell_enqueued
from poolrt.app.options import (
    check_boolean,
    check_headers,
    check_key,
    check_max_retries,
    check_priority,
    check_queue,
    check_task_id,
    soft_not_below_hard,
    wall_time,
)
from poolrt.app.request import current_run
from poolrt.codec import PICKLE, encode_arguments, pickle
from poolrt.errors import BrokerBusy, ConfigurationError
from poolrt.message import Enqueue, Message, decode_message, new_task_id
from poolrt.terms import Gate, Terms, Unique
from poolrt.units import parse_duration, parse_size

if TYPE_CHECKING:
    from poolrt.app.task import Task
    from poolrt.brokers.base import Broker

log = logging.getLogger("poolrt.app")

MAX_ARGUMENT_BYTES: Final = 16 * 1024 * 1024
_CHUNK: Final = 1000
"""Calls in one transaction of enqueue_many: long enough to spread its cost, short enough not to hold up others."""
_CHUNK_BYTES: Final = 4 * 1024 * 1024
"""And so many bytes: a server takes half a GiB at once, and others wait meanwhile."""
_TRIES: Final = 10
"""How often a unique call is offered while those that have its key end just before we ask for them."""


class CallOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What ``apply_async`` was given, checked; None where it was given nothing. Times are wall times."""

    now: float | None = None
    eta: float | None = None
    expires: float | None = None
    queue: str | None = None
    priority: int | None = None
    task_id: str | None = None
    headers: dict[str, str] | None = None
    ignore_result: bool | None = None
    result_ttl: float | None = None
    track_started: bool | None = None
    max_retries: int | None = None
    time_limit: float | None = None
    soft_time_limit: float | None = None
    memory_limit: int | None = None

    @classmethod
    def parse(
        cls, *, countdown: float | str | None = None, eta: datetime | None = None,
        expires: float | str | datetime | None = None, **given: Any,
    ) -> CallOptions:  # fmt: skip
        """Options as a user writes them; raises ConfigurationError."""
        options = {name: _CHECKS[name](value, name) for name, value in given.items() if value is not None}
        now = time.time()
        if countdown is not None and eta is not None:
            raise ConfigurationError("give countdown or eta, not both")
        start = wall_time(eta, "eta") if eta is not None else None
        if countdown is not None:
            start = now + parse_duration(countdown)
        if isinstance(expires, datetime):
            expires = wall_time(expires, "expires")
        elif expires is not None:
            expires = now + parse_duration(expires)
        return cls(now=now, eta=start, expires=expires, **options)

    def given(self) -> dict[str, Any]:
        """Those that were given, for a route."""
        options = msgspec.structs.asdict(self)
        return {name: value for name, value in options.items() if value is not None and name != "now"}


_CHECKS: Final[dict[str, Callable[[Any, str], Any]]] = {
    "queue": lambda value, _: check_queue(value),
    "priority": lambda value, _: check_priority(value),
    "task_id": lambda value, _: check_task_id(value),
    "headers": lambda value, _: check_headers(value),
    "max_retries": lambda value, _: check_max_retries(value),
    "ignore_result": check_boolean,
    "track_started": check_boolean,
    "result_ttl": lambda value, _: parse_duration(value),
    "time_limit": lambda value, _: parse_duration(value),
    "soft_time_limit": lambda value, _: parse_duration(value),
    "memory_limit": lambda value, _: parse_size(value),
}
PLAIN: Final = CallOptions()
"""Of ``delay``: none."""


def message_of(
    task: Task[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], call: CallOptions = PLAIN,
    *, is_whole: bool = True,
) -> Message:  # fmt: skip
    """The message of a call.

    Args:
        task: what is called.
        args: positional arguments.
        kwargs: keyword arguments.
        call: options of this call.
        is_whole: whether these are all arguments; else keys that are functions of them are left for later.

    Raises:
        ConfigurationError: the arguments are too large, or a key of the task's is none.
        EncodingError: an argument cannot be carried.
    """
    refuse_effects(f"{task.name}.delay")
    options, app = task.options, task.app
    trusted = app.broker.trusted
    codec, payload = encode_arguments(args, kwargs, trusted=trusted, task=task.name)
    if len(payload) > MAX_ARGUMENT_BYTES:
        raise ConfigurationError(
            f"a call of {task.name} has {len(payload)} bytes of arguments, more than {MAX_ARGUMENT_BYTES}: "
            "store the data elsewhere and pass its name"
        )
    now = time.time() if call.now is None else call.now
    expires = call.expires
    if expires is None and options.expires is not None:
        expires = now + options.expires
    function: bytes | None = None
    if task.by_value and trusted:
        function = pickle((task.function, options), f"the task {task.name}, which workers cannot import,")
    queue = call.queue or options.queue
    if queue is None:
        queue = app.router.queue_of(task.name, args, kwargs, call.given)
    ttl = options.result_ttl if call.result_ttl is None else call.result_ttl
    message = Message(
        id=call.task_id or new_task_id(),
        task=task.name,
        payload=payload,
        codec=codec,
        queue=queue,
        priority=options.priority if call.priority is None else call.priority,
        enqueued_at=now,
        eta=call.eta,
        expires=expires,
        ignore_result=options.ignore_result if call.ignore_result is None else call.ignore_result,
        result_ttl=app.result_ttl if ttl is None else ttl,
        time_limit=options.time_limit if call.time_limit is None else call.time_limit,
        soft_time_limit=options.soft_time_limit if call.soft_time_limit is None else call.soft_time_limit,
        memory_limit=options.memory_limit if call.memory_limit is None else call.memory_limit,
        headers=call.headers,
        acks_late=options.acks_late,
        function=function,
        function_codec=PICKLE if function else "",
        terms=_terms(task, args, kwargs, call, is_whole=is_whole),
    )
    if (call.time_limit or call.soft_time_limit) and (
        warning := soft_not_below_hard(message.soft_time_limit, message.time_limit)
    ):
        log.warning("a call of %s: %s", task.name, warning)
    return message


def _terms(
    task: Task[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], call: CallOptions, *, is_whole: bool
) -> Terms | None:  # fmt: skip
    """What few calls have; None for the others."""
    run, options = current_run(), task.options
    track_started = options.track_started if call.track_started is None else call.track_started
    if run is None and call.max_retries is None and not (track_started or task.is_gated or options.unique):
        return None
    return Terms(
        parent=run.message.id if run else "",
        root=run.message.root if run else "",
        gate=gate_of(task, args, kwargs) if task.is_gated and (is_whole or not callable(options.limit_key)) else None,
        unique=unique_of(task, args, kwargs) if options.unique else None,
        track_started=track_started,
        max_retries=call.max_retries,
    )


def gate_of(task: Task[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Gate:
    """The gate of a call; raises ConfigurationError for a key that is none."""
    options, key = task.options, task.options.limit_key
    if key is None:
        key = task.name
    elif callable(key):
        key = check_key(key(*args, **kwargs), f"limit_key of {task.name}")
    return Gate(key, options.rate, max(1, int(options.rate)), options.max_concurrency)


def unique_of(task: Task[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Unique:
    """The key that a call has alone: of its task, by what that says or by the arguments, however they are passed."""
    options = task.options
    if options.unique_key is not None:
        key = check_key(options.unique_key(*args, **kwargs), f"unique_key of {task.name}")
    else:
        args, kwargs = _bound(task, args, kwargs)
        named = dict(sorted(kwargs.items()))
        _, payload = encode_arguments(args, named, trusted=task.app.broker.trusted, task=task.name)
        key = hashlib.sha256(payload).hexdigest()[:32]
    return Unique(f"{task.name}:{key}", options.unique_for)


def _bound(
    task: Task[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[Sequence[Any], Mapping[str, Any]]:
    """The arguments as the function gets them, with its defaults; as they are if it does not take them."""
    first = (None,) if task.options.bind else ()
    try:
        bound = inspect.signature(task.function).bind(*first, *args, **kwargs)
    except (TypeError, ValueError):  # the worker will say so; or a callable without a signature
        return args, kwargs
    bound.apply_defaults()
    return bound.args[len(first) :], bound.kwargs


# ---- to the broker


def send(task: Task[..., Any], message: Message) -> str:
    """Enqueue it. The id of its result: its own, or that of the message which has its unique key.

    Raises:
        BrokerError: the broker did not take it; it is not enqueued.
    """
    app, stored = task.app, False
    if app.middleware:
        message = changed_by(app.middleware, message)
    try:
        (stored,) = app.broker.enqueue([Enqueue.of(message)])
        if stored or message.terms is None or message.terms.unique is None:
            return message.id
        stored, found = _offer_again(app.broker, message, message.terms.unique.key)
        return found
    finally:
        if app.middleware:
            tell_enqueued(app.middleware, message, stored=stored)


def _offer_again(broker: Broker, message: Message, key: str) -> tuple[bool, str]:
    """A unique message was refused: whether it was taken after all, and whose result the caller gets."""
    for _ in range(_TRIES):
        if (holder := broker.unique_holder(key)) is not None:
            return False, holder
        if broker.find(message.id) is not None:
            return False, message.id  # it was its id that is known
        (stored,) = broker.enqueue([Enqueue.of(message)])  # the holder has just ended
        if stored:
            return True, message.id
    raise BrokerBusy(f"a call of {message.task} is not enqueued: others have its unique key, one after the other")


def send_many(task: Task[..., Any], calls: Iterable[Sequence[Any]]) -> list[str]:
    """Enqueue one call for each tuple of positional arguments, a thousand in a transaction; the ids of their results.

    Raises:
        EncodingError, BrokerError: with a note that says how many calls were enqueued before.
    """
    ids: list[str] = []
    try:
        if task.options.unique:
            ids.extend(send(task, message_of(task, args, {})) for args in calls)
        else:
            task.app.broker.enqueue_batches(_batches(task, calls), _taker(task, ids))
    except Exception as error:
        error.add_note(f"{len(ids)} calls of this enqueue_many were enqueued before")
        raise
    return ids


def _batches(task: Task[..., Any], calls: Iterable[Sequence[Any]]) -> Iterator[list[Enqueue]]:
    middleware = task.app.middleware
    batch: list[Enqueue] = []
    size = 0
    for args in calls:
        message = message_of(task, args, {})
        if middleware:
            message = changed_by(middleware, message)
        batch.append(item := Enqueue.of(message))
        size += len(item.envelope)
        if len(batch) == _CHUNK or size > _CHUNK_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _taker(task: Task[..., Any], ids: list[str]) -> Callable[[Sequence[Enqueue]], None]:
    """What a batch that is stored is told to."""
    middleware = task.app.middleware

    def take(batch: Sequence[Enqueue]) -> None:
        ids.extend(item.id for item in batch)
        for item in batch if middleware else ():
            tell_enqueued(middleware, decode_message(item.envelope), stored=True)

    return take
