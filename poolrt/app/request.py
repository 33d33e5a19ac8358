"""What a running task can ask about its own request: ``self.request`` of a bound task, ``current_task().request``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from poolrt.message import Delivery, Message
from poolrt.terms import NO_TERMS

if TYPE_CHECKING:
    from poolrt.app.task import Task


class Request(msgspec.Struct, frozen=True):
    """The request that is being run."""

    id: str
    task: str
    queue: str
    attempt: int
    """1 for the first execution, 2 for the first retry."""
    lost: int
    """How many children died while running this attempt."""
    priority: int
    headers: dict[str, str]
    """What the call was given, and what middleware added."""
    owner: str
    """The child that runs it, as ``incarnation/slot.generation``."""
    fence: str
    """A token unique to this delivery, by which effects outside can be fenced."""
    node: str
    """The name of the node that runs it."""
    parent: str
    """The id of the task whose run enqueued it; empty for none."""
    root: str
    """The id of the first of its line: its own, unless it has a parent."""
    group: str
    """The id of the group that it is a member of; empty for none."""
    eta: float | None
    """Wall time before which it was not to start."""
    expires: float | None
    """Wall time after which it was not to start."""
    deadline: float | None
    """Wall time at which its first time limit is over: the soft one, or the other if it has none; None for neither."""

    @property
    def retries(self) -> int:
        """Attempts before this one."""
        return self.attempt - 1

    @property
    def deliveries(self) -> int:
        """How often this attempt was given to a child: 1, and one more for each child that died while running it."""
        return self.lost + 1

    @property
    def child(self) -> str:
        """The child that runs it, on its node: ``slot.generation``."""
        return self.owner.rpartition("/")[2]


class Run(Protocol):
    """What the child keeps of a run."""

    message: Message
    delivery: Delivery
    task: Task[..., Any] | None
    deadline: int
    """CLOCK_MONOTONIC ns; 0 for none."""


_running: tuple[Run, str, str] | None = None


def current_run() -> Run | None:
    """The run of this process, or None outside a task."""
    return None if _running is None else _running[0]


def current_task() -> Task[..., Any] | None:
    """The task that this process is running, or None outside a task; its ``request`` says what runs."""
    return None if _running is None else _running[0].task


def current_request() -> Request | None:
    """The request this process is running, or None outside a task."""
    if _running is None:
        return None
    run, owner, node = _running
    message, delivery = run.message, run.delivery
    terms = message.terms or NO_TERMS
    deadline = time.time() + (run.deadline - time.monotonic_ns()) / 1e9 if run.deadline else None
    return Request(
        message.id, message.task, message.queue, message.attempt, delivery.lost, message.priority,
        message.headers or {}, owner, f"{owner}/{delivery.n}.{delivery.i}", node, terms.parent, message.root,
        terms.group, message.eta, message.expires, deadline,
    )  # fmt: skip


def enter(run: Run, owner: str, node: str) -> None:
    """A task begins; set by the child, which runs one at a time. The Request is made when somebody asks for it."""
    global _running  # noqa: PLW0603  one task at a time in a process
    _running = (run, owner, node)


def leave() -> None:
    """No task runs any more."""
    global _running  # noqa: PLW0603  see enter
    _running = None
