"""``poolrt top``: what it shows, which keys do what, and that the terminal is always given back."""

from __future__ import annotations

import os
import signal
import subprocess
import termios
import time

import psutil
import pytest

from poolrt.control import ControlClient, socket_path
from poolrt.errors import ExitCode

PATIENCE = 20.0


# ---- what is refused


def test_without_a_terminal_it_says_so_and_exits_2(poolrt):
    """Where input or output is no terminal there is one line that names what to use instead."""
    said = poolrt("top")
    assert (said.code, said.out) == (ExitCode.USAGE, "")
    assert said.err == "poolrt: top needs a terminal; use 'poolrt status'\n"


@pytest.mark.parametrize("arguments", [(), ("web-9",)])
def test_without_a_node_it_fails_as_status_does(top, poolrt, arguments):
    """The same line and exit code 8; the terminal was never taken."""
    session = top(*arguments)
    assert session.ends() == (ExitCode.NOT_RUNNING, poolrt("status", *arguments).err)
    assert session.screen.modes == {}


def test_a_terminal_that_cannot_move_its_cursor_is_refused(top, node):
    """TERM=dumb is exit code 2 and one line."""
    code, error = top("n", TERM="dumb").ends()
    assert (code, error.count("\n")) == (ExitCode.USAGE, 1)
    assert "TERM" in error


@pytest.mark.parametrize("value", ["fast", "0s", "50ms", "2m"])
def test_an_interval_that_makes_no_sense_is_refused(poolrt, value):
    """What is no duration, too short or too long is exit code 2, and the flag is named."""
    said = poolrt("top", "--interval", value)
    assert (said.code, said.err.count("\n")) == (ExitCode.USAGE, 1)
    assert said.err.startswith("poolrt: --interval: ")
    assert repr(value) in said.err


# ---- what is shown


def test_it_shows_the_node_and_follows_it(top, node, a_status):
    """The children are on the screen, and what changes is there after the next look."""
    session = top("n", "--interval", "100ms").shows("jobs.t2#a")
    node.status = a_status(state="quiet", children=a_status()["children"][:1])
    session.shows("quiet").until(lambda: "jobs.t2" not in str(session.screen), "gone: the row of a child that left")
    assert "jobs.t0#a" in str(session.screen)
    assert str(session.screen).splitlines()[-1].startswith(" q quit")


def test_the_only_node_needs_no_name(top, node):
    """Without a name the one node of this user is shown."""
    top().shows("poolrt n  serving")


def test_one_look_an_interval(top, node):
    """At 2 Hz there are two requests a second: an answer is never asked for twice."""
    session = top("n", "--interval", "200ms").shows("jobs.t0")
    before, begin = node.looks, time.monotonic()
    session.until(lambda: node.looks >= before + 5, "five more looks")
    assert time.monotonic() - begin > 0.7


def test_a_resize_draws_anew(top, node):
    """The new size is used at once, on a screen that is cleared: the keys are on the new last line."""
    session = top("n", "--interval", "60s").shows("space freeze")
    clears = session.screen.clears
    session.resize(120, 40)
    screen = session.screen
    session.until(lambda: screen.clears > clears and "q quit" in screen.lines.get(39, ""), "the keys on line 40")
    session.resize(60, 10)
    session.until(lambda: max(session.screen.lines) < 10 and "quit" not in str(session.screen), "a small screen")
    assert "jobs.t2" in str(session.screen)


def test_no_name_reaches_the_terminal_as_an_order(top, node, a_status):
    """Escape sequences in the names of tasks, nodes and events are written out."""
    node.status = a_status(state="\x1b[?1049l", app="\x1b]0;x\x07", broker="\x9b2J")
    node.status["children"][0]["task"] = "\x1b[9Z[bold]t[/]"
    session = top("n", columns=200).shows(r"\x1b[9Z[bold]t[/]")
    assert session.screen.modes["1049"]
    session.press("q").ends()
    assert session.given_back


def test_a_node_that_goes_away_is_waited_for(top, node, a_status, start_node):
    """The screen says that it waits, keys still work, and the node is shown again when it is back."""
    session = top("n", "--interval", "100ms").shows("jobs.t0")
    node.close()
    session.shows("waiting for node …")
    assert "jobs.t0" in str(session.screen)
    session.press("+").shows("nothing was asked: n does not run")
    start_node().status = a_status(incarnation="j", app="other")
    session.shows("app other").until(lambda: "waiting" not in str(session.screen), "connected")
    session.press("q")
    assert session.ends() == (0, "")


def test_a_supervisor_that_does_not_answer_holds_nothing_up(top, node):
    """While a look waits for its answer the screen says so, and q quits."""
    session = top("n", "--interval", "100ms").shows("jobs.t0")
    node.silent = True
    session.shows("no answer for 2")
    session.press("q")
    assert session.ends() == (0, "")


# ---- keys


def test_recycling_asks_and_sends_the_slot(top, node):
    """j selects, r asks, y sends the request for that slot alone; the answer is on the status line."""
    session = top("n").shows("jobs.t0")
    session.press("jjr").shows("recycle child 1 (pid 101, running jobs.t1#a)? y/N")
    assert node.asked == []
    session.press("y").shows("recycling 1 child")
    assert node.asked == [{"do": "recycle", "slots": [1]}]
    session.press("R").shows("recycle all children?").press("n").shows("not recycled")
    assert len(node.asked) == 1


