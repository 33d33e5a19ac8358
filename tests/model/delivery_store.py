"""The broker of the node's model: each call is one transaction, so one step; pure functions of the store.

Only what the protocol needs of it: who holds what under which fence, who is barred, how often a task was counted lost.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from tests.model.exploration import Broken

BATCH = 2

NEIGHBOUR = 0
"""The start of the other node; ours are 1, 2, …"""

Owner = tuple[int, int, int]
"""``(start, slot, generation)``."""


class Held(NamedTuple):
    """A delivery as its holder names it: with the owner, the fence."""

    task: int
    n: int
    attempt: int


Running = tuple[tuple[Owner, Held, str], ...]
"""What a board says its start was running, and what was to become of it: ``lost``, ``failed``, ``none``."""


class Task(NamedTuple):
    """One message."""

    at: str = "queued"
    """queued, held, ended."""
    owner: Owner | None = None
    n: int = 0
    attempt: int = 1
    suspect: bool = False
    lost: int = 0
    """How often it was counted lost."""
    deaths: int = 0
    """How many children really died while running it, and not by an order."""
    over: bool = False
    """Killed at its hard limit: it is to end, and not to run again."""


class Store(NamedTuple):
    """The database."""

    tasks: tuple[Task, ...]
    barred: frozenset[Owner] = frozenset()
    gone: frozenset[int] = frozenset()
    """Starts that left or were rescued: all their owners are barred."""

    def hears(self, owner: Owner) -> bool:
        """Whether what this owner says has any effect."""
        return owner not in self.barred and owner[0] not in self.gone

    def holds(self, owner: Owner, held: Held) -> bool:
        """Whether this fence stands."""
        task = self.tasks[held.task]
        return task.at == "held" and task.owner == owner and (task.n, task.attempt) == held[1:]

    def put(self, index: int, **changes: object) -> Store:
        """The store with this task changed."""
        tasks = list(self.tasks)
        tasks[index] = tasks[index]._replace(**changes)
        return self._replace(tasks=tuple(tasks))

    def queue(self, index: int, **changes: object) -> Store:
        """The store with this task back in the queue."""
        return self.put(index, at="queued", owner=None, n=0, **changes)


def reserve(store: Store, owner: Owner, n: int) -> tuple[Store, tuple[Held, ...]]:
    """What ``owner``, who holds nothing, gets; a suspect comes alone."""
    waiting = [index for index, task in enumerate(store.tasks) if task.at == "queued"]
    suspects = [index for index in waiting if store.tasks[index].suspect]
    batch = []
    for index in suspects[:1] or waiting[:BATCH]:
        batch.append(Held(index, n, store.tasks[index].attempt))
        store = store.put(index, at="held", owner=owner, n=n)
    return store, tuple(batch)


def settle(store: Store, owner: Owner, held: Held, *, retry: bool) -> Store:
    """The end of a delivery, or the next attempt under the same id."""
    if not store.hears(owner) or not store.holds(owner, held):
        return store
    if retry:
        return store.queue(held.task, attempt=held.attempt + 1)
    return _ended(store, held)


def release(store: Store, owner: Owner, batch: Iterable[Held], *, fenced: bool) -> Store:
    """Back to the queue, uncounted; ``fenced`` False: whoever holds it now."""
    for held in batch:
        if store.holds(owner, held) or (not fenced and store.tasks[held.task].at == "held"):
            store = store.queue(held.task)
    return store


def bury(store: Store, owner: Owner, ran: Held | None, verdict: str, *, fenced: bool) -> Store:
    """Bar ``owner``, judge what it ran, put the rest back. ``fenced`` False: the verdict names the task alone."""
    if owner[0] in store.gone:
        return store
    if ran is not None:
        store = _judge(store, owner, ran, verdict, fenced=fenced)
    for index, task in enumerate(store.tasks):
        if task.owner == owner:
            store = store.queue(index)
    return store._replace(barred=store.barred | {owner})


def rescue(store: Store, start: int, running: Running | None) -> Store:
    """Bury all of a start; where nobody knows what it ran (None), what it held is suspect from now on."""
    for owner, held, verdict in running or ():
        store = _judge(store, owner, held, verdict, fenced=True)
    for index, task in enumerate(store.tasks):
        if task.owner is not None and task.owner[0] == start:
            store = store.queue(index)
            if running is None:  # an order that only the board knew is forgotten, too
                store = store.put(index, suspect=True, lost=task.lost + task.suspect, over=False)
    barred = frozenset(owner for owner in store.barred if owner[0] != start)
    return store._replace(barred=barred, gone=store.gone | {start})


def _judge(store: Store, owner: Owner, ran: Held, verdict: str, *, fenced: bool) -> Store:
    task = store.tasks[ran.task]
    if not store.holds(owner, ran) and (fenced or task.at == "ended"):
        return store
    if verdict == "failed":
        return _ended(store, ran)
    return store.queue(ran.task, lost=task.lost + (verdict == "lost"))


def _ended(store: Store, held: Held) -> Store:
    if store.tasks[held.task].attempt != held.attempt:
        raise Broken(f"the outcome of attempt {held.attempt} ended attempt {store.tasks[held.task].attempt}")
    return store.put(held.task, at="ended", owner=None, n=0, over=False)
