"""What a running task can ask about its own request: ``self.request`` of a bound task."""

from __future__ import annotations

import msgspec


class Request(msgspec.Struct, frozen=True):
    """The request that is being run."""

    id: str
    task: str
    queue: str
    attempt: int
    """1 for the first execution, 2 for the first retry."""
    lost: int
    """How many children died while running it."""
    priority: int
    headers: dict[str, str]
    owner: str
    """The child that runs it, as ``incarnation/slot.generation``."""
    fence: str
    """A token unique to this delivery, by which effects outside can be fenced."""


_current: Request | None = None


def current_request() -> Request | None:
    """The request this process is running, or None outside a task."""
    return _current


def enter(request: Request | None) -> None:
    """Set by the child around each task; a child runs one task at a time."""
    global _current  # noqa: PLW0603  one task at a time in a process
    _current = request
