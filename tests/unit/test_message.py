"""Envelopes: they come back as they were, older and newer ones too, and nothing else is taken for one."""

from __future__ import annotations

import os
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolrt.errors import DecodingError
from poolrt.message import (
    Delivery,
    Enqueue,
    ErrorInfo,
    Message,
    Outcome,
    Owner,
    Record,
    decode_message,
    decode_record,
    encodable,
    encode_message,
    encode_record,
    new_task_id,
    record_state,
)
from poolrt.states import TaskState

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
MOMENT = st.floats(0, 2e10)
MESSAGES = st.builds(
    Message,
    id=TEXT,
    task=TEXT,
    payload=st.binary(),
    codec=TEXT,
    queue=TEXT,
    priority=st.integers(0, 9),
    attempt=st.integers(1, 100),
    enqueued_at=MOMENT,
    eta=st.none() | MOMENT,
    expires=st.none() | MOMENT,
    ignore_result=st.booleans(),
    result_ttl=st.none() | MOMENT,
    time_limit=st.none() | MOMENT,
    soft_time_limit=st.none() | MOMENT,
    memory_limit=st.none() | st.integers(0, 2**63),
    function=st.none() | st.binary(),
    function_codec=TEXT,
    unknown_count=st.integers(0, 9),
    headers=st.none() | st.dictionaries(TEXT, TEXT),
)
RECORDS = st.builds(
    Record,
    state=st.sampled_from(TaskState),
    task=TEXT,
    finished_at=MOMENT,
    value=st.none() | st.binary(),
    codec=TEXT,
    error=st.none() | st.builds(ErrorInfo, TEXT, TEXT, TEXT, st.none() | st.binary(), TEXT),
    runtime=MOMENT,
    attempt=st.integers(1, 100),
    lost=st.integers(0, 9),
    owner=TEXT,
    envelope=st.none() | st.binary(),
)
SAMPLE = Message("an-id", "shop.add", b"[[1,2],{}]", headers={"trace": "1"}, function=b"code", function_codec="x")


def fields_of(envelope: bytes) -> list[object]:
    """The raw fields of an envelope."""
    return msgspec.msgpack.decode(envelope[1:])


def envelope_of(fields: list[object], version: int = 1) -> bytes:
    """An envelope with these raw fields."""
    return bytes([version]) + msgspec.msgpack.encode(fields)


@given(MESSAGES)
def test_message_comes_back_as_it_was(message: Message) -> None:
    """Every field of every message survives its envelope."""
    assert decode_message(encode_message(message)) == message


@given(RECORDS)
def test_record_comes_back_as_it_was(record: Record) -> None:
    """Every field of every record survives its stored form."""
    assert decode_record(encode_record(record)) == record
    assert record_state(encode_record(record)) is record.state


def test_newer_fields_are_ignored() -> None:
    """What a later release appends does not keep this one from reading the message (forward compatibility)."""
    newer = envelope_of([*fields_of(encode_message(SAMPLE)), {"of": "release N+1"}, 7])
    assert decode_message(newer) == SAMPLE


@pytest.mark.parametrize("written", range(3, 19))
def test_older_messages_have_fewer_fields(written: int) -> None:
    """A message that was written before a field existed is read with that field's default (backward compatibility)."""
    older = decode_message(envelope_of(fields_of(encode_message(SAMPLE))[:written]))
    assert (older.id, older.task, older.payload) == (SAMPLE.id, SAMPLE.task, SAMPLE.payload)
    for field in msgspec.structs.fields(Message)[written:]:
        assert getattr(older, field.name) == field.default


@pytest.mark.parametrize("decode", [decode_message, decode_record, record_state])
@pytest.mark.parametrize("version", [2, 3, 31])
def test_newer_version_is_refused_by_name(decode: object, version: int) -> None:
    """An envelope of a later version is not guessed at: the error names both versions and what to do."""
    with pytest.raises(DecodingError, match=rf"version {version}, but this poolrt reads up to 1: upgrade"):
        decode(envelope_of([], version))  # type: ignore[operator]


@pytest.mark.parametrize("decode", [decode_message, decode_record, record_state])
@pytest.mark.parametrize(
    ("foreign", "said"),
    [
        (b"", "empty message"),
        (b'{"task": "celery"}', "not a poolrt message"),
        (b"\x80\x05K\x01.", "not a poolrt message"),
        (b"\x00", "not a poolrt message"),
        (b"\x01", "damaged"),
        (b"\x01\xc1", "damaged"),
        (b"\x01" + msgspec.msgpack.encode("text"), "damaged"),
        (b"\x01" + msgspec.msgpack.encode({"id": "x"}), "damaged"),
        (b"\x01" + msgspec.msgpack.encode([1, 2, 3]), "damaged"),
        (b"\x01\x93\xa1\xff\xa1t\xc4\x00", "damaged"),
    ],
)
def test_foreign_bytes_are_refused(decode: object, foreign: bytes, said: str) -> None:
    """Bytes of something else are refused with a DecodingError, whatever they are."""
    with pytest.raises(DecodingError, match=said):
        decode(foreign)  # type: ignore[operator]


