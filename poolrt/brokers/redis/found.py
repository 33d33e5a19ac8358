"""What scripts say of messages and records, as the contract's ``Found``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from poolrt.brokers.base import Found
from poolrt.brokers.redis import wire
from poolrt.errors import BrokerDamaged
from poolrt.states import TaskState


def found_in(task_id: str, told: Any) -> Found | None:
    """The reply of lua/find.lua."""
    if told is None:
        return None
    kind, *rest = told
    if kind == b"planned":
        return Found(task_id, TaskState.PLANNED, None, None, 0)
    if kind != b"record":
        return waiting_in(task_id, rest[0], TaskState(kind.decode()), rest[1] if rest[1:] else None)
    return kept_in(task_id, rest[0])


def kept_in(task_id: str, value: bytes) -> Found:
    """The record in a value of :res; raises BrokerDamaged."""
    if not wire.is_record(value):
        raise BrokerDamaged(f"the record of {task_id} cannot be read; forget() drops it")
    return recorded_in(task_id, value)


def recorded_in(task_id: str, value: bytes) -> Found:
    """The record in a value of :res."""
    kept = wire.read_kept(value)
    return Found(task_id, kept.state, None, kept.record, kept.lost)


def waiting_in(task_id: str, value: bytes, state: TaskState = TaskState.QUEUED, progress: bytes | None = None) -> Found:
    """The message in a value of :msg."""
    if not wire.is_readable(value):
        return Found(task_id, state, value, None, 0)  # somebody else's; a child sets it aside
    stored = wire.read_stored(value)
    return Found(task_id, state, stored.envelope, None, stored.lost, progress)


def text_of(value: bytes) -> str:
    """A name out of a key."""
    return value.decode("utf-8", "replace")


def texts(values: Sequence[bytes]) -> list[str]:
    """Names out of a key."""
    return [text_of(value) for value in values]
