"""What a child prints is kept, and its streams stay what they were."""

from __future__ import annotations

import io
import logging
import os
import sys

import pytest

from poolrt.child.output import LastOutput
from poolrt.posix import stacks
from poolrt.posix.last_output import read_tails
from tests.unit.child.conftest import FakeRow


@pytest.fixture
def file(monkeypatch):
    """A stacks file."""
    monkeypatch.setattr(os, "register_at_fork", lambda **_: None)  # it would hold the map to the end of the tests
    fd = stacks.open_stacks()
    yield fd
    os.close(fd)


@pytest.fixture
def redirect(monkeypatch):
    """``redirect()``: streams like those that a child has, written to memory; called in the test, pytest sets its own
    between fixtures and test."""

    def make():
        made = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8", line_buffering=True) for _ in range(2)]
        monkeypatch.setattr(sys, "stdout", made[0])
        monkeypatch.setattr(sys, "stderr", made[1])
        return made

    return make


def test_prints_are_kept_and_written(file, redirect):
    """Both streams, each in its own part, by print, write and writelines; and all of it goes where it went before."""
    streams = redirect()
    row = FakeRow()
    LastOutput().keep(file, row)
    row.sequence = 3
    print("to", "stdout")
    sys.stdout.writelines(["two\n", "lines\n"])
    print("to stderr", file=sys.stderr)
    assert read_tails(file, 3) == (b"to stdout\ntwo\nlines\n", b"to stderr\n")
    assert streams[0].buffer.getvalue() == b"to stdout\ntwo\nlines\n"
    assert streams[1].buffer.getvalue() == b"to stderr\n"


def test_handlers_that_hold_the_stream_are_kept_too(file, redirect):
    """A logging handler made at import, before the fork, holds the stream itself."""
    redirect()
    handler = logging.StreamHandler(sys.stderr)
    LastOutput().keep(file, FakeRow())
    handler.emit(logging.makeLogRecord({"msg": "a warning"}))
    assert read_tails(file, 0).stderr == b"a warning\n"


def test_the_stream_is_the_same_object(file, redirect):
    """Whatever code asks of it (encoding, buffer, isatty, reconfigure), it is answered as before."""
    streams = redirect()
    LastOutput().keep(file, FakeRow())
    assert sys.stdout is streams[0]
    assert isinstance(sys.stdout, io.TextIOWrapper)
    assert (sys.stdout.encoding, sys.stdout.line_buffering, sys.stdout.isatty()) == ("utf-8", True, False)
    sys.stdout.reconfigure(line_buffering=False)
    sys.stdout.buffer.write(b"bytes pass by")
    assert read_tails(file, 0).stdout == b""
    assert sys.stdout.write("four") == 4


def test_what_is_no_text_is_refused_as_before(file, redirect):
    """The stream's own TypeError, not one of ours."""
    redirect()
    LastOutput().keep(file, FakeRow())
    with pytest.raises(TypeError, match="must be str"):
        sys.stdout.write(b"bytes")
    assert read_tails(file, 0).stdout == b""


def test_a_broken_stream_still_keeps_the_line(file, redirect, monkeypatch):
    """The line is kept before it is written: a stream may fail, or block for good."""

    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    redirect()
    monkeypatch.setattr(sys, "stdout", Broken())
    LastOutput().keep(file, FakeRow())
    with pytest.raises(BrokenPipeError):
        print("last words")
    assert read_tails(file, 0).stdout == b"last words"


def test_streams_that_cannot_be_kept(file, monkeypatch):
    """None (descriptor closed at start), and an object that takes no attribute, stay as they are."""

    class Slotted:
        __slots__ = ("written",)

        def write(self, text: str) -> None:
            self.written = text

    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", slotted := Slotted())
    LastOutput().keep(file, FakeRow())
    sys.stderr.write("passes")
    assert slotted.written == "passes"
    assert read_tails(file, 0) == (b"", b"")


def test_nothing_is_kept_before_a_child_says_so(file, redirect):
    """The template and the steward write through it too."""
    streams = redirect()
    output = LastOutput()
    print("of the template")
    output.keep(file, FakeRow())
    print("of the child")
    assert read_tails(file, 0).stdout == b"of the child\n"
    assert streams[0].buffer.getvalue() == b"of the template\nof the child\n"
