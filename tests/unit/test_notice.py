"""Notices: each arrives whole with its descriptors, and the end of the other side is an end, not an error."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolrt import notice
from poolrt.board import Running
from poolrt.events import Event, EventKind
from poolrt.hygiene.findings import Finding, LeakKind, Rest, row_of
from poolrt.posix.unix_sockets import seqpacket_pair

FINDING = Finding(LeakKind.CONNECTIONS, "shop.fetch", "db:5432", 3, 30, "3 connections to db:5432", "a.py:1 in f")
SAMPLES: list[notice.Notice] = [
    notice.Fork(3, 7, "child", 100),
    notice.Ready("shop", "sqlite:////x", "/x-nodes", 3, 0.5, ("a thread",)),
    notice.Failed("no such module", "Traceback …", 3),
    notice.Forked(3, 7, 4242),
    notice.ForkFailed(3, 7, "EAGAIN"),
    notice.Exited(3, 7, 4242, -11),
    notice.NodeFiles("inc", "node"),
    notice.Poke(),
    notice.Up(0.01),
    notice.Leaving("max_tasks_per_child", 100, "more"),
    notice.BootFailed("Traceback …"),
    notice.Trouble("BrokerBusy: …"),
    notice.Found(FINDING, 5.0, "id"),
    notice.Ran(Rest((LeakKind.FILES,), "shop.fetch", 30, [(LeakKind.FILES, "/x", 2, 12)])),
    notice.Bury(1, 3, 7, 5, 99, "killed by SIGSEGV", "lost", 1.5),
    notice.Reclaim(2, "inc", (Running(0, 1, 2, 3),)),
    notice.Reclaim(2, "inc", None),
    notice.Leaked(row_of(FINDING, 5.0)),
    notice.Settled(1),
    notice.LeaseLost("another node took over"),
    notice.CancelRun(3, 7, 5, 99),
    notice.Recalled(3, 7, 5, 12),
    notice.Status(1, 2, 3, 4, None),
    notice.Happened(Event(EventKind.TASK_DEAD, 1.0, task="t", numbers={"deliveries": 3})),
]


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A lifeline's two ends, which never block."""
    ours, theirs = seqpacket_pair()
    ours.setblocking(False)
    theirs.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def test_samples_are_complete() -> None:
    """Every notice there is has a sample below."""
    kinds = {kind for kind in vars(notice).values() if isinstance(kind, type) and issubclass(kind, notice._Notice)}
    assert {type(sample) for sample in SAMPLES} == kinds - {notice._Notice}


@pytest.mark.parametrize("sample", SAMPLES, ids=notice.describe)
def test_roundtrip(sample: notice.Notice, pair: tuple[socket.socket, socket.socket]) -> None:
    """A notice arrives equal, alone, and with its descriptors open in the receiver."""
    ours, theirs = pair
    reader, writer = os.pipe()
    notice.send(ours, sample, (writer,))
    os.close(writer)
    arrived = notice.receive(theirs)
    assert arrived is not None
    received, fds = arrived
    assert received == sample
    assert type(received) is type(sample)
    assert len(fds) == 1
    assert not os.get_inheritable(fds[0])
    os.write(fds[0], b"x")
    assert os.read(reader, 1) == b"x"
    os.close(fds[0])
    os.close(reader)
    with pytest.raises(BlockingIOError):
        notice.receive(theirs)


def test_order_and_bounds_are_kept(pair: tuple[socket.socket, socket.socket]) -> None:
    """Several notices sent at once are received one by one, in order."""
    for sample in SAMPLES:
        notice.send(pair[0], sample)
    assert [(notice.receive(pair[1]) or ("", []))[0] for _ in SAMPLES] == SAMPLES


def test_end_of_file(pair: tuple[socket.socket, socket.socket]) -> None:
    """What was sent before the other side died is received, then None; sending to the dead is an OSError."""
    notice.send(pair[0], notice.Poke())
    pair[0].close()
    assert notice.receive(pair[1]) == (notice.Poke(), [])
    assert notice.receive(pair[1]) is None
    assert notice.receive(pair[1]) is None
    with pytest.raises(OSError, match="Broken pipe"):
        notice.send(pair[1], notice.Poke())


