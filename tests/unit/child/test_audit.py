"""The audit after each task: memory with a second look, leaks by policy, orphans that nobody waits for."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from poolrt.child import audit as audit_module
from poolrt.child.audit import Audit
from poolrt.events import EventKind
from poolrt.posix.processes import dead_children
from poolrt.settings import Settings, settings_from
from poolrt.states import Activity

MIB = 1 << 20


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
def told() -> list[tuple[Any, ...]]:
    """What was reported."""
    return []


@pytest.fixture
def make(told: list[tuple[Any, ...]]) -> Callable[..., Audit]:
    """``make(sizes, **settings)``: an audit whose child reads as these sizes."""

    def make(sizes: Sizes = Sizes(20 * MIB), **settings: Any) -> Audit:  # noqa: B008  it is never changed
        return Audit(settings_from(settings), Row(), sizes, lambda *event: told.append(event))  # type: ignore[arg-type]

    return make


def test_a_child_below_its_ceiling_stays(make: Callable[..., Audit]) -> None:
    """At the ceiling itself a child stays; without one, nothing is read."""
    assert make(Sizes(100 * MIB), max_memory_per_child="100MiB").after("t") is None
    assert make(Sizes(10**12)).after("t") is None


def test_above_its_ceiling_after_the_second_look_it_leaves(
    make: Callable[..., Audit], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a collection does not free counts; told are both sizes, and the task during which the child grew most."""
    monkeypatch.setattr(audit_module, "_READ_AGAIN_NS", 10**12)
    audit = make(Sizes(20 * MIB, 80 * MIB, 90 * MIB, 118 * MIB, 110 * MIB), max_memory_per_child="100MiB")
    assert [audit.after(task) for task in ("fat", "thin")] == [None, None]
    assert audit.after("thin") is None, "runs of one task that follow each other closely share a reading"
    monkeypatch.setattr(audit_module, "_READ_AGAIN_NS", 0)
    said = "max_memory_per_child: 110.0 MiB (118.0 MiB before a collection), its ceiling is 100.0 MiB"
    assert audit.after("thin") == (f"{said}; it has grown by 60.0 MiB during fat", "fat")


def test_what_a_collection_frees_is_no_reason(make: Callable[..., Audit]) -> None:
    """Garbage in cycles and freed pages are given back, and the child stays."""
    assert make(Sizes(20 * MIB, 120 * MIB, 90 * MIB), max_memory_per_child="100MiB").after("t") is None


@pytest.fixture
def leak() -> Iterator[Callable[[], None]]:
    """``leak()``: one socket more."""
    kept: list[socket.socket] = []
    yield lambda: kept.append(socket.socket())
    for each in kept:
        each.close()


def test_a_gross_leak_is_a_reason_to_leave(make: Callable[..., Audit], leak: Callable[[], None]) -> None:
    """A task that leaves a socket at each run is named within 50 runs, and its child leaves."""
    audit = make()
    reasons = []
    for _ in range(50):
        leak()
        reasons.append(audit.after("shop.fetch"))
    (found,) = filter(None, reasons[:50])
    assert found.task == "shop.fetch"
    assert "shop.fetch" in found.reason


def test_a_leak_may_only_be_told(
    make: Callable[..., Audit], leak: Callable[[], None], told: list[tuple[Any, ...]]
) -> None:
    """With ``warn`` an event names the task, and the child stays; with ``ignore`` nobody looks."""
    audit, blind = make(leak_action="warn"), make(leak_action="ignore")
    for _ in range(50):
        leak()
        assert audit.after("shop.fetch") is blind.after("shop.fetch") is None
    assert (told[0][0], told[0][1]) == (EventKind.WARNING, "shop.fetch")


def test_orphans_are_reaped_and_own_children_are_not(make: Callable[..., Audit], monkeypatch, wait_for) -> None:  # type: ignore[no-untyped-def]
    """A zombie that nobody waits for is reaped after a while; one that a Popen will wait for keeps its status."""
    now = time.monotonic()
    monkeypatch.setattr(audit_module.time, "monotonic", lambda: now)
    own = subprocess.Popen([sys.executable, "-c", "raise SystemExit(7)"])
    stray = os.posix_spawn("/bin/true", ["true"], {})
    wait_for(lambda: set(dead_children()) >= {own.pid, stray}, "both are zombies")
    audit = make()
    for step in range(3):
        now += 4.0
        for _ in range(64):
            audit.after("t")
        assert (stray in dead_children()) is (step < 2), "it has its time before"
    assert own.wait() == 7


def test_the_default_settings_read_no_memory(make: Callable[..., Audit]) -> None:
    """Without a ceiling an audit costs no read of /proc."""

    class Untouchable:
        def read(self) -> int:
            raise AssertionError("it was read")

    assert Settings().max_memory_per_child == 0
    assert make(Untouchable()).after("t") is None  # type: ignore[arg-type]
