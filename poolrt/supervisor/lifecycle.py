"""What the supervisor knows of one child, and the only way to change it."""

from __future__ import annotations

import logging
import os
import socket
from typing import Final

from poolrt.states import ChildState, ImpossibleMove, may_move

log = logging.getLogger("poolrt.supervisor")

STRICT: Final = "POOLRT_STRICT" in os.environ
"""Tests raise on an impossible move; production logs it as impossible and goes on."""

CHILD: Final = "child"
STEWARD: Final = "steward"


class Child:
    """A process the template was asked for. Invariant: ``state`` changes by ``move`` alone."""

    __slots__ = (
        "cause", "died_at", "generation", "hung", "leave_reason", "lifeline", "max_tasks", "pid", "pidfd",
        "requested_at", "role", "slot", "standby", "state", "up_at", "verdict",
    )  # fmt: skip

    def __init__(
        self, slot: int, generation: int, role: str, now: float, *, standby: bool = False, max_tasks: int = 0
    ) -> None:
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
        self.pid = 0
        self.pidfd = -1
        self.lifeline: socket.socket | None = None
        self.leave_reason = ""
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
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1
        if self.lifeline is not None:
            self.lifeline.close()
            self.lifeline = None
