"""Keeps one template alive: starts it, tries a failed import again with growing pauses, and sees it die.

start ──exec──▶ importing ──Ready──▶ serving ──end-of-file──▶ lost ──▶ start
                    └──Failed──▶ pause ──▶ start … after five failures: give up
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from poolrt import notice
from poolrt.errors import ExitCode
from poolrt.events import EventKind
from poolrt.notice import Failed, Ready
from poolrt.supervisor.reporter import Reporter
from poolrt.supervisor.restart import Backoff
from poolrt.supervisor.template_process import TemplateProcess
from poolrt.supervisor.watcher import Watcher

log = logging.getLogger("poolrt.supervisor")

MAX_IMPORTS = 5
"""Imports tried before giving up; the pauses between them add up to about 8 s, beside the imports themselves."""


class TemplateKeeper:
    """The node's template.

    Args:
        on_notice: called with what a template that serves says.
        on_ready: called when an import succeeded.
        on_lost: called when a template that was ready has died.
        give_up: called with an exit code and the reason when imports keep failing.
    """

    def __init__(
        self, config: bytes, incarnation: str, boot_timeout: float, watcher: Watcher, reporter: Reporter,
        *, on_notice: Callable[[notice.Notice, list[int]], None], on_ready: Callable[[Ready], None],
        on_lost: Callable[[int], None], give_up: Callable[[ExitCode, str], None],
    ) -> None:  # fmt: skip
        self._config = config
        self._incarnation = incarnation
        self._boot_timeout = boot_timeout
        self._watcher = watcher
        self._reporter = reporter
        self._on_notice = on_notice
        self._on_ready = on_ready
        self._on_lost = on_lost
        self._give_up = give_up
        self._imports = Backoff()
        self.process: TemplateProcess | None = None

    @property
    def pause(self) -> float | None:
        """Seconds until the next import may be tried; None while a template is there."""
        return None if self.process is not None else self._imports.remaining(time.monotonic())

    def start(self) -> None:
        """Exec a template; does not wait for it."""
        self.process = TemplateProcess(self._config, self._incarnation)
        self._watcher.watch(self.process.socket.fileno(), self._read)

    def check(self) -> None:
        """Condemn an import that takes longer than ``boot_timeout``."""
        process = self.process
        if process is not None and not process.ready and time.monotonic() - process.started_at > self._boot_timeout:
            self._failed(Failed(f"the app was not imported within {self._boot_timeout:g} s"))

    def kill(self, why: str) -> None:
        """Kill a template that does not answer (it may be stopped); its end-of-file is handled as any other death."""
        if self.process is not None:
            log.error("the template is killed: %s", why)
            self.process.kill()

    def stop(self) -> None:
        """End the template and all it forked; waits at most some seconds for it."""
        process, self.process = self.process, None
        if process is not None:
            process.ready = False  # the pool still names it, and must ask it for nothing any more
            self._watcher.unwatch(process.socket.fileno())
            process.close(3.0)

    def _read(self) -> None:
        process = self.process
        while process is not None and process is self.process:
            try:
                frame = notice.receive(process.socket)
            except BlockingIOError:
                return
            except OSError:
                frame = None
            if frame is None:
                self._gone(process)
            elif isinstance(frame[0], Ready):
                process.ready = True
                self._imports.succeeded()
                self._on_ready(frame[0])
            elif isinstance(frame[0], Failed):
                self._failed(frame[0])
            else:
                self._on_notice(*frame)

    def _failed(self, failed: Failed) -> None:
        """Show it once, pause, try again, give up."""
        self.stop()
        self._reporter.emit(EventKind.TEMPLATE_FAILED, cause=failed.text)
        if failed.traceback and self._imports.failures == 0:
            log.error("%s", failed.traceback.rstrip())
        pause = self._imports.failed(time.monotonic())
        if failed.exit_code == ExitCode.BROKER_UNUSABLE or self._imports.failures >= MAX_IMPORTS:
            self._give_up(ExitCode(failed.exit_code), failed.text)
        else:
            log.warning("importing the app again in %.1f s (%d of %d)", pause, self._imports.failures + 1, MAX_IMPORTS)

    def _gone(self, process: TemplateProcess) -> None:
        if process.ready:
            self.stop()
            self._on_lost(process.pid)
        else:
            self._failed(Failed("the template died while it imported the app"))
