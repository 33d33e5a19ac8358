"""The pool: the children of one supervisor, from the Fork it asks for to the slot that is free again.

    spawn ──Fork──▶ template ──Forked──▶ STARTING ──Up──▶ UP or STANDBY ──Leaving / order──▶ RETIRING
      ▲                                                                                        │ Exited
      └── slot free ◀──Settled── steward ◀──Bury── DEAD (row and ticket are kept) ◀────────────┘

Invariant: a slot is used again only after the steward said that what its last child held is settled.
"""

from __future__ import annotations

import contextlib
import logging
import random
import time
from collections.abc import Callable, Iterator

from poolrt.board import SLOTS, Board, Row
from poolrt.events import EventKind
from poolrt.notice import Bury, CancelRun, Exited, Fork, Forked, Leaving, Poke, Recalled, Up
from poolrt.posix.memory import ResidentSize
from poolrt.posix.stacks import open_stacks
from poolrt.posix.unix_sockets import seqpacket_pair
from poolrt.settings import Settings
from poolrt.states import Activity, ChildState, Order
from poolrt.supervisor import obituary
from poolrt.supervisor.coroner import Coroner
from poolrt.supervisor.departed import Departed
from poolrt.supervisor.enforcer import Enforcer
from poolrt.supervisor.exits import Ending, judge_exit
from poolrt.supervisor.lifecycle import CHILD, SCALED_DOWN, STEWARD, Child
from poolrt.supervisor.lifelines import Lifelines, send
from poolrt.supervisor.reconcile import reconcile
from poolrt.supervisor.reporter import Reporter
from poolrt.supervisor.restart import Backoff, Breaker
from poolrt.supervisor.template_process import TemplateProcess
from poolrt.supervisor.tickets import Command, Tickets

log = logging.getLogger("poolrt.supervisor")

STANDBYS = 2
"""One takes a place while the next is forked; measured 5 % faster than one with ten tasks a child on two processors."""


