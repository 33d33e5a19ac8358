"""One node on a shared SQLite file, and its neighbour: who may do what next. Explored by test_node_model.py.

    supervisor  sees a death ──ticket──▶ steward ──▶ broker ──▶ answer ──▶ the slot is free
                SIGKILLed at any point; started again: sweep ──▶ board ──Reclaim of each start that the lock file lists
    neighbour   sees the lock free ──▶ reads the board ──▶ rescue

``progress`` is what happens by itself, ``mishaps`` what may happen besides, each as often as the budget says. The
processes of a killed supervisor live on for any time, as orphans: whether its template died with it or ends them a
moment later makes no difference.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.model import delivery_store as broker
from tests.model.delivery_store import Running
from tests.model.node_world import (
    Child,
    Command,
    Row,
    Rules,
    Step,
    World,
    change,
    child_goes_on,
    crew,
    dies,
    spend,
)

WHOLE_START = (-1, -1)
"""Slot and generation of a command that is about a whole start."""


def progress(rules: Rules, world: World) -> Iterator[Step]:
    """What happens by itself."""
    for where, place, child in crew(world):
        yield from child_goes_on(rules, world, where, place, child)
    if world.state == "down":
        yield from _start_again(rules, world)
    else:
        yield from _supervisor(rules, world)
    if world.steward != "none":
        yield from _steward(rules, world)
    if world.neighbour is not None:
        yield from _rescuer(rules, world)


def mishaps(rules: Rules, world: World) -> Iterator[Step]:
    """What may happen besides."""
    budget = world.budget
    for where, place, child in crew(world):
        if budget.retries and child.done is not None and world.store.hears(child.owner):
            store = broker.settle(world.store, child.owner, child.done, retry=True)
            after = change(spend(world, "retries")._replace(store=store), where, place, child._replace(done=None))
            yield f"{child} settles a retry", after
        if where != "neighbour":
            yield from _befalls(rules, world, where, place, child)
    if world.steward in ("up", "leaves", "goes") and budget.stewards:
        yield "the steward dies", _without_steward(spend(world, "stewards"))
    if world.state != "down":
        if budget.supervisors:
            yield "the supervisor is killed", _killed(spend(world, "supervisors"))
        yield from _ordered(rules, world)


# ---- the supervisor


def _supervisor(rules: Rules, world: World) -> Iterator[Step]:
    for place, child in enumerate(world.children):
        if not child.alive and not child.seen:
            yield f"the death of {child} is seen", _seen(rules, world, place)
    if world.steward == "up" and not world.tickets <= world.inbox | world.answers:
        yield "the tickets are sent", _sent(rules, world, world.tickets - world.answers)
    for answer in world.answers:
        yield f"{answer} is answered", _answered(rules, world, answer)
    if world.state == "quiet":
        yield "it resumes", world._replace(state="serves")
    if world.state == "drains":
        yield from _stopping(rules, world)
        return
    if world.steward == "none" and world.start not in world.store.gone:
        yield "a steward joins", world._replace(steward="up")
    if not any(child.alive and not child.retires for child in world.children):
        yield _spawned(rules, world)


def _spawned(rules: Rules, world: World) -> Step:
    used = {child.owner[1] for child in world.children}
    slot = next(slot for slot in range(len(used) + 1) if slot not in used)
    if slot == len(world.generations):
        world = world._replace(generations=(*world.generations, 0), board=(*world.board, Row()))
    generation = world.generations[slot] + 1
    if not rules.new_generation:
        generation = 1
        store = world.store._replace(barred=world.store.barred - {(world.start, slot, generation)})
        world = world._replace(store=store)
    child = Child((world.start, slot, generation))
    generations = (*world.generations[:slot], generation, *world.generations[slot + 1 :])
    board = (*world.board[:slot], Row(generation), *world.board[slot + 1 :])
    children = tuple(sorted((*world.children, child)))
    return f"{child} is born", world._replace(children=children, generations=generations, board=board)


def _seen(rules: Rules, world: World, place: int) -> World:
    """The supervisor learns of a death: by the row and what it ordered it makes a ticket."""
    child = world.children[place]
    row = world.board[child.owner[1]]
    ran = row.run if row.generation == child.owner[2] else None
    verdict = _verdict_on(rules, child.killed_for)
    command = Command(child.owner, ran, verdict if ran is not None else "none")
    children = list(world.children)
    if rules.keeps_slot:
        children[place] = child._replace(seen=True)
    else:
        del children[place]
    return world._replace(children=tuple(children), tickets=world.tickets | {command})


def _answered(rules: Rules, world: World, answer: Command) -> World:
    after = world._replace(answers=world.answers - {answer}, tickets=world.tickets - {answer})
    if answer.owner[1:] == WHOLE_START:
        return after._replace(listed=tuple(start for start in world.listed if start != answer.owner[0]))
    left = (child for child in world.children if child.alive or child.owner != answer.owner)
    return after._replace(children=tuple(left))


def _sent(rules: Rules, world: World, tickets: frozenset[Command]) -> World:
    after = world._replace(inbox=world.inbox | tickets)
    if rules.keeps_tickets:
        return after
    children = tuple(child for child in world.children if child.alive or not child.seen)
    return after._replace(tickets=frozenset(), children=children)


def _stopping(rules: Rules, world: World) -> Iterator[Step]:
    """No child is started any more; when none is left, and nothing to be settled, the steward leaves."""
    busy = world.children or world.tickets
    if world.steward == "up" and not (busy and rules.leaves_last):
        yield "the steward is to leave", world._replace(steward="leaves")
    if world.steward == "none" and world.tickets and world.start not in world.store.gone:
        yield "a steward joins", world._replace(steward="up")
    gave_up = world.start in world.store.gone and not any(child.alive for child in world.children)
    if world.steward == "none" and (not busy or gave_up):
        yield "it has stopped", _down(rules, world)


def _down(rules: Rules, world: World) -> World:
    """The supervisor ends, and whatever lives of the node with it."""
    nobody = not any(child.alive for child in world.children) or not rules.clean_if_nobody
    unseen = any(not child.alive and not child.seen for child in world.children)
    clean = nobody and not unseen and not world.tickets and world.steward == "none"
    for place, child in enumerate(world.children):
        if child.alive:
            world = _killed_by_order(rules, world, place, "stop")
    listed = tuple(start for start in world.listed if not clean or start != world.start)
    return _forgets(world)._replace(state="down", steward="none", inbox=frozenset(), listed=listed)


def _forgets(world: World) -> World:
    """What only a supervisor knew is gone."""
    nothing: frozenset[Command] = frozenset()
    return world._replace(children=(), generations=(), tickets=nothing, answers=nothing)


def _killed(world: World) -> World:
    orphans = tuple(child for child in world.children if child.alive)
    steward = "none" if world.steward == "none" else "orphan"
    return _forgets(world)._replace(state="down", orphans=orphans, steward=steward)


def _killed_by_order(rules: Rules, world: World, place: int, why: str) -> World:
    child = world.children[place]
    if rules.orders_on_board and child.run is not None:
        board = list(world.board)
        slot = child.owner[1]
        board[slot] = board[slot]._replace(order=(child.run, _verdict_on(rules, why)))
        world = world._replace(board=tuple(board))
    return dies(world, "children", place, why)


def _verdict_on(rules: Rules, why: str) -> str:
    """What becomes of a run whose child was killed for this."""
    if why == "limit":
        return "failed"
    uncounted = {"stop": rules.orders_uncounted, "template": rules.templates_uncounted}
    return "none" if uncounted.get(why) else "lost"


def _start_again(rules: Rules, world: World) -> Iterator[Step]:
    """The node's name is started again: it ends who holds the lock, and reclaims what the lock file lists."""
    holders = world.steward == "orphan" or any(child.locks for child in world.orphans if child.alive)
    if holders and rules.waits_for_lock and not rules.sweeps:
        return
    running = None if world.rebooted and rules.knows_boot else _named(world, rules)
    tickets = frozenset(
        Command((each, *WHOLE_START), running=running if each == world.start else None) for each in world.listed
    )
    after = _took_over(rules, world)
    former = world.listed if rules.lists_until_done else ()
    yield (
        f"it is started again as {after.start}",
        after._replace(state="serves", listed=(*former, after.start), tickets=tickets),
    )
    if world.budget.supervisors:
        yield "it is started again, and killed before it has listed itself", spend(after, "supervisors")


