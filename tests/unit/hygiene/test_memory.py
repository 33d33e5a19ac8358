"""How soon memory is looked at again, and which ceilings cannot hold."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from poolrt.hygiene.memory import FASTEST, LOOK_EVERY_NS, LOOK_SOONEST_NS, look_after, too_low


@given(st.integers(-(2**40), 2**50))
def test_a_full_speed_hog_is_seen_in_time(room: int) -> None:
    """Until the next look nobody can fill more than what is left, but for the shortest wait; and waits have bounds."""
    wait = look_after(room)
    assert LOOK_SOONEST_NS <= wait <= LOOK_EVERY_NS
    assert wait == LOOK_SOONEST_NS or wait * FASTEST // 10**9 <= room


def test_ceilings_at_or_below_the_baseline_are_named() -> None:
    """Each such ceiling is a line with both sizes; those above are not mentioned."""
    mib = 1 << 20
    said = too_low(30 * mib, [("a", 30 * mib), ("b", 31 * mib), ("c", 1)])
    assert [line.partition(" ")[0] for line in said] == ["a", "c"]
    assert "a is 30.0 MiB, but a child has 30.0 MiB before its first task" in said[0]
