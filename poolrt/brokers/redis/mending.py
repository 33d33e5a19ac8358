"""What is done when a key of the namespace holds what poolrt did not put there: set it aside, and go on."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from poolrt.brokers.redis.scripts import script

if TYPE_CHECKING:
    from poolrt.brokers.redis.channel import Channel, Deadline

log = logging.getLogger("poolrt.broker")


def repair(channel: Channel, now: float, deadline: Deadline, *, begin: bool = True) -> None:
    """Rename keys of another type than ours, and queue again the messages that such a key had kept.

    What is not done by the deadline is left to the next steward's ``nudge``, which goes on with ``begin=False``.
    """
    more = True
    while more:
        more, renamed, queued = channel.call(script("repair"), int(begin), now)
        begin = False
        for key in renamed:
            log.warning("%s is not poolrt's: renamed", key.decode("utf-8", "replace"))
        if queued:
            log.warning("%d messages whose place was lost are queued again", queued)
        if deadline.left() <= 0:
            return