def _took_over(rules: Rules, world: World) -> World:
    """Who was left is dead, and the board is new."""
    if rules.sweeps:
        for place, child in enumerate(world.orphans):
            if child.alive:
                world = dies(world, "orphans", place)
    orphans = tuple(child for child in world.orphans if child.alive)
    return _without_steward(world)._replace(start=world.start + 1, board=(), rebooted=False, orphans=orphans)


def _named(world: World, rules: Rules) -> Running:
    """What the board names of the start it belongs to."""
    if not rules.reads_board:
        return ()
    found = []
    for slot, row in enumerate(world.board):
        if row.run is not None:
            verdict = row.order[1] if row.order is not None and row.order[0] == row.run else "lost"
            found.append(((world.start, slot, row.generation), row.run, verdict))
    return tuple(found)


# ---- the steward


def _steward(rules: Rules, world: World) -> Iterator[Step]:
    if world.steward == "orphan":
        yield "the old steward ends", _without_steward(world)
    if world.steward == "goes":
        yield "the steward has gone", _without_steward(world)
        return
    for command in world.inbox:
        after = _done(rules, world._replace(inbox=world.inbox - {command}), command)
        if world.steward != "orphan":
            yield f"the steward does {command}", after._replace(answers=world.answers | {command})
        if world.steward == "orphan":
            yield f"the old steward does {command}", after
        elif world.budget.stewards:
            yield f"the steward does {command} and dies", _without_steward(spend(after, "stewards"))
    if world.steward == "leaves" and not world.inbox:
        left = world._replace(store=broker.rescue(world.store, world.start, ()))
        yield "the steward leaves", _without_steward(left)


