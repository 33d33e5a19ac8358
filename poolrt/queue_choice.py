"""From which queues a node reserves, and in which order: ``queues``, ``exclude_queues`` and ``queue_order``."""

from __future__ import annotations

from typing import Final, NamedTuple

from poolrt.errors import ConfigurationError


class QueueChoice(NamedTuple):
    """From which queues an owner reserves, and in which order."""

    names: tuple[str, ...] = ()
    """None named: all of them."""
    without: tuple[str, ...] = ()
    """But these; only of all of them."""
    strict: bool = False
    """What waits in a queue goes before all that waits in those named after it, whatever its priority."""
    weights: tuple[int, ...] = ()
    """One for each name, or none. At each reserve the order of the queues is drawn anew, by weight, and is strict."""


ALL_QUEUES: Final = QueueChoice()


def parse_queue_choice(queues: str, exclude_queues: str = "", queue_order: str = "priority") -> QueueChoice:
    """The choice that these settings make; ``queues`` is ``"mail,images"``, or with weights ``"mail:3,images:1"``.

    Raises:
        ConfigurationError: a weight is none, only some have one, or names are both chosen and excluded.
    """
    names, weights = [], []
    for each in _parts(queues):
        name, colon, weight = each.rpartition(":")
        names.append(name if colon else each)
        if colon:
            weights.append(_weight(weight, each))
    without = tuple(dict.fromkeys(_parts(exclude_queues)))
    if len(set(names)) < len(names):
        raise ConfigurationError(f"queues={queues!r} names a queue twice")
    if weights and len(weights) < len(names):
        raise ConfigurationError(f"queues={queues!r}: give each a weight, as in mail:3,images:1, or none")
    if names and without:
        raise ConfigurationError("give queues or exclude_queues, not both: what is not among queues is not read anyway")
    strict = queue_order == "strict"
    if strict and (weights or not names):
        raise ConfigurationError("queue_order=strict is the order of the names in queues, which have no weights then")
    return QueueChoice(tuple(names), without, strict, tuple(weights))


def _parts(text: str) -> list[str]:
    return [name for each in text.split(",") if (name := each.strip())]


def _weight(text: str, whole: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= 1000:
        raise ConfigurationError(f"queues: {whole!r}: a weight is a whole number from 1 to 1000")
    return int(text)
