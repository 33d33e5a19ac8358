"""What the screen shows and what a key does to it. Pure: a State in, a State and the requests to send out."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from poolrt.cli.pool_view import printable, task_name
from poolrt.top.keys import ESCAPE
from poolrt.top.rates import Rate

PAGE: Final = 10
"""Rows that page up and page down go."""


class Sort(enum.StrEnum):
    """The column that the children are sorted by; all but the slot have the largest first."""

    SLOT = "slot"
    """By number: a child stays where it is."""
    RSS = "rss"
    """The largest memory."""
    AGE = "age"
    """The longest running task."""
    TASKS = "tasks"
    """The most tasks done."""
    FDS = "fds"
    """The most open descriptors."""


SORTED_BY: Final = {Sort.RSS: "rss", Sort.AGE: "running_for", Sort.TASKS: "done", Sort.FDS: "fds"}
"""The key of a child's row that a column is sorted by."""


class Request(NamedTuple):
    """Something to ask of the supervisor."""

    do: str
    arguments: Mapping[str, Any]


class Question(NamedTuple):
    """What is asked on the status line, and what ``y`` sends."""

    text: str
    request: Request
    child: tuple[int, object] | None = None
    """Slot and generation of the child in question, if it is about one: another in its slot is not meant."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """All that a screen is made from. Durations are seconds."""

    node: str
    status: Mapping[str, Any]
    rates: Mapping[str, Rate] = dataclasses.field(default_factory=dict)
    sort: Sort = Sort.SLOT
    selected: int | None = None
    """A slot."""
    question: Question | None = None
    message: str = ""
    """The result of the last action."""
    frozen: bool = False
    help: bool = False
    ended: bool = False
    lost_for: float | None = None
    """How long nobody has answered under the node's name; None while connected."""
    silent_for: float = 0.0
    """How long the last look has been waiting for its answer; 0 when it is there."""
    scaled_to: int | None = None
    """What was asked for by ``+`` and ``-`` and is in no status yet."""
    unanswered: int = 0
    """Actions that were asked for and have no answer yet."""

    @property
    def children(self) -> Sequence[Mapping[str, Any]]:
        """The children's rows in the order in which they are shown."""
        rows: Sequence[Mapping[str, Any]] = self.status.get("children") or ()
        by = SORTED_BY.get(self.sort)
        if by is None:
            return sorted(rows, key=_slot)
        return sorted(rows, key=lambda row: (-(row.get(by) or 0), _slot(row)))

    @property
    def child(self) -> Mapping[str, Any] | None:
        """The selected child's row."""
        return next((row for row in self.children if row.get("slot") == self.selected), None)


def _slot(row: Mapping[str, Any]) -> int:
    slot = row.get("slot")
    return slot if isinstance(slot, int) else -1


def with_status(state: State, status: Mapping[str, Any], rates: Mapping[str, Rate]) -> State:
    """The state after a look at the node. A selection stays in its slot, or goes to the next one that is there."""
    heard = dataclasses.replace(
        state, lost_for=None, silent_for=0.0, scaled_to=state.scaled_to if state.unanswered else None
    )
    if state.frozen:
        return heard
    slots = sorted(_slot(row) for row in status.get("children") or ())
    selected = state.selected
    if selected is not None and selected not in slots:
        selected = next((slot for slot in slots if slot > selected), slots[-1] if slots else None)
    return dataclasses.replace(heard, status=status, rates=rates, selected=selected)


def with_answer(state: State, do: str, result: Any, error: str) -> State:
    """The state after the supervisor has answered an action, with a result or an error."""
    state = dataclasses.replace(state, unanswered=max(state.unanswered - 1, 0))
    if error:
        return dataclasses.replace(state, message=f"refused: {printable(error)}")
    answer = result if isinstance(result, Mapping) else {}
    if do == "recycle":
        return dataclasses.replace(state, message=_recycling(answer.get("recycling")))
    now = answer.get("concurrency")
    return dataclasses.replace(
        state, status={**state.status, "concurrency": now}, message=f"scaled to {_count(now)}"
    )  # fmt: skip


