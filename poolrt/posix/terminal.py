"""A terminal taken over for a view that fills it, and given back as it was found.

Facts that bite:

- ``tcsetattr`` with TCSADRAIN or TCSAFLUSH (``tty.setcbreak``) waits until the terminal has taken what was written:
  behind a stalled connection, for ever. TCSANOW does not wait.
- A blocked ``write`` is repeated after every signal handler (PEP 475), so a process that writes to a terminal nobody
  reads never gets to obey TERM. Output goes through a descriptor of our own that does not block: O_NONBLOCK on the
  inherited one would be set for the shell too. For the same reason ^S must not stop the output (IXON).
- A terminal whose other end is gone is always readable: end-of-file or EIO.
- ``tcsetattr`` from a background job stops the process (SIGTTOU), and would change the terminal below a shell; what
  ``tcgetattr`` finds there are the shell's own settings of the moment.
- Some terminals (serial lines, bare ptys) say that they are 0 columns wide.
"""

from __future__ import annotations

import os
import select
import termios
import time
from types import TracebackType
from typing import Final

ENTER: Final = b"\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J"
"""The alternate screen, no cursor, no wrapping of what is too long; cleared."""
LEAVE: Final = b"\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l"
USUAL_SIZE: Final = (80, 24)
LAST_WRITE: Final = 0.5
"""Seconds that the last output may take: a terminal that takes nothing is left as it is."""


def is_terminal(*fds: int) -> bool:
    """Whether each of these descriptors is a terminal."""
    return all(os.isatty(fd) for fd in fds)


class Terminal:
    """A context in which keys come one by one, unechoed, and the screen is ours; every way out gives both back.

    Invariant: ``_found`` holds the terminal's settings from before the first time that it was taken.

    Args:
        keys: the descriptor that keys are read from.
        screen: the descriptor whose terminal is written to.

    Attributes:
        gone: whether the terminal has hung up: nothing can be read from it or written to it any more.
    """

    def __init__(self, keys: int, screen: int) -> None:
        self._keys = keys
        self._found = termios.tcgetattr(keys)
        self._screen = _reopened(screen)
        self._ours = False
        self._pending = b""
        self.gone = False

    def __enter__(self) -> Terminal:
        try:
            self.enter()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def enter(self) -> None:
        """Take the terminal; also again after `leave`. A background job is stopped here until it is in front."""
        settings = [*self._found[:6], list(self._found[6])]
        settings[0] &= ~termios.IXON
        settings[3] &= ~(termios.ECHO | termios.ICANON | termios.IEXTEN)
        settings[6][termios.VMIN], settings[6][termios.VTIME] = 1, 0
        termios.tcsetattr(self._keys, termios.TCSANOW, settings)
        self._ours = True
        self._pending = ENTER
        self.flush()

    def leave(self) -> None:
        """Give the terminal back as it was found; waits at most `LAST_WRITE`. Nothing happens when it is not ours."""
        if not self._ours:
            return
        self._ours = False
        deadline = time.monotonic() + LAST_WRITE
        self.write(LEAVE)
        while not self.flush() and not self.gone and (left := deadline - time.monotonic()) > 0:
            select.select((), (self._screen,), (), left)
        self._pending = b""
        if self._in_front():
            try:
                termios.tcsetattr(self._keys, termios.TCSANOW, self._found)
            except termios.error:
                self.gone = True

    def close(self) -> None:
        """Give the terminal back and close what was opened; safe to call twice."""
        try:
            self.leave()
        finally:
            screen, self._screen = self._screen, -1
            if screen >= 0:
                os.close(screen)

    def fileno(self) -> int:
        """The descriptor to wait on for keys."""
        return self._keys

    def screen_fileno(self) -> int:
        """The descriptor to wait on for room, while `pending`."""
        return self._screen

    @property
    def pending(self) -> bool:
        """Whether something is written and not taken yet."""
        return bool(self._pending)

    def size(self) -> tuple[int, int]:
        """Columns and lines."""
        try:
            columns, lines = os.get_terminal_size(self._screen)
        except OSError:
            return USUAL_SIZE
        return columns or USUAL_SIZE[0], lines or USUAL_SIZE[1]

    def read(self) -> bytes:
        """What was typed; blocks when nothing was. Empty, and `gone`, when the terminal hung up."""
        try:
            data = os.read(self._keys, 4096)
        except OSError:
            data = b""
        self.gone = self.gone or not data
        return data

    def write(self, data: bytes) -> None:
        """Queue output and send what fits; never blocks."""
        self._pending += data
        self.flush()

    def flush(self) -> bool:
        """Send what fits of what is pending; whether all of it is out."""
        try:
            while self._pending:
                sent = os.write(self._screen, self._pending)
                self._pending = self._pending[sent:]
        except BlockingIOError:
            return False
        except OSError:
            self.gone = True
            return False
        return True

    def _in_front(self) -> bool:
        try:
            return os.tcgetpgrp(self._keys) == os.getpgrp()
        except OSError:
            return True  # not our controlling terminal: there is no background on it


def _reopened(fd: int) -> int:
    """A descriptor of the same terminal that does not block; one that may, where it cannot be opened again (su)."""
    try:
        return os.open(os.ttyname(fd), os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return os.dup(fd)
