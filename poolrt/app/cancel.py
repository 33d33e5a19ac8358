"""Cancelling: one task by its id, or all that have not ended and fit a filter.

cancel ──▶ Broker.cancel: it waits, and ends here and now
       └─▶ Broker.cancel_held: a worker has it; its node is told (poolrt.steward.cancelling)
"""

from __future__ import annotations

import fnmatch
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Final

from poolrt.app.cancelled import cancelled
from poolrt.errors import ConfigurationError, DecodingError
from poolrt.message import Message, decode_message
from poolrt.states import FINAL, TaskState
from poolrt.units import parse_duration

if TYPE_CHECKING:
    from poolrt.brokers.base import Broker

_TRIES: Final = 10
"""How often a cancel follows a message that changes hands just then."""


def cancel(broker: Broker, task_id: str, *, running: bool = True) -> bool:
    """Cancel the task of this id; see ``AsyncResult.cancel``, and without ``running`` ``AsyncResult.revoke``."""
    told = False
    for _ in range(_TRIES):
        if broker.cancel(task_id, cancelled):
            return True
        told = (running and broker.cancel_held(task_id)) or told
        found = broker.find(task_id)
        if found is None or found.state in FINAL or (told and found.state is TaskState.RESERVED):
            break  # else it was put back just now, and the word has gone with the hold
    return told


class Cancels:
    """What an ``App`` can cancel."""

    broker: Broker

    def cancel(self, task_id: str) -> bool:
        """Keep the task of this id from starting, or end it while it runs: ``AsyncResult.cancel`` says how."""
        return cancel(self.broker, task_id)

    def revoke(self, task_id: str | Iterable[str], terminate: bool = False) -> int:  # noqa: FBT001, FBT002  Celery's
        """Celery's name for ``cancel``, of one id or many; how many were cancelled.

        Args:
            task_id: the id, or ids.
            terminate: cancel those too that a worker has, as ``cancel`` does; else they go on.
        """
        ids = [task_id] if isinstance(task_id, str) else task_id
        return sum(cancel(self.broker, each, running=terminate) for each in ids)

    def cancel_where(
        self, *, root: str | None = None, task: str | None = None, queue: str | None = None,
        headers: Mapping[str, str] | None = None, older_than: float | str | None = None,
    ) -> int:  # fmt: skip
        """Cancel every task that has not ended and fits all that is given: waiting, delayed and running.

        It looks until it finds no other one, so what they enqueue meanwhile is found too if it fits.

        Args:
            root: tasks that a run of the task of this id enqueued, directly or not, and that task itself.
            task: their name, or a pattern such as ``"mail.*"``.
            queue: the queue they wait in.
            headers: what their headers have, among others.
            older_than: seconds since they were enqueued, or ``"1h"``.

        Returns:
            How many were cancelled, or are to be by the node that runs them.

        Raises:
            ConfigurationError: nothing is given, which would be all tasks.
            BrokerError: some may have been cancelled before; it can be called again.
        """
        if all(given is None for given in (root, task, queue, headers, older_than)):
            raise ConfigurationError("cancel_where() without a filter would cancel every task; task='*' says that")
        before = None if older_than is None else time.time() - parse_duration(older_than)

        def fits(message: Message) -> bool:
            had = message.headers or {}
            return (
                (root is None or message.root == root)
                and (task is None or fnmatch.fnmatchcase(message.task, task))
                and (queue is None or message.queue == queue)
                and all(had.get(name) == value for name, value in (headers or {}).items())
                and (before is None or message.enqueued_at < before)
            )

        seen: set[str] = set()
        count = 0
        while True:
            found = {message.id for message in _messages(self.broker) if fits(message)} - seen
            if not found:
                return count
            seen |= found
            count += sum(cancel(self.broker, task_id) for task_id in found)


def _messages(broker: Broker) -> Iterator[Message]:
    """The messages that have not ended, as far as they can be read."""
    after = ""
    while True:
        some, after = broker.messages(after)
        for found in some:
            try:
                yield decode_message(found.envelope or b"")
            except DecodingError:
                continue  # it fits nothing, and becomes dead when its turn comes
        if not after:
            return
