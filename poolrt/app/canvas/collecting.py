"""The results of a group, read by the child that runs its body: they are never in a message."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from poolrt.app.result import AsyncResult
from poolrt.brokers.base import Found
from poolrt.codec import decode
from poolrt.errors import DecodingError
from poolrt.message import decode_record
from poolrt.states import TaskState
from poolrt.terms import Slot

if TYPE_CHECKING:
    from poolrt.brokers.base import Broker

_PAGE: Final = 1000
"""Records in one round trip."""


def collected(broker: Broker, collect: tuple[str, int]) -> list[Any]:
    """What the members of a group returned, in order; in the place of one that failed, its exception.

    Raises:
        DecodingError: a member has no record any more, or one that cannot be read here.
        BrokerError: it can be tried again.
    """
    group, size = collect
    results: list[Any] = []
    for start in range(0, size, _PAGE):
        ids = [Slot(group, index).id for index in range(start, min(start + _PAGE, size))]
        for task_id, record in zip(ids, broker.records(ids), strict=True):
            if record is None:
                raise DecodingError(f"the result of {task_id}, a member of its group, is gone: past its result_ttl")
            results.append(_result_in(record, task_id, broker))
    return results


def _result_in(stored: bytes, task_id: str, broker: Broker) -> Any:
    record = decode_record(stored)
    if record.state is TaskState.SUCCEEDED:
        return None if record.value is None else decode(record.codec, record.value, trusted=broker.trusted)
    member: AsyncResult[Any] = AsyncResult(task_id, broker)
    member.keep(Found(task_id, record.state, None, stored, 0))
    return member.result
