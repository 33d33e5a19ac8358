"""``AsyncResult``: the future of an enqueued task, answered from the broker's store."""

from __future__ import annotations

from collections.abc import Generator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeVar, cast, overload

from poolrt.app.cancel import cancel
from poolrt.app.canvas.tree import tree_of_call
from poolrt.app.joining import allow_join_result, refuse_join
from poolrt.app.progress import PROGRESS, Progress, decode_progress
from poolrt.codec import decode
from poolrt.errors import (
    ChordError,
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
from poolrt.message import Record, decode_message, decode_record
from poolrt.states import TaskState
from poolrt.terms import Attempt

if TYPE_CHECKING:
    from poolrt.app.canvas.results import Result
    from poolrt.app.canvas.tree import Tree
    from poolrt.brokers.base import Broker, Found

R = TypeVar("R")

_BY_STATE: dict[TaskState, type[TaskFailed]] = {
    TaskState.DEAD: TaskDead,
    TaskState.EXPIRED: TaskExpired,
    TaskState.CANCELLED: TaskCancelled,
}
_BY_CAUSE: dict[str, type[TaskFailed]] = {
    kind.__name__: kind for kind in (WorkerLost, TimeLimitExceeded, MemoryLimitExceeded, ChordError)
}
_STATES: Final[dict[str, TaskState]] = {state.value: state for state in TaskState}


class AsyncResult(Generic[R]):
    """The state and, once it ended, the value of one task. ``await`` of it is ``aget()``.

    Attributes:
        id: the task's id; ``app.result(id)`` makes the same object in another process.
        broker: where it is asked for.
    """

    __slots__ = ("_ignored", "_record", "broker", "id")

    def __init__(self, id: str, broker: Broker, *, ignored: bool = False) -> None:  # noqa: A002  Celery's name
        self.id = id
        self.broker = broker
        self._ignored = ignored
        self._record: Record | None = None

    def __repr__(self) -> str:
        """The id only: a repr must not ask the broker."""
        return f"<AsyncResult {self.id}>"

    # ---- how it is

    @property
    def is_known(self) -> bool:
        """Whether this object knows already how the task has ended, so that nobody need be asked."""
        return self._record is not None

    def keep(self, found: Found | None) -> Found | None:
        """Learn from what the broker has told."""
        if found is not None and found.record is not None:
            self._record = decode_record(found.record)
        return found

    @property
    def state(self) -> TaskState | str:
        """Where the task is; ``unknown`` when the broker has neither its message nor its record.

        Of a task that runs: ``started`` if it has ``track_started``, and what it says itself by ``update_state``.
        """
        found = self._found()
        if self._record is not None:
            return self._record.state
        said = self._said(found)
        if said is not None:
            return _STATES.get(said.state, said.state)
        return TaskState.UNKNOWN if found is None else found.state

    @property
    def info(self) -> Any:
        """Of a task that runs: the ``meta`` of its last ``update_state``, or None. Of one that ended: ``result``."""
        found = self._found()
        if self._record is not None:
            return self.result
        said = self._said(found)
        return None if said is None else decode(said.codec, said.meta, trusted=self.broker.trusted)

    @property
    def progress(self) -> tuple[float, float | None] | None:
        """What a running task said last by ``progress(done, total)``; None if it said nothing, or has ended."""
        said = self._said(self._found())
        if said is None or said.state != PROGRESS:
            return None
        meta = decode(said.codec, said.meta, trusted=self.broker.trusted)
        return (meta["current"], meta.get("total")) if isinstance(meta, dict) and "current" in meta else None

    def ready(self) -> bool:
        """Whether the task has ended."""
        self._found()
        return self._record is not None

    def successful(self) -> bool:
        """Whether the task has ended by returning."""
        return self._ended().state is TaskState.SUCCEEDED if self.ready() else False

    def failed(self) -> bool:
        """Whether the task has ended without a value."""
        return self.ready() and not self.successful()

    @property
    def date_done(self) -> datetime | None:
        """When the task ended, in UTC; None while it has not."""
        return datetime.fromtimestamp(self._ended().finished_at, UTC) if self.ready() else None

    @property
    def runtime(self) -> float | None:
        """Seconds that its last attempt ran; None while it has not ended."""
        return self._ended().runtime if self.ready() else None

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """Its attempts that have ended, the oldest first; of very many only the last ones."""
        found = self._found()
        if self._record is None:
            message = None if found is None or found.envelope is None else decode_message(found.envelope)
            return message.terms.history if message is not None and message.terms is not None else ()
        last = self._record
        cause, text = (last.error.type, last.error.text) if last.error else ("", "")
        return (*last.history, Attempt(last.attempt, last.finished_at, last.runtime, cause, text, last.owner))

    @property
    def traceback(self) -> str | None:
        """The formatted traceback of a task that raised, else None."""
        error = self._ended().error if self.ready() else None
        return error.traceback or None if error is not None else None

    @property
    def crash_report(self) -> str | None:
        """What is known of a task that ended its child, as ``poolrt dead show`` prints it; None for any other."""
        if not self.ready() or self._ended().report is None:
            return None
        from poolrt.hygiene.crash_report import as_text, describe

        return as_text(describe(self._ended()))

    @property
    def result(self) -> R | BaseException | None:
        """The value, the exception it ended with, or None while it has not ended."""
        if not self.ready():
            return None
        try:
            return self._value()
        except Exception as error:  # noqa: BLE001  the task's own exception is this property's value
            return error

    # ---- waiting

    @overload
    def get(
        self, timeout: float | None = None, *, propagate: Literal[True] = True, disable_sync_subtasks: bool = True
    ) -> R: ...
    @overload
    def get(
        self, timeout: float | None = None, *, propagate: bool, disable_sync_subtasks: bool = True
    ) -> R | BaseException: ...

    def get(
        self, timeout: float | None = None, *, propagate: bool = True, disable_sync_subtasks: bool = True
    ) -> R | BaseException:
        """Wait for the task to end and return its value.

        Args:
            timeout: seconds to wait; None waits for ever.
            propagate: raise the exception that it ended with; else it is returned.
            disable_sync_subtasks: refuse to wait inside a running task; see ``poolrt.allow_join_result``.

        Raises:
            ResultTimeout: it has not ended in time; it goes on.
            ResultIgnored: the task keeps no result; raised at once, unless it is known to have failed.
            WaitInsideTask: a running task waits.
            TaskFailed: it ended without a value and its exception could not be carried (see the subclasses);
                otherwise the exception of the task itself, with the task's traceback as a note.
        """
        if self._record is None:
            if disable_sync_subtasks:
                refuse_join(f"task {self.id}")
            if self._ignored and not self.ready():
                raise self._keeps_none()
            self.keep(self.broker.wait(self.id, timeout))
            if self._record is None:
                raise self._unknown() if self.broker.find(self.id) is None else self._too_late(timeout)
        return self._value() if propagate else cast("R | BaseException", self.result)

    async def aget(self, timeout: float | None = None, *, disable_sync_subtasks: bool = True) -> R:  # noqa: ASYNC109
        """``get`` for an event loop, which is never blocked; however many are awaited, they share one connection.

        If the one that awaits it is cancelled, the task goes on; ``cancel`` ends that.
        """
        if self._record is None:
            from poolrt.app.aside import aside  # asyncio is slow to import, and most programs never need it
            from poolrt.app.completion import as_completed

            if disable_sync_subtasks:
                refuse_join(f"task {self.id}")
            if self._ignored and not await aside(self.ready):
                raise self._keeps_none()
            with allow_join_result():
                try:
                    async for _ in as_completed([self], timeout):
                        break
                except ResultTimeout:
                    raise self._too_late(timeout) from None
            if self._record is None:
                raise self._unknown()
        return self._value()

    def __await__(self) -> Generator[Any, None, R]:
        """``await result`` is ``await result.aget()``."""
        return self.aget().__await__()

    # ---- the workflow that it is in

    @property
    def parent(self) -> Result | None:
        """The result of what is before it in its workflow; None for a call by itself."""
        return None

    @property
    def children(self) -> list[Result]:
        """The results of what is called with its value, beside what follows it in its workflow."""
        return []

    def tree(self) -> Tree:
        """Where each part of its workflow is; of a call by itself that alone."""
        return tree_of_call(self.broker, self.id)

    # ---- ending it

    def cancel(self) -> bool:
        """Keep a task that waits from starting, or end it while it runs; ``get`` then raises TaskCancelled.

        True if it waits, queued or delayed, also for its next attempt: it has ended as cancelled at once, and never
        starts. True as well if a worker has it: its node is told, and raises ``Cancelled`` in it, so that it can clean
        up; after the node's ``cancel_grace`` its child is killed. If it returns before it is reached, its result
        stands; ``state`` tells. False if it has ended or is unknown.
        """
        return cancel(self.broker, self.id)

    def revoke(self, terminate: bool = False) -> bool:  # noqa: FBT001, FBT002  Celery's
        """Celery's name for ``cancel``; without ``terminate`` what a worker has goes on, and it is False."""
        return cancel(self.broker, self.id, running=terminate)

    def forget(self) -> bool:
        """Delete the record of the ended task; whether there was one."""
        self._record = None
        return self.broker.forget(self.id)

    # ---- inside

    def _found(self) -> Found | None:
        """What the broker knows of a task that is not known to have ended."""
        return self.keep(self.broker.find(self.id)) if self._record is None else None

    def _ended(self) -> Record:
        """Its record; only of a task that is known to have ended."""
        return cast("Record", self._record)

    def _said(self, found: Found | None) -> Progress | None:
        """What its present run has said of itself last."""
        if found is None or found.progress is None or found.state is not TaskState.RESERVED:
            return None
        said = decode_progress(found.progress)
        return said if said.attempt == decode_message(found.envelope or b"").attempt else None

    def _keeps_none(self) -> ResultIgnored:
        return ResultIgnored(f"task {self.id} keeps no result: it was declared with ignore_result=True")

    def _unknown(self) -> ResultIgnored:
        return ResultIgnored(
            f"task {self.id} is unknown: never enqueued here, without a result, forgotten, or past its TTL"
        )

    def _too_late(self, timeout: float | None) -> ResultTimeout:
        return ResultTimeout(
            f"task {self.id} has not ended within {timeout:g} s" if timeout else f"task {self.id} has not ended"
        )

    def _value(self) -> R:
        record = self._ended()
        if record.state is TaskState.SUCCEEDED:
            value: Any = None
            if record.value is not None:
                value = decode(record.codec, record.value, trusted=self.broker.trusted)
            return cast("R", value)
        raise self._exception(record)

    def _exception(self, record: Record) -> BaseException:
        info = record.error
        if info is None:
            kind = _BY_STATE.get(record.state, TaskFailed)
            return kind(f"{record.task}#{self.id} ended as {record.state}", task_id=self.id, cause=str(record.state))
        if info.exception is not None:
            try:
                error = decode(info.exception_codec, info.exception, trusted=self.broker.trusted)
            except DecodingError:
                error = None  # its class is not importable here: TaskFailed below names it
            if isinstance(error, Exception):  # a task's SystemExit must not end the program that asks
                if info.traceback:
                    error.add_note(f"in the worker ({record.task}#{self.id}):\n{info.traceback}")
                return error
        kind = _BY_CAUSE.get(info.type) or _BY_STATE.get(record.state, TaskFailed)
        text = f"{record.task}#{self.id} {record.state}: {info.type}: {info.text}"
        return kind(text, task_id=self.id, cause=info.type, traceback=info.traceback)
