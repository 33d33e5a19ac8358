"""An idle child of a broker on a server, which only waits."""

from __future__ import annotations

from poolrt.brokers.base import Broker


class Waiter:
    """Waits for wake-ups by submits that reserve nothing.

    Args:
        client: attached as the child that waits.
    """

    def __init__(self, client: Broker) -> None:
        self.client = client
        self._fd = -1

    def arm(self) -> int:
        """Wait from now on, if it does not yet; what to poll for reading."""
        if self._fd < 0:
            self._fd = self.client.submit_when_woken(0, 1_000_000)
        return self._fd

    def take(self) -> bool:
        """Read the answer; whether a wake-up came."""
        self._fd = -1
        return self.client.answer().woken

    def give_up(self) -> None:
        """Wait no more."""
        self._fd = -1
        self.client.resume()
