"""Our node in the lease model: its supervisor, its steward, its children; and what may befall it."""

from __future__ import annotations

from collections.abc import Iterator

from tests.model.exploration import Broken
from tests.model.lease_world import FENCE, LEASE, NEIGHBOUR, Child, Late, Renewal, Rules, Step, Task, World, spend

STARTS = 4
"""After so many it does not come back."""


def progress(rules: Rules, world: World) -> Iterator[Step]:
    """What it does by itself."""
    node = world.node
    if node.cut:
        yield "the network is whole again", world.with_node(cut=False)
    if node.renewal is not None and not node.renewal.answer and not node.cut:
        after, answer = renewed(rules, world, node.start)
        yield f"the renewal of {node.start} is {answer}", after.with_node(renewal=node.renewal._replace(answer=answer))
    for where in ("child", "orphan"):
        child: Child | None = getattr(node, where)
        if child is not None:
            yield from _server(rules, world, where, child)
            if not node.paused:
                yield from _child(rules, world, where, child)
    if node.paused:
        still = node.paused == "frozen"
        yield f"{node.start} goes on", world.with_node(paused="", back=1, stood_still=still or node.stood_still)
        return
    if node.orphan is not None:
        yield "the orphan dies", _without(world, "orphan")
    if node.state == "serves":
        yield from _supervisor(rules, world)
        yield from _steward(rules, world)
    elif node.state in ("fenced", "down") and not node.cut and node.start < STARTS:
        yield from _started(rules, world)


def mishaps(rules: Rules, world: World) -> Iterator[Step]:
    """What may befall it."""
    node, budget = world.node, world.budget
    if node.state == "lost":
        return
    if budget.cuts and not node.cut:
        yield f"{node.start} is cut off", spend(world, "cuts").with_node(cut=True, excused=True)
    if node.paused:
        return
    for mishap, how in (("stops", "stopped"), ("freezes", "frozen")):
        if getattr(budget, mishap):
            yield f"{node.start} is {how}", _paused(spend(world, mishap), how)
    if budget.lost_hosts:
        after = _without(_without(spend(world, "lost_hosts"), "child"), "orphan")
        yield "the host is lost", after.with_node(state="lost", renewal=None, listed=())
    if node.state == "serves":
        yield from _processes_die(rules, world)
    for where in ("child", "orphan"):
        child: Child | None = getattr(node, where)
        if child is not None:
            yield from _befalls(world, where, child)


def _paused(world: World, how: str) -> World:
    renewal = world.node.renewal
    if renewal is not None and how == "frozen":
        renewal = renewal._replace(before=True)
    return world.with_node(paused=how, excused=True, renewal=renewal)


def _processes_die(rules: Rules, world: World) -> Iterator[Step]:
    node, budget = world.node, world.budget
    if budget.crashes and node.orphan is None:
        after = _renewal_left(spend(world, "crashes"))
        orphan = node.child
        if orphan is not None and not rules.shares_lock:
            orphan = orphan._replace(locks=False)
        yield (
            "the supervisor is killed",
            after.with_node(state="down", child=None, orphan=orphan, orphan_age=node.age, steward="up"),
        )
    if node.steward == "up":
        if budget.hangs:
            yield "the steward hangs", _renewal_left(spend(world, "hangs")).with_node(steward="hung")
        if budget.steward_deaths:
            state = "up" if rules.at_once else "waits"
            yield "the steward dies", _renewal_left(spend(world, "steward_deaths")).with_node(steward=state, waited=0)


def _befalls(world: World, where: str, child: Child) -> Iterator[Step]:
    budget = world.budget
    if budget.unlocked and child.locks and child.phase == "runs":
        lost = child._replace(locks=False, unlocked_in=child.n)
        yield f"{child} loses its lock", spend(world, "unlocked").with_node(**{where: lost})
    if budget.unmarked and child.marked and child.phase == "runs":
        unmarked = child._replace(marked=False)
        yield f"{child} loses its mark", spend(world, "unmarked").with_node(**{where: unmarked})
    if budget.unkillable and child.killable:
        stuck = child._replace(killable=False)
        yield f"{child} cannot be ended", spend(world, "unkillable").with_node(**{where: stuck})


# ---- what the broker does


