"""The broker's contract, on one page.

    producer   enqueue ─▶ QUEUED or DELAYED ──reserve──▶ RESERVED by an owner ──settle──▶ a Record, or nothing
                          │     ▲   └──promote──▶ QUEUED      │ release: back at its old place
           cancel ◀───────┘     └──────── bury, rescue ◀──────┘ the owner died

What every broker promises, and tests/brokers/ checks on each (protocol.md gives the failure behind each rule):

1. What ``enqueue`` returned for survives any process being killed.
2. A message is held by one owner at a time. Everything an owner says carries its fence; what a stale fence
   says is counted and changes nothing; an owner that was buried, or never attached, raises ``Fenced``.
3. ``settle`` is atomic for each outcome: record, follow-ups and the end of the delivery, or none of them.
4. Higher priority first; within one priority the order of enqueueing, also after a release or a rescue.
5. No call blocks longer than ``timeout`` seconds; then it raises ``BrokerBusy``. Errors are ``BrokerError``.
6. A broker object may be used before and after a fork, and from several threads.

What a broker must never do: decode an envelope, run user code, or act on wall time other than ``eta`` and TTLs.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from poolrt.message import Delivery, Enqueue, Outcome, Owner, Requeue
from poolrt.states import TaskState


class Settled(NamedTuple):
    """What ``settle`` did."""

    deliveries: list[Delivery]
    """Newly reserved, in the order to run them."""
    stale: int
    """Outcomes whose delivery the owner no longer held; they had no effect."""
    more: bool
    """Whether messages are still waiting, so that another idle child is worth waking."""


class Buried(NamedTuple):
    """What ``bury`` or ``rescue`` did."""

    requeued: int
    """Deliveries put back, the running one included."""
    settled: bool
    """Whether the verdict took effect (it does not if the child settled just before it died)."""


class Found(NamedTuple):
    """An operator's view of one stored message or record."""

    id: str
    state: TaskState
    envelope: bytes | None
    record: bytes | None
    lost: int


class Depth(NamedTuple):
    """How full the broker is. Counts of messages; ``oldest`` in seconds, None when nothing is queued."""

    queued: int
    delayed: int
    reserved: int
    dead: int
    oldest: float | None


class Broker(abc.ABC):
    """One store of messages and their records."""

    url: str
    """As given, without secrets; absolute for SQLite."""
    trusted: bool
    """Whether only this user can write to it, so that cloudpickle may be read from it."""

    # ---- producers

    @abc.abstractmethod
    def enqueue(self, items: Sequence[Enqueue]) -> list[bool]:
        """Store all of ``items`` or none; for each, whether it was new (an id that is known is not stored again).

        Wakes an idle child when something is queued."""

    @abc.abstractmethod
    def find(self, task_id: str) -> Found | None:
        """The message or record of this id; a record wins over a message only if the message is gone."""

    @abc.abstractmethod
    def wait(self, task_id: str, timeout: float | None) -> Found | None:
        """Block until the task has a record, then return it; None after ``timeout`` seconds, and at once when there
        is neither message nor record: unknown, or ended without one. Never polls."""

    @abc.abstractmethod
    def cancel(self, task_id: str, outcome_of: Callable[[Delivery], Outcome]) -> bool:
        """In one atomic step end a message that waits, queued or delayed, with the Outcome of it, which is given as a
        delivery that nobody holds. False, and nothing is changed, if it is reserved, ended or unknown.

        ``outcome_of`` is poolrt's own and only computes: it may be called again, or in vain, if others are faster."""

    @abc.abstractmethod
    def forget(self, task_id: str) -> bool:
        """Delete the record of a task that ended; whether there was one."""

    # ---- the node: called by its steward

    @abc.abstractmethod
    def node_directory(self) -> Path:
        """Where each node of this broker keeps ``<node>.lock``, ``<node>.board`` and the datagram socket
        ``<node>.wake`` on which its idle children wait. Created, mode 0700."""

    @abc.abstractmethod
    def join(self, incarnation: str, node: str) -> None:
        """Register one start of a node. Before it, no owner of that incarnation can attach. Safe to call again;
        Fenced for a start that left or was rescued."""

    @abc.abstractmethod
    def leave(self, incarnation: str) -> int:
        """Requeue what is still held under the incarnation and bar its owners for good; how many were requeued."""

    @abc.abstractmethod
    def others(self) -> list[tuple[str, str]]:
        """``(incarnation, node)`` of every registered start of any node."""

    @abc.abstractmethod
    def running(self, owner: Owner, n: int, i: int) -> Delivery | None:
        """The delivery ``(n, i)`` if ``owner`` still holds it: what its board row says it was running."""

    @abc.abstractmethod
    def bury(self, owner: Owner, verdict: Outcome | Requeue | None) -> Buried:
        """In one atomic step bar ``owner`` for good, apply ``verdict`` to the delivery it names if still held,
        and requeue everything else it held, uncounted and at its old place. Idempotent."""

    @abc.abstractmethod
    def rescue(self, incarnation: str, verdicts: Iterable[Outcome | Requeue], *, suspect: bool) -> Buried:
        """``leave`` for a node that died: the verdicts take effect first; what else was held is requeued,
        marked suspect (delivered alone from now on) where ``suspect`` says that nobody saw what ran."""

    @abc.abstractmethod
    def promote(self) -> float | None:
        """Queue what is due; seconds until the next delayed message is due, or None when there is none.
        Wakes idle children for what it queued."""

    @abc.abstractmethod
    def purge(self, limit: int = 1000) -> int:
        """Delete up to ``limit`` records whose TTL has passed; how many."""

    @abc.abstractmethod
    def nudge(self) -> None:
        """Wake an idle child of some node if messages are queued. The steward calls it each tick, since a dying
        child can take a wake-up with it; a child calls it when it was woken and ``Settled.more`` is true."""

    # ---- children

    @abc.abstractmethod
    def attach(self, owner: Owner) -> None:
        """Become the connection of ``owner``; raises Fenced if it is barred or its incarnation never joined."""

    @abc.abstractmethod
    def settle(self, outcomes: Sequence[Outcome], reserve: int, n: int, *, without: Collection[str] = ()) -> Settled:
        """End deliveries and reserve up to ``reserve`` more under reserve number ``n``: one round trip, one
        transaction. A suspect is only ever reserved alone, and only when nothing else is held (``outcomes``
        settle everything the owner held). Tasks named in ``without`` are left to other nodes."""

    @abc.abstractmethod
    def release(self, deliveries: Sequence[Delivery]) -> int:
        """Put deliveries back, uncounted and at their old place; how many were still held."""

    # ---- operators

    @abc.abstractmethod
    def depth(self) -> Depth:
        """Counts and the age of the oldest queued message."""

    @abc.abstractmethod
    def ended(self, state: TaskState, limit: int = 100) -> list[Found]:
        """The newest records in a final ``state``."""

    @abc.abstractmethod
    def close(self) -> None:
        """Close this process's connection; the next call opens it again."""
