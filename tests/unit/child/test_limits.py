"""Which limits a run has: the call's before the node's, and 0 is none."""

from __future__ import annotations

import types

import pytest

from poolrt.child.executor import _out_of_group
from poolrt.child.limits import Limits
from poolrt.errors import SoftTimeLimitExceeded
from poolrt.message import Message
from poolrt.settings import settings_from

MIB = 1 << 20


@pytest.fixture
def limits() -> Limits:
    """Of a node with a limit of each kind, in a child of 20 MiB."""
    settings = settings_from({"time_limit": 5, "soft_time_limit": 2, "memory_limit": "100MiB"})
    return Limits(settings, types.SimpleNamespace(read=lambda: 20 * MIB))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({}, (5, 2, 100)),
        ({"time_limit": 9.0, "soft_time_limit": 3.0, "memory_limit": 50 * MIB}, (9, 3, 50)),
        ({"time_limit": 0.0, "soft_time_limit": 0.0, "memory_limit": 0}, (0, 0, 0)),
        ({"time_limit": 2.0}, (2, 0, 100)),
        ({"time_limit": float("nan"), "memory_limit": 1 << 61}, (0, 2, 0)),
    ],
)
def test_the_calls_own_limit_wins(own: dict[str, float], expected: tuple[int, int, int], limits: Limits) -> None:
    """A limit of the message replaces the node's, also a 0; a soft one not below the hard one is none."""
    message = Message("id", "t", b"", **own)  # type: ignore[arg-type]
    hard, soft = limits.deadlines(message, 10**9)
    seconds = tuple((deadline - 10**9) // 10**9 if deadline else 0 for deadline in (hard, soft))
    assert (*seconds, limits.memory(message) // MIB) == expected


def test_an_interruption_is_found_in_an_exception_group() -> None:
    """What a TaskGroup wraps is recorded by its own name; other groups stay as they are."""
    limit = SoftTimeLimitExceeded()
    group = BaseExceptionGroup("outer", [ValueError("x"), BaseExceptionGroup("inner", [limit])])
    assert _out_of_group(group) is limit
    other = ExceptionGroup("outer", [ValueError("x")])
    assert _out_of_group(other) is other
