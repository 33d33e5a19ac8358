"""The loop of ``poolrt top``: one thread waits for keys, answers, signals and the next look, and acts.

Never blocks but in ``select``: neither a supervisor that stands still nor a terminal that takes nothing keeps a key or
a signal from being obeyed.
"""

from __future__ import annotations

import dataclasses
import os
import select
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from rich.console import Console

from poolrt.errors import SupervisorNotRunning
from poolrt.posix.signals import WakeupSocket, do_nothing, wakeup_socket
from poolrt.posix.terminal import Terminal
from poolrt.top.keys import Keys
from poolrt.top.link import Answer, Link
from poolrt.top.painter import Painter
from poolrt.top.rates import History
from poolrt.top.screen import screen
from poolrt.top.state import State, lost, on_key, with_answer, with_status
from poolrt.units import format_duration

RECONNECT: Final = 1.0
"""Seconds between two tries to find a node that went away."""
WAIT: Final = 300.0
"""Seconds after which a node that went away is not waited for any more."""
SILENT: Final = 2.0
"""Seconds after which a look without an answer is told."""
LONE_ESCAPE: Final = 0.1
"""Seconds within which the rest of an arrow key follows its ESC, also over a slow line."""

ENDED_BY: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
OURS: Final = (*ENDED_BY, signal.SIGINT, signal.SIGWINCH, signal.SIGTSTP)


