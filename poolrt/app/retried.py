"""The message of a task that ended, as it was, to be enqueued once more under its id."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import msgspec

from poolrt.app.retrying import MAX_ATTEMPT_TEXT
from poolrt.message import Enqueue, decode_message, decode_record
from poolrt.terms import MAX_HISTORY, NO_TERMS, Attempt

if TYPE_CHECKING:
    from poolrt.brokers.base import Broker
    from poolrt.message import Message, Record


def retry_ended(broker: Broker, task_id: str, now: float) -> str:
    """Enqueue the ended task ``task_id`` again; why not, or an empty text. ``now``: wall time.

    Raises:
        DecodingError: the record, or the message in it, cannot be read here.
    """
    found = broker.find(task_id)
    if found is None:
        return "it is unknown: never enqueued, or past its TTL"
    if found.record is None:
        return f"it is {found.state} and has not ended"
    record = decode_record(found.record)
    if record.envelope is None:
        return f"it {record.state}, and its message is not kept"
    item = Enqueue.of(retried(record, now))
    if broker.retry(item):
        return ""
    holder = broker.unique_holder(item.unique.key) if item.unique is not None else None
    return f"its unique key is held by {holder}" if holder else "it was retried or forgotten just then"


def retried(record: Record, now: float) -> Message:
    """The message that is kept in ``record``, from its first attempt on: due at once, and with as much time to start as
    it had. The attempts so far stay in its history."""
    message = decode_message(cast("bytes", record.envelope))
    error = record.error
    cause, text = (error.type, error.text) if error is not None else (str(record.state), "")
    last = Attempt(record.attempt, record.finished_at, record.runtime, cause, text[:MAX_ATTEMPT_TEXT], record.owner)
    until = None if message.expires is None else now + max(message.expires - message.enqueued_at, 0.0)
    terms = message.terms or NO_TERMS
    history = (*terms.history, last)[-MAX_HISTORY:]
    return msgspec.structs.replace(
        message, attempt=1, enqueued_at=now, eta=None, expires=until, unknown_count=0,
        terms=msgspec.structs.replace(terms, history=history),
    )  # fmt: skip
