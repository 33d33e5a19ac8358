"""What the success of a task does to the workflow that it is in: its next step is enqueued, or its slot is filled.

Pure, and nothing for messages that are in none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from poolrt.app.canvas.failing import NOTHING, Beside
from poolrt.app.canvas.starting import Place, Value, start
from poolrt.app.canvas.steps import MAX_PLACED_BYTES, passed_on
from poolrt.errors import EncodingError
from poolrt.message import Enqueue, Filled, Message, NewGroup
from poolrt.terms import Slot, Terms

if TYPE_CHECKING:
    from poolrt.app.app import App


def follow(app: App, message: Message, codec: str, encoded: bytes, now: float) -> Beside:
    """What follows a success.

    Args:
        app: of the child.
        message: what ran.
        codec: of its value.
        encoded: its value.
        now: wall time.

    Raises:
        EncodingError: what follows cannot be enqueued with this value; the step has then failed.
        DecodingError: it cannot be read here.
    """
    terms = message.terms
    if terms is None or not (terms.follow or terms.slot):
        return NOTHING
    if not terms.follow:
        return Beside(filled=_filled(terms.slot))
    follow_ups: list[Enqueue] = []
    groups: list[NewGroup] = []
    size = 0
    for made in start(terms.follow, Value(codec, encoded), _after(app, message, terms, now)):
        item = made.body if isinstance(made, NewGroup) else made
        size += len(item.envelope)
        if size > MAX_PLACED_BYTES:
            raise EncodingError(
                f"what follows {message.task} would be more than {MAX_PLACED_BYTES} bytes, since each member of a "
                "group gets the value: store the data elsewhere and return its name"
            )
        if isinstance(made, NewGroup):
            groups.append(made)
        else:
            follow_ups.append(made)
    # Where no later call of its own line follows, but only callbacks, it is the last one itself.
    return Beside(tuple(follow_ups), tuple(groups), None if terms.last else _filled(terms.slot))


def _filled(slot: Slot | None) -> Filled | None:
    return None if slot is None else Filled(slot)


def _after(app: App, message: Message, terms: Terms, now: float) -> Place:
    return Place(
        app, now, parent=message.id, root=message.root, group=terms.group, slot=terms.slot,
        last=terms.last or message.id, errbacks=passed_on(terms.errbacks),
    )  # fmt: skip
