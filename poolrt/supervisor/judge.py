"""Board against limits: who must be killed, interrupted, or relieved of what it holds; when to look again. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from poolrt.board import RECALL_AFTER_NS, Row
from poolrt.hygiene.memory import LOOK_EVERY_NS, LOOK_SOONEST_NS, look_after
from poolrt.states import Activity, Interruption
from poolrt.supervisor.lifecycle import Child
from poolrt.units import format_duration, format_size

STAGES_NS: Final = {
    Interruption.SOFT_LIMIT: (0, 100_000_000, 1_000_000_000),
    Interruption.STOP: (0, 100_000_000, 250_000_000),
    Interruption.CANCEL: (0, 100_000_000, 1_000_000_000),
}
"""An interruption is signalled at these times after it is due, and then once a second: each time the child takes less
care where it raises (poolrt.child.interruption). A stop has less time: drain kills 0.4 s after the first one."""
_NEVER: Final = 1 << 62
STACKS_NS: Final = 100_000_000
"""How long a task over its time limit may take to write its stacks, before it is killed."""
STACKS_OF_A_HOG_NS: Final = 3_000_000
"""The same for one over its memory limit, which can fill 5 MiB meanwhile."""
_MOST: Final = 1 << 53
"""No broker counts to here: a larger number in a row was scribbled."""
_MOST_AHEAD: Final = 1000
"""The same for reserves sent since the one whose delivery runs: a child waits for answers before there are so many."""


class Look(NamedTuple):
    """One child as it was seen."""

    child: Child
    row: Row
    word: int
    """The row's word, of that same reading."""
    rss: int
    """Resident bytes, where its task has a memory limit."""
    taken: int = 0
    """What it held of reserves up to this one was taken back already; all, while the steward is at it."""


class Kill(NamedTuple):
    """A child over a limit; to be killed only if its word still is ``word`` while it is stopped."""

    child: Child
    word: int
    cause: str
    patience: int
    """Nanoseconds that its stacks may be waited for; 0: they are not asked for."""
    verdict: str = "failed"
    """What becomes of its task; see notice.Bury."""


class Interrupt(NamedTuple):
    """A child whose run ``sequence`` is to be interrupted from inside."""

    child: Child
    sequence: int
    reason: Interruption


class Recall(NamedTuple):
    """A child that holds more while its task runs long; only if its word still is ``word`` while it is stopped."""

    child: Child
    word: int


class Judgement(NamedTuple):
    """What to do, and when to look next (CLOCK_MONOTONIC ns)."""

    kills: list[Kill]
    interrupts: list[Interrupt]
    recalls: list[Recall]
    wake: int


def judge(looks: Iterable[Look], now: int, latest: int) -> Judgement:
    """Judge each child that runs a task.

    Args:
        looks: each living child as it was seen.
        now: CLOCK_MONOTONIC ns.
        latest: when to look again at the latest, CLOCK_MONOTONIC ns.
    """
    kills: list[Kill] = []
    interrupts: list[Interrupt] = []
    recalls: list[Recall] = []
    for child, row, word, rss, taken in looks:
        if row.activity in (Activity.COMMIT, Activity.AUDIT):
            latest = min(latest, now + _soonest_after_a_start(row))
        if row.activity is not Activity.RUN:
            continue
        kill_at = child.cancelled.kill_at if child.cancelled.sequence == row.sequence else 0
        if (over := _over(row, rss, now, kill_at)) is not None:
            kills.append(Kill(child, word, *over, "cancelled" if kill_at else "failed"))
            continue
        latest = min(latest, _over_at(row, rss, now), kill_at or _NEVER)
        if _holds_more(row, taken):
            if now >= row.started + RECALL_AFTER_NS:
                recalls.append(Recall(child, word))
            else:
                latest = min(latest, row.started + RECALL_AFTER_NS)
        due, reason = _interruption(child, row)
        if due and now >= due:
            interrupts.append(Interrupt(child, row.sequence, reason))
            due += _stage(reason, _signals(child, row) + 1) - _stage(reason, _signals(child, row))
        if due:
            latest = min(latest, max(due, now + 1))
    return Judgement(kills, interrupts, recalls, latest)


