"""What a message carries for the task: its arguments, and a function that travels by value. Reading runs user code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from poolrt.app.canvas.collecting import collected
from poolrt.app.options import TaskOptions
from poolrt.app.task import Task, make_task
from poolrt.codec import JSON, decode
from poolrt.errors import ConfigurationError, DecodingError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from poolrt.app.app import App
    from poolrt.brokers.base import Broker
    from poolrt.message import Message

_NO_ARGUMENTS: Final = b"[[],{}]"
"""A payload that need not be decoded."""


def arguments_of(message: Message, *, trusted: bool) -> tuple[Sequence[Any], Mapping[str, Any]]:
    """The arguments of the call; raises DecodingError, or whatever unpickling raises."""
    if message.payload == _NO_ARGUMENTS and message.codec == JSON:
        return (), {}
    call = decode(message.codec, message.payload, trusted=trusted)
    if not (
        isinstance(call, (list, tuple))
        and len(call) == 2
        and isinstance(call[0], (list, tuple))
        and isinstance(call[1], dict)
    ):
        raise DecodingError("its payload is not (arguments, keyword arguments)")
    return call[0], call[1]


def call_of(message: Message, broker: Broker) -> tuple[Sequence[Any], Mapping[str, Any]]:
    """The arguments, with the results of the group that the call waited for before them.

    Raises what ``arguments_of`` does, and BrokerError: those results cannot be read now.
    """
    args, kwargs = arguments_of(message, trusted=broker.trusted)
    if message.terms is None or message.terms.collect is None:
        return args, kwargs
    return (collected(broker, message.terms.collect), *args), kwargs


def task_by_value(app: App, message: Message) -> Task[..., Any]:
    """The task whose function came with the message; raises DecodingError, or whatever unpickling raises."""
    pair = decode(message.function_codec, message.function or b"", trusted=app.broker.trusted)
    if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[1], TaskOptions)):
        raise DecodingError("the function by value is not one poolrt made")
    try:
        return make_task(app, pair[0], message.task, pair[1])
    except ConfigurationError as error:
        raise DecodingError(str(error)) from None
