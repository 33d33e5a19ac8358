"""The supervisor's loop: wait, dispatch, judge, reconcile.

    wait       the only blocking line: signals, the template, lifelines, control connections
    dispatch   notices and requests to what they mean
    judge      board rows against limits; kill what is over
    reconcile  wanted against living; spawn, activate, retire

It must never run user code, do broker I/O, start a thread or block: what needs the broker is the steward's,
what needs the app the template's. It ends when nothing of the node is left.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
import uuid
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path

from poolrt import notice
from poolrt.control import socket_path
from poolrt.errors import ConfigurationError, ExitCode, NodeNameTaken, PoolrtError
from poolrt.events import Event, EventKind
from poolrt.posix.descriptors import raise_limit
from poolrt.posix.prctl import become_subreaper
from poolrt.posix.processes import kill_descendants
from poolrt.posix.reaping import reap_any
from poolrt.posix.signals import has_controlling_terminal, wakeup_socket
from poolrt.posix.unix_sockets import AddressInUse
from poolrt.settings import Settings
from poolrt.states import EX_FENCED, Activity, NodeState
from poolrt.supervisor import requests, signal_orders
from poolrt.supervisor.control_server import ControlServer, Gate
from poolrt.supervisor.drain import Drain, kill_the_rest
from poolrt.supervisor.lease import Lease, Succession
from poolrt.supervisor.lifecycle import STEWARD, STOPPING, Child
from poolrt.supervisor.lifelines import BrokerTrouble, Lifelines
from poolrt.supervisor.memory_budget import MemoryBudget
from poolrt.supervisor.node_files import NodeFiles, open_files
from poolrt.supervisor.pool import Pool
from poolrt.supervisor.reporter import Reporter, as_object
from poolrt.supervisor.stack_log import StackLog
from poolrt.supervisor.steward_keeper import StewardKeeper
from poolrt.supervisor.template_keeper import MAX_IMPORTS, TemplateKeeper
from poolrt.supervisor.template_process import TemplateProcess
from poolrt.supervisor.upkeep import look_around
from poolrt.supervisor.watcher import Watcher

log = logging.getLogger("poolrt.supervisor")

_TICK = 1.0


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
        self._children_may_open = 0
        self.on_terminal = False
        """Whether it was started from a terminal: asked when that is gone, the system says no."""
        self.app = self.broker = ""
        self.queue: notice.Status | None = None
        self.pool: Pool | None = None
        self.files: NodeFiles | None = None
        self._drain = Drain()
        self.memory = MemoryBudget(settings.pool_memory)
        self.stack_log = StackLog()
        self._signals: list[int] = []
        self._next_tick = 0.0
        self._watcher = Watcher()
        self.control = ControlServer(
            self._watcher, partial(requests.serve, self), partial(self.drain, "its program ended")
        )
        self.reporter = Reporter(self.node, lambda event: self.control.broadcast(as_object(event)), on_event)
        self.lease = Lease(settings.lease, self.reporter, keep=settings.on_lease_lost == "keep")
        self.gate = Gate()
        self._lifelines = Lifelines(self._watcher, self._from_child)
        self._trouble = BrokerTrouble(self.reporter, self.give_up)
        self.succession = Succession(settings.concurrency, self.reporter, self._trouble.forget)
        self.steward = StewardKeeper(settings.lease)
        self.template = TemplateKeeper(
            template_config, self.incarnation, settings.boot_timeout, self._watcher, self.reporter,
            on_notice=self._from_template, on_ready=self._template_ready, on_lost=self._template_lost,
            give_up=self.give_up,
        )  # fmt: skip
        if owner is not None:
            self.control.adopt(owner)

    # ---- running

    def fileno(self) -> int:
        """An fd that is readable when ``step`` has something to do."""
        return self._watcher.fileno()

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
        self.template.start()

    def run(self) -> ExitCode:
        """Be this process until the node has stopped: signal handlers, orphans and all; ``failure`` says why not OK."""
        become_subreaper()
        wakeup = wakeup_socket()
        self.on_terminal = has_controlling_terminal()
        signal_orders.install(lambda number, frame: self._signals.append(number), on_terminal=self.on_terminal)
        self._children_may_open = raise_limit()  # four descriptors a child, and a system's default is 1024
        self._watcher.watch(wakeup.fileno(), wakeup.drain)
        try:
            self.start()
            while self.state is not NodeState.STOPPED:
                self.step(self.wait_time())
        finally:
            self.close()
            wakeup.close()
        return self.exit_code

    def wait_time(self) -> float:
        """Seconds until ``step`` should run even if nothing happens; judges the rows to know it."""
        now = time.monotonic()
        wakes = [self._next_tick - now, self._drain.ends - now, self.stack_log.due - now, self.template.wake()]
        if self.pool is not None:
            wakes.append((self.pool.enforcer.enforce() - time.monotonic_ns()) / 1e9)
            wakes += (self.lease.wake(), self.steward.wake(self.pool))
            if pause := self.pool.next_start():
                wakes.append(pause)
        if self.control.flush():
            wakes.append(0.01)
        return max(0.0, min(wakes))

    def step(self, timeout: float = 0.0) -> None:
        """One round: wait at most ``timeout`` seconds, dispatch what came, reconcile."""
        self._watcher.wait(timeout)
        while self._signals:
            signal_orders.obey(self, self._signals.pop(0))
        self._advance()
        self.stack_log.write_what_is_due()
        if time.monotonic() >= self._next_tick and self.state is not NodeState.STOPPED:
            self._next_tick = time.monotonic() + _TICK
            look_around(self)

    @property
    def serves(self) -> bool:
        """Whether the node is neither starting nor ending."""
        return self.state in (NodeState.SERVING, NodeState.QUIET)

    def _advance(self) -> None:
        """Whatever the state asks for next; safe to call at any time."""
        if (self.serves or self.state is NodeState.STARTING) and self.template.pause == 0:
            self.template.start()
        if self.pool is None or self.files is None:
            return
        if self.succession.refused:
            self._begin_anew(self.pool, self.files)
            return
        self._drain.forced |= self.lease.check(self.files.board.lease_until, self.pool) and self._drain.began
        self.steward.judge(self.pool)
        if self.state is NodeState.DRAINING:
            if self._drain.advance(self.pool, failed=bool(self.failure)):
                self.stop_now()
        elif self.pool.broken:
            self.give_up(ExitCode.RESTART_LIMIT if self.pool.worked else ExitCode.BOOT_FAILED, self.pool.broken)
        elif self.serves:
            self.pool.reconcile()

    # ---- the template

    def _from_template(self, received: notice.Notice, fds: list[int]) -> None:
        assert self.pool is not None
        if isinstance(received, notice.Forked):
            self.pool.forked(received, fds[0])
        elif isinstance(received, notice.Exited):
            self._child_exited(received)
        elif isinstance(received, notice.ForkFailed):
            log.error("cannot fork: %s", received.text)
            child = self.pool.find(received.slot, received.generation)
            if child is not None:
                self.pool.ended(child, 1)
        elif isinstance(received, notice.Happened):
            self.reporter.report(received.event)

    def _template_ready(self, ready: notice.Ready, template: TemplateProcess) -> None:
        """An import succeeded: at the start, after a template was lost, or for a reload.

        Raises:
            ConfigurationError: a reload changed the broker.
        """
        directory = Path(ready.node_directory)
        if self.files is not None and self.files.directory != directory:
            raise ConfigurationError(f"it moves the app to {ready.broker}: restart the node for that")
        self.app, self.broker = ready.app, ready.broker
        for warning in ready.warnings:
            self.reporter.emit(EventKind.WARNING, cause=warning)
        try:
            files = self.files = self.files or open_files(directory, self.node, self.incarnation, self.reporter)
        except (PoolrtError, OSError) as error:
            self.give_up(getattr(error, "exit_code", ExitCode.BROKER_UNUSABLE), str(error))
            return
        template.send(
            notice.NodeFiles(self.incarnation, self.node, self._children_may_open),
            (files.board_fd, files.lock.fd, files.wake.fileno()),
        )
        numbers = {"import_seconds": round(ready.import_seconds, 3)}
        if self.pool is None:
            self.pool = Pool(self.settings, files.board, template, self.reporter, self._lifelines)
            self.succession.hand_over(self.pool)
            self.steward.board = files.board
            for incarnation, running in files.former.items():
                self.pool.settle(partial(notice.Reclaim, incarnation=incarnation, running=running))
            self.reporter.emit(EventKind.NODE_STARTED, cause=f"app {self.app} on {self.broker}", numbers=numbers)
        elif template is self.template.candidate:
            self.reporter.emit(EventKind.NODE_RELOADED, cause="children move to the new code", numbers=numbers)
        self.pool.move_to(template)
        self.steward.check(self.pool)

    def _template_lost(self, template: TemplateProcess) -> None:
        """Its children died with it (PDEATHSIG), and what they leave comes to us."""
        assert self.pool is not None
        kill_descendants(os.getpid(), spare=self.template.pids)
        self.reap()
        self.reporter.emit(EventKind.TEMPLATE_LOST, pid=template.pid, cause="its children ended with it")
        for child in list(self.pool):
            if child.alive and child.template is template:
                self._lifelines.read(child)
                self._drain.forced |= self._drain.began and self.pool.row(child).activity is Activity.RUN
                if template.condemned:
                    self.pool.condemn(child, "its template stood still, and was killed", "stopped")
                self.pool.ended(child, -signal.SIGKILL)
        if self.template.process is None and self.state is not NodeState.DRAINING:
            self.template.start()

    def _begin_anew(self, pool: Pool, files: NodeFiles) -> None:
        """Others took over what this start held: be another one under the same name."""
        if self.state is NodeState.DRAINING:
            self._drain.forced |= bool(pool.children)
            self.stop_now()
            return
        self.incarnation = str(uuid.uuid4())
        self.succession.end(pool, self.template, self._lifelines, self.incarnation, serves=self.serves)
        self.state, self.pool = NodeState.STARTING, None
        self.lease.begin_anew()
        self.steward.begin_anew()
        try:
            files.begin_anew(self.incarnation)
        except OSError as error:
            self.give_up(ExitCode.BROKER_UNUSABLE, f"cannot begin anew: {error}")

    # ---- children

    def _from_child(self, child: Child, received: notice.Notice) -> None:
        assert self.pool is not None
        if isinstance(received, notice.Up):
            self._child_up(child, received)
        elif isinstance(received, notice.Leaving):
            self.pool.leaves(child, received)
        elif isinstance(received, notice.BootFailed):
            self._boot_failed(child, received.traceback)
        elif isinstance(received, (notice.Status, notice.LeaseLost, notice.Settled)):
            self._from_steward(received)
        elif isinstance(received, (notice.Poke, notice.CancelRun, notice.Recalled)):
            self.pool.heard(received)
        elif isinstance(received, (notice.Happened, notice.Found, notice.Ran)):
            self.reporter.heard(child, received)
        elif isinstance(received, notice.Trouble):
            self._trouble.said(child, received)

    def _from_steward(self, received: notice.Status | notice.LeaseLost | notice.Settled) -> None:
        if isinstance(received, notice.Status):
            self.queue = received
            self.steward.heard()
        elif isinstance(received, notice.LeaseLost):
            self.succession.refused = received.text
        elif self.pool is not None:
            command = self.pool.ticket_done(received.ticket)
            if isinstance(command, notice.Reclaim) and self.files is not None:
                self.files.confirm(command.incarnation)

    def _child_up(self, child: Child, up: notice.Up) -> None:
        assert self.pool is not None
        self.pool.is_up(child, up)
        if child.role == STEWARD:
            self.steward.up()
            if self.state is NodeState.STARTING:
                self.state = NodeState.QUIET if self.pool.quiet else NodeState.SERVING
                self.pool.wanted = self.succession.kept.wanted
        else:
            self.gate.open({"node": self.node})

    def _boot_failed(self, child: Child, trace: str) -> None:
        child.cause = trace.strip().rpartition("\n")[2]
        log.error("%s %s.%s could not boot:\n%s", child.role, child.slot, child.generation, trace.rstrip())
        if child.role == STEWARD:
            self.steward.boot_failed()
            may_give_up = self.state is NodeState.STARTING and not self.succession.count
            if may_give_up and self.steward.failures >= MAX_IMPORTS:
                self.give_up(ExitCode.BROKER_UNUSABLE, child.cause)

    def _child_exited(self, exited: notice.Exited) -> None:
        assert self.pool is not None
        child = self.pool.find(exited.slot, exited.generation)
        if child is not None:
            self._lifelines.read(child)  # what it said before it died must not come after its death
            self._trouble.forget(child)
        self.pool.exited(exited)
        if exited.status == EX_FENCED:
            self.pool.poke_steward()  # it renews at once: was this child barred, or the whole node?
        if self.serves or (self.state is NodeState.DRAINING and not (self.pool.settled or self.failure)):
            self.steward.check(self.pool)  # without backoff: what the dead held waits for it

    # ---- stopping

    def drain(self, why: str, grace: float | None = None) -> None:
        """Start no task any more; what runs may finish within ``grace`` seconds (default: graceful_timeout).

        Called again with a shorter grace, it shortens the first one.
        """
        allowed = self.settings.graceful_timeout if grace is None else grace
        if self.state is not NodeState.STOPPED:
            self._drain.begin(allowed)
        if self.state in (NodeState.DRAINING, NodeState.STOPPED):
            return
        self.state = NodeState.DRAINING
        self.reporter.emit(EventKind.NODE_DRAINING, cause=why, numbers={"grace": allowed})
        if self.pool is None:
            self.stop_now()
        else:
            self.pool.retire_all(STOPPING)

    def stop_by_signal(self, name: str, grace: float | None) -> None:
        """A first signal drains; a second one ends the grace."""
        if self.state is not NodeState.DRAINING:
            self.drain(name, grace)
        else:
            self._drain.again(name)

    def give_up(self, exit_code: ExitCode, why: str) -> None:
        """Stop for a reason that is an error."""
        self.exit_code, self.failure = exit_code, why
        log.error("giving up: %s", why)
        self.gate.refuse(why, int(exit_code))
        self.drain(why)

    def stop_now(self) -> None:
        """End the template and everything below it; the node has stopped."""
        clean = self.pool is not None and kill_the_rest(self.pool)
        if self._drain.forced:
            self.exit_code = self.exit_code or ExitCode.FORCED_STOP
        self.template.stop()
        kill_descendants(os.getpid())
        self.reap()
        for child in list(self.pool or ()):
            self._lifelines.unwatch(child)
            child.close()
        if self.files is not None:
            self.files.close(clean=clean)
            self.files = None
        self.state = NodeState.STOPPED
        self.reporter.emit(EventKind.NODE_STOPPED, numbers=dict(self.pool.totals) if self.pool else {})

    def close(self) -> None:
        """Close the control socket; after ``run``, or when driving ``step`` is over."""
        if self.state is not NodeState.STOPPED:
            self.stop_now()
        self.control.close()
        self._watcher.close()

    def reap(self) -> None:
        """Reap whatever ended below us: templates, and orphans that came to us as their subreaper."""
        deque(reap_any(()), maxlen=0)
