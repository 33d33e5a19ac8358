"""What goes between this process and the scripts: one msgpack blob each way, so that neither side parses item by item.

A stored message is ``[seq, lost, suspect, priority, since, queue, task, id, envelope]``; the server writes ``seq``, and
anew the next three when they change; the rest is made here once and never touched again (lua/parts).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import msgspec

from poolrt.brokers.redis.channel import Argument
from poolrt.errors import BrokerError, ConfigurationError
from poolrt.hygiene.findings import LeakRow
from poolrt.message import (
    HIGHEST_PRIORITY,
    LOWEST_PRIORITY,
    Delivery,
    Enqueue,
    NewGroup,
    Outcome,
    Requeue,
    record_state,
)
from poolrt.states import TaskState
from poolrt.terms import Slot

_encode = msgspec.msgpack.Encoder().encode


class Stored(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A message as the server keeps it."""

    seq: int
    lost: int
    suspect: int
    priority: int
    since: float
    """Wall time from which it may run."""
    queue: str
    task: str
    id: str
    envelope: bytes


class Kept(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A record as the server keeps it."""

    state: TaskState
    lost: int
    record: bytes


_stored_decoder = msgspec.msgpack.Decoder(Stored)
_kept_decoder = msgspec.msgpack.Decoder(Kept)
_stored_list_decoder = msgspec.msgpack.Decoder(list[Stored])

_RANKS: Final = [(HIGHEST_PRIORITY - priority) << 48 for priority in range(HIGHEST_PRIORITY + 1)]
"""Where the messages of a priority begin in a queue's order; the number of the message is added."""
_COUNTS: Final = [bytes((0, 0, priority)) for priority in range(HIGHEST_PRIORITY + 1)]
"""lost, suspect and priority of a new message, as msgpack writes them."""

Item = tuple[object, ...]
"""id, queue, rank, eta, tail: the stored message behind its ``seq``; then, if there is any, the gate, what is unique,
and the last step that follows."""


def _text(data: bytes) -> msgspec.Raw:
    """Bytes as a msgpack text, whatever they are: the msgpack of the server's Lua knows no binaries."""
    return msgspec.Raw(b"\xdb" + len(data).to_bytes(4, "big") + data)


def items_of(messages: Iterable[Enqueue], now: float) -> list[Item]:
    """The messages as ``place`` of lua/parts takes them; raises ConfigurationError for what could not be kept."""
    return [
        (
            each.id,
            _inner_queue(each),
            _rank(each),
            False if each.eta is None else float(each.eta),
            _text(_tail(each, now)),
            *(() if each.gate is None and each.unique is None and not each.last else _terms(each)),
        )
        for each in messages
    ]


def _inner_queue(message: Enqueue) -> str:
    """The queue that the server keeps it in: behind a gate it is one of the gate's own (lua/parts/gates.lua)."""
    return message.queue if message.gate is None else f"{message.queue}\0{message.gate.key}"


def _terms(message: Enqueue) -> tuple[object, object, object]:
    gate, unique = message.gate, message.unique
    return (
        gate is not None and (gate.rate, gate.burst, gate.slots),
        unique is not None and (unique.key, unique.seconds),
        message.last or False,
    )


def _rank(message: Enqueue) -> int:
    if not LOWEST_PRIORITY <= message.priority <= HIGHEST_PRIORITY:
        raise ConfigurationError(f"priority {message.priority!r}: write {LOWEST_PRIORITY} to {HIGHEST_PRIORITY}")
    return _RANKS[message.priority]


def _tail(message: Enqueue, now: float) -> bytes:
    since = now if message.eta is None else max(now, message.eta)
    rest = _encode((since, _inner_queue(message), message.task, message.id, message.envelope))
    return _COUNTS[message.priority] + rest[1:]  # without the array's head


def enqueue_arguments(messages: Sequence[Enqueue], groups: Sequence[NewGroup], now: float) -> tuple[Argument, ...]:
    """The last arguments of lua/enqueue.lua; raises BrokerError."""
    with _storable():
        if groups:
            return _encode(items_of(messages, now)), _encode(_new_groups(groups, now))
        message = messages[0] if len(messages) == 1 else None
        if message is not None and _is_plain(message):
            return message.id, message.queue, _rank(message), _tail(message, now)
        return (_encode(items_of(messages, now)),)


def _is_plain(message: Enqueue) -> bool:
    return message.eta is None and message.gate is None and message.unique is None and not message.last


def items_blob(messages: Iterable[Enqueue], now: float) -> bytes:
    """The messages as ``place`` of lua/parts takes them, packed; raises BrokerError."""
    with _storable():
        return _encode(items_of(messages, now))


@contextlib.contextmanager
def _storable() -> Iterator[None]:
    try:
        yield
    except (TypeError, ValueError, OverflowError) as error:
        raise BrokerError(f"a message cannot be stored: {error}") from error


def ending_of(outcome: Outcome, now: float) -> tuple[object, ...]:
    """What is to be done beside ending the delivery, as ``finish`` of lua/parts takes it: state, end of the record
    as text (a number would be written out anew by the server), record, follow-ups; then, if there is any, what instead
    if it was cancelled, and what it does to workflows."""
    record = b""
    if outcome.record is not None:
        if outcome.state is None:
            raise ValueError(f"{outcome!r} has a record but no final state")
        record = _encode((outcome.state, outcome.delivery.lost, outcome.record))
    follow_ups = items_of(outcome.follow_ups, now) if outcome.follow_ups else False
    ending = outcome.state or "", f"{now + outcome.ttl:.3f}", _text(record), follow_ups
    instead, filled = outcome.if_cancelled, outcome.filled
    if not (filled or outcome.also or outcome.groups):
        return ending if instead is None else (*ending, ending_of(instead, now))
    also = [(task_id, kept_of(stored)) for task_id, stored in outcome.also]
    slot = filled is not None and (*_slot(filled.slot), filled.failure is not None and kept_of(filled.failure))
    return *ending, instead is not None and ending_of(instead, now), (also, _new_groups(outcome.groups, now), slot)


def kept_of(record: bytes) -> tuple[str, msgspec.Raw]:
    """The record of what was never enqueued, as lua/parts/workflows.lua keeps it."""
    state = record_state(record)
    return state, _text(_encode((state, 0, record)))


def _new_groups(groups: Iterable[NewGroup], now: float) -> list[tuple[object, ...]]:
    return [
        (
            each.id,
            each.size,
            each.ttl,
            [task_id for task_id in (each.body.id, each.body.last) if task_id],
            _text(_encode(items_of([each.body], now))),
            _text(_encode(items_of(each.errbacks, now))),
            each.outer is not None and _slot(each.outer),
            int(each.collects),
        )
        for each in groups
    ]


def _slot(slot: Slot) -> tuple[str, int]:
    return slot.group, slot.index


Group = tuple[int, int, int]
"""The number of a reserve, and the first and last of some places in it."""


def groups_of(deliveries: Iterable[Delivery]) -> list[Group]:
    """Deliveries by the reserve that took them, as ``take_out`` of lua/parts/holding.lua wants them; in their order."""
    groups: list[Group] = []
    n = first = following = -1
    for delivery in deliveries:
        if delivery.i != following or delivery.n != n:
            if following >= 0:
                groups.append((n, first, following - 1))
            n = delivery.n
            first = following = delivery.i
        following += 1
    if following >= 0:
        groups.append((n, first, following - 1))
    return groups


def outcomes_blob(outcomes: Sequence[Outcome], now: float) -> bytes:
    """The outcomes as lua/settle.lua takes them: first those that only end their delivery."""
    if not outcomes:
        return b""
    plain, full, endings = [], [], []
    for outcome in outcomes:
        if (
            outcome.record is None and not outcome.follow_ups and outcome.state is not None
            and outcome.filled is None and not outcome.also and not outcome.groups
        ):  # fmt: skip
            plain.append(outcome.delivery)
        else:
            full.append(outcome.delivery)
            endings.append(ending_of(outcome, now))
    return _encode((groups_of(plain) + groups_of(full), endings))


def verdicts_blob(verdicts: Sequence[Outcome | Requeue], now: float) -> bytes:
    """The verdicts as ``end_owner`` of lua/parts/owners.lua takes them."""
    return _encode([_verdict(verdict, now) for verdict in verdicts])


def _verdict(verdict: Outcome | Requeue, now: float) -> tuple[object, ...]:
    held = verdict.delivery
    if isinstance(verdict, Outcome):
        return held.n, held.i, held.task_id, ending_of(verdict, now), False
    return held.n, held.i, held.task_id, False, now + verdict.delay if verdict.delay > 0 else False


def blob(value: object) -> bytes:
    """``value`` as a script unpacks it."""
    return _encode(value)


def delivery_of(stored: Stored, n: int, i: int) -> Delivery:
    """The delivery ``(n, i)`` of a stored message."""
    return Delivery(stored.envelope, n, i, stored.id, stored.lost, stored.suspect != 0)


def read_stored(value: bytes) -> Stored:
    """The message in ``value``; raises msgspec.DecodeError."""
    return _stored_decoder.decode(value)


def is_readable(value: bytes) -> bool:
    """Whether ``value`` is a stored message."""
    try:
        _stored_decoder.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return True


def is_record(value: bytes) -> bool:
    """Whether ``value`` is a record as it is kept."""
    try:
        _kept_decoder.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return True


def read_kept(value: bytes) -> Kept:
    """The record in ``value``; raises msgspec.DecodeError."""
    return _kept_decoder.decode(value)


_leak_decoder = msgspec.msgpack.Decoder(LeakRow)


def leak_arguments(rows: Iterable[LeakRow]) -> Iterator[bytes]:
    """Field and value of each row, as lua/note_leaks.lua takes them."""
    for row in rows:
        yield _encode(row.key)
        yield _encode(row)


def read_leaks(values: Iterable[bytes]) -> Iterator[LeakRow]:
    """The rows in these values; one of a kind that a newer poolrt knows, or with a text that is none, is left out."""
    for value in values:
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
            yield _leak_decoder.decode(value)


def read_reply(reply: Sequence[Any]) -> tuple[int, int, list[Stored]]:
    """What lua/settle.lua says: how many were stale, whether there is more, and what was reserved; DecodeError."""
    stored = reply[2:]
    return reply[0], reply[1], _stored_list_decoder.decode(b"".join((b"\xdc", len(stored).to_bytes(2), *stored)))
