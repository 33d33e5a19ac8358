"""The results of a group as its body gets them: in order, an exception in the place of each failure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest

from poolrt.app.canvas.collecting import collected
from poolrt.brokers.base import Broker
from poolrt.codec import PICKLE
from poolrt.errors import DecodingError, TaskFailed
from poolrt.message import ErrorInfo, Record, encode_record
from poolrt.states import TaskState


class Records:
    """As much of a broker as is asked here: ``trusted`` and ``records``."""

    trusted = False

    def __init__(self, *records: Record | None) -> None:
        self._by_id = {f"g.{index}": encode_record(each) for index, each in enumerate(records) if each is not None}
        self.size = len(records)

    def records(self, ids: Sequence[str]) -> list[bytes | None]:
        """As the Broker's."""
        return [self._by_id.get(task_id) for task_id in ids]


def of_group(records: Records) -> list[Any]:
    return collected(cast("Broker", records), ("g", records.size))


def value(encoded: bytes | None, codec: str = "json") -> Record:
    return Record(TaskState.SUCCEEDED, "step", 1.0, encoded, codec)


def test_values_come_in_order_and_an_exception_stands_where_a_member_failed() -> None:
    failed = Record(TaskState.FAILED, "step", 1.0, error=ErrorInfo("ValueError", "no"))

    first, second, third = of_group(Records(value(b"[1]"), failed, value(None)))

    assert (first, third) == ([1], None)
    assert isinstance(second, TaskFailed)
    assert "g.1" in str(second)


@pytest.mark.parametrize("record", [None, value(b"[1", "json"), value(b"x", PICKLE)])
def test_a_success_whose_value_cannot_be_read_is_no_result(record: Record | None) -> None:
    with pytest.raises(DecodingError):
        of_group(Records(value(b"1"), record))
