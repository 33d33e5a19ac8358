"""The broker of the recall model: what one script does is one step; pure functions of the store.

A request of a child comes over a connection, and so maybe late, after its child has died or has another connection.
"""

from __future__ import annotations

from typing import NamedTuple

from tests.model.exploration import Broken

BATCH = 2

OTHER = 0
"""The owner that another child is; the generations of ours are 1, 2, …"""

Fence = tuple[int, int]
"""``(n, i)``: the child's reserve number, and the place in its batch."""

Given = tuple[Fence, int]
"""A delivery as it is given out: with its task."""


class Task(NamedTuple):
    """One message."""

    at: str = "queued"
    """queued, held, ended."""
    owner: int = OTHER
    fence: Fence = (0, 0)


class Owner(NamedTuple):
    """What the broker knows of a child that it hears."""

    generation: int
    epoch: int = 0
    floor: int = 0
    """No reserve up to this number gets anything."""
    counter: int = 0
    """The broker's own count of its reserves: what a fence must not be made of."""


class Submit(NamedTuple):
    """A request: end these deliveries, and reserve more."""

    epoch: int
    n: int
    outcomes: tuple[Given, ...] = ()


class Answer(NamedTuple):
    """To a submit: what it was, and what it gave."""

    asked: Submit
    given: tuple[Given, ...] = ()
    fenced: bool = False


class Recall(NamedTuple):
    """A command of the steward: take back what is behind ``after`` in reserves up to ``upto``."""

    generation: int
    after: Fence
    upto: int

    def __str__(self) -> str:
        return f"recall of {self.generation} after {self.after} up to {self.upto}"


class Bury(NamedTuple):
    """A command of the steward: bar the owner; end what it ran if it is to fail; put back the rest."""

    generation: int
    ran: Fence | None = None
    verdict: str = "requeue"
    """requeue, fail."""

    def __str__(self) -> str:
        return f"burial of {self.generation}"


class Store(NamedTuple):
    """The server."""

    tasks: tuple[Task, ...]
    owners: tuple[Owner, ...] = ()
    """Who is heard. A buried owner is not in it, and nothing puts it there again."""

    def owner(self, generation: int) -> Owner | None:
        """This owner, if it is heard."""
        return next((owner for owner in self.owners if owner.generation == generation), None)

    def with_owner(self, changed: Owner) -> Store:
        """The store with this owner changed, or new."""
        rest = (owner for owner in self.owners if owner.generation != changed.generation)
        return self._replace(owners=tuple(sorted((*rest, changed))))

    def put(self, index: int, task: Task) -> Store:
        """The store with this task changed."""
        return self._replace(tasks=(*self.tasks[:index], task, *self.tasks[index + 1 :]))

    def held(self, generation: int) -> tuple[Given, ...]:
        """What this owner holds, in the order to run it."""
        return tuple(
            sorted((t.fence, index) for index, t in enumerate(self.tasks) if t.at == "held" and t.owner == generation)
        )

    def holds(self, generation: int, fence: Fence) -> bool:
        """Whether this fence stands."""
        return any(held == fence for held, _ in self.held(generation))

    @property
    def waits(self) -> bool:
        """Whether anything is queued."""
        return any(task.at == "queued" for task in self.tasks)


def submit(store: Store, generation: int, request: Submit, *, by_epoch: bool, own_numbers: bool, by_floor: bool) -> (
    tuple[Store, Answer | None]
):  # fmt: skip
    """What the request does, and its answer; None for one of an older connection, which nobody listens to."""
    owner = store.owner(generation)
    if owner is None:
        return store, Answer(request, fenced=True)
    if by_epoch and request.epoch < owner.epoch:
        return store, None
    store = end(store, generation, request.outcomes)
    n = request.n if own_numbers else owner.counter + 1
    store = store.with_owner(owner._replace(counter=owner.counter + 1))
    if by_floor and n <= owner.floor:
        return store, Answer(request)
    waiting = [index for index, task in enumerate(store.tasks) if task.at == "queued"]
    given = tuple(((n, place), index) for place, index in enumerate(waiting[:BATCH]))
    for fence, index in given:
        store = store.put(index, Task("held", generation, fence))
    return store, Answer(request, given)


def end(store: Store, generation: int, outcomes: tuple[Given, ...]) -> Store:
    """The deliveries that these outcomes name end, if their fences stand: a fence is all the broker knows one by."""
    named = dict(outcomes)
    for fence, index in store.held(generation):
        if fence in named:
            if named[fence] != index:
                raise Broken(f"the outcome of task {named[fence]} ended task {index}")
            store = store.put(index, Task("ended"))
    return store


def end_running(store: Store, command: Bury) -> Store:
    """End what the dead child ran, if it is still held."""
    return end(store, command.generation, tuple(g for g in store.held(command.generation) if g[0] == command.ran))


def put_back(store: Store, generation: int, fences: tuple[Fence, ...]) -> Store:
    """These deliveries are queued again, if their fences stand."""
    for fence, index in store.held(generation):
        if fence in fences:
            store = store.put(index, Task())
    return store


def resume(store: Store, generation: int) -> Store:
    """Bar the older connections of this owner."""
    owner = store.owner(generation)
    assert owner is not None
    return store.with_owner(owner._replace(epoch=owner.epoch + 1))


def recall(store: Store, command: Recall, *, behind: bool, upto: bool) -> Store:
    """Put back what is behind ``after``; not ``behind``: all but that one; not ``upto``: of later reserves too."""
    owner = store.owner(command.generation)
    if owner is None:
        return store
    fences = tuple(
        fence
        for fence, _ in store.held(command.generation)
        if (fence > command.after if behind else fence != command.after) and (fence[0] <= command.upto or not upto)
    )
    store = store.with_owner(owner._replace(floor=max(owner.floor, command.upto)))
    return put_back(store, command.generation, fences)


def bury(store: Store, command: Bury, *, with_verdict: bool) -> Store:
    """Bar the owner, end what it ran if that is to fail, put back the rest; not ``with_verdict``: put back all."""
    if command.verdict == "fail" and with_verdict:
        store = end_running(store, command)
    store = put_back(store, command.generation, tuple(fence for fence, _ in store.held(command.generation)))
    return store._replace(owners=tuple(owner for owner in store.owners if owner.generation != command.generation))
