"""Names for calls that store messages, so that the server knows a call that is repeated after a lost answer.

    call 17 of producer f00d ──▶ stored; :producer:f00d = 17 ──▶ the answer is lost
    call 17 again            ──▶ 17 is done: nothing is stored

The ids of the messages alone do not tell: a task that keeps no result may have ended meanwhile, and is known no more.
"""

from __future__ import annotations

import os
import secrets
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class Producer:
    """Numbers the calls of one thread at a time; its calls come to the server in the order of their numbers.

    Attributes:
        id: unique in the world.
    """

    __slots__ = ("_calls", "id")

    def __init__(self) -> None:
        self.id = secrets.token_hex(8)
        self._calls = 0

    def next_call(self) -> int:
        """The number of one more call."""
        self._calls += 1
        return self._calls


class Producers:
    """This process's producers: one for each thread that stores something just now."""

    def __init__(self) -> None:
        self._idle: deque[Producer] = deque()
        self._pid = os.getpid()

    @contextmanager
    def one(self) -> Iterator[Producer]:
        """A producer that nobody else uses meanwhile."""
        if self._pid != os.getpid():
            self._idle = deque()  # the parent goes on with these numbers
            self._pid = os.getpid()
        try:
            producer = self._idle.pop()
        except IndexError:
            producer = Producer()
        try:
            yield producer
        finally:
            self._idle.append(producer)
