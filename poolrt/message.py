"""What travels: the Message and its versioned envelope, the Delivery, the Outcome and the Record.

    producer          Message --encode--> bytes ─┐
    ------------------------------------------- broker -------------------------------------------
    child     Delivery(bytes, fence) --decode--> Message --run--> Outcome(Record, follow-ups)
    producer          AsyncResult <--decode-- Record

An envelope is one version byte and a msgpack array. Fields are only ever appended, so release N reads
what release N-1 wrote; an envelope of a newer version is refused by name, never guessed at.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Final, NamedTuple, TypeVar

import msgspec

from poolrt.errors import DecodingError
from poolrt.states import TaskState
from poolrt.terms import Attempt, Gate, Slot, Terms, Unique

T = TypeVar("T")

ENVELOPE_VERSION: Final = 1
LOWEST_PRIORITY: Final = 0
HIGHEST_PRIORITY: Final = 9
MAX_ID_BYTES: Final = 120
"""A task id must fit the board row, so that a dead child's row can name what it ran."""

_PREFIX = bytes([ENVELOPE_VERSION])


RESULT_TTL: Final = 86_400.0
"""Seconds a record is kept whose message does not say."""
DEAD_TTL: Final = 7 * 86_400.0
"""Seconds a given-up message is kept for an operator."""
ENDLESS: Final = 1e9
"""A time limit or TTL of 30 years is none, and does not fit the board."""


_tails: Iterator[str] = iter(())
"""Random ends of ids, each used once, also by several threads; none crosses a fork."""


def _fresh_tail() -> str:
    """Make 256 tails at once, and give one: a system call for each would be half of what an id costs."""
    global _tails  # noqa: PLW0603  a thread that does the same at the same time only makes others
    drawn = os.urandom(2560).hex()
    tails = [drawn[at : at + 20] for at in range(0, len(drawn), 20)]
    _tails = iter(tails[1:])
    return tails[0]


def _forget_tails() -> None:
    global _tails  # noqa: PLW0603  see above
    _tails = iter(())


os.register_at_fork(after_in_child=_forget_tails)


def new_task_id() -> str:
    """A new id: UUID version 7, whose leading 48 bits are the time in ms, so that indexes grow at their end."""
    milliseconds = time.time_ns() // 1_000_000
    tail = next(_tails, "") or _fresh_tail()
    return (
        f"{milliseconds >> 16 & 0xFFFFFFFF:08x}-{milliseconds & 0xFFFF:04x}-7{tail[0:3]}-"
        f"{'89ab'[int(tail[3], 16) & 3]}{tail[4:7]}-{tail[7:19]}"
    )


def encodable(text: str) -> str:
    """``text`` with its lone surrogates (``os.fsdecode`` makes them of odd file names) written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


class Message(msgspec.Struct, frozen=True, array_like=True):
    """One request to run a task.

    Invariant: new fields are appended, with a default, and never reordered (see the envelope above).
    """

    id: str
    task: str
    payload: bytes
    """The encoded ``(args, kwargs)``; see ``codec``."""
    codec: str = "json"
    queue: str = "default"
    priority: int = 0
    """0 to 9; 9 runs first."""
    attempt: int = 1
    """1 for the first execution; a retry is the next attempt of the same id."""
    enqueued_at: float = 0.0
    """Wall time, in seconds since the epoch."""
    eta: float | None = None
    """Wall time before which it must not start."""
    expires: float | None = None
    """Wall time after which it must not start."""
    ignore_result: bool = False
    result_ttl: float | None = None
    """Seconds its record is kept; None: the app's default."""
    time_limit: float | None = None
    soft_time_limit: float | None = None
    memory_limit: int | None = None
    function: bytes | None = None
    """The function and its options by value, for a task that a worker cannot import; trusted brokers only."""
    function_codec: str = ""
    unknown_count: int = 0
    """How many nodes handed it back because they do not know its task."""
    headers: dict[str, str] | None = None
    acks_late: bool = True
    """False: a task whose child died while running it has failed, and is not delivered again."""
    terms: Terms | None = None

    @property
    def root(self) -> str:
        """The id of the first task of its line, which may be its own."""
        return (self.terms.root if self.terms else "") or self.id

    @property
    def ttl(self) -> float:
        """Seconds its record is kept. What came from outside may be NaN, or for ever."""
        ttl = self.result_ttl
        return ttl if ttl is not None and 0 <= ttl < ENDLESS else RESULT_TTL

    def __repr__(self) -> str:
        """Short, for bug reports: never the arguments."""
        return f"<Message {self.task} {self.id} queue={self.queue} priority={self.priority} attempt={self.attempt}>"


