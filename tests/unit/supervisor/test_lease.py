"""The node's lease, the watch over its steward, and the next start after a fence, on clocks that move when told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from poolrt.board import Row
from poolrt.events import EventKind
from poolrt.states import Activity, ChildState
from poolrt.supervisor import lease as lease_module
from poolrt.supervisor import steward_keeper as keeper_module
from poolrt.supervisor.coroner import Coroner
from poolrt.supervisor.lease import Lease, Succession
from poolrt.supervisor.lifecycle import Child
from poolrt.supervisor.steward_keeper import SILENT_AFTER, StewardKeeper

SECOND = 10**9
LENGTH = 15.0


class Clock:
    """Seconds since boot, asleep or not, and those awake."""

    def __init__(self) -> None:
        self.boot = 100.0
        self.awake = 100.0

    def advance(self, seconds: float) -> None:
        self.boot += seconds
        self.awake += seconds


class FakePool:
    """A pool that remembers what was asked of it."""

    def __init__(self, children: list[Child], steward: Child, row: Row) -> None:
        self.children = children
        self.steward: Child | None = steward
        self.held_back = self.quiet = False
        self.wanted = 2
        self.totals = {"done": 7}
        self.forgiven = 0
        self.killed: list[tuple[int, str, str]] = []
        self._row = row

    def row(self, child: Child) -> Row:
        return self._row

    def condemn(self, child: Child, cause: str, verdict: str) -> None:
        self.killed.append((child.slot, cause, verdict))
        child.move(ChildState.CONDEMNED)

    def forgive(self) -> None:
        self.forgiven += 1


class Told:
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.events: list[tuple[EventKind, str]] = []

    def emit(self, kind: EventKind, child: Child | None = None, **fields: Any) -> None:
        self.events.append((kind, fields.get("cause", "")))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Both modules' time."""
    clock = Clock()
    monkeypatch.setattr(lease_module, "boottime_ns", lambda: int(clock.boot * SECOND))
    monkeypatch.setattr(keeper_module.time, "monotonic", lambda: clock.awake)
    return clock


@pytest.fixture
def pool(make_child: Callable[..., Child], make_row: Callable[..., Row]) -> Any:
    """Two children that run a task, and a steward."""
    steward = make_child(slot=2)
    steward.pid = 4711
    return FakePool([make_child(slot=0), make_child(slot=1)], steward, make_row(Activity.RUN))


@pytest.fixture
def told() -> Any:
    """What was reported."""
    return Told()


UNTIL = 110 * SECOND


def test_without_leases_nothing_is_ever_lost(clock: Clock, pool: Any, told: Any) -> None:
    """The cell stays 0."""
    lease = Lease(LENGTH, told, keep=False)
    clock.advance(1e6)
    assert not lease.check(0, pool)
    assert (pool.killed, told.events, lease.status(), lease.wake()) == ([], [], None, float("inf"))


def test_it_wakes_when_the_lease_runs_out(clock: Clock, pool: Any, told: Any) -> None:
    """Not at the next tick."""
    lease = Lease(LENGTH, told, keep=False)
    lease.check(UNTIL, pool)
    clock.advance(9.5)
    assert not lease.check(UNTIL, pool)
    assert lease.wake() == pytest.approx(0.5)
    assert lease.status() == {"until_in": 0.5, "lost": False}
    assert pool.killed == []


def test_stop_kills_puts_back_and_starts_nobody(clock: Clock, pool: Any, told: Any) -> None:
    """Once; the cause says how long the broker was not reached: 10 s of the lease, and those since."""
    lease = Lease(LENGTH, told, keep=False)
    lease.check(UNTIL, pool)
    clock.advance(10.5)
    assert lease.check(UNTIL, pool)
    cause = "the node's lease ran out: the broker was not reached for 10.5 s; put back"
    assert pool.killed == [(0, cause, "stopped"), (1, cause, "stopped")]
    assert pool.held_back
    assert [kind for kind, _ in told.events] == [EventKind.NODE_LEASE_LOST]
    clock.advance(5.0)
    assert not lease.check(UNTIL, pool)
    assert (len(pool.killed), len(told.events), pool.forgiven) == (2, 1, 0)
    assert (lease.status(), lease.wake()) == ({"until_in": -5.5, "lost": True}, float("inf"))


