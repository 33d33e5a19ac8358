"""Waits for many tasks on one connection: a list of one's own, to which the script that ends a task pushes its id.

    add ──watch.lua: "tell {ns}:answer:…" of each──▶            BLPOP {ns}:answer:… ──▶ fileno
    settle, bury, rescue, cancel ──RPUSH id──▶ {ns}:answer:…     └──▶ ended ──watched.lua──▶ the records of all told

Every five seconds the words are left anew and all are looked at: the server may have been another.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from itertools import islice
from typing import TYPE_CHECKING, Final

from poolrt.brokers.base import Found
from poolrt.brokers.redis import wire
from poolrt.brokers.redis.channel import Channel
from poolrt.brokers.redis.scripts import script
from poolrt.errors import BrokerBusy, BrokerError, BrokerReadOnly, BrokerUnreachable
from poolrt.states import TaskState

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from poolrt.brokers.redis.address import Address
    from poolrt.brokers.redis.calls import Calls
    from poolrt.clock import Clock

_AT_ONCE: Final = 500
"""Ids given to one script; more would keep the server from others for too long."""
_LOOK_AGAIN: Final = 5.0
"""Seconds after which all are looked at though nobody has told anything."""


class RedisWatch:
    """See ``Watch``. It has a connection of its own from its first ``ended`` to ``close``.

    Args:
        address: of the server.
        calls: this process's connections.
        clock: its wall time.
    """

    def __init__(self, address: Address, calls: Calls, clock: Clock) -> None:
        self._address = address
        self._calls = calls
        self._clock = clock
        self._key = f"{{{address.namespace}}}:answer:{secrets.token_hex(8)}"
        self._channel = Channel(address)
        self._asked_at = 0.0
        """When its connection was told to wait, monotonic seconds."""
        self._ids: set[str] = set()
        self._new: set[str] = set()
        """Those that may have ended before anybody was to tell."""

    def add(self, task_ids: Sequence[str]) -> None:
        """See ``Watch``."""
        self._leave_words(task_ids)
        self._ids.update(task_ids)
        self._new.update(task_ids)

    def drop(self, task_ids: Sequence[str]) -> None:
        """See ``Watch``."""
        self._ids.difference_update(task_ids)
        self._new.difference_update(task_ids)
        for some in _parts(task_ids):
            self._calls.run("watch_no_more", self._key, *some)

    def ended(self) -> list[tuple[str, Found | None]]:
        """See ``Watch``."""
        told = self._told()
        ended: dict[str, Found | None] = {}
        if told or self._new:
            ended.update(self._look(told))
        self._ids.difference_update(ended)
        if self._channel.unanswered == 0:
            self._listen()
        return list(ended.items())

    def fileno(self) -> int:
        """See ``Watch``."""
        return self._channel.fileno() if self._channel.is_open else -1

    def patience(self) -> float | None:
        """See ``Watch``. The server answers after five seconds at the latest."""
        if self._new or not self._channel.is_open:
            return 0
        return max(0.0, self._asked_at + _LOOK_AGAIN + self._calls.timeout - time.monotonic())

    def close(self) -> None:
        """See ``Watch``."""
        self._channel.close()
        # Where the server is away the words stay, and go with the tasks. What was pushed just now goes after a minute.
        with contextlib.suppress(BrokerError):
            self.drop(list(self._ids))

    # ---- inside

    def _leave_words(self, task_ids: Iterable[str]) -> None:
        for some in _parts(task_ids):
            self._calls.run("watch", self._key, self._clock.wall(), *some)

    def _told(self) -> list[str]:
        """What was pushed, as far as the server has said it; all are new again where it may have forgotten us."""
        try:
            if self._channel.unanswered and self._channel.has_answer():
                answer = self._channel.receive()
                if answer is not None:
                    return [answer[1].decode("utf-8", "replace")]
            elif self._channel.unanswered and self.patience():
                return []
            elif self._channel.unanswered:
                raise BrokerUnreachable(f"{self._address.url}: the server did not answer in time; is it stopped?")
            elif not self._asked_at:
                return []
        except (BrokerUnreachable, BrokerBusy, BrokerReadOnly):
            self._channel.close()
            if not self._address.retry:
                raise
        self._leave_words(self._ids)
        self._new.update(self._ids)
        return []

    def _look(self, told: list[str]) -> Iterator[tuple[str, Found | None]]:
        """Which of those that were told, and of the new ones, have ended."""
        if not self._ids.issuperset(told):  # an older poolrt does not say which task has ended; or one was dropped
            self._new.update(self._ids)
        told += self._new
        self._new.clear()
        now = self._clock.wall()
        for some in _parts(told):
            answer = self._calls.attempt(
                lambda channel: channel.call(script("watched"), self._key, now, *some),  # noqa: B023  called at once
                on_repeat=lambda: self._new.update(self._ids),  # what was pushed may have been taken
            )
            for name, record in zip(answer[::2], answer[1::2], strict=True):
                task_id = name.decode("utf-8", "replace")
                if task_id in self._ids:
                    yield task_id, None if record is None else _found(task_id, record)

    def _listen(self) -> None:
        try:
            self._channel.open(self._calls.timeout)
            self._channel.allow(self._calls.timeout)
            self._channel.send("BLPOP", self._key, _LOOK_AGAIN)
        except (BrokerUnreachable, BrokerBusy, BrokerReadOnly):
            self._channel.close()
            if not self._address.retry:
                raise
        self._asked_at = time.monotonic()


def _parts(task_ids: Iterable[str]) -> Iterator[list[str]]:
    remaining = iter(task_ids)
    while some := list(islice(remaining, _AT_ONCE)):
        yield some


def _found(task_id: str, value: bytes) -> Found:
    if not wire.is_record(value):
        return Found(task_id, TaskState.UNKNOWN, None, value, 0)  # whoever reads it says that it is damaged
    kept = wire.read_kept(value)
    return Found(task_id, kept.state, None, kept.record, kept.lost)
