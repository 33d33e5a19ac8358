"""A workflow's tree from its root alone, as any process can ask for it: from what the broker has, and from the ids.

messages   what waits and runs, and inside it what follows
records    what has ended: asked for by the ids that parts have, level by level, a thousand at a time
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from poolrt.app.canvas.ids import bounded, derived, group_id
from poolrt.app.canvas.steps import Call, Fan, Line, Links, unpacked
from poolrt.app.canvas.tree import Tree
from poolrt.errors import DecodingError
from poolrt.message import decode_message, decode_record
from poolrt.states import TaskState
from poolrt.terms import Slot

if TYPE_CHECKING:
    from poolrt.brokers.base import Broker

_PAGE: Final = 1000
_CUTS: Final = re.compile("[:.]")
"""Where an id is cut to the one that it is derived from."""
_KINDS: Final[tuple[Callable[[str, int], str], ...]] = (
    lambda of, number: derived(of, str(number)),
    lambda of, number: Slot(group_id(of), number).id,
    lambda of, number: Slot(bounded(of), number).id,
)
"""The ids of the parts of a line, of the members of a body's group, and of those of a group without a body."""


def tree_of_root(broker: Broker, root: str) -> Tree:
    """Where each part of the workflow is whose result has the id ``root``, as far as anything of it is known."""
    known = dict(_waiting(broker, root))
    _add_ended(broker, root, known)
    return _line(broker, root, known)


def _waiting(broker: Broker, root: str) -> Iterator[tuple[str, tuple[str, str]]]:
    """``(id, (task, state))`` of what has not ended, and of what follows it."""
    after = ""
    while True:
        some, after = broker.messages(after)
        for found in some:
            try:
                message = decode_message(found.envelope or b"")
            except DecodingError:
                continue  # nobody can say what it belongs to
            if message.root == root:
                yield message.id, (message.task, str(found.state))
                yield from _following(message.terms.follow if message.terms else ())
        if not after:
            return


def _following(steps: Sequence[bytes]) -> Iterator[tuple[str, tuple[str, str]]]:
    for step in unpacked(steps):
        lines: tuple[Line, ...] = ()
        call: Call | None = None
        match step:
            case Call():
                call = step
            case Fan():
                call, lines = step.body, step.members
            case Links():
                lines = step.lines
        if call is not None:
            yield call.message.id, (call.message.task, str(TaskState.PLANNED))
        for line in lines:
            yield from _following(line.steps)


def _add_ended(broker: Broker, root: str, known: dict[str, tuple[str, str]]) -> None:
    """Look for records of parts, of their parts, and so on."""
    _learn(broker, [root], known)
    around = {root, *(task_id[: cut.start()] for task_id in known for cut in _CUTS.finditer(task_id))}
    level = [part for of in sorted(around) for kind in _KINDS for part in _parts(broker, of, kind, known)]
    while level:
        firsts = [kind(of, 0) for of in level for kind in _KINDS]
        _learn(broker, firsts, known)
        level = [
            part for of in level for kind in _KINDS if kind(of, 0) in known for part in _parts(broker, of, kind, known)
        ]


def _parts(broker: Broker, of: str, kind: Callable[[str, int], str], known: dict[str, tuple[str, str]]) -> list[str]:
    """The ids of this kind of which something is known, up to a page of which nothing is."""
    parts: list[str] = []
    start, size = 0, 10
    while True:
        ids = [kind(of, number) for number in range(start, start + size)]
        _learn(broker, ids, known)
        there = [task_id for task_id in ids if task_id in known]
        if not there:
            return parts
        parts += there
        start, size = start + size, _PAGE


def _learn(broker: Broker, ids: list[str], known: dict[str, tuple[str, str]]) -> None:
    """Take up the records of these ids; what has ended meanwhile is no longer what it was."""
    for start in range(0, len(ids), _PAGE):
        page = ids[start : start + _PAGE]
        for task_id, stored in zip(page, broker.records(page), strict=True):
            if stored is not None:
                record = decode_record(stored)
                known[task_id] = known.get(task_id, (record.task, ""))[0], str(record.state)


def _line(broker: Broker, of: str, known: dict[str, tuple[str, str]]) -> Tree:
    """The line whose result has this id."""
    parts: list[Tree] = []
    number = 0
    while there := _step(broker, derived(of, str(number)), known):
        parts += there
        number += 1
    parts += _step(broker, of, known)
    if not parts:
        parts.append(Tree("call", of, state=str(TaskState.UNKNOWN)))
    return parts[0] if len(parts) == 1 else Tree("chain", of, parts=tuple(parts))


def _step(broker: Broker, of: str, known: dict[str, tuple[str, str]]) -> list[Tree]:
    """A call with the group that it waited for, or a group, if anything is known of them."""
    made: list[Tree] = []
    for group, kind in ((group_id(of), _KINDS[1]), (bounded(of), _KINDS[2])):
        members: list[Tree] = []
        while kind(of, len(members)) in known or derived(kind(of, len(members)), "0") in known:
            members.append(_line(broker, kind(of, len(members)), known))
        if members:
            made.append(Tree("group", group, parts=tuple(members)))
    if of not in known and broker.find(of) is not None:
        known[of] = "", str(TaskState.PLANNED)  # the body of a group, or the end of a line, that the broker waits for
    if of in known:
        made.append(Tree("call", of, *known[of]))
    return made
