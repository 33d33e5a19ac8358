"""What ``Broker.watch`` makes: one socket on which the end of many tasks is told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from poolrt.brokers.base import Found


class Watch(Protocol):
    """Waits for the end of many tasks at once, on one socket. For one thread; each call may raise BrokerError."""

    def add(self, task_ids: Sequence[str]) -> None:
        """Wait for these as well; none of them is waited for already."""

    def drop(self, task_ids: Sequence[str]) -> None:
        """Wait for these no more."""

    def ended(self) -> list[tuple[str, Found | None]]:
        """Those that have ended, each told once: with its record, or None as ``Broker.wait`` says. Waits for none."""

    def fileno(self) -> int:
        """What to poll for reading before ``ended`` is called again; another one after each call, or -1 for nothing."""

    def patience(self) -> float | None:
        """Seconds after which ``ended`` is to be called in any case; None: only when there is something to read."""

    def close(self) -> None:
        """Wait for nothing any more, and leave nothing behind."""
