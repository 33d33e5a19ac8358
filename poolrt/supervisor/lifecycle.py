"""What the supervisor knows of one child, and the only way to change it."""

from __future__ import annotations

import logging
import os
import socket
from typing import TYPE_CHECKING, Final, NamedTuple

from poolrt.posix.memory import ResidentSize
from poolrt.posix.open_files import OpenFiles
from poolrt.states import ChildState, ImpossibleMove, may_move
from poolrt.supervisor.rss_curve import RssCurve

log = logging.getLogger("poolrt.supervisor")

STRICT: Final = "POOLRT_STRICT" in os.environ
"""Tests raise on an impossible move; production logs it as impossible and goes on."""

CHILD: Final = "child"
STEWARD: Final = "steward"

SCALED_DOWN: Final = "scaled down"
STOPPING: Final = "stopping"
"""Reasons to leave after which nobody takes the place."""

if TYPE_CHECKING:
    from poolrt.supervisor.template_process import TemplateProcess


class Asked(NamedTuple):
    """That a child over a limit was asked for its stacks."""

    word: int
    """The word of its row then."""
    at: int
    """CLOCK_MONOTONIC ns."""
    size: int
    """Bytes written when it was looked at last."""
    cause: str = ""
    """What it is to be killed for."""


class CancelledRun(NamedTuple):
    """A run that somebody cancels."""

    sequence: int
    since: int
    """CLOCK_MONOTONIC ns."""
    kill_at: int
    """When its child is killed if it has not ended, CLOCK_MONOTONIC ns."""


class Child:
    """A process the template was asked for. Invariant: ``state`` changes by ``move`` alone."""

    __slots__ = (
        "asked", "birth_rss", "cancelled", "cause", "culprit", "died_at", "generation", "hung", "leave_reason",
        "lifeline", "max_tasks", "open_files", "pid", "pidfd", "replaces", "requested_at", "resident", "role", "rss",
        "signalled", "slot", "stacks_fd", "standby", "state", "still", "stop_since", "stopped_at", "template", "up_at",
        "verdict",
    )  # fmt: skip

    def __init__(
        self, slot: int, generation: int, role: str, now: float, *, standby: bool = False, max_tasks: int = 0,
        template: TemplateProcess | None = None,
    ) -> None:  # fmt: skip
        self.slot = slot
        self.generation = generation
        self.role = role
        self.state = ChildState.REQUESTED
        self.standby = standby
        self.max_tasks = max_tasks
        self.requested_at = now
        self.up_at: float | None = None
        self.died_at = 0.0
        """When a tick first saw it dead and the template had not said so: a template that stands still says nothing."""
        self.template = template
        """Who forked it, or will."""
        self.pid = 0
        self.pidfd = -1
        self.lifeline: socket.socket | None = None
        self.stacks_fd = -1
        """Where it writes its stacks; see posix.stacks."""
        self.resident: ResidentSize | None = None
        self.rss = RssCurve()
        self.open_files: OpenFiles | None = None
        """What it had open when we stopped it to kill it."""
        self.birth_rss = 0
        """Its resident size before its first task, in bytes: what it shares with the template, and little more."""
        self.signalled = (0, 0)
        """The run that was interrupted last, by its sequence number, and how often it was signalled."""
        self.stop_since = 0
        """CLOCK_MONOTONIC ns since when whatever it runs is to be interrupted, because the node stops; 0: it is not."""
        self.cancelled = CancelledRun(0, 0, 0)
        """The run that was cancelled last."""
        self.stopped_at = 0.0
        """When a tick first saw it stopped outside a task, by somebody else."""
        self.still = (0, 0.0)
        """Its word when it was last seen leaving or auditing itself, and since when it is that."""
        self.asked: Asked | None = None
        self.replaces = ""
        """Why the child whose place it took has left."""
        self.leave_reason = ""
        self.culprit = ""
        """The task that is the reason why it leaves, where one is."""
        self.cause = ""
        """Why we condemned it."""
        self.hung = False
        """It was condemned because its boot took too long."""
        self.verdict = "none"
        """What becomes of the task it ran, if we condemned it: see notice.Bury."""

    def __repr__(self) -> str:
        """One line for bug reports."""
        return f"<{self.role} {self.slot}.{self.generation} pid={self.pid or '-'} {self.state}>"

    def move(self, state: ChildState) -> None:
        """Go to ``state``; a move the table does not have raises in tests and is logged in production."""
        if not may_move(self.state, state):
            if STRICT:
                raise ImpossibleMove(f"{self!r} cannot become {state}")
            log.error("impossible: %r becomes %s", self, state)
        self.state = state

    @property
    def alive(self) -> bool:
        """Whether it exists or was asked for."""
        return self.state is not ChildState.DEAD

    @property
    def working(self) -> bool:
        """Whether it fills one of the wanted places."""
        return not self.standby and self.state in (ChildState.REQUESTED, ChildState.STARTING, ChildState.UP)

    @property
    def waiting(self) -> bool:
        """Whether it is, or will be, a standby."""
        return self.standby and self.state in (ChildState.REQUESTED, ChildState.STARTING, ChildState.STANDBY)

    def close(self) -> None:
        """Close what the supervisor holds of it."""
        if self.resident is not None:
            self.resident.close()
            self.resident = None
        if self.stacks_fd >= 0:
            os.close(self.stacks_fd)
            self.stacks_fd = -1
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1
        if self.lifeline is not None:
            self.lifeline.close()
            self.lifeline = None
