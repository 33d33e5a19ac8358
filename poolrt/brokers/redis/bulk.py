"""Many messages: while the server stores one batch, the next is made and sent.

batch 1 ──send──▶            batch 2 ──send──▶            …     at most one batch is unanswered while another is made
                 ◀──answer 1──                ◀──answer 2──
an error: what has no answer is enqueued once more, one by one batch; what was stored already is known by its ids
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from redis.exceptions import NoScriptError

from poolrt.brokers.redis import wire
from poolrt.brokers.redis.calls import Calls
from poolrt.brokers.redis.channel import Channel
from poolrt.brokers.redis.scripts import script
from poolrt.clock import Clock
from poolrt.errors import BrokerError
from poolrt.message import Enqueue
from poolrt.shielding import SHIELD

Batch = Sequence[Enqueue]


def enqueue_batches(
    calls: Calls,
    clock: Clock,
    batches: Iterable[Batch],
    stored: Callable[[Batch], None],
    again: Callable[[Batch], object],
) -> None:
    """See ``Broker.enqueue_batches``; ``again`` enqueues one batch with all the patience that a single call has."""
    channel: Channel | None = None
    unanswered: list[Batch] = []

    def answered(at_most: int) -> None:
        """Take answers until no more than so many batches are without one; without a connection, see to them anew."""
        nonlocal channel
        try:
            while channel is not None and len(unanswered) > at_most:
                with SHIELD:
                    channel.receive()
                stored(unanswered.pop(0))
        except (BrokerError, NoScriptError):
            channel = None
        while channel is None and unanswered:
            again(unanswered[0])
            stored(unanswered.pop(0))

    try:
        for batch in batches:
            blob = wire.enqueue_blob(batch, now := clock.wall())
            unanswered.append(batch)
            with SHIELD:
                try:
                    if channel is None:
                        channel = calls.taken()
                        channel.load(script("enqueue"))
                    channel.send_script(script("enqueue"), blob, now)
                except BrokerError:
                    channel = None
            answered(1 if channel is not None else 0)
    finally:  # also when a later batch could not be made: what was sent is stored
        answered(0)
        if channel is not None:
            calls.give_back(channel)