def hears(rules: Rules, world: World, start: int) -> bool:
    """Whether what this start says has any effect."""
    if not rules.owner_is_start and any(other != NEIGHBOUR for other in world.registered):
        return True
    return start in world.registered or not rules.bars


def renewed(rules: Rules, world: World, start: int) -> tuple[World, str]:
    """The world after a renewal, and its answer."""
    if start not in world.registered:
        if rules.renew_never_joins:
            return world, "refused"
        world = world._replace(registered=world.registered | {start})
    watch = world.watch
    if watch is not None and watch.start == start:
        world = world._replace(watch=watch._replace(moved=1 if rules.never_wraps else 1 - watch.moved))
    return world, "kept"


def given_back(world: World, start: int) -> World:
    """The start is barred, and what it held is queued."""
    for index, task in enumerate(world.tasks):
        if task.at == "held" and task.start == start:
            world = world.put(index, Task())
    return world._replace(registered=world.registered - {start}, evicted=world.evicted - {start})


def _server(rules: Rules, world: World, where: str, child: Child) -> Iterator[Step]:
    """The broker does what a child asked for."""
    if world.node.cut or child.phase not in ("asks", "settles"):
        return
    if not hears(rules, world, child.start):
        yield f"{child} is refused", world.with_node(**{where: child._replace(phase="refused")})
    elif child.phase == "settles":
        after = world.put(child.task, Task("ended")) if world.holds(child) else world
        yield f"{child} has settled", after.with_node(**{where: child._replace(phase="idle", task=-1)})
    elif (index := world.waiting) is None:
        yield f"{child} gets nothing", world.with_node(**{where: child._replace(phase="idle")})
    else:
        after = world.put(index, Task("held", child.start, child.n))
        yield f"{child} is given {index}", after.with_node(**{where: child._replace(phase="given", task=index)})


# ---- children


def _child(rules: Rules, world: World, where: str, child: Child) -> Iterator[Step]:
    node = world.node
    if child.phase == "idle":
        yield from _is_idle(rules, world, where, child)
    elif child.phase == "given":
        age = node.age if where == "child" else node.orphan_age
        if rules.cell_checked and age >= FENCE:
            if where == "orphan":
                yield f"{child} leaves: its lease is over", _without(world, where)
            return
        _check_start(world, child)
        yield f"{child} starts {child.task}", world.with_node(**{where: child._replace(phase="runs")})
    elif child.phase == "runs":
        yield f"{child} ends {child.task}", world.with_node(**{where: child._replace(phase="settles")})
    elif child.phase == "refused":
        if where == "orphan":
            yield f"{child} leaves: it is refused", _without(world, where)
        elif rules.kills_refused:
            yield f"{child} is refused: fenced", _fenced(world)
        elif child.task >= 0:
            yield f"{child} is refused, and goes on", world.with_node(child=Child(child.start, n=child.n))


def _is_idle(rules: Rules, world: World, where: str, child: Child) -> Iterator[Step]:
    """After its audit it asks for more, or leaves and is followed by another one."""
    if not child.locks and rules.checks_lock and child.unlocked_in:
        follower = Child(child.start, n=child.n) if where == "child" else None
        yield f"{child} leaves: it has lost its lock", world.with_node(**{where: follower})
    elif world.waiting is not None:
        yield f"{child} asks", world.with_node(**{where: child._replace(phase="asks", n=child.n + 1)})


def _check_start(world: World, child: Child) -> None:
    """What must hold when a child of ours starts what it was given."""
    node = world.node
    if node.back and node.stood_still:
        return
    if not world.holds(child):
        raise Broken(f"{child} runs task {child.task}, which it does not hold")
    if world.runs == child.task:
        raise Broken(f"{child} runs task {child.task} while the neighbour does")


def _without(world: World, where: str) -> World:
    """The world after this child's death: what it sent may still be done."""
    child: Child | None = getattr(world.node, where)
    if child is not None and child.phase in ("asks", "settles"):
        late = Late(child.phase, child.start, child.task, child.n)
        world = world._replace(late=(*world.late, late))
    return world.with_node(**{where: None})


# ---- the supervisor


