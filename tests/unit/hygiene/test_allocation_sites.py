"""Where a run allocated what it kept."""

from __future__ import annotations

import gc
import tracemalloc

import pytest

from poolrt import units
from poolrt.hygiene.allocation_sites import AllocationTrace
from poolrt.units import format_size

kept: list[object] = []


@pytest.fixture(autouse=True)
def _keep_nothing():
    yield
    kept.clear()
    assert not tracemalloc.is_tracing()


def here(function) -> str:
    return f"{__file__}:{function.__code__.co_firstlineno + 1}"


def large() -> None:
    kept.append(bytes(50_000))


def small() -> None:
    kept.extend(bytes(1000) for _ in range(20))


def freed() -> None:
    bytes(500_000)


def garbage() -> None:
    cycle = [bytearray(500_000)]
    cycle.append(cycle)


def test_what_is_still_there_is_named_largest_first() -> None:
    """What was freed, also by a collection, is not; nor is what poolrt itself allocates."""
    trace = AllocationTrace()
    trace.start()
    small()
    large()
    freed()
    garbage()
    kept.extend(format_size(number) for number in range(5000, 105_000, 100))
    gc.collect(1)
    lines = trace.stop().splitlines()
    assert lines[0].startswith(here(large))
    assert lines[0].endswith(": 48.9 KiB in 1 block")
    assert lines[1].startswith(here(small))
    assert lines[1].endswith(" in 20 blocks")
    assert len(lines) <= 3
    assert not any(units.__file__ in line for line in lines)
    assert trace.stop() == ""


def test_the_applications_own_tracing_is_left_alone() -> None:
    """It may have its limits and its own snapshots."""
    tracemalloc.start(1)
    try:
        trace = AllocationTrace()
        trace.start()
        large()
        assert trace.stop() == ""
        assert tracemalloc.is_tracing()
        assert tracemalloc.get_traceback_limit() == 1
    finally:
        tracemalloc.stop()
