"""A child's life from the fork to its exit.

    template ──fork──▶ own group, dies with its parent, subreaper ──▶ broker, hooks ──Up──▶ Loop ──Leaving──▶ exit

It never returns to the template's code and never runs its exit handlers: those belong to the template.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import socket
import sys
import time
import traceback
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from poolrt.child.audit import Audit
from poolrt.child.executor import Executor
from poolrt.child.interruption import Interrupter
from poolrt.child.lifeline import Lifeline
from poolrt.child.limits import Limits
from poolrt.child.loop import Loop
from poolrt.child.output import LastOutput
from poolrt.child.watches import watches_for
from poolrt.errors import BrokerCorrupt, BrokerError, Fenced
from poolrt.events import Event, EventKind
from poolrt.hygiene.findings import Policies
from poolrt.message import Owner
from poolrt.notice import BootFailed, Found, Happened, Poke, Ran, Up, shorten
from poolrt.posix.memory import ResidentSize
from poolrt.posix.prctl import ParentGone, become_subreaper, die_with_parent, set_process_title
from poolrt.posix.signals import hear_again_after_fork
from poolrt.posix.stacks import write_stacks_to
from poolrt.queue_choice import QueueChoice, parse_queue_choice
from poolrt.settings import Settings
from poolrt.states import EX_BOOT_FAILED, EX_CUT_OFF, EX_FENCED, EX_STORE_GONE, Activity

if TYPE_CHECKING:
    from poolrt.app.app import App
    from poolrt.board import Board
    from poolrt.hygiene.pools.checked_out import CheckedOut
    from poolrt.hygiene.temp_folders import TempFolders

log = logging.getLogger("poolrt.child")

ABSORBED = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGTSTP,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
"""Signals meant for the supervisor that reach every process of a terminal or a control group."""


class Place(msgspec.Struct, frozen=True):
    """Where a forked process belongs, told to it by the template."""

    node: str
    incarnation: str
    slot: int
    generation: int
    parent: int
    """The template's pid."""
    max_tasks: int
    settings: Settings

    @property
    def owner(self) -> Owner:
        """The name under which it holds deliveries."""
        return Owner(self.incarnation, self.slot, self.generation)


class Common(NamedTuple):
    """What the children of a template have in common: made once, before they are forked."""

    board: Board
    wake: socket.socket
    lock_fd: int
    policies: Policies
    output: LastOutput
    out: CheckedOut | None
    """What is out of pools; None where nobody asks."""
    temp_folders: TempFolders | None


def policies_of(app: App, settings: Settings) -> Policies:
    """The node's, and those that tasks have of their own."""
    policies = Policies(settings.leak_policy, settings.leak_allow)
    for name, task in app.tasks.items():
        policies.learn(name, task.options.leaks)
    return policies


def settle_in(place: Place, title: str, stacks: int) -> None:
    """What every process the template forks does first; ends the process when the template is gone already.

    Its own process group, and handlers that do nothing, keep a terminal's ^C and systemd's TERM to the whole
    control group from a running task; never SIG_IGN, which exec would pass on to what the task starts. These handlers
    are the template's, and are inherited.
    """
    try:
        die_with_parent(place.parent)
    except ParentGone:
        os._exit(0)
    os.setpgid(0, 0)
    become_subreaper()
    signal.set_wakeup_fd(-1)
    hear_again_after_fork(ABSORBED)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    write_stacks_to(stacks)
    set_process_title(title)
    gc.enable()
    _reseed()


def _reseed() -> None:
    """Siblings must not draw the same numbers. ``random`` reseeds itself at a fork; numpy does not."""
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        with contextlib.suppress(AttributeError):  # a half-imported or stubbed numpy
            numpy.random.seed()


def _queue_choice(settings: Settings) -> QueueChoice:
    return parse_queue_choice(settings.queues, settings.exclude_queues, settings.queue_order)


def run(app: App, place: Place, common: Common, sock: socket.socket, stacks: int) -> int:
    """The child's main; returns its exit code."""
    began = time.monotonic()
    settle_in(place, f"poolrt:{place.slot}.{place.generation}", stacks)
    row = common.board.writer(place.slot)
    row.boot(os.getpid())
    common.output.keep(stacks, row)
    lifeline = Lifeline(sock, common.wake)
    temp_folder = common.temp_folders.make(place.slot) if common.temp_folders is not None else None
    try:
        app.broker.attach(place.owner, _queue_choice(place.settings))
        for hook in app.child_start_hooks:
            hook()
    except BaseException:  # noqa: BLE001  a user's hook can raise anything, SystemExit included
        lifeline.send(BootFailed(shorten(traceback.format_exc())))
        return EX_BOOT_FAILED
    interrupter = Interrupter(row)
    interrupter.install()
    resident = ResidentSize(os.getpid())
    settings = place.settings

    def tell(kind: EventKind, task: str, task_id: str, cause: str) -> None:
        where = (place.node, place.slot, place.generation, os.getpid())
        lifeline.send(Happened(Event(kind, time.time(), *where, task, task_id, cause)))

    limits = Limits(settings, resident)
    executor = Executor(
        app,
        place.owner,
        row,
        limits,
        settings.max_deliveries,
        interrupter,
        lambda: lifeline.send(Poke()),
        tell,
        place.node,
    )
    # A hook may have imported more tasks.
    policies = policies_of(app, settings) if app.child_start_hooks else common.policies
    audit = Audit(
        policies, settings.max_memory_per_child, row, resident,
        lambda finding: lifeline.send(Found(finding, time.time())), common.lock_fd, place.max_tasks,
        lambda rest: lifeline.send(Ran(rest)),
    )  # fmt: skip
    loop = executor.current_loop
    audit.add(watches_for(policies, app.leak_checks, loop, temp_folder, audit.collect, common.out))
    lifeline.send(Up(time.monotonic() - began, resident.read()))
    try:
        Loop(app.broker, executor, audit, row, lifeline, place.max_tasks, tell).run()
    except Fenced as error:
        log.warning("child %s leaves: %s", place.owner, error)
        return EX_FENCED
    except BrokerCorrupt:
        return EX_STORE_GONE  # the supervisor was told, and ends the node
    except BrokerError as error:
        if not lifeline.cut:
            raise
        # Its supervisor is gone, or a task has closed everything: then it is there to count this against the task.
        log.warning("child %s leaves: it has neither supervisor nor broker (%s)", place.owner, error)
        return EX_CUT_OFF
    finally:
        row.activity(Activity.LEAVE)
    executor.close()
    if common.temp_folders is not None:
        common.temp_folders.drop(place.slot)
    # The broker is not closed: the process ends now, all is committed, and a close costs 0.3 ms of each recycling.
    return 0
