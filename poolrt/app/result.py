"""``AsyncResult``: the future of an enqueued task, answered from the broker's store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

from poolrt.app.cancelled import cancelled
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
from poolrt.message import Record, decode_record
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
_TRIES: Final = 10
"""How often ``cancel`` follows a message that changes hands just then."""


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
    def crash_report(self) -> str | None:
        """What is known of a task that ended its child, as ``poolrt dead show`` prints it; None for any other."""
        if not self.ready() or self._record is None or self._record.report is None:
            return None
        from poolrt.hygiene.crash_report import as_text, describe

        return as_text(describe(self._record))

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
        """Keep a task that waits from starting, or end it while it runs; ``get`` then raises TaskCancelled.

        True if it waits, queued or delayed, also for its next attempt: it has ended as cancelled at once. True as well
        if a worker has it: that node is told, and kills the child that runs it (nothing in the task is told, and what
        it had started is ended with it). If it ends before that, its result stands; ``state`` tells. False if it has
        ended or is unknown.
        """
        for _ in range(_TRIES):
            if self._broker.cancel(self.id, cancelled) or self._broker.cancel_held(self.id):
                return True
            found = self._broker.find(self.id)
            if found is None or found.state in FINAL:
                break
        return False

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
