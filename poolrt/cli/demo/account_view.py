"""The account for people: does it balance, what was parsed, what was contained."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from poolrt.cli.demo.account import ACCOUNTED, Account
from poolrt.cli.pool_view import STYLES, numbers_text, printable, task_name


def account_view(account: Account) -> RenderableType:
    """The whole account."""
    return Group(
        _containments(account.containments()),
        Text(),
        _library(account),
        _balance(account),
        *(Text(f"does not balance: {printable(line)}", style="bold red") for line in account.problems()),
    )


def _balance(account: Account) -> Text:
    counts = [(state.value, account.count(state)) for state in ACCOUNTED]
    line = Text(f"accepted {len(account.accepted)} = ", style="bold")
    line.append(" + ".join(f"{name} {count}" for name, count in counts))
    line.append(f"   processes left over: {len(account.left_over)}   {account.seconds:.1f} s   ")
    return line.append("balances", style="bold green") if not account.problems() else line


def _library(account: Account) -> Text:
    sums = account.sums
    return Text(
        f"Python {platform.python_version()}: {sums['files']:,} files, {sums['lines']:,} lines, "
        f"{sums['functions']:,} functions, {sums['classes']:,} classes, {sums['nodes']:,} syntax nodes"
    )


def _containments(told: Iterable[Mapping[str, Any]]) -> RenderableType:
    """A row for each task that was contained, with all that befell it; recycles by cause in a row of their own."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", show_edge=False, pad_edge=False)
    table.add_column("CONTAINED", no_wrap=True)
    table.add_column("TASK", no_wrap=True)
    table.add_column("CAUSE", overflow="fold")
    table.add_column("NUMBERS", overflow="fold", style="dim")
    for (kind, task, cause), group in _grouped(told).items():
        last = group[-1].get("numbers") or {}
        times = f"{kind} ×{len(group)}" if len(group) > 1 else kind
        table.add_row(
            Text(printable(times), style=STYLES.get(kind, "red")),
            Text(printable(task)),
            Text(printable(cause)),
            Text(printable(numbers_text(last))),
        )
    return table


def _grouped(told: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str, str], list[Mapping[str, Any]]]:
    """Containments alike in kind, task and cause, in order of their first."""
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for event in told:
        task = task_name(event.get("task") or "", event.get("task_id") or "")
        groups.setdefault((str(event.get("kind")), task, str(event.get("cause") or "")), []).append(event)
    return groups
