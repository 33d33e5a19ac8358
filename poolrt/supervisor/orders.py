"""What a running node may be told to do, by a signal or over the control socket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from poolrt.errors import ConfigurationError
from poolrt.events import EventKind
from poolrt.states import NodeState

if TYPE_CHECKING:
    from poolrt.supervisor.pool import Pool
    from poolrt.supervisor.supervisor import Supervisor

MAX_CHILDREN: Final = 500


def serving_pool(supervisor: Supervisor, what: str) -> Pool:
    """The node's pool; raises ConfigurationError while it starts or ends: it cannot be ``what`` then."""
    if supervisor.pool is None or not supervisor.serves:
        raise ConfigurationError(f"the node is {supervisor.state}: it cannot be {what} now")
    return supervisor.pool


def reload(supervisor: Supervisor) -> None:
    """Import the code anew, and replace the children by plan once it is imported. A failed import changes nothing.

    While an import runs, another one follows: the code may have changed since that one began.
    """
    if not supervisor.serves and supervisor.state != NodeState.STARTING:
        raise ConfigurationError(f"the node is {supervisor.state}: it cannot be reloaded now")
    supervisor.template.reload()


def set_quiet(supervisor: Supervisor, *, quiet: bool) -> None:
    """Start no task from now on, without ending; or go on. Safe to call again."""
    pool = serving_pool(supervisor, "made quiet" if quiet else "resumed")
    if pool.quiet is quiet:
        return
    supervisor.state = NodeState.QUIET if quiet else NodeState.SERVING
    pool.set_quiet(quiet=quiet)
    supervisor.reporter.emit(EventKind.NODE_QUIET if quiet else EventKind.NODE_RESUMED)


def scale(supervisor: Supervisor, wanted: object) -> None:
    """Run this many children from now on; ``wanted`` may come from outside."""
    pool = serving_pool(supervisor, "scaled")
    if not isinstance(wanted, int) or not 0 <= wanted <= MAX_CHILDREN:
        raise ConfigurationError(f"scale takes a number of children from 0 to {MAX_CHILDREN}, not {wanted!r}")
    before, pool.wanted = pool.wanted, wanted
    if before != wanted:
        supervisor.reporter.emit(EventKind.NODE_SCALED, cause=f"from {before} to {wanted} children")
    pool.reconcile()


def recycle(supervisor: Supervisor, slots: list[int]) -> int:
    """Replace the children in these slots, or all of them; how many will be."""
    return serving_pool(supervisor, "recycled").recycle(slots)


def log_stacks(supervisor: Supervisor) -> None:
    """Ask every child for its stacks; they are logged a moment later."""
    if supervisor.pool is not None:
        supervisor.stack_log.ask([child for child in supervisor.pool if child.alive and child.pid])
