"""Enforces limits from outside: looks at the board when something may be due, interrupts, recalls, and kills.

    judge ── Interrupt ──▶ the row's interruption cell, SIGUSR2: the child raises in the task, where it is safe
          ── Kill ──▶ SIGUSR1: stacks ──▶ SIGSTOP, wait until it stands still, compare the word ── same ──▶ condemn
                                                                                          └─ moved ──▶ SIGCONT
          ── Recall ──▶ the same, but ── same ──▶ mark what it holds beside its run ──▶ SIGCONT, Poke to the steward
    steward ── CancelRun ──▶ Interrupt, after a grace Kill without stacks; as Recall, if the child runs something else

A naive "read, decide, kill" killed another task in 369 of 400 adversarial runs (research/hygiene.md 1.4): the child
may have ended that task and begun the next one meanwhile. Stopped, it cannot move its word.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterable
from typing import Final

from poolrt.board import RECALL_AFTER_NS, Board
from poolrt.posix.open_files import open_files
from poolrt.posix.pidfd import Stopped, send_signal, stop_and_wait
from poolrt.posix.processes import is_stopped
from poolrt.posix.stacks import ask_for_stacks, forget_stacks, size_of_stacks
from poolrt.states import Activity, ChildState
from poolrt.supervisor.judge import Interrupt, Kill, Look, judge, may_be_marked
from poolrt.supervisor.lifecycle import Asked, CancelledRun, Child

_LOOK_EVERY_NS: Final = 1_000_000_000
_STACKS_EVERY_NS: Final = 1_000_000
"""How often a file that stacks are written to is looked at."""
_STOP_WITHIN: Final = 0.01
"""Seconds that a child may take to stop for a recall: one that waits in the kernel is left alone for a second."""
_ALL: Final = 1 << 62


class Enforcer:
    """Limits of the children of one pool.

    Args:
        board: their rows.
        children: gives the pool's children.
        condemn: called with a child, the cause, and the verdict on its task, when it must be killed.
        poke_steward: called when there is a mark for the steward to see.
        cancel_grace: seconds that a cancelled run may take to end.
    """

    def __init__(
        self, board: Board, children: Callable[[], Iterable[Child]], condemn: Callable[[Child, str, str], None],
        poke_steward: Callable[[], None], cancel_grace: float,
    ) -> None:  # fmt: skip
        self._board = board
        self._children = children
        self._condemn = condemn
        self._poke_steward = poke_steward
        self._cancel_grace = int(cancel_grace * 1e9)
        self._next_look = 0
        self._not_before: dict[int, int] = {}
        """When a slot's child that would not stop for a recall may be asked again, CLOCK_MONOTONIC ns."""
        self._done: dict[int, tuple[int, int]] = {}
        """Generation and ``upto`` of the mark that the steward has done last, by slot."""

    def look_now(self) -> None:
        """Look at the next call: a child has started a task with an earlier deadline."""
        self._next_look = 0

    def recalled(self, child: Child, upto: int) -> None:
        """The steward has done the mark of this child: it may be marked again."""
        self._done[child.slot] = (child.generation, upto)
        self.look_now()

    def enforce(self) -> int:
        """Do what is due, if it is time to look; CLOCK_MONOTONIC ns of the next look.

        Between two looks nobody's deadline passes: a child that starts a task with an earlier one pokes us.
        """
        now = time.monotonic_ns()
        if now < self._next_look:
            return self._next_look
        # Published before the rows are read: whoever starts meanwhile with an earlier deadline pokes.
        self._board.publish_next_wake(now + _LOOK_EVERY_NS)
        looks = [self._look(child) for child in self._children() if _may_run(child)]
        kills, interrupts, recalls, wake = judge(looks, now, now + _LOOK_EVERY_NS)
        for interrupt in interrupts:
            self._interrupt(interrupt)
        for kill in kills:
            if not self._kill(kill, now):
                wake = min(wake, now + _STACKS_EVERY_NS)
        willing = [recall for recall in recalls if now >= self._not_before.get(recall.child.slot, 0)]
        marked = [self._recall(recall.child, recall.word) for recall in willing]
        if any(marked):
            self._poke_steward()
        if not all(marked):
            wake = min(wake, now + RECALL_AFTER_NS)
        self._next_look = wake
        self._board.publish_next_wake(wake)
        return wake

    def cancel(self, child: Child, n: int, i: int) -> None:
        """Interrupt the delivery ``(n, i)`` if the child runs it. If it holds that behind another, have it taken back.

        Neither, and no harm, while it is between two tasks: the steward asks again, also for what is cancelled already.
        """
        if not _may_run(child):
            return
        _, row, word, _, taken = self._look(child)
        if row.activity is not Activity.RUN or row.generation != child.generation:
            return
        if (row.n, row.i) == (n, i):
            if child.cancelled.sequence != row.sequence:
                now = time.monotonic_ns()
                child.cancelled = CancelledRun(row.sequence, now, now + self._cancel_grace)
                self.look_now()
        elif row.n <= n and may_be_marked(row, taken) and self._recall(child, word):
            self._poke_steward()

    def _look(self, child: Child) -> Look:
        row = self._board.read(child.slot)
        # The word of that same reading: read again, it could be the next task's, and that one would be killed.
        now, rss = time.monotonic_ns(), 0
        if child.resident is not None and row.activity is Activity.RUN and (row.memory_limit or child.rss.is_due(now)):
            rss = child.resident.read()
            child.rss.note(now, rss)
        taken = self._board.recall_mark(child.slot)[2]
        if taken and self._done.get(child.slot) != (child.generation, taken):
            taken = _ALL
        return Look(child, row, row.sequence << 8 | row.activity, rss, taken)

    def _interrupt(self, interrupt: Interrupt) -> None:
        child, sequence, reason = interrupt
        known, count = child.signalled
        child.signalled = (sequence, count + 1 if known == sequence else 1)
        self._board.interrupt(child.slot, sequence, reason)
        send_signal(child.pidfd, signal.SIGUSR2)

    def _kill(self, kill: Kill, now: int) -> bool:
        """Ask for its stacks, and once they are there or too late, kill it if it still runs that task.

        False: its stacks are on their way.
        """
        child, word, cause, patience, verdict = kill
        asked = child.asked
        if not patience:
            self._kill_run(child, word, cause, verdict)
            return True
        if asked is None or asked.word != word:
            child.asked = Asked(word, now, 0, cause)
            ask_for_stacks(child.pidfd, child.stacks_fd)
            return False
        size = size_of_stacks(child.stacks_fd)
        if now - asked.at < patience and (not size or size != asked.size):
            child.asked = asked._replace(size=size)
            return False
        if not self._kill_run(child, word, cause, verdict):
            forget_stacks(child.stacks_fd)
        return True

    def _kill_run(self, child: Child, word: int, cause: str, verdict: str) -> bool:
        """Kill a child, unless it does not run that task any more: then False."""
        if stop_and_wait(child.pid, child.pidfd) is Stopped.EXITED:
            return True
        if self._board.word(child.slot) != word:
            send_signal(child.pidfd, signal.SIGCONT)
            return False
        if verdict == "failed":  # what it has open is for its crash report
            child.open_files = open_files(child.pid, child.pidfd)
        self._condemn(child, cause, verdict)
        return True

    def _recall(self, child: Child, word: int) -> bool:
        """Mark what a child holds beside its run, if it still runs that task; whether there is a mark now."""
        was_stopped = is_stopped(child.pid)  # by somebody else, who alone will let it go on
        stopped = stop_and_wait(child.pid, child.pidfd, _STOP_WITHIN)
        if stopped is Stopped.EXITED:
            return False
        if stopped is Stopped.TIMEOUT:
            self._not_before[child.slot] = time.monotonic_ns() + _LOOK_EVERY_NS
        _, row, current, _, taken = self._look(child)
        same = stopped is Stopped.STOPPED and current == word and may_be_marked(row, taken)
        if same:
            self._board.mark_recall(child.slot, row.n, row.i, row.last_reserve)
        if not was_stopped:
            send_signal(child.pidfd, signal.SIGCONT)
        return same


def _may_run(child: Child) -> bool:
    return child.pid > 0 and child.state in (ChildState.UP, ChildState.RETIRING)
