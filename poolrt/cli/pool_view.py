"""A status dict drawn with rich: header, children, last events. Pure: what it needs is in the dict.

Every string that a user can choose (task names, node names, causes) goes through ``cell``: rich would take
``reports [paused]`` for markup and show ``reports``, and a terminal would obey an escape sequence in a name.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from poolrt.units import format_duration, format_size

PIPED_WIDTH = 200
"""Columns when the output is no terminal and COLUMNS does not say: a pipe drops nothing."""
TASK_LEAST = 18
"""Columns the task's name keeps before other columns are dropped."""

STYLES = {
    "serving": "green", "quiet": "yellow", "starting": "yellow", "draining": "yellow", "stopping": "yellow",
    "up": "green", "retiring": "yellow", "condemned": "red", "dead": "red",
    "run": "bold cyan", "idle": "dim", "standby": "dim",
    "child-crashed": "red", "child-killed": "red", "child-boot-failed": "red", "task-dead": "bold red",
    "task-failed": "red", "task-cancelled": "cyan", "task-requeued": "yellow", "child-recycled": "cyan",
    "leak-found": "yellow", "warning": "yellow",
    "reserved": "bold cyan", "started": "bold cyan", "succeeded": "green", "failed": "red", "expired": "yellow",
    "paused": "yellow",
}  # fmt: skip


def make_console() -> Console:
    """The console of stdout; as wide as a table needs when that is a pipe."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="replace")  # a terminal that is not UTF-8 shows "?" and no traceback
    piped = not sys.stdout.isatty() and not os.environ.get("COLUMNS", "").isdigit()
    return Console(highlight=False, markup=False, emoji=False, width=PIPED_WIDTH if piped else None)


def printable(text: object) -> str:
    """``text`` with what a terminal would obey (escape sequences, newlines) written out."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in str(text))


def cell(text: object, style: str = "") -> Text:
    """``text`` as a rich Text that holds exactly these characters: no markup, no control characters."""
    return Text(printable(text), style=style or STYLES.get(str(text), ""), overflow="ellipsis", no_wrap=True)


def task_name(task: str, task_id: str) -> str:
    """``task#id`` with the end of a long id: the beginning of ours is the time, alike for all of one minute."""
    if not task:
        return "–"
    if not task_id:
        return task
    return f"{task}#{task_id}" if len(task_id) <= 12 else f"{task}#…{task_id[-8:]}"


def seconds(value: float | None) -> str:
    """``4.2s``, ``42s``, ``3m12s``, ``2d4h``; a dash for None."""
    if value is None:
        return "–"
    if value < 10:
        return f"{value:.1f}s"
    whole = int(value)
    return format_duration(whole - whole % 60 if whole >= 3600 else whole)


def status_view(status: Mapping[str, Any], width: int) -> RenderableType:
    """The whole of ``poolrt status``."""
    parts: list[RenderableType] = [*header_lines(status), Text(), children_table(status.get("children") or (), width)]
    leaks = sorted(status.get("leaks") or (), key=_last_seen, reverse=True)
    if leaks:
        more = f", the last {LEAKS_SHOWN} of {len(leaks)} (poolrt leaks)" if len(leaks) > LEAKS_SHOWN else ""
        parts += [Text(), Text(f"leaks{more}", style="bold"), leaks_table(leaks[:LEAKS_SHOWN], time.time(), width)]
    events = status.get("last_events") or ()
    if events:
        parts += [Text(), Text("last events", style="bold"), *(event_text(event) for event in events[-10:])]
    return Group(*parts)


def header_lines(status: Mapping[str, Any]) -> list[Text]:
    """Node, broker, queue, processes and totals, a line each."""
    first = _line(
        ("node", status.get("node")),
        ("app", status.get("app")),
        ("", status.get("state")),
        ("up", seconds(status.get("uptime"))),
        ("children", status.get("concurrency")),
        ("poolrt", status.get("version")),
    )
    processes = [
        (role, f"{of.get('pid')} ({size(of.get('rss'))})")
        for role in ("supervisor", "template", "steward")
        if (of := status.get(role)) and of.get("pid")
    ]
    lines = [first, _line(("broker", status.get("broker"))), queue_line(status.get("queue")), _line(*processes)]
    totals = status.get("totals") or {}
    return [*lines, _line(*((name, f"{count:,}") for name, count in totals.items() if count or name != "refused"))]


def queue_line(queue: Mapping[str, Any] | None, name: str = "queue") -> Text:
    """How much waits, and for how long."""
    if not queue:
        return _line(("queue", "not known yet"))
    counts = [(name, f"{queue[name]:,}") for name in ("queued", "delayed", "reserved", "dead") if name in queue]
    oldest = queue.get("oldest")
    return _line((name, ""), *counts, ("oldest", "none waits" if oldest is None else seconds(oldest)))