def test_truncated_at_every_byte() -> None:
    """No prefix of an envelope is taken for a message."""
    envelope = encode_message(SAMPLE)
    for length in range(len(envelope)):
        with pytest.raises(DecodingError):
            decode_message(envelope[:length])
    with pytest.raises(DecodingError, match="damaged"):
        decode_message(envelope + b"\x00")


def test_endless_nesting_is_refused() -> None:
    """An unknown field nested deeper than the decoder goes is a damaged message, not a crash of its reader."""
    fields = fields_of(encode_message(SAMPLE))
    packed = b"".join(msgspec.msgpack.encode(field) for field in fields)
    deep = b"\x01" + bytes([0xDC, 0, len(fields) + 1]) + packed + b"\x91" * 200_000 + b"\xc0"
    with pytest.raises(DecodingError, match="damaged envelope"):
        decode_message(deep)


@given(st.binary())
def test_random_bytes_never_raise_anything_else(noise: bytes) -> None:
    """Whatever stands in the queue, reading it gives a message or a DecodingError."""
    for decode in (decode_message, decode_record, record_state):
        for envelope in (noise, b"\x01" + noise):
            try:
                decode(envelope)
            except DecodingError:
                pass


@given(st.integers(0, 10_000), st.binary(min_size=1, max_size=1))
def test_a_changed_byte_never_raises_anything_else(place: int, byte: bytes) -> None:
    """A damaged envelope gives a message or a DecodingError."""
    envelope = bytearray(encode_message(SAMPLE))
    envelope[place % len(envelope)] = byte[0]
    try:
        decode_message(bytes(envelope))
    except DecodingError:
        pass


def test_task_ids_are_uuid7_and_grow() -> None:
    """An id is a UUID of version 7 whose time is now, and later milliseconds sort after earlier ones."""
    made = []
    for _ in range(5):
        before = time.time_ns() // 1_000_000
        parsed = uuid.UUID(text := new_task_id())
        assert (parsed.version, parsed.variant, str(parsed)) == (7, uuid.RFC_4122, text)
        assert before <= parsed.int >> 80 <= time.time_ns() // 1_000_000
        made.append(text)
        while time.time_ns() // 1_000_000 == parsed.int >> 80:
            pass
    assert made == sorted(made)
    assert len({new_task_id() for _ in range(2000)}) == 2000


def test_reprs_never_show_the_payload() -> None:
    """Messages and outcomes are pasted into bug reports: they name the task, never its arguments or value."""
    message = Message("the-id", "shop.add", b"SECRET", queue="mail", priority=3, attempt=2)
    assert repr(message) == "<Message shop.add the-id queue=mail priority=3 attempt=2>"
    delivery = Delivery(encode_message(message), 1, 2, "the-id", 0, suspect=False)
    outcome = Outcome(delivery, TaskState.SUCCEEDED, b"SECRET", follow_ups=(Enqueue.of(message),))
    assert repr(outcome) == "<Outcome the-id succeeded follow_ups=1>"
    assert repr(Outcome(delivery, None)) == "<Outcome the-id continues follow_ups=0>"


def test_enqueue_carries_what_a_broker_needs() -> None:
    """A broker places a message without decoding it."""
    message = Message("i", "t", b"", queue="mail", priority=4, eta=5.0)
    assert Enqueue.of(message) == Enqueue("i", encode_message(message), "mail", 4, 5.0, "t")


def test_owner_is_written_as_in_the_protocol() -> None:
    """An owner reads ``incarnation/slot.generation``."""
    assert str(Owner("abc", 3, 7)) == "abc/3.7"


@given(st.text())
def test_encodable_text_always_encodes(text: str) -> None:
    """Lone surrogates become escapes, and other text stays as it is."""
    written = encodable(text)
    written.encode()
    assert (written == text) is not any("\ud800" <= char <= "\udfff" for char in text)


def test_ids_are_unique_over_a_fork_and_threads() -> None:
    """What a process drew ahead is no child's, and no other thread's."""
    new_task_id()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writer, "\n".join(new_task_id() for _ in range(300)).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        drawn = file.read().split()
    os.waitpid(pid, 0)
    with ThreadPoolExecutor(8) as threads:
        drawn += threads.map(lambda _: new_task_id(), range(3000))
    assert len({each[9:] for each in drawn}) == 3300, "the time apart, they differ in what was drawn"
