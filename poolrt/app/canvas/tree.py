"""A workflow as a tree: what its parts are, and where each is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from poolrt.app.canvas.parts import CallPart
from poolrt.app.canvas.plan import group_of
from poolrt.message import decode_message, decode_record
from poolrt.states import TaskState

if TYPE_CHECKING:
    from poolrt.app.canvas.plan import Plan
    from poolrt.brokers.base import Broker

_PAGE: Final = 1000
SKIPPED: Final = "skipped"
"""The state of a call that does not come, since what is before it has failed."""
_MOST_SHOWN: Final = 20
"""Members of a group that are shown one by one; of more only how many are where."""


class Tree(NamedTuple):
    """A call, a group of lines, or a line of them."""

    kind: str
    """``call``, ``group`` or ``chain``."""
    id: str
    """Of a chain that of its result."""
    task: str = ""
    state: str = ""
    parts: tuple[Tree, ...] = ()
    """The steps of a chain, the members of a group."""

    def calls(self) -> Iterator[Tree]:
        """All calls in it."""
        if self.kind == "call":
            yield self
        for part in self.parts:
            yield from part.calls()

    def counts(self) -> dict[str, int]:
        """How many of its calls are in which state."""
        return dict(Counter(each.state for each in self.calls()))

    def to_dict(self) -> dict[str, Any]:
        """As JSON carries it."""
        if self.kind == "call":
            return {"kind": self.kind, "id": self.id, "task": self.task, "state": self.state}
        return {
            "kind": self.kind, "id": self.id, "counts": self.counts(), "parts": [each.to_dict() for each in self.parts]
        }  # fmt: skip

    def __str__(self) -> str:
        """A line for each part, what is inside further to the right."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        if self.kind == "call":
            yield f"{self.state:<10} {self.task} {self.id}"
            return
        counts = ", ".join(f"{count} {state}" for state, count in self.counts().items())
        what = "steps" if self.kind == "chain" else "members"
        yield f"{self.kind} of {len(self.parts)} {what}: {counts}"
        if self.kind == "group" and len(self.parts) > _MOST_SHOWN:
            return
        for part in self.parts:
            for line in str(part).splitlines():
                yield f"  {line}"


def tree_of(plan: Plan) -> Tree:
    """The tree of a line that was applied, with the present states."""
    tree = _shape(plan)
    return _with_states(tree, plan.app.broker) if any(tree.calls()) else tree


def tree_of_call(broker: Broker, task_id: str) -> Tree:
    """The tree of a call by itself, or of one of which no more is known here."""
    found = broker.find(task_id)
    if found is None:
        return Tree("call", task_id, state=str(TaskState.UNKNOWN))
    if found.record is not None:
        return Tree("call", task_id, decode_record(found.record).task, str(found.state))
    return Tree("call", task_id, decode_message(found.envelope).task if found.envelope else "", str(found.state))


def _shape(plan: Plan) -> Tree:
    parts: list[Tree] = []
    for step_id, part in plan.steps():
        if isinstance(part, CallPart):
            parts.append(Tree("call", step_id, part.task.name))
            continue
        members = tuple(_shape(each) for each in plan.members(step_id, part))
        if members or part.body is None:
            parts.append(Tree("group", group_of(step_id, part), parts=members))
        if part.body is not None:
            parts.append(Tree("call", step_id, part.body.task.name))
    return parts[0] if len(parts) == 1 else Tree("chain", plan.id, parts=tuple(parts))


def _with_states(tree: Tree, broker: Broker) -> Tree:
    ids = [each.id for each in tree.calls()]
    states: dict[str, str] = {}
    for start in range(0, len(ids), _PAGE):
        page = ids[start : start + _PAGE]
        for task_id, record in zip(page, broker.records(page), strict=True):
            if record is not None:
                states[task_id] = str(decode_record(record).state)
    for task_id in ids:
        if task_id not in states:
            found = broker.find(task_id)
            states[task_id] = str(TaskState.UNKNOWN if found is None else found.state)
    _marked(tree, states, is_reached=True)
    return _filled_in(tree, states)


def _marked(tree: Tree, states: dict[str, str], *, is_reached: bool) -> bool:
    """Say of unknown calls that they are planned, where what is before them has not failed; whether it goes on."""
    if tree.kind == "call":
        if states[tree.id] in (TaskState.UNKNOWN, TaskState.PLANNED):
            states[tree.id] = str(TaskState.PLANNED) if is_reached else SKIPPED
        return is_reached and states[tree.id] in _GOES_ON
    if tree.kind == "group":
        goes_on = [_marked(each, states, is_reached=is_reached) for each in tree.parts]
        return all(goes_on)
    for number, part in enumerate(tree.parts):
        # A step that keeps no record has succeeded if the next one was enqueued.
        if (
            part.kind == "call"
            and states[part.id] == TaskState.UNKNOWN
            and _was_reached(tree.parts[number + 1 :], states)
        ):
            states[part.id] = str(TaskState.SUCCEEDED)
        is_reached = _marked(part, states, is_reached=is_reached)
    return is_reached


def _was_reached(parts: tuple[Tree, ...], states: dict[str, str]) -> bool:
    return bool(parts) and any(states[each.id] in _REACHED for each in parts[0].calls())


_REACHED: Final = frozenset(
    {TaskState.QUEUED, TaskState.DELAYED, TaskState.RESERVED, TaskState.STARTED, TaskState.SUCCEEDED}
)
_GOES_ON: Final = _REACHED | {TaskState.PLANNED}


def _filled_in(tree: Tree, states: dict[str, str]) -> Tree:
    if tree.kind == "call":
        return tree._replace(state=states[tree.id])
    return tree._replace(parts=tuple(_filled_in(each, states) for each in tree.parts))
