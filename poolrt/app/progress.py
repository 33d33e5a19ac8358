"""What a running task says of itself: its state and how far it is; ``AsyncResult.state`` and ``.info`` tell it."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any, Final

import msgspec

from poolrt.app.request import current_run
from poolrt.codec import encode_value
from poolrt.errors import BrokerError, ConfigurationError, DecodingError
from poolrt.states import TaskState

if TYPE_CHECKING:
    from poolrt.app.request import Run
    from poolrt.brokers.base import Broker

log = logging.getLogger("poolrt.app")

EVERY: Final = 0.1
"""Seconds between two that are told of one state: nobody reads faster, and a loop may tell each of its steps."""
PROGRESS: Final = "progress"
"""The state of a task that says how far it is."""


class Progress(msgspec.Struct, frozen=True, array_like=True):
    """What ``Broker.note_progress`` keeps. Appended to, never reordered, like the Message."""

    state: str
    meta: bytes
    codec: str
    attempt: int
    at: float
    """Wall time."""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Progress).decode


def decode_progress(stored: bytes) -> Progress:
    """What a task said last; raises DecodingError."""
    try:
        return _decode(stored)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DecodingError(f"damaged progress: {error}") from None


_last: tuple[Run, str, float] | None = None
"""The run that told something last, what state, and when (CLOCK_MONOTONIC)."""


def update_state(state: str = PROGRESS, meta: Any = None, *, is_last: bool = False) -> None:
    """Tell ``AsyncResult.state`` and ``AsyncResult.info`` of the running task, from inside it.

    Of one state at most every 100 ms: what comes earlier is dropped, so that a loop may tell each of its steps. A
    broker that is away is logged once a run, and not raised.

    Args:
        state: any word; those of TaskState that mean an end are refused.
        meta: any value that a result may be; small, since each is stored.
        is_last: tell it in any case.

    Raises:
        RuntimeError: no task runs here.
        ConfigurationError: the state is none.
        EncodingError: the broker cannot carry ``meta``.
    """
    global _last  # noqa: PLW0603  one task at a time in a process
    run = current_run()
    if run is None or run.task is None:
        raise RuntimeError("update_state and progress say how a running task is: call them inside one")
    if not isinstance(state, str) or not state or state in _ENDS:
        raise ConfigurationError(f"state={state!r}: use a word that is not one of {', '.join(sorted(_ENDS))}")
    now = time.monotonic()
    if not is_last and _last is not None and _last[0] is run and _last[1] == state and now - _last[2] < EVERY:
        return
    _last = (run, state, now)
    broker = run.task.app.broker
    note(broker, run, state, *encode_value(meta, trusted=broker.trusted, task=run.message.task))


def progress(done: float, total: float | None = None) -> None:
    """Tell how far the running task is, as ``update_state("progress", {"current": done, "total": total})``."""
    update_state(PROGRESS, {"current": done, "total": total}, is_last=done == total)


def note(broker: Broker, run: Run, state: str, codec: str, meta: bytes) -> None:
    """Have the broker keep it; what it cannot keep is logged, and the task goes on."""
    message = run.message
    try:
        broker.note_progress(
            message.id, _encode(Progress(state, meta, codec, message.attempt, time.time())), message.ttl
        )
    except BrokerError as error:
        log.warning("task %s#%s: its progress is not told: %s", message.task, message.id, error)


_ENDS: Final = frozenset(
    {
        TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED, TaskState.EXPIRED, TaskState.DEAD,
        TaskState.UNKNOWN, TaskState.QUEUED, TaskState.DELAYED,
    }
)  # fmt: skip
