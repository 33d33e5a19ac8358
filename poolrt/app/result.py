"""``AsyncResult``: the future of an enqueued task, answered from the broker's store."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from poolrt.codec import decode
from poolrt.errors import (
    DecodingError,
    MemoryLimitExceeded,
    ResultIgnored,
    ResultTimeout,
    TaskCancelled,
    TaskDead,
    TaskExpired,
    TaskFailed,
    TimeLimitExceeded,
    WorkerLost,
)
from poolrt.message import (
    Delivery,
    ErrorInfo,
    Message,
    Outcome,
    Record,
    decode_message,
    decode_record,
    encode_record,
)
from poolrt.states import FINAL, TaskState

if TYPE_CHECKING:
    from poolrt.brokers.base import Broker, Found

R = TypeVar("R")

_BY_STATE: dict[TaskState, type[TaskFailed]] = {
    TaskState.DEAD: TaskDead,
    TaskState.EXPIRED: TaskExpired,
    TaskState.CANCELLED: TaskCancelled,
}
_BY_CAUSE: dict[str, type[TaskFailed]] = {
    kind.__name__: kind for kind in (WorkerLost, TimeLimitExceeded, MemoryLimitExceeded)
}


class AsyncResult(Generic[R]):
    """The state and, once it ended, the value of one task.

    Attributes:
        id: the task's id; ``app.result(id)`` makes the same object in another process.
    """

    __slots__ = ("_broker", "_ignored", "_record", "id")

    def __init__(self, id: str, broker: Broker, *, ignored: bool = False) -> None:  # noqa: A002  Celery's name
        self.id = id
        self._broker = broker
        self._ignored = ignored
        self._record: Record | None = None

    def __repr__(self) -> str:
        """The id only: a repr must not ask the broker."""
        return f"<AsyncResult {self.id}>"

    def _keep(self, found: Found | None) -> Record | None:
        if found is not None and found.record is not None:
            self._record = decode_record(found.record)
        return self._record

    @property
    def state(self) -> TaskState:
        """Where the task is; ``unknown`` when the broker has neither its message nor its record."""
        if self._record is None:
            found = self._broker.find(self.id)
            if self._keep(found) is None:
                return TaskState.UNKNOWN if found is None else found.state
        return cast("Record", self._record).state

    def ready(self) -> bool:
        """Whether the task has ended."""
        return self.state in FINAL

    def successful(self) -> bool:
        """Whether the task has ended by returning."""
        return self.state is TaskState.SUCCEEDED

    def failed(self) -> bool:
        """Whether the task has ended without a value."""
        return self.ready() and not self.successful()

    @property
    def traceback(self) -> str | None:
        """The formatted traceback of a task that raised, else None."""
        if not self.ready() or self._record is None or self._record.error is None:
            return None
        return self._record.error.traceback or None

    @property
    def result(self) -> R | BaseException | None:
        """The value, the exception it ended with, or None while it has not ended."""
        if not self.ready():
            return None
        try:
            return self._value()
        except Exception as error:  # noqa: BLE001  the task's own exception is this property's value
            return error

    def get(self, timeout: float | None = None) -> R:
        """Wait for the task to end and return its value.

        Args:
            timeout: seconds to wait; None waits for ever.

        Raises:
            ResultTimeout: it has not ended in time; it goes on.
            ResultIgnored: the task keeps no result; raised at once, unless it is known to have failed.
            TaskFailed: it ended without a value and its exception could not be carried (see the subclasses);
                otherwise the exception of the task itself, with the task's traceback as a note.
        """
        if self._ignored and not self.ready():
            raise ResultIgnored(f"task {self.id} keeps no result: it was declared with ignore_result=True")
        if self._record is None and self._keep(self._broker.wait(self.id, timeout)) is None:
            if self._broker.find(self.id) is None:
                raise ResultIgnored(
                    f"task {self.id} is unknown: never enqueued here, without a result, forgotten, or past its TTL"
                )
            raise ResultTimeout(
                f"task {self.id} has not ended within {timeout:g} s" if timeout else f"task {self.id} has not ended"
            )
        return self._value()

    def cancel(self) -> bool:
        """Keep a task that waits from starting: it ends as cancelled at once, and ``get`` raises TaskCancelled.

        True if it was waiting, queued or delayed, also for its next attempt. False, and it goes on, if a worker has
        it already: running tasks cannot be cancelled yet. False too if it has ended or is unknown.
        """
        return self._broker.cancel(self.id, _cancelled)

    def forget(self) -> bool:
        """Delete the record of the ended task; whether there was one."""
        self._record = None
        return self._broker.forget(self.id)

    def _value(self) -> R:
        record = cast("Record", self._record)
        if record.state is TaskState.SUCCEEDED:
            value: Any = None
            if record.value is not None:
                value = decode(record.codec, record.value, trusted=self._broker.trusted)
            return cast("R", value)
        raise self._exception(record)

    def _exception(self, record: Record) -> BaseException:
        info = record.error
        if info is None:
            kind = _BY_STATE.get(record.state, TaskFailed)
            return kind(f"{record.task}#{self.id} ended as {record.state}", task_id=self.id, cause=str(record.state))
        if info.exception is not None:
            try:
                error = decode(info.exception_codec, info.exception, trusted=self._broker.trusted)
            except DecodingError:
                error = None  # its class is not importable here: TaskFailed below names it
            if isinstance(error, Exception):  # a task's SystemExit must not end the program that asks
                if info.traceback:
                    error.add_note(f"in the worker ({record.task}#{self.id}):\n{info.traceback}")
                return error
        kind = _BY_CAUSE.get(info.type) or _BY_STATE.get(record.state, TaskFailed)
        text = f"{record.task}#{self.id} {record.state}: {info.type}: {info.text}"
        return kind(text, task_id=self.id, cause=info.type, traceback=info.traceback)


def _cancelled(delivery: Delivery) -> Outcome:
    """The end of a message that is cancelled while it waits."""
    try:
        message = decode_message(delivery.envelope)
    except DecodingError:  # one that nobody can read may be cancelled too
        message = Message(delivery.task_id, "", b"")
    now = time.time()
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(now))
    record = Record(
        TaskState.CANCELLED, message.task, now, attempt=message.attempt, lost=delivery.lost, envelope=delivery.envelope,
        error=ErrorInfo("Cancelled", f"cancelled at {when} UTC: {_history(delivery, message)}"),
    )  # fmt: skip
    return Outcome(delivery, TaskState.CANCELLED, encode_record(record), message.ttl)


def _history(delivery: Delivery, message: Message) -> str:
    """Whether a message that waits has ever started, as far as anybody knows."""
    if delivery.lost:
        return f"it had started; deliveries lost: {delivery.lost}"
    if delivery.suspect:
        return "a node that died had held it, and may have started it"
    if message.attempt > 1:
        return f"attempt {message.attempt - 1} had failed, the next had not started"
    return "it had not started"
