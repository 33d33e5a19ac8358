"""The last output of a process, kept in memory that outlives it: the head of its stacks file (see `stacks`).

    child  print ──▶ OutputTail.add ──▶ the mapped head of the file        supervisor, once it is dead: read_tails ◀──┘

Each stream has a part of its own: the number of the run that wrote last, and the last bytes of what it wrote. A part is
always written whole, by one call of C under the GIL: so threads that print at once need no lock, which a signal handler
that prints, or a fork in another thread, would find locked.
"""

import mmap
import os
import struct
from typing import Final, NamedTuple

TAIL_BYTES: Final = 4088
"""Bytes kept of a stream: with the run's number half a page, so both streams are one page on x86-64 twice over."""
_PART: Final = struct.Struct(f"<Q{TAIL_BYTES}s")
STREAMS: Final = ("stdout", "stderr")
HEAD_BYTES: Final = 16384
"""Bytes of the head. A multiple of the page's size on every system: what stands behind it may be cut off any time, and
a page that is mapped may not (SIGBUS)."""


class Tails(NamedTuple):
    """The last bytes of each stream."""

    stdout: bytes = b""
    stderr: bytes = b""


class OutputTail:
    """The last bytes of one stream."""

    __slots__ = ("_kept", "_mapped", "_memory", "_place", "_run")

    def __init__(self, memory: mmap.mmap | bytearray, stream: int) -> None:
        # Never unmapped: that would close the number of mmap's own descriptor, which a task may have closed and reused.
        self._memory = self._mapped = memory
        self._place = stream * _PART.size
        self._kept = bytearray()
        self._run = 0

    def add(self, text: str, run: int) -> None:
        """Keep the end of ``text``, which the run with this number wrote; what an earlier run wrote goes. 0.5 us."""
        kept = self._kept
        if run != self._run:
            self._run = run
            kept.clear()
        # Each of these three calls is atomic, and whoever makes the last one copies what all have added.
        kept += text[-TAIL_BYTES:].encode("utf-8", "backslashreplace")
        del kept[:-TAIL_BYTES]
        _PART.pack_into(self._memory, self._place, run, kept)

    def let_go(self) -> None:
        """In a fork: write no more into what the parent writes to."""
        self._memory = bytearray(HEAD_BYTES)


def open_tails(fd: int) -> tuple[OutputTail, OutputTail]:
    """The parts of standard output and error of the file; raises OSError."""
    memory = mmap.mmap(fd, HEAD_BYTES)
    return OutputTail(memory, 0), OutputTail(memory, 1)


def read_tails(fd: int, run: int) -> Tails:
    """What the run with this number wrote last to each stream."""
    head = os.pread(fd, HEAD_BYTES, 0)
    tails = []
    for stream in range(len(STREAMS)):
        part = head[stream * _PART.size : (stream + 1) * _PART.size]
        writer, kept = _PART.unpack(part) if len(part) == _PART.size else (0, b"")
        tails.append(kept.rstrip(b"\0") if writer == run else b"")
    return Tails(*tails)
