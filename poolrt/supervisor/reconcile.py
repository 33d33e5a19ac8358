"""Wanted against living: what to spawn, activate and retire. Pure: it returns actions and changes nothing.

A child that leaves is replaced by a standby, which was forked and is connected before: its place is filled in
the time of one datagram, so recycling costs no throughput. Without recycling there is no standby.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from poolrt.states import ChildState
from poolrt.supervisor.lifecycle import Child


class Actions(NamedTuple):
    """What ``reconcile`` wants done."""

    spawn: int
    """New children that start to work as soon as they are up."""
    spawn_standby: int
    activate: tuple[Child, ...]
    retire: tuple[Child, ...]


def reconcile(children: Sequence[Child], wanted: int, standbys: int, leaving: Sequence[Child]) -> Actions:
    """Actions that bring the pool to ``wanted`` working children and ``standbys`` standbys.

    Args:
        children: every child of the pool, dead ones included.
        wanted: how many should work.
        standbys: how many should be ready to take a place.
        leaving: working children that must be replaced; each is retired once a standby is up for it.
    """
    working = [child for child in children if child.working]
    waiting = [child for child in children if child.waiting]
    ready = [child for child in waiting if child.state is ChildState.STANDBY]
    empty = max(0, wanted - len(working))  # places that nobody fills come first: a leaving child still works
    retire = list(leaving[: max(0, len(ready) - empty)])
    missing = wanted - (len(working) - len(retire))
    if missing < 0:
        surplus = [child for child in working if child not in retire]
        surplus.sort(key=lambda child: (child not in leaving, -child.requested_at))
        retire.extend(surplus[:-missing])
        missing = 0
    activate = (ready + [child for child in waiting if child not in ready])[:missing]
    left = len(waiting) - len(activate)
    wanted_standbys = standbys + sum(child not in retire for child in leaving) if wanted else 0
    if left > wanted_standbys:
        spare = [child for child in waiting if child not in activate]
        retire.extend(spare[: left - wanted_standbys])
    return Actions(missing - len(activate), max(0, wanted_standbys - left), tuple(activate), tuple(retire))
