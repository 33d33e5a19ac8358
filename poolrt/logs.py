"""Logging of poolrt's own processes: a handler on the ``poolrt`` logger, never on the root logger.

Only processes that poolrt started call it (the supervisor of ``poolrt serve``, templates and their forks); a
program that imports poolrt keeps its logging as it is.
"""

from __future__ import annotations

import json
import logging
import os
import select
import sys
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from poolrt.events import Event


class TextFormatter(logging.Formatter):
    """``10:31:02 INFO    child 3.2 (pid 41203) child-recycled: max_tasks_per_child``."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ts, level, logger, msg, and the fields of the event it reports."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, Any] = {
            "ts": round(record.created, 6),
            "level": record.levelname.lower(),
            "logger": record.name,
            "msg": record.getMessage(),
            "pid": record.process,
        }
        event: Event | None = getattr(record, "event", None)
        if event is not None:
            import msgspec

            line["event"] = msgspec.to_builtins(event)
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class PatientHandler(logging.Handler):
    """Writes to an fd that may not take it: a pipe nobody reads, a terminal stopped by ^S.

    It never waits: what does not fit now is kept and written with a later line or ``flush``; beyond a MiB the
    oldest lines are dropped, and their number is said. A supervisor that waited for its log's reader could
    enforce no limit and answer nobody.
    """

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._fd = fd
        self._kept: deque[bytes] = deque()
        self._size = 0
        self._dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the line and write what can be written."""
        try:
            self._keep(self.format(record).encode("utf-8", "backslashreplace") + b"\n")
            self.flush()
        except Exception:  # noqa: BLE001  logging's own rule: a broken line must not break the program
            self.handleError(record)

    def _keep(self, line: bytes) -> None:
        self._kept.append(line)
        self._size += len(line)
        while self._size > _MOST_KEPT:
            self._size -= len(self._kept.popleft())
            self._dropped += 1

    def flush(self) -> None:
        """Write what the fd takes now."""
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        while self._kept and any(events & select.POLLOUT for _, events in poll.poll(0)):
            if self._dropped:
                said, self._dropped = self._dropped, 0
                self._kept.appendleft(b"... %d lines of the log were dropped: nobody read it\n" % said)
            # A pipe that polls writable takes PIPE_BUF bytes without waiting.
            line = self._kept.popleft()
            self._size -= len(line)
            try:
                written = os.write(self._fd, line[: select.PIPE_BUF])
            except OSError:
                continue  # its reader is gone
            if written < len(line):
                self._kept.appendleft(line[written:])
                self._size += len(line) - written


_MOST_KEPT = 1024 * 1024


def _handler() -> logging.Handler:
    try:
        return PatientHandler(sys.stderr.fileno())
    except (OSError, ValueError, AttributeError):  # replaced by an object without an fd (a test's), or closed
        return logging.StreamHandler()


def configure(level: str, style: str) -> None:
    """Log ``poolrt.*`` from ``level`` on to stderr, as ``text`` or ``json``; a second call replaces the first."""
    logger = logging.getLogger("poolrt")
    handler = _handler()
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    logger.handlers[:] = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False


def flush() -> None:
    """Write what was kept because the log's reader was slow; never waits."""
    for handler in logging.getLogger("poolrt").handlers:
        handler.flush()