def _over(row: Row, rss: int, now: int, kill_at: int) -> tuple[str, int] | None:
    """Why a run has to be killed, and how long its stacks may be waited for; None if it may go on."""
    if kill_at and now >= kill_at:
        return "TaskCancelled: it had not ended within cancel_grace", 0
    if row.hard_deadline and now >= row.hard_deadline:
        limit = format_duration(round((row.hard_deadline - row.started) / 1e9, 3))
        ran = (now - row.started) / 1e9
        return f"TimeLimitExceeded: ran {ran:.2f} s, its limit is {limit}", STACKS_NS
    if row.memory_limit and rss > row.memory_limit:
        sizes = f"its child has {format_size(rss)}, its limit is {format_size(row.memory_limit)}"
        return f"MemoryLimitExceeded: {sizes}", STACKS_OF_A_HOG_NS
    return None


def _over_at(row: Row, rss: int, now: int) -> int:
    """When a run that is not over its limits is to be looked at for that."""
    at = row.hard_deadline or _NEVER
    return min(at, now + look_after(row.memory_limit - rss)) if row.memory_limit else at


def may_be_marked(row: Row, taken: int) -> bool:
    """Whether what a child holds beside its run may be marked for a recall.

    Not if its run belongs to a reserve that was taken back (up to ``taken``): then either all that comes after it was
    taken already, or it is itself about to be given up (protocol.md, rule 9). And not by numbers that were scribbled.
    """
    in_order = taken < row.n <= row.last_reserve <= row.n + _MOST_AHEAD
    return in_order and row.last_reserve < _MOST and row.i < _MOST


def _holds_more(row: Row, taken: int) -> bool:
    """Whether it holds something beside its run, or may still be given it by a reserve that it has sent."""
    return (row.held > 1 or row.last_reserve > row.n) and may_be_marked(row, taken)


def _interruption(child: Child, row: Row) -> tuple[int, Interruption]:
    """When the run is to be signalled next, and why; 0 for never."""
    if child.cancelled.sequence == row.sequence:
        at = child.cancelled.since + _stage(Interruption.CANCEL, _signals(child, row))
        return at, Interruption.CANCEL
    if child.stop_since:
        at = max(child.stop_since, row.started) + _stage(Interruption.STOP, _signals(child, row))
        return at, Interruption.STOP
    if row.soft_deadline:
        at = row.soft_deadline + _stage(Interruption.SOFT_LIMIT, _signals(child, row))
        return at, Interruption.SOFT_LIMIT
    return 0, Interruption.SOFT_LIMIT


def _soonest_after_a_start(row: Row) -> int:
    """Nanoseconds after its start at which the last run was to be looked at first.

    The next one probably has the same limits, and is held together with others if that one was. With quick tasks a
    look mostly falls between two of them: were they not thought of, each look would be followed by a poke of the next
    task (2 us a task more).
    """
    after = [deadline - row.started for deadline in (row.hard_deadline, row.soft_deadline) if deadline > row.started]
    after += [LOOK_EVERY_NS] if row.memory_limit else []
    after += [RECALL_AFTER_NS] if row.held > 1 else []
    return max(min(after, default=_NEVER), LOOK_SOONEST_NS)


def _signals(child: Child, row: Row) -> int:
    """How often this run was signalled."""
    sequence, count = child.signalled
    return count if sequence == row.sequence else 0


def _stage(reason: Interruption, number: int) -> int:
    stages = STAGES_NS[reason]
    last = len(stages) - 1
    return stages[number] if number <= last else stages[last] + (number - last) * 1_000_000_000
