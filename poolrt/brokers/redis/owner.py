"""A child's own connection: everything its owner says, in order, and the epoch that bars what is older.

    submit ──settle.lua──▶ server ──▶ answer          sent and not awaited; answers come in order
    submit_when_woken ──BLPOP on the wake keys, settle.lua behind it──▶ server ──▶ answer
       └─ any error: the connection is closed ──▶ resume: a new one, the epoch goes up, what is held is told

The server may still run what a broken connection had brought it: Redis executes the buffered command of a client that
was killed (20 times of 20). So each request carries the epoch, and ``resume`` bars the earlier ones (rule 3).
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Collection, Sequence
from typing import Final

import msgspec
from redis.exceptions import NoScriptError

from poolrt.brokers.base import Settled
from poolrt.brokers.redis import wire
from poolrt.brokers.redis.address import Address
from poolrt.brokers.redis.channel import Channel, Deadline
from poolrt.brokers.redis.mending import repair
from poolrt.brokers.redis.scripts import script
from poolrt.clock import Clock
from poolrt.errors import BrokerDamaged, BrokerUnreachable, Fenced
from poolrt.message import Delivery, Outcome, Owner
from poolrt.queue_choice import ALL_QUEUES, QueueChoice
from poolrt.shielding import SHIELD

WAIT: Final = 1
"""Seconds that the server lets an idle child wait: a dying child can eat a wake-up (protocol.md, rule 23)."""
UNREADABLE: Final = "its stored form cannot be read"


def drawn(names: Sequence[str], weights: Sequence[int]) -> tuple[str, ...]:
    """``names`` in an order drawn by weight: one of twice the weight is first twice as often (Efraimidis, Spirakis)."""
    keys = [random.random() ** (1 / weight) for weight in weights]
    return tuple(name for _, name in sorted(zip(keys, names, strict=True), reverse=True))


class OwnerChannel:
    """The connection of one owner in one process.

    Args:
        address: of the server.
        timeout: of its calls, in seconds.
        clock: its wall time.
        owner: who it is.
        queues: what it reserves from.
        gate_time: the time by which gates count, for a test; else empty: the server's.
    """

    def __init__(
        self, address: Address, timeout: float, clock: Clock, owner: Owner, queues: QueueChoice,
        gate_time: Callable[[], float | str],
    ) -> None:  # fmt: skip
        self.owner = owner
        self._timeout = timeout
        self._clock = clock
        self._channel = Channel(address)
        self._url = address.url
        self._tag = f"{{{address.namespace}}}".encode()
        self._who = f"{owner.slot}.{owner.generation}"
        self._epoch = 0
        self._queues = queues
        self._choice = b"" if queues == ALL_QUEUES else self._chosen(())
        self._gate_time = gate_time
        self._waits = False
        """Whether the answer to a BLPOP comes before that of the one submit without an answer."""
        self._unanswered: list[int] = []
        """The reserve numbers of the submits without an answer, the oldest first."""
        self._pid = os.getpid()
        self._nothing_lost = False
        """Whether there is no connection only because it was closed when all had been answered."""
        self._damaged = False
        """Whether something was met that is not poolrt's: mended by the next ``resume``."""

    def is_ours(self) -> bool:
        """Whether this process attached it."""
        return self._pid == os.getpid()

    def attach(self) -> None:
        """Be heard from now on; raises Fenced."""
        with SHIELD:
            self._open()
            epoch = self._channel.call(
                script("attach"), self.owner.incarnation, self.owner.slot, self.owner.generation
            )  # fmt: skip
            if epoch is None:
                self.close()
                raise Fenced(f"owner {self.owner} was buried, or its start has left, was rescued or never joined")
            self._epoch = int(epoch)

    def submit(self, outcomes: Sequence[Outcome], reserve: int, n: int, without: Collection[str]) -> None:
        """See ``Broker.submit``."""
        with SHIELD:
            self._open_again()
            self._send(outcomes, reserve, n, without)

    def submit_when_woken(self, reserve: int, n: int, without: Collection[str]) -> int:
        """See ``Broker.submit_when_woken``."""
        with SHIELD:
            self._open_again()
            keys = [self._tag + b":wake:" + name.encode() for name in self._queues.names]
            if not keys:  # the last one is told of queues that are not known yet
                unwanted = {name.encode() for name in self._queues.without}
                known = [name for name in self._channel.ask("HKEYS", self._tag + b":queues") if name not in unwanted]
                keys = [*(self._tag + b":wake:" + name for name in known), self._tag + b":wake"]
            self._channel.send("BLPOP", *keys, WAIT)
            self._waits = True
            self._send((), reserve, n, without)
            return self._channel.fileno()

    def _send(self, outcomes: Sequence[Outcome], reserve: int, n: int, without: Collection[str]) -> None:
        choice = self._chosen(without) if without or self._queues.weights else self._choice
        now = self._clock.wall()
        self._channel.send_script(
            script("settle"), self.owner.incarnation, self._who, self._epoch,
            wire.outcomes_blob(outcomes, now), reserve, n, now, choice, self._gate_time(),
        )  # fmt: skip
        self._unanswered.append(n)

    def _chosen(self, without: Collection[str]) -> bytes:
        """The choice of queues as lua/settle.lua takes it, with the tasks that are left to others."""
        names, unwanted, strict, weights = self._queues
        if weights:
            names, strict = drawn(names, weights), True
        return wire.blob((tuple(dict.fromkeys(names)), tuple(without), strict, unwanted))

    def answer(self) -> Settled:
        """See ``Broker.answer``."""
        with SHIELD:
            if not self._channel.is_open or not self._unanswered:
                raise BrokerUnreachable(f"{self._url}: nothing that was sent will be answered any more")
            waited, self._waits = self._waits, False
            try:
                woken = waited and self._channel.receive() is not None
                reply = self._channel.receive()
            except NoScriptError:
                self._channel.close()
                raise BrokerUnreachable(f"{self._url} has forgotten its scripts: they are loaded again") from None
            except BrokerDamaged:
                self._damaged = True
                self._channel.close()
                raise
            n = self._unanswered.pop(0)
            if reply is None:
                raise self._fenced()
            try:
                stale, more, stored = wire.read_reply(reply)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                self._damaged = True
                self._channel.close()
                raise BrokerDamaged(f"{self._url}: a message cannot be read ({error}): it is set aside") from None
            deliveries = [
                Delivery(each.envelope, n, place, each.id, each.lost, each.suspect != 0)
                for place, each in enumerate(stored)
            ]
            return Settled(deliveries, stale, more != 0, woken)

    def resume(self) -> list[tuple[int, int]]:
        """See ``Broker.resume``."""
        with SHIELD:
            self._channel.close()
            self._unanswered.clear()
            self._waits = False
            self._open()
            if self._damaged:
                self._mend()
            reply = self._channel.call(script("resume"), self.owner.incarnation, self._who)
            if reply is None:
                raise self._fenced()
            self._epoch = int(reply[0])
            return [(int(n), int(i)) for n, i in zip(reply[1::2], reply[2::2], strict=True)]

    def release(self, deliveries: Sequence[Delivery]) -> int:
        """See ``Broker.release``."""
        with SHIELD:
            if not self._channel.is_open:
                self.resume()
            groups = wire.blob(wire.groups_of(deliveries))
            reply = self._channel.call(script("release"), self.owner.incarnation, self._who, self._epoch, groups)
            if reply is None:
                raise self._fenced()
            return int(reply)

    def close(self) -> None:
        """Drop the connection; with nothing unanswered the next submit opens it again."""
        self._nothing_lost = not self._unanswered and (self._channel.is_open or self._nothing_lost)
        self._channel.close()
        self._unanswered.clear()
        self._waits = False

    def _open_again(self) -> None:
        if self._channel.is_open:
            return
        if not self._nothing_lost:
            raise BrokerUnreachable(f"{self._url}: the connection was lost, and is to be resumed first")
        self._open()

    def _open(self) -> None:
        deadline = Deadline(self._timeout)
        self._channel.open(self._timeout)
        self._nothing_lost = False
        self._channel.allow(deadline.left())
        self._channel.load(script("settle"))
        self._channel.allow(self._timeout)

    def _fenced(self) -> Fenced:
        self.close()
        return Fenced(f"owner {self.owner} was buried, rescued or never attached: the broker did nothing for it")

    def _mend(self) -> None:
        """Rename keys that another program made its own, and set aside what we hold and cannot be read."""
        repair(self._channel, self._clock.wall(), Deadline(self._timeout / 2))
        where = (self.owner.incarnation, self._who)
        reply = self._channel.call(script("held_values"), *where) or []
        damaged = [
            (int(n), int(i), int(i))
            for n, i, value in zip(reply[::3], reply[1::3], reply[2::3], strict=True)
            if not wire.is_readable(value)
        ]
        if damaged:
            self._channel.call(script("set_aside"), *where, UNREADABLE, wire.blob(damaged))
        self._damaged = False
