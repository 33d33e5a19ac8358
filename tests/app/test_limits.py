"""Rates, concurrency and unique keys as tasks declare them, over a real pool, on each broker."""

from __future__ import annotations

import importlib
import itertools
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import poolrt
from tests import servers

SECONDS = 30.0


@pytest.fixture(scope="module", params=["sqlite", "redis"])
def tasks(request: pytest.FixtureRequest, place: Path, redis_server: servers.Server) -> Iterator[ModuleType]:
    """The module limited_tasks, imported anew on each broker."""
    patch = pytest.MonkeyPatch()
    if request.param == "redis":
        patch.setenv("TEST_BROKER", redis_server.url(namespace=f"t-{uuid.uuid4().hex}"))
    sys.modules.pop("limited_tasks", None)
    module = importlib.import_module("limited_tasks")
    yield module
    module.app.close()
    patch.undo()


@pytest.fixture(scope="module", autouse=True)
def pool(tasks: ModuleType) -> Iterator[poolrt.Supervisor]:
    """A pool of three children."""
    with poolrt.Supervisor(tasks.app, concurrency=3, log_level="error") as pool:
        yield pool


@pytest.fixture(autouse=True)
def shut(tasks: ModuleType) -> Iterator[None]:
    """Each test opens its connection anew, and leaves none open."""
    yield
    tasks.app.close()


def test_a_rate_holds(tasks: Any) -> None:
    """In no second start more than the rate and one burst; what is not limited goes past."""
    results = tasks.start.enqueue_many([()] * 50)
    assert tasks.free.delay().get(timeout=SECONDS) == "free"
    assert not results[-1].ready()
    starts = sorted(result.get(timeout=SECONDS) for result in results)
    for began in starts:
        assert sum(began <= each < began + 1 for each in starts) <= 20 + 20 + 1
    assert starts[-1] - starts[0] >= 1.4, "20 at once, 30 at 20 a second"


def test_one_at_a_time_for_each_key(tasks: Any) -> None:
    """Runs of one key never overlap, those of two do not wait for each other."""
    results = [tasks.hold.delay(tenant) for tenant in ("ann", "bob") * 5]
    runs = [result.get(timeout=SECONDS) for result in results]
    for own in (sorted(runs[::2]), sorted(runs[1::2])):
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(own))
    assert any(ann[0] < bob[1] and bob[0] < ann[1] for ann in runs[::2] for bob in runs[1::2])


def test_retries_pass_their_gate(tasks: Any) -> None:
    """The slot of an attempt is free for the next one."""
    assert [result.get(timeout=SECONDS) for result in [tasks.flaky.delay() for _ in range(4)]] == [3] * 4


def test_unique_while_it_waits_or_runs(tasks: Any, tmp_path: Path) -> None:
    """The second call has the first one's result; when that has ended the next one runs anew."""
    path = tmp_path / "gate"
    first, second, other = (tasks.wait_for.delay(str(each)) for each in (path, path, tmp_path / "other"))
    assert (first.id == second.id, first.id == other.id) == (True, False)
    path.touch()
    (tmp_path / "other").touch()
    assert second.get(timeout=SECONDS) == other.get(timeout=SECONDS) == "done"
    third = tasks.wait_for.delay(str(path))
    assert third.id != first.id
    assert third.get(timeout=SECONDS) == "done"
