"""What travels of a workflow inside a message: the steps that follow it, each encoded by itself.

A hop decodes one step and hands the others on as bytes: a chain of 1,000 costs it no more than their copying.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, TypeAlias

import msgspec

from poolrt.errors import DecodingError
from poolrt.message import Message

MAX_DEPTH: Final = 50
"""Levels of nesting."""
MAX_STEPS: Final = 10_000
"""Steps of one chain: each message of it carries those that follow."""
MAX_MEMBERS: Final = 100_000
"""Members of one group."""
MAX_LINE_BYTES: Final = 16 * 1024 * 1024
"""What follows a step is in its message."""
_IN_A_PARCEL: Final = 64
MAX_PLACED_BYTES: Final = 64 * 1024 * 1024
"""What one settle may enqueue: a server takes it in one piece, and others wait meanwhile."""


class Line(msgspec.Struct, frozen=True, array_like=True):
    """Steps one after the other. Appended to, never reordered, like the Message."""

    steps: tuple[bytes, ...]
    last: str = ""
    """The id of the last call in it, whose record is its result; empty if it begins with a group without a body."""
    errbacks: tuple[bytes, ...] = ()
    """Enqueued if any of its steps ends without a value; encoded by ``encode_errback``."""


class Call(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """A step that calls a task."""

    message: Message
    """As it will be enqueued, but for its times, its place in the workflow, and the value put before its arguments."""
    is_immutable: bool = False
    """No value is put before its arguments."""
    countdown: float | None = None
    """Seconds, from its enqueueing."""
    expires_in: float | None = None
    """Seconds, from its enqueueing."""
    is_keyed: bool = False
    """The key of its gate depends on its arguments: it is made when they are known."""
    errbacks: tuple[bytes, ...] = ()
    """Its own, beside those of its line."""


class Links(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Lines that begin with the value of the step before, beside the line in which this stands."""

    lines: tuple[Line, ...]


class Fan(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """A group: all of its members begin with the value of the step before."""

    id: str
    size: int
    members: tuple[Line, ...] = ()
    body: Call | None = None
    """What waits for all members, and is followed by the steps after this one. None: nothing waits, nothing follows."""
    collects: bool = False
    """Members may fail; the body gets their errors."""


class Parcel(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Steps far ahead, compressed: of 1,000 each message would carry 100 KB without it, and its store write that."""

    packed: bytes


Step: TypeAlias = Call | Links | Fan | Parcel

_encoder = msgspec.msgpack.Encoder()
_step_decoder: msgspec.msgpack.Decoder[Step] = msgspec.msgpack.Decoder(Step)
_parcel_decoder = msgspec.msgpack.Decoder(tuple[bytes, ...])
_call_decoder = msgspec.msgpack.Decoder(Call)
_PASSED_ON: Final = b"\1"
_OWN: Final = b"\0"


def encode_step(step: Step) -> bytes:
    """The step as messages carry it."""
    return _encoder.encode(step)


def decode_step(encoded: bytes) -> Step:
    """The step in ``encoded``; raises DecodingError: damaged, or of a newer poolrt."""
    try:
        return _step_decoder.decode(encoded)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DecodingError(f"damaged step of a workflow: {error}") from None


def packed(steps: Sequence[bytes]) -> tuple[bytes, ...]:
    """The steps, those that are far ahead in parcels."""
    if len(steps) <= 2 * _IN_A_PARCEL:
        return tuple(steps)
    parcels = (steps[start : start + _IN_A_PARCEL] for start in range(_IN_A_PARCEL, len(steps), _IN_A_PARCEL))
    return (
        *steps[:_IN_A_PARCEL],
        *(encode_step(Parcel(zlib.compress(_encoder.encode(each), 1))) for each in parcels),
    )


def unpacked(steps: Iterable[bytes]) -> Iterator[Call | Links | Fan]:
    """All steps, those in parcels too; raises DecodingError."""
    for step in map(decode_step, steps):
        if isinstance(step, Parcel):
            yield from unpacked(steps_in(step))
        else:
            yield step


def steps_in(parcel: Parcel) -> tuple[bytes, ...]:
    """What is in it; raises DecodingError."""
    opener = zlib.decompressobj()
    try:
        opened = opener.decompress(parcel.packed, MAX_LINE_BYTES)
        if not opener.eof:
            raise DecodingError(f"a parcel of a workflow with more than {MAX_LINE_BYTES} bytes")
        return _parcel_decoder.decode(opened)
    except (zlib.error, msgspec.DecodeError) as error:
        raise DecodingError(f"damaged parcel of a workflow: {error}") from None


def encode_errback(call: Call, *, own: bool) -> bytes:
    """An errback; ``own``: of one step, so that it is not handed on to the next one."""
    return (_OWN if own else _PASSED_ON) + _encoder.encode(call)


def decode_errback(encoded: bytes) -> Call:
    """The errback in ``encoded``; raises DecodingError."""
    try:
        return _call_decoder.decode(memoryview(encoded)[1:])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DecodingError(f"damaged errback of a workflow: {error}") from None


def passed_on(errbacks: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """Those of them that the next step has, too."""
    return tuple(each for each in errbacks if each[:1] == _PASSED_ON) if errbacks else ()
