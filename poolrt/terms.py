"""What few messages have: limits and keys that hold over all nodes, their line, what follows, their attempts so far.

All of it lies in one field of the Message, so that the envelope of the others stays short.
"""

from __future__ import annotations

from typing import Final

import msgspec


class Gate(msgspec.Struct, frozen=True, array_like=True):
    """What lets the messages of one key start only so often, or so many at a time, over all nodes."""

    key: str
    """The task's name, unless the task says otherwise. Messages of one key in different queues share its limits."""
    rate: float = 0.0
    """So many start a second; 0 for no limit."""
    burst: int = 1
    """So many may start at once after a pause, of those that ``rate`` allows."""
    slots: int = 0
    """So many may be held by children at the same time; 0 for no limit."""


class Unique(msgspec.Struct, frozen=True, array_like=True):
    """A key that one message at a time has: until it has ended, and for ``seconds`` from its enqueueing at least."""

    key: str
    seconds: float = 0.0


class Attempt(msgspec.Struct, frozen=True, array_like=True):
    """How an attempt ended that was not the last one."""

    number: int
    ended_at: float
    """Wall time."""
    runtime: float
    """Seconds."""
    cause: str
    """The name of the exception's class, ``Retry`` or ``WorkerLost``."""
    text: str = ""
    owner: str = ""
    """The child that ran it."""


class Slot(msgspec.Struct, frozen=True, array_like=True):
    """One place in a group that waits for all of its members; the member's result is the record of ``id``."""

    group: str
    index: int

    @property
    def id(self) -> str:
        """Of the message whose result is the member's."""
        return f"{self.group}.{self.index}"


class Terms(msgspec.Struct, frozen=True, array_like=True):
    """What few messages have, kept together so that the envelope of the others stays short.

    Invariant: as the Message's.
    """

    parent: str = ""
    """The id of the task whose run enqueued it; empty for none."""
    root: str = ""
    """The id of the first of its line; empty if it is that itself."""
    group: str = ""
    """The id of the group that it is a member of."""
    gate: Gate | None = None
    unique: Unique | None = None
    track_started: bool = False
    """Whether its child says that it runs: ``AsyncResult.state`` is then ``started``."""
    max_retries: int | None = None
    """Of this call; None: the task's."""
    history: tuple[Attempt, ...] = ()
    """Its attempts so far, the last ``MAX_HISTORY`` of them."""
    follow: tuple[bytes, ...] = ()
    """What follows when it has succeeded, the next step first, each encoded; see app.canvas."""
    errbacks: tuple[bytes, ...] = ()
    """What is enqueued if it ends without a value, each encoded."""
    last: str = ""
    """The id under which the result of the last step of ``follow`` will be kept: if this one fails, that fails too."""
    slot: Slot | None = None
    """The place in a group that is filled when it, or the last step of ``follow``, has succeeded."""
    collect: tuple[str, int] | None = None
    """A group and its size, whose results are its first argument: read when it starts, not carried."""


NO_TERMS: Final = Terms()
MAX_HISTORY: Final = 20
