"""The painter: only what changed is written, and nothing that a terminal would obey but our own sequences."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console
from rich.text import Text

from poolrt.top.painter import Painter
from poolrt.top.screen import screen


class Latin(io.StringIO):
    """A stream of a terminal that is not UTF-8."""

    encoding = "iso8859-1"


class Utf8(io.StringIO):
    """A stream of one that is."""

    encoding = "utf-8"


def painter(stream=None, colour="standard"):
    """A painter of a terminal with colours."""
    return Painter(Console(file=stream or Utf8(), force_terminal=True, color_system=colour, width=80))


def test_only_changed_lines_are_painted():
    """A line that stays is not written again; one that went is erased."""
    paint = painter().paint
    assert b"two" in paint([Text("one"), Text("two"), Text("three")])
    again = paint([Text("one"), Text("2"), Text("three")])
    assert again == b"\x1b[2;1H\x1b[2K2"
    assert paint([Text("one"), Text("2"), Text("three")]) == b""
    assert paint([Text("one")]) == b"\x1b[2;1H\x1b[2K\x1b[3;1H\x1b[2K"


@pytest.mark.parametrize("changed", [Text("one", style="reverse"), Text("o").append("ne", style="bold")])
def test_a_new_style_is_a_change(changed):
    """The same characters in another style, of the line or of a part, are painted again."""
    paint = painter().paint
    paint([Text("one")])
    assert b"ne" in paint([changed])


def test_after_a_resize_everything_is_painted():
    """A terminal that was resized holds anything: it is cleared and painted whole."""
    made = painter()
    made.paint([Text("one"), Text("two")])
    made.forget()
    again = made.paint([Text("one"), Text("two")])
    assert again.startswith(b"\x1b[2J")
    assert b"one" in again
    assert b"two" in again


def test_nothing_but_our_own_sequences_is_written(state, child):
    """Of a screen full of hostile names the terminal gets moves, erasures and colours only."""
    rows = [child(1, task="\x1b[31mred\x07\x9b2J", replaces="\x1b]0;title\x07\r\n")]
    written = painter().paint(screen(state(children=rows, node="n\x1b[5m\x0e"), 200, 50)).decode()
    left = re.sub(r"\x1b\[(\d+;\d+H|2K|[\d;]*m)", "", written)
    assert not [char for char in left if ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0]


def test_a_terminal_that_is_not_utf8_gets_plain_signs(state):
    """Bars, lines and arrows have stand-ins that every encoding has."""
    written = painter(Latin()).paint(screen(state(), 160, 40))
    text = written.decode("iso8859-1")
    assert "###" in text
    assert "-- children" in re.sub(r"\x1b\[[\d;]*m", "", text)
    assert not set("█▁─…↑").intersection(text)


def test_without_colours_there_are_none(state):
    """NO_COLOR leaves moves and erasures, and the mark of the selected row."""
    console = Console(file=Utf8(), force_terminal=True, color_system=None, width=80)
    written = Painter(console).paint(screen(state(selected=5), 160, 40)).decode()
    assert not re.search(r"\x1b\[[\d;]*m", written)
    assert ">   5" in written
