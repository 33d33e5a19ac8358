"""Everything on the screen but the children: who the node is, how it does, what waits, what happened, which keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.cells import cell_len
from rich.text import Text

from poolrt.cli.pool_view import STYLES, event_text, printable, seconds, size
from poolrt.top.children import bar, filled, fit, near, of_most, title
from poolrt.top.rates import Rate
from poolrt.top.state import State

LEVELS: Final = "▁▂▃▄▅▆▇█"
BROKER_LEAST: Final = 12
TWO_LINES_OF_BARS: Final = 120
"""Columns from which the failures have bars too."""
ALARMING: Final = frozenset({"crashed", "killed", "dead"})
"""Counts that are coloured as soon as they are not zero."""

KEYS: Final = (
    ("q", "quit"), ("?", "help"), ("s", "sort"), ("↑↓", "select"), ("r", "recycle"), ("R", "all"), ("+/-", "scale"),
    ("space", "freeze"),
)  # fmt: skip

HELP: Final = (
    ("q ESC ^C", "quit; the node goes on"),
    ("↑ ↓ j k", "select a child; page up, page down, home and end too"),
    ("s", "sort by the next column: slot, rss, age, tasks, fds"),
    ("space", "freeze the screen, and go on"),
    ("r", "recycle the selected child, after its task; asks first"),
    ("R", "recycle all children; asks first"),
    ("+ -", "one child more, one less"),
    ("^Z", "to the shell; fg comes back"),
    ("", ""),
    ("STATE", "what a child does, or that it starts or leaves"),
    ("AGE/LIMIT", "how long its task runs, of the limit that is next: (soft) or hard"),
    ("TASKS", "tasks it has done, of those after which it is recycled"),
    ("RSS/CEILING", "its memory, of the limit that holds now; the bar is the same"),
    ("FDS", "its open file descriptors"),
    ("NOTE", "why the child whose place it took has left"),
)


def header(state: State, width: int) -> list[Text]:
    """Who: node, state, app, broker, memory."""
    status = state.status
    return [_first(state, width), _second(status, width)]


def _first(state: State, width: int) -> Text:
    status = state.status
    line = Text(" poolrt ").append(printable(state.node), style="bold")
    if state.lost_for is not None:
        line.append(f"  waiting for node … {seconds(state.lost_for)}", style="bold red")
    else:
        name = printable(status.get("state") or "?")
        line.append(f"  {name}", style=STYLES.get(name, "yellow"))
        line.append("  up ", style="dim").append(seconds(status.get("uptime")))
    if state.silent_for:
        line.append(f"  no answer for {seconds(state.silent_for)}", style="bold red")
    if state.frozen:
        line.append("  ").append(" FROZEN ", style="reverse yellow")
    pid = (status.get("supervisor") or {}).get("pid")
    right = _named("pid ", pid or "–")
    return _to_the_right(line, right, width)


def _second(status: Mapping[str, Any], width: int) -> Text:
    memory = _memory(status.get("memory") or {})
    line = _named(" app ", status.get("app"))
    room = width - cell_len(line.plain) - cell_len(memory.plain) - len("  broker ") - 3
    broker = printable(status.get("broker") or "–")
    line.append("  broker ", style="dim").append(fit(broker, max(room, BROKER_LEAST), end=True).rstrip())
    return _to_the_right(line, memory, width)


def _memory(memory: Mapping[str, Any]) -> Text:
    used, budget = memory.get("used"), memory.get("budget")
    part = filled(used, budget)
    text = _named("memory ").append(of_most(used, budget), style=near(part))
    return text if part is None else text.append(f" {bar(part, 10)}", style=near(part))


def rates(state: State, width: int) -> list[Text]:
    """How it does: rates of the last seconds and minute, and totals since the start."""
    done, failed = state.rates.get("done", Rate()), state.rates.get("failed", Rate())
    line = _named(" done/s ").append(sparkline(done.line), style="cyan").append(f" {per_second(done.now):>7}")
    line.append("  failed/s ", style="dim")
    if width >= TWO_LINES_OF_BARS:
        line.append(sparkline(failed.line), style="red").append(" ")
    line.append(f"{per_second(failed.now):>5}", style="red" if failed.now else "")
    return [line, _totals(state.status, width)]


def _totals(status: Mapping[str, Any], width: int) -> Text:
    totals = status.get("totals") or {}
    line = _counts({name: count for name, count in totals.items() if count or name != "refused"})
    roles = [(role, status.get(role) or {}) for role in ("supervisor", "template", "steward")]
    processes = Text("  ".join(f"{role} {size(of.get('rss'))}" for role, of in roles if of.get("pid")), style="dim")
    return _to_the_right(line, processes, width) if cell_len(line.plain + processes.plain) + 3 <= width else line


def per_second(rate: float | None) -> str:
    """``0.2``, ``103``, ``12,345``."""
    if rate is None:
        return "–"
    return f"{rate:.1f}" if 0 < rate < 9.95 else f"{rate:,.0f}"


def sparkline(values: Sequence[float | None]) -> str:
    """A bar for each value, the largest full; a space where it is not known."""
    most = max((value for value in values if value is not None), default=0.0)
    top = len(LEVELS) - 1
    return "".join(
        " " if value is None else LEVELS[min(-int(-value * top // most), top) if most > 0 else 0] for value in values
    )


def queue_panel(state: State, width: int) -> list[Text]:
    """How much waits, and for how long."""
    queue = state.status.get("queue")
    line = Text(" not known yet", style="dim")
    if queue:
        names = [name for name in ("queued", "delayed", "reserved", "dead") if name in queue]
        line = _counts({name: queue[name] for name in names})
        oldest = queue.get("oldest")
        line.append("  oldest ", style="dim").append("none waits" if oldest is None else seconds(oldest))
    return [title("queue", "", width), line]


def leaks_line(state: State) -> list[Text]:
    """How much tasks leave behind, and what was found last; no line while nothing was."""
    leaks = state.status.get("leaks") or ()
    if not leaks:
        return []
    kinds, tasks = (len({leak.get(name) for leak in leaks}) for name in ("kind", "task"))
    last = max(leaks, key=lambda leak: leak.get("last_seen") or 0)
    line = Text(" leaks: ", style="dim")
    counts = f"{kinds} kind{'s' * (kinds != 1)} in {tasks} task{'s' * (tasks != 1)}"
    line.append(counts, style="bold yellow not dim").append("  last ")
    return [line.append(printable(last.get("reason") or "–"), style="not dim")]


def events_panel(state: State, width: int, room: int) -> list[Text]:
    """The newest events that there is room for, the newest last."""
    events = (state.status.get("last_events") or ())[-room:]
    lines = [Text(" ").append_text(event_text(event)) for event in events]
    return [title("events", "", width), *(lines or [Text(" none yet", style="dim")])]


def status_line(state: State) -> Text:
    """What is asked, or the result of the last action."""
    if state.question is not None:
        return Text(f" {state.question.text}", style="bold yellow")
    return Text(f" {state.message}", style="bold") if state.message else Text()


def footer(width: int) -> Text:
    """The keys that there is room for."""
    line = Text(" ")
    for key, what in KEYS:
        if cell_len(line.plain) + cell_len(key) + len(what) + 1 > width:
            break
        line.append(key, style="bold cyan").append(f" {what}  ")
    line.rstrip()
    return line


def help_page(width: int) -> list[Text]:
    """Keys and columns, each with what it means."""
    lines = [title("keys and columns", "", width)]
    lines += [Text(f" {name:<12}", style="bold cyan").append(what, style="not bold default") for name, what in HELP]
    return [*lines, Text(), Text(" any key closes this", style="dim")]


def _named(name: str, value: object = None) -> Text:
    text = Text().append(name, style="dim")
    return text if value is None else text.append(printable(value))


def _counts(counts: Mapping[str, Any]) -> Text:
    line = Text()
    for name, count in counts.items():
        line.append(f"{'  ' if line else ' '}{printable(name)} ", style="dim")
        line.append(f"{count or 0:,}", style="bold yellow" if count and name in ALARMING else "")
    return line


def _to_the_right(line: Text, right: Text, width: int) -> Text:
    """``line`` with ``right`` at the end of the screen's line, if both fit."""
    space = width - cell_len(line.plain) - cell_len(right.plain) - 1
    return line.append(" " * space).append_text(right) if space > 0 else line
