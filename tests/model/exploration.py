"""Visits every state of a model: what must hold in each, and that from each one what is wanted can still happen."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import TypeVar

S = TypeVar("S", bound=Hashable)

Steps = Callable[[S], Iterable[tuple[str, S]]]
"""``(name, state)`` of each thing that may happen next. May raise Broken."""


class Broken(Exception):
    """A promise does not hold."""


class TooMany(Exception):
    """There are more states than were allowed."""


def explore(
    start: S, progress: Steps[S], mishaps: Steps[S], check: Callable[[S], None], wanted: Callable[[S], bool],
    limit: int,
) -> int:  # fmt: skip
    """Visit every state that ``start`` can become; how many there are.

    Args:
        start: the first state; states are hashable and never change.
        progress: what happens by itself. From every state a ``wanted`` one must be in reach by these steps alone.
        mishaps: what may happen, and is never needed.
        check: raises Broken where a promise does not hold.
        wanted: whether all is done.
        limit: states that there may be.

    Raises:
        Broken: with the shortest way to it.
        TooMany: there are more than ``limit`` states.
    """
    came: dict[S, tuple[S, str] | None] = {start: None}
    before: dict[S, list[S]] = {}
    queue = deque([start])
    while queue:
        state = queue.popleft()
        try:
            check(state)
            for steps in (progress, mishaps):
                for name, after in steps(state):
                    if after not in came:
                        came[after] = (state, name)
                        queue.append(after)
                    if steps is progress:
                        before.setdefault(after, []).append(state)
        except Broken as broken:
            raise Broken(f"{broken}: {_way(came, state)}") from None
        if len(came) > limit:
            raise TooMany(f"more than {limit} states")
    good = _leading_to([state for state in came if wanted(state)], before)
    for state in came:
        if state not in good:
            raise Broken(f"tasks can never end: {_way(came, state)}")
    return len(came)


def _leading_to(ends: Iterable[S], before: Mapping[S, Iterable[S]]) -> set[S]:
    """``ends`` and every state from which one of them is in reach."""
    good = set(ends)
    queue = deque(good)
    while queue:
        for state in before.get(queue.popleft(), ()):
            if state not in good:
                good.add(state)
                queue.append(state)
    return good


def _way(came: Mapping[S, tuple[S, str] | None], state: S) -> str:
    names = []
    while (step := came[state]) is not None:
        state, name = step
        names.append(name)
    return " → ".join(reversed(names))
