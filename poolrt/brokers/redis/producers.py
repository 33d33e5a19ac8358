"""Names for calls that store messages, so that the server knows a call that is repeated after a lost answer.

    call 17 of producer f00d ──▶ stored; :producer:f00d = 17 ──▶ the answer is lost
    call 17 again            ──▶ 17 is done: nothing is stored

The ids of the messages alone do not tell: a task that keeps no result may have ended meanwhile, and is known no more.

Invariant: of one producer at most one call is without an answer. So its last number says for sure whether that call was
carried out; a number behind another one that was refused would say it wrongly.
"""

from __future__ import annotations

import os
import secrets
from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import Final

from poolrt.message import Enqueue, NewGroup

Named = Enqueue | NewGroup
_DOUBTS: Final = 1000
"""Calls that failed without an answer and that are remembered, in case the caller makes them again."""


class Producer:
    """Numbers its calls.

    Attributes:
        id: unique in the world.
        number: of its present call.
    """

    __slots__ = ("id", "number")

    def __init__(self) -> None:
        self.id = secrets.token_hex(8)
        self.number = 0


class Producers:
    """This process's producers; any thread, also after a fork."""

    def __init__(self) -> None:
        self._idle: deque[Producer] = deque()
        self._in_doubt: OrderedDict[tuple[str, ...], Producer] = OrderedDict()
        self._pid = os.getpid()

    def begin(self, named: Sequence[Named]) -> Producer:
        """Whose call it is to store these: that of the last call with the same, if its end is in doubt."""
        if self._pid != os.getpid():
            self._idle, self._in_doubt = deque(), OrderedDict()  # the parent goes on with these numbers
            self._pid = os.getpid()
        if self._in_doubt and (doubted := self._in_doubt.pop(_ids(named), None)) is not None:
            return doubted
        try:
            producer = self._idle.pop()
        except IndexError:
            producer = Producer()
        producer.number += 1
        return producer

    def end(self, producer: Producer) -> None:
        """Its call was answered."""
        self._idle.append(producer)

    def doubt(self, producer: Producer, named: Sequence[Named]) -> None:
        """Its call failed, and may have been carried out: made again with the same, it is the same call."""
        self._in_doubt[_ids(named)] = producer
        while len(self._in_doubt) > _DOUBTS:
            self._in_doubt.popitem(last=False)


def _ids(named: Sequence[Named]) -> tuple[str, ...]:
    return tuple(item.id for item in named)
