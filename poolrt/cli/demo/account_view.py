"""The account for people: what was contained, what was parsed, and whether it balances."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from poolrt.cli.demo.account import ACCOUNTED, Account
from poolrt.cli.pool_view import cause_text, numbers_text, printable, task_name


def account_view(account: Account) -> RenderableType:
    """The whole account."""
    problems = account.problems()
    return Group(
        _containments(account.containments()),
        Text(),
        _library(account.sums),
        _balance(account),
        Text("the account balances", style="bold green")
        if not problems
        else Text("\n".join(f"does not balance: {printable(line)}" for line in problems), style="bold red"),
    )


def _balance(account: Account) -> Text:
    counts = " + ".join(f"{state.value} {account.count(state)}" for state in ACCOUNTED)
    line = Text(f"accepted {len(account.accepted)} = {counts}", style="bold")
    return line.append(f"   processes left over {len(account.left_over)}   {account.seconds:.1f} s")


def _library(sums: Mapping[str, int]) -> Text:
    return Text(
        f"Python {platform.python_version()}: {sums['files']:,} files, {sums['lines']:,} lines, "
        f"{sums['functions']:,} functions, {sums['classes']:,} classes"
    )


def _containments(told: Iterable[Mapping[str, Any]]) -> RenderableType:
    """A row for each task that was contained, with all that befell it; one for all recycles of a cause."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", show_edge=False, pad_edge=False)
    table.add_column("CONTAINED", no_wrap=True)
    table.add_column("TASK", no_wrap=True)
    table.add_column("CAUSE, NUMBERS", overflow="fold")
    for events in by_task(told):
        first = events[0]
        task = task_name(first["task"], first["task_id"]) if first.get("task") else f"{len(events)} processes"
        cause = Text(printable(cause_text(first)))
        cause.append("  " + printable(numbers_text(events[-1].get("numbers") or {})), style="dim")
        table.add_row(Text(befallen(events), style="yellow"), Text(printable(task)), cause)
    return table


def by_task(told: Iterable[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Containments by task, in order of the first of each; those without a task by kind and cause."""
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for event in told:
        key = ("task", event["task_id"]) if event.get("task") else (str(event.get("kind")), str(event.get("cause")))
        groups.setdefault(key, []).append(event)
    return list(groups.values())


def befallen(events: Iterable[Mapping[str, Any]]) -> str:
    """``crashed ×3, dead``: what happened, how often."""
    counts = Counter(str(event.get("kind")).removeprefix("child-") for event in events)
    return ", ".join(f"{kind} ×{count}" if count > 1 else kind for kind, count in counts.items())