def _supervisor(rules: Rules, world: World) -> Iterator[Step]:
    node = world.node
    if node.age >= (FENCE if rules.fences_early else LEASE):
        if not node.excused:
            raise Broken(f"{node.start} fences itself, and nothing but itself kept it from renewing")
        yield f"{node.start} fences itself", _fenced(world)
    if node.steward == "hung" and rules.condemns and rules.no_user_code:
        yield "the steward is replaced", world.with_node(steward="up")
    if node.steward == "waits" and node.waited >= FENCE:
        yield "the steward is started again", world.with_node(steward="up")
    if node.child is None:
        yield "a child is born", world.with_node(child=Child(node.start))


def _fenced(world: World) -> World:
    after = _renewal_left(_without(world, "child"))
    return after.with_node(state="fenced", back=0, stood_still=False, steward="up")


def _started(rules: Rules, world: World) -> Iterator[Step]:
    """The supervisor is started again, or begins anew after it has fenced: it sweeps and joins, and reclaims later."""
    node, orphan = world.node, world.node.orphan
    if orphan is not None and _seen(rules, orphan) and orphan.killable:
        world = _without(world, "orphan")
    start = node.start + 1
    after = world._replace(registered=world.registered | {start}).with_node(
        state="serves", start=start, age=0, back=0, stood_still=False, excused=False, child=Child(start),
        renewal=None, listed=(*node.listed, start),
    )  # fmt: skip
    yield f"it is started as {start}", after


# ---- the steward


def _steward(rules: Rules, world: World) -> Iterator[Step]:
    node = world.node
    if node.steward != "up":
        return
    renewal = node.renewal
    if renewal is None and node.age > 0:
        yield f"{node.start} renews", world.with_node(renewal=Renewal())
    if node.cut:
        return
    if renewal is not None and renewal.answer == "kept":
        yield f"{node.start} is renewed", _kept(rules, world, renewal)
    if renewal is not None and renewal.answer == "refused":
        if rules.kills_refused:
            yield f"{node.start} is refused: fenced", _fenced(world)
        else:
            yield f"{node.start} is refused", world.with_node(renewal=renewal._replace(answer="ignored"))
    yield from _reclaims(rules, world)


def _kept(rules: Rules, world: World, renewal: Renewal) -> World:
    node = world.node
    age = renewal.ticks if rules.from_sending else 0
    current = age < FENCE and not renewal.before
    return world.with_node(
        renewal=None, age=age, excused=node.excused and (node.cut or not current), back=0 if current else node.back,
        stood_still=node.stood_still and not current,
    )  # fmt: skip


def _renewal_left(world: World) -> World:
    """Whoever sent the renewal will not read its answer; it may still come to the broker."""
    node = world.node
    if node.renewal is not None and not node.renewal.answer:
        world = world._replace(late=(*world.late, Late("renews", node.start)))
    return world.with_node(renewal=None)


def former(rules: Rules, world: World) -> list[int]:
    """The starts that our node takes for its own, dead ones, and may give back."""
    node, orphan = world.node, world.node.orphan
    starts = [start for start in node.listed if start != node.start]
    if not rules.reclaims_own and world.namesake:
        starts = sorted(world.registered - {node.start})
    if orphan is not None and _seen(rules, orphan) and rules.waits_instead:
        starts = [start for start in starts if start != orphan.start]
    return starts


def _reclaims(rules: Rules, world: World) -> Iterator[Step]:
    node, orphan = world.node, world.node.orphan
    for start in former(rules, world) if rules.reclaims else ():
        lives = orphan is not None and orphan.start == start
        if lives and orphan is not None and not _hidden(orphan):
            raise Broken(f"{start} is reclaimed while {orphan} lives")
        if start == NEIGHBOUR:
            raise Broken("the neighbour is reclaimed while it lives")
        listed = tuple(other for other in node.listed if other != start)
        yield f"{start} is reclaimed", given_back(world, start).with_node(listed=listed)


def _hidden(orphan: Child) -> bool:
    """Whether nothing shows it, since the delivery that it still has: that much is admitted."""
    return not orphan.marked and orphan.unlocked_in > 0 and orphan.unlocked_in == orphan.n


def _seen(rules: Rules, orphan: Child) -> bool:
    """Whether a restart finds this process."""
    return (orphan.locks and rules.sweeps_holders) or (orphan.marked and rules.sweeps_marks)
