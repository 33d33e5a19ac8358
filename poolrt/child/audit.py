"""What a task left behind in its child, looked at after its run; says whether the child must be recycled.

    after(task, runtime) ── a run of less than 8 us ──▶ nothing; at most 15 in a row
        └─ a glance ──▶ lowest free descriptor (0.8 us) ──▶ hygiene.descriptors
                    ──▶ the handlers of poolrt's signals
                    ──▶ child.memory_audit: resident size (1.7 us, with a ceiling only), sampled runs
                    └─ when there is time for it: a look ──▶ hygiene's other watches, by the runs since the last one
                                                         ──▶ the lock; dead orphans
    Finding ──Policies──▶ nothing | told | told, and the child leaves | told, the child leaves, and the run fails

A glance costs 2 us, of which the shortest runs share one: they cannot have opened much. A look costs some tens of
microseconds: what the runs since the last one took decides when there is time for it. A watch that has found something
and does not know whose it is asks for a look after each run, until it does.

Processes that live on are ended with the child, whatever its end (see template/main.py); here only the dead are buried.
"""

from __future__ import annotations

import gc
import os
import time
from collections import Counter
from typing import TYPE_CHECKING, Final

from poolrt.child.memory_audit import MemoryAudit
from poolrt.child.orphans import Orphans
from poolrt.child.watches import Verdict
from poolrt.hygiene.descriptor_verdicts import OF_DESCRIPTORS, NearTheLimit
from poolrt.hygiene.descriptors import DescriptorWatch
from poolrt.hygiene.findings import Action, Finding, LeakKind
from poolrt.hygiene.pools.watch import PoolWatch
from poolrt.hygiene.task_state import StateWatch
from poolrt.hygiene.transactions import TransactionWatch
from poolrt.posix import descriptors
from poolrt.posix.signals import reserved_handlers
from poolrt.states import Activity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from poolrt.board import RowWriter
    from poolrt.child.watches import Watch
    from poolrt.hygiene.findings import Policies, Rest
    from poolrt.message import Outcome
    from poolrt.posix.memory import ResidentSize

BY_LOOKS: Final = frozenset(LeakKind) - {*OF_DESCRIPTORS, LeakKind.MEMORY}
"""Kinds that a look finds, and no glance or sample."""
_SHARE: Final = 0.015
"""Of the time that tasks run, what looks may take."""
_FEWEST_TO_NAME: Final = 200
"""Runs before which no task is named for its memory (hygiene.memory_ledger): a child of fewer takes no samples."""
_QUICK: Final = 8e-6
"""Seconds, of which the runtime takes two: shorter runs have no time to connect or to start a thread, but may open."""
_SKIPPED: Final = 15
"""Quick runs in a row without a glance."""
_NS_PER_RUN: Final = 200
"""What each run adds to that, so that runs that take no time are looked at too: every fiftieth or so."""


