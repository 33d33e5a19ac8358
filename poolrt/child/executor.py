"""From a Delivery to its Outcome: decode, run the user's function, encode what came of it.

Nothing a task does leaves this module as an exception: whatever it raises, SystemExit and KeyboardInterrupt
included, becomes its Outcome. The broker is not touched here.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
import traceback
from typing import TYPE_CHECKING, Any

import msgspec

from poolrt.app.request import Request, enter
from poolrt.app.task import Task, TaskOptions, retry_delay
from poolrt.codec import PICKLE, decode, encode_value, pickle
from poolrt.errors import DecodingError, EncodingError
from poolrt.message import (
    Delivery,
    Enqueue,
    ErrorInfo,
    Message,
    Outcome,
    Owner,
    Record,
    decode_message,
    encode_record,
)
from poolrt.states import TaskState

if TYPE_CHECKING:
    from collections.abc import Callable

    from poolrt.app.app import App
    from poolrt.board import RowWriter

log = logging.getLogger("poolrt.child")

MAX_UNKNOWN = 5
"""How often nodes may hand back a task they do not know before it is dead; 1, 2, 4, 8 s between them."""
MAX_TRACEBACK = 32 * 1024
_DEFAULT_TTL = 86_400.0


class Execution:
    """A delivery that was decoded, with the task it names; made before it runs, so that a batch can be weighed."""

    __slots__ = ("delivery", "message", "task")

    def __init__(self, delivery: Delivery, message: Message, task: Task[Any, Any]) -> None:
        self.delivery = delivery
        self.message = message
        self.task = task


class Executor:
    """Runs executions, one at a time.

    Attributes:
        tainted: why the child must be recycled after this task, or an empty text.
        runtime: seconds the last task ran.
    """

    def __init__(
        self, app: App, owner: Owner, row: RowWriter, default_time_limit: float, poke: Callable[[], None]
    ) -> None:
        self._app = app
        self._owner = str(owner)
        self._row = row
        self._trusted = app.broker.trusted
        self._time_limit = default_time_limit
        self._poke = poke
        self._loop: asyncio.AbstractEventLoop | None = None
        self.tainted = ""
        self.runtime = 0.0

    def prepare(self, delivery: Delivery) -> Execution | Outcome:
        """What to run, or the Outcome of a delivery that cannot be: unreadable, unknown or expired."""
        try:
            message = decode_message(delivery.envelope)
        except DecodingError as error:
            return self._unreadable(delivery, error)
        task = self._app.tasks.get(message.task)
        if task is None:
            if message.function is None:
                return self._unknown(delivery, message)
            try:
                task = self._task_by_value(message)
            except DecodingError as error:
                return self._ended(delivery, message, TaskState.DEAD, "DecodingError", str(error))
        if message.expires is not None and time.time() > message.expires:
            late = time.time() - message.expires
            return self._ended(
                delivery, message, TaskState.EXPIRED, "Expired", f"expired {late:.1f} s before it could start"
            )
        return Execution(delivery, message, task)

    def run(self, execution: Execution) -> Outcome:
        """Run it and say what must happen; the board row names it for exactly as long as user code runs."""
        delivery, message, task = execution.delivery, execution.message, execution.task
        try:
            args, kwargs = decode(message.codec, message.payload, trusted=self._trusted)
        except (DecodingError, TypeError, ValueError) as error:
            return self._ended(delivery, message, TaskState.DEAD, "DecodingError", str(error))
        limit = message.time_limit or self._time_limit
        enter(
            Request(message.id, message.task, message.queue, message.attempt, delivery.lost, message.priority,
                    message.headers or {}, self._owner, f"{self._owner}/{delivery.n}.{delivery.i}")
        )  # fmt: skip
        started = time.monotonic_ns()
        deadline = started + int(limit * 1e9) if limit else 0
        self._row.run(delivery.n, delivery.i, message.id.encode(), task.name_bytes, started, deadline, 0)
        if deadline and deadline < self._row.next_wake:
            self._poke()
        raised: BaseException | None = None
        value: Any = None
        try:
            value = task.function(task, *args, **kwargs) if task.options.bind else task.function(*args, **kwargs)
            if inspect.iscoroutine(value):
                value = self._run_async(value)
        except BaseException as error:  # noqa: BLE001  see the module's docstring
            raised = error
        self.runtime = runtime = (time.monotonic_ns() - started) / 1e9
        enter(None)
        if raised is None:
            outcome = self._succeeded(execution, value, runtime)
        else:
            outcome = self._raised(execution, raised, runtime)
        self._row.ended(failed=outcome.state is TaskState.FAILED)
        return outcome

    def _run_async(self, coroutine: Any) -> Any:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self._loop)
        return self._loop.run_until_complete(coroutine)

    def close(self) -> None:
        """Close the loop of the async tasks, if there was one."""
        if self._loop is not None:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    # ---- outcomes

    def _succeeded(self, execution: Execution, value: Any, runtime: float) -> Outcome:
        delivery, message = execution.delivery, execution.message
        if message.ignore_result:
            return Outcome(delivery, TaskState.SUCCEEDED)
        try:
            codec, encoded = encode_value(value, trusted=self._trusted, task=message.task)
        except EncodingError as error:
            return self._ended(delivery, message, TaskState.FAILED, "EncodingError", str(error), runtime=runtime)
        record = Record(
            TaskState.SUCCEEDED, message.task, time.time(), encoded, codec, None, runtime, message.attempt,
            delivery.lost, self._owner,
        )  # fmt: skip
        return Outcome(delivery, TaskState.SUCCEEDED, encode_record(record), _ttl(message))

    def _raised(self, execution: Execution, error: BaseException, runtime: float) -> Outcome:
        delivery, message, options = execution.delivery, execution.message, execution.task.options
        if not isinstance(error, Exception):
            self.tainted = f"{type(error).__name__} in {message.task}"
        elif isinstance(error, MemoryError):
            self.tainted = f"MemoryError in {message.task}"
        if isinstance(error, options.retry_for) and message.attempt <= options.max_retries:
            delay = retry_delay(options, message.attempt)
            again = msgspec.structs.replace(message, attempt=message.attempt + 1, eta=time.time() + delay)
            log.info("task %s#%s raised %s: attempt %d of %d in %.1f s", message.task, message.id, type(error).__name__,
                     message.attempt + 1, options.max_retries + 1, delay)  # fmt: skip
            return Outcome(delivery, None, follow_ups=(Enqueue.of(again),))
        log.warning("task %s#%s failed: %s", message.task, message.id, type(error).__name__)
        text = "".join(traceback.format_exception(type(error), error, _user_frames(error)))
        return self._ended(
            delivery, message, TaskState.FAILED, type(error).__name__, _text_of(error),
            trace=text[-MAX_TRACEBACK:], error=error, runtime=runtime,
        )  # fmt: skip

    def _unreadable(self, delivery: Delivery, error: DecodingError) -> Outcome:
        log.error("message %s is dead: %s", delivery.task_id, error)
        info = ErrorInfo("DecodingError", str(error))
        record = Record(
            TaskState.DEAD,
            "",
            time.time(),
            error=info,
            lost=delivery.lost,
            owner=self._owner,
            envelope=delivery.envelope,
        )
        return Outcome(delivery, TaskState.DEAD, encode_record(record), _DEFAULT_TTL * 7)

    def _unknown(self, delivery: Delivery, message: Message) -> Outcome:
        count = message.unknown_count + 1
        if count >= MAX_UNKNOWN:
            return self._ended(
                delivery, message, TaskState.DEAD, "UnknownTask",
                f"no worker knows a task named {message.task!r} ({count} looked); known here: {self._some_names()}",
            )  # fmt: skip
        delay = 2.0 ** (count - 1)
        log.warning("task %s#%s is unknown here: handed back for %.0f s", message.task, message.id, delay)
        again = msgspec.structs.replace(message, unknown_count=count, eta=time.time() + delay)
        return Outcome(delivery, None, follow_ups=(Enqueue.of(again),))

    def _some_names(self) -> str:
        names = sorted(self._app.tasks)
        return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "") or "none"

    def _task_by_value(self, message: Message) -> Task[Any, Any]:
        pair = decode(message.function_codec, message.function or b"", trusted=self._trusted)
        if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[1], TaskOptions)):
            raise DecodingError("the function by value is not one poolrt made")
        return Task(self._app, pair[0], message.task, pair[1])

    def _ended(
        self, delivery: Delivery, message: Message, state: TaskState, kind: str, text: str,
        *, trace: str = "", error: BaseException | None = None, runtime: float = 0.0,
    ) -> Outcome:  # fmt: skip
        exception, codec = self._pickled(error)
        record = Record(
            state, message.task, time.time(), error=ErrorInfo(kind, text, trace, exception, codec), runtime=runtime,
            attempt=message.attempt, lost=delivery.lost, owner=self._owner, envelope=delivery.envelope,
        )  # fmt: skip
        if state is TaskState.DEAD:
            log.error("task %s#%s is dead: %s: %s", message.task, message.id, kind, text)
        return Outcome(delivery, state, encode_record(record), _ttl(message))

    def _pickled(self, error: BaseException | None) -> tuple[bytes | None, str]:
        """The exception by value where that is allowed, without its traceback, whose frames hold arguments."""
        if error is None or not self._trusted:
            return None, ""
        try:
            return pickle(error, "the exception"), PICKLE
        except EncodingError:
            return None, ""


def _ttl(message: Message) -> float:
    return _DEFAULT_TTL if message.result_ttl is None else message.result_ttl


def _text_of(error: BaseException) -> str:
    try:
        return str(error)[:4096]
    except Exception as broken:  # noqa: BLE001  a task's exception may have a broken __str__
        return f"<str() of it raised {type(broken).__name__}>"


def _user_frames(error: BaseException) -> Any:
    """The traceback from the user's function on: our own frame above it says nothing."""
    trace = error.__traceback__
    return trace.tb_next if trace is not None and trace.tb_next is not None else trace
