"""The end of a cancelled message: of one that waited, of one whose run was killed, or of one that was to go on."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

from poolrt.app.canvas.failing import failing
from poolrt.errors import DecodingError
from poolrt.message import Enqueue, ErrorInfo, Message, Outcome, Record, decode_message, encode_record
from poolrt.states import TaskState

if TYPE_CHECKING:
    from poolrt.message import Delivery


def cancelled(
    delivery: Delivery, *, history: str = "", owner: str = "", runtime: float = 0.0, status: int | None = None,
    peak_memory: int = 0,
) -> Outcome:  # fmt: skip
    """What a cancelled message leaves.

    Args:
        delivery: the message; its fence says who holds it, or that nobody does.
        history: how far it had come; by default as far as that is known of one that waits.
        owner: who ran it.
        runtime: for how many seconds.
        status: how its child ended.
        peak_memory: the highest resident size that its child had, in bytes.
    """
    try:
        message = decode_message(delivery.envelope)
    except DecodingError:  # one that nobody can read may be cancelled too
        message = Message(delivery.task_id, "", b"")
    now = time.time()
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(now))
    record = Record(
        TaskState.CANCELLED, message.task, now, attempt=message.attempt, lost=delivery.lost, envelope=delivery.envelope,
        error=ErrorInfo("Cancelled", f"cancelled at {when} UTC: {history or _waiting(delivery, message)}"),
        owner=owner, runtime=runtime, status=status, peak_memory=peak_memory,
        history=message.terms.history if message.terms is not None else (),
    )  # fmt: skip
    return failing(message, record).of(Outcome(delivery, TaskState.CANCELLED, encode_record(record), message.ttl))


def going_on(delivery: Delivery, again: Message) -> Outcome:
    """The message goes on as ``again``; if it was to be cancelled it ends, as if that had come just after this."""
    item = Enqueue.of(again)
    waiting = msgspec.structs.replace(delivery, envelope=item.envelope, lost=0, suspect=False)
    return Outcome(delivery, None, follow_ups=(item,), if_cancelled=cancelled(waiting))


def _waiting(delivery: Delivery, message: Message) -> str:
    """Whether a message that waits has ever started, as far as anybody knows."""
    if delivery.lost:
        return f"it had started; deliveries lost: {delivery.lost}"
    if delivery.suspect:
        return "a node that died had held it, and may have started it"
    if message.attempt > 1:
        return f"attempt {message.attempt - 1} had failed, the next had not started"
    return "it had not started"
