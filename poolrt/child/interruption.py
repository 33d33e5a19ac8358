"""Interrupt the running task from inside: a soft time limit, a cancel, or the stop of the node.

    SUPERVISOR   row: sequence << 8 | reason,  SIGUSR2;   again after 100 ms, 1 s, … while that run is still in the row
    ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────
    CHILD        handler ── not in user code, or meant for an earlier run ──▶ nothing
                    ├────── inside `shield()` ──▶ delivered where the outermost one is left
                    ├────── an interruption is being cleaned up after ──▶ nothing; swallowed, it comes again
                    ├────── async task ──▶ task.cancel() on its loop
                    └────── stage, by the time since the first signal that could be delivered
                              S0            before the next statement of user code outside libraries and cleanups
                              S1  +100 ms   here, if this very frame has been waited for and may be cut where it stands
                              S2  +1 s      here (a stop: +0.2 s)

An exception that a signal handler raises appears between two instructions of whatever runs: raised at once, it leaked
136 of 4,000 connections of redis-py's pool and made one caller read another's reply. So S0 waits for a place where
nothing is half done (`safe_points`). A sleep, a call that blocks and a loop on one line never come to one: S1. What
blocks inside a library is cut by S2, which may break it: the child is recycled after any interruption.
"""

from __future__ import annotations

import signal
import sys
import time
from typing import TYPE_CHECKING, Final

from poolrt.child.line_events import LineEvents
from poolrt.child.safe_points import is_cleanup, is_protected, module_of, points_of
from poolrt.errors import Cancelled, SoftTimeLimitExceeded, TaskInterrupted
from poolrt.shielding import SHIELD
from poolrt.states import Interruption

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from types import CodeType, FrameType

    from poolrt.board import RowWriter

S1_AFTER: Final = 0.05
"""Seconds since the first signal that could be delivered. Half of the supervisor's 100 ms: a first signal handled late,
on a busy machine or behind a long C call, must not make the second one a first again."""
S2_AFTER: Final = {Interruption.SOFT_LIMIT: 0.5, Interruption.STOP: 0.2, Interruption.CANCEL: 0.5}
"""The same for S2. A stop has less time: the node kills what is left."""

_OURS: Final = {__name__, LineEvents.__module__}
_LOOPS: Final = {"asyncio", "selectors", "uvloop"}
_REASONS: Final = frozenset(Interruption)


_EXCEPTIONS: Final[dict[Interruption, type[SoftTimeLimitExceeded | TaskInterrupted | Cancelled]]] = {
    Interruption.SOFT_LIMIT: SoftTimeLimitExceeded,
    Interruption.STOP: TaskInterrupted,
    Interruption.CANCEL: Cancelled,
}
INTERRUPTIONS: Final = tuple(_EXCEPTIONS.values())
"""What interruptions raise in a task."""


def exception_for(reason: Interruption) -> SoftTimeLimitExceeded | TaskInterrupted | Cancelled:
    """What the task sees of an interruption; the executor adds what it knows of the run."""
    return _EXCEPTIONS[reason]()


