"""The steward's bell: a subscription. Who rings has queued nothing: "look when the next is due, or what to cancel"."""

from __future__ import annotations

import time
from typing import Final

from poolrt.brokers.redis.address import Address
from poolrt.brokers.redis.channel import Channel
from poolrt.errors import BrokerError

AGAIN_AFTER: Final = 1.0
"""Seconds between two tries to subscribe; a ring missed meanwhile costs a tick of the steward."""

_LONGEST: Final = 1.0
"""Seconds that the steward, which has a lease to renew, may wait for a subscription."""


class Bell:
    """See ``brokers.base.Doorbell``. Without a connection it is silent, and tries again at each ``answer``."""

    def __init__(self, address: Address, timeout: float) -> None:
        self._address = address
        self._timeout = min(timeout, _LONGEST)
        self._channel = Channel(address)
        self._again_at = 0.0
        self._subscribe()

    def fileno(self) -> int:
        """The connection's descriptor, or -1 while there is none: to be asked before each wait."""
        if not self._channel.is_open and time.monotonic() >= self._again_at:
            self._subscribe()
        return self._channel.fileno() if self._channel.is_open else -1

    def answer(self) -> None:
        """See ``Doorbell``."""
        if not self._channel.is_open:
            return
        try:
            self._channel.allow(self._timeout)
            while self._channel.has_answer():
                self._channel.receive()
        except BrokerError:
            self._channel.close()

    def close(self) -> None:
        """See ``Doorbell``."""
        self._channel.close()

    def _subscribe(self) -> None:
        self._again_at = time.monotonic() + AGAIN_AFTER
        try:
            self._channel.open(self._timeout)
            self._channel.ask("SUBSCRIBE", f"{{{self._address.namespace}}}:bell")
        except BrokerError:
            self._channel.close()
