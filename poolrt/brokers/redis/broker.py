"""``RedisBroker``: each call of the contract is one Lua script on the server, and so one atomic step.

    producer, operator, steward ──▶ calls.py:  any idle connection; repeated within the timeout
    child                       ──▶ owner.py:  its own connection, pipelined, with an epoch
    steward                     ──▶ bell.py:   a subscription
                                       └──▶ lua/*.lua on the server: the layout of the keys is in lua/parts/names.lua

It must never decode an envelope. What happens in a script happens wholly or, before its first write, not at all.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Final

from poolrt.brokers.base import Buried, Found, Settled
from poolrt.brokers.redis import wire
from poolrt.brokers.redis.address import Address
from poolrt.brokers.redis.bell import Bell
from poolrt.brokers.redis.bulk import Storing
from poolrt.brokers.redis.calls import Calls
from poolrt.brokers.redis.channel import Deadline
from poolrt.brokers.redis.found import found_in, kept_in, text_of, texts
from poolrt.brokers.redis.mending import repair
from poolrt.brokers.redis.node_folder import node_folder
from poolrt.brokers.redis.operators import Operators
from poolrt.brokers.redis.owner import OwnerChannel
from poolrt.brokers.redis.scripts import script
from poolrt.brokers.redis.waiting import Waiting
from poolrt.brokers.redis.watching import RedisWatch
from poolrt.clock import Clock, SystemClock
from poolrt.errors import BrokerDamaged, BrokerError, Fenced
from poolrt.hygiene.findings import LeakRow, LeakTable
from poolrt.message import ENDLESS, Delivery, Enqueue, NewGroup, Outcome, Owner, Requeue
from poolrt.queue_choice import ALL_QUEUES, QueueChoice
from poolrt.states import TaskState

PROMOTED_AT_ONCE: Final = 1000
"""Delayed messages queued by one script; more would keep the server from others for too long."""
RECORDS_AT_ONCE: Final = 1000
"""Records read or kept by one call, for the same reason."""
_ROUNDED: Final = 1e-6
"""Seconds by which the sums of times may be off: who waits so much longer is not too early."""
_LOOK_AGAIN: Final = 5.0
"""Seconds after which a waiter looks for the record though nobody has told it: the server may have been another."""


def _by_the_server() -> str:
    return ""


class RedisBroker(Operators):
    """A Redis or Valkey server (one, Sentinel's or a Cluster's) as broker and result store.

    Args:
        url: see brokers/redis/address.py. Nothing is opened.
        timeout: the longest any call but ``wait`` may take, in seconds; None: what the URL says.
        clock: whose wall time decides what is due and what has passed. Gates count by the server's clock, so that
            there is one for all nodes, unless one is given here.
    """

    trusted = False
    """Whoever can write to the server could otherwise run code here."""
    leases = True
    pipelined = True
    wakes_children = True

    def __init__(self, url: str, *, timeout: float | None = None, clock: Clock | None = None) -> None:
        self._address = Address.parse(url)
        self.url = self._address.url
        self._clock = clock or SystemClock()
        self._gate_time: Callable[[], float | str] = clock.wall if clock is not None else _by_the_server
        self._calls = Calls(self._address, timeout or self._address.timeout, self._clock)
        self._storing = Storing(self._calls, self._clock)
        self._owner: OwnerChannel | None = None

    def __repr__(self) -> str:
        attached = f" as {self._owner.owner}" if self._owner else ""
        return f"<RedisBroker {self.url}{attached}>"

    @property
    def secret_url(self) -> str:
        """See ``Broker``."""
        return self._address.secret_url

    @property
    def timeout(self) -> float:
        """The longest any call but ``wait`` may take, in seconds."""
        return self._calls.timeout

    @timeout.setter
    def timeout(self, seconds: float) -> None:
        self._calls.timeout = seconds

    def warnings(self) -> list[str]:
        """See ``Broker``. Of a server that may not be asked nothing is said."""
        try:
            told = self._calls.attempt(lambda channel: channel.ask("INFO").decode("utf-8", "replace"))
        except BrokerError:
            return []
        facts = dict(line.partition(":")[::2] for line in told.splitlines())
        found = []
        policy = facts.get("maxmemory_policy", "")
        if policy.startswith("allkeys"):
            found.append(
                f"the server evicts messages when its memory is full ({policy}): set maxmemory-policy noeviction"
            )
        if facts.get("aof_enabled") == "0":
            found.append("the server keeps no append-only file: what is queued is lost with it; set appendonly yes")
        return found

    # ---- producers

    def enqueue(self, items: Sequence[Enqueue], groups: Sequence[NewGroup] = ()) -> list[bool]:
        """See ``Broker``. After a lost answer the call is repeated; if it had been carried out, all count as new."""
        return self._storing.store(items, groups)

    def enqueue_batches(
        self, batches: Iterable[Sequence[Enqueue]], stored: Callable[[Sequence[Enqueue]], None]
    ) -> None:
        """See ``Broker``. While the server stores one batch the next is made."""
        self._storing.store_each(batches, stored)

    def unique_holder(self, key: str) -> str | None:
        """See ``Broker``."""
        holder = self._calls.run("unique_holder", key, self._clock.wall())
        return None if holder is None else text_of(holder)

    def note_progress(self, task_id: str, progress: bytes, ttl: float) -> None:
        """See ``Broker``. The server's clock ends it."""
        if ttl > 0:
            self._calls.run("note_progress", task_id, progress, max(1, int(min(ttl, ENDLESS) * 1000)))

    def retry(self, item: Enqueue) -> bool:
        """See ``Broker``."""
        now = self._clock.wall()
        return bool(self._calls.run("retry", now, secrets.token_hex(8), wire.items_blob([item], now)))

    def find(self, task_id: str) -> Found | None:
        """See ``Broker``."""
        return found_in(task_id, self._calls.run("find", task_id, self._clock.wall()))

    def records(self, ids: Sequence[str]) -> list[bytes | None]:
        """See ``Broker``."""
        found: list[bytes | None] = []
        for first in range(0, len(ids), RECORDS_AT_ONCE):
            some = ids[first : first + RECORDS_AT_ONCE]
            values = self._calls.attempt(lambda channel: channel.ask("HMGET", self._key("res"), *some))  # noqa: B023  called at once
            found += [
                None if value is None else kept_in(task_id, value).record
                for task_id, value in zip(some, values, strict=True)
            ]
        return found

    def end_ahead(self, records: Sequence[tuple[str, bytes]], ttl: float) -> list[bool]:
        """See ``Broker``."""
        kept: list[bool] = []
        for first in range(0, len(records), RECORDS_AT_ONCE):
            some = [(task_id, wire.kept_of(record)) for task_id, record in records[first : first + RECORDS_AT_ONCE]]
            now, unsure = self._clock.wall(), list[bool]()
            arguments = now, f"{now + ttl:.3f}", wire.blob(some)
            told = self._calls.attempt(
                lambda channel: channel.call(script("end_ahead"), *arguments, len(unsure)),  # noqa: B023  called at once
                on_repeat=lambda: unsure.append(True),  # noqa: B023
            )
            kept += map(bool, told)
        return kept

    def fail_group(self, group: str, failure: bytes) -> bool:
        """See ``Broker``."""
        record = wire.blob(wire.kept_of(failure))
        return bool(self._calls.run("fail_group", self._clock.wall(), secrets.token_hex(8), group, record))

    def wait(self, task_id: str, timeout: float | None) -> Found | None:
        """See ``Broker``. Where the server does not answer it takes the broker's timeout longer, and no more."""
        deadline = Deadline(timeout if timeout is not None else float("inf"))
        at_last = None if timeout is None else Deadline(timeout + self.timeout)

        def look() -> Found | None:
            return found_in(task_id, self._calls.run("find", task_id, self._clock.wall(), deadline=at_last))

        found = look()
        if found is None or found.record is not None:
            return found
        with Waiting(self._address, self._calls, task_id, at_last) as waiting:
            while True:
                waiting.listen()
                # Looked at after the word is left: whoever ends the task from now on sees it.
                found = look()
                if found is None or found.record is not None:
                    return found
                if deadline.left() <= 0:
                    return None
                waiting.nap(min(deadline.left(), _LOOK_AGAIN))

    def watch(self) -> RedisWatch:
        """See ``Broker``."""
        return RedisWatch(self._address, self._calls, self._clock)

    def cancel(self, task_id: str, outcome_of: Callable[[Delivery], Outcome]) -> bool:
        """See ``Broker``."""
        unsure: list[bool] = []
        while True:
            found = self._calls.run("find", task_id, self._clock.wall())
            if found is None or found[0] not in (b"queued", b"delayed"):
                return False
            if not wire.is_readable(found[1]):
                raise BrokerDamaged(f"{self.url}: message {task_id} cannot be read; who is to run it sets it aside")
            ending = wire.ending_of(outcome_of(wire.delivery_of(wire.read_stored(found[1]), 0, 0)), self._clock.wall())
            arguments = (task_id, found[1], wire.blob(ending), self._clock.wall())
            done = self._calls.attempt(
                lambda channel: channel.call(script("cancel"), *arguments),  # noqa: B023  called at once
                on_repeat=lambda: unsure.append(True),
            )
            if done == 0 and unsure:
                kept = self._calls.run("find", task_id, self._clock.wall())
                return (
                    kept is not None and kept[0] == b"record" and wire.read_kept(kept[1]).state is TaskState.CANCELLED
                )
            if done >= 0:
                return bool(done)

    def cancel_held(self, task_id: str) -> bool:
        """See ``Broker``."""
        return bool(self._calls.run("cancel_held", task_id))

    def forget(self, task_id: str) -> bool:
        """See ``Broker``."""
        return bool(self._calls.run("forget", task_id))

    # ---- the node

    def node_directory(self) -> Path:
        """See ``Broker``. On this machine, one for each store of this user."""
        return node_folder(self._address.store)

    def doorbell(self, node: str) -> Bell:
        """See ``Broker``."""
        return Bell(self._address, self.timeout)

    def join(self, incarnation: str, node: str) -> None:
        """See ``Broker``. Raises Fenced for a start that has left or was rescued: it cannot come back."""
        if self._calls.run("join", incarnation, node) is None:
            raise Fenced(f"incarnation {incarnation} has left this broker, or was rescued")

    def leave(self, incarnation: str) -> int:
        """See ``Broker``."""
        return self.rescue(incarnation, (), suspect=False).requeued

    def others(self) -> list[tuple[str, str]]:
        """See ``Broker``."""
        names = self._calls.attempt(lambda channel: channel.ask("HGETALL", self._key("nodes")))
        return list(zip(texts(names[::2]), texts(names[1::2]), strict=True))

    def renew(self, incarnation: str) -> dict[str, int]:
        """See ``Broker``."""
        beats = self._calls.run("renew", incarnation)
        if beats is None:
            raise Fenced(f"incarnation {incarnation} has left this broker, was rescued, or the broker is another")
        pairs = zip(texts(beats[::2]), beats[1::2], strict=True)
        return {name: int(beat) for name, beat in pairs if beat.isdigit()}

    def to_cancel(self, incarnation: str) -> list[tuple[Owner, Delivery]]:
        """See ``Broker``."""
        told = self._calls.run("to_cancel", incarnation)
        found = []
        for who, n, i, value in zip(told[::4], told[1::4], told[2::4], told[3::4], strict=True):
            slot, _, generation = who.decode().partition(".")
            if not wire.is_readable(value):
                continue  # its child sets it aside
            delivery = wire.delivery_of(wire.read_stored(value), int(n), int(i))
            found.append((Owner(incarnation, int(slot), int(generation)), delivery))
        return found

    def recall(self, owner: Owner, after: tuple[int, int], upto: int) -> int:
        """See ``Broker``."""
        return int(self._calls.run("recall", owner.incarnation, f"{owner.slot}.{owner.generation}", *after, upto))

    def running(self, owner: Owner, n: int, i: int) -> Delivery | None:
        """See ``Broker``."""
        who = f"{owner.slot}.{owner.generation}"
        value = self._calls.run("running", owner.incarnation, who, n, i)
        return None if value is None or not wire.is_readable(value) else wire.delivery_of(wire.read_stored(value), n, i)

    def bury(self, owner: Owner, verdict: Outcome | Requeue | None) -> Buried:
        """See ``Broker``."""
        now = self._clock.wall()
        verdicts = wire.verdicts_blob([verdict] if verdict is not None else [], now)
        put, ended = self._calls.run("bury", *owner, now, verdicts)
        return Buried(put, settled=ended > 0)

    def rescue(
        self, incarnation: str, verdicts: Iterable[Outcome | Requeue], *, suspect: bool, beat: int | None = None
    ) -> Buried:
        """See ``Broker``."""
        now = self._clock.wall()
        seen = "" if beat is None else beat
        blob = wire.verdicts_blob(list(verdicts), now)
        put, ended = self._calls.run("rescue", incarnation, seen, int(suspect), now, blob)
        return Buried(put, settled=ended > 0)

    def promote(self) -> float | None:
        """See ``Broker``."""
        now = self._clock.wall()
        due, opens = self._calls.run("promote", now, PROMOTED_AT_ONCE, self._gate_time())
        waits = [*([float(due) - now] if due else ()), *([float(opens) + _ROUNDED] if opens else ())]
        return max(0.0, min(waits)) if waits else None

    def purge(self, limit: int = 1000) -> int:
        """See ``Broker``."""
        return int(self._calls.run("purge", self._clock.wall(), limit, self._gate_time()))

    def nudge(self) -> None:
        """See ``Broker``."""
        if self._calls.run("nudge"):
            now, deadline = self._clock.wall(), Deadline(self.timeout / 2)
            self._calls.attempt(lambda channel: repair(channel, now, deadline, begin=False))

    def note_leaks(self, rows: Sequence[LeakRow], *, call: str) -> None:
        """See ``Broker``."""
        if rows:
            self._calls.run("note_leaks", call, LeakTable.MOST_ROWS, *wire.leak_arguments(rows))

    # ---- children

    def attach(self, owner: Owner, queues: QueueChoice = ALL_QUEUES) -> None:
        """See ``Broker``."""
        if self._owner is not None and self._owner.is_ours():
            self._owner.close()
        self._owner = OwnerChannel(self._address, self.timeout, self._clock, owner, queues, self._gate_time)
        self._owner.attach()

    def submit(self, outcomes: Sequence[Outcome], reserve: int, n: int, *, without: Collection[str] = ()) -> None:
        """See ``Broker``."""
        self._attached().submit(outcomes, reserve, n, without)

    def answer(self) -> Settled:
        """See ``Broker``."""
        return self._attached().answer()

    def submit_when_woken(self, reserve: int, n: int, *, without: Collection[str] = ()) -> int:
        """See ``Broker``."""
        return self._attached().submit_when_woken(reserve, n, without)

    def resume(self) -> list[tuple[int, int]]:
        """See ``Broker``."""
        return self._attached().resume()

    def release(self, deliveries: Sequence[Delivery]) -> int:
        """See ``Broker``."""
        return self._attached().release(deliveries)

    def close(self) -> None:
        """See ``Broker``."""
        self._calls.close()
        if self._owner is not None and self._owner.is_ours():
            self._owner.close()

    # ---- inside

    def _attached(self) -> OwnerChannel:
        if self._owner is None or not self._owner.is_ours():
            raise Fenced("this broker object is attached to no owner in this process")
        return self._owner

    def _key(self, name: str) -> str:
        return f"{{{self._address.namespace}}}:{name}"
