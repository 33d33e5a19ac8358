"""What the node's model is made of: the rules, what may go wrong, the state of everything; and what a child does.

    child   reserve ──▶ row says RUN ──▶ row moves on ──▶ settle;   told to: put back, exit

The other processes are in node_model.py. A child is named ``start/slot.generation`` in the traces.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tests.model import delivery_store as broker
from tests.model.delivery_store import Held, Owner, Running, Store
from tests.model.exploration import Broken


class Rules(NamedTuple):
    """What the protocol and decisions say, each with its number there; off: the obvious instead."""

    keeps_slot: bool = True
    """003: a slot is used again once its dead is buried; else at once, and its row is overwritten."""
    new_generation: bool = True
    """1: the next child of a slot is another owner; else the same one, heard again."""
    keeps_tickets: bool = True
    """5: a command is kept and sent again until the steward says that it is done; else it is sent once."""
    verdict_by_fence: bool = True
    """5, 6: a verdict names the delivery, so a repeated command does nothing; else it names the task."""
    orders_uncounted: bool = True
    """17: what the supervisor kills at the end of the grace is not counted."""
    templates_uncounted: bool = True
    """17: nor what it kills with a template that stands still."""
    orders_on_board: bool = True
    """17, 18: what is to become of a run is in its row before the kill; else in the supervisor's memory alone."""
    reads_board: bool = True
    """18: a restart, and a rescuer, count what the dead start's board names; else they put back all alike."""
    knows_boot: bool = True
    """18: a board of before the machine went down tells nothing: its last pages may not have reached the disk."""
    lists_until_done: bool = True
    """14: a start stays in the lock file until it is reclaimed; else a restart lists itself alone."""
    sweeps: bool = True
    """15: a restart ends what carries an older start's mark, also without a share of the lock."""
    waits_for_lock: bool = True
    """14, 19: nobody takes over a start while a process of it holds its lock."""
    reads_board_twice: bool = True
    """19: a rescuer makes sure after reading the rows that the board still is that start's."""
    hands_over: bool = True
    """At a reload the old steward only goes; else it leaves the broker, as at a stop."""
    leaves_last: bool = True
    """A stop tells the steward to leave once no child lives and no ticket is open; else at once."""
    clean_if_nobody: bool = True
    """14: a start is struck from the lock file at its stop if no child of it lived; else if no ticket is open."""
    keeps_refused: bool = True
    """A child that stays puts back again what the broker did not answer for; else it forgets it."""
    release_by_fence: bool = True
    """1: what is put back is named by its delivery; else by its task."""


class Budget(NamedTuple):
    """How often each mishap may happen."""

    crashes: int = 0
    stewards: int = 0
    repeats: int = 0
    supervisors: int = 0
    limits: int = 0
    retries: int = 0
    stops: int = 0
    interrupts: int = 0
    kills: int = 0
    rushes: int = 0
    templates: int = 0
    frozen: int = 0
    reloads: int = 0
    quiets: int = 0
    refusals: int = 0
    unlocked: int = 0
    hosts: int = 0


class Child(NamedTuple):
    """A child; what it knows."""

    owner: Owner
    alive: bool = True
    n: int = 0
    held: tuple[Held, ...] = ()
    run: Held | None = None
    done: Held | None = None
    returns: tuple[Held, ...] = ()
    """What it has begun to put back, and does not run any more."""
    retires: bool = False
    former: bool = False
    """Forked by the template of before a reload."""
    killed_for: str = ""
    """Why the supervisor has killed it: limit, stop, template."""
    seen: bool = False
    """The supervisor knows of its death."""
    locks: bool = True
    """It has its share of the node's lock."""

    def __str__(self) -> str:
        return "{}/{}.{}".format(*self.owner)


class Row(NamedTuple):
    """A slot's row on the board."""

    generation: int = 0
    run: Held | None = None
    order: tuple[Held, str] | None = None
    """What the supervisor ordered for which run."""


class Command(NamedTuple):
    """To the steward: bury ``owner``, or reclaim its start (slot and generation 0)."""

    owner: Owner
    ran: Held | None = None
    verdict: str = "none"
    running: Running | None = ()

    def __str__(self) -> str:
        return f"the burial of {Child(self.owner)}" if self.owner[1:] != (-1, -1) else f"the reclaim of {self.owner[0]}"


class World(NamedTuple):
    """Everything."""

    store: Store
    budget: Budget
    start: int = 1
    """The number of the node's present or last start."""
    state: str = "serves"
    """serves, quiet, drains, down."""
    children: tuple[Child, ...] = ()
    orphans: tuple[Child, ...] = ()
    """Children of a supervisor that was killed."""
    generations: tuple[int, ...] = ()
    board: tuple[Row, ...] = ()
    """Of ``start``."""
    rebooted: bool = False
    """The machine has gone down since the board was written."""
    listed: tuple[int, ...] = (1,)
    """The starts in the lock file."""
    tickets: frozenset[Command] = frozenset()
    steward: str = "up"
    """none, up, leaves, goes (hands over), orphan."""
    inbox: frozenset[Command] = frozenset()
    answers: frozenset[Command] = frozenset()
    neighbour: Child | None = None
    rescuing: tuple[int, str, Running | None] | None = None
    """The start whose lock the neighbour saw free, what it does next, and what it read."""


