"""A workflow that was applied, as its producer knows it: what its parts are, and their ids, also of those to come."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from poolrt.app.canvas.ids import bounded, group_id, step_ids
from poolrt.app.canvas.parts import CallPart, FanPart, Part, Parts, awaited, inherited
from poolrt.terms import Slot

if TYPE_CHECKING:
    from poolrt.app.app import App


class Plan(NamedTuple):
    """A line of a workflow, with which the ids of all of its parts are known before they exist."""

    app: App
    line: Parts
    id: str
    """Of its result."""
    slot: Slot | None = None
    """Which its last call fills."""

    def steps(self) -> list[tuple[str, Part]]:
        """Its parts with their ids. A group whose result is awaited has a body."""
        parts = self.line.parts
        if self.slot is not None:
            parts = awaited(parts, CallPart(self.app.builtin["poolrt.collect"], (), {}, {}))
        return list(zip(step_ids(self.id, len(parts)), parts, strict=True))

    def members(self, step_id: str, fan: FanPart) -> Iterator[Plan]:
        """Those of the members of one of its groups."""
        group = group_of(step_id, fan)
        for index, member in enumerate(fan.members):
            slot = Slot(group, index)
            yield Plan(self.app, inherited(member.line(), fan), slot.id, slot if fan.body is not None else None)


def group_of(step_id: str, fan: FanPart) -> str:
    """The id of a group."""
    return bounded(step_id) if fan.body is None else group_id(step_id)
