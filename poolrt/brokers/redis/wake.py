"""Where an idle child waits: BLPOP on the wake keys of its queues, on a connection of its own.

    arm ──BLPOP {ns}:wake:q1 {ns}:wake:q2 … 1──▶ server        at most a second: a dying child can eat a token (rule 23)
    a message is queued ──RPUSH {ns}:wake:q1──▶ the one child that waits longest ──take──▶ it looks

Never a claim: a child that dies while it waits holds nothing.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Final

from poolrt.brokers.redis.address import Address
from poolrt.brokers.redis.channel import Channel, Deadline
from poolrt.brokers.redis.mending import repair
from poolrt.clock import Clock
from poolrt.errors import BrokerDamaged

WAIT: Final = 1
"""Seconds that the server lets one wait last."""


class Wake:
    """See ``brokers.base.WakeSource``.

    Args:
        queues: whose messages it may take; none: of every queue the server knows when it arms.
    """

    def __init__(self, address: Address, timeout: float, clock: Clock, queues: Collection[str]) -> None:
        self._channel = Channel(address)
        self._tag = f"{{{address.namespace}}}".encode()
        self._timeout = timeout
        self._clock = clock
        self._queues = [name.encode() for name in queues]
        self._armed_at = 0.0

    def arm(self) -> int:
        """See ``WakeSource``."""
        channel = self._channel
        if not channel.unanswered or not channel.is_open:
            channel.open(self._timeout)
            channel.allow(self._timeout)
            keys = [self._tag + b":wake:" + name for name in self._queues]
            if not keys:  # the last one is told of queues that are not known yet
                known = channel.ask("HKEYS", self._tag + b":queues")
                keys = [*(self._tag + b":wake:" + name for name in known), self._tag + b":wake"]
            channel.send("BLPOP", *keys, WAIT)
            self._armed_at = time.monotonic()
        return channel.fileno()

    def take(self) -> bool:
        """See ``WakeSource``."""
        if not self._channel.is_open or not self._channel.unanswered:
            return False
        self._channel.allow(self._timeout)
        try:
            return self._channel.receive() is not None
        except BrokerDamaged:  # another program's key: the others can be waited for
            repair(self._channel, self._clock.wall(), Deadline(self._timeout))
            return False

    def is_silent(self) -> bool:
        """See ``WakeSource``."""
        waits = self._channel.is_open and self._channel.unanswered > 0
        return waits and time.monotonic() - self._armed_at > WAIT + self._timeout

    def close(self) -> None:
        """See ``WakeSource``."""
        self._channel.close()
