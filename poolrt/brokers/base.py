"""The broker's contract, on one page.

    producer   enqueue ─▶ QUEUED or DELAYED ──reserve──▶ RESERVED by an owner ──settle──▶ a Record, or nothing
                          │     ▲   └──promote──▶ QUEUED      │ release: back at its old place
           cancel ◀───────┘     └─── bury, rescue, recall ◀───┘ the owner died, or runs long

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
from typing import TYPE_CHECKING, NamedTuple, Protocol

from poolrt.hygiene.findings import LeakRow
from poolrt.message import Delivery, Enqueue, NewGroup, Outcome, Owner, Requeue
from poolrt.queue_choice import ALL_QUEUES, QueueChoice
from poolrt.states import TaskState

if TYPE_CHECKING:
    from poolrt.brokers.watching import Watch


class Settled(NamedTuple):
    """What ``settle`` did."""

    deliveries: list[Delivery]
    """Newly reserved, in the order to run them."""
    stale: int
    """Outcomes whose delivery the owner no longer held; they had no effect."""
    more: bool
    """Whether messages are still waiting, so that another idle child is worth waking."""
    woken: bool = False
    """Of ``submit_when_woken``: whether a wake-up came, and not only its time was over."""


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
    progress: bytes | None = None
    """What ``note_progress`` said last, of a message that has not ended."""


class Depth(NamedTuple):
    """How full the broker is. Counts of messages; ``oldest`` in seconds, None when nothing is queued."""

    queued: int
    delayed: int
    reserved: int
    dead: int
    oldest: float | None


class QueueDepth(NamedTuple):
    """One queue, as an operator sees it."""

    name: str
    queued: int
    paused: bool
    """Whether its messages wait until somebody unpauses it."""
    oldest: float | None
    """Age of its oldest queued message in seconds, None when there is none."""


class Doorbell(Protocol):
    """Rings when a steward should look now: a delayed message is due earlier, or a held one is to be cancelled.

    A ring is a hint and may be lost: the steward's tick looks anyway.
    """

    def fileno(self) -> int:
        """What to poll for reading; it may be another number after ``answer``."""

    def answer(self) -> None:
        """Take the rings that wait; never blocks for longer than the broker's timeout, never raises BrokerError."""

    def close(self) -> None:
        """Listen no more."""