_encoder = msgspec.msgpack.Encoder()
_message_decoder = msgspec.msgpack.Decoder(Message)


def encode_message(message: Message) -> bytes:
    """The envelope of ``message``."""
    return _PREFIX + _encoder.encode(message)


def decode_message(envelope: bytes) -> Message:
    """The message in ``envelope``.

    Raises:
        DecodingError: not an envelope, damaged, or of a newer version (named in the text).
    """
    if not isinstance(envelope, bytes):
        raise DecodingError(f"not a poolrt message, but a {type(envelope).__name__}")
    if not envelope.startswith(_PREFIX):
        raise DecodingError(_why_unreadable(envelope))
    try:
        return _message_decoder.decode(envelope[1:])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DecodingError(f"damaged envelope: {error}") from None


def _why_unreadable(envelope: bytes) -> str:
    if not envelope:
        return "empty message"
    if ENVELOPE_VERSION < envelope[0] < 32:
        return (
            f"envelope version {envelope[0]}, but this poolrt reads up to {ENVELOPE_VERSION}: "
            "upgrade this node before the ones that enqueue"
        )
    return f"not a poolrt message (it starts with {envelope[:8]!r})"


class Enqueue(NamedTuple):
    """A message with what a broker must know to place it, so that brokers never decode envelopes."""

    id: str
    envelope: bytes
    queue: str
    priority: int
    eta: float | None
    """Wall time before which it stays delayed."""
    task: str = ""
    """The task's name, so that a node can leave tasks it does not know to others."""
    gate: Gate | None = None
    unique: Unique | None = None
    last: str = ""
    """The id of the last step that follows it: it is ``planned`` from now on, and who waits for it waits."""

    @classmethod
    def of(cls, message: Message) -> Enqueue:
        """The message, encoded and ready to be placed."""
        placed = cls(message.id, encode_message(message), message.queue, message.priority, message.eta, message.task)
        terms = message.terms
        return placed if terms is None else placed._replace(gate=terms.gate, unique=terms.unique, last=terms.last)


class NewGroup(msgspec.Struct, frozen=True, gc=False):
    """A group whose members are counted by the broker, and what is enqueued when all of them have succeeded."""

    id: str
    size: int
    """Members 0 to ``size`` - 1, each a `Slot`; at least one."""
    body: Enqueue
    ttl: float
    """Seconds that it is known, from its making."""
    outer: Slot | None = None
    """The slot that ``body`` fills in another group: if this one fails, that one does."""
    errbacks: tuple[Enqueue, ...] = ()
    """Enqueued once, if it fails."""
    collects: bool = False
    """Whether a member that failed fills its slot, too: ``body`` is then given its error as its result."""


class Filled(msgspec.Struct, frozen=True, gc=False):
    """What the end of a member does to its slot."""

    slot: Slot
    failure: bytes | None = None
    """None: it succeeded. Else the encoded Record of the body and of the bodies of outer groups, which fail with it."""


class Owner(NamedTuple):
    """Who holds deliveries: one child of one start of one node (protocol.md, rule 1)."""

    incarnation: str
    slot: int
    generation: int

    def __str__(self) -> str:
        return f"{self.incarnation}/{self.slot}.{self.generation}"


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """A message under an owner's lease; ``(owner, n, i)`` is the fence: a settle with a stale one does nothing."""

    envelope: bytes
    n: int
    """The number of the owner's reserve that took it; never reused."""
    i: int
    """Names the delivery inside its reserve (SQLite: its row)."""
    task_id: str
    lost: int
    """How many children died while running it."""
    suspect: bool
    """It was held by a node that died, and nobody saw whether it ran: deliver it alone."""


