"""Lines to escape sequences: only the lines that changed are painted, each at its place, so nothing flickers."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, Final

from rich.console import Console, ConsoleOptions, RenderResult
from rich.control import Control
from rich.segment import ControlType
from rich.text import Text

PLAIN: Final = str.maketrans(
    {"█": "#", "·": ".", "─": "-", "–": "-", "…": "~", "×": "x", "↑": "^", "↓": "v"}
    | dict(zip("▁▂▃▄▅▆▇█", "_.-:=+*#", strict=True))
)
"""For a terminal that is not UTF-8."""


class Painter:
    """Remembers what is on the screen, and knows its colours and encoding; it writes nothing itself.

    Invariant: ``_painted`` holds the lines of the screen, top down; a line beyond them is blank.

    Args:
        console: rich's view of the terminal. Not used to paint: its ``capture`` still writes to the terminal.
    """

    def __init__(self, console: Console) -> None:
        self._encoding = console.encoding
        self._plain = not console.encoding.lower().startswith("utf")
        self._written = io.StringIO()
        colours: Any = console.color_system
        self._console = Console(
            file=self._written,
            force_terminal=True,
            color_system=colours,
            no_color=console.no_color,
            legacy_windows=False,
        )
        self._painted: list[Text] = []
        self._cleared = True

    def forget(self) -> None:
        """The screen was resized, or shows something else: paint all of it, after clearing it."""
        self._painted = []
        self._cleared = False

    def paint(self, lines: Sequence[Text]) -> bytes:
        """What to write so that the screen shows ``lines``; empty when it does."""
        before = self._painted
        changed = [
            (number, line)
            for number, line in enumerate(lines)
            if number >= len(before) or before[number] != line or before[number].style != line.style
        ]
        changed += [(number, Text()) for number in range(len(lines), len(before))]
        self._painted = list(lines)
        clear, self._cleared = not self._cleared, True
        if not changed and not clear:
            return b""
        self._console.print(_Changes(changed, clear=clear), end="", crop=False)
        text = self._written.getvalue()
        self._written.seek(0)
        self._written.truncate()
        return (text.translate(PLAIN) if self._plain else text).encode(self._encoding, "replace")


class _Changes:
    """The changed lines as rich prints them: move, erase, text."""

    def __init__(self, lines: Sequence[tuple[int, Text]], *, clear: bool) -> None:
        self._lines = lines
        self._clear = clear

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self._clear:
            yield Control.clear().segment
        for number, line in self._lines:
            yield Control.move_to(0, number).segment
            yield Control((ControlType.ERASE_IN_LINE, 2)).segment  # first: after a full line it would take its end
            yield from (segment for segment in line.render(console, end="") if segment.text)