Step = tuple[str, World]


def spend(world: World, mishap: str) -> World:
    """The world with one of these mishaps less to come."""
    return world._replace(budget=world.budget._replace(**{mishap: getattr(world.budget, mishap) - 1}))


# ---- children


def crew(world: World) -> Iterator[tuple[str, int, Child]]:
    """Every living child: where it is kept, its place there, itself."""
    for where in ("children", "orphans"):
        for place, child in enumerate(getattr(world, where)):
            if child.alive:
                yield where, place, child
    if world.neighbour is not None:
        yield "neighbour", 0, world.neighbour


def change(world: World, where: str, place: int, child: Child) -> World:
    """The world with this child changed; its row too, if it has one."""
    if where == "neighbour":
        return world._replace(neighbour=child)
    start, slot, generation = child.owner
    if start == world.start and world.board[slot][:2] == (generation, getattr(world, where)[place].run):
        board = list(world.board)
        board[slot] = board[slot]._replace(run=child.run) if child.alive else board[slot]
        world = world._replace(board=tuple(board))
    crew = list(getattr(world, where))
    crew[place] = child
    return world._replace(**{where: tuple(crew)})


def child_goes_on(rules: Rules, world: World, where: str, place: int, child: Child) -> Iterator[Step]:
    """What a living child does by itself."""
    store = world.store
    leaves = where == "children" and (child.retires or world.state == "drains")
    takes = where != "children" or not (leaves or world.state == "quiet")

    def put(name: str, store: Store = store, **changes: object) -> Step:
        return f"{child} {name}", change(world._replace(store=store), where, place, child._replace(**changes))

    if child.run is not None:
        yield put("ends it", run=None, done=child.run)
    elif child.done is not None:
        if not store.hears(child.owner):
            yield put("is fenced", done=None, held=(), alive=False)
        else:
            yield put("settles", broker.settle(store, child.owner, child.done, retry=False), done=None)
    elif child.returns or not takes:
        yield from child_puts_back(rules, world, where, place, child, leaves=leaves)
    elif child.held:
        check_start(world, child, child.held[0])
        yield put(f"runs {child.held[0].task}", run=child.held[0], held=child.held[1:])
    elif not store.hears(child.owner):
        yield put("is fenced", alive=False)
    else:
        after, batch = broker.reserve(store, child.owner, child.n + 1)
        if batch:
            yield put("reserves", after, n=child.n + 1, held=batch)


def child_puts_back(
    rules: Rules, world: World, where: str, place: int, child: Child, *, leaves: bool
) -> Iterator[Step]:
    """It holds nothing that runs, and is to take nothing more: it gives back what it holds, and goes if told to."""
    batch = (*child.returns, *child.held)
    if batch:
        after = broker.release(world.store, child.owner, batch, fenced=rules.release_by_fence)
        done = child._replace(held=(), returns=())
        yield f"{child} puts back", change(world._replace(store=after), where, place, done)
        if world.budget.refusals:
            undone = done._replace(returns=batch) if rules.keeps_refused else done
            undone = undone._replace(alive=not leaves)
            less = spend(world, "refusals")
            yield f"{child} puts back, refused", change(less, where, place, undone)
            yield f"{child} puts back, unanswered", change(less._replace(store=after), where, place, undone)
    elif leaves:
        yield f"{child} exits", change(world, where, place, child._replace(alive=False))


def check_start(world: World, child: Child, held: Held) -> None:
    """What must hold when a child starts this delivery."""
    task = world.store.tasks[held.task]
    if task.over:
        raise Broken(f"{child} runs task {held.task}, which its hard limit was to end")
    if not world.store.holds(child.owner, held):
        raise Broken(f"{child} runs task {held.task}, which it does not hold")
    for _, _, other in crew(world):
        if other.run is not None and other.run.task == held.task:
            raise Broken(f"{child} runs task {held.task} while {other} does")


def dies(world: World, where: str, place: int, why: str = "") -> World:
    """The world after this child's death. Its run was lost to it unless we killed it; a suspect by its claim alone."""
    child: Child = getattr(world, where)[place]
    store = world.store
    for index, task in enumerate(store.tasks):
        runs = child.run is not None and child.run.task == index and store.holds(child.owner, child.run)
        if runs and why == "limit":
            store = store.put(index, over=True)
        if (runs and not why) or (task.suspect and task.owner == child.owner):
            store = store.put(index, deaths=task.deaths + 1)
    return change(world._replace(store=store), where, place, child._replace(alive=False, killed_for=why))