class Audit:
    """Looks at one child after each of its runs.

    Args:
        policies: what is done about findings.
        ceiling: max_memory_per_child in bytes; 0 for none.
        row: where the lowest free descriptor is published.
        resident: this child's resident size.
        found: tells a finding that is not ignored.
        lock_fd: the node's lock, which every child holds; -1 for none.
        most_runs: runs after which the child leaves; 0 for no such number.
        rest: tells what was too little for a finding, when the child leaves.
    """

    def __init__(
        self, policies: Policies, ceiling: int, row: RowWriter, resident: ResidentSize,
        found: Callable[[Finding], None], lock_fd: int = -1, most_runs: int = 0,
        rest: Callable[[Rest], object] = lambda rest: None,
    ) -> None:  # fmt: skip
        self._policies = policies
        self._row = row
        self._found = found
        self._rest = rest
        self._watches: list[Watch] = []
        self._state: StateWatch | None = None
        self._pools: PoolWatch | None = None
        self._transactions: TransactionWatch | None = None
        self._memory = MemoryAudit(
            ceiling,
            resident,
            self.collect,
            settle=self._settle,
            samples=policies.watches(LeakKind.MEMORY) and not 0 < most_runs < _FEWEST_TO_NAME,
        )
        self.samples_next = self._memory.samples_next
        self._lowest = descriptors.lowest_free()
        self._watches_descriptors = any(map(policies.watches, OF_DESCRIPTORS))
        self._descriptors = DescriptorWatch(descriptors.limit(), self._lowest, descriptors.scan, collect=self.collect)
        if self._watches_descriptors:
            gc.callbacks.append(self._descriptors.collection)
        self.settle_first: Callable[[], None] = lambda: None
        """Called before a collection: finalizers of what tasks left run there, and may hang or crash."""
        self.goes_first = policies.may_fail
        """Whether a verdict may say that the run fails: so it comes before the outcome is taken to be settled. Else it
        comes after, since a look may meet what hangs or crashes."""
        self._handlers = reserved_handlers()
        self._lock_fd = lock_fd
        self._lock = _file_of(lock_fd)
        self._orphans = Orphans()
        self._unseen: list[str] = []
        """The tasks of the runs since the last glance."""
        self._may_skip = 0 if policies.may_fail else _SKIPPED
        self._skips = 0
        """Quick runs that may follow without a glance."""
        self.at_ease: set[str] = set()
        """Tasks that need no `before`: they ran here before, and no finding of a look fails their runs."""
        self._alone = False
        """Whether the next run is looked at by itself."""
        self._ran: dict[str, int] = {}
        self._time_left = 0.0
        """Nanoseconds that looks may take by now."""
        self._look_takes = 0
        self._singly: list[Watch] = []
        """Watches that want to look after each run, and have seen all runs since they said so."""
        row.fds(self._lowest)

    def add(self, watches: Iterable[Watch]) -> None:
        """Watches that look, too, when there is time for it."""
        self._watches += watches
        self._state = next((watch for watch in self._watches if isinstance(watch, StateWatch)), None)
        self._pools = next((watch for watch in self._watches if isinstance(watch, PoolWatch)), None)
        self._transactions = next((watch for watch in self._watches if isinstance(watch, TransactionWatch)), None)

    def before(self, task: str) -> Verdict | None:
        """Find what earlier runs left, so that what the next one leaves is its own: to be called right before the run
        of a task that is not ``at_ease``, which is looked at by itself, whatever that costs. What the task does once,
        when it runs first, gets its name thus; and each run that may fail for its leaks is caught."""
        if not self._policies.fails(task) & BY_LOOKS:
            self.at_ease.add(task)
        self._alone = True
        if self._unseen:
            return self._glance(self._unseen[-1], 0.0, closely=True)
        return self._look("") if self._ran else None

    def after(self, task: str, runtime: float) -> Verdict | None:
        """Look at what a run of this task, which took ``runtime`` seconds, left; what is to be done, if anything."""
        self._unseen.append(task)
        if runtime < _QUICK and self._skips and not self._alone:
            self._skips -= 1
            return None
        alone, self._alone = self._alone, False
        return self._glance(task, runtime, closely=alone)

    def _glance(self, task: str, runtime: float, *, closely: bool) -> Verdict | None:
        """At what costs next to nothing, and closer where there is time for it."""
        unseen, stirs = self._see()
        self._time_left += runtime * (1e9 * _SHARE) + _NS_PER_RUN * len(unseen)
        verdict = self._look_at_descriptors(task, unseen) if self._watches_descriptors else None
        if reserved_handlers() != self._handlers:
            verdict = self._deaf(task)
        if self._memory.found:
            verdict = self._act(self._memory.findings(), task) or verdict
        if self._memory.ceiling and verdict is None:
            verdict = self._memory.look(task)
        if verdict is None and (closely or stirs or self._time_left > self._look_takes):
            verdict = self._look(task)
        elif verdict is None and self._singly:
            verdict = self._look_singly(task)
        of_descriptors = self._watches_descriptors and self._descriptors.wants_each
        self._skips = 0 if self._singly or of_descriptors else self._may_skip
        return verdict

    def _see(self) -> tuple[list[str], bool]:
        """The tasks that ran since the last glance; and whether what they left should be looked at now."""
        unseen, self._unseen = self._unseen, []
        for each in unseen:
            self._ran[each] = self._ran.get(each, 0) + 1
        stirs = self._transactions is not None and self._transactions.stirs(unseen)
        return unseen, (self._pools is not None and self._pools.stirs(unseen)) or stirs

    def sample(self, task: str, runtime: float, outcome: Outcome) -> None:
        """A sampled run of ``runtime`` seconds has ended with this outcome; `after` tells what it showed.

        What its collection closes of what the run left was left to the collector: not known of a run that follows
        others which nobody looked at.
        """
        own = self._watches_descriptors and not self._unseen
        left = self._descriptors.left_by(task, descriptors.lowest_free()) if own else []
        self._memory.sample(task, runtime, outcome)
        self._descriptors.collected(left)
        self._skips = 0

    def leaving(self) -> None:
        """The child leaves: tell what was found and could be given to no task so far, then what was too little."""
        found = self._memory.leaving() + (self._state.unnamed() if self._state is not None else [])
        unseen = Counter(self._see()[0] if self._unseen else ())
        rests = self._descriptors.rest() if self._watches_descriptors else []
        if self._state is not None:
            rests += self._state.rest()
        if self._pools is not None:
            rests += self._pools.rest(unseen if self._pools in self._singly else self._ran)
        if self._transactions is not None:
            found += self._transactions.leaving(unseen if self._transactions in self._singly else self._ran)
            rests += self._transactions.rest()
        self._act(found, "")
        for rest in rests:
            self._rest(rest)

    def _look(self, task: str) -> Verdict | None:
        began = time.thread_time_ns()  # or a look off its processor would put off the next ones for long
        ran, self._ran = self._ran, {}
        findings: list[Finding] = []
        for watch in self._watches:
            if watch not in self._singly:
                findings += watch.look(ran)
            elif task:  # else it has seen all of them
                findings += watch.look({task: 1})
        self._singly = [watch for watch in self._watches if watch.wants_each]
        self._orphans.reap()
        verdict = self._without_lock(" or ".join(sorted(ran))) or self._act(findings, task)
        if verdict is None and self._state is not None and self._state.must_leave:
            verdict = Verdict(self._state.must_leave, task)
        took = time.thread_time_ns() - began
        self._look_takes = max(took, (3 * self._look_takes + took) // 4)  # a slow one was no exception yet
        self._time_left = 0.0
        return verdict

    def _look_singly(self, task: str) -> Verdict | None:
        """Each run is looked at by the watches that ask for it, until the next look of all, whatever it costs."""
        findings: list[Finding] = []
        for watch in self._singly:
            findings += watch.look({task: 1})
        return self._act(findings, task) if findings else None

    def _act(self, findings: Sequence[Finding], task: str) -> Verdict | None:
        """Tell what was found, and say what follows for the child and for the run of ``task`` that just ended."""
        verdict = None
        for finding in findings:
            action = self._policies.action(finding)
            if action is Action.IGNORE:
                continue
            self._found(finding)
            if isinstance(finding, NearTheLimit) and action is Action.WARN:
                action = Action.RECYCLE  # before a run of this child meets EMFILE
            if action is Action.FAIL and finding.task == task:
                verdict = Verdict(finding.reason, task, finding.reason)
            elif action is not Action.WARN and verdict is None:
                verdict = Verdict(finding.reason, finding.task)
        return verdict

    def _deaf(self, task: str) -> Verdict:
        """Without their handlers no soft limit and no question for stacks reaches this child."""
        reason = f"{task} changed the handler of SIGUSR1 or SIGUSR2, which are poolrt's"
        self._act([Finding(LeakKind.STATE, task, "signal SIGUSR1 or SIGUSR2", 1, 1, reason)], task)
        return Verdict(reason, task)  # whatever the policy says

    def _without_lock(self, names: str) -> Verdict | None:
        """Without the lock nothing proves that this child is dead when its node has died (protocol.md, rule 16)."""
        if _file_of(self._lock_fd) == self._lock:
            return None
        return Verdict(f"{names} closed the node's lock, which every child holds", names)

    def _look_at_descriptors(self, task: str, unseen: list[str]) -> Verdict | None:
        lowest = descriptors.lowest_free()
        if lowest != self._lowest:
            self._lowest = lowest
            self._row.fds(lowest)
            if verdict := self._without_lock(" or ".join(sorted(set(unseen)))):
                return verdict
        if len(unseen) > 1:
            self._descriptors.missed(unseen[:-1], lowest)
        findings = self._descriptors.after(task, lowest)
        return self._act(findings, task) if findings else None

    def _settle(self) -> None:
        self.settle_first()
        self._row.activity(Activity.AUDIT)

    def collect(self) -> int:
        """A full collection, with all that is finished settled before: finalizers may hang or crash."""
        self._settle()
        return gc.collect()


def _file_of(fd: int) -> tuple[int, int] | None:
    """Which file is open there, as device and inode; None for none."""
    try:
        found = os.fstat(fd)
    except OSError:
        return None
    return found.st_dev, found.st_ino
