"""What the steward has yet to do for the dead: kept here until it says that the broker did it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from poolrt.notice import Bury, Reclaim

Command = Bury | Reclaim


class Tickets:
    """Commands to the steward, by number.

    Invariant: a command leaves by ``done`` alone. A notice that a full buffer dropped, or that died with its
    steward, is sent again; each command is idempotent (protocol.md, rule 5).
    """

    def __init__(self) -> None:
        self._open: dict[int, Command] = {}
        self._last = 0

    def __bool__(self) -> bool:
        return bool(self._open)

    def __iter__(self) -> Iterator[Command]:
        return iter(list(self._open.values()))

    def issue(self, command: Callable[[int], Command]) -> Command:
        """Keep what ``command(number)`` makes."""
        self._last += 1
        made = self._open[self._last] = command(self._last)
        return made

    def done(self, number: int) -> Command | None:
        """Forget a command; None if it was done before."""
        return self._open.pop(number, None)