class Top:
    """One run of the view.

    Args:
        first: a status of the node, which names it.
        interval: seconds between two looks.
    """

    def __init__(self, first: Mapping[str, Any], interval: float, terminal: Terminal, console: Console) -> None:
        self._interval = interval
        self._terminal = terminal
        self._painter = Painter(console)
        self._keys = Keys()
        self._history = History()
        self._link = Link(str(first.get("node")))
        self._state = State(node=str(first.get("node")), status=first)
        self._code: int | None = None
        now = time.monotonic()
        self._history.add(now, first)
        self._next_look = self._next_try = now
        self._asked_at = now
        self._lost_at: float | None = None
        self._escape_at = 0.0

    def run(self, wakeup: WakeupSocket) -> int:
        """Show the node until a key or a signal ends it; the exit code, 128 and the signal's number for a signal.

        Raises:
            SupervisorNotRunning: the node went away and was waited for long enough.
        """
        try:
            while self._code is None:
                self._look()
                self._paint()
                self._wait(wakeup)
        finally:
            self._link.close()
        return self._code

    # ---- the four steps

    def _look(self) -> None:
        """Ask for the next status when it is time; or try to find the node again."""
        now = time.monotonic()
        if not self._link.connected:
            self._find(now)
        if now < self._next_look:
            return
        self._next_look = max(self._next_look, now - self._interval / 2) + self._interval
        waits = self._link.awaits("status")
        silent = now - self._asked_at if waits and now - self._asked_at >= SILENT else 0.0
        self._change(silent_for=silent)
        if self._link.connected and not waits and not self._state.frozen:
            self._link.ask("status")
            self._asked_at = now

    def _find(self, now: float) -> None:
        if self._lost_at is not None:
            if now - self._lost_at > WAIT:
                waited = format_duration(WAIT)
                raise SupervisorNotRunning(f"node {self._state.node!r} went away and did not come back in {waited}")
            self._state = lost(self._state, now - self._lost_at)
        if now < self._next_try:
            return
        self._next_try = now + RECONNECT
        if self._link.connect():
            self._lost_at = None
            self._next_look = now
            self._change(lost_for=None)
        elif self._lost_at is None:
            self._lost_at = now
            self._state = lost(self._state, 0.0)

    def _paint(self) -> None:
        """Show the state, unless the terminal has not taken the last picture yet: then the next one counts."""
        if not self._terminal.pending:
            self._terminal.write(self._painter.paint(screen(self._state, *self._terminal.size())))

    def _wait(self, wakeup: WakeupSocket) -> None:
        """Wait for whatever comes first, and take it in."""
        reads: list[Any] = [self._terminal.fileno(), wakeup]
        writes: list[Any] = [self._terminal.screen_fileno()] if self._terminal.pending else []
        if self._link.connected:
            reads.append(self._link)
            writes += [self._link] if self._link.wants_room else []
        readable, writable, _ = select.select(reads, writes, (), max(self._next_moment() - time.monotonic(), 0.0))
        if wakeup in readable:
            self._on_signals(wakeup)
        if self._terminal.screen_fileno() in writable:
            self._terminal.flush()
        if self._link in writable:
            self._link.send()
        if self._link in readable:
            self._hear()
        if self._terminal.fileno() in readable:
            self._on_keys()
        elif self._keys.waiting and time.monotonic() >= self._escape_at:
            self._press(self._keys.lone())
        if self._terminal.gone and self._code is None:
            self._code = 128 + signal.SIGHUP

    def _next_moment(self) -> float:
        moments = [self._next_look]
        if not self._link.connected:
            moments.append(self._next_try)
        if self._keys.waiting:
            moments.append(self._escape_at)
        return min(moments)

    # ---- what comes

    def _on_signals(self, wakeup: WakeupSocket) -> None:
        came = set(received(wakeup))
        ends = self._end(came) is not None
        stop = signal.SIGTSTP in came and not ends
        if stop:
            self._terminal.leave()
            stop_as_asked()
            if self._end(set(received(wakeup))) is None:  # a background job would be stopped again
                self._terminal.enter()
        if stop or signal.SIGWINCH in came:
            self._painter.forget()

    def _end(self, came: set[int]) -> int | None:
        """Take in signals that end the view; the exit code if one of them came."""
        for number in ENDED_BY:
            if number in came:
                self._code = 128 + number
        if signal.SIGINT in came and self._code is None:
            self._code = 0
        return self._code

    def _on_keys(self) -> None:
        self._press(self._keys.feed(self._terminal.read()))
        self._escape_at = time.monotonic() + LONE_ESCAPE

    def _press(self, keys: list[str]) -> None:
        for key in keys:
            self._state, requests = on_key(self._state, key)
            for request in requests:
                self._link.ask(request.do, **request.arguments)
            if self._state.ended:
                self._code = 0
                return

    def _hear(self) -> None:
        for answer in self._link.hear():
            self._on_answer(answer)
        if not self._link.connected:
            self._next_try = 0.0

    def _on_answer(self, answer: Answer) -> None:
        if answer.do != "status":
            self._state = with_answer(self._state, answer.do, answer.result, answer.error)
            self._next_look = 0.0  # what it changed is shown at once
        elif isinstance(answer.result, dict):
            self._history.add(time.monotonic(), answer.result)
            self._state = with_status(self._state, answer.result, self._history.rates())

    def _change(self, **changes: Any) -> None:
        self._state = dataclasses.replace(self._state, **changes)


def received(wakeup: WakeupSocket) -> bytes:
    """The numbers of the signals that came."""
    try:
        return wakeup.recv(4096)
    except BlockingIOError:
        return b""


def stop_as_asked() -> None:
    """Stop this process as SIGTSTP does to one that does not handle it; returns after ``fg``."""
    signal.signal(signal.SIGTSTP, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTSTP)
    signal.signal(signal.SIGTSTP, do_nothing)


@contextmanager
def signals() -> Iterator[WakeupSocket]:
    """Signals come as bytes on a socket while this lasts; one that is ignored (nohup) stays ignored."""
    found = {number: signal.getsignal(number) for number in OURS}
    before = {number: handler for number, handler in found.items() if handler not in {signal.SIG_IGN, None}}
    with wakeup_socket() as wakeup:
        try:
            for number in before:
                signal.signal(number, do_nothing)
            yield wakeup
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