class Pool:
    """Children, their slots, and what the steward has yet to do for dead ones.

    Attributes:
        template: who forks from now on; children of an earlier one may still work.
        enforcer: kills and interrupts what is over its limits.
        wanted: how many children should work; 0 until the steward has joined the broker.
        quiet: whether children take no task for now.
        held_back: whether nobody is started, because the node's lease ran out.
        totals: what happened since the start, by the names ``status`` shows.
        broken: why the breaker gave up, or an empty text.
    """

    def __init__(
        self, settings: Settings, board: Board, template: TemplateProcess, reporter: Reporter,
        lifelines: Lifelines,
    ) -> None:  # fmt: skip
        self._settings = settings
        self._board = board
        self.template = template
        self._reporter = reporter
        self._lifelines = lifelines
        self.enforcer = Enforcer(board, lambda: self.children, self.condemn, self.poke_steward, settings.cancel_grace)
        self.wanted = 0
        self.quiet = self.held_back = False
        self._children: dict[int, Child] = {}
        self._generations: dict[int, int] = {}
        self._leaving: list[Child] = []
        self._tickets = Tickets()
        self._departed = Departed()
        self.coroner = Coroner()
        self._backoff = Backoff()
        self._breaker = Breaker(settings.restart_burst)
        self.totals = {"done": 0, "failed": 0, "recycled": 0, "crashed": 0, "killed": 0, "recalled": 0, "refused": 0}
        self.broken = ""

    # ---- views

    def __iter__(self) -> Iterator[Child]:
        return iter(self._children.values())

    @property
    def children(self) -> list[Child]:
        """Every child that lives or was asked for, the steward excluded."""
        return [child for child in self if child.role == CHILD and child.alive]

    @property
    def steward(self) -> Child | None:
        """The steward that lives or was asked for."""
        return next((child for child in self if child.role == STEWARD and child.alive), None)

    @property
    def worked(self) -> bool:
        """Whether any child, dead or alive, has ended a task."""
        return bool(self.totals["done"]) or any(self.row(child).done for child in self.children)

    @property
    def settled(self) -> bool:
        """Whether the steward has nothing left to do for dead children."""
        return not self._tickets

    def row(self, child: Child) -> Row:
        """The child's board row."""
        return self._board.read(child.slot)

    def find(self, slot: int, generation: int) -> Child | None:
        """The child of this slot and generation."""
        child = self._children.get(slot)
        return child if child is not None and child.generation == generation else None

    # ---- spawning

    def spawn(self, role: str, *, standby: bool = False) -> Child:
        """Ask the template for a new process in the lowest free slot."""
        slot = next(slot for slot in range(SLOTS) if slot not in self._children)
        generation = self._generations.get(slot, 0) + 1
        self._generations[slot] = generation
        limit = self._settings.max_tasks_per_child if role == CHILD else 0
        if limit > 1 and self._settings.max_tasks_jitter:
            limit -= random.randint(0, limit * self._settings.max_tasks_jitter // 100)
        now = time.monotonic()
        child = Child(slot, generation, role, now, standby=standby, max_tasks=limit, template=self.template)
        self._board.clear(slot, generation)
        waits = role == CHILD and (standby or self.quiet)
        self._board.order(slot, Order.STANDBY if waits else Order.WORK)
        ours, theirs = seqpacket_pair()
        ours.setblocking(False)
        child.lifeline = ours
        child.stacks_fd = open_stacks()
        self._children[slot] = child
        if role == CHILD and not standby:
            child.replaces = self._departed.take()
        self.template.send(Fork(slot, generation, role, limit), (theirs.fileno(), child.stacks_fd))
        theirs.close()
        self._lifelines.watch(child)
        return child

    def reconcile(self) -> None:
        """Bring the pool to what is wanted; safe to call at any time."""
        if self.broken or self.held_back or not self.template.ready or self._backoff.remaining(time.monotonic()):
            return
        self._leaving = [child for child in self._leaving if child.working]
        recycles = self._settings.max_tasks_per_child or self._settings.max_lifetime
        actions = reconcile(self.children, self.wanted, min(self.wanted, STANDBYS) if recycles else 0, self._leaving)
        for child in actions.activate:
            self._activate(child)
        for child in actions.retire:
            self.retire(child, "max_lifetime" if child in self._leaving else SCALED_DOWN)
        for _ in range(actions.spawn):
            self.spawn(CHILD)
        for _ in range(actions.spawn_standby):
            self.spawn(CHILD, standby=True)

    def _activate(self, child: Child) -> None:
        child.standby = False
        child.replaces = self._departed.take()
        # Poked whatever its state here: it may have looked at its row already, and its Up be on the way.
        self._order(child, Order.STANDBY if self.quiet else Order.WORK)
        if child.state is ChildState.STANDBY:
            child.move(ChildState.UP)
            child.up_at = time.monotonic()
            self._reporter.emit(EventKind.CHILD_UP, child, cause="took its place from standby")

    def recycle(self, slots: list[int], why: str = "asked to") -> int:
        """Replace these children (none: all of them); how many will be."""
        chosen = [child for child in self.children if child.working and (not slots or child.slot in slots)]
        for child in chosen:
            child.leave_reason = child.leave_reason or why
        self._leaving.extend(child for child in chosen if child not in self._leaving)
        self.reconcile()
        return len(chosen)

    def move_to(self, template: TemplateProcess) -> None:
        """Fork from ``template`` from now on, and replace by plan what earlier ones forked; the steward at once."""
        self.template = template
        for child in self.children:
            if child.waiting:
                self.retire(child, SCALED_DOWN)
        steward = self.steward
        if steward is not None:
            steward.leave_reason = "reloaded"
            self._order(steward, Order.HAND_OVER)
            if steward.state in (ChildState.UP, ChildState.STARTING):
                steward.move(ChildState.RETIRING)
        self.recycle([], "reloaded")

    def set_quiet(self, *, quiet: bool) -> None:
        """Let children finish what they run and take nothing more, or let them work again."""
        self.quiet = quiet
        for child in self.children:
            if child.working:
                self._order(child, Order.STANDBY if quiet else Order.WORK)

    def interrupt_all(self) -> int:
        """Interrupt whatever runs, from inside, because the node must stop now; how many children run something."""
        now = time.monotonic_ns()
        for child in self.children:
            child.stop_since = child.stop_since or now
        self.enforcer.look_now()
        return sum(self.row(child).activity is Activity.RUN for child in self.children)

    # ---- what children say

    def is_up(self, child: Child, up: Up) -> None:
        """A child has booted."""
        child.up_at = time.monotonic()
        child.birth_rss = up.birth_rss
        self._backoff.succeeded()
        self._breaker.booted()
        if child.state is ChildState.REQUESTED:  # its Up overtook the template's Forked, on another socket
            child.move(ChildState.STARTING)
        if child.state is not ChildState.STARTING:
            return  # asked to leave, or condemned, meanwhile
        if child.role == STEWARD:
            child.move(ChildState.UP)
            self.repeat_tickets()
        elif child.standby:
            child.move(ChildState.STANDBY)
        else:
            child.move(ChildState.UP)
            self._reporter.emit(EventKind.CHILD_UP, child, numbers={"boot_seconds": round(up.boot_seconds, 4)})
        self.reconcile()

    def forked(self, forked: Forked, pidfd: int) -> None:
        """The template made a process."""
        child = self.find(forked.slot, forked.generation)
        if child is None:
            log.error("impossible: the template forked an unknown child %s.%s", forked.slot, forked.generation)
            return
        child.pid, child.pidfd = forked.pid, pidfd
        with contextlib.suppress(OSError):  # it has ended already
            child.resident = ResidentSize(forked.pid)
        if child.state is ChildState.REQUESTED:
            child.move(ChildState.STARTING)
        elif child.state is ChildState.CONDEMNED:  # before it had a pid to be killed by
            obituary.end_tree(self._reporter, child)

    def leaves(self, child: Child, leaving: Leaving) -> None:
        """A child says that it takes no more work: its successor may start now."""
        if child.state in (ChildState.UP, ChildState.STANDBY):
            child.move(ChildState.RETIRING)
        child.leave_reason = child.leave_reason or leaving.reason
        child.culprit = leaving.task
        self._departed.note(child)
        if self._board.read(child.slot).done:
            self._breaker.worked()
        self.reconcile()

    # ---- asking to leave, and killing

    def retire(self, child: Child, reason: str) -> None:
        """Ask a child to finish what it runs, put back the rest and exit."""
        child.leave_reason = child.leave_reason or reason
        self._order(child, Order.RETIRE)
        if child.state in (ChildState.UP, ChildState.STANDBY, ChildState.STARTING):
            child.move(ChildState.RETIRING)
            self._departed.note(child)

    def _order(self, child: Child, order: Order) -> None:
        self._board.order(child.slot, order)
        send(child, Poke())

    def retire_all(self, reason: str) -> None:
        """Ask every child to leave, and start no more."""
        self.wanted = 0
        for child in self.children:
            if child.state is not ChildState.CONDEMNED:
                self.retire(child, reason)

    def condemn(self, child: Child, cause: str, verdict: str) -> None:
        """Kill a child and everything below it; ``verdict`` is for the delivery it runs (see notice.Bury)."""
        if not child.alive or child.state is ChildState.CONDEMNED:
            return
        child.cause, child.verdict = cause, verdict
        if child.state is ChildState.REQUESTED:
            child.move(ChildState.STARTING)
        child.move(ChildState.CONDEMNED)
        self._board.kills(child.slot, self.row(child).sequence, obituary.kill_of(cause, verdict))
        if child.pid:
            obituary.end_tree(self._reporter, child)

    # ---- exits

    def exited(self, exited: Exited) -> None:
        """The template reaped a process."""
        child = self.find(exited.slot, exited.generation)
        if child is None or not child.alive:
            log.error("impossible: unknown child %s.%s exited", exited.slot, exited.generation)
            return
        self.ended(child, exited.status, exited.peak_rss)

    def ended(self, child: Child, status: int, peak_rss: int = 0) -> None:
        """A process is gone: say why, settle what it held, fill its place."""
        row = self.row(child)
        if limit := obituary.died_of_its_limit(child, row, status):
            self.condemn(child, *limit)
        verdict = judge_exit(child, row, status, oom=self.coroner.oom_killed(child, status))
        runtime = (time.monotonic_ns() - row.started) / 1e9 if verdict.verdict != "none" else 0.0
        found = self.coroner.examine(child, row, verdict, status, peak_rss)
        if child.state is ChildState.REQUESTED:
            child.move(ChildState.STARTING)
        if child.working or child.state is ChildState.CONDEMNED:
            child.leave_reason = verdict.cause
            self._departed.note(child)
        child.move(ChildState.DEAD)
        self._lifelines.unwatch(child)
        child.close()
        if child.role == STEWARD:
            del self._children[child.slot]
            if verdict.ending is not Ending.PLANNED:
                self._reporter.emit(EventKind.STEWARD_REPLACED, child, cause=verdict.cause)
            return
        self._reporter.leaks.forward(self.steward)  # the node may end before the next tick
        obituary.tell(self._reporter, self.totals, child, row, verdict, status, peak_rss)
        if verdict.early:
            self._failed_early(child, verdict.cause)
        self.reconcile()  # first: the fork goes on while the steward buries
        n, i = (row.n, row.i) if verdict.verdict != "none" else (0, 0)
        cause = "" if verdict.ending is Ending.PLANNED else verdict.cause
        self.settle(
            lambda ticket: Bury(
                ticket, child.slot, child.generation, n, i, cause, verdict.verdict, runtime, status, peak_rss, *found
            )
        )

    def _failed_early(self, child: Child, cause: str) -> None:
        """A child died before its first task: wait before the next one, or give the pool up if none of it works."""
        now = time.monotonic()
        if self._backoff.remaining(now):
            return  # in a pause: it was forked together with the one whose failure began the pause
        too_often = self._breaker.died_early(now, hung=child.hung)
        older = [other for other in self.children if other.state is ChildState.UP]
        if too_often and not any(other.template is not self.template or self.row(other).done for other in older):
            self.broken = f"children keep dying before their first task; the last {cause}"
            return
        pause = self._backoff.failed(now)
        if too_often:
            self._reporter.emit(
                EventKind.WARNING, cause=f"new children keep dying before their first task (the last {cause}); "
                "older ones go on working", numbers={"next_in": round(pause, 1)},
            )  # fmt: skip
        else:
            log.warning("next child in %.1f s", pause)

    # ---- the steward's work

    def settle(self, command: Callable[[int], Command]) -> None:
        """Give the steward a command; it is kept, and repeated to each new steward, until it is done."""
        made = self._tickets.issue(command)
        steward = self.steward
        if steward is not None and steward.state is ChildState.UP:
            send(steward, made)

    def ticket_done(self, ticket: int) -> Command | None:
        """The steward did it: the dead child's slot is free."""
        command = self._tickets.done(ticket)
        if isinstance(command, Bury):
            child = self.find(command.slot, command.generation)
            if child is not None and not child.alive:
                del self._children[child.slot]
        return command

    def repeat_tickets(self) -> None:
        """Send every open command again, to a steward that is up."""
        steward = self.steward
        if steward is not None and steward.state is ChildState.UP:
            for command in self._tickets:
                send(steward, command)

    def poke_steward(self) -> None:
        """Have the steward look at the marks in the rows, and renew the node's lease."""
        if self.steward is not None:
            send(self.steward, Poke())

    def heard(self, said: Poke | CancelRun | Recalled) -> None:
        """A child asks for a look at the rows; or the steward says something of one child's deliveries."""
        if isinstance(said, Poke):
            self.enforcer.look_now()
            return
        child = self.find(said.slot, said.generation)
        if isinstance(said, Recalled):
            self.totals["recalled"] += said.count
            if child is not None:
                self.enforcer.recalled(child, said.upto)
                self._reporter.recalled(child, self.row(child), said.count)
        elif child is not None:
            self.enforcer.cancel(child, said.n, said.i)

    def forgive(self) -> None:
        """Start again at once: whatever failed so far was the broker's absence."""
        self._backoff.succeeded()
        self._breaker.worked()

    def next_start(self) -> float:
        """Seconds until the backoff lets the next child start; 0 for now."""
        return self._backoff.remaining(time.monotonic())
