"""The loop, a step at a time, on a pty and without a node: what a real run shows only by chance."""

from __future__ import annotations

import io
import os
import pty
import signal

import pytest
from rich.console import Console

from poolrt.errors import SupervisorNotRunning
from poolrt.posix.terminal import Terminal
from poolrt.top import loop
from poolrt.top.loop import Top, signals


@pytest.fixture
def keyboard():
    """The test's end of a pty, and the program's."""
    made = list(pty.openpty())
    yield made
    for fd in made:
        os.close(fd)


@pytest.fixture
def wakeup():
    """Signals as bytes."""
    with signals() as made:
        yield made


@pytest.fixture
def top(keyboard, status, node_dir, monkeypatch):
    """A Top whose node does not run."""
    monkeypatch.setenv("POOLRT_RUNTIME_DIR", str(node_dir / "run"))
    with Terminal(keyboard[1], keyboard[1]) as terminal:
        yield Top(status(), 60.0, terminal, Console(file=io.StringIO(), force_terminal=True))


def test_what_else_wakes_the_loop_does_not_make_an_escape(top, keyboard, wakeup, monkeypatch):
    """Between the ESC and the rest of an arrow key anything may come: it is still an arrow."""
    monkeypatch.setattr(loop, "LONE_ESCAPE", 30.0)
    os.write(keyboard[0], b"\x1b")
    top._wait(wakeup)
    os.kill(os.getpid(), signal.SIGWINCH)
    top._wait(wakeup)
    assert top._code is None
    os.write(keyboard[0], b"[B")
    top._wait(wakeup)
    assert (top._code, top._state.selected) == (None, 0)


def test_a_node_that_stays_away_is_given_up(top, wakeup, monkeypatch):
    """After the wait the error is the one of a node that does not run, and says how long it was waited for."""
    top._look()
    assert top._state.lost_for == 0.0
    monkeypatch.setattr(loop, "WAIT", 0.0)
    with pytest.raises(SupervisorNotRunning, match="'web-1' went away and did not come back in 0s"):
        top.run(wakeup)


def test_a_signal_that_comes_while_it_is_stopped_ends_it(top, wakeup, monkeypatch):
    """TERM to a stopped view ends it when it goes on; it does not take the terminal again, which may be the shell's."""
    taken = []
    monkeypatch.setattr(loop, "stop_as_asked", lambda: os.kill(os.getpid(), signal.SIGTERM))
    monkeypatch.setattr(top._terminal, "enter", lambda: taken.append(True))
    os.kill(os.getpid(), signal.SIGTSTP)
    top._wait(wakeup)
    assert (top._code, taken) == (128 + signal.SIGTERM, [])


def test_handlers_are_put_back_and_what_is_ignored_stays_ignored():
    """After the view signals do what they did before it; nohup's HUP is not taken, and Python's own are not lost."""
    before = {number: signal.getsignal(number) for number in loop.OURS}
    hup = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals() as wakeup:
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGTERM)
            assert wakeup.recv(10) == bytes([signal.SIGTERM])
        assert signal.set_wakeup_fd(-1) == -1
    finally:
        signal.signal(signal.SIGHUP, hup)
    assert {number: signal.getsignal(number) for number in loop.OURS} == before
