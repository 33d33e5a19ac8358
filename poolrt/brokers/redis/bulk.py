"""Storing messages, in one call or in many: while the server stores one batch, the next is made and sent.

batch 1 ──send──▶            batch 2 ──send──▶            …     at most two batches are without an answer
                 ◀──answer 1──                ◀──answer 2──
an error: each call without an answer is made once more, as the same call of the same producer (producers.py)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

from redis.exceptions import NoScriptError

from poolrt.brokers.redis import wire
from poolrt.brokers.redis.calls import Calls
from poolrt.brokers.redis.channel import Argument, Channel, Deadline
from poolrt.brokers.redis.producers import Named, Producer, Producers
from poolrt.brokers.redis.scripts import script
from poolrt.clock import Clock
from poolrt.errors import BrokerError
from poolrt.message import Enqueue, NewGroup
from poolrt.shielding import SHIELD

Batch = Sequence[Enqueue]

_DONE_BEFORE: Final = 1
"""The reply of lua/enqueue.lua to a call that it knows."""


class Call(NamedTuple):
    """One call that stores messages, and when it must be over."""

    batch: Batch
    named: Sequence[Named]
    """What it is known by: see producers.py."""
    told: tuple[Argument, ...]
    """The messages, as the script takes them."""
    now: float
    producer: Producer
    deadline: Deadline

    def arguments(self) -> tuple[Argument, ...]:
        """Of lua/enqueue.lua."""
        return self.now, self.producer.id, self.producer.number, *self.told


class Storing:
    """Stores messages for one process.

    Args:
        calls: its connections.
        clock: whose wall time decides what is delayed.
    """

    def __init__(self, calls: Calls, clock: Clock) -> None:
        self._calls = calls
        self._clock = clock
        self._producers = Producers()

    def store(self, batch: Batch, groups: Sequence[NewGroup] = ()) -> list[bool]:
        """Store a batch, and make groups; for each message whether it was new. After a lost answer all count as new,
        if they came, but those whose unique key is another's."""
        return self._finish(self._begin(batch, groups))

    def store_each(self, batches: Iterable[Batch], stored: Callable[[Batch], None]) -> None:
        """See ``Broker.enqueue_batches``."""
        pipe = _Pipe(self._calls)
        try:
            for batch in batches:
                pipe.send(self._begin(batch))
                self._take_answers(pipe, 1, stored)
            self._take_answers(pipe, 0, stored)
        except BrokerError:
            for call in pipe.unanswered:
                self._producers.doubt(call.producer, call.named)
            raise
        except BaseException:  # a later batch could not be made: what was sent is stored
            self._take_answers(pipe, 0, stored)
            raise
        finally:
            pipe.close()

    def _begin(self, batch: Batch, groups: Sequence[NewGroup] = ()) -> Call:
        now = self._clock.wall()
        told = wire.enqueue_arguments(batch, groups, now)
        named: Sequence[Named] = [*batch, *groups] if groups else batch
        return Call(batch, named, told, now, self._producers.begin(named), Deadline(self._calls.timeout))

    def _finish(self, call: Call) -> list[bool]:
        """Make the call, perhaps again, until its deadline."""
        try:
            reply = self._calls.run("enqueue", *call.arguments(), deadline=call.deadline)
        except BrokerError:
            self._producers.doubt(call.producer, call.named)
            raise
        self._producers.end(call.producer)
        return [self._may_be(each, call) for each in call.batch] if reply == _DONE_BEFORE else [bool(n) for n in reply]

    def _may_be(self, item: Enqueue, call: Call) -> bool:
        if item.unique is None:
            return True
        holder = self._calls.run("unique_holder", item.unique.key, call.now, deadline=call.deadline)
        return holder is None or holder.decode() == item.id

    def _take_answers(self, pipe: _Pipe, at_most: int, stored: Callable[[Batch], None]) -> None:
        """Read answers until no more than so many calls are without one; where the pipe broke, make each again."""
        while len(pipe.unanswered) > (at_most if pipe.is_open else 0):
            if pipe.receive() is None:
                self._finish(pipe.unanswered[0])
            else:
                self._producers.end(pipe.unanswered[0].producer)
            stored(pipe.unanswered.popleft().batch)


class _Pipe:
    """A connection on which calls are sent before the last one is answered.

    Attributes:
        unanswered: calls without an answer; the oldest first.
        is_open: False once anything went wrong: no further answer will be read from it.
    """

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._channel: Channel | None = None
        self.unanswered: deque[Call] = deque()
        self.is_open = True

    def send(self, call: Call) -> None:
        """Send it, if that is possible; it is unanswered in any case."""
        self.unanswered.append(call)
        try:
            with SHIELD:
                if self._channel is None or not self.is_open:
                    self._channel = self._calls.taken(call.deadline)
                    self._channel.load(script("enqueue"))
                    self.is_open = True
                self._channel.send_script(script("enqueue"), *call.arguments())
        except BrokerError:
            self._break()

    def receive(self) -> Any:
        """The answer to the oldest call, or None: whether it was carried out is not known."""
        if self._channel is None or not self.is_open:
            return None
        try:
            with SHIELD:
                self._channel.allow(self.unanswered[0].deadline.left())
                return self._channel.receive()
        except (BrokerError, NoScriptError):
            self._break()
            return None

    def close(self) -> None:
        """Give the connection back."""
        if self._channel is not None and self.is_open:
            self._calls.give_back(self._channel)

    def _break(self) -> None:
        """Also after a refusal: what was sent behind it may be carried out, and is asked for by its number."""
        if self._channel is not None:
            self._channel.close()
        self.is_open = False