def lost(state: State, seconds: float) -> State:
    """The state while nobody answers under the node's name, since ``seconds`` ago; nothing asked of it holds."""
    message = "the node went away before it answered" if state.unanswered else state.message
    return dataclasses.replace(
        state, lost_for=seconds, silent_for=0.0, scaled_to=None, unanswered=0, question=None, message=message
    )


def _recycling(count: Any) -> str:
    return f"recycling {_count(count)}: each finishes its task first" if count else "nothing to recycle there"


def _count(number: Any) -> str:
    return "1 child" if number == 1 else f"{number} children"


# ---- keys


def on_key(state: State, key: str) -> tuple[State, list[Request]]:
    """What a key changes and sends. A question takes any key but ``y`` as no; a help page is closed by any key."""
    if state.question is not None:
        return _answered(state, state.question, key)
    if state.help:
        return dataclasses.replace(state, help=False), []
    state = dataclasses.replace(state, message="")
    if key in {"r", "R", "+", "-"}:
        return _action(state, key)
    if key in _STEPS:
        return _selected(state, _STEPS[key]), []
    change = _CHANGES.get(key)
    return (state if change is None else dataclasses.replace(state, **change(state))), []


_STEPS: Final = {
    "up": -1, "k": -1, "down": 1, "j": 1, "page up": -PAGE, "page down": PAGE, "home": -(10**6), "end": 10**6,
}  # fmt: skip
_NEXT: Final = dict(zip(Sort, [*list(Sort)[1:], Sort.SLOT], strict=True))
_CHANGES: Final[dict[str, Callable[[State], dict[str, Any]]]] = {
    "q": lambda state: {"ended": True},
    ESCAPE: lambda state: {"ended": True},
    "?": lambda state: {"help": True},
    "s": lambda state: {"sort": _NEXT[state.sort]},
    " ": lambda state: {"frozen": not state.frozen},
}


def _selected(state: State, step: int) -> State:
    slots = [_slot(row) for row in state.children]
    if not slots:
        return state
    if state.selected not in slots:
        return dataclasses.replace(state, selected=slots[0 if step > 0 else -1])
    place = min(max(slots.index(state.selected) + step, 0), len(slots) - 1)
    return dataclasses.replace(state, selected=slots[place])


def _action(state: State, key: str) -> tuple[State, list[Request]]:
    if state.lost_for is not None:
        return dataclasses.replace(state, message=f"nothing was asked: {printable(state.node)} does not run"), []
    if key in "+-":
        return _scaled(state, 1 if key == "+" else -1)
    if key == "R":
        question = Question("recycle all children? y/N", Request("recycle", {"slots": []}))
        return dataclasses.replace(state, question=question), []
    child = state.child
    if child is None:
        return dataclasses.replace(state, message="select a child first: ↑ ↓, or j k"), []
    task = child.get("task") or ""
    runs = f", running {printable(task_name(task, child.get('task_id') or ''))}" if task else ""
    question = Question(
        f"recycle child {state.selected} (pid {child.get('pid') or '–'}{runs})? y/N",
        Request("recycle", {"slots": [_slot(child)]}),
        (_slot(child), child.get("generation")),
    )
    return dataclasses.replace(state, question=question), []


def _scaled(state: State, step: int) -> tuple[State, list[Request]]:
    now = state.status.get("concurrency") if state.scaled_to is None else state.scaled_to
    wanted = (now or 0) + step
    if wanted < 0:
        return dataclasses.replace(state, message="there are 0 children already"), []
    return _asking(dataclasses.replace(state, scaled_to=wanted), Request("scale", {"n": wanted}))


def _asking(state: State, request: Request) -> tuple[State, list[Request]]:
    return dataclasses.replace(state, unanswered=state.unanswered + 1), [request]


def _answered(state: State, question: Question, key: str) -> tuple[State, list[Request]]:
    state = dataclasses.replace(state, question=None, message="")
    if key not in {"y", "Y"}:
        return dataclasses.replace(state, message="not recycled"), []
    there = {(_slot(row), row.get("generation")) for row in state.children}
    if question.child is not None and question.child not in there:
        return dataclasses.replace(state, message="not recycled: that child has left meanwhile"), []
    return _asking(state, question.request)
