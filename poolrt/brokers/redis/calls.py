"""Calls that anybody may make: on a connection of their own, repeated while the server is away, within the timeout.

    a call ──▶ an idle channel of this process, or a new one ──▶ script ──▶ answer
                    └─ the connection broke: another one, after a pause with jitter, until the timeout is over

Every script that goes this way may run twice: its second run finds the first one's work done (``enqueue`` knows the
id). So a lost answer costs a repetition and no doubled task.
"""

from __future__ import annotations

import os
import random
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, TypeVar

from poolrt.brokers.redis.address import Address
from poolrt.brokers.redis.channel import Argument, Channel, Deadline
from poolrt.brokers.redis.mending import repair
from poolrt.brokers.redis.scripts import script
from poolrt.clock import Clock
from poolrt.errors import BrokerBusy, BrokerDamaged, BrokerReadOnly, BrokerUnreachable
from poolrt.shielding import SHIELD

T = TypeVar("T")

FIRST_PAUSE: Final = 0.02
LONGEST_PAUSE: Final = 0.5
_KEPT: Final = 8
"""Idle connections that a process keeps; more threads than that open and close theirs."""


class Calls:
    """This process's connections for single calls; any thread, also after a fork.

    Attributes:
        timeout: the longest a call may take, in seconds.
    """

    def __init__(self, address: Address, timeout: float, clock: Clock) -> None:
        self._address = address
        self.timeout = timeout
        self._clock = clock
        self._idle: deque[Channel] = deque()
        self._pid = os.getpid()

    def run(self, name: str, *arguments: Argument, deadline: Deadline | None = None) -> Any:
        """The answer of the script ``name``."""
        return self.attempt(lambda channel: channel.call(script(name), *arguments), deadline=deadline)

    def attempt(
        self, work: Callable[[Channel], T], *, on_repeat: Callable[[], object] | None = None,
        deadline: Deadline | None = None,
    ) -> T:  # fmt: skip
        """``work(channel)``, again while the server is away or busy, until the timeout is over.

        Args:
            work: what to do; may have been done before, without its answer having come.
            on_repeat: called before a repetition whose first try may have been carried out.
            deadline: when it must be over, if that is before its timeout is.

        Raises:
            BrokerError: the last one.
        """
        if deadline is None or deadline.left() > self.timeout:
            deadline = Deadline(self.timeout)
        pause = FIRST_PAUSE
        mended = False
        while True:
            began = False
            try:
                with SHIELD:
                    channel = self.taken(deadline)
                    began = True
                    try:
                        answer = work(channel)
                    except BaseException:
                        channel.close()  # an answer may be on its way, which the next call must not read
                        raise
                    self.give_back(channel)
                    return answer
            except BrokerDamaged:
                if mended:
                    raise
                mended = True
                self._mend(deadline)
                refused = False  # what it met may have been met in its middle
            except (BrokerUnreachable, BrokerBusy, BrokerReadOnly) as error:
                nap = pause * random.uniform(0.5, 1.5)
                if not self._address.retry or deadline.left() <= nap:
                    raise
                time.sleep(nap)
                pause = min(pause * 2, LONGEST_PAUSE)
                refused = not isinstance(error, BrokerUnreachable)
            if began and not refused and on_repeat is not None:
                on_repeat()

    def _mend(self, deadline: Deadline) -> None:
        with SHIELD:
            channel = self.taken(deadline)
            try:
                repair(channel, self._clock.wall(), Deadline(deadline.left() / 2))
            except BaseException:
                channel.close()
                raise
            self.give_back(channel)

    def taken(self, deadline: Deadline) -> Channel:
        """An open connection, for ``give_back`` to end its use; raises BrokerError."""
        channel = self._idle_one()
        left = max(deadline.left(), 0.001)
        channel.open(left)
        channel.allow(left)
        return channel

    def give_back(self, channel: Channel) -> None:
        """Keep a connection for the next call, unless something is unanswered on it."""
        if channel.unanswered or len(self._idle) >= _KEPT:
            channel.close()
        elif channel.is_open:
            channel.rests()
            self._idle.append(channel)

    def _idle_one(self) -> Channel:
        if self._pid != os.getpid():
            self._idle = deque()  # their sockets are the parent's
            self._pid = os.getpid()
        while True:
            try:
                channel = self._idle.pop()
            except IndexError:
                return Channel(self._address)
            if (self._address.retry and channel.is_fresh()) or not channel.has_news():
                return channel
            channel.close()  # the server has closed it, or said something that nobody asked for

    def close(self) -> None:
        """Close the idle connections."""
        if self._pid == os.getpid():
            while self._idle:
                self._idle.pop().close()