def test_a_full_socket_does_not_block(pair: tuple[socket.socket, socket.socket]) -> None:
    """A reader that does not read costs its sender a BlockingIOError, never a wait."""
    with pytest.raises(BlockingIOError):
        for _ in range(100_000):
            notice.send(pair[0], notice.Poke())


@given(st.text(st.sampled_from("a\n\u00e9\U0001f600\ud800")), st.integers(2, 40))
def test_shortened_text_fits_and_keeps_its_ends(text: str, limit: int) -> None:
    """A long text keeps both ends and says how much is gone; a short one stays, but for what cannot be encoded."""
    short = notice.shorten(text, limit)
    raw = text.encode("utf-8", "backslashreplace")
    if len(raw) <= limit:
        assert short == raw.decode()
    else:
        assert f"… {len(raw) - limit} bytes left out …" in short
        assert len(short.encode()) <= limit + 60


@pytest.mark.parametrize("character", ["x", "é", "\U0001f600", "\udc80"])
def test_the_longest_traceback_fits_a_frame(character: str, pair: tuple[socket.socket, socket.socket]) -> None:
    """However long a traceback and whatever its characters, its notice arrives."""
    trace = notice.shorten(character * 200_000)
    notice.send(pair[0], notice.Failed(trace[:2000], trace))
    assert notice.receive(pair[1]) == (notice.Failed(trace[:2000], trace), [])


def test_text_that_cannot_be_encoded_is_escaped(pair: tuple[socket.socket, socket.socket]) -> None:
    """An odd file name in an error's text does not keep the error from being told."""
    notice.send(pair[0], notice.Failed("no file \udcff", "trace \ud800", 5))
    assert notice.receive(pair[1]) == (notice.Failed("no file \\udcff", "trace \\ud800", 5), [])


@pytest.mark.parametrize("character", ["x", "\U0001f600", "\udc80"])
def test_the_longest_finding_fits_a_frame(character: str, pair: tuple[socket.socket, socket.socket]) -> None:
    """Whatever a task leaves behind, and whatever its name, the child can tell it."""
    long = character * 100_000
    notice.send(pair[0], notice.Found(Finding(LeakKind.TEMP_FILES, long, long, 1 << 70, -1, long, long), 5.0))
    received, _ = notice.receive(pair[1]) or (None, [])
    assert isinstance(received, notice.Found)
    found = received.finding
    assert len(found.task) == len(found.what) == len(found.reason) == 500
    assert (found.count, found.runs) == (1 << 53, 0)


def test_text_deep_in_a_notice_is_escaped_too(pair: tuple[socket.socket, socket.socket]) -> None:
    """An event and a finding may name odd files as well."""
    event = Event(EventKind.LEFT_BEHIND, 1.0, cause="./\udcff", numbers={"name": "\udcfe"})
    notice.send(pair[0], notice.Happened(event))
    (received, _) = notice.receive(pair[1]) or (None, [])
    assert isinstance(received, notice.Happened)
    assert (received.event.cause, received.event.numbers) == ("./\\udcff", {"name": "\\udcfe"})
    finding = Finding(LeakKind.TEMP_FILES, "t", "/tmp/\udcff", 1, 1, "it leaves /tmp/\udcff")
    notice.send(pair[0], notice.Found(finding, 1.0))
    (received, _) = notice.receive(pair[1]) or (None, [])
    assert isinstance(received, notice.Found)
    assert (received.finding.kind, received.finding.what) == (LeakKind.TEMP_FILES, "/tmp/\\udcff")


@pytest.mark.parametrize("frame", [b"\xc1", b"\x00", b"\x91\xa4Nope", b"\x92\xa4Fork\x01", b"text"])
def test_frames_of_something_else_are_decode_errors(frame: bytes) -> None:
    """A frame that is no notice is refused as such."""
    with pytest.raises(msgspec.DecodeError):
        notice.decode(frame)


def test_newer_notices_may_carry_more() -> None:
    """A field that a later release appends is ignored, so that a reload may mix releases."""
    fields = msgspec.msgpack.decode(notice.encode(notice.Up(0.5)))
    assert notice.decode(msgspec.msgpack.encode([*fields, "more"])) == notice.Up(0.5)
