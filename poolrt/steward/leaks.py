"""What the node's tasks left behind, on its way into the broker.

supervisor ──Leaked──▶ add ──summed──▶ write, each second ──note_leaks──▶ broker
                                          └── trouble: the same rows again, under the same name, at the next tick
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from poolrt.hygiene.findings import LeakTable

if TYPE_CHECKING:
    from poolrt.brokers.base import Broker
    from poolrt.hygiene.findings import LeakRow
    from poolrt.message import Owner


class Leaks:
    """What is not in the broker yet.

    Args:
        broker: where it goes.
        owner: this steward: no other one has its name.
    """

    def __init__(self, broker: Broker, owner: Owner) -> None:
        self._broker = broker
        self._owner = owner
        self._waiting = LeakTable()
        self._batch: list[LeakRow] = []
        """What the broker was told last, and has not said that it did."""
        self._calls = 0

    def add(self, row: LeakRow) -> None:
        """Have it written with the next batch."""
        self._waiting.add(row)

    def write(self) -> None:
        """Tell the broker what it has not been told; raises BrokerError, and can then be called again."""
        if not self._batch:
            self._batch = self._waiting.take()
            self._calls += 1
        if self._batch:
            self._broker.note_leaks(self._batch, call=f"{self._owner}/{self._calls}")
            self._batch = []
