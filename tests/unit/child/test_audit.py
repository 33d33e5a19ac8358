"""The audit after each task: memory with a second look, leaks by policy, orphans that nobody waits for."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping

import pytest

from poolrt.child import audit as audit_module
from poolrt.child import memory_audit
from poolrt.child import orphans as orphans_module
from poolrt.child.audit import Audit
from poolrt.child.orphans import Orphans
from poolrt.child.watches import Verdict
from poolrt.hygiene.findings import Finding, LeakKind, Policies, Rest
from poolrt.hygiene.pools.checked_out import CheckedOut
from poolrt.hygiene.pools.taken import Taken
from poolrt.hygiene.pools.watch import PoolWatch
from poolrt.hygiene.task_state import StateWatch
from poolrt.posix.processes import dead_children
from poolrt.states import Activity

MIB = 1 << 20
SOME = 1e-5
"""Seconds that a run takes after which there is a glance."""


class Sizes:
    """A resident size that reads as told, and then stays at the last."""

    def __init__(self, *sizes: int) -> None:
        self.sizes = list(sizes)

    def read(self) -> int:
        return self.sizes.pop(0) if len(self.sizes) > 1 else self.sizes[0]


class Row:
    """What an audit writes."""

    lowest = 0

    def activity(self, activity: Activity) -> None:
        """Said before a collection."""

    def fds(self, lowest_free: int) -> None:
        self.lowest = lowest_free


@pytest.fixture
def told() -> list[Finding]:
    """What was found and is not ignored."""
    return []


class FakeWatch:
    """A watch that finds what the test says, and remembers what it was asked.

    Attributes:
        finds: for the next look.
        looks: the runs of each look.
    """

    def __init__(self) -> None:
        self.wants_each = False
        self.finds: list[Finding] = []
        self.looks: list[dict[str, int]] = []

    def look(self, ran: Mapping[str, int]) -> list[Finding]:
        self.looks.append(dict(ran))
        found, self.finds = self.finds, []
        return found


@pytest.fixture
def watch() -> FakeWatch:
    """The audit's one watch beside that of descriptors."""
    return FakeWatch()


Make = Callable[..., Audit]


@pytest.fixture
def make(told: list[Finding], watch: FakeWatch) -> Make:
    """``make(sizes, ceiling, policy)``: an audit whose child reads as these sizes."""

    def make(
        sizes: Sizes = Sizes(20 * MIB),  # noqa: B008  never changed
        ceiling: int = 0,
        policy: str = "",
        policies: Policies | None = None,
    ) -> Audit:
        audit = Audit(policies or Policies(policy), ceiling, Row(), sizes, told.append)  # type: ignore[arg-type]
        audit.add([watch])
        return audit

    return make


def test_a_child_that_leaves_tells_what_was_too_little_to_tell(told: list[Finding]) -> None:
    """How often its tasks ran, for the kinds of which that is known; none of kinds that are ignored."""
    for policy, kinds in (("warn", 5), ("ignore,state=warn", 1), ("ignore", 0)):
        rests: list[Rest] = []
        audit = Audit(Policies(policy), 0, Row(), Sizes(0), told.append, rest=rests.append)  # type: ignore[arg-type]
        audit.add([StateWatch()] if kinds else [])
        for _ in range(3):
            audit.after("t", 1.0)
        audit.leaving()
        mine = [rest for rest in rests if rest.task == "t"]
        assert sum(len(rest.kinds) for rest in mine) == kinds
        assert {rest.runs for rest in mine} <= {3}
    assert told == []


def test_a_child_below_its_ceiling_stays(make: Make) -> None:
    """At the ceiling itself a child stays; without one, nothing is read."""
    assert make(Sizes(100 * MIB), 100 * MIB).after("t", 0.0) is None
    assert make(Sizes(10**12)).after("t", 0.0) is None


