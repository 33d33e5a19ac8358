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


def keep_last_output(fd: int, row: RowWriter) -> None:
    """From now on keep the end of what each run writes to standard output and error.

    Args:
        fd: the child's stacks file.
        row: tells which run it is.
    """
    for stream, tail in zip((sys.stdout, sys.stderr), open_tails(fd), strict=True):
        if stream is not None:  # None: it was started with the descriptor closed
            _keep(stream, tail, row)
        os.register_at_fork(after_in_child=tail.let_go)


def _keep(stream: Any, tail: OutputTail, row: RowWriter) -> None:
    write = stream.write

    def write_and_keep(text: str, /) -> Any:
        if isinstance(text, str):
            tail.add(text, row.sequence)  # first: the stream may block for good
        return write(text)

    try:
        stream.write = write_and_keep
    except AttributeError:  # the app put an object of its own there
        log.debug("what is written to %r is not kept for crash reports", stream)
