"""The children's panel: a row each, columns that fit, the selected row in sight."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from poolrt.cli.pool_view import STYLES, cut, printable, seconds, size, task_name
from poolrt.top.state import Sort, State
from poolrt.units import format_duration

GAP: Final = 2
TASK_LEAST: Final = 18
NOTE_LEAST: Final = len("max_tasks_per_child")
NOTE_MOST: Final = 60
BAR: Final = 6
"""Columns of a bar: with it, all columns and an RSS of hundreds of MiB fit into 120."""

Row = Mapping[str, Any]


class Column(NamedTuple):
    """A column of the panel."""

    title: str
    value: Callable[[Row], str]
    least: int
    """Columns it has at least, so that it does not move with each value."""
    style: Callable[[Row], str] = lambda row: ""
    right: bool = False
    drop: int = 0
    """The lowest goes first on a narrow terminal; 0 always stays."""
    sort: Sort | None = None


def _state(row: Row) -> str:
    """What an ``up`` child does, or the state of one that is not."""
    return str(row.get("activity") if row.get("state") == "up" else row.get("state") or "–")


def _age_limit(row: Row) -> str:
    """``14s/1m``: how long the task runs, and the limit that comes next; a soft one is in brackets."""
    age = row.get("running_for")
    if age is None:
        return "–"
    soft, hard = row.get("soft_time_limit"), row.get("time_limit")
    if soft and (age < soft or not hard):
        return f"{seconds(age)}/({format_duration(soft)})"
    return f"{seconds(age)}/{format_duration(hard)}" if hard else seconds(age)


def _age_style(row: Row) -> str:
    age, limit = row.get("running_for"), row.get("soft_time_limit") or row.get("time_limit")
    return _near(age / limit) if age and limit else ""


def _tasks(row: Row) -> str:
    done, most = row.get("done") or 0, row.get("max_tasks")
    return f"{done}/{most}" if most else str(done)


def _rss(row: Row) -> str:
    return of_most(row.get("rss"), row.get("memory_limit"))


def of_most(value: int | None, most: int | None) -> str:
    """``459.0/512.0 MiB``: a size and its ceiling, the unit once when both have it."""
    text, unit = _parted(size(value))
    if not most:
        return f"{text} {unit}".rstrip()
    ceiling, of = _parted(size(most))
    return f"{text}/{ceiling} {of}" if unit in {of, ""} else f"{text} {unit}/{ceiling} {of}"


def _parted(text: str) -> tuple[str, str]:
    number, _, unit = text.partition(" ")
    return number, unit


def filled(value: float | None, most: float | None) -> float | None:
    """The part of ``most`` that ``value`` is; None where there is no ceiling."""
    return value / most if value is not None and most else None


def bar(part: float | None, width: int = BAR) -> str:
    """``███···`` for 0.5."""
    if part is None:
        return ""
    full = min(max(round(part * width), 0), width)
    return "█" * full + "·" * (width - full)


def near(part: float | None) -> str:
    """The style of something that is so near its ceiling."""
    return "" if part is None else _near(part)


def _near(part: float) -> str:
    return "bold red" if part >= 0.95 else "yellow" if part >= 0.8 else "green"


def _memory(row: Row) -> float | None:
    return filled(row.get("rss"), row.get("memory_limit"))


def _state_style(row: Row) -> str:
    return STYLES.get(_state(row), "")


def _task(row: Row) -> str:
    return task_name(row.get("task") or "", row.get("task_id") or "")


def _number(name: str) -> Callable[[Row], str]:
    def value(row: Row) -> str:
        found = row.get(name)
        return "–" if found is None else str(found)

    return value


COLUMNS: Final = (
    Column("SLOT", _number("slot"), 4, right=True, sort=Sort.SLOT),
    Column("PID", lambda row: str(row.get("pid") or "–"), 5, right=True, drop=5),
    Column("GEN", _number("generation"), 3, right=True, drop=3),
    Column("STATE", _state, 8, _state_style, drop=6),
    Column("TASK", _task, TASK_LEAST, lambda row: "" if row.get("task") else "dim"),
    Column("AGE/LIMIT", _age_limit, 9, _age_style, right=True, sort=Sort.AGE),
    Column("TASKS", _tasks, 7, right=True, drop=7, sort=Sort.TASKS),
    Column("RSS/CEILING", _rss, 13, lambda row: near(_memory(row)), right=True, sort=Sort.RSS),
    Column("", lambda row: bar(_memory(row)), BAR, lambda row: near(_memory(row)), drop=2),
    Column("FDS", _number("fds"), 3, right=True, drop=4, sort=Sort.FDS),
    Column("NOTE", lambda row: str(row.get("replaces") or ""), NOTE_LEAST, lambda row: "dim", drop=1),
)
TASK: Final = next(i for i, column in enumerate(COLUMNS) if column.title == "TASK")
NOTE: Final = next(i for i, column in enumerate(COLUMNS) if column.title == "NOTE")


def widths_of(cells: Iterable[Sequence[str]], width: int) -> dict[int, int]:
    """The columns that fit into ``width``, and how wide each is; task and note share what the others leave."""
    widths = [column.least for column in COLUMNS]
    for row in cells:
        for i, text in enumerate(row):
            if i not in {TASK, NOTE} and len(text) > widths[i]:
                widths[i] = cell_len(text)
    kept = list(range(len(COLUMNS)))
    for i in sorted((i for i in kept if COLUMNS[i].drop), key=lambda i: COLUMNS[i].drop):
        if used(widths, kept) <= width:
            break
        kept.remove(i)
    spare = width - used(widths, kept)
    note = min(max(spare, 0) // 2, NOTE_MOST - NOTE_LEAST) if NOTE in kept else 0
    widths[NOTE] += note
    widths[TASK] = max(widths[TASK] + spare - note, 1)
    return {k: widths[k] for k in kept}


def used(widths: Sequence[int], kept: Sequence[int]) -> int:
    """The width of a row: the mark, the columns, a gap between two."""
    return 1 + sum(widths[k] + GAP for k in kept) - GAP


def fit(text: str, width: int, *, right: bool = False, end: bool = False) -> str:
    """``text`` in exactly ``width`` columns; of one that is too long its beginning, or its ``end``, stays."""
    length = len(text) if text.isascii() else cell_len(text)
    if length <= width:
        return " " * (width - length) + text if right else text + " " * (width - length)
    if end:
        kept = cut(text[-4 * width :], width)  # it looks at each character
        return kept + " " * (width - cell_len(kept))
    return set_cell_size(text, width - 1) + "…" if width else ""


def window(count: int, room: int, selected: int | None) -> range:
    """Which of ``count`` rows are shown where there is room for ``room``: those around the selected one."""
    first = 0 if selected is None else min(max(selected - room // 2, 0), max(count - room, 0))
    return range(first, min(first + room, count))


def children_panel(state: State, width: int, room: int) -> list[Text]:
    """The panel's title, its head and at most ``room`` rows."""
    rows = state.children
    place = next((i for i, row in enumerate(rows) if row.get("slot") == state.selected), None)
    shown = window(len(rows), room, place)
    cells = {i: [printable(column.value(rows[i])) for column in COLUMNS] for i in shown}
    columns = widths_of(cells.values(), width)
    lines = [title(_title(state, rows), _right(state, shown, len(rows)), width), _head(state, columns)]
    for i in shown:
        line = _line(rows[i], cells[i], columns, mark=">" if i == place else " ")
        line.style = "reverse" if i == place else "dim" if state.lost_for is not None else ""
        lines.append(line)
    if not rows:
        lines.append(Text("  no children", style="dim"))
    return lines