def _done(rules: Rules, world: World, command: Command) -> World:
    if command.owner[1:] == WHOLE_START:
        return world._replace(store=broker.rescue(world.store, command.owner[0], command.running))
    fenced = rules.verdict_by_fence
    return world._replace(store=broker.bury(world.store, command.owner, command.ran, command.verdict, fenced=fenced))


def _without_steward(world: World) -> World:
    return world._replace(steward="none", inbox=frozenset())


# ---- the neighbour


def _rescuer(rules: Rules, world: World) -> Iterator[Step]:
    if world.rescuing is None:
        for start in range(1, world.start + 1):
            if start not in world.store.gone and (_lock_is_free(world) or not rules.waits_for_lock):
                yield f"the neighbour sees that {start} is dead", world._replace(rescuing=(start, "look", None))
        return
    start, then, running = world.rescuing
    if then == "look":
        same = start == world.start
        yield "it looks at the board", world._replace(rescuing=(start, "read" if same else "rescue", None))
    elif then == "read":
        same = start == world.start
        read = _named(world, rules) if same else None if rules.reads_board_twice else ()
        yield "it reads the board", world._replace(rescuing=(start, "rescue", read))
    else:
        store = broker.rescue(world.store, start, running)
        yield f"it rescues {start}", world._replace(store=store, rescuing=None)


def _lock_is_free(world: World) -> bool:
    return world.state == "down" and world.steward == "none" and not any(child.alive for child in world.orphans)


# ---- mishaps


def _befalls(rules: Rules, world: World, where: str, place: int, child: Child) -> Iterator[Step]:
    """What may happen to a living child of ours."""
    budget = world.budget
    if where == "orphans":
        yield f"{child} dies", dies(world, where, place)
        return
    if budget.crashes:
        yield f"{child} is killed", dies(spend(world, "crashes"), where, place)
    if budget.unlocked and child.locks:
        yield f"{child} closes its lock", change(spend(world, "unlocked"), where, place, child._replace(locks=False))
    if child.run is None:
        return
    if budget.limits:
        yield f"{child} is over its hard limit", _killed_by_order(rules, spend(world, "limits"), place, "limit")
    if world.state == "drains":
        if budget.interrupts:
            back = child._replace(held=(child.run, *child.held), run=None)
            yield f"{child} is interrupted", change(spend(world, "interrupts"), where, place, back)
        if budget.kills:
            yield f"{child}'s grace is over", _killed_by_order(rules, spend(world, "kills"), place, "stop")


def _ordered(rules: Rules, world: World) -> Iterator[Step]:
    """What may befall a node, or be asked of it."""
    budget = world.budget
    if budget.repeats and world.steward == "up" and world.tickets & world.answers:
        yield "the tickets are sent again", _sent(rules, spend(world, "repeats"), world.tickets)
    serves = world.state in ("serves", "quiet")
    if serves and budget.stops:
        yield "it is to stop", spend(world, "stops")._replace(state="drains")
    if serves and budget.quiets and world.state == "serves":
        yield "it is to be quiet", spend(world, "quiets")._replace(state="quiet")
    if serves and budget.reloads:
        yield "it is to reload", _reloaded(rules, spend(world, "reloads"))
    if world.state == "drains" and budget.rushes and not any(child.alive for child in world.children):
        yield "the stop takes too long", _down(rules, spend(world, "rushes"))
    if budget.hosts:
        yield from _host_goes_down(spend(world, "hosts"))
    if budget.templates:
        yield "the template is killed", _template_lost(rules, spend(world, "templates"), "")
    if budget.frozen:
        yield "the template stands still and is killed", _template_lost(rules, spend(world, "frozen"), "template")


def _reloaded(rules: Rules, world: World) -> World:
    children = tuple(child._replace(retires=True, former=True) for child in world.children)
    steward = world.steward if world.steward != "up" else "goes" if rules.hands_over else "leaves"
    return world._replace(children=children, steward=steward)


def _template_lost(rules: Rules, world: World, why: str) -> World:
    """Its children and the steward die, and the supervisor sees it; a node that stops does not wait for another one."""
    for place, child in enumerate(world.children):
        if child.alive and not child.former:
            world = _killed_by_order(rules, world, place, why) if why else dies(world, "children", place)
    if world.steward != "goes":
        world = _without_steward(world)
    return _down(rules, _all_seen(rules, world)) if world.state == "drains" else world


def _host_goes_down(world: World) -> Iterator[Step]:
    """Everybody dies; of the board, what was written last is on the disk or not."""
    for place, child in enumerate(world.children):
        if child.alive:
            world = dies(world, "children", place)
    after = _without_steward(_forgets(world._replace(state="down", rebooted=True)))
    yield "the machine goes down", after
    unwritten = after._replace(board=tuple(Row(row.generation) for row in world.board))
    yield "the machine goes down before it has written the board", unwritten


def _all_seen(rules: Rules, world: World) -> World:
    for place in reversed(range(len(world.children))):
        if not world.children[place].alive and not world.children[place].seen:
            world = _seen(rules, world, place)
    return world
