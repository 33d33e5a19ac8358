"""The whole screen: which panels there are, and how many lines each gets. Pure: a State in, its lines out."""

from __future__ import annotations

from typing import Final

from rich.cells import cell_len
from rich.text import Text

from poolrt.top.children import children_panel
from poolrt.top.panels import events_panel, footer, header, help_page, leaks_line, queue_panel, rates, status_line
from poolrt.top.state import State

SMALL: Final = (80, 20)
"""Columns and lines below which only the header and the children are shown."""
EVENTS_LEAST: Final = 3


def screen(state: State, width: int, height: int) -> list[Text]:
    """At most ``height`` lines of at most ``width`` columns; the keys stand on the last line."""
    if width < SMALL[0] or height < SMALL[1]:
        return _within(_small(state, width, height), width, height)
    above = [*header(state, width), *rates(state, width)]
    below = [status_line(state), footer(width)]
    room = height - len(above) - len(below)
    middle = help_page(width) if state.help else _panels(state, width, room)
    lines = _within([*above, *middle], width, height - len(below))
    lines += [Text() for _ in range(height - len(below) - len(lines))]
    return lines + _within(below, width, len(below))


def _panels(state: State, width: int, room: int) -> list[Text]:
    """Children first, but never without the last few events; what is left over goes to more of them."""
    queue = [*queue_panel(state, width), *leaks_line(state)]
    events = len(state.status.get("last_events") or ())
    least = 1 + min(max(events, 1), EVENTS_LEAST)
    children = children_panel(state, width, max(room - len(queue) - least - 2, 1))
    return [*children, *queue, *events_panel(state, width, room - len(children) - len(queue) - 1)]


def _small(state: State, width: int, height: int) -> list[Text]:
    if state.help:
        return help_page(width)
    above = header(state, width)
    asked = [status_line(state)] if state.question or state.message else []
    children = children_panel(state, width, max(height - len(above) - len(asked) - 2, 1))
    return [*above, *asked, *children]


def _within(lines: list[Text], width: int, height: int) -> list[Text]:
    """The lines that there is room for, each cut at the edge of the screen."""
    for line in lines[:height]:
        if cell_len(line.plain) > width:
            line.truncate(width, overflow="ellipsis")
    return lines[:height]