def test_keep_kills_nobody_and_starts_nobody(clock: Clock, pool: Any, told: Any) -> None:
    """Running tasks go on; who dies is not replaced."""
    lease = Lease(LENGTH, told, keep=True)
    lease.check(UNTIL, pool)
    clock.advance(11.0)
    assert not lease.check(UNTIL, pool)
    assert (pool.killed, pool.held_back, lease.lost) == ([], True, True)


@pytest.mark.parametrize("keep", [False, True])
def test_a_renewal_fills_the_pool_at_once(clock: Clock, pool: Any, told: Any, keep: bool) -> None:  # noqa: FBT001
    """Without a pause for what failed while the broker was away."""
    lease = Lease(LENGTH, told, keep=keep)
    lease.check(UNTIL, pool)
    clock.advance(60.0)
    lease.check(UNTIL, pool)
    assert not lease.check(int(170 * SECOND), pool)
    assert (pool.held_back, pool.forgiven, lease.lost) == (False, 1, False)
    assert told.events[-1][0] is EventKind.NODE_RESUMED
    assert lease.wake() == pytest.approx(10.0)


def test_a_node_asleep_for_longer_than_its_lease_has_lost_it(clock: Clock, pool: Any, told: Any) -> None:
    """The clock of the lease goes on while the machine is suspended."""
    lease = Lease(LENGTH, told, keep=False)
    lease.check(UNTIL, pool)
    clock.boot += 3600.0
    assert lease.check(UNTIL, pool)


def test_another_start_has_no_lease_yet(clock: Clock, pool: Any, told: Any) -> None:
    """The former one's loss is not its own."""
    lease = Lease(LENGTH, told, keep=False)
    clock.advance(60.0)
    lease.check(UNTIL, pool)
    lease.begin_anew()
    assert (lease.status(), lease.lost, lease.wake()) == (None, False, float("inf"))


# ---- the steward


class FakeBoard:
    """The two cells that the steward writes."""

    def __init__(self, beat: float) -> None:
        self.lease_until = UNTIL
        self.beat = int(beat * SECOND)


@pytest.fixture
def keeper(clock: Clock, pool: Any) -> StewardKeeper:
    """Its steward has just stamped the board; it must again within 4.5 s."""
    keeper = StewardKeeper(LENGTH)
    keeper.board = FakeBoard(clock.awake)  # type: ignore[assignment]
    keeper.judge(pool)
    return keeper


def stand(keeper: StewardKeeper, pool: Any, clock: Clock, seconds: float, *, step: float = 0.5) -> None:
    """Let time pass while the supervisor looks."""
    for _ in range(round(seconds / step)):
        clock.advance(step)
        keeper.judge(pool)


def test_a_stamp_made_while_the_supervisor_looks_is_no_silence(keeper: StewardKeeper, pool: Any, clock: Clock) -> None:
    """The time is taken first and the board read after it, so the newest stamp may lie a little ahead."""
    for _ in range(40):
        clock.advance(0.5)
        keeper.board.beat = int((clock.awake + 0.0001) * SECOND)  # type: ignore[misc,union-attr]
        keeper.judge(pool)
    assert pool.killed == []


def test_a_steward_that_does_not_stamp_is_condemned(keeper: StewardKeeper, pool: Any, clock: Clock) -> None:
    """After one and a half renewals: a call of it may take 0.8, so a working one is never that late."""
    stand(keeper, pool, clock, 4.0)
    assert keeper.wake(pool) == pytest.approx(0.5)
    assert pool.killed == []
    stand(keeper, pool, clock, 0.5)
    assert pool.killed == [(2, "silent for 4.5 s", "none")]
    assert keeper.wake(pool) == float("inf")  # it is dying: nothing to wait for


def test_a_steward_that_stamps_lives(keeper: StewardKeeper, pool: Any, clock: Clock) -> None:
    """Whatever else it does, and also if the broker is away."""
    for _ in range(20):
        stand(keeper, pool, clock, 3.0)
        keeper.board.beat = int(clock.awake * SECOND)  # type: ignore[misc,union-attr]
    assert pool.killed == []


def test_a_stamp_from_the_future_is_none(keeper: StewardKeeper, pool: Any, clock: Clock) -> None:
    """A task can scribble over the board."""
    keeper.board.beat = 1 << 62  # type: ignore[misc,union-attr]
    stand(keeper, pool, clock, 4.5)
    assert pool.killed


def test_who_stood_still_itself_waits_again(keeper: StewardKeeper, pool: Any, clock: Clock) -> None:
    """The whole node was stopped: its steward could stamp as little as we could look."""
    clock.advance(60.0)
    keeper.judge(pool)
    stand(keeper, pool, clock, 4.0)
    assert pool.killed == []
    stand(keeper, pool, clock, 0.5)
    assert pool.killed