def test_scaling_is_told_and_refusals_too(top, node):
    """Each plus asks for one more than the last; a refusal is shown in the supervisor's words."""
    session = top("n").shows("jobs.t0")
    session.press("++").shows("scaled to 5 children")
    assert node.asked == [{"do": "scale", "n": 4}, {"do": "scale", "n": 5}]
    node.refusal = "the node is draining"
    session.press("-").shows("refused: the node is draining")


def test_arrows_select_and_escape_quits(top, node):
    """A cursor key is no ESC, also when its bytes come one by one; ESC alone quits after a moment."""
    session = top("n").shows("jobs.t0")
    session.press("\x1b[B").shows(">   0").press("\x1b").press("[").press("B").shows(">   1")
    session.press("\x1b")
    assert session.ends() == (0, "")
    assert session.given_back


def test_space_freezes_and_thaws(top, node, a_status):
    """A frozen screen asks for nothing and stands still; the next space goes on."""
    session = top("n", "--interval", "100ms").shows("jobs.t0")
    session.press(" ").shows("FROZEN")
    node.status = a_status(app="later")
    session.press("?").shows("any key closes this").press("x").shows("jobs.t0")
    assert "app later" not in str(session.screen)
    session.press(" ").shows("app later")


# ---- every end gives the terminal back


@pytest.mark.parametrize("key", ["q", "\x03"], ids=["q", "^C"])
def test_a_key_ends_it_with_0(top, node, key):
    """q and ^C are the usual ends."""
    session = top("n").shows("jobs.t0").press(key)
    assert session.ends() == (0, "")
    assert session.given_back


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGINT])
def test_a_signal_ends_it_and_says_which(top, node, number):
    """The exit code is 128 and the signal's number, as shells have it; 0 for the one of ^C."""
    session = top("n").shows("jobs.t0")
    session.process.send_signal(number)
    assert session.ends() == (0 if number == signal.SIGINT else 128 + number, "")
    assert session.given_back


def test_an_error_ends_it_with_one_line(top, node, a_status):
    """A status that cannot be drawn is one line on stderr and exit code 1, on a terminal that is given back."""
    session = top("n", "--interval", "100ms").shows("jobs.t0")
    node.status = a_status(children=5)
    code, error = session.ends()
    assert (code, error.count("\n")) == (ExitCode.UNEXPECTED, 1)
    assert session.given_back


def test_a_terminal_that_hangs_up_ends_it(top, node):
    """When the terminal is closed the command ends by itself; it does not spin."""
    session = top("n").shows("jobs.t0")
    os.close(session.theirs)
    os.close(session.ours)
    session.ours = session.theirs = -1
    assert session.process.wait(PATIENCE) == 128 + signal.SIGHUP, session.process.stderr.read()


def test_a_terminal_that_takes_nothing_holds_nothing_up(top, node, a_status):
    """With an unread terminal the looks go on, TERM is obeyed within a second, and the settings are restored."""
    session = top("n", "--interval", "100ms", columns=400, lines=100).shows("jobs.t0")
    rows = a_status()["children"]
    deadline = time.monotonic() + PATIENCE
    begin = node.looks
    while node.looks < begin + 25:
        node.status = a_status(
            children=[{**row, "slot": n, "task": f"{node.looks}" * 60} for n in range(90) for row in rows[:1]]
        )
        assert time.monotonic() < deadline
        time.sleep(0.01)
    session.process.send_signal(signal.SIGTERM)
    assert session.process.wait(PATIENCE) == 128 + signal.SIGTERM
    assert termios.tcgetattr(session.theirs) == session.found


def test_stopping_gives_the_terminal_to_the_shell(top, node):
    """SIGTSTP leaves the screen, and going on takes and paints it again: here at once, since no shell can stop it."""
    session = top("n", "--interval", "60s").shows("jobs.t0")
    clears = session.screen.clears
    session.process.send_signal(signal.SIGTSTP)
    session.until(lambda: session.screen.clears > clears, "taken again").shows("jobs.t0")
    assert session.screen.modes == {"1049": True, "25": False, "7": False}
    session.press("q").ends()
    assert session.given_back


# ---- a real node


def test_a_real_node_is_shown_and_recycled(top, command, node_dir, wait_for):
    """Every part of the screen comes from a running node, and r replaces one of its children."""
    (node_dir / "shop_app.py").write_text(
        f'from poolrt import App\n\napp = App("shop", broker="sqlite:///{node_dir}/shop.db")\n'
    )
    serving = command("serve", "shop_app:app", "-c", "1", "-n", "real", cwd=node_dir, stderr=subprocess.DEVNULL)
    wait_for(lambda: socket_path("real").exists(), "listening", PATIENCE)
    with ControlClient.connect("real") as client:
        client.call("ready", timeout=PATIENCE)
    session = top("real", "--interval", "100ms").shows("poolrt real  serving").shows("idle").shows("node-started")
    session.press("jr").shows("recycle child").press("y").shows("child-recycled").shows("recycled 1")
    psutil.Process(serving.pid).terminate()
    session.shows("waiting for node …").press("q")
    assert session.ends() == (0, "")
    serving.wait(PATIENCE)
