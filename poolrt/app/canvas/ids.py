"""The ids of a workflow's parts, all made from the id of its result.

    chain        E:0, E:1, …, E          E is the id of the result, which is that of the last step
    group        E.0, E.1, …             its members' results
    chord        E:g.0, E:g.1, …, E      its members', and its body's
    callbacks    E:l0, …                 of its success (link)
                 E:e0, …; E:c0, …        of its failure (errback): of the call itself; of the whole line

So a workflow that is applied again under its id is the same workflow, and a part of it can be named before it exists.
"""

from __future__ import annotations

import hashlib
from typing import Final

MAX_DERIVED: Final = 90
"""Bytes; what would be longer is hashed, so that 12 levels stay readable and any number of them fits a board row."""


def bounded(task_id: str) -> str:
    """``task_id``, or what stands for it if that is too long to be a part of ids."""
    if len(task_id) <= MAX_DERIVED and task_id.isascii():
        return task_id
    return hashlib.sha256(task_id.encode()).hexdigest()[:32]


def derived(task_id: str, part: str) -> str:
    """The id of a part of what ``task_id`` is the result of; at most 120 bytes, whatever that is."""
    return f"{bounded(task_id)}:{part}"


def step_ids(task_id: str, count: int) -> list[str]:
    """Of a line of ``count`` steps, whose last one has ``task_id``."""
    return [derived(task_id, str(number)) for number in range(count - 1)] + [task_id] * bool(count)


def group_id(body_id: str) -> str:
    """Of the group whose body has this id."""
    return derived(body_id, "g")
