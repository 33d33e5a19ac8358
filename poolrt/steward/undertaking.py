"""What becomes of the deliveries of the dead: of a child, of an earlier start of this node, of another node.

A death is told by the supervisor with the delivery the dead child's row names in RUN. That one alone counts
as lost (protocol.md, rule 17): it is tried again with backoff, and given up after ``max_deliveries`` deaths.
Everything else it held goes back to its old place, uncounted.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import msgspec

from poolrt.app.cancelled import cancelled, going_on
from poolrt.app.canvas.failing import failing
from poolrt.app.retrying import LIMITS, attempt_ended, most_retries, retry_of
from poolrt.errors import DecodingError
from poolrt.events import Event, EventKind
from poolrt.incarnation import MARK, left_running, listed
from poolrt.message import (
    DEAD_TTL,
    Delivery,
    ErrorInfo,
    Message,
    Outcome,
    Owner,
    Record,
    Requeue,
    decode_message,
    encode_record,
)
from poolrt.notice import Bury
from poolrt.posix.locks import is_held
from poolrt.posix.processes import marked
from poolrt.states import Kill, TaskState

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping
    from pathlib import Path

    from poolrt.app.app import App
    from poolrt.board import Running
    from poolrt.child.main import Place
    from poolrt.notice import Reclaim
    from poolrt.steward.beats import Expired

_FIRST_BACKOFF = 0.5
_MAX_BACKOFF = 60.0


class Undertaker:
    """Buries children and rescues nodes; each call is safe to repeat."""

    def __init__(
        self, app: App, place: Place, report: Callable[[Event], None], turn: Callable[[], None]
    ) -> None:  # fmt: skip
        self._broker = app.broker
        self._tasks = app.tasks
        self._place = place
        self._max_deliveries = place.settings.max_deliveries
        self._report = report
        self._turn = turn
        """The steward's, between two calls of the broker."""
        self._untold: list[Event] = []
        """What the verdicts of the present call mean; told when the broker has done it, so once and true."""

    def bury(self, command: Bury) -> None:
        """Settle what a dead child held."""
        owner = Owner(self._place.incarnation, command.slot, command.generation)
        self._untold.clear()
        verdict = None
        if command.verdict != "none":
            verdict = self._verdict(owner, command.n, command.i, command)
            self._turn()
        if self._broker.bury(owner, verdict).settled:
            self._tell_all()

    def reclaim(self, command: Reclaim) -> None:
        """Put back what an earlier start of this node held; its board says what ran, or everything is suspect."""
        self._rescue(command.incarnation, command.running, self._place.node)

    def rescue_dead_nodes(self) -> None:
        """Rescue what nodes held whose lock nobody holds: on one machine a free lock is proof of death.

        Where nodes hold leases, the lock has to list the start as well: without it, it is another machine's.
        """
        directory = self._broker.node_directory()
        for incarnation, node in self._broker.others():
            lock = directory / f"{node}.lock"
            if node == self._place.node or (self._broker.leases and not _lists(lock, incarnation)) or is_held(lock):
                continue
            self._turn()
            self._rescue(incarnation, running_of(directory / f"{node}.board", incarnation), node)

    def rescue_unlisted_starts(self, reclaimed: Collection[str]) -> None:
        """Rescue earlier starts of this node that its lock file did not list: it was deleted while the node was down.

        Those that are being ``reclaimed`` were listed. One of which a process is left may live, under a deleted lock.
        """
        for incarnation, node in self._broker.others():
            listed = incarnation in {self._place.incarnation, *reclaimed}
            if node == self._place.node and not listed and not marked(MARK, incarnation):
                self._rescue(incarnation, None, node)

    def rescue_expired(self, expired: Expired) -> None:
        """Rescue what a start held whose beat stood still for a lease; nothing, if it has moved since.

        Of several stewards that try, the broker lets one do it. Nobody saw what ran, so all of it is suspect.
        """
        requeued = self._broker.rescue(expired.incarnation, (), suspect=True, beat=expired.beat).requeued
        if requeued:
            cause = f"start {expired.incarnation} did not renew its lease"
            self._report(Event(EventKind.NODE_RESCUED, time.time(), cause=cause, numbers={"requeued": requeued}))

    def _rescue(self, incarnation: str, running: Iterable[Running] | None, node: str) -> None:
        self._untold.clear()
        verdicts = []
        for slot, generation, n, i, kill in running or ():
            self._turn()
            owner = Owner(incarnation, slot, generation)
            verdict = self._verdict(owner, n, i, _order(slot, generation, n, i, kill) if kill else None)
            if verdict is not None:
                verdicts.append(verdict)
        self._turn()
        done = self._broker.rescue(incarnation, verdicts, suspect=running is None)
        if done.settled:
            self._tell_all()
        if done.requeued or verdicts:
            self._report(
                Event(
                    EventKind.NODE_RESCUED, time.time(), node=node, cause=f"start {incarnation} of {node} is dead",
                    numbers={"requeued": done.requeued, "running": len(verdicts)},
                )
            )  # fmt: skip

    def _verdict(self, owner: Owner, n: int, i: int, command: Bury | None) -> Outcome | Requeue | None:
        """What happens to the delivery that ran; None when the child had settled it before it died."""
        delivery = self._broker.running(owner, n, i)
        if delivery is None:
            return None
        try:
            message = decode_message(delivery.envelope)
        except DecodingError:
            return None
        if command is not None and command.verdict == "failed":
            return self._limited(delivery, message, owner, command)
        if command is not None and command.verdict == "cancelled":
            return self._cancelled(delivery, message, owner, command)
        if command is not None and command.verdict == "stopped" and message.acks_late:
            return None  # it goes back with everything else, uncounted
        return self._lost(delivery, message, owner, command)

    def _lost(
        self, delivery: Delivery, message: Message, owner: Owner, command: Bury | None
    ) -> Outcome | Requeue:  # fmt: skip
        """Its child died, or its whole node: tried again with backoff, up to its limit."""
        cause = command.cause if command else "the whole node died while it ran"
        lost = delivery.lost + 1
        if not message.acks_late:
            self._tell(EventKind.TASK_FAILED, owner, message, cause, {})
            return self._ended(delivery, message, owner, TaskState.FAILED, "WorkerLost", cause, lost, command)
        if lost >= self._max_deliveries:
            text = f"its child died {lost} times while running it; last: {cause}"
            self._tell(EventKind.TASK_DEAD, owner, message, text, {"deliveries": lost})
            return self._ended(delivery, message, owner, TaskState.DEAD, "WorkerLost", text, lost, command)
        delay = min(_FIRST_BACKOFF * 2.0 ** (lost - 1), _MAX_BACKOFF)
        self._tell(
            EventKind.TASK_REQUEUED, owner, message, cause,
            {"delivery": lost, "of": self._max_deliveries, "backoff": delay},
        )  # fmt: skip
        return Requeue(delivery, delay)

    def _limited(self, delivery: Delivery, message: Message, owner: Owner, command: Bury) -> Outcome:
        """A limit ended the task: failed, or tried again where its ``retry_for`` names the limit's error."""
        kind, _, text = command.cause.partition(": ")
        # A function that travels by value has its options with it, and is not unpickled here: it is not tried again.
        task = self._tasks.get(message.task) if message.function is None else None
        if task is not None and kind in LIMITS:
            ended = attempt_ended(message, kind, text, command.runtime, str(owner), delivery.lost)
            again = retry_of(message, task.options, LIMITS[kind], ended)
            if again is not None:
                numbers = {"attempt": again.attempt}
                if (most := most_retries(message, task.options)) is not None:
                    numbers["of"] = most + 1
                self._tell(EventKind.TASK_REQUEUED, owner, message, command.cause, numbers)
                return going_on(delivery, again)
        self._tell(EventKind.TASK_FAILED, owner, message, command.cause, {"runtime": command.runtime})
        return self._ended(delivery, message, owner, TaskState.FAILED, kind, text, delivery.lost, command)

    def _cancelled(self, delivery: Delivery, message: Message, owner: Owner, command: Bury) -> Outcome:
        """It was cancelled and did not end in time: it ends now, and nothing counts against it."""
        self._tell(EventKind.TASK_CANCELLED, owner, message, command.cause, {"runtime": command.runtime})
        why = command.cause.partition(": ")[2]
        return cancelled(
            delivery, history=f"it was running, and its child was killed: {why}", owner=str(owner),
            runtime=command.runtime, status=command.status, peak_memory=command.peak_rss,
        )  # fmt: skip

    def _ended(
        self, delivery: Delivery, message: Message, owner: Owner, state: TaskState, kind: str, text: str,
        lost: int, command: Bury | None,
    ) -> Outcome:  # fmt: skip
        """The Outcome with all that is known of the child's end; ``command`` None: its whole node died."""
        record = Record(
            state, message.task, time.time(), error=ErrorInfo(kind, text), attempt=message.attempt, lost=lost,
            owner=str(owner), envelope=delivery.envelope, history=message.terms.history if message.terms else (),
        )  # fmt: skip
        if command is not None:
            record = msgspec.structs.replace(
                record, runtime=command.runtime, status=command.status, peak_memory=command.peak_rss,
                stack=command.stack, report=command.report,
            )  # fmt: skip
        ttl = message.ttl if state is TaskState.FAILED else DEAD_TTL
        return failing(message, record).of(Outcome(delivery, state, encode_record(record), ttl))

    def _tell_all(self) -> None:
        for event in self._untold:
            self._report(event)
        self._untold.clear()

    def _tell(self, kind: EventKind, owner: Owner, message: Message, cause: str, numbers: Mapping[str, float]) -> None:
        self._untold.append(
            Event(
                kind, time.time(), node=self._place.node, slot=owner.slot, generation=owner.generation,
                task=message.task, task_id=message.id, cause=cause, numbers=dict(numbers),
            )
        )  # fmt: skip


_KILLED: dict[int, tuple[str, str]] = {
    Kill.TIME_LIMIT: ("TimeLimitExceeded", "failed"),
    Kill.MEMORY_LIMIT: ("MemoryLimitExceeded", "failed"),
    Kill.CANCELLED: ("TaskCancelled", "cancelled"),
}


def _order(slot: int, generation: int, n: int, i: int, kill: int) -> Bury:
    """What the supervisor would have told of a child that it was killing when it died itself."""
    kind, verdict = _KILLED.get(kill, ("Stopped", "stopped"))
    cause = f"{kind}: its supervisor died as well, so the numbers are lost"
    return Bury(0, slot, generation, n, i, cause, verdict)


def _lists(lock: Path, incarnation: str) -> bool:
    """Whether a node's lock file says that this start was made under it, on this machine."""
    try:
        return incarnation in listed(lock.read_bytes())
    except OSError:
        return False


def running_of(path: Path, incarnation: str) -> tuple[Running, ...] | None:
    """What the children of a dead start were running, from its board file; None when it tells nothing of that start."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return left_running(fd, incarnation)
    finally:
        os.close(fd)