def title(left: str, right: str, width: int) -> Text:
    """``── left ──────── right ──``"""
    room = width - cell_len(left) - cell_len(right) - (8 if right else 5)
    line = Text("── ", style="dim").append(left, style="bold not dim").append(" " + "─" * max(room, 0))
    return line.append(f" {right} ──" if right else "─")


def _title(state: State, rows: Sequence[Row]) -> str:
    busy = sum(row.get("activity") == "run" for row in rows)
    standby = sum(row.get("state") == "standby" for row in rows)
    text = f"children: {busy} busy, concurrency {state.status.get('concurrency', '?')}"
    return text + (f", {standby} standby" if standby else "")


def _right(state: State, shown: range, count: int) -> str:
    part = f"{shown.start + 1}–{shown.stop} of {count}, " if len(shown) < count and shown else ""
    return f"{part}by {state.sort}"


def _head(state: State, columns: Mapping[int, int]) -> Text:
    line = Text(" ", style="dim")
    for i, width in columns.items():
        column = COLUMNS[i]
        style = "bold not dim" if column.sort is state.sort else ""
        line.append(fit(column.title, width, right=column.right), style=style).append(" " * GAP)
    line.right_crop(GAP)
    return line


def _line(row: Row, cells: Sequence[str], columns: Mapping[int, int], mark: str) -> Text:
    line = Text(mark)
    for i, width in columns.items():
        column = COLUMNS[i]
        line.append(fit(cells[i], width, right=column.right, end=i == TASK), style=column.style(row))
        line.append(" " * GAP)
    line.right_crop(GAP)
    return line
