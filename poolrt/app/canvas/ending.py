"""Cancelling a workflow or a part of it: what waits or runs, and what is not enqueued yet."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Final

from poolrt.app.cancel import cancel
from poolrt.app.canvas.parts import FanPart
from poolrt.message import RESULT_TTL, ErrorInfo, Record, encode_record
from poolrt.states import TaskState

if TYPE_CHECKING:
    from poolrt.app.canvas.plan import Plan
    from poolrt.brokers.base import Broker

_PAGE: Final = 1000


def cancel_line(plan: Plan) -> bool:
    """Cancel all that has not ended of a line; whether there was anything.

    First what is not enqueued yet, so that nothing follows any more; then what waits or runs.
    """
    broker, ended = plan.app.broker, False
    ahead = _cancelled("its workflow was cancelled before it was enqueued")
    for ids in _pages(plan):
        ended |= any(broker.end_ahead([(task_id, ahead) for task_id in ids], RESULT_TTL))
    for ids in _pages(plan):
        left = [task_id for task_id, record in zip(ids, broker.records(ids), strict=True) if record is None]
        for task_id in left:
            ended |= cancel(broker, task_id)
    if ended:
        _fail_around(broker, plan)
    return ended


def cancel_step(plan: Plan, step_id: str) -> bool:
    """Cancel one step of a line: then those after it do not come either. Whether it had not ended."""
    broker = plan.app.broker
    if cancel(broker, step_id):
        return True
    record = _cancelled("it was cancelled before it was enqueued")
    if not broker.end_ahead([(step_id, record)], RESULT_TTL)[0]:
        return cancel(broker, step_id)  # it was enqueued just then, or has ended
    broker.end_ahead([(plan.id, _cancelled(f"a step before it, {step_id}, was cancelled"))], RESULT_TTL)
    _fail_around(broker, plan)
    return True


def _fail_around(broker: Broker, plan: Plan) -> None:
    """Let the group that waits for a line know that it does not come; it knows already if a step was cancelled."""
    if plan.slot is not None:
        broker.fail_group(plan.slot.group, _cancelled(f"member {plan.slot.index} was cancelled"))


def ids_of(plan: Plan) -> Iterator[str]:
    """The ids of all calls in a line, those in its groups among them; callbacks are not."""
    for step_id, part in plan.steps():
        if isinstance(part, FanPart):
            for member in plan.members(step_id, part):
                yield from ids_of(member)
            if part.body is None:
                continue
        yield step_id


def _pages(plan: Plan) -> Iterator[list[str]]:
    ids = ids_of(plan)
    while page := list(islice(ids, _PAGE)):
        yield page


def _cancelled(text: str) -> bytes:
    return encode_record(Record(TaskState.CANCELLED, "", time.time(), error=ErrorInfo("Cancelled", text)))