def test_a_steward_that_boots_may_take_twice_as_long(keeper: StewardKeeper, pool: Any, clock: Clock) -> None:
    """It joins and renews: two calls."""
    pool.steward.state = ChildState.STARTING
    stand(keeper, pool, clock, 8.5)
    assert pool.killed == []
    stand(keeper, pool, clock, 0.5)
    assert pool.killed


def test_without_a_lease_its_word_counts(keeper: StewardKeeper, pool: Any, clock: Clock) -> None:
    """Three calls of five seconds, by what it says once a second."""
    keeper.board.lease_until = 0  # type: ignore[misc,union-attr]
    keeper.heard()
    stand(keeper, pool, clock, SILENT_AFTER - 0.5)
    assert (pool.killed, keeper.wake(pool)) == ([], float("inf"))
    stand(keeper, pool, clock, 0.5)
    assert pool.killed == [(2, "silent for 15 s", "none")]


# ---- the next start


def test_a_first_fence_waits_for_nothing_a_series_does() -> None:
    """And one that comes a minute after the last is a first one again."""
    succession = Succession(2, Told(), lambda child: None)  # type: ignore[arg-type]
    assert [succession.pause(now) for now in (100.0, 101.0, 103.0, 107.0)] == [0.0, 1.0, 2.0, 4.0]
    assert succession.pause(170.0) == 0.0


class FakeTemplate:
    """A template keeper that remembers."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, float]] = []

    def begin_anew(self, incarnation: str, pause: float) -> None:
        self.begun.append((incarnation, pause))


class EndedPool(FakePool):
    """A pool whose children can be told dead."""

    def __init__(self, pool: FakePool) -> None:
        self.__dict__.update(pool.__dict__)
        self.quiet = True
        self.coroner = Coroner()
        self.ended_with: list[tuple[int, int]] = []

    def __iter__(self) -> Any:
        return iter([*self.children, self.steward])

    def ended(self, child: Child, status: int) -> None:
        self.ended_with.append((child.slot, status))
        self.totals["killed"] = self.totals.get("killed", 0) + 1


class Silent:
    """Lifelines on which nothing is said."""

    def read(self, child: Child) -> None:
        assert child.state is ChildState.CONDEMNED  # dead before its last words are read


def test_a_start_that_is_over_ends_with_all_it_had(
    pool: Any, told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """All are killed and nothing is buried; how many were wanted, quietness and totals go on to the next start."""
    monkeypatch.setattr(lease_module, "kill_descendants", lambda pid: {})
    monkeypatch.setattr(lease_module, "reap_any", lambda known: ())
    forgotten: list[int] = []
    succession = Succession(1, told, lambda child: forgotten.append(child.slot))
    succession.refused = "another node took over"
    ended, template = EndedPool(pool), FakeTemplate()
    succession.end(ended, template, Silent(), "next", serves=True)  # type: ignore[arg-type]
    assert [(slot, verdict) for slot, _, verdict in pool.killed] == [(0, "none"), (1, "none"), (2, "none")]
    assert (template.begun, forgotten) == ([("next", 0.0)], [0, 1, 2])
    assert ended.ended_with == [(0, -9), (1, -9), (2, -9)]
    assert told.events == [(EventKind.NODE_FENCED, "another node took over; begins anew")]
    assert (ended.wanted, succession.count, succession.refused) == (0, 1, "")
    assert (succession.kept.wanted, succession.kept.quiet) == (2, True)
    following = FakePool([], pool.steward, pool.row(None))
    following.totals = {"done": 0, "killed": 0}
    succession.hand_over(following)  # type: ignore[arg-type]
    assert (following.totals, following.quiet) == ({"done": 7, "killed": 3}, True)


def test_a_start_that_never_served_hands_on_what_it_was_to_take_over(
    pool: Any, told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """Fenced while it booted, it wants no children yet; the next one must not inherit that."""
    monkeypatch.setattr(lease_module, "kill_descendants", lambda pid: {})
    monkeypatch.setattr(lease_module, "reap_any", lambda known: ())
    succession = Succession(5, told, lambda child: None)
    ended = EndedPool(pool)
    ended.wanted = 0
    succession.end(ended, FakeTemplate(), Silent(), "next", serves=False)  # type: ignore[arg-type]
    assert (succession.kept.wanted, succession.kept.quiet) == (5, False)
