"""Which of hygiene's watches look at a child: those whose findings are not ignored."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from poolrt.hygiene.findings import LeakKind
from poolrt.hygiene.pools.checked_out import CheckedOut
from poolrt.hygiene.pools.watch import PoolWatch
from poolrt.hygiene.processes import ProcessWatch
from poolrt.hygiene.task_state import StateWatch
from poolrt.hygiene.temp_files import TempWatch
from poolrt.hygiene.threads import ThreadWatch
from poolrt.hygiene.transactions import TransactionWatch

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from poolrt.hygiene.findings import Finding, Policies
    from poolrt.hygiene.pools.watch import Check


class Verdict(NamedTuple):
    """What is to be done after a run."""

    reason: str
    """Why the child must be recycled; empty: it stays."""
    task: str
    """The task that is named."""
    fails: str = ""
    """Why the run that just ended has to fail; empty: it does not."""


class Watch(Protocol):
    """One of hygiene's watches; it never raises for what a task did."""

    @property
    def wants_each(self) -> bool:
        """It has found what it cannot name, and wants a look after each run."""

    def look(self, ran: Mapping[str, int]) -> list[Finding]:
        """What the runs since the last look left: ``ran`` counts them by task."""


def watches_for(
    policies: Policies, checks: Sequence[Check], loop: Callable[[], asyncio.AbstractEventLoop | None],
    temp_folder: Path | None, collect: Callable[[], object], out: CheckedOut | None = None,
) -> list[Watch]:  # fmt: skip
    """The watches of a child that is ready for its first task; what is there now is nobody's fault.

    Args:
        policies: say which kinds are looked for.
        checks: the app's own, of pools that poolrt does not know.
        loop: gives the loop of the child's async tasks, once there is one.
        temp_folder: the child's own TMPDIR, if it has one.
        collect: closes what only the cycle collector would close.
        out: the template's, if it has one.
    """
    watches: list[Watch] = []
    wanted = {kind for kind in LeakKind if policies.watches(kind)}
    if wanted & {LeakKind.TRANSACTIONS, LeakKind.CHECKED_OUT}:
        out = out or CheckedOut()
        out.begin()
        if LeakKind.TRANSACTIONS in wanted:  # first: what it rolls back may go back to its pool
            watches.append(TransactionWatch(out))
        if LeakKind.CHECKED_OUT in wanted:
            watches.append(PoolWatch(out, checks, collect=collect))
    if LeakKind.THREADS in wanted:
        watches.append(ThreadWatch())
    if LeakKind.PROCESSES in wanted:
        watches.append(ProcessWatch())
    if LeakKind.TEMP_FILES in wanted and temp_folder is not None:
        watches.append(TempWatch(temp_folder))
    if LeakKind.STATE in wanted:
        watches.append(StateWatch(loop))
    return watches
