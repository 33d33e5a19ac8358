"""The calls of ``RedisBroker`` for those who look after queues."""

from __future__ import annotations

from poolrt.brokers.base import Broker, Depth, Found, QueueDepth
from poolrt.brokers.redis import wire
from poolrt.brokers.redis.calls import Calls
from poolrt.brokers.redis.found import recorded_in, text_of, waiting_in
from poolrt.clock import Clock
from poolrt.errors import ConfigurationError
from poolrt.hygiene.findings import LeakRow, LeakTable
from poolrt.states import FINAL, TaskState


class Operators(Broker):
    """The operators' part of the contract; ``RedisBroker`` is the rest."""

    _calls: Calls
    _clock: Clock

    def depth(self) -> Depth:
        """See ``Broker``."""
        delayed, messages, dead, *queues = self._calls.run("depth")
        queued = sum(count for _, _, count, _ in queues)
        ages = [self._age(since) for _, _, _, since in queues if since]
        return Depth(queued, delayed, max(0, messages - queued - delayed), dead, max(ages, default=None))

    def queues(self) -> list[QueueDepth]:
        """See ``Broker``."""
        _, _, _, *queues = self._calls.run("depth")
        return sorted(
            QueueDepth(text_of(name), count, flag == b"0", self._age(since) if since else None)
            for name, flag, count, since in queues
            if count or flag == b"0"
        )

    def pause(self, queue: str) -> None:
        """See ``Broker``."""
        self._calls.run("pause", queue)

    def unpause(self, queue: str) -> None:
        """See ``Broker``."""
        self._calls.run("unpause", queue)

    def empty(self, queue: str, limit: int = 10_000) -> int:
        """See ``Broker``."""
        return int(self._calls.run("queue_head", "empty", queue, limit))

    def move(self, queue: str, to: str, limit: int = 10_000) -> int:
        """See ``Broker``."""
        return int(self._calls.run("queue_head", "move", queue, limit, to))

    def peek(self, queue: str, limit: int = 100) -> list[Found]:
        """See ``Broker``."""
        told = self._calls.run("queue_head", "peek", queue, limit)
        return [waiting_in(text_of(task), value) for task, value in zip(told[::2], told[1::2], strict=True)]

    def messages(self, after: str = "", limit: int = 1000) -> tuple[list[Found], str]:
        """See ``Broker``. Where to go on is of this server: after a failover begin anew."""
        if after and not after.isdecimal():
            raise ConfigurationError(f"after={after!r} is nothing that messages() returned")
        cursor, *told = self._calls.run("messages", after or "0", limit)
        found = [
            waiting_in(text_of(task), value, TaskState(text_of(state)), progress or None)
            for task, state, value, progress in told
        ]
        return found, "" if cursor == b"0" else text_of(cursor)

    def ended(self, state: TaskState, limit: int = 100) -> list[Found]:
        """See ``Broker``."""
        if state not in FINAL:
            raise ConfigurationError(f"{state!r} is not a final state")
        records = self._calls.run("ended", state, limit)
        found = [
            recorded_in(text_of(task), value)
            for task, value in zip(records[::2], records[1::2], strict=True)
            if wire.is_record(value)
        ]
        return [each for each in found if each.state is state]  # an id may have ended again, in another one

    def leaks(self) -> list[LeakRow]:
        """See ``Broker``."""
        return LeakTable(wire.read_leaks(self._calls.run("leaks"))).rows()

    def forget_leaks(self) -> int:
        """See ``Broker``."""
        return int(self._calls.run("forget_leaks"))

    def _age(self, since: bytes) -> float:
        return max(0.0, self._clock.wall() - float(since))
