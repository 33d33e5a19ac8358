"""Two releases beside each other: what each writes of messages and records, the other one reads.

The structs below are those of the release before ``terms`` and ``history`` came; they are frozen here. The next release
that appends a field adds its predecessor's.
"""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest

from poolrt.app.app import App
from poolrt.app.options import TaskOptions
from poolrt.app.retrying import attempt_ended, retry_of
from poolrt.message import (
    Enqueue,
    ErrorInfo,
    Message,
    Record,
    decode_message,
    decode_record,
    encode_message,
    encode_record,
)
from poolrt.states import TaskState
from poolrt.terms import Attempt, Gate, Terms, Unique

VERSION = b"\x01"


class OldMessage(msgspec.Struct, frozen=True, array_like=True):
    """The Message of 0.1.0."""

    id: str
    task: str
    payload: bytes
    codec: str = "json"
    queue: str = "default"
    priority: int = 0
    attempt: int = 1
    enqueued_at: float = 0.0
    eta: float | None = None
    expires: float | None = None
    ignore_result: bool = False
    result_ttl: float | None = None
    time_limit: float | None = None
    soft_time_limit: float | None = None
    memory_limit: int | None = None
    function: bytes | None = None
    function_codec: str = ""
    unknown_count: int = 0
    headers: dict[str, str] | None = None
    acks_late: bool = True


class OldErrorInfo(msgspec.Struct, frozen=True, array_like=True):
    """The ErrorInfo of 0.1.0."""

    type: str
    text: str
    traceback: str = ""
    exception: bytes | None = None
    exception_codec: str = ""


class OldRecord(msgspec.Struct, frozen=True, array_like=True):
    """The Record of 0.1.0."""

    state: str
    task: str
    finished_at: float
    value: bytes | None = None
    codec: str = "json"
    error: OldErrorInfo | None = None
    runtime: float = 0.0
    attempt: int = 1
    lost: int = 0
    owner: str = ""
    envelope: bytes | None = None
    status: int | None = None
    peak_memory: int = 0
    stack: str = ""
    report: bytes | None = None


FIELDS: dict[str, Any] = {
    "id": "the-id", "task": "shop.add", "payload": b"[[1],{}]", "codec": "json", "queue": "q", "priority": 4,
    "attempt": 2, "enqueued_at": 1.5, "eta": 2.5, "expires": 9.5, "ignore_result": True, "result_ttl": 60.0,
    "time_limit": 5.0, "soft_time_limit": 4.0, "memory_limit": 2**20, "function": b"f", "function_codec": "x",
    "unknown_count": 3, "headers": {"a": "b"}, "acks_late": False,
}  # fmt: skip
TERMS = Terms(
    "parent", "root", "group", Gate("k", 5.0, 5, 2), Unique("u", 60.0), track_started=True, max_retries=7,
    history=(Attempt(1, 1.0, 0.5, "ValueError", "boom", "inc/0.1"),),
)  # fmt: skip


def encode_old(value: OldMessage | OldRecord) -> bytes:
    """As the release before wrote it."""
    return VERSION + msgspec.msgpack.encode(value)


def decode_old(kind: type[Any], stored: bytes) -> Any:
    """As the release before read it."""
    assert stored.startswith(VERSION)
    return msgspec.msgpack.decode(stored[1:], type=kind)


def test_the_old_message_is_a_beginning_of_this_one() -> None:
    """Fields are only ever appended: names and order of the old ones are those of the new."""
    for old, new in ((OldMessage, Message), (OldRecord, Record), (OldErrorInfo, ErrorInfo)):
        names = [field.name for field in msgspec.structs.fields(new)]
        assert names[: len(msgspec.structs.fields(old))] == [field.name for field in msgspec.structs.fields(old)]


def test_this_release_reads_the_old_ones_messages() -> None:
    """Without terms: no parent, its own root, no gate."""
    message = decode_message(encode_old(OldMessage(**FIELDS)))
    assert message == Message(**FIELDS)
    assert (message.terms, message.root) == (None, "the-id")
    item = Enqueue.of(message)
    assert (item.gate, item.unique) == (None, None)


def test_the_old_release_reads_this_ones_messages() -> None:
    """With all that is new: it reads what it knows, and runs it without the rest."""
    new = encode_message(Message(**FIELDS, terms=TERMS))
    assert decode_old(OldMessage, new) == OldMessage(**FIELDS)


def test_a_retry_of_an_old_message() -> None:
    """A message of the old release that is tried again here has its history from now on, and the old one can run it."""
    old = decode_message(encode_old(OldMessage(**{**FIELDS, "attempt": 1})))
    ended = attempt_ended(old, "ValueError", "boom", 0.5, "inc/0.1", 0)
    again = retry_of(old, TaskOptions(retry_for=(ValueError,)), ValueError, ended)
    assert again is not None
    assert again.terms == Terms(history=ended)
    assert decode_old(OldMessage, encode_message(again)).attempt == 2


@pytest.mark.parametrize("history", [(), (Attempt(1, 1.0, 0.5, "ValueError"),)])
def test_records_both_ways(history: tuple[Attempt, ...]) -> None:
    """A record of either is read by the other; the old one does not see the attempts."""
    known: dict[str, Any] = {
        "task": "shop.add", "finished_at": time.time(), "value": b"5", "runtime": 0.25, "attempt": 2, "lost": 1,
        "owner": "inc/0.1", "envelope": b"e", "status": -9, "peak_memory": 5, "stack": "s", "report": b"r",
    }  # fmt: skip
    new = encode_record(Record(TaskState.FAILED, **known, error=ErrorInfo("T", "x"), history=history))
    old = OldRecord("failed", **known, error=OldErrorInfo("T", "x"))
    assert decode_old(OldRecord, new) == old
    assert decode_record(encode_old(old)) == Record(TaskState.FAILED, **known, error=ErrorInfo("T", "x"))


def test_most_envelopes_are_as_short_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain call costs one byte more than with the old release."""
    app = App("shop", "sqlite:////nowhere/never.db")
    sent: list[Any] = []
    monkeypatch.setattr(app.broker, "enqueue", lambda items: [sent.append(item) is None for item in items])
    app.task(name="shop.add")(lambda x: x).delay(1)
    envelope = sent[0].envelope
    old = decode_old(OldMessage, envelope)
    assert len(envelope) == len(encode_old(old)) + 1