class Interrupter:
    """The child's side of interruptions.

    Invariant: between `close` and `open` nothing is watched, pending or raised. All of it runs in the main thread.

    Attributes:
        raised: why the present or last run was interrupted, if it was: an exception was raised in it, or its asyncio
            task was cancelled. The child must be recycled then, whatever came of the task.
        cancelled: the same for a cancelled asyncio task alone: its CancelledError stands for `exception_for` it.
    """

    def __init__(self, row: RowWriter, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock`` gives seconds."""
        self.raised: Interruption | None = None
        self.cancelled: Interruption | None = None
        self._row = row
        self._clock = clock
        self._is_open = False
        self._runtime: CodeType | None = None
        self._lines = LineEvents(self._at_line)
        self._heard = 0
        self._since = 0.0
        self._awaited: list[FrameType] = []
        self._missed = False
        self._task: asyncio.Task[object] | None = None

    def install(self) -> None:
        """Handle SIGUSR2 from now on. To be called in the main thread of the child, after the fork."""
        signal.signal(signal.SIGUSR2, self._on_signal)

    def open(self) -> None:
        """User code is called next: the run ``row.sequence`` may be interrupted. Always called by the same function.

        That function calls the user's, in a ``try`` whose ``finally`` calls `close`.
        """
        if self._runtime is None:
            self._runtime = sys._getframe(1).f_code
        self.raised = self.cancelled = None
        self._is_open = True

    def close(self) -> None:
        """User code has ended: interrupt nothing, and take down what was prepared to. Safe to call twice."""
        self._is_open = False
        if self._heard or SHIELD.depth:
            self._heard = 0
            self._awaited = []
            self._missed = False
            self._lines.stop()
            SHIELD.take_down()

    def open_for_hook(self) -> None:
        """As `open`, for a hook before or after the function: what was raised in this run stays, any function may call.

        That function calls the hook, in a ``try`` whose ``finally`` calls `close_for_hook`.
        """
        self._runtime = sys._getframe(1).f_code
        self._is_open = True

    def close_for_hook(self) -> None:
        """As `close`."""
        self.close()
        self._runtime = None

    @property
    def is_cancelled(self) -> bool:
        """Whether the present or last run is cancelled: it knows, or was about to be told.

        Of one that was about to be told no other attempt may follow, nor if it ended by the stop of the node.
        """
        wanted = self._row.interruption == self._row.sequence << 8 | Interruption.CANCEL
        return wanted or self.raised is Interruption.CANCEL

    def entering_loop(self, loop: asyncio.AbstractEventLoop, task: asyncio.Task[object]) -> None:
        """The run is ``task``, run by ``loop`` in this thread: until `leaving_loop` it is interrupted by a cancel."""
        self._task = task

    def leaving_loop(self) -> None:
        """The loop has stopped; a cancellation still on its way to it does nothing."""
        self._task = None

    # ---- deciding

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """Deliver, or prepare to. May be called between any two instructions, also of this module."""
        wanted = self._row.interruption
        if not self._is_open or frame is None or wanted >> 8 != self._row.sequence or wanted & 0xFF not in _REASONS:
            return
        if wanted != self._heard:
            self._heard, self._since = wanted, self._clock()
        if self._is_held_off():
            return
        reach = self._reach(frame)
        if reach is None:
            self._missed = True  # `_at_line` runs, and looks at it
        elif self._task is not None:
            self._interrupt_async(self._task, frame)
        elif self._is_due_here(frame, reach):
            self._raise()
        else:
            self._await_line(reach)

    def _is_held_off(self) -> bool:
        """Whether the task must not be interrupted at all now; remembers it if a shield is the reason."""
        if SHIELD.depth:
            SHIELD.pending = self._on_shield_left
        elif not _is_cleaning_up():
            return False
        self._since = self._clock()  # what could not be delivered begins with S0
        return True

    def _is_due_here(self, frame: FrameType, reach: list[FrameType]) -> bool:
        if self._is_last_stage():
            return True
        # Only a frame that was waited for: another one may be between `lock.acquire()` and its `try`.
        stuck = frame in self._awaited and reach[:1] == [frame] and not is_cleanup(frame)
        return stuck and self._clock() - self._since >= S1_AFTER

    def _is_last_stage(self) -> bool:
        return self._clock() - self._since >= S2_AFTER[self._reason]

    @property
    def _reason(self) -> Interruption:
        return Interruption(self._heard & 0xFF)

    def _reach(self, frame: FrameType) -> list[FrameType] | None:
        """The frames of the task, from ``frame`` outwards, that may be cut before a statement of theirs.

        Those are in no library and no cleanup, and called from none; the innermost may stand in a cleanup of its own.
        None if ``frame`` is no user code: this module, or another thread.
        """
        reach: list[FrameType] = []
        at: FrameType | None = frame
        while at is not None and at.f_code is not self._runtime:
            if at.f_globals.get("__name__") in _OURS:
                return None
            protected = is_protected(at)
            if protected or is_cleanup(at):
                reach.clear()
            if not protected:
                reach.append(at)
            at = at.f_back
        return reach if at is not None else None

    # ---- delivering

    def _await_line(self, reach: list[FrameType]) -> None:
        self._awaited = reach
        self._lines.watch(reach)

    def _at_line(self, frame: FrameType) -> bool:
        """Called before each line of the awaited frames, and of others; whether this line need not be told again."""
        raisable = frame.f_lasti in points_of(frame.f_code).raisable
        if self._is_open and frame in self._awaited and (raisable or self._missed) and not self._is_held_off():
            self._missed = False
            reach = self._reach(frame)  # things may have changed since it was awaited: a generator has other callers
            if reach and ((raisable and reach[0] is frame) or self._is_due_here(frame, reach)):
                self._raise()
        return not raisable

    def _on_shield_left(self, frame: FrameType) -> None:
        """``frame`` leaves the outermost shield: raise here unless a library called it, our own broker for example."""
        if not self._is_open or self._is_held_off():
            return
        caller = frame.f_back
        outside = self._reach(caller) if caller is not None else None
        if caller is None or outside is None:
            return
        if self._task is not None:
            self._interrupt_async(self._task, frame)
            return
        callers_may = caller.f_code is self._runtime or (outside[:1] == [caller] and not is_cleanup(caller))
        if callers_may and not is_protected(frame):
            self._raise()
        self._await_line(outside)

    def _raise(self) -> None:
        self._lines.stop()
        self._awaited = []
        SHIELD.pending = None
        self.raised = self._reason
        raise exception_for(self.raised)

    def _interrupt_async(self, task: asyncio.Task[object], frame: FrameType) -> None:
        if task.done() or task.cancelling():
            return  # it cleans up
        if self._is_last_stage() and module_of(frame) not in _LOOPS:
            self._raise()  # synchronous code has kept the loop from cancelling the task
        task.get_loop().call_soon_threadsafe(self._cancel, task)

    def _cancel(self, task: asyncio.Task[object]) -> None:
        """Called by the loop: soon, or in a later run."""
        if not self._is_open or task is not self._task or task.done() or task.cancelling() or self._is_held_off():
            return
        self.raised = self.cancelled = self._reason
        task.cancel()


def _is_cleaning_up() -> bool:
    """Whether an ``except``, a ``finally`` or an ``__exit__`` runs that an interruption has caused."""
    error = sys.exc_info()[1]
    for _ in range(1000):  # a task can make the chain a ring
        if error is None:
            break
        if isinstance(error, INTERRUPTIONS):
            return True
        error = error.__context__
    return False
