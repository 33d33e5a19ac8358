"""Two nodes and one broker: leases, cuts, pauses, crashes and restarts; who may do what next.

    our node    steward ──renew──▶ broker ──kept│refused──▶ the age of the lease ◀── each child, before a start
                age ≥ 2/3, or refused: fenced, its child is killed; a new start when the broker is there
                supervisor killed: the child is an orphan; restart: sweep ──▶ join ──▶ reclaim what the lock file lists
    neighbour   look at a beat ──a full lease──▶ compare, bar, requeue;   takes what is queued

Explored by test_lease_model.py. A request that is on its way when its sender dies may still be done. What hangs on no
other event is prompt: no tick passes while a renewal that could be answered is not, or a node that is to fence has not.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.model import lease_node
from tests.model.exploration import Broken
from tests.model.lease_world import FENCE, LEASE, NEIGHBOUR, Late, Rules, Step, Task, Watch, World, spend


def progress(rules: Rules, world: World) -> Iterator[Step]:
    """What happens by itself."""
    if not _urgent(rules, world):
        yield "tick", _tick(rules, world)
    yield from lease_node.progress(rules, world)
    yield from _neighbour(world)
    yield from _rescuer(rules, world)
    yield from _late(rules, world)


def mishaps(rules: Rules, world: World) -> Iterator[Step]:
    """What may happen besides."""
    yield from lease_node.mishaps(rules, world)
    budget, node = world.budget, world.node
    if budget.rescuer_stops and not world.rescuer_stopped:
        yield "the rescuer is paused", spend(world, "rescuer_stops")._replace(rescuer_stopped=True)
    if budget.jumps:
        yield "the server's clock jumps", spend(world, "jumps")._replace(jumped=True)
    if budget.evictions and node.start in world.registered:
        after = spend(world, "evictions")._replace(
            registered=world.registered - {node.start}, evicted=world.evicted | {node.start}
        )
        yield f"the lease of {node.start} is deleted", after.with_node(excused=True)


# ---- time


def _urgent(rules: Rules, world: World) -> bool:
    """Whether something is under way that takes less than a tick."""
    node = world.node
    if node.state == "lost" or node.paused:
        return False
    if node.orphan is not None and not world.lingers:
        return True
    if node.state != "serves":
        return False
    return node.age >= (FENCE if rules.fences_early else LEASE) or _steward_is_busy(rules, world)


def _steward_is_busy(rules: Rules, world: World) -> bool:
    node = world.node
    if node.steward == "hung":
        return rules.condemns and rules.no_user_code
    if node.steward == "waits" or node.cut:
        return False
    if rules.reclaims and lease_node.former(rules, world):
        return True
    return node.age > 0 if node.renewal is None else node.renewal.answer != "ignored"


def _tick(rules: Rules, world: World) -> World:
    node = world.node
    _check_tick(rules, world)
    if node.state != "lost":
        clock = node.paused != "frozen"
        oldest = LEASE if rules.fences_early else LEASE + 1
        renewal = node.renewal
        if renewal is not None:
            renewal = renewal._replace(ticks=min(oldest, renewal.ticks + clock))
        node = node._replace(
            age=min(oldest, node.age + clock), orphan_age=min(LEASE, node.orphan_age + clock), renewal=renewal,
            back=min(2, node.back + 1) if node.back and not node.cut else node.back,
            waited=min(FENCE, node.waited + (node.steward == "waits")),
        )  # fmt: skip
    watch = world.watch
    if watch is not None:
        watch = watch._replace(ticks=min(LEASE, watch.ticks + 1))
    return world._replace(node=node, watch=watch)


def _check_tick(rules: Rules, world: World) -> None:
    """What must hold whenever some time has passed."""
    node = world.node
    child = node.child
    if node.paused:
        return
    if child is not None and child.phase == "runs" and not world.holds(child):
        untold = node.back == 1 or (node.cut and node.back and node.stood_still)
        if not untold:
            raise Broken(f"{child} still runs task {child.task}, which it does not hold")
    if node.state == "serves" and node.steward == "up" and not node.cut:
        for start in lease_node.former(rules, world):
            if any(task.at == "held" and task.start == start for task in world.tasks):
                raise Broken(f"what {start} holds waits for the lease although its node is back")


# ---- the neighbour


def _neighbour(world: World) -> Iterator[Step]:
    index = world.waiting
    if world.runs >= 0:
        after = world._replace(runs=-1)
        if world.tasks[world.runs] == Task("held", NEIGHBOUR):
            after = after.put(world.runs, Task("ended"))
        yield f"the neighbour ends {world.runs}", after
    elif index is not None:
        node = world.node
        for child in (node.child, None if world.lingers else node.orphan):
            runs_here = child is not None and child.phase == "runs" and child.task == index
            if runs_here and not (node.paused or node.back):
                raise Broken(f"the neighbour runs task {index} while {child} does")
        yield f"the neighbour starts {index}", world.put(index, Task("held", NEIGHBOUR))._replace(runs=index)


def _rescuer(rules: Rules, world: World) -> Iterator[Step]:
    if world.rescuer_stopped:
        yield "the rescuer goes on", world._replace(rescuer_stopped=False)
        return
    seen = set(world.registered)
    if rules.scans_held:
        seen |= {task.start for task in world.tasks if task.at == "held"}
    for start in sorted(seen - {NEIGHBOUR}):
        if not rules.own_clock:
            if world.jumped:
                yield f"{start} is rescued by the server's clock", _rescued(world, start)
        elif not rules.compares_beat:
            yield from _rescuer_decides_first(world, start)
        elif world.watch is None or world.watch.start != start or world.watch.moved:
            yield f"the rescuer looks at {start}", world._replace(watch=Watch(start))
        elif world.watch.ticks >= (LEASE if rules.full_lease else 1):
            yield f"{start} is rescued", _rescued(world._replace(watch=None), start)


def _rescuer_decides_first(world: World, start: int) -> Iterator[Step]:
    """It reads the beat again, and acts on what it read, however long ago that was."""
    watch = world.watch
    if world.decided == start:
        if watch is not None and watch.ticks >= LEASE:
            yield f"{start} is rescued", _rescued(world._replace(watch=None, decided=None), start)
    elif watch is None or watch.start != start or watch.moved:
        yield f"the rescuer looks at {start}", world._replace(watch=Watch(start))
    elif watch.ticks:
        yield f"the rescuer reads the same beat of {start}", world._replace(decided=start)


def _rescued(world: World, start: int) -> World:
    """The beat was the same: bar the start, put back what it holds."""
    node = world.node
    if start == node.start and node.state == "serves" and not (node.excused or node.paused):
        raise Broken(f"{start} is rescued although it can renew")
    return lease_node.given_back(world, start)


# ---- requests of the dead


def _late(rules: Rules, world: World) -> Iterator[Step]:
    for place, late in enumerate(world.late):
        rest = world._replace(late=world.late[:place] + world.late[place + 1 :])
        yield f"{late.start} {late.kind}, late", _done_late(rules, rest, late)
        yield f"what {late.start} sent is lost", rest


def _done_late(rules: Rules, world: World, late: Late) -> World:
    if late.kind == "renews":
        return lease_node.renewed(rules, world, late.start)[0]
    if not lease_node.hears(rules, world, late.start):
        return world
    if late.kind == "asks":
        index = world.waiting
        return world if index is None else world.put(index, Task("held", late.start, late.n))
    held = world.tasks[late.task] == Task("held", late.start, late.n)
    return world.put(late.task, Task("ended")) if held else world
