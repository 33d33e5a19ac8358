"""A terminal that is taken and given back, on a pty whose other end is the test."""

from __future__ import annotations

import os
import pty
import select
import termios
import time

import pytest

from poolrt.posix.terminal import ENTER, LEAVE, Terminal, is_terminal

LFLAG = 3


@pytest.fixture
def ends():
    """The test's end of a pty, and the end that a program has as its terminal; ``os.close(ends.pop(0))`` hangs up."""
    made = list(pty.openpty())
    yield made
    for fd in made:
        os.close(fd)


def shown(fd):
    """What the program has written until now."""
    data = b""
    while select.select([fd], (), (), 0.05)[0]:
        data += os.read(fd, 65536)
    return data


def settings(fd):
    """The terminal's settings, to be compared."""
    return termios.tcgetattr(fd)


def test_keys_come_one_by_one_and_unechoed_while_it_is_ours(ends):
    """Inside, a key is read without a newline and not echoed; signals of the keyboard stay on."""
    ours, theirs = ends
    with Terminal(theirs, theirs) as terminal:
        shown(ours)
        os.write(ours, b"q")
        assert terminal.read() == b"q"
        assert shown(ours) == b""
        assert settings(theirs)[LFLAG] & termios.ISIG


def test_it_is_given_back_as_it_was(ends):
    """Settings, screen, cursor and wrapping are as before, after a normal end and after an exception."""
    ours, theirs = ends
    before = settings(theirs)
    with Terminal(theirs, theirs):
        assert settings(theirs) != before
    assert settings(theirs) == before
    assert shown(ours) == ENTER + LEAVE
    with pytest.raises(ZeroDivisionError), Terminal(theirs, theirs):
        raise ZeroDivisionError
    assert settings(theirs) == before
    assert shown(ours) == ENTER + LEAVE


def test_what_was_found_first_is_given_back_at_last(ends):
    """A shell that had the terminal in between leaves its own settings there: they are not taken for the user's."""
    ours, theirs = ends
    before = settings(theirs)
    with Terminal(theirs, theirs) as terminal:
        terminal.leave()
        assert settings(theirs) == before
        others = settings(theirs)
        others[LFLAG] &= ~termios.ECHO
        termios.tcsetattr(theirs, termios.TCSANOW, others)
        terminal.enter()
    assert settings(theirs) == before
    assert shown(ours) == ENTER + LEAVE + ENTER + LEAVE


def test_leaving_twice_writes_once(ends):
    """A terminal that is not ours is not touched."""
    ours, theirs = ends
    with Terminal(theirs, theirs) as terminal:
        terminal.leave()
        terminal.leave()
        terminal.close()
    assert shown(ours) == ENTER + LEAVE


def test_output_that_is_not_taken_is_kept_and_nothing_blocks(ends):
    """Behind a reader that stands still, writes return at once; what did not fit follows when it reads again."""
    ours, theirs = ends
    with Terminal(theirs, theirs) as terminal:
        shown(ours)
        terminal.write(b"x" * 1_000_000)
        assert terminal.pending
        received = 0
        while terminal.pending:
            received += len(os.read(ours, 65536))
            terminal.flush()
        received += len(shown(ours))
        assert received == 1_000_000


def test_leaving_does_not_wait_for_a_reader_that_stands_still(ends):
    """A terminal that takes nothing is left within a second, its settings restored."""
    _, theirs = ends
    before = settings(theirs)
    begin = time.monotonic()
    with Terminal(theirs, theirs) as terminal:
        terminal.write(b"x" * 1_000_000)
    assert time.monotonic() - begin < 5
    assert settings(theirs) == before


def test_the_inherited_descriptor_goes_on_blocking(ends):
    """O_NONBLOCK belongs to the open file, which the shell shares: it is not set there."""
    _, theirs = ends
    with Terminal(theirs, theirs) as terminal:
        assert os.get_blocking(theirs)
        assert not os.get_blocking(terminal.screen_fileno())


def test_a_terminal_that_hung_up_is_gone(ends):
    """When the other end is closed, reading says end-of-file, writing raises nothing, and so does leaving."""
    _, theirs = ends
    with Terminal(theirs, theirs) as terminal:
        os.close(ends.pop(0))
        assert terminal.read() == b""
        assert terminal.gone
        terminal.write(b"x")
        assert not terminal.flush()


def test_writing_finds_out_too(ends):
    """A terminal that nobody types on is found gone by what is written to it."""
    _, theirs = ends
    with Terminal(theirs, theirs) as terminal:
        os.close(ends.pop(0))
        terminal.write(b"x")
        assert terminal.gone


def test_a_size_of_nothing_is_the_usual_one(ends):
    """A bare pty has no size: 80x24 then; otherwise its own."""
    ours, theirs = ends
    with Terminal(theirs, theirs) as terminal:
        assert terminal.size() == (80, 24)
        termios.tcsetwinsize(ours, (50, 200))
        assert terminal.size() == (200, 50)


def test_what_is_no_terminal_is_told_and_refused(ends):
    """A pipe is no terminal, and neither is a pair of which one is not; taking it raises, and leaves nothing open."""
    _, theirs = ends
    reader, writer = os.pipe()
    try:
        assert is_terminal(theirs, theirs)
        assert not is_terminal(theirs, writer)
        assert not is_terminal(reader, theirs)
        with pytest.raises(termios.error):
            Terminal(reader, theirs)
    finally:
        os.close(reader)
        os.close(writer)
