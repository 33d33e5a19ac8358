"""Logging of poolrt's own processes: a handler on the ``poolrt`` logger, never on the root logger.

Only processes that poolrt started call it (the supervisor of ``poolrt serve``, templates and their forks); a
program that imports poolrt keeps its logging as it is.
"""

from __future__ import annotations

import json
import logging
import sys
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


def configure(level: str, style: str) -> None:
    """Log ``poolrt.*`` from ``level`` on to stderr, as ``text`` or ``json``; a second call replaces the first."""
    logger = logging.getLogger("poolrt")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    logger.handlers[:] = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False
