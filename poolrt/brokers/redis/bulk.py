"""Many messages: while the server stores one batch, the next is made and sent.

batch 1 ──send──▶            batch 2 ──send──▶            …     at most one batch is unanswered while another is made
                 ◀──answer 1──                ◀──answer 2──
an error: what has no answer is sent once more, batch by batch; a call that was carried out is known by its number
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from redis.exceptions import NoScriptError

from poolrt.brokers.redis import wire
from poolrt.brokers.redis.calls import Calls
from poolrt.brokers.redis.channel import Channel
from poolrt.brokers.redis.producers import Producer
from poolrt.brokers.redis.scripts import script
from poolrt.clock import Clock
from poolrt.errors import BrokerError
from poolrt.message import Enqueue
from poolrt.shielding import SHIELD

Batch = Sequence[Enqueue]

DONE_BEFORE: Final = 1
"""The reply of lua/enqueue.lua to a call that it knows."""


class Call(NamedTuple):
    """One call that stores messages; see producers.py."""

    batch: Batch
    blob: bytes
    now: float
    producer: str
    number: int

    def arguments(self) -> tuple[bytes, float, str, int]:
        """Of lua/enqueue.lua."""
        return self.blob, self.now, self.producer, self.number


def enqueue_batches(
    calls: Calls,
    clock: Clock,
    producer: Producer,
    batches: Iterable[Batch],
    stored: Callable[[Batch], None],
    again: Callable[[Call], object],
) -> None:
    """See ``Broker.enqueue_batches``; ``again`` makes one call with all the patience that a single call has."""
    channel: Channel | None = None
    unanswered: deque[Call] = deque()

    def answered(at_most: int) -> None:
        """Take answers until no more than so many calls are without one; without a connection, see to them anew."""
        nonlocal channel
        try:
            while channel is not None and len(unanswered) > at_most:
                with SHIELD:
                    channel.receive()
                stored(unanswered.popleft().batch)
        except (BrokerError, NoScriptError):
            channel = None
        while channel is None and unanswered:
            again(unanswered[0])
            stored(unanswered.popleft().batch)

    try:
        for batch in batches:
            now = clock.wall()
            call = Call(batch, wire.enqueue_blob(batch, now), now, producer.id, producer.next_call())
            unanswered.append(call)
            with SHIELD:
                try:
                    if channel is None:
                        channel = calls.taken()
                        channel.load(script("enqueue"))
                    channel.send_script(script("enqueue"), *call.arguments())
                except BrokerError:
                    channel = None
            answered(1 if channel is not None else 0)
    finally:  # also when a later batch could not be made: what was sent is stored
        answered(0)
        if channel is not None:
            calls.give_back(channel)
