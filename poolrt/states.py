"""The states of tasks and children as tables: one writer each, and what may follow what.

``ChildState`` is written by the supervisor alone, ``Activity`` by the child alone (into its board row).
An impossible event raises in tests and is logged as impossible in production.
"""

from __future__ import annotations

import enum
from typing import Final


class TaskState(enum.StrEnum):
    """Where a task is. The last five are final."""

    UNKNOWN = "unknown"
    """The broker knows nothing of it: never enqueued, forgotten, or its record has passed its TTL."""
    PLANNED = "planned"
    """Is a later step of a workflow: it is enqueued when what comes before it has succeeded."""
    QUEUED = "queued"
    """Waits for a child."""
    DELAYED = "delayed"
    """Waits for its time: an ``eta``, a ``countdown`` or the backoff of a retry."""
    RESERVED = "reserved"
    """A child holds it, and may be running it."""
    STARTED = "started"
    """A child runs it, and has said so: only of tasks with ``track_started``."""
    SUCCEEDED = "succeeded"
    """Returned a value."""
    FAILED = "failed"
    """Raised, or was ended by one of its limits."""
    CANCELLED = "cancelled"
    """Was cancelled."""
    EXPIRED = "expired"
    """Its ``expires`` passed before it could start."""
    DEAD = "dead"
    """Was given up; the record keeps its message and says why."""


FINAL: Final = frozenset(
    {TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED, TaskState.EXPIRED, TaskState.DEAD}
)


class ChildState(enum.StrEnum):
    """What the supervisor knows of a child."""

    REQUESTED = "requested"
    """The template was asked to fork it."""
    STARTING = "starting"
    """Forked, not up yet."""
    STANDBY = "standby"
    """Up, waiting to take a leaving child's place."""
    UP = "up"
    """Pulls tasks."""
    RETIRING = "retiring"
    """Was asked to leave, or said that it leaves."""
    CONDEMNED = "condemned"
    """Must be killed, or was killed by us and has not exited yet."""
    DEAD = "dead"
    """Exited; its slot is kept until the steward says that what it held is settled."""


CHILD_MOVES: Final[dict[ChildState, frozenset[ChildState]]] = {
    ChildState.REQUESTED: frozenset({ChildState.STARTING, ChildState.DEAD}),
    ChildState.STARTING: frozenset(
        {ChildState.STANDBY, ChildState.UP, ChildState.RETIRING, ChildState.CONDEMNED, ChildState.DEAD}
    ),
    ChildState.STANDBY: frozenset({ChildState.UP, ChildState.RETIRING, ChildState.CONDEMNED, ChildState.DEAD}),
    ChildState.UP: frozenset({ChildState.RETIRING, ChildState.CONDEMNED, ChildState.DEAD}),
    ChildState.RETIRING: frozenset({ChildState.CONDEMNED, ChildState.DEAD}),
    ChildState.CONDEMNED: frozenset({ChildState.DEAD}),
    ChildState.DEAD: frozenset(),
}


class NodeState(enum.StrEnum):
    """What a node does; written by its supervisor. Each follows the one before it, some may be skipped."""

    STARTING = "starting"
    """The app is being imported."""
    SERVING = "serving"
    """Children may run tasks."""
    QUIET = "quiet"
    """Running tasks may finish; no other is started until the node resumes, and so serves again."""
    DRAINING = "draining"
    """Running tasks may finish; no other is started."""
    STOPPED = "stopped"
    """Nothing of the node is left."""


class Activity(enum.IntEnum):
    """What a child does, as the low byte of its board word."""

    NONE = 0
    """The row is unused, or the child has not written yet."""
    BOOT = 1
    """Between fork and its first look at the queue."""
    STANDBY = 2
    """Waits for the order to take its place."""
    IDLE = 3
    """Holds nothing and waits for work."""
    RUN = 4
    """Runs the delivery named in the row: the only state in which a death counts against a message."""
    COMMIT = 5
    """Settles finished tasks and reserves the next."""
    AUDIT = 6
    """Looks at what the task left behind."""
    LEAVE = 7
    """Gives back what it holds and exits."""


EX_BOOT_FAILED: Final = 70
"""A child's exit code when it could not become ready (EX_SOFTWARE); its Notice said why."""
EX_FENCED: Final = 75
"""A child's exit code when the broker does not know it any more (EX_TEMPFAIL)."""
EX_STORE_GONE: Final = 74
"""A child's exit code when the broker's store is damaged, deleted or replaced (EX_IOERR)."""

EX_CUT_OFF: Final = 68
"""A child's exit code when it reaches neither its supervisor nor the broker (EX_NOHOST)."""


class Order(enum.IntEnum):
    """What the supervisor tells a child through its row; the child looks between two tasks."""

    WORK = 0
    """Pull tasks."""
    STANDBY = 1
    """Finish the task that runs, put back the rest, wait: for a place to be free, or for a quiet node to resume."""
    RETIRE = 2
    """Finish the task that runs, put back the rest, exit."""
    HAND_OVER = 3
    """For a steward: exit without giving the node's deliveries back; another one takes over."""


class Interruption(enum.IntEnum):
    """Why the supervisor interrupts a run from inside, by SIGUSR2; the low byte of the row's cell."""

    SOFT_LIMIT = 1
    """It is past its soft time limit: ``SoftTimeLimitExceeded`` is raised in the task."""
    STOP = 2
    """The node stops now: ``TaskInterrupted`` is raised in the task, and its delivery is put back, uncounted."""
    CANCEL = 3
    """Somebody cancels it: ``Cancelled`` is raised in the task, which then ends as cancelled."""


class Kill(enum.IntEnum):
    """Why the supervisor kills a run; on the board, so that it is known even if the supervisor dies just then."""

    TIME_LIMIT = 1
    """It is past its time limit."""
    MEMORY_LIMIT = 2
    """Its child is above its memory limit."""
    STOPPED = 3
    """For another reason of ours: the node stops, or the child has to go. No count against the task."""
    CANCELLED = 4
    """Somebody cancelled it while it ran, and it did not end within ``cancel_grace``."""


class ImpossibleMove(AssertionError):
    """A state machine was asked for a move its table does not have."""


def may_move(before: ChildState, after: ChildState) -> bool:
    """Whether the table allows a child to go from ``before`` to ``after``."""
    return after in CHILD_MOVES[before]