class Broker(abc.ABC):
    """One store of messages and their records."""

    url: str
    """As given, without secrets; absolute for SQLite."""
    trusted: bool
    """Whether only this user can write to it, so that cloudpickle may be read from it."""
    leases: bool = False
    """Whether its nodes hold leases, renewed by ``renew``; else a node's lock alone says whether it lives."""
    pipelined: bool = False
    """Whether ``submit`` returns before the broker has done it, so that submitting early hides the round trip."""
    wakes_children: bool = False
    """Whether an idle child waits on the broker (``submit_when_woken``); else at its node's datagram socket."""

    def warnings(self) -> list[str]:
        """What about the store could lose messages, a line each; asked once, when a node starts. Raises BrokerError."""
        return []

    @property
    def secret_url(self) -> str:
        """What another process of this user needs to open the same broker: may hold a password. Never shown, and never
        in an argument, an environment or a log."""
        return self.url

    # ---- producers

    @abc.abstractmethod
    def enqueue(self, items: Sequence[Enqueue], groups: Sequence[NewGroup] = ()) -> list[bool]:
        """Store all of ``items`` or none; for each, whether it was new. Not stored again is an id that is known, nor a
        message whose ``unique`` key another one has (``unique_holder``); a follow-up of the holder has its id.

        A message with a ``gate`` is reserved only as that allows, in the order of its queue otherwise; no child waits
        for it. The limits of a gate are those of the message enqueued last. What is put back without having been
        started has used up its start. Wakes an idle child when something may be reserved.

        ``groups`` are made in the same step. The settle of a member (``Outcome.filled``) fills its slot, once however
        often it comes; the one that fills the last slot enqueues the body, in the same step, and the group is gone. A
        member that fails leaves its slot empty: at the first one the body's id gets the failure as its record, the
        errbacks are enqueued, and so it goes on in the outer groups. If such a member succeeds after all, tried again
        by an operator, it fills its slot, and the body's record goes when the body is enqueued. With ``collects``
        failed members fill their slots. A group that is unknown or past its ttl is not filled; one that is known is not
        made again.

        A group's body, and the ``last`` of it or of an item, are known from then on for ``DEAD_TTL`` seconds
        (``find``: planned; ``wait`` waits), until they are enqueued or have a record. Where a group fails, the ``last``
        of its body has the body's record; ``retry`` of an item, and enqueueing a body, drop that of its ``last``."""

    def enqueue_batches(
        self, batches: Iterable[Sequence[Enqueue]], stored: Callable[[Sequence[Enqueue]], None]
    ) -> None:
        """``enqueue`` of each batch, in order; ``stored`` is called with each once it is. A batch may be asked for
        before the one before it is stored; after an error only batches that were not told are in doubt."""
        for batch in batches:
            self.enqueue(batch)
            stored(batch)

    @abc.abstractmethod
    def unique_holder(self, key: str) -> str | None:
        """The id of the message that has this ``unique`` key, if a new one would be refused for it now."""

    @abc.abstractmethod
    def note_progress(self, task_id: str, progress: bytes, ttl: float) -> None:
        """Keep what a running task says of itself, for ``ttl`` seconds: ``find`` tells it until the task has ended."""

    @abc.abstractmethod
    def retry(self, item: Enqueue) -> bool:
        """In one atomic step drop the record of this id and store the message anew; False, and nothing is changed, if
        there is no record of it or its ``unique`` key is another's."""

    @abc.abstractmethod
    def records(self, ids: Sequence[str]) -> list[bytes | None]:
        """The records of these ids, in their order; one round trip for a thousand."""

    @abc.abstractmethod
    def end_ahead(self, records: Sequence[tuple[str, bytes]], ttl: float) -> list[bool]:
        """Keep a record for ids of which there is neither message nor record, so that a follow-up of this id is not
        enqueued any more; for each, whether it was kept. Who waits for it is told."""

    @abc.abstractmethod
    def fail_group(self, group: str, failure: bytes) -> bool:
        """Let a group fail as by a member, with the encoded Record of its body; whether it was there, unfailed."""

    @abc.abstractmethod
    def find(self, task_id: str) -> Found | None:
        """The message or record of this id; a record wins over a message only if the message is gone."""

    @abc.abstractmethod
    def wait(self, task_id: str, timeout: float | None) -> Found | None:
        """Block until the task has a record, then return it; None after ``timeout`` seconds, and at once when there
        is neither message nor record: unknown, or ended without one. Never polls."""

    def watch(self) -> Watch:
        """Waits for many tasks, as ``wait`` does for one."""
        raise NotImplementedError

    @abc.abstractmethod
    def cancel(self, task_id: str, outcome_of: Callable[[Delivery], Outcome]) -> bool:
        """In one atomic step end a message that waits, queued or delayed, with the Outcome of it, which is given as a
        delivery that nobody holds. False, and nothing is changed, if it is reserved, ended or unknown.

        ``outcome_of`` is poolrt's own and only computes: it may be called again, or in vain, if others are faster."""

    @abc.abstractmethod
    def cancel_held(self, task_id: str) -> bool:
        """Leave word that the message of this id is to be cancelled by the node that holds it, and ring that node's
        steward; False, and no word is left, if nobody holds it. The word goes when the delivery ends or is put back."""

    @abc.abstractmethod
    def forget(self, task_id: str) -> bool:
        """Delete the record of a task that ended; whether there was one."""

    # ---- the node: called by its steward

    @abc.abstractmethod
    def node_directory(self) -> Path:
        """Where each node of this broker keeps ``<node>.lock``, ``<node>.board`` and the datagram socket
        ``<node>.wake`` on which its idle children wait. Created, mode 0700."""

    @abc.abstractmethod
    def doorbell(self, node: str) -> Doorbell:
        """The bell of this node's steward."""

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
    def renew(self, incarnation: str) -> dict[str, int]:
        """Move the beat of this start on by one, and read the beats of all registered starts, its own included. Raises
        Fenced for a start that left, was rescued or never joined: nothing creates it anew (protocol.md, rule 2)."""

    @abc.abstractmethod
    def to_cancel(self, incarnation: str) -> list[tuple[Owner, Delivery]]:
        """What is held under the incarnation and is to be cancelled; told until it has ended or was put back."""

    @abc.abstractmethod
    def recall(self, owner: Owner, after: tuple[int, int], upto: int) -> int:
        """Requeue, uncounted and at their old place, what ``owner`` holds of reserves up to ``upto`` and would run
        after the delivery ``(n, i)`` that ``after`` names; no reserve up to ``upto`` gives it anything any more, also
        one that is still on its way. How many were requeued; 0 for an owner that is gone. (protocol.md, rules 7, 8)"""

    @abc.abstractmethod
    def running(self, owner: Owner, n: int, i: int) -> Delivery | None:
        """The delivery ``(n, i)`` if ``owner`` still holds it: what its board row says it was running."""

    @abc.abstractmethod
    def bury(self, owner: Owner, verdict: Outcome | Requeue | None) -> Buried:
        """In one atomic step bar ``owner`` for good, apply ``verdict`` to the delivery it names if still held,
        and requeue everything else it held, uncounted and at its old place. Idempotent."""

    @abc.abstractmethod
    def rescue(
        self, incarnation: str, verdicts: Iterable[Outcome | Requeue], *, suspect: bool, beat: int | None = None
    ) -> Buried:
        """``leave`` for a node that died: the verdicts take effect first; what else was held is requeued,
        marked suspect (delivered alone from now on) where ``suspect`` says that nobody saw what ran.

        With ``beat`` only if that is still the beat of the incarnation, in the same atomic step; else nothing."""

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

    @abc.abstractmethod
    def note_leaks(self, rows: Sequence[LeakRow], *, call: str) -> None:
        """Add what tasks left behind to what is known of it: rows of one kind, task and what are summed. Kept are
        ``LeakTable.MOST_ROWS`` of them: those seen last. One that counts runs alone begins nothing.

        ``call`` names the call: made again after an error, with the same rows, it counts once."""

    # ---- children

    @abc.abstractmethod
    def attach(self, owner: Owner, queues: QueueChoice = ALL_QUEUES) -> None:
        """Become the connection of ``owner``, which reserves from these queues; raises Fenced if it is barred or its
        incarnation never joined."""

    @abc.abstractmethod
    def submit(self, outcomes: Sequence[Outcome], reserve: int, n: int, *, without: Collection[str] = ()) -> None:
        """End deliveries and reserve up to ``reserve`` more under reserve number ``n``: one round trip, one
        transaction; ``answer`` says what it did. A suspect is only ever reserved alone, and only when nothing else is
        held (``outcomes`` settle everything the owner held). Tasks named in ``without`` are left to other nodes.

        Raises BrokerError: it is unknown whether anything of it, or of what was not answered before, was done."""

    @abc.abstractmethod
    def answer(self) -> Settled:
        """What the oldest submit without an answer did; waits for it at most ``timeout``.

        Raises Fenced; or BrokerError: then what became of it and of all later submits is unknown, none of them will be
        answered any more, and ``resume`` tells what is still held."""

    def settle(self, outcomes: Sequence[Outcome], reserve: int, n: int, *, without: Collection[str] = ()) -> Settled:
        """``submit`` and its ``answer``; nothing else may be unanswered."""
        self.submit(outcomes, reserve, n, without=without)
        return self.answer()

    @abc.abstractmethod
    def resume(self) -> list[tuple[int, int]]:
        """After a BrokerError of ``submit`` or ``answer``, on a connection that works: bar whatever older connections
        of this owner may still bring (protocol.md, rule 3), and say which deliveries ``(n, i)`` it holds; or Fenced."""

    def submit_when_woken(self, reserve: int, n: int, *, without: Collection[str] = ()) -> int:
        """A ``submit`` without outcomes that the broker carries out once something is queued, or after a second.

        Nothing else may be unanswered. Returns what to poll for reading: the ``answer``. ``resume`` gives it up."""
        raise NotImplementedError

    @abc.abstractmethod
    def release(self, deliveries: Sequence[Delivery]) -> int:
        """Put deliveries back, uncounted and at their old place; how many were still held."""

    # ---- operators

    @abc.abstractmethod
    def depth(self) -> Depth:
        """Counts and the age of the oldest queued message."""

    @abc.abstractmethod
    def queues(self) -> list[QueueDepth]:
        """Every queue that holds messages or is paused, by name."""

    @abc.abstractmethod
    def pause(self, queue: str) -> None:
        """Give out no message of this queue until ``unpause``; what is held goes on. Safe to call again."""

    @abc.abstractmethod
    def unpause(self, queue: str) -> None:
        """End a pause, and wake an idle child if messages wait. Safe to call again."""

    @abc.abstractmethod
    def empty(self, queue: str, limit: int = 10_000) -> int:
        """Delete up to ``limit`` queued messages of a queue without a record, the first to run first; how many."""

    @abc.abstractmethod
    def move(self, queue: str, to: str, limit: int = 10_000) -> int:
        """Put up to ``limit`` queued messages, the first to run first, into another queue, in their order and with
        their priority; how many."""

    @abc.abstractmethod
    def peek(self, queue: str, limit: int = 100) -> list[Found]:
        """The queued messages that are to run first, in that order; nothing is reserved."""

    @abc.abstractmethod
    def messages(self, after: str = "", limit: int = 1000) -> tuple[list[Found], str]:
        """Some of the messages that have not ended, queued, delayed and reserved, in no certain order, and where to go
        on (``after`` of the next call; empty: that was all). What is there all the while is told once at least."""

    @abc.abstractmethod
    def ended(self, state: TaskState, limit: int = 100) -> list[Found]:
        """The newest records in a final ``state``."""

    @abc.abstractmethod
    def leaks(self) -> list[LeakRow]:
        """What the tasks of all nodes left behind since ``forget_leaks``, ordered as ``LeakTable.rows`` does."""

    @abc.abstractmethod
    def forget_leaks(self) -> int:
        """Drop all rows of ``leaks``; how many there were."""

    @abc.abstractmethod
    def close(self) -> None:
        """Close this process's connection; the next call opens it again."""
