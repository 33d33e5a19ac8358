"""What a report says, and what it never says."""

from __future__ import annotations

import signal

import msgspec
import pytest

from poolrt.codec import JSON, PICKLE, pickle
from poolrt.hygiene.crash_report import (
    CrashReport,
    as_text,
    describe,
    describe_call,
    encode_report,
    report_of,
    sparkline,
)
from poolrt.message import ErrorInfo, Message, Record, decode_record, encode_record
from poolrt.states import TaskState

MIB = 1 << 20
REPORT = CrashReport(
    1_700_000_000.0, 4242, "poolrt, for the cause above", ((2.0, 20 * MIB), (1.0, 60 * MIB), (0.1, 100 * MIB)),
    {"socket": 3, "file": 2}, {"10.0.0.5:5432": 2, "10.0.0.6:6379": 1}, True, 14, b"half a line\nthe last\n",
    b"\x1b[31mred\xff\n",
)  # fmt: skip


def a_record(report: bytes | None, **changes: object) -> Record:
    record = Record(
        TaskState.FAILED, "shop.resize", 1_700_000_000.0, error=ErrorInfo("TimeLimitExceeded", "ran 3 s"), runtime=3.0,
        attempt=2, lost=1, owner="inc/3.1", status=-signal.SIGKILL, peak_memory=100 * MIB,
        stack='  File "tasks.py", line 3 in resize', report=report,
    )  # fmt: skip
    return msgspec.structs.replace(record, **changes)


def test_the_text():
    """One fact a line, blocks below their names, and nothing that a terminal would obey."""
    assert as_text(describe(a_record(encode_report(REPORT)))).splitlines() == [
        "task      shop.resize",
        "state     failed",
        "cause     TimeLimitExceeded: ran 3 s",
        "killed by poolrt, for the cause above",
        "exit      SIGKILL",
        "run       3.000 s, attempt 2, lost 1",
        "child     inc/3.1, pid 4242",
        "memory    at most 100.0 MiB",
        "growth    ▁▅█ 20.0 MiB to 100.0 MiB in the last 1.9 s",
        "open      5 descriptors: socket 3, file 2",
        "peers     10.0.0.5:5432 ×2, 10.0.0.6:6379",
        "stack",
        '    File "tasks.py", line 3 in resize',
        "stdout",
        "  half a line",
        "  the last",
        "stderr",
        "  \\x1b[31mred\ufffd",
    ]


def test_a_crash_has_what_it_can_have():
    """Gone before anybody could look: the row's number stands in for the descriptors, and there are no peers."""
    text = as_text(describe(a_record(encode_report(CrashReport(1.0, 7, lowest_free=14)), status=3, stack="")))
    assert "exit      code 3" in text
    assert "open      about 14 descriptors before it ran" in text
    assert not {"peers", "growth", "stack", "stdout", "killed by"} & {line[:9].strip() for line in text.splitlines()}


def test_many_peers_are_counted():
    """Ten are named."""
    report = CrashReport(1.0, 7, kinds={"socket": 30}, peers={f"10.0.0.{n}:1": 1 for n in range(30)}, complete=False)
    text = as_text(describe(a_record(encode_report(report))))
    assert "10.0.0.9:1 and 20 more" in text
    assert "socket 30, and more that were not looked at" in text


def test_a_record_of_the_release_before_has_no_report():
    """Its array is shorter: it is read, described, and says what it has."""
    fields = msgspec.msgpack.decode(encode_record(a_record(None))[1:])
    stored = encode_record(a_record(None))[:1] + msgspec.msgpack.encode(fields[:-1])
    record = decode_record(stored)
    assert record == a_record(None)
    assert report_of(record) is None
    assert "cause     TimeLimitExceeded: ran 3 s" in as_text(describe(record))


def test_a_report_of_a_newer_release_is_read():
    """Fields that are appended later are passed over, and missing ones have their defaults."""
    fields = msgspec.msgpack.decode(encode_report(REPORT))
    newer = msgspec.msgpack.encode([*fields, {"more": 1}])
    assert report_of(a_record(newer)) == REPORT
    assert report_of(a_record(msgspec.msgpack.encode(fields[:2]))) == CrashReport(1_700_000_000.0, 4242)


@pytest.mark.parametrize("damaged", [b"", b"\xc1", b"\x91\xa1x"])
def test_a_damaged_report_hides_no_record(damaged):
    """Whatever was stored, the record's own facts are shown."""
    assert report_of(a_record(damaged)) is None
    assert "task      shop.resize" in as_text(describe(a_record(damaged)))


@pytest.mark.parametrize(("values", "bars"), [([5], "▁"), ([3, 3], "▁▁"), ([0, 7], "▁█"), ([10, 20, 30], "▁▅█")])
def test_sparkline(values, bars):
    """From the lowest to the highest; a flat line is low."""
    assert sparkline(values) == bars


# ---- arguments

SECRET = "s3cret-t0ken"


def test_arguments_are_told_by_type_and_size():
    """Names, types and sizes; no value, at whatever depth."""
    payload = msgspec.json.encode(([SECRET, 7, [SECRET], None, True], {"token": SECRET, "opts": {"k": SECRET}}))
    message = Message("id", "shop.pay", payload, JSON)
    said = describe_call(message, trusted=True)
    assert said == "shop.pay(<str 12>, <int>, <list 1>, <NoneType>, <bool>, token=<str 12>, opts=<dict 1>)"
    assert SECRET in describe_call(message, trusted=False, show=True)


def test_long_values_are_cut():
    """With the values wanted, each has its bound."""
    message = Message("id", "t", msgspec.json.encode((["x" * 5000], {})), JSON)
    assert len(describe_call(message, trusted=True, show=True)) < 300


class Bomb:
    """Unpickling it is an error that a test sees."""

    def __reduce__(self):
        return exec, ("raise RuntimeError('unpickled')",)


def test_a_pickled_call_is_not_unpickled_to_hide_it():
    """That would run its sender's code; only whoever wants the values, from a trusted broker, runs it."""
    message = Message("id", "t", pickle(([Bomb()], {}), "a call"), PICKLE)
    assert describe_call(message, trusted=True).startswith("t(… pickled, ")
    assert "unpickled" in describe_call(message, trusted=True, show=True)
    assert "not trusted" in describe_call(message, trusted=False, show=True)


@pytest.mark.parametrize("payload", [b"", b"{", b"7", b"[1]", b"[1,2]", b"[[],[]]", b'"\x1b[31m"'])
def test_a_foreign_payload_is_no_error(payload):
    """Whatever a foreign producer wrote, one line comes of it."""
    said = describe_call(Message("id", "t", payload, JSON), trusted=False)
    assert said.startswith("t(")
    assert said.isprintable()


def test_a_value_whose_repr_breaks(monkeypatch):
    """A value from a pickle may have any repr."""
    from poolrt.hygiene.crash_report import _value

    class Broken:
        def __repr__(self):
            raise ValueError

    assert _value(Broken()) == "<its repr raised ValueError>"
