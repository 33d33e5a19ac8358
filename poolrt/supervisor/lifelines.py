"""The supervisor's ends of its children's lifelines: watched, read until empty, never waited for, sent to."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from poolrt import notice
from poolrt.errors import ExitCode
from poolrt.events import EventKind
from poolrt.supervisor.lifecycle import Child
from poolrt.supervisor.watcher import Watcher

if TYPE_CHECKING:
    from poolrt.supervisor.reporter import Reporter

log = logging.getLogger("poolrt.supervisor")


def send(child: Child, message: notice.Notice) -> bool:
    """Send without ever blocking; whether it was sent. A full buffer is no loss: orders stand in the row, commands are
    repeated."""
    if child.lifeline is None:
        return False
    try:
        notice.send(child.lifeline, message)
        return True
    except BlockingIOError:
        log.debug("%r does not read its lifeline", child)
    except OSError:
        log.debug("%r is gone: %s was not sent", child, notice.describe(message))
    return False


class Lifelines:
    """Reads what children say and hands it to ``handle(child, notice)``."""

    def __init__(self, watcher: Watcher, handle: Callable[[Child, notice.Notice], None]) -> None:
        self._watcher = watcher
        self._handle = handle

    def watch(self, child: Child) -> None:
        """Read what this child says from now on."""
        assert child.lifeline is not None
        self._watcher.watch(child.lifeline.fileno(), lambda: self.read(child))

    def unwatch(self, child: Child) -> None:
        """Stop; to be called before its lifeline is closed."""
        if child.lifeline is not None:
            self._watcher.unwatch(child.lifeline.fileno())

    def read(self, child: Child) -> None:
        """Handle all it has said; also called when it has exited, so that its last words precede its death."""
        while child.lifeline is not None:
            try:
                frame = notice.receive(child.lifeline)
            except BlockingIOError:
                return
            except OSError:
                frame = None
            if frame is None:
                self.unwatch(child)
                return
            self._handle(child, frame[0])


class BrokerTrouble:
    """Who the broker refuses; said once when it begins and once when it is over, not by each child."""

    def __init__(self, reporter: Reporter, give_up: Callable[[ExitCode, str], None]) -> None:
        self._reporter = reporter
        self._give_up = give_up
        self._refused: set[Child] = set()

    def said(self, child: Child, trouble: notice.Trouble) -> None:
        """A child is refused (the text says why), for good or not, or served again (no text)."""
        if not trouble.text:
            self.forget(child)
            return
        if not self._refused:
            self._reporter.emit(EventKind.BROKER_TROUBLE, cause=trouble.text)
            if trouble.final:
                self._give_up(ExitCode.BROKER_UNUSABLE, trouble.text)
        self._refused.add(child)

    def forget(self, child: Child) -> None:
        """A child is served again, or gone."""
        if child in self._refused:
            self._refused.discard(child)
            if not self._refused:
                self._reporter.emit(EventKind.BROKER_BACK)
