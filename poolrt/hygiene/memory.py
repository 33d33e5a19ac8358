"""How soon to look at a child's memory again, and which ceilings cannot hold. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from poolrt.units import format_size

FASTEST: Final = 2 << 30
"""Bytes a second: above what one thread was seen to fill here (1.6 GiB/s, research/hygiene.md 2.3)."""
LOOK_EVERY_NS: Final = 50_000_000
LOOK_SOONEST_NS: Final = 5_000_000
"""A look costs 2 us, and waking up for it 50: at most 200 a second, for a child that is nearly at its ceiling."""


def look_after(room: int) -> int:
    """Nanoseconds until a child with ``room`` bytes left must be looked at again, if it may fill them at full speed."""
    return min(LOOK_EVERY_NS, max(LOOK_SOONEST_NS, room * 1_000_000_000 // FASTEST))


def too_low(baseline: int, ceilings: Iterable[tuple[str, int]]) -> list[str]:
    """Ceilings that a child is above before it has run anything, one line each.

    Args:
        baseline: resident bytes of the process that children are forked from.
        ceilings: names and bytes.
    """
    return [
        f"{name} is {format_size(ceiling)}, but a child has {format_size(baseline)} before its first task: "
        "raise it, or import less"
        for name, ceiling in ceilings
        if ceiling <= baseline
    ]
