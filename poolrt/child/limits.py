"""The limits of one run: the call's, else the task's (both in the message), else the node's; 0 is none."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from poolrt.message import ENDLESS, Message
from poolrt.units import format_duration, format_size

if TYPE_CHECKING:
    from poolrt.posix.memory import ResidentSize
    from poolrt.settings import Settings

_NO_MEMORY_LIMIT: Final = 1 << 60
_LOOK_EVERY_NS: Final = 10_000_000
"""A reading costs 2 us; within 10 ms a child grows by 20 MiB at most."""


class Limits:
    """What limits the runs of this child, measured from its birth."""

    def __init__(self, settings: Settings, resident: ResidentSize) -> None:
        self._time_limit = settings.time_limit
        self._soft_time_limit = settings.soft_time_limit
        self._memory_limit = settings.memory_limit
        self._resident = resident
        self._birth_rss = resident.read()
        self._next_look = 0
        self._has_time_limit = bool(self._time_limit or self._soft_time_limit)

    def deadlines(self, message: Message, started: int) -> tuple[int, int]:
        """Hard and soft deadline, CLOCK_MONOTONIC ns; 0 is none, and so is a soft limit not below the hard one."""
        if message.time_limit is None and message.soft_time_limit is None and not self._has_time_limit:
            return 0, 0
        limit = self._time_limit if message.time_limit is None else message.time_limit
        soft = self._soft_time_limit if message.soft_time_limit is None else message.soft_time_limit
        hard = started + int(limit * 1e9) if 0 < limit < ENDLESS else 0
        if not 0 < soft < ENDLESS or (hard and soft >= limit):
            return hard, 0
        return hard, started + int(soft * 1e9)

    def soft_text(self, message: Message) -> str:
        """Its soft limit, for people."""
        return format_duration(message.soft_time_limit or self._soft_time_limit)

    def memory(self, message: Message) -> int:
        """Bytes its child may have while it runs; 0 for no limit."""
        limit = self._memory_limit if message.memory_limit is None else message.memory_limit
        return limit if 0 < limit < _NO_MEMORY_LIMIT else 0

    def never_holds(self, memory_limit: int) -> str:
        """Why no child could run anything within this limit; an empty text if one can."""
        if not 0 < memory_limit <= self._birth_rss:
            return ""
        return (
            f"its limit of {format_size(memory_limit)} is less than the {format_size(self._birth_rss)} that a "
            "child has before its first task"
        )

    def has_outgrown(self, memory_limit: int) -> bool:
        """Whether earlier tasks left so much in this child that a run with this limit would be blamed for theirs."""
        now = time.monotonic_ns()
        if now < self._next_look:
            return False
        self._next_look = now + _LOOK_EVERY_NS
        return (self._resident.read() - self._birth_rss) * 2 > memory_limit - self._birth_rss
