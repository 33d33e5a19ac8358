"""What the end of a message without a value does to the workflow that it is a part of.

The record of its line's last step is made at once, so that whoever waits is told; the group that it is in fails;
its errbacks are enqueued. Pure, and nothing for messages that are in none. Every Outcome of such an end gets it.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from poolrt.app.canvas.steps import Call, decode_errback, unpacked
from poolrt.message import Enqueue, ErrorInfo, Filled, Message, NewGroup, Outcome, Record, encodable, encode_record
from poolrt.states import TaskState
from poolrt.terms import Slot, Terms

CHORD_ERROR: Final = "ChordError"
"""The name under which a body has failed of which a member failed; see ``errors.ChordError``."""


class Beside(NamedTuple):
    """What an Outcome gets beside its record."""

    follow_ups: tuple[Enqueue, ...] = ()
    groups: tuple[NewGroup, ...] = ()
    filled: Filled | None = None
    also: tuple[tuple[str, bytes], ...] = ()

    def of(self, outcome: Outcome) -> Outcome:
        """The outcome with it."""
        if self is NOTHING:
            return outcome
        return msgspec.structs.replace(
            outcome,
            follow_ups=outcome.follow_ups + self.follow_ups,
            groups=self.groups,
            filled=self.filled,
            also=self.also,
        )


NOTHING: Final = Beside()


def failing(message: Message, record: Record) -> Beside:
    """What the end of a message without a value does, whose ``record`` that is."""
    terms = message.terms
    if terms is None or not (terms.last or terms.slot or terms.errbacks):
        return NOTHING
    also = ((terms.last, encode_record(_of_later(message, record))),) if terms.last else ()
    filled = None
    if terms.slot is not None:
        filled = Filled(terms.slot, encode_record(failure_of(terms.slot, message, record)))
    follow_ups: tuple[Enqueue, ...] = ()
    if terms.errbacks:
        follow_ups = errbacks_of(terms.errbacks, message.id, message.root, record.finished_at)
    return Beside(follow_ups, filled=filled, also=also)


def _of_later(message: Message, record: Record) -> Record:
    """The record of a step that will not come."""
    error = record.error or ErrorInfo(str(record.state), "")
    text = encodable(f"{error.text} (in {message.task}#{message.id}, a step before it)")
    return Record(
        _state_of(record), _task_of_last(message), record.finished_at,
        error=msgspec.structs.replace(error, text=text), owner=record.owner,
    )  # fmt: skip


def _task_of_last(message: Message) -> str:
    """The name of the task whose step will not come; empty if that is the body of a group inside."""
    terms = message.terms or Terms()
    for step in reversed(list(unpacked(terms.follow[-1:]))):
        if isinstance(step, Call) and step.message.id == terms.last:
            return step.message.task
    return ""


def failure_of(slot: Slot, message: Message, record: Record) -> Record:
    """The record of the body of a group of which a member has failed. Which task that is, a member does not know."""
    error = record.error or ErrorInfo(str(record.state), "")
    text = f"member {slot.index} ({message.task}#{message.id}) {record.state}: {error.type}: {error.text}"
    state = TaskState.CANCELLED if record.state is TaskState.CANCELLED else TaskState.FAILED
    return Record(
        state, "", record.finished_at, error=ErrorInfo(CHORD_ERROR, encodable(text), error.traceback),
        owner=record.owner,
    )  # fmt: skip


def _state_of(record: Record) -> TaskState:
    """Dead is who can be tried again as it was: a later step has no message to try."""
    return TaskState.FAILED if record.state is TaskState.DEAD else record.state


def errbacks_of(errbacks: tuple[bytes, ...], failed_id: str, root: str, now: float) -> tuple[Enqueue, ...]:
    """What is enqueued of these errbacks: each is told the id of what has failed."""
    return tuple(Enqueue.of(_errback_of(each, failed_id, root, now)) for each in errbacks)


def _errback_of(encoded: bytes, failed_id: str, root: str, now: float) -> Message:
    call = decode_errback(encoded)
    message, payload = call.message, call.message.payload
    if not call.is_immutable:  # its arguments are JSON: see compiling
        payload = b"".join((b"[[", msgspec.json.encode(failed_id), b"" if payload[2:3] == b"]" else b",", payload[2:]))
    return msgspec.structs.replace(
        message,
        payload=payload,
        enqueued_at=now,
        eta=message.eta if call.countdown is None else now + call.countdown,
        expires=message.expires if call.expires_in is None else now + call.expires_in,
        terms=msgspec.structs.replace(message.terms or Terms(), parent=failed_id, root=root),
    )
