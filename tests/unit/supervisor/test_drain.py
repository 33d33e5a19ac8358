"""The way to a node's end: what comes when, on a clock that only moves when told."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from poolrt.states import ChildState
from poolrt.supervisor import drain as drain_module
from poolrt.supervisor.drain import Drain
from poolrt.supervisor.lifecycle import Child


class FakePool:
    """A pool that remembers what was asked of it."""

    def __init__(self, children: list[Child], steward: Child | None) -> None:
        self.children = children
        self.steward = steward
        self.settled = False
        self.running = len(children)
        self.done: list[str] = []

    def interrupt_all(self) -> int:
        self.done.append("interrupt")
        return self.running

    def condemn(self, child: Child, cause: str, verdict: str) -> None:
        assert verdict == "stopped"
        self.done.append(f"kill {child.slot}")

    def retire(self, child: Child, reason: str) -> None:
        self.done.append("retire the steward")


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, as a list of one number that a test changes."""
    moment = [100.0]
    monkeypatch.setattr(drain_module.time, "monotonic", lambda: moment[0])
    return moment


@pytest.fixture
def pool(make_child: Callable[..., Child]) -> FakePool:
    """Two children and a steward."""
    return FakePool([make_child(slot=0), make_child(slot=1)], make_child(slot=2))


@pytest.fixture
def drain(now: list[float]) -> Drain:
    """One that has begun, with a grace of 10 s."""
    drain = Drain()
    drain.begin(10.0)
    return drain


def step(drain: Drain, pool: FakePool, *, failed: bool = False) -> bool:
    return drain.advance(pool, failed=failed)  # type: ignore[arg-type]


def test_within_the_grace_nothing_is_done(drain: Drain, pool: FakePool, now: list[float]) -> None:
    """Children may take their whole grace."""
    now[0] = 109.9
    assert not step(drain, pool)
    assert (pool.done, drain.ends, drain.forced) == ([], 110.0, False)


def test_after_the_grace_it_interrupts_then_kills(drain: Drain, pool: FakePool, now: list[float]) -> None:
    """First an exception, 0.4 s later SIGKILL for those that are left; both count as forced."""
    now[0] = 110.0
    assert not step(drain, pool)
    assert (pool.done, drain.forced) == (["interrupt"], True)
    assert drain.ends == pytest.approx(110.4)
    now[0] = 110.3
    assert not step(drain, pool)
    assert pool.done == ["interrupt"]
    now[0] = 110.5
    pool.children.pop()
    step(drain, pool)
    assert pool.done == ["interrupt", "kill 0"]


def test_interrupting_nothing_is_not_forced(drain: Drain, pool: FakePool, now: list[float]) -> None:
    """QUIT of an idle node ends as clean as TERM."""
    pool.running = 0
    drain.begin(0.0)
    step(drain, pool)
    assert not drain.forced


def test_a_second_signal_ends_the_grace(drain: Drain, pool: FakePool, now: list[float]) -> None:
    """Not one that comes within 0.2 s of the first: that is the same wish."""
    drain.again("SIGTERM")
    assert drain.ends == 110.0
    now[0] = 101.0
    drain.again("SIGTERM")
    step(drain, pool)
    assert pool.done == ["interrupt"]
    drain.again("SIGTERM")
    assert drain.ends == pytest.approx(101.4), "a third one shortens nothing that protects the tasks"


def test_a_shorter_grace_shortens_and_a_longer_does_not(drain: Drain) -> None:
    """Whoever asks for less time gets it."""
    drain.begin(3.0)
    drain.begin(60.0)
    assert drain.ends == 103.0


def test_the_steward_settles_before_it_leaves(drain: Drain, pool: FakePool, now: list[float]) -> None:
    """Without children the steward has 5 s, however little was left of the grace; it leaves when all is settled."""
    now[0] = 110.39
    pool.children.clear()
    assert not step(drain, pool)
    assert pool.done == []
    assert drain.ends == pytest.approx(115.39)
    pool.settled = True
    assert not step(drain, pool)
    assert pool.done == ["retire the steward"]
    pool.steward = None
    assert step(drain, pool)


def test_a_steward_that_never_settles_is_not_waited_for_longer(
    drain: Drain, pool: FakePool, now: list[float]
) -> None:  # fmt: skip
    """A broker that does not answer holds nobody: after 5 s the node ends; its next start puts back what is left."""
    pool.children.clear()
    assert not step(drain, pool)
    now[0] += 5.0
    assert step(drain, pool)


def test_a_node_that_gave_up_waits_for_nothing(
    drain: Drain, pool: FakePool, make_child: Callable[..., Child]
) -> None:  # fmt: skip
    """What the steward of a failed node has not settled will not be: it leaves at once."""
    pool.children.clear()
    assert not step(drain, pool, failed=True)
    assert pool.done == ["retire the steward"]
    pool.steward = None
    assert step(drain, pool, failed=True)
    pool.steward = make_child(ChildState.STARTING)
    assert not step(drain, pool, failed=True)
