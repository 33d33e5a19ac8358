"""The account for people: what was contained, what was parsed, and whether it balances."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from poolrt.cli.demo.account import ACCOUNTED, Account
from poolrt.cli.demo.offenders import befallen
from poolrt.cli.pool_view import cause_text, printable, task_name
from poolrt.states import TaskState

WIDE: Final = 110
"""Columns from which an offence and its containment stand beside each other."""


def account_view(account: Account, width: int = 80) -> RenderableType:
    """The whole account, for a terminal of so many columns."""
    problems = account.problems()
    return Group(
        _contained(account, wide=width >= WIDE),
        Text(),
        _library(account.sums),
        _balance(account),
        Text("the account balances", style="bold green")
        if not problems
        else Text("\n".join(f"does not balance: {printable(line)}" for line in problems), style="bold red"),
    )


def _balance(account: Account) -> Text:
    counts = " + ".join(f"{state.value} {account.count(state)}" for state in ACCOUNTED)
    line = Text(f"accepted {len(account.accepted)} = {counts}\n", style="bold")
    return line.append(f"processes left over {len(account.left_over)}   {account.seconds:.1f} s")


def _library(sums: Mapping[str, int]) -> Text:
    return Text(
        f"Python {platform.python_version()}: {sums['files']:,} files, {sums['lines']:,} lines, "
        f"{sums['functions']:,} functions, {sums['classes']:,} classes"
    )


def _contained(account: Account, *, wide: bool) -> RenderableType:
    """A row for each offender with all that befell it; then one for each cause of what was contained besides."""
    offenders, others = account.offences()
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", show_edge=False, pad_edge=False)
    table.add_column("OFFENDER", no_wrap=True)
    for title in ("WHAT IT DOES", "HOW IT WAS CONTAINED") if wide else ("WHAT IT DOES, AND HOW IT WAS CONTAINED",):
        table.add_column(title, overflow="fold")
    for each in offenders:
        runs = f"{each.what}, {each.runs} runs" if each.runs > 1 else each.what
        does, how = Text(runs, style="dim"), _how(each.told, each.note)
        table.add_row(Text(printable(each.task)), *((does, how) if wide else (Group(does, how),)))
    for events in alike(others):
        task, task_id = events[0].get("task") or "besides", events[0].get("task_id")
        how = _how(events, "")
        name = task_name(task, task_id) if task_id else task
        table.add_row(Text(printable(name)), *((Text(), how) if wide else (how,)))
    return table


def _how(events: Sequence[Mapping[str, Any]], note: str) -> Text:
    """``killed: TimeLimitExceeded: ran 1.01 s, its limit is 1s; at hang (tasks.py:88)``."""
    # "killed, failed" says no more than "killed".
    told = [event for event in events if event.get("kind") != TaskState.FAILED] or events
    if not told:
        return Text(note or "nothing befell it", style="yellow")
    text = Text().append(befallen(told), style="yellow")
    text.append(": " + printable(cause_text(told[0])))
    return text.append(f"; {printable(note)}" if note else "")


def alike(told: Iterable[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Containments of one task together; those without a task by kind and cause."""
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for event in told:
        named = ("task", str(event.get("task_id") or event["task"])) if event.get("task") else None
        groups.setdefault(named or (str(event.get("kind")), str(event.get("cause"))), []).append(event)
    return list(groups.values())