class ErrorInfo(msgspec.Struct, frozen=True, array_like=True):
    """Why a task has no value."""

    type: str
    """Name of the exception class, or of the cause (``WorkerLost``, ``TimeLimitExceeded``, …)."""
    text: str
    traceback: str = ""
    exception: bytes | None = None
    """The exception itself by cloudpickle, where the broker is trusted; else None."""
    exception_codec: str = ""


class Record(msgspec.Struct, frozen=True, array_like=True):
    """What is kept of a task that ended. Appended to, never reordered, like the Message."""

    state: TaskState
    task: str
    finished_at: float
    """Wall time."""
    value: bytes | None = None
    codec: str = "json"
    error: ErrorInfo | None = None
    runtime: float = 0.0
    """Seconds the last attempt ran."""
    attempt: int = 1
    lost: int = 0
    owner: str = ""
    envelope: bytes | None = None
    """The message as it was, for failed, dead, expired and cancelled tasks: they can be retried as they were."""
    status: int | None = None
    """How its child ended, if it did: the exit code, or minus the signal."""
    peak_memory: int = 0
    """The highest resident size that its child had reached, in bytes; 0 where it is not known."""
    stack: str = ""
    """The last Python stacks of its child, where the interpreter could still give them."""
    report: bytes | None = None
    """What else is known of the end of its child; see hygiene.crash_report."""
    history: tuple[Attempt, ...] = ()
    """The attempts before the last one."""


_record_decoder = msgspec.msgpack.Decoder(Record)


def encode_record(record: Record) -> bytes:
    """The stored form of ``record``."""
    return _PREFIX + _encoder.encode(record)


def decode_record(stored: bytes) -> Record:
    """The record in ``stored``; raises DecodingError when it is not one this poolrt can read."""
    return _decoded(stored, _record_decoder)


class _RecordHead(msgspec.Struct, frozen=True, array_like=True):
    state: TaskState


_head_decoder = msgspec.msgpack.Decoder(_RecordHead)


def record_state(stored: bytes) -> TaskState:
    """The state in a stored record, of which nothing else is read; raises DecodingError as ``decode_record``."""
    return _decoded(stored, _head_decoder).state


def _decoded(stored: bytes, decoder: msgspec.msgpack.Decoder[T]) -> T:
    if not stored.startswith(_PREFIX):
        raise DecodingError(_why_unreadable(stored))
    try:
        return decoder.decode(memoryview(stored)[1:])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DecodingError(f"damaged record: {error}") from None


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """All that must happen when a delivery ends, as one value; ``Broker.settle`` makes it durable atomically.

    ``state`` None means the task goes on: its retry is among the follow-ups.
    """

    delivery: Delivery
    state: TaskState | None
    record: bytes | None = None
    """The encoded Record to keep, or None to keep nothing."""
    ttl: float = 86_400.0
    """Seconds to keep the record."""
    follow_ups: tuple[Enqueue, ...] = ()
    groups: tuple[NewGroup, ...] = ()
    """Made in the same step, before the follow-ups, which may be their members."""
    filled: Filled | None = None
    also: tuple[tuple[str, bytes], ...] = ()
    """Ids that end with it, each with its encoded Record, kept for ``ttl`` seconds unless there is one: those of later
    steps that will not come. Who waits for them is told."""
    if_cancelled: Outcome | None = None
    """Of one that goes on: what happens instead, if word was left that the delivery is to be cancelled."""

    def __repr__(self) -> str:
        """Short, for bug reports: never the arguments or the value."""
        state = self.state or "continues"
        return f"<Outcome {self.delivery.task_id} {state} follow_ups={len(self.follow_ups)}>"


class Requeue(NamedTuple):
    """The other verdict on what a dead child ran: queued again after ``delay`` seconds, as one more lost delivery."""

    delivery: Delivery
    delay: float
