"""What a running task can ask about its own request: ``self.request`` of a bound task."""

from __future__ import annotations

import msgspec

from poolrt.message import Delivery, Message


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


_running: tuple[Message, Delivery, str] | None = None


def current_request() -> Request | None:
    """The request this process is running, or None outside a task."""
    if _running is None:
        return None
    message, delivery, owner = _running
    return Request(
        message.id, message.task, message.queue, message.attempt, delivery.lost, message.priority,
        message.headers or {}, owner, f"{owner}/{delivery.n}.{delivery.i}",
    )  # fmt: skip


def enter(message: Message, delivery: Delivery, owner: str) -> None:
    """A task begins; set by the child, which runs one at a time. The Request is made when somebody asks for it."""
    global _running  # noqa: PLW0603  one task at a time in a process
    _running = (message, delivery, owner)


def leave() -> None:
    """No task runs any more."""
    global _running  # noqa: PLW0603  see enter
    _running = None
