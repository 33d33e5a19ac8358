"""The supervisor's loop: wait, dispatch, judge, reconcile.

    wait       the only blocking line: signals, the template, lifelines, control connections
    dispatch   notices and requests to what they mean
    judge      board rows against limits; kill what is over
    reconcile  wanted against living; spawn, activate, retire

It must never run user code, do broker I/O, start a thread or block: what needs the broker is the steward's,
what needs the app the template's. It ends when nothing of the node is left.
"""

from __future__ import annotations

import enum
import logging
import os
import select
import signal
import socket
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from poolrt import notice
from poolrt.control import socket_path
from poolrt.errors import ExitCode, NodeNameTaken, PoolrtError
from poolrt.events import Event, EventKind
from poolrt.notice import (
    Exited, Failed, Forked, ForkFailed, Happened, Leaving, Ready, Reclaim, Settled, Status, Trouble, Up,
)  # fmt: skip
from poolrt.posix.prctl import become_subreaper
from poolrt.posix.processes import kill_descendants
from poolrt.posix.reaping import reap_any
from poolrt.posix.signals import do_nothing, wakeup_socket
from poolrt.posix.unix_sockets import AddressInUse
from poolrt.settings import Settings
from poolrt.states import ChildState
from poolrt.supervisor import requests
from poolrt.supervisor.control_server import Client, ControlServer
from poolrt.supervisor.lifecycle import CHILD, STEWARD, Child
from poolrt.supervisor.node_files import NodeFiles
from poolrt.supervisor.pool import Pool
from poolrt.supervisor.restart import Backoff
from poolrt.supervisor.template_process import TemplateProcess

log = logging.getLogger("poolrt.supervisor")

_TICK = 1.0
_MAX_IMPORTS = 5
"""Imports tried before giving up; with the pauses between them about 8 s, beside the imports themselves."""
_STEWARD_SILENT_AFTER = 15.0
"""Three times the longest a broker call may take."""
_KEPT_EVENTS = 50
_LEVELS = {
    EventKind.CHILD_UP: logging.DEBUG,
    EventKind.CHILD_CRASHED: logging.WARNING,
    EventKind.CHILD_KILLED: logging.WARNING,
    EventKind.CHILD_BOOT_FAILED: logging.ERROR,
    EventKind.TASK_DEAD: logging.ERROR,
    EventKind.TASK_FAILED: logging.WARNING,
    EventKind.TASK_REQUEUED: logging.WARNING,
    EventKind.TEMPLATE_FAILED: logging.ERROR,
    EventKind.TEMPLATE_LOST: logging.ERROR,
    EventKind.STEWARD_REPLACED: logging.WARNING,
    EventKind.BROKER_TROUBLE: logging.ERROR,
    EventKind.LEFT_BEHIND: logging.WARNING,
    EventKind.WARNING: logging.WARNING,
}


class NodeState(enum.StrEnum):
    """What the node does."""

    STARTING = "starting"
    SERVING = "serving"
    DRAINING = "draining"
    STOPPED = "stopped"


