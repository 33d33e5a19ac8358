"""Board against limits: which children must be killed, and when to look again. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from poolrt.board import Row
from poolrt.settings import format_duration
from poolrt.states import Activity
from poolrt.supervisor.lifecycle import Child


class Condemned(NamedTuple):
    """A child over a limit; to be killed only if its word still is ``word`` while it is stopped."""

    child: Child
    word: int
    cause: str


def judge(rows: Iterable[tuple[Child, Row, int]], now: int, latest: int) -> tuple[list[Condemned], int]:
    """Children over their hard limit, and when to look next.

    Args:
        rows: each living child with its row and the row's word.
        now: CLOCK_MONOTONIC ns.
        latest: when to look again at the latest, CLOCK_MONOTONIC ns.
    """
    condemned: list[Condemned] = []
    for child, row, word in rows:
        if row.activity is not Activity.RUN or not row.hard_deadline:
            continue
        if now >= row.hard_deadline:
            limit = format_duration(round((row.hard_deadline - row.started) / 1e9, 3))
            ran = (now - row.started) / 1e9
            condemned.append(Condemned(child, word, f"TimeLimitExceeded: ran {ran:.2f} s, its limit is {limit}"))
        else:
            latest = min(latest, row.hard_deadline)
    return condemned, latest
