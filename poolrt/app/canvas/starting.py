"""From the steps of a line to what is enqueued now: the first step's messages, and the groups they are counted in.

The same for whoever applies a workflow, and for a child whose task is followed by something.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

import msgspec

from poolrt.app.calls import MAX_ARGUMENT_BYTES, gate_of
from poolrt.app.canvas.failing import errbacks_of
from poolrt.app.canvas.steps import Call, Fan, Line, Links, Parcel, decode_step, steps_in
from poolrt.app.middleware import changed_by
from poolrt.codec import JSON, decode, encode_arguments
from poolrt.errors import EncodingError
from poolrt.message import Enqueue, Message, NewGroup
from poolrt.terms import NO_TERMS, Slot, Terms

if TYPE_CHECKING:
    from poolrt.app.app import App

GROUP_TTL: Final = 7 * 86_400.0
"""Seconds that a group waits for its members at least: as long as a given-up member can be tried again."""
_STARTS_OF_ARGUMENTS: Final = b"[["


class Value(NamedTuple):
    """What a step returned, as its record has it."""

    codec: str
    encoded: bytes


class Place(NamedTuple):
    """Where in a workflow a line starts."""

    app: App
    now: float
    """Wall time."""
    parent: str
    """The id of the task that starts it; empty outside a task."""
    root: str
    group: str = ""
    slot: Slot | None = None
    """What the line's last call fills."""
    last: str = ""
    """The id of that call."""
    errbacks: tuple[bytes, ...] = ()
    """Of each step of the line."""


def start(steps: Sequence[bytes], value: Value | None, place: Place) -> Iterator[Enqueue | NewGroup]:
    """What is enqueued for these steps to come true; a group comes before its members.

    Args:
        steps: of one line.
        value: what is put before the arguments of the first one; None for nothing.
        place: where it stands.

    Raises:
        EncodingError: the arguments, with the value, cannot be carried or are too large.
    """
    while steps:
        step, steps = decode_step(steps[0]), steps[1:]
        if isinstance(step, Parcel):
            steps = (*steps_in(step), *steps)
            continue
        if isinstance(step, Links):
            for line in step.lines:
                beside = place._replace(group="", slot=None, last=line.last, errbacks=line.errbacks)
                yield from start(line.steps, value, beside)
            continue
        if isinstance(step, Fan):
            yield from start_fan(step, step.members, steps, value, place)
        else:
            yield Enqueue.of(message_of_step(step, steps, value, place))
        return


def start_fan(
    fan: Fan, members: Iterable[Line], rest: Sequence[bytes], value: Value | None, place: Place
) -> Iterator[Enqueue | NewGroup]:
    """A group, and what is enqueued for its members, which may be made one by one; ``rest`` follows its body."""
    if fan.body is None:
        for line in members:
            within = place._replace(group=fan.id, last=line.last, errbacks=line.errbacks)
            yield from start(line.steps, value, within)
        return
    body = message_of_step(fan.body, rest, None, place, collects=None if fan.body.is_immutable else fan)
    terms = cast("Terms", body.terms)
    errbacks = errbacks_of(terms.errbacks, body.id, place.root, place.now)
    yield NewGroup(
        fan.id, fan.size, Enqueue.of(body), max(body.ttl, GROUP_TTL), place.slot, errbacks, fan.collects
    )  # fmt: skip
    for index, line in enumerate(members):
        slot = Slot(fan.id, index)
        yield from start(
            line.steps, value, place._replace(group=fan.id, slot=slot, last=line.last, errbacks=line.errbacks)
        )


def message_of_step(
    call: Call, rest: Sequence[bytes], value: Value | None, place: Place, *, collects: Fan | None = None
) -> Message:
    """The message of a call that ``rest`` follows; ``collects``: the group whose results are its first argument."""
    template, now = call.message, place.now
    codec, payload = template.codec, template.payload
    if value is not None and not call.is_immutable:
        codec, payload = _put_before(value, template, trusted=place.app.broker.trusted)
    own = template.terms or NO_TERMS
    terms = Terms(
        parent=place.parent,
        root=place.root,
        group=place.group,
        gate=own.gate,
        track_started=own.track_started,
        max_retries=own.max_retries,
        follow=tuple(rest),
        errbacks=place.errbacks + call.errbacks,
        last="" if place.last == template.id else place.last,
        slot=place.slot,
        collect=None if collects is None else (collects.id, collects.size),
    )
    message = msgspec.structs.replace(
        template,
        codec=codec,
        payload=payload,
        enqueued_at=now,
        eta=template.eta if call.countdown is None else now + call.countdown,
        expires=template.expires if call.expires_in is None else now + call.expires_in,
        terms=terms,
    )
    if call.is_keyed:
        message = _gated(message, place.app)
    return changed_by(place.app.middleware, message) if place.app.middleware else message


def _put_before(value: Value, template: Message, *, trusted: bool) -> tuple[str, bytes]:
    """The payload with one more argument, the first; of JSON, which both mostly are, by its bytes alone."""
    payload = template.payload
    if value.codec == template.codec == JSON and payload.startswith(_STARTS_OF_ARGUMENTS):
        codec, joint = JSON, b"" if payload[2:3] == b"]" else b","
        payload = b"".join((_STARTS_OF_ARGUMENTS, value.encoded, joint, payload[2:]))
    else:
        args, kwargs = decode(template.codec, payload, trusted=trusted)
        first: Any = decode(value.codec, value.encoded, trusted=trusted)
        codec, payload = encode_arguments((first, *args), kwargs, trusted=trusted, task=template.task)
    if len(payload) > MAX_ARGUMENT_BYTES:
        raise EncodingError(
            f"the value is {len(value.encoded)} bytes, and with it the arguments of {template.task}, which follows, "
            f"are more than {MAX_ARGUMENT_BYTES}: store the data elsewhere and return its name"
        )
    return codec, payload


def _gated(message: Message, app: App) -> Message:
    """With the gate whose key is a function of the arguments; raises EncodingError where nobody can call that."""
    task = app.tasks.get(message.task)
    if task is None:
        raise EncodingError(f"{message.task} follows, and its limit_key is a function that is not known here")
    args, kwargs = decode(message.codec, message.payload, trusted=app.broker.trusted)
    terms = msgspec.structs.replace(cast("Terms", message.terms), gate=gate_of(task, args, kwargs))
    return msgspec.structs.replace(message, terms=terms)
