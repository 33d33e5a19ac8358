"""A child with its requests in a pipe, and those who take its work away: who may do what next.

    child       submit(outcomes, reserve n) ══pipe══▶ server ──answers──▶ publish RUN(d) ──▶ read the mark ──▶ run
                connection lost: resume ──▶ send again what is still held, put back what it will not run
    supervisor  child runs long: mark (d, n) in its row ──▶ Recall;   child dies: its row ──▶ Bury
    steward     does them, each any number of times, some late;   each tick: bury what is dead and heard
    server      may lose what it has not saved

Explored by test_recall_model.py. The other child stands for every other consumer.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.model import recall_store as broker
from tests.model.exploration import Broken
from tests.model.recall_store import BATCH, OTHER, Bury, Given, Owner, Recall, Store, Submit, Task
from tests.model.recall_world import Child, Rules, Step, World, spend

PIPELINE = 2
"""Submits without an answer."""


def progress(rules: Rules, world: World) -> Iterator[Step]:
    """What happens by itself."""
    if world.child.alive:
        yield from _child(rules, world, world.child)
    else:
        yield f"{world.child} is followed", _born(world)
    yield from _server(rules, world)
    if not world.alone:
        yield from _other(world)
    yield from _steward(rules, world)


def mishaps(rules: Rules, world: World) -> Iterator[Step]:
    """What may happen besides."""
    budget, child = world.budget, world.child
    if child.alive:
        yield from _befalls(rules, world, child)
    if budget.stewards:
        for ticket in sorted(world.tickets, key=str):
            yield from _steward_dies(rules, spend(world, "stewards"), ticket)
    if budget.rollbacks and world.store != world.saved:
        if budget.saves:
            saved = spend(world, "saves")._replace(saved=world.store, child=child._replace(recent=()))
            yield "the server saves", saved
        yield "the server starts again with what it saved", _rolled_back(rules, spend(world, "rollbacks"))
    if not rules.child_reconciles:
        yield from _steward_reconciles(world)


def _befalls(rules: Rules, world: World, child: Child) -> Iterator[Step]:
    """What may happen to a living child."""
    budget = world.budget
    if budget.crashes:
        yield f"{child} is killed", _dies(spend(world, "crashes"), verdict="requeue")
    if budget.resets and (child.pipe or child.answers):
        yield f"{child} loses its connection", _disconnected(rules, spend(world, "resets"), in_server=True)
    if child.word is None:
        return
    if budget.limits:
        yield f"{child} is over its hard limit", _limited(spend(world, "limits"))
    if budget.recalls and _may_mark(rules, child):
        yield f"{child} runs long: mark {child.word} {child.row_n}", _marked(spend(world, "recalls"))


# ---- the child: one thread, so it reads and sends between two runs only


def _child(rules: Rules, world: World, child: Child) -> Iterator[Step]:
    if child.run is not None:
        yield from _runs(rules, world, child)
    elif child.reset and rules.resumes:
        yield f"{child} resumes", _resumed(rules, world, child)
    elif child.returns:
        store = broker.put_back(world.store, child.generation, child.returns)
        yield f"{child} puts back {child.returns}", world._replace(store=store, child=child._replace(returns=()))
    else:
        if child.answers:
            yield f"{child} reads an answer", _answered(rules, world, child)
        if len(child.pipe) + len(child.answers) < PIPELINE and (
            child.unsent or (world.store.waits and not child.local)
        ):
            yield f"{child} submits {child.n + 1}", world._replace(child=_submitted(rules, child))
        if child.local and (len(child.unanswered) < BATCH or not rules.waits_for_answers):
            yield from _takes_up(rules, world, child)


def _takes_up(rules: Rules, world: World, child: Child) -> Iterator[Step]:
    given, local = child.local[0], child.local[1:]
    if rules.word_moves:
        ready = child._replace(local=local, run=given, phase="published", word=given[0])
        yield f"{child} publishes {given}", world._replace(child=ready)
    elif child.covered(given[0]):
        yield f"{child} gives up {given}", world._replace(child=child._replace(local=local))
    else:
        ready = child._replace(local=local, run=given, phase="checked")
        yield f"{child} has read no mark for {given}", world._replace(child=ready)


def _runs(rules: Rules, world: World, child: Child) -> Iterator[Step]:
    assert child.run is not None
    if child.phase == "runs":
        yield f"{child} ends {child.run}", world._replace(child=_ended(rules, child, child.run))
    elif child.phase == "published" and child.covered(child.run[0]):
        yield f"{child} gives up {child.run}", world._replace(child=child._replace(run=None, phase="", word=None))
    else:
        _check_start(world, child, child.run)
        started = child._replace(phase="runs", word=child.run[0])
        yield f"{child} starts {child.run}", world._replace(child=started)


def _ended(rules: Rules, child: Child, run: Given) -> Child:
    leaves = rules.word_moves and rules.commit_is_short
    return child._replace(
        run=None, phase="", word=None if leaves else run[0], unsent=(*child.unsent, run),
        finished=tuple(sorted((*child.finished, run))),
    )  # fmt: skip


def _submitted(rules: Rules, child: Child) -> Child:
    n = child.n + 1
    request = Submit(child.epoch, n, child.unsent)
    return child._replace(n=n, row_n=n if rules.row_first else child.row_n, unsent=(), pipe=(*child.pipe, request))


def _answered(rules: Rules, world: World, child: Child) -> World:
    answer = child.answers[0]
    if answer.fenced:
        return _dies(world, verdict="requeue")
    done = answer.asked.outcomes
    answers_word = not rules.commit_is_short and child.word in {fence for fence, _ in done}
    recent = _recent(rules, world, done)
    return world._replace(
        child=child._replace(
            answers=child.answers[1:], local=(*child.local, *answer.given), recent=recent,
            word=None if answers_word else child.word, row_n=max(child.row_n, answer.asked.n),
        )
    )  # fmt: skip


def _resumed(rules: Rules, world: World, child: Child) -> World:
    """It bars its older connections, and makes up its mind about each delivery that it holds."""
    if world.store.owner(child.generation) is None:
        return _dies(world, verdict="requeue")
    store = broker.resume(world.store, child.generation)
    owner = store.owner(child.generation)
    assert owner is not None
    held = store.held(child.generation)
    fences = {fence for fence, _ in held}
    unsent = tuple(given for given in sorted({*child.unsent, *child.recent}) if given[0] in fences)
    local = tuple(given for given in child.local if given[0] in fences)
    known = {fence for fence, _ in (*unsent, *local)}
    unknown = tuple(given for given in held if given[0] not in known)
    if not rules.monotone:
        local, unknown = tuple(sorted((*local, *unknown))), ()
    returns = tuple(fence for fence, _ in unknown) if rules.releases else ()
    # What is not held any more has been settled: that, too, may be rolled back.
    recent = _recent(rules, world, child.unsent)
    after = child._replace(epoch=owner.epoch, reset=False, unsent=unsent, local=local, returns=returns, recent=recent)
    return world._replace(store=store, child=after)


def _recent(rules: Rules, world: World, outcomes: tuple[Given, ...]) -> tuple[Given, ...]:
    """What is kept for 2 s, now with these; once no rollback can come, more would make no difference."""
    recent = world.child.recent
    return tuple(sorted({*recent, *outcomes})) if rules.keeps_answered and world.budget.rollbacks else recent


def _check_start(world: World, child: Child, given: Given) -> None:
    """What must hold when the child starts a delivery."""
    fence, index = given
    if index in world.over:
        raise Broken(f"{child} runs task {index}, which its hard limit was to end")
    if index in world.excused:
        return
    if any(index == done for _, done in child.finished):
        raise Broken(f"{child} runs task {index}, whose outcome it has")
    if world.other == index:
        raise Broken(f"{child} runs task {index} while the other child does")
    task = world.store.tasks[index]
    if not world.store.holds(child.generation, fence) or task.fence != fence:
        raise Broken(f"{child} runs task {index}, which it does not hold")


# ---- the other child


def _other(world: World) -> Iterator[Step]:
    if world.other is not None:
        store = world.store
        if store.tasks[world.other][:2] == ("held", OTHER):
            store = store.put(world.other, Task("ended"))
        yield f"the other child ends {world.other}", world._replace(store=store, other=None)
        return
    index = next((index for index, task in enumerate(world.store.tasks) if task.at == "queued"), None)
    if index is not None:
        child = world.child
        known = child.alive and index not in world.excused
        if index in world.over:
            raise Broken(f"the other child runs task {index}, which its hard limit was to end")
        if known and child.run is not None and child.phase == "runs" and child.run[1] == index:
            raise Broken(f"the other child runs task {index} while {child} does")
        if known and any(index == done for _, done in child.finished):
            raise Broken(f"the other child runs task {index}, whose outcome {child} has")
        store = world.store.put(index, Task("held", OTHER))
        yield f"the other child starts {index}", world._replace(store=store, other=index)


# ---- the server


def _server(rules: Rules, world: World) -> Iterator[Step]:
    child = world.child
    if child.pipe:
        request, rest = child.pipe[0], child.pipe[1:]
        store, answer = _applied(rules, world.store, child.generation, request)
        assert answer is not None
        answers = (*child.answers, answer) if child.alive else ()
        yield (
            f"the server does {request.n} of {child}",
            world._replace(store=store, child=child._replace(pipe=rest, answers=answers)),
        )
        if not child.alive:
            yield f"what {child} sent is lost", world._replace(child=child._replace(pipe=()))
    connections = set()
    for place, (generation, request) in enumerate(world.late):
        if (generation, request.epoch) not in connections:
            connections.add((generation, request.epoch))
            rest_late = world.late[:place] + world.late[place + 1 :]
            store, _ = _applied(rules, world.store, generation, request)
            yield f"the server does {request.n} of {generation}, late", world._replace(store=store, late=rest_late)
            yield f"the late {request.n} of {generation} is lost", world._replace(late=rest_late)


def _applied(rules: Rules, store: Store, generation: int, request: Submit) -> tuple[Store, broker.Answer | None]:
    return broker.submit(
        store, generation, request, by_epoch=rules.epochs, own_numbers=rules.own_numbers, by_floor=rules.floors
    )


def _rolled_back(rules: Rules, world: World) -> World:
    """All connections break; what the server forgot may start again, unless a living child has its outcome."""
    excused = set(world.excused)
    store = world.saved
    for index, (was, now) in enumerate(zip(world.store.tasks, store.tasks, strict=True)):
        outcome_kept = now.at == "held" and world.child.alive and (now.fence, index) in world.child.finished
        if was != now and not (outcome_kept and now.owner == world.child.generation):
            excused.add(index)
        if now[:2] == ("held", OTHER) and world.other != index:  # that child resumes, as ours does
            store = store.put(index, Task())
    world = world._replace(
        store=store, excused=frozenset(excused), over=frozenset(), late=(), late_commands=frozenset()
    )
    return _disconnected(rules, world, in_server=False) if world.child.alive else _piped(world, ())


def _disconnected(rules: Rules, world: World, *, in_server: bool) -> World:
    """What was on its way to the child is lost; what was on its way to a server that lives may still come."""
    child = world.child
    late = tuple((child.generation, request) for request in child.pipe) if in_server else ()
    unsent = child.unanswered if rules.keeps_outcomes else child.unsent
    epoch = child.epoch if rules.resumes else child.epoch + 1
    after = child._replace(pipe=(), answers=(), unsent=unsent, reset=rules.resumes, epoch=epoch)
    return world._replace(child=after, late=world.late + late)


def _piped(world: World, pipe: tuple[Submit, ...]) -> World:
    return world._replace(child=world.child._replace(pipe=pipe, answers=()))


# ---- the supervisor


def _may_mark(rules: Rules, child: Child) -> bool:
    assert child.word is not None
    if child.mark is not None and child.mark[0] == child.word:
        return False
    return not (rules.marks_uncovered and child.covered(child.word))


def _marked(world: World) -> World:
    child = world.child
    assert child.word is not None
    ticket = Recall(child.generation, child.word, child.row_n)
    return world._replace(child=child._replace(mark=(child.word, child.row_n)), tickets=world.tickets | {ticket})


def _limited(world: World) -> World:
    child = world.child
    if child.run is None or child.run[0] != child.word:
        raise Broken(f"{child} is killed for the limit of {child.word}, which it has ended")
    store = world.store
    ran = child.phase == "runs" and store.holds(child.generation, child.run[0])
    return _dies(world, verdict="fail")._replace(over=world.over | {child.run[1]} if ran else world.over)


def _dies(world: World, *, verdict: str) -> World:
    """Its row tells what to bury it with; what it has sent may still be done."""
    child = world.child
    corpse = Child(child.generation, alive=False, pipe=child.pipe)
    return world._replace(child=corpse, tickets=world.tickets | {Bury(child.generation, child.word, verdict)})


def _born(world: World) -> World:
    """The next generation, on a connection of its own; the slot of the dead one waits for its burial."""
    dead = world.child
    late = tuple((dead.generation, request) for request in dead.pipe)
    child = Child(dead.generation + 1)
    return world._replace(
        child=child, late=world.late + late, store=world.store.with_owner(Owner(child.generation))
    )  # fmt: skip


# ---- the steward


def _steward(rules: Rules, world: World) -> Iterator[Step]:
    for ticket in sorted(world.tickets, key=str):
        yield f"the steward does the {ticket}", _done(rules, world, ticket)._replace(tickets=world.tickets - {ticket})
    for command in sorted(world.late_commands, key=str):
        rest = world.late_commands - {command}
        yield f"the {command} is done late", _done(rules, world, command)._replace(late_commands=rest)
        yield f"the late {command} is lost", world._replace(late_commands=rest)
    if world.verdict is not None:
        store = broker.end_running(world.store, world.verdict)
        yield "the late verdict comes", world._replace(store=store, verdict=None)
    yield from _ticks(rules, world)


def _ticks(rules: Rules, world: World) -> Iterator[Step]:
    """What the steward finds undone by itself: a server that lost its last second knows less than it said."""
    child = world.child
    waiting = {ticket.generation for ticket in world.tickets if isinstance(ticket, Bury)}
    for owner in world.store.owners:
        alive = child.alive and owner.generation == child.generation
        if rules.level_triggered and not alive and owner.generation not in waiting:
            yield f"the steward finds {owner.generation} dead", _done(rules, world, Bury(owner.generation))
        if rules.repeats_recalls and alive and child.mark is not None and owner.floor < child.mark[1]:
            yield "the steward finds no floor", _done(rules, world, Recall(child.generation, *child.mark))


def _done(rules: Rules, world: World, command: Recall | Bury) -> World:
    if isinstance(command, Recall):
        store = broker.recall(world.store, command, behind=rules.recalls_behind, upto=rules.recalls_upto)
        return world._replace(store=store)
    verdict = command if command.verdict == "fail" and not rules.atomic_bury else world.verdict
    return world._replace(store=broker.bury(world.store, command, with_verdict=rules.atomic_bury), verdict=verdict)


def _steward_dies(rules: Rules, world: World, ticket: Recall | Bury) -> Iterator[Step]:
    tickets = world.tickets if rules.keeps_tickets else world.tickets - {ticket}
    after = world._replace(tickets=tickets)
    yield f"the steward dies before the {ticket}", after
    late = world.late_commands | {ticket}
    yield f"the steward dies, and the {ticket} is on its way", after._replace(late_commands=late)


def _steward_reconciles(world: World) -> Iterator[Step]:
    """What no protocol should do: put back what the child does not seem to know."""
    child = world.child
    known = {*child.local, *child.unanswered, *((child.run,) if child.run else ())}
    unknown = tuple(fence for fence, index in world.store.held(child.generation) if (fence, index) not in known)
    if unknown:
        store = broker.put_back(world.store, child.generation, unknown)
        yield f"the steward puts back {unknown}", world._replace(store=store)
