"""The node's lease as its supervisor sees it, and what follows when it is lost.

    steward ──renewal answered──▶ board.lease_until ──past──▶ Lease: stop | keep, spawn nobody ──renewed──▶ spawn
    steward ──LeaseLost: refused──▶ Succession: the start is over; another incarnation serves under the same name

A renewal that is only late says nothing yet: another node waits for the whole lease, we stop at two thirds of it. One
that is refused says that others took over what this start held: nothing it runs is its own (protocol.md, 10-12).
"""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from poolrt.events import EventKind
from poolrt.incarnation import USABLE
from poolrt.posix.boot import boottime_ns
from poolrt.posix.processes import kill_descendants
from poolrt.posix.reaping import reap_any
from poolrt.states import Activity
from poolrt.supervisor.lifecycle import Child
from poolrt.supervisor.lifelines import Lifelines
from poolrt.supervisor.pool import Pool
from poolrt.supervisor.reporter import Reporter
from poolrt.supervisor.restart import Backoff
from poolrt.supervisor.template_keeper import TemplateKeeper

_LASTED: Final = 60.0
"""Seconds; a start that is over sooner makes the next one wait."""


class Lease:
    """Whether the node may work. Acts on each change once.

    Args:
        length: seconds.
        reporter: where it is told.
        keep: whether running tasks go on when it has run out.

    Attributes:
        until: CLOCK_BOOTTIME ns until which tasks may be started; 0 where there are no leases, or none yet.
        lost: it ran out, and was not renewed since.
    """

    def __init__(self, length: float, reporter: Reporter, *, keep: bool) -> None:
        self._length = length
        self._reporter = reporter
        self._keep = keep
        self.until = 0
        self.lost = False

    def wake(self) -> float:
        """Seconds until it runs out, should nobody renew it. When it is renewed, the steward pokes us."""
        return (self.until - boottime_ns()) / 1e9 if self.until and not self.lost else float("inf")

    def check(self, until: int, pool: Pool) -> bool:
        """Act on what the board says; whether running tasks were killed."""
        self.until = until
        lost = bool(self.until) and boottime_ns() >= self.until
        if lost is self.lost:
            return False
        self.lost = lost
        pool.held_back = lost
        if not lost:
            pool.forgive()
            self._reporter.emit(EventKind.NODE_RESUMED, cause="the node's lease is renewed")
            return False
        cause = f"the node's lease ran out: the broker was not reached for {self._silent_for():.1f} s"
        then = "running tasks go on" if self._keep else "running tasks are put back"
        self._reporter.emit(EventKind.NODE_LEASE_LOST, cause=f"{cause}; {then}, no other is started until it is")
        if self._keep:
            return False
        ran = any(pool.row(child).activity is Activity.RUN for child in pool.children)
        for child in pool.children:
            pool.condemn(child, f"{cause}; put back", "stopped")
        return ran

    def _silent_for(self) -> float:
        """Seconds since the last renewal that was answered was sent."""
        return (boottime_ns() - self.until) / 1e9 + self._length * USABLE

    def begin_anew(self) -> None:
        """Another start has another lease, which it has not got yet."""
        self.until, self.lost = 0, False

    def status(self) -> dict[str, Any] | None:
        """What ``status`` shows; None where there are no leases."""
        if not self.until:
            return None
        return {"until_in": round((self.until - boottime_ns()) / 1e9, 3), "lost": self.lost}


class Kept(NamedTuple):
    """What one start of the node leaves to the next."""

    wanted: int
    quiet: bool
    totals: dict[str, int]


class Succession:
    """From a start that is over to the next one, in the same supervisor.

    Args:
        wanted: how many children the first start wants.
        reporter: where it is told.
        forget: called with each child that ends: the broker's trouble with it is over.

    Attributes:
        refused: why the present start is over; empty while it is not.
        kept: what the next start takes over.
        count: starts that were over.
    """

    def __init__(self, wanted: int, reporter: Reporter, forget: Callable[[Child], None]) -> None:
        self._reporter = reporter
        self._forget = forget
        self.refused = ""
        self.kept = Kept(wanted, quiet=False, totals={})
        self.count = 0
        self._backoff = Backoff(1.0, 15.0)
        self._last = float("-inf")

    def end(
        self, pool: Pool, template: TemplateKeeper, lifelines: Lifelines, incarnation: str, *, serves: bool
    ) -> None:  # fmt: skip
        """End every process of the start; ``template`` begins ``incarnation`` after a pause, if this happens often.

        Nothing is left to be buried: all that the children held is others'.

        Args:
            pool: its children.
            template: its templates.
            lifelines: what its children may still have said.
            incarnation: the next start.
            serves: it had begun to serve; else it has not taken over yet what was kept.
        """
        self._reporter.emit(EventKind.NODE_FENCED, cause=f"{self.refused}; begins anew")
        if serves:
            self.kept = Kept(pool.wanted, pool.quiet, pool.totals)
        pool.wanted = 0
        living = [child for child in pool if child.alive]
        for child in living:
            pool.condemn(child, "the node was fenced: what it ran is another node's", "none")
        template.begin_anew(incarnation, self.pause(time.monotonic()))
        kill_descendants(os.getpid())
        deque(reap_any(()), maxlen=0)
        for child in living:
            lifelines.read(child)
            self._forget(child)
            pool.ended(child, -signal.SIGKILL)
        pool.coroner.close()
        self.count += 1
        self.refused = ""

    def pause(self, now: float) -> float:
        """Seconds to wait before the next start: none at first, then more and more until a start has lasted."""
        last, self._last = self._last, now
        if now - last >= _LASTED:
            self._backoff.succeeded()
            return 0.0
        return self._backoff.failed(now)

    def hand_over(self, pool: Pool) -> None:
        """Give a new pool what was kept; its children come when the steward has joined."""
        pool.totals.update(self.kept.totals)
        pool.quiet = self.kept.quiet
