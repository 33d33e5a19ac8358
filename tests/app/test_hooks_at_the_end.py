"""Hooks and attempts where the child ends: limits, crashes, and the stop of the node; each over a pool of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

import poolrt
from poolrt.errors import TimeLimitExceeded, WorkerLost
from poolrt.message import Record, decode_record


@pytest.fixture
def pool(hooked: ModuleType) -> Iterator[poolrt.Supervisor]:
    """A pool of this test."""
    with poolrt.Supervisor(hooked.app, concurrency=1, log_level="error", max_deliveries=2) as pool:
        yield pool
    hooked.app.close()


@pytest.fixture
def kept(hooked: Any) -> Callable[[Any], Record]:
    """``kept(result)``: the stored record of a task that ended."""
    return lambda result: decode_record(hooked.app.broker.find(result.id).record)


pytestmark = pytest.mark.usefixtures("pool")


def test_soft_limits_and_hooks(hooked: Any, told: Any, ended: Any) -> None:
    """A soft limit in a hook ends that hook alone; on_failure of a task that ran too long runs to its end."""
    result = hooked.limited.delay("slow hook")
    assert ended(result) == "slow hook"
    assert told(result.id) == ["before ", "interrupted", "after succeeded slow hook"]
    result = hooked.limited.delay("slow task")
    assert ended(result).cause == "SoftTimeLimitExceeded"
    assert told(result.id) == ["before ", "on_failure SoftTimeLimitExceeded", "after failed None"]
    assert ended(hooked.same.delay(1)) == 1


def test_a_kill_by_a_limit_is_an_attempt(hooked: Any, kept: Any, told: Any, ended: Any) -> None:
    """A hard limit that retry_for names: both attempts are in the record, with what killed the first; no hook after."""
    result = hooked.hang.delay()
    assert isinstance(ended(result), TimeLimitExceeded)
    record = kept(result)
    ((number, cause, runtime),) = [(each.number, each.cause, each.runtime) for each in record.history]
    assert (number, cause, record.attempt) == (1, "TimeLimitExceeded", 2)
    assert 0.2 <= runtime < 5
    assert told(result.id) == ["before ", "before "]


def test_crashes(hooked: Any, kept: Any, ended: Any) -> None:
    """A child that died is another delivery of the same attempt."""
    assert ended(hooked.crash.delay(1)) == 2
    result = hooked.crash.delay(9)
    assert isinstance(ended(result), WorkerLost)
    assert (kept(result).attempt, kept(result).lost) == (1, 2)