def _line(*pairs: tuple[str, object]) -> Text:
    """``name value`` pairs in one line, names dim."""
    line = Text()
    for name, value in pairs:
        if value is None:
            continue
        if line:
            line.append("  ")
        line.append(name, style="dim")
        shown = printable(value)
        if shown:
            line.append(" " if name else "").append(shown, style=STYLES.get(shown, "bold" if name == "node" else ""))
    return line


def size(value: int | None) -> str:
    """A number of bytes as people write it; a dash for None or nothing."""
    return format_size(value) if value else "–"


class Column(NamedTuple):
    """A column of a table that fits into its terminal."""

    title: str
    value: Callable[[Mapping[str, Any]], object]
    right: bool = False
    drop: int = 0
    """The lowest goes first on a narrow terminal; 0 always stays."""
    least: int = 0
    """What stays of it before other columns are dropped; 0: it is never cut."""
    cut_end: bool = False
    """Whether its end is cut, and not its beginning."""


COLUMNS = (
    Column("SLOT", lambda child: child.get("slot"), right=True),
    Column("PID", lambda child: child.get("pid") or "–", right=True, drop=6),
    Column("GEN", lambda child: child.get("generation"), right=True, drop=2),
    Column("STATE", lambda child: child.get("state"), drop=5),
    Column("ACTIVITY", lambda child: child.get("activity"), drop=8),
    Column("TASK", lambda child: task_name(child.get("task") or "", child.get("task_id") or ""), least=TASK_LEAST),
    Column("RUNNING", lambda child: seconds(child.get("running_for")), right=True),
    Column("HELD", lambda child: child.get("held"), right=True, drop=3),
    Column("TASKS", lambda child: _of_most(child.get("done"), child.get("max_tasks")), right=True, drop=9),
    Column("FAILED", lambda child: child.get("failed"), right=True, drop=4),
    Column("RSS", lambda child: size(child.get("rss")), right=True, drop=7),
    Column("FDS", lambda child: child.get("fds") or "–", right=True, drop=2),
    Column("AGE", lambda child: seconds(child.get("age")), right=True, drop=1),
)
"""Of the children's table."""
_GAP = 2
_ALWAYS = 8
"""Columns that stay of a text, however narrow the terminal is."""


def _of_most(done: int | None, most: int | None) -> str:
    return f"{done or 0}/{most}" if most else str(done or 0)


def children_table(children: Iterable[Mapping[str, Any]], width: int) -> Table:
    """A row a child."""
    return fitted_table(COLUMNS, children, width)


def fitted_table(columns: Sequence[Column], things: Iterable[Mapping[str, Any]], width: int) -> Table:
    """A row a thing; columns that do not fit are dropped, the least telling first, then texts are cut."""
    rows = [[printable(column.value(thing)) for column in columns] for thing in things]
    widths = [max([len(column.title), *(cell_len(row[i]) for row in rows)]) for i, column in enumerate(columns)]
    kept = fitting_columns(columns, widths, width)
    spare = width - sum(_wanted(columns[i], widths[i]) + _GAP for i in kept) + _GAP
    table = Table(box=None, padding=(0, _GAP, 0, 0), header_style="dim", show_edge=False, pad_edge=False)
    rooms = {}
    for i in kept:
        table.add_column(columns[i].title, justify="right" if columns[i].right else "left", no_wrap=True)
        if columns[i].least:
            least = _wanted(columns[i], widths[i])
            rooms[i] = min(widths[i], max(least + spare, _ALWAYS))
            spare -= rooms[i] - least
    for row in rows:
        table.add_row(*(cell(cut(row[i], rooms[i], end=columns[i].cut_end) if i in rooms else row[i]) for i in kept))
    return table


def cut(text: str, room: int, *, end: bool = False) -> str:
    """The last ``room`` columns of ``text``: a function's name and id tell more than its package; or the first."""
    if cell_len(text) <= room:
        return text
    while text and cell_len(text) >= room:
        text = text[:-1] if end else text[1:]
    return f"{text}…" if end else f"…{text}"


def _wanted(column: Column, natural: int) -> int:
    return min(natural, column.least or natural)


def fitting_columns(columns: Sequence[Column], widths: Sequence[int], width: int) -> list[int]:
    """The indexes of the columns that fit into ``width``, texts with at least a readable part."""
    kept = list(range(len(columns)))
    for i in sorted((i for i in kept if columns[i].drop), key=lambda i: columns[i].drop):
        if sum(_wanted(columns[k], widths[k]) + _GAP for k in kept) - _GAP <= width:
            break
        kept.remove(i)
    return kept


LEAKS_SHOWN = 5
"""Rows in ``poolrt status``: those seen last."""
_LEAK_COLUMNS = (
    ("TASK", 0), ("KIND", 0), ("WHAT", 0), ("COUNT", 0), ("PER 100 RUNS", 80), ("FIRST SEEN", 100), ("LAST SEEN", 60),
)  # fmt: skip
"""Each with the width of a terminal below which it goes."""


