"""Enforces limits from outside: looks at the board when something may be due, interrupts, and kills.

    judge ── Interrupt ──▶ the row's interruption cell, SIGUSR2: the child raises in the task, where it is safe
          ── Kill ──▶ SIGUSR1: stacks ──▶ SIGSTOP, wait until it stands still, compare the word ── same ──▶ condemn
                                                                                          └─ moved ──▶ SIGCONT

A naive "read, decide, kill" killed another task in 369 of 400 adversarial runs (research/hygiene.md 1.4): the child
may have ended that task and begun the next one meanwhile. Stopped, it cannot move its word.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable
from typing import Final

from poolrt.board import Board
from poolrt.posix.pidfd import Stopped, send_signal, stop_and_wait
from poolrt.posix.stacks import ask_for_stacks, size_of_stacks
from poolrt.states import ChildState
from poolrt.supervisor.judge import Interrupt, Kill, Look, judge
from poolrt.supervisor.lifecycle import Asked, Child

_LOOK_EVERY_NS: Final = 1_000_000_000
_STACKS_EVERY_NS: Final = 1_000_000
"""How often a file that stacks are written to is looked at."""


class Enforcer:
    """Limits of the children of one pool.

    Args:
        board: their rows.
        children: gives the pool's children.
        condemn: called with a child, the cause, and the verdict on its task, when it must be killed.
    """

    def __init__(
        self, board: Board, children: Callable[[], Iterable[Child]], condemn: Callable[[Child, str, str], None]
    ) -> None:
        self._board = board
        self._children = children
        self._condemn = condemn
        self._next_look = 0

    def look_now(self) -> None:
        """Look at the next call: a child has started a task with an earlier deadline."""
        self._next_look = 0

    def enforce(self) -> int:
        """Do what is due, if it is time to look; CLOCK_MONOTONIC ns of the next look.

        Between two looks nobody's deadline passes: a child that starts a task with an earlier one pokes us.
        """
        now = time.monotonic_ns()
        if now < self._next_look:
            return self._next_look
        # Published before the rows are read: whoever starts meanwhile with an earlier deadline pokes.
        self._board.publish_next_wake(now + _LOOK_EVERY_NS)
        looks = [
            self._look(child)
            for child in self._children()
            if child.pid and child.state in (ChildState.UP, ChildState.RETIRING)
        ]
        kills, interrupts, wake = judge(looks, now, now + _LOOK_EVERY_NS)
        for interrupt in interrupts:
            self._interrupt(interrupt)
        for kill in kills:
            if not self._kill(kill, now):
                wake = min(wake, now + _STACKS_EVERY_NS)
        self._next_look = wake
        self._board.publish_next_wake(wake)
        return wake

    def _look(self, child: Child) -> Look:
        row = self._board.read(child.slot)
        # The word of that same reading: read again, it could be the next task's, and that one would be killed.
        rss = child.resident.read() if row.memory_limit and child.resident is not None else 0
        return Look(child, row, row.sequence << 8 | row.activity, rss)

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
        child, word, cause, patience = kill
        asked = child.asked
        if asked is None or asked.word != word:
            child.asked = Asked(word, now, 0, cause)
            ask_for_stacks(child.pidfd, child.stacks_fd)
            return False
        size = size_of_stacks(child.stacks_fd)
        if now - asked.at < patience and (not size or size != asked.size):
            child.asked = asked._replace(size=size)
            return False
        stopped = stop_and_wait(child.pid, child.pidfd)
        if stopped is Stopped.EXITED:
            return True
        if self._board.word(child.slot) == word:
            self._condemn(child, cause, "failed")
        else:
            os.ftruncate(child.stacks_fd, 0)
            send_signal(child.pidfd, signal.SIGCONT)
        return True
