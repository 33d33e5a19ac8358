"""What a task prints is kept as well as written: its last bytes are in the crash report.

    print, logging ──▶ sys.stdout.write ──▶ an OutputTail, in memory that outlives this process
                                      └──▶ the stream, as before

The streams stay the objects they are (handlers of ``logging`` hold them, and know ``fileno``, ``isatty``, their buffer
and encoding): only their ``write`` is replaced, on the instance. What does not pass through it is not kept: bytes
written to ``sys.stdout.buffer``, and what C code and other programs write to descriptors 1 and 2. These would need a
pipe, and a pipe's reader can stop all of its writers.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, Any

from poolrt.posix.last_output import open_tails

if TYPE_CHECKING:
    from poolrt.board import RowWriter
    from poolrt.posix.last_output import OutputTail

log = logging.getLogger("poolrt.child")


class LastOutput:
    """Keeps the end of what each run writes to the streams that standard output and error are now.

    Made in the template: what it costs, each child inherits.
    """

    def __init__(self) -> None:
        self._row: RowWriter | None = None
        self._tails: tuple[OutputTail, ...] = ()
        for number, stream in enumerate((sys.stdout, sys.stderr)):
            if stream is not None:  # None: it was started with the descriptor closed
                self._follow(stream, number)
        os.register_at_fork(after_in_child=self._let_go)

    def keep(self, fd: int, row: RowWriter) -> None:
        """From now on, in this process.

        Args:
            fd: the child's stacks file.
            row: tells which run it is.
        """
        # Now, and not at the first output: a task may have closed the descriptor, and its number be another file's.
        self._tails = open_tails(fd)
        self._row = row

    def _let_go(self) -> None:
        """In a fork: what it writes is not the child's."""
        self._row = None
        for tail in self._tails:
            tail.let_go()

    def _follow(self, stream: Any, number: int) -> None:
        write = stream.write

        def write_and_keep(text: str, /) -> Any:
            if self._row is not None and isinstance(text, str):
                self._tails[number].add(text, self._row.sequence)  # first: the stream may block for good
            return write(text)

        try:
            stream.write = write_and_keep
        except AttributeError:  # the app put an object of its own there
            log.debug("what is written to %r is not kept for crash reports", stream)