def leaks_table(leaks: Iterable[Mapping[str, Any]], now: float, width: int) -> Table:
    """A row for each thing that a task leaves; names are cut on a narrow terminal. ``now``: wall time."""
    rows = [[printable(text) for text in _leak_row(leak, now)] for leak in leaks]
    kept = [i for i, (_, least) in enumerate(_LEAK_COLUMNS) if width >= least]
    widths = [
        max(map(cell_len, (_LEAK_COLUMNS[i][0], *(row[i] for row in rows)))) + _GAP for i in range(len(_LEAK_COLUMNS))
    ]
    room = max(width - sum(widths[i] for i in kept if i not in {0, 2}) - 2 * _GAP, 16)  # of task and what
    task = max(room // 2, room - widths[2] + _GAP)
    table = Table(box=None, padding=(0, _GAP, 0, 0), header_style="dim", show_edge=False, pad_edge=False)
    for i in kept:
        table.add_column(
            _LEAK_COLUMNS[i][0], justify="right" if i > 2 else "left", no_wrap=True,
            max_width=max(room - min(task, widths[0] - _GAP), 4) if i == 2 else None,
        )  # fmt: skip
    for row in rows:
        table.add_row(*(cell(cut(row[i], task) if i == 0 else row[i]) for i in kept))
    return table


def _leak_row(leak: Mapping[str, Any], now: float) -> tuple[str, ...]:
    return (*_leak_names(leak), *_leak_counts(leak), *_leak_times(leak, now))


def leaks_in_full(leaks: Iterable[Mapping[str, Any]], now: float) -> Text:
    """All that is known of each, some lines a leak: its reason and its stack too."""
    text = Text()
    for leak in leaks:
        task, kind, what, count, rate, first, last = map(printable, _leak_row(leak, now))
        text.append(f"{task}  {kind}  ", style="bold").append(f"{what}\n")
        text.append(f"  {count}, {rate} in 100 runs; first seen {first}, last seen {last}\n")
        text.append(f"  {printable(leak.get('reason') or '')}\n")
        for line in str(leak.get("stack") or "").splitlines():
            text.append(f"    {printable(line)}\n", style="dim")
    text.rstrip()
    return text


def _leak_names(leak: Mapping[str, Any]) -> tuple[str, str, str]:
    return str(leak.get("task") or "–"), str(leak.get("kind") or "–"), str(leak.get("what") or "–")


def _leak_counts(leak: Mapping[str, Any]) -> tuple[str, str]:
    count, rate = leak.get("count") or 0, leak.get("per_100_runs") or 0.0
    return (size(count), size(int(rate))) if leak.get("kind") == "memory" else (f"{count:,}", f"{rate:,.1f}")


def _leak_times(leak: Mapping[str, Any], now: float) -> tuple[str, str]:
    """How long ago it was first and last seen; by the clock of the node that saw it."""
    first, last = (f"{seconds(max(now - (leak.get(name) or 0), 0))} ago" for name in ("first_seen", "last_seen"))
    return first, last


def _last_seen(leak: Mapping[str, Any]) -> float:
    return float(leak.get("last_seen") or 0)


def event_text(event: Mapping[str, Any]) -> Text:
    """``10:31:02 child 3.9 child-recycled: tasks 500 [done=500]`` for one event dict."""
    line = Text(f"{datetime.fromtimestamp(event.get('at') or 0):%H:%M:%S} ", style="dim")  # noqa: DTZ006  local, as logs are
    kind = str(event.get("kind", ""))
    line.append(printable(kind), style=STYLES.get(kind, "bold"))
    if event.get("slot") is not None:
        line.append(f"  child {event['slot']}.{event.get('generation')}")
    if event.get("task"):
        line.append("  " + printable(task_name(event["task"], event.get("task_id") or "")), style="cyan")
    if event.get("cause"):
        line.append("  " + printable(cause_text(event)))
    numbers = event.get("numbers") or {}
    if numbers:
        line.append("  " + printable(numbers_text(numbers)), style="dim")
    return line


def cause_text(event: Mapping[str, Any]) -> str:
    """The cause, without the name of the task that stands beside it."""
    return str(event.get("cause") or "").removesuffix(f" while running {event.get('task')}")


def numbers_text(numbers: Mapping[str, Any]) -> str:
    """``done=500 rss=61.0 MiB``: sizes and durations in units where the name says what they are."""
    return " ".join(f"{name}={_number(name, value)}" for name, value in numbers.items())


def _number(name: str, value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and ("rss" in name or name.endswith("bytes")):
        return size(value)
    return f"{value:.3g}" if isinstance(value, float) else str(value)
