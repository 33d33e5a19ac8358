"""Keeps one template alive: starts it, tries a failed import again with growing pauses, and sees it die.

start ──exec──▶ importing ──Ready──▶ serving ──end-of-file──▶ lost ──▶ start
                    └──Failed──▶ pause ──▶ start … after five failures: give up
reload ──exec──▶ candidate ──Ready──▶ serving, and the one before it is former ──its last child ends──▶ ended
                    └──Failed──▶ told; the serving one goes on
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from poolrt import notice
from poolrt.errors import BrokerCorrupt, ExitCode, PoolrtError
from poolrt.events import EventKind
from poolrt.notice import Failed, Ready
from poolrt.supervisor.reporter import Reporter
from poolrt.supervisor.restart import Backoff
from poolrt.supervisor.template_process import TemplateProcess
from poolrt.supervisor.watcher import Watcher

log = logging.getLogger("poolrt.supervisor")

_MAY_TAKE = 1.0
"""Seconds a template may take to end what is below it; a node that stops waits for it."""
_FINAL = (ExitCode.BROKER_UNUSABLE, ExitCode.USAGE)
"""Another import would end the same."""
_DAMAGED = BrokerCorrupt.__name__
"""How a failure begins that no waiting mends."""
_FLUSH_AGAIN = 0.01
"""Seconds until a send that did not fit is tried again."""
MAX_IMPORTS = 5
"""Imports tried before giving up; the pauses between them add up to about 8 s, beside the imports themselves."""


class TemplateKeeper:
    """The node's template.

    Args:
        on_notice: called with what a template says that was ready.
        on_ready: called when an import succeeded, with the template; what it raises of PoolrtError refuses a reload.
        on_lost: called when a template that was ready has died.
        give_up: called with an exit code and the reason when imports keep failing.

    Attributes:
        process: the template that forks, or that imports at the node's start; None in a pause.
        candidate: the one that imports for a reload.
        former: those before a reload, while their children finish.
    """

    def __init__(
        self, config: bytes, incarnation: str, boot_timeout: float, watcher: Watcher, reporter: Reporter,
        *, on_notice: Callable[[notice.Notice, list[int]], None],
        on_ready: Callable[[Ready, TemplateProcess], None], on_lost: Callable[[TemplateProcess], None],
        give_up: Callable[[ExitCode, str], None],
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
        self.candidate: TemplateProcess | None = None
        self.former: list[TemplateProcess] = []
        self._again = False
        self._served = False
        """Whether an import has ever succeeded: then a broker that is away will be back."""
        self._not_before = 0.0

    @property
    def pause(self) -> float | None:
        """Seconds until the next import may be tried; None while a template is there."""
        if self.process is not None:
            return None
        now = time.monotonic()
        return max(self._imports.remaining(now), self._not_before - now, 0.0)

    def wake(self) -> float:
        """Seconds until there is something to do here, beside what the templates say."""
        if self.pause is not None:
            return self.pause
        return float("inf") if self.flush() else _FLUSH_AGAIN

    @property
    def pid(self) -> int:
        """The pid of the template that forks; 0 while there is none."""
        return self.process.pid if self.process is not None else 0

    @property
    def pids(self) -> set[int]:
        """The pids of all of them."""
        return {process.pid for process in (*self.former, self.candidate, self.process) if process is not None}

    def start(self) -> None:
        """Exec a template; does not wait for it. One that imports for a reload already takes the place instead."""
        self.process, self.candidate = self.candidate or self._exec(), None

    def reload(self) -> None:
        """Exec another one that imports the code as it is now; while one imports already, as soon as that is done."""
        if self.candidate is not None or self.process is None or not self.process.ready:
            self._again = True
        else:
            self.candidate = self._exec()

    def _reload_again(self) -> None:
        """The code may have changed since the import that is done now had begun."""
        if self._again:
            self._again = False
            self.reload()

    def _exec(self) -> TemplateProcess:
        process = TemplateProcess(self._config, self._incarnation)
        self._watcher.watch(process.socket.fileno(), lambda: self._read(process))
        return process

    def check(self) -> None:
        """Condemn an import that takes longer than ``boot_timeout``."""
        limit = time.monotonic() - self._boot_timeout
        for process in (self.process, self.candidate):
            if process is not None and not process.ready and process.started_at < limit:
                self._failed(process, Failed(f"the app was not imported within {self._boot_timeout:g} s"))

    def kill(self, why: str) -> None:
        """Kill a template that does not answer (it may be stopped); its end-of-file is handled as any other death."""
        if self.process is not None:
            log.error("the template is killed: %s", why)
            self.process.kill()

    def flush(self) -> bool:
        """Send what did not fit before; whether nothing is left."""
        return self.process is None or self.process.flush()

    def stop(self) -> None:
        """End every template and all they forked; waits at most some seconds for each."""
        for process in (*self.former, self.candidate, self.process):
            if process is not None:
                self._end(process)

    def begin_anew(self, incarnation: str, pause: float) -> None:
        """End every template, and start the first one of another ``incarnation`` after ``pause`` seconds."""
        self.stop()
        self._again = False
        self._incarnation = incarnation
        self._not_before = time.monotonic() + pause

    def end_former(self, has_children: Callable[[TemplateProcess], bool]) -> None:
        """End those whose last child is gone."""
        for process in list(self.former):
            if not has_children(process):
                self._end(process)

    def _end(self, process: TemplateProcess) -> None:
        if process is self.process:
            self.process = None
        elif process is self.candidate:
            self.candidate = None
        elif process in self.former:
            self.former.remove(process)
        process.ready, was_ready = False, process.ready  # the pool may still name it, and must ask it for nothing more
        self._watcher.unwatch(process.socket.fileno())
        process.close(_MAY_TAKE, was_ready=was_ready)

    def _read(self, process: TemplateProcess) -> None:
        while process.socket.fileno() >= 0:
            try:
                frame = notice.receive(process.socket)
            except BlockingIOError:
                return
            except OSError:
                frame = None
            if frame is None:
                self._gone(process)
            elif isinstance(frame[0], Ready):
                self._is_ready(process, frame[0])
            elif isinstance(frame[0], Failed):
                self._failed(process, frame[0])
            else:
                self._on_notice(*frame)

    def _is_ready(self, process: TemplateProcess, ready: Ready) -> None:
        process.ready = True
        if process is not self.candidate:
            self._imports.succeeded()
            self._served = True
            try:
                self._on_ready(ready, process)
            except PoolrtError as error:
                self._give_up(ExitCode.BROKER_UNUSABLE, str(error))
            else:
                self._reload_again()
            return
        try:
            self._on_ready(ready, process)
        except PoolrtError as error:
            self._failed(process, Failed(str(error)))
            return
        assert self.process is not None
        self.former.append(self.process)
        self.process, self.candidate = process, None
        self._reload_again()

    def _failed(self, process: TemplateProcess, failed: Failed) -> None:
        """Show it once, pause, try again, give up; a reload that fails is only told."""
        is_reload = process is self.candidate
        self._end(process)
        cause = f"the reload failed, the old code goes on serving: {failed.text}" if is_reload else failed.text
        self._reporter.emit(EventKind.TEMPLATE_FAILED, cause=cause)
        if failed.traceback and (is_reload or self._imports.failures == 0):
            log.error("%s", failed.traceback.rstrip())
        if is_reload:
            self._reload_again()
            return
        pause = self._imports.failed(time.monotonic())
        if self._served and failed.exit_code == ExitCode.BROKER_UNUSABLE and not failed.text.startswith(_DAMAGED):
            log.warning("the broker is away; importing the app again in %.1f s", pause)
        elif failed.exit_code in _FINAL or self._imports.failures >= MAX_IMPORTS:
            self._give_up(ExitCode(failed.exit_code), failed.text)
        else:
            log.warning("importing the app again in %.1f s (%d of %d)", pause, self._imports.failures + 1, MAX_IMPORTS)

    def _gone(self, process: TemplateProcess) -> None:
        if process.ready and process is not self.candidate:
            self._end(process)
            self._on_lost(process)
        else:
            self._failed(process, Failed("the template died while it imported the app"))
