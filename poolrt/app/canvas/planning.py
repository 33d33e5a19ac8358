"""Applying a signature: its first messages to the broker, a thousand at a time, and its result to the caller."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from poolrt.app.canvas.compiling import Compiler
from poolrt.app.canvas.parts import CallPart, FanPart, Parts, with_ends
from poolrt.app.canvas.plan import Plan
from poolrt.app.canvas.results import GroupResult, result_of
from poolrt.app.canvas.starting import Place, start, start_fan
from poolrt.app.canvas.steps import Fan, decode_step
from poolrt.app.loading import refuse_effects
from poolrt.app.middleware import tell_enqueued
from poolrt.app.options import check_task_id
from poolrt.app.request import current_run
from poolrt.message import Enqueue, NewGroup, decode_message, new_task_id

if TYPE_CHECKING:
    from poolrt.app.app import App
    from poolrt.app.canvas.signature import Signature

_BATCH: Final = 1000
_BATCH_BYTES: Final = 4 * 1024 * 1024
"""As ``enqueue_many``: long enough to spread the cost of a transaction, short enough not to hold up others."""


def apply(signature: Signature[Any]) -> Any:
    """Enqueue what comes first in it; its result. See ``Signature.apply_async``."""
    refuse_effects("apply_async of a workflow")
    options = dict(signature.options)
    task_id = options.pop("task_id", None)
    line = signature.having(options=options).line()
    only = line.parts[0] if len(line.parts) == 1 and not line.errbacks else None
    if isinstance(only, CallPart) and not (only.links or only.errbacks):
        return only.task.apply_async(only.args, only.kwargs, task_id=task_id, **only.options)
    if task_id is not None:
        check_task_id(task_id)
    plan = Plan(signature.app, line, task_id or new_task_id())
    enqueue(plan)
    return result_of(plan)


def of_no_members() -> GroupResult:
    """The result of a group without members: it belongs to no app, and nobody is asked for it."""
    nothing = FanPart((), {})
    plan = Plan(cast("App", None), Parts((nothing,)), new_task_id())
    return GroupResult(plan, plan.id, nothing, None)


def enqueue(plan: Plan) -> None:
    """Enqueue the first messages of a line. Whoever does it again enqueues what is missing, and nothing twice."""
    broker, middleware, count = plan.app.broker, plan.app.middleware, 0
    try:
        for items, groups in _batches(first_of(plan)):
            stored = broker.enqueue(items, groups)
            count += len(items)
            for item, is_new in zip(items, stored, strict=True) if middleware else ():
                tell_enqueued(middleware, decode_message(item.envelope), stored=is_new)
    except Exception as error:
        if count:
            again = f"apply_async(task_id={plan.id!r}) enqueues the others, and none of them twice"
            error.add_note(f"{count} messages of this workflow were enqueued before; {again}")
        raise


def first_of(plan: Plan) -> Iterator[Enqueue | NewGroup]:
    """What is enqueued first. The members of a group are made one by one."""
    app, line = plan.app, plan.line
    compiler, run = Compiler(app), current_run()
    compiled = compiler.line(line, plan.id, is_fed=False, is_headless=True)
    place = Place(
        app, time.time(), run.message.id if run else "", run.message.root if run else plan.id, last=compiled.last,
        errbacks=compiled.errbacks,
    )  # fmt: skip
    first, rest = decode_step(compiled.steps[0]), compiled.steps[1:]
    if isinstance(first, Fan):
        members = compiler.members(_fan(line), first.id, is_fed=False)
        return start_fan(first, members, rest, None, place)
    return start(compiled.steps, None, place)


def _fan(line: Parts) -> FanPart:
    first = with_ends(line.parts, line.errbacks)[0]
    assert isinstance(first, FanPart)
    return first


def _batches(made: Iterable[Enqueue | NewGroup]) -> Iterator[tuple[Sequence[Enqueue], Sequence[NewGroup]]]:
    """As many as go into one transaction; a group goes with its first members, or before."""
    items: list[Enqueue] = []
    groups: list[NewGroup] = []
    size = 0
    for each in made:
        if isinstance(each, NewGroup):
            groups.append(each)
            continue
        items.append(each)
        size += len(each.envelope)
        if len(items) == _BATCH or size > _BATCH_BYTES:
            yield items, groups
            items, groups, size = [], [], 0
    if items:
        yield items, groups
