"""What a child that leaves has not told, so that the rates are not those of the children alone that left much."""

from __future__ import annotations

from typing import TYPE_CHECKING

from poolrt.hygiene.findings import LeakKind, Rest

if TYPE_CHECKING:
    from collections.abc import Mapping


def rests(
    kind: LeakKind, ran: Mapping[str, int], told_at: Mapping[tuple[str, str], int], left: Mapping[tuple[str, str], int]
) -> list[Rest]:
    """One of each task.

    Args:
        kind: of all.
        ran: runs by task.
        told_at: by task and what: the runs that had been by the last finding.
        left: by task and what: how many are not told.
    """
    since: dict[str, list[tuple[LeakKind, str, int, int]]] = {task: [] for task in ran}
    for task, what in {**left, **told_at}:
        if task in since:
            since[task].append((kind, what, left.get((task, what), 0), ran[task] - told_at.get((task, what), 0)))
    return [Rest((kind,), task, runs, since[task]) for task, runs in ran.items()]
