"""Whether and when a task is tried again, and what is kept of the attempt that has ended."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Final

import msgspec

from poolrt.app.options import wall_time
from poolrt.codec import encode_arguments
from poolrt.errors import MemoryLimitExceeded, SoftTimeLimitExceeded, TimeLimitExceeded
from poolrt.message import Message
from poolrt.terms import MAX_HISTORY, NO_TERMS, Attempt
from poolrt.units import parse_duration

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from poolrt.app.options import TaskOptions
    from poolrt.errors import Retry

LIMITS: Final[dict[str, type[BaseException]]] = {
    kind.__name__: kind for kind in (SoftTimeLimitExceeded, TimeLimitExceeded, MemoryLimitExceeded)
}
"""Our own kills by name. They are tried again only where ``retry_for`` names them: not by ``retry_for=Exception``."""
MAX_ATTEMPT_TEXT: Final = 500
"""Characters kept of what an attempt raised."""


def retry_of(
    message: Message, options: TaskOptions, kind: type[BaseException], ended: tuple[Attempt, ...]
) -> Message | None:
    """The next attempt of a request that ended with ``kind``, or None when it is not to be tried again."""
    named = kind in options.retry_for if kind.__name__ in LIMITS else issubclass(kind, options.retry_for)
    if not named or issubclass(kind, options.no_retry_for) or has_no_retry_left(message, options):
        return None
    return _next(message, options, ended[-1].ended_at + retry_delay(options, message.attempt), ended)


def retry_as_asked(
    message: Message, options: TaskOptions, retry: Retry, ended: tuple[Attempt, ...],
    call: tuple[Sequence[Any], Mapping[str, Any]], *, trusted: bool,
) -> Message | None:  # fmt: skip
    """The next attempt that a task, called with the arguments ``call``, asked for; None when it has none left.

    Raises:
        ConfigurationError: its countdown or eta is wrong.
        EncodingError: its arguments cannot be carried.
    """
    if has_no_retry_left(message, options, retry.max_retries):
        return None
    if retry.eta is not None:
        eta = wall_time(retry.eta, "eta")
    elif retry.countdown is not None:
        eta = ended[-1].ended_at + parse_duration(retry.countdown)
    else:
        eta = ended[-1].ended_at + retry_delay(options, message.attempt)
    again = _next(message, options, eta, ended)
    if again is not None and not (retry.call_args is None and retry.call_kwargs is None):
        terms = again.terms or NO_TERMS
        args = retry.call_args
        if args is None:
            args = call[0][1:] if terms.collect else call[0]  # what is collected is read again
        elif terms.collect:
            again = msgspec.structs.replace(again, terms=msgspec.structs.replace(terms, collect=None))
        kwargs = call[1] if retry.call_kwargs is None else retry.call_kwargs
        codec, payload = encode_arguments(args, kwargs, trusted=trusted, task=message.task)
        again = msgspec.structs.replace(again, payload=payload, codec=codec)
    return again


def most_retries(message: Message, options: TaskOptions) -> int | None:
    """How often it may be tried again: the call's ``max_retries``, else the task's own; None for no end."""
    of_call = message.terms.max_retries if message.terms is not None else None
    return options.max_retries if of_call is None else of_call


def has_no_retry_left(message: Message, options: TaskOptions, asked: int | None = None) -> bool:
    """Whether its retries are used up, or as many as were ``asked`` for just now."""
    most = most_retries(message, options) if asked is None else asked
    return most is not None and message.attempt > most


def _next(message: Message, options: TaskOptions, eta: float, ended: tuple[Attempt, ...]) -> Message | None:
    if options.retry_within is not None and eta > message.enqueued_at + options.retry_within:
        return None
    terms = message.terms or NO_TERMS
    terms = msgspec.structs.replace(terms, history=(*terms.history, *ended)[-MAX_HISTORY:])
    return msgspec.structs.replace(message, attempt=message.attempt + 1, eta=eta, terms=terms)


def attempt_ended(
    message: Message, cause: str, text: str, runtime: float, owner: str, lost: int
) -> tuple[Attempt, ...]:  # fmt: skip
    """What is kept of an attempt that ends now: how it ended, and before that how many of its children had died."""
    now = time.time()
    ended = Attempt(message.attempt, now, runtime, cause, text[:MAX_ATTEMPT_TEXT], owner)
    if not lost:
        return (ended,)
    died = f"{lost} children died while running it" if lost > 1 else "its child died while running it"
    return Attempt(message.attempt, now - runtime, 0.0, "WorkerLost", died), ended


def retry_delay(options: TaskOptions, attempt: int) -> float:
    """Seconds before the attempt after ``attempt``: exponential, capped, and drawn from all of it (full jitter)."""
    delay = min(options.retry_backoff * 2.0 ** min(attempt - 1, 60), options.retry_backoff_max)
    return delay * random.random() if options.retry_jitter else delay
