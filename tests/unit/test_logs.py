"""The log's handler: what it cannot write now it keeps, and it never waits."""

from __future__ import annotations

import logging
import os

from poolrt.logs import PatientHandler


def record(text: str) -> logging.LogRecord:
    return logging.LogRecord("poolrt", logging.INFO, "", 0, text, (), None)


def test_a_pipe_that_nobody_reads() -> None:
    """A full pipe stops nobody; what was kept follows when it is read, and what was dropped is counted."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    handler = PatientHandler(writer)
    for number in range(3000):
        handler.emit(record(f"{number:04} {'x' * 1000}"))
    seen = b""
    for _ in range(1000):
        try:
            seen += os.read(reader, 65536)
        except BlockingIOError:
            break
        handler.flush()
    os.close(reader)
    os.close(writer)
    lines = [line for line in seen.splitlines() if not line.startswith(b"...")]
    (dropped,) = [line for line in seen.splitlines() if line.startswith(b"...")]
    assert lines[0].startswith(b"0000 ")
    assert lines[-1].startswith(b"2999 ")
    assert len(lines) + int(dropped.split()[1]) == 3000
