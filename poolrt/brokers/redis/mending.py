"""What is done when a key of the namespace holds what poolrt did not put there: set it aside, and go on."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from poolrt.brokers.redis.scripts import script

if TYPE_CHECKING:
    from poolrt.brokers.redis.channel import Channel

log = logging.getLogger("poolrt.broker")


def repair(channel: Channel, now: float) -> None:
    """Rename keys of another type than ours, and queue again the messages that such a key had kept."""
    cursor: Any = b"0"
    while True:
        cursor, renamed, queued = channel.call(script("repair"), cursor, now)
        for key in renamed:
            log.warning("%s is not poolrt's: renamed", key.decode("utf-8", "replace"))
        if queued:
            log.warning("%d messages whose place was lost are queued again", queued)
        if cursor == b"0":
            return