class Supervisor:
    """One node. ``run`` owns the process; ``fileno`` and ``step`` let another loop drive it.

    Args:
        settings: the node's settings; ``node_name`` and ``concurrency`` filled in.
        template_config: what a template is started with; opaque here.
        owner: a control connection of the program that started us: its end-of-file drains the node.
        on_event: called with each event.
    """

    def __init__(
        self, settings: Settings, template_config: bytes, *, owner: socket.socket | None = None,
        on_event: Callable[[Event], object] | None = None,
    ) -> None:  # fmt: skip
        self.settings = settings
        self.node = settings.node_name
        self.incarnation = str(uuid.uuid4())
        self.state = NodeState.STARTING
        self.started_at = time.time()
        self.exit_code = ExitCode.OK
        self.failure = ""
        """Why the node could not start or gave up."""
        self.app = self.broker = ""
        self.queue: Status | None = None
        self.events: list[Event] = []
        self.pool: Pool | None = None
        self.template: TemplateProcess | None = None
        self._config = template_config
        self._on_event = on_event
        self._files: NodeFiles | None = None
        self._imports = Backoff()
        self._grace_ends: float | None = None
        self._steward_seen = 0.0
        self._steward_backoff = Backoff(0.2, 5.0)
        self._troubled: set[Any] = set()
        self._signals: list[int] = []
        self._next_tick = 0.0
        self._poll = select.epoll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self.control = ControlServer(lambda client, request: requests.serve(self, client, request))
        self._waiting_ready: list[Client] = []
        if owner is not None:
            self.control.adopt(owner)
            self._watch(owner.fileno(), lambda: self._read_client(self.control.clients[owner.fileno()]))

    # ---- running

    def fileno(self) -> int:
        """An fd that is readable when ``step`` has something to do."""
        return self._poll.fileno()

    def start(self) -> None:
        """Listen for control requests and start the first template; does not wait for it.

        Raises:
            NodeNameTaken: another supervisor listens under this name.
        """
        try:
            self.control.listen(socket_path(self.node))
        except AddressInUse:
            raise NodeNameTaken(
                f"node {self.node!r} runs already on this machine; stop it, or give this one another --node-name"
            ) from None
        assert self.control.listener is not None
        self._watch(self.control.listener.fileno(), self._accept)
        self._start_template()

    def run(self) -> ExitCode:
        """Be this process until the node has stopped: installs signal handlers, adopts orphans, reaps.

        Returns the exit code; ``failure`` says why it is not OK.
        """
        become_subreaper()
        wakeup = wakeup_socket()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, self._record_signal)
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, do_nothing)
        self._watch(wakeup.fileno(), lambda: _drain(wakeup))
        try:
            self.start()
            while self.state is not NodeState.STOPPED:
                self.step(self.wait_time())
        finally:
            self.close()
            wakeup.close()
        return self.exit_code

    def _record_signal(self, number: int, frame: object) -> None:
        self._signals.append(number)

    def wait_time(self) -> float:
        """Seconds until ``step`` should run even if nothing happens."""
        wake = self._next_tick - time.monotonic()
        if self.pool is not None:
            wake = min(wake, (self.pool.judge() - time.monotonic_ns()) / 1e9)
            pause = self.pool.next_start()
            if pause:
                wake = min(wake, pause)
        elif self.template is None:
            wake = min(wake, self._imports.remaining(time.monotonic()))
        if self._grace_ends is not None:
            wake = min(wake, self._grace_ends - time.monotonic())
        if self.template is not None and not self.template.flush():
            wake = min(wake, 0.01)
        return max(0.0, wake)

    def step(self, timeout: float = 0.0) -> None:
        """One round: wait at most ``timeout`` seconds, dispatch what came, judge, reconcile."""
        for fd, _ in self._poll.poll(timeout):
            handler = self._handlers.get(fd)
            if handler is not None:
                handler()
        while self._signals:
            self._obey(self._signals.pop(0))
        self._advance()
        if time.monotonic() >= self._next_tick:
            self._next_tick = time.monotonic() + _TICK
            self._tick()

    def _obey(self, number: int) -> None:
        if number == signal.SIGCHLD:
            self._reap()
        elif self.state is NodeState.DRAINING:
            log.warning("second %s: stopping now", signal.Signals(number).name)
            self._grace_ends = time.monotonic()
        else:
            self.drain(signal.Signals(number).name)

    def _advance(self) -> None:
        """Whatever the state asks for next; safe to call at any time."""
        if self.state is NodeState.STARTING and self.template is None and not self._imports.remaining(time.monotonic()):
            self._start_template()
        if self.pool is None:
            return
        if self.pool.broken and self.state is not NodeState.DRAINING:
            self.give_up(ExitCode.BOOT_FAILED if not self.pool.totals["done"] else ExitCode.RESTART_LIMIT, self.pool.broken)
        if self.state is NodeState.DRAINING:
            self._advance_drain(self.pool)
        elif self.state is NodeState.SERVING:
            self.pool.reconcile()

    def _tick(self) -> None:
        pool = self.pool
        if pool is None:
            template = self.template
            if template is not None and time.monotonic() - template.started_at > self.settings.boot_timeout:
                self._template_failed(f"the app was not imported within {self.settings.boot_timeout:g} s", "")
            return
        pool.check_boots()
        pool.replace_aged()
        pool.repeat_tickets()
        steward = pool.steward
        if steward is None:
            if not self._steward_backoff.remaining(time.monotonic()) and self.template is not None and self.template.ready:
                pool.spawn(STEWARD)
                self._steward_seen = time.monotonic()
        elif time.monotonic() - self._steward_seen > _STEWARD_SILENT_AFTER:
            pool.condemn(steward, f"silent for {_STEWARD_SILENT_AFTER:g} s", "none")

    # ---- the template

    def _start_template(self) -> None:
        self.template = TemplateProcess(self._config, self.incarnation)
        self._watch(self.template.socket.fileno(), self._read_template)

    def _read_template(self) -> None:
        template = self.template
        while template is not None and template is self.template:
            try:
                frame = notice.receive(template.socket)
            except BlockingIOError:
                return
            except OSError:
                frame = None
            if frame is None:
                self._template_gone()
                return
            self._from_template(*frame)

    def _from_template(self, received: notice.Notice, fds: list[int]) -> None:
        if isinstance(received, Forked):
            assert self.pool is not None
            self.pool.forked(received, fds[0])
        elif isinstance(received, Exited):
            self._child_exited(received)
        elif isinstance(received, Ready):
            self._template_ready(received)
        elif isinstance(received, Failed):
            self._template_failed(received.text, received.traceback, received.exit_code)
        elif isinstance(received, ForkFailed):
            assert self.pool is not None
            child = self.pool.find(received.slot, received.generation)
            log.error("cannot fork: %s", received.text)
            if child is not None:
                self.pool.ended(child, 1)
        elif isinstance(received, Happened):
            self.report(received.event)

    def _template_ready(self, ready: Ready) -> None:
        assert self.template is not None
        self.template.ready = True
        self._imports.succeeded()
        self.app, self.broker = ready.app, ready.broker
        for warning in ready.warnings:
            self.emit(EventKind.WARNING, cause=warning)
        if self._files is None:
            try:
                self._files = NodeFiles(Path(ready.node_directory), self.node, self.incarnation)
            except (PoolrtError, OSError) as error:
                self.give_up(getattr(error, "exit_code", ExitCode.BROKER_UNUSABLE), str(error))
                return
            if self._files.swept:
                self.emit(EventKind.LEFT_BEHIND, cause="an earlier start had left processes", numbers={"ended": len(self._files.swept)})
        files = self._files
        self.template.send(
            notice.NodeFiles(self.incarnation, self.node), (files.board_fd, files.lock.fd, files.wake.fileno())
        )
        if self.pool is None:
            self.pool = Pool(
                self.settings, files.board, self.template, self._emit_for,
                lambda child: self._watch(child.lifeline.fileno(), lambda: self._read_lifeline(child)) if child.lifeline else None,
                lambda child: self._unwatch(child.lifeline.fileno()) if child.lifeline else None,
            )  # fmt: skip
            self.pool.wanted = 0
            for incarnation, running in files.former.items():
                self.pool.settle(lambda ticket, i=incarnation, r=running: Reclaim(ticket, i, r))  # type: ignore[misc]
            self.emit(EventKind.NODE_STARTED, cause=f"app {self.app} on {self.broker}", numbers={"import_seconds": round(ready.import_seconds, 3)})
        else:
            self.pool.template = self.template
        self.pool.spawn(STEWARD)
        self._steward_seen = time.monotonic()

    def _template_failed(self, text: str, trace: str, exit_code: int = ExitCode.BOOT_FAILED) -> None:
        """The import failed: show it once, pause, try again, give up."""
        template, self.template = self.template, None
        if template is not None:
            self._unwatch(template.socket.fileno())
            template.close(2.0)
        self.emit(EventKind.TEMPLATE_FAILED, cause=text)
        if trace and self._imports.failures == 0:
            log.error("%s", trace.rstrip())
        pause = self._imports.failed(time.monotonic())
        if exit_code == ExitCode.BROKER_UNUSABLE or self._imports.failures >= _MAX_IMPORTS:
            self.give_up(ExitCode(exit_code), text)
        else:
            log.warning("importing the app again in %.1f s (%d of %d)", pause, self._imports.failures + 1, _MAX_IMPORTS)

    def _template_gone(self) -> None:
        """The template died: its children die with it (PDEATHSIG), and what they leave comes to us."""
        template, self.template = self.template, None
        if template is None:
            return
        self._unwatch(template.socket.fileno())
        template.close(2.0)
        kill_descendants(os.getpid())
        self._reap()
        if self.pool is None:
            self.template = None
            self._template_failed("the template died while it imported the app", "")
            return
        self.emit(EventKind.TEMPLATE_LOST, pid=template.pid, cause="its children ended with it")
        for child in list(self.pool):
            if child.alive:
                self.pool.ended(child, -signal.SIGKILL)
        if self.state is NodeState.DRAINING:
            self.stop_now()
        else:
            self._start_template()

    def _reap(self) -> None:
        for _pid, _status in reap_any(()):
            pass

    # ---- children

    def _read_lifeline(self, child: Child) -> None:
        while child.lifeline is not None:
            try:
                frame = notice.receive(child.lifeline)
            except BlockingIOError:
                return
            except OSError:
                frame = None
            if frame is None:
                self._unwatch(child.lifeline.fileno())
                return
            self._from_child(child, frame[0])

    def _from_child(self, child: Child, received: notice.Notice) -> None:
        assert self.pool is not None
        if isinstance(received, Up):
            self._child_up(child, received)
        elif isinstance(received, Leaving):
            self.pool.leaves(child, received)
        elif isinstance(received, notice.BootFailed):
            child.cause = received.traceback.strip().rpartition("\n")[2]
            log.error("%s %s.%s could not boot:\n%s", child.role, child.slot, child.generation, received.traceback.rstrip())
            if child.role == STEWARD:
                self._steward_boot_failed(child)
        elif isinstance(received, Status):
            self.queue = received
            self._steward_seen = time.monotonic()
        elif isinstance(received, Settled):
            command = self.pool.ticket_done(received.ticket)
            if isinstance(command, Reclaim) and self._files is not None:
                self._files.confirm(command.incarnation)
        elif isinstance(received, Happened):
            self.report(received.event)
        elif isinstance(received, Trouble):
            self._trouble(child, received.text)

    def _child_up(self, child: Child, up: Up) -> None:
        assert self.pool is not None
        self.pool.is_up(child, up)
        if child.role == STEWARD:
            self._steward_backoff.succeeded()
            self._steward_seen = time.monotonic()
            if self.state is NodeState.STARTING:
                self.pool.wanted = self.settings.concurrency
                self.pool.reconcile()
                self.state = NodeState.SERVING
        elif child.role == CHILD:
            for client in self._waiting_ready:
                client.answer({"node": self.node})
                client.flush()
            self._waiting_ready.clear()

    def _steward_boot_failed(self, child: Child) -> None:
        self._steward_backoff.failed(time.monotonic())
        if self.state is NodeState.STARTING and self._steward_backoff.failures >= _MAX_IMPORTS:
            self.give_up(ExitCode.BROKER_UNUSABLE, child.cause)

    def _child_exited(self, exited: Exited) -> None:
        assert self.pool is not None
        child = self.pool.find(exited.slot, exited.generation)
        if child is not None:
            self._read_lifeline(child)  # what it said before it died must not come after its death
        self._troubled.discard((exited.slot, exited.generation))
        self.pool.exited(exited)

    def _trouble(self, child: Child, text: str) -> None:
        """The broker refuses a child, or works again: said once for all children."""
        key = (child.slot, child.generation)
        if text:
            if not self._troubled:
                self.emit(EventKind.BROKER_TROUBLE, cause=text)
            self._troubled.add(key)
        elif key in self._troubled:
            self._troubled.discard(key)
            if not self._troubled:
                self.emit(EventKind.BROKER_BACK)

    # ---- stopping

    def drain(self, why: str, grace: float | None = None) -> None:
        """Start no task any more; what runs may finish within ``grace`` seconds (default: graceful_timeout)."""
        if self.state in (NodeState.DRAINING, NodeState.STOPPED):
            if grace is not None and self._grace_ends is not None:
                self._grace_ends = min(self._grace_ends, time.monotonic() + grace)
            return
        starting = self.state is NodeState.STARTING
        self.state = NodeState.DRAINING
        grace = self.settings.graceful_timeout if grace is None else grace
        self._grace_ends = time.monotonic() + grace
        self.emit(EventKind.NODE_DRAINING, cause=why, numbers={"grace": grace})
        if self.pool is None:
            self.stop_now()
        else:
            self.pool.retire_all("stopping")
            if starting:
                self._grace_ends = time.monotonic() + min(grace, 5.0)

    def _advance_drain(self, pool: Pool) -> None:
        now = time.monotonic()
        assert self._grace_ends is not None
        if pool.children:
            if now >= self._grace_ends:
                self.exit_code = self.exit_code or ExitCode.FORCED_STOP
                for child in pool.children:
                    pool.condemn(child, "the grace was over; put back", "none")
            return
        steward = pool.steward
        if steward is not None and steward.state is ChildState.UP and pool.settled:
            pool.retire(steward, "stopping")
        if steward is None or now >= self._grace_ends + 5.0:
            self.stop_now()

    def give_up(self, exit_code: ExitCode, why: str) -> None:
        """Stop for a reason that is an error."""
        self.exit_code, self.failure = exit_code, why
        log.error("giving up: %s", why)
        for client in self._waiting_ready:
            client.refuse(why, exit_code=int(exit_code))
            client.flush()
        self._waiting_ready.clear()
        self.drain(why)

    def stop_now(self) -> None:
        """End the template and everything below it; the node has stopped."""
        clean = self.pool is not None and self.pool.settled and self.pool.steward is None
        template, self.template = self.template, None
        if template is not None:
            self._unwatch(template.socket.fileno())
            template.close(3.0)
        kill_descendants(os.getpid())
        self._reap()
        if self.pool is not None:
            for child in list(self.pool):
                child.close()
        if self._files is not None:
            self._files.close(clean=clean)
            self._files = None
        self.state = NodeState.STOPPED
        self.emit(EventKind.NODE_STOPPED, numbers=dict(self.pool.totals) if self.pool else {})

    def close(self) -> None:
        """Close the control socket and the poll; after ``run``, or when driving ``step`` is over."""
        if self.state is not NodeState.STOPPED:
            self.stop_now()
        self.control.close()
        self._poll.close()

    # ---- events

    def emit(self, kind: EventKind, **fields: Any) -> None:
        """Report something that happened on this node."""
        self.report(Event(kind, time.time(), node=self.node, **fields))

    def _emit_for(self, kind: EventKind, child: Child, **fields: Any) -> None:
        self.emit(kind, slot=child.slot, generation=child.generation, pid=child.pid or None, **fields)

    def report(self, event: Event) -> None:
        """Log, keep and broadcast an event."""
        log.log(_LEVELS.get(event.kind, logging.INFO), "%s", event.line(), extra={"event": event})
        if event.kind is not EventKind.CHILD_UP:
            self.events.append(event)
            del self.events[:-_KEPT_EVENTS]
        for client in self.control.broadcast(msgspec.to_builtins(event)):
            self._drop(client)
        if self._on_event is not None:
            self._on_event(event)

    # ---- control connections

    def await_ready(self, client: Client) -> None:
        """Answer this client when the first child is up, or when the start failed."""
        if self.pool is not None and any(child.up_at for child in self.pool.children):
            client.answer({"node": self.node})
        elif self.failure:
            client.refuse(self.failure, exit_code=int(self.exit_code))
        else:
            self._waiting_ready.append(client)

    def _accept(self) -> None:
        client = self.control.accept()
        if client is not None:
            self._watch(client.socket.fileno(), lambda: self._read_client(client))

    def _read_client(self, client: Client) -> None:
        if not self.control.read(client):
            self._drop(client)

    def _drop(self, client: Client) -> None:
        self._unwatch(client.socket.fileno())
        self.control.drop(client)
        if client in self._waiting_ready:
            self._waiting_ready.remove(client)
        if client.is_owner:
            self.drain("the program that started this supervisor is gone")

    def _watch(self, fd: int, handler: Callable[[], None]) -> None:
        self._handlers[fd] = handler
        self._poll.register(fd, select.EPOLLIN)

    def _unwatch(self, fd: int) -> None:
        if self._handlers.pop(fd, None) is not None:
            self._poll.unregister(fd)


def _drain(sock: socket.socket) -> None:
    try:
        while sock.recv(4096):
            pass
    except BlockingIOError:
        return