def test_above_its_ceiling_after_the_second_look_it_leaves(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a collection does not free counts; told are both sizes, and the task during which the child grew most."""
    monkeypatch.setattr(memory_audit, "_READ_AGAIN_NS", 10**12)
    audit = make(Sizes(20 * MIB, 80 * MIB, 90 * MIB, 118 * MIB, 110 * MIB), 100 * MIB)
    assert [audit.after(task, SOME) for task in ("fat", "thin")] == [None, None]
    assert audit.after("thin", SOME) is None, "runs of one task that follow each other closely share a reading"
    monkeypatch.setattr(memory_audit, "_READ_AGAIN_NS", 0)
    said = "max_memory_per_child: 110.0 MiB (118.0 MiB before a collection), its ceiling is 100.0 MiB"
    assert audit.after("thin", SOME) == Verdict(f"{said}; it has grown by 60.0 MiB during fat", "fat")


def test_what_a_collection_frees_is_no_reason(make: Make) -> None:
    """Garbage in cycles and freed pages are given back, and the child stays."""
    assert make(Sizes(20 * MIB, 120 * MIB, 90 * MIB), 100 * MIB).after("t", 0.0) is None


@pytest.fixture
def leak() -> Iterator[Callable[[], None]]:
    """``leak()``: one socket more."""
    kept: list[socket.socket] = []
    yield lambda: kept.append(socket.socket())
    for each in kept:
        each.close()


def test_a_gross_leak_is_a_reason_to_leave(make: Make, leak: Callable[[], None]) -> None:
    """A task that leaves a socket at each run is named within 50 runs, and its child leaves."""
    audit = make()
    reasons = []
    for _ in range(50):
        leak()
        reasons.append(audit.after("shop.fetch", 0.0))
    (found,) = filter(None, reasons[:50])
    assert found.task == "shop.fetch"
    assert "shop.fetch" in found.reason


def test_a_leak_may_only_be_told(make: Make, leak: Callable[[], None], told: list[Finding]) -> None:
    """With ``warn`` it is told by task, and the child stays; with ``ignore`` nobody looks."""
    audit, blind = make(policy="warn"), make(policy="ignore")
    for _ in range(50):
        leak()
        assert audit.after("shop.fetch", 0.0) is blind.after("shop.fetch", 0.0) is None
    assert told[0].task == "shop.fetch"


FOUND = Finding(LeakKind.THREADS, "t", "work", 5, 5, "t left 5 threads")


@pytest.mark.parametrize(
    ("policy", "verdict"),
    [
        ("threads=ignore", None),
        ("threads=warn", None),
        ("threads=recycle", Verdict("t left 5 threads", "t")),
        ("threads=fail", Verdict("t left 5 threads", "t", "t left 5 threads")),
    ],
)
def test_the_policy_decides(
    make: Make, watch: FakeWatch, told: list[Finding], policy: str, verdict: Verdict | None
) -> None:
    """What is ignored is not told; only ``fail`` makes a run fail, and then verdicts come before outcomes."""
    watch.finds = [FOUND]
    audit = make(policy=policy)
    assert audit.goes_first is ("fail" in policy)
    assert audit.after("t", 1.0) == verdict
    assert told == ([] if "ignore" in policy else [FOUND])


def test_another_tasks_leak_does_not_fail_this_run(make: Make, watch: FakeWatch) -> None:
    """The child leaves all the same."""
    watch.finds = [FOUND]
    assert make(policy="threads=fail").after("other", 1.0) == Verdict("t left 5 threads", "t")


def test_long_runs_are_looked_at_each(make: Make, watch: FakeWatch) -> None:
    """A look costs some microseconds: after a run of 10 ms there is time for one."""
    audit = make()
    for number in range(20):
        audit.after(f"task-{number % 2}", 0.01)
    assert watch.looks == [{"task-0": 1}, {"task-1": 1}] * 10


def test_quick_runs_are_looked_at_together(make: Make, watch: FakeWatch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks take no more than their share of the time; no run is forgotten."""
    monkeypatch.setattr(audit_module.time, "thread_time_ns", itertools.count(0, 6000).__next__)
    audit = make()
    for number in range(1000):
        audit.after(f"task-{number % 2}", 0.0)
    assert 25 < len(watch.looks) < 40, "6 us a look, 0.2 us a run"
    assert watch.looks[-1]["task-0"] == 16
    assert 1000 - 31 <= sum(sum(ran.values()) for ran in watch.looks) <= 1000


def test_a_watch_may_want_to_see_each_run(make: Make, watch: FakeWatch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until it has named the task; whatever it costs."""
    monkeypatch.setattr(audit_module.time, "thread_time_ns", itertools.count(0, 6000).__next__)
    audit = make()
    audit.after("t", 0.0)
    watch.wants_each = True
    while len(watch.looks) < 2:
        audit.after("t", 0.0)
    del watch.looks[:]
    for _ in range(10):
        audit.after("t", 0.0)
    assert watch.looks == [{"t": 1}] * 10
    watch.wants_each = False
    while watch.looks[-1] == {"t": 1}:  # until all look again
        audit.after("t", 0.0)
    assert 10 < len(watch.looks) < 40
    assert sum(ran["t"] for ran in watch.looks[:-1]) == len(watch.looks) - 1


class Kept(Taken):
    """A connection that nobody gives back."""

    def is_gone(self) -> bool:
        return False

    def what(self) -> str:
        return "db:5432"


def test_a_pool_that_has_given_more_is_looked_at_now(
    make: Make, watch: FakeWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Quick runs that each keep a connection would empty their pool before there is time for a look."""
    monkeypatch.setattr(audit_module.time, "thread_time_ns", itertools.count(0, 10**9).__next__)
    out = CheckedOut()
    audit = make()
    audit.add([PoolWatch(out)])
    audit.after("t", SOME)
    looks = len(watch.looks)
    audit.after("t", SOME)
    assert len(watch.looks) == looks, "no time"
    out.now["one"] = Kept()
    audit.after("t", SOME)
    assert len(watch.looks) == looks + 1
    audit.after("t", SOME)
    assert len(watch.looks) == looks + 1, "nothing more is out"


def test_a_closed_lock_is_seen_at_once(told: list[Finding]) -> None:
    """Whoever closed it is named, and the child leaves: nothing else proves its death when its node has died."""
    lock = os.dup(0)
    audit = Audit(Policies(), 0, Row(), Sizes(0), told.append, lock)  # type: ignore[arg-type]
    for _ in range(5):
        assert audit.after("good", SOME) is None
    os.close(lock)
    verdict = audit.after("bad", SOME)
    assert verdict is not None
    assert verdict.task == "bad"
    assert "lock" in verdict.reason


def test_the_shortest_runs_share_a_glance(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """One glance for sixteen runs of nothing, one for each run that had time to leave something."""
    glances = []
    lowest = audit_module.descriptors.lowest_free
    audit = make()
    for _ in range(200):  # a new child is looked at closely
        audit.after("t", 0.0)
    monkeypatch.setattr(audit_module.descriptors, "lowest_free", lambda: glances.append(1) or lowest())
    for _ in range(160):
        audit.after("t", 0.0)
    assert len(glances) == 10
    for _ in range(10):
        audit.after("t", SOME)
    assert len(glances) == 20


def test_what_a_short_run_leaves_is_named(make: Make, leak: Callable[[], None]) -> None:
    """That one of several runs has left something is seen; then each is looked at, so that the right one is named."""
    audit = make()
    for _ in range(200):
        audit.after("good", 0.0)
    reasons = []
    for _ in range(60):
        audit.after("good", 0.0)
        leak()
        reasons.append(audit.after("bad", 0.0))
    found = next(filter(None, reasons))
    assert found.task == "bad"
    assert "30 of 30 runs of bad" in found.reason


def test_a_changed_handler_is_seen(make: Make) -> None:
    """SIGUSR2 brings soft limits: a child that lost it leaves."""
    before = signal.getsignal(signal.SIGUSR2)
    audit = make()
    try:
        assert audit.after("good", 1.0) is None
        signal.signal(signal.SIGUSR2, lambda *_: None)
        verdict = audit.after("bad", 1.0)
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert verdict is not None
    assert verdict.task == "bad"


def test_orphans_are_reaped_and_own_children_are_not(monkeypatch, wait_for) -> None:  # type: ignore[no-untyped-def]
    """A zombie that nobody waits for is reaped after a while; one that a Popen will wait for keeps its status."""
    now = time.monotonic()
    monkeypatch.setattr(orphans_module.time, "monotonic", lambda: now)
    own = subprocess.Popen([sys.executable, "-c", "raise SystemExit(7)"])
    stray = os.posix_spawn("/bin/true", ["true"], {})
    wait_for(lambda: set(dead_children()) >= {own.pid, stray}, "both are zombies")
    orphans = Orphans()
    orphans.reap()
    assert stray in dead_children()
    for step in range(3):
        now += 4.0
        orphans.reap()
        assert (stray in dead_children()) is (step < 2), "it has its time before"
    assert own.wait() == 7


def test_the_default_settings_read_no_memory(make: Make) -> None:
    """Without a ceiling an audit costs no read of /proc."""

    class Untouchable:
        def read(self) -> int:
            raise AssertionError("it was read")

    assert make(Untouchable()).after("t", 0.0) is None  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", sorted(audit_module.BY_LOOKS))
def test_a_run_that_may_fail_is_looked_at_by_itself(make: Make, watch: FakeWatch, kind: LeakKind) -> None:
    """Before it, for what others left, and after it, however quick it is: of each kind that a look finds."""
    policies = Policies("warn")
    policies.learn("strict", f"{kind}=fail")
    audit = make(policies=policies)
    for task in ("other", "other", "strict", "strict", "other", "strict"):
        if task not in audit.at_ease:
            audit.before(task)
        audit.after(task, 0.0)
    assert watch.looks == [{"other": 1}, {"other": 1}, {"strict": 1}, {"strict": 1}, {"other": 1}, {"strict": 1}]


def test_the_first_run_of_a_task_is_looked_at_by_itself(make: Make, watch: FakeWatch) -> None:
    """What it does once, at its first use, has its name; afterwards it is at ease."""
    audit = make()
    for task in "aabbab":
        if task not in audit.at_ease:
            audit.before(task)
        audit.after(task, 0.0)
    assert watch.looks == [{"a": 1}, {"a": 1}, {"b": 1}]
    assert audit.at_ease == {"a", "b"}


def test_what_is_found_before_a_run_is_a_reason_to_leave(make: Make, watch: FakeWatch) -> None:
    """It is another's, and fails nothing."""
    audit = make(policy="threads=recycle,state=fail")
    audit.before("first")
    audit.after("first", 0.0)
    audit.after("first", 0.0)
    watch.finds = [Finding(LeakKind.THREADS, "first", "worker", 1, 1, "first left a thread")]
    assert audit.before("second") == Verdict("first left a thread", "first")


def test_a_watch_that_wants_each_run_is_told_of_none_twice(make: Make, watch: FakeWatch) -> None:
    """It has seen what ran before."""
    audit = make()
    watch.wants_each = True
    for task in ("a", "b", "b", "c"):
        if task not in audit.at_ease:
            audit.before(task)
        audit.after(task, 0.0)
    assert watch.looks == [{"a": 1}, {"b": 1}, {"b": 1}, {"c": 1}]
