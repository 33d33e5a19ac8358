"""From a Delivery to its Outcome: decode, run the user's function, encode what came of it.

Nothing a task does leaves this module as an exception: whatever it raises, SystemExit and KeyboardInterrupt
included, becomes its Outcome. The broker is not touched here. Only user code is inside the interrupter's window:
neither unpickling a call nor encoding its result can be cut in half by a soft limit.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import random
import time
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from poolrt.app.request import enter, leave
from poolrt.app.task import Task, TaskOptions, retry_of
from poolrt.codec import JSON, PICKLE, decode, encode_value, pickle
from poolrt.errors import DecodingError, EncodingError, SoftTimeLimitExceeded, TaskInterrupted
from poolrt.events import EventKind
from poolrt.hygiene.memory import LOOK_EVERY_NS
from poolrt.message import (
    DEAD_TTL,
    Delivery,
    Enqueue,
    ErrorInfo,
    Message,
    Outcome,
    Owner,
    Record,
    decode_message,
    encodable,
    encode_record,
)
from poolrt.posix.memory import own_peak
from poolrt.states import Activity, Interruption, TaskState

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from poolrt.app.app import App
    from poolrt.board import RowWriter
    from poolrt.child.interruption import Interrupter
    from poolrt.child.limits import Limits

log = logging.getLogger("poolrt.child")

Tell = Callable[[EventKind, str, str, str], None]
"""Reports an event to the supervisor: kind, task, task id, cause."""

MAX_UNKNOWN = 10
"""Looks at a task that nobody knows before it is dead; 1, 2, 4, 8 and then 15 s between them."""
AVOID_SECONDS = 20.0
"""How long a child leaves a task it does not know to others, so that a node that knows it finds it."""
MAX_TRACEBACK = 32 * 1024
MAX_RESULT_BYTES = 64 * 1024 * 1024
"""What a broker's store takes without holding everyone else up for seconds."""
_SUCCEEDED, _FAILED = TaskState.SUCCEEDED, TaskState.FAILED
"""Looked up once: an enum's member costs 0.1 us each time."""
_NO_ARGUMENTS = b"[[],{}]"
"""A payload that need not be decoded."""
_INTERRUPTED = {Interruption.SOFT_LIMIT: "soft time limit", Interruption.STOP: "interrupted by the stop of the node"}


class Execution:
    """A delivery with its decoded envelope and the task it names; made before it runs, so that a batch can be weighed.

    Attributes:
        task: None for a function that travels by value: it is unpickled only when it runs.
        memory_limit: bytes; 0 is none.
        taken_at: when its batch was taken, CLOCK_MONOTONIC ns.
    """

    __slots__ = ("delivery", "memory_limit", "message", "taken_at", "task")

    def __init__(
        self, delivery: Delivery, message: Message, task: Task[Any, Any] | None, memory_limit: int
    ) -> None:  # fmt: skip
        self.delivery = delivery
        self.message = message
        self.task = task
        self.memory_limit = memory_limit
        self.taken_at = 0

    @property
    def name_bytes(self) -> bytes:
        """The task's name, for the board."""
        return self.task.name_bytes if self.task is not None else self.message.task.encode()


class Executor:
    """Runs executions, one at a time.

    Attributes:
        tainted: why the child must be recycled after this task, or an empty text.
        runtime: seconds the last task ran.
        limits: of the runs.
    """

    def __init__(
        self, app: App, owner: Owner, row: RowWriter, limits: Limits, max_deliveries: int, interrupter: Interrupter,
        poke: Callable[[], None], tell: Tell,
    ) -> None:  # fmt: skip
        self._app = app
        self._owner = str(owner)
        self._row = row
        self._trusted = app.broker.trusted
        self._max_deliveries = max_deliveries
        self._interrupter = interrupter
        self.limits = limits
        self._poke = poke
        self._tell = tell
        self._loop: asyncio.AbstractEventLoop | None = None
        self.tainted = ""
        self.runtime = 0.0
        self._avoided: dict[str, float] = {}

    def avoided(self) -> Collection[str]:
        """Names of tasks to leave to other nodes for now: seen lately, and unknown here."""
        if self._avoided:
            now = time.monotonic()
            self._avoided = {name: until for name, until in self._avoided.items() if until > now}
        return self._avoided

    def prepare(self, delivery: Delivery) -> Execution | Outcome:
        """What to run, or the Outcome of a delivery that cannot be: unreadable, unknown or expired."""
        try:
            message = decode_message(delivery.envelope)
        except DecodingError as error:
            return self._unreadable(delivery, error)
        task = self._app.tasks.get(message.task)
        if message.function is not None:
            task = None  # what the sender has defined is run, not what has this name here
        elif task is None:
            return self._unknown(delivery, message)
        if message.expires is not None and time.time() > message.expires:
            late = time.time() - message.expires
            return self._ended(
                delivery, message, TaskState.EXPIRED, "Expired", f"expired {late:.1f} s before it could start"
            )
        if delivery.suspect and (lost_for_good := self._lost_for_good(delivery, message)) is not None:
            return lost_for_good
        memory_limit = self.limits.memory(message)
        if memory_limit and (text := self.limits.never_holds(memory_limit)):
            return self._ended(delivery, message, TaskState.FAILED, "MemoryLimitExceeded", text)
        return Execution(delivery, message, task, memory_limit)

    def _lost_for_good(self, delivery: Delivery, message: Message) -> Outcome | None:
        """The Outcome of a suspect (its node died, and nobody saw what ran) that may not be started once more."""
        if not message.acks_late:
            unseen = "its node died and nobody saw whether it ran: it must not run twice"
            return self._ended(delivery, message, TaskState.FAILED, "WorkerLost", unseen)
        if delivery.lost >= self._max_deliveries:
            text = f"its child or its whole node died {delivery.lost} times while it ran, or may have run"
            return self._ended(delivery, message, TaskState.DEAD, "WorkerLost", text)
        return None

    def run(self, execution: Execution) -> Outcome | None:
        """Run it and say what must happen; the board row names it for exactly as long as user code runs.

        Unpickling is user code too: a message that kills whoever reads it is counted like any other crash.
        None: the task was interrupted because the node stops; its delivery is to be put back.
        """
        delivery, message = execution.delivery, execution.message
        started = time.monotonic_ns()
        hard, soft = self.limits.deadlines(message, started)
        memory = execution.memory_limit
        self._row.run(
            delivery.n, delivery.i, message.id.encode(), execution.name_bytes, started, hard, soft, memory
        )  # fmt: skip
        if hard or soft or memory:
            first = soft or hard or started + LOOK_EVERY_NS
            if (min(first, started + LOOK_EVERY_NS) if memory else first) < self._row.next_wake:
                self._poke()
        enter(message, delivery, self._owner)
        try:
            outcome = self._run(execution, started)
        finally:
            leave()
        if outcome is None:
            self._row.activity(Activity.COMMIT)
        else:
            self._row.ended(failed=outcome.state is _FAILED)
        return outcome

    def _run(self, execution: Execution, started: int) -> Outcome | None:
        delivery, message = execution.delivery, execution.message
        try:
            task = execution.task or self._task_by_value(message)
            args, kwargs = self._arguments(message)
        except BaseException as error:  # noqa: BLE001  see the module's docstring
            self.runtime = (time.monotonic_ns() - started) / 1e9
            if not isinstance(error, DecodingError):
                self.tainted = f"{type(error).__name__} while reading a call of {message.task}"
            return self._ended(delivery, message, TaskState.DEAD, "DecodingError", _text_of(error))
        interrupter = self._interrupter
        try:
            interrupter.open()
            try:
                value = task.function(task, *args, **kwargs) if task.options.bind else task.function(*args, **kwargs)
                if value is not None and inspect.iscoroutine(value):
                    value = self._run_async(value)
            finally:
                interrupter.close()
            self.runtime = (time.monotonic_ns() - started) / 1e9
            if interrupter.raised is not None:
                self.tainted = f"{_INTERRUPTED[interrupter.raised]} in {message.task}"
            return self._succeeded(delivery, message, value)
        except BaseException as error:  # noqa: BLE001  see the module's docstring
            self.runtime = (time.monotonic_ns() - started) / 1e9
            if interrupter.raised is not None:
                self.tainted = f"{_INTERRUPTED[interrupter.raised]} in {message.task}"
                error = _out_of_group(error)
                if isinstance(error, TaskInterrupted) and not message.acks_late:
                    text = f"interrupted after {self.runtime:.2f} s: the node stops, and it must not run twice"
                    return self._ended(
                        delivery, message, TaskState.FAILED, "WorkerLost", text, runtime=self.runtime
                    )  # fmt: skip
                if isinstance(error, TaskInterrupted):
                    cause = f"interrupted after {self.runtime:.2f} s: the node stops; put back, uncounted"
                    self._tell(EventKind.TASK_REQUEUED, message.task, message.id, cause)
                    return None
                if isinstance(error, SoftTimeLimitExceeded) and not error.args:
                    soft = self.limits.soft_text(message)
                    error.args = (f"ran {self.runtime:.2f} s, its soft limit is {soft}",)
            return self._raised(delivery, message, task.options, error)

    def _arguments(self, message: Message) -> tuple[Sequence[Any], Mapping[str, Any]]:
        if message.payload == _NO_ARGUMENTS and message.codec == JSON:
            return (), {}
        call = decode(message.codec, message.payload, trusted=self._trusted)
        if not (
            isinstance(call, (list, tuple))
            and len(call) == 2
            and isinstance(call[0], (list, tuple))
            and isinstance(call[1], dict)
        ):
            raise DecodingError("its payload is not (arguments, keyword arguments)")
        return call[0], call[1]

    def _run_async(self, coroutine: Any) -> Any:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self._loop)
        main = self._loop.create_task(coroutine)
        self._interrupter.entering_loop(self._loop, main)
        try:
            return self._loop.run_until_complete(main)
        except asyncio.CancelledError:
            cancelled = self._interrupter.cancelled
            if cancelled is None:
                raise  # the task's own doing
            kind = SoftTimeLimitExceeded if cancelled is Interruption.SOFT_LIMIT else TaskInterrupted
            raise kind from None
        finally:
            self._interrupter.leaving_loop()

    def current_loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop of the async tasks, once there was one."""
        return self._loop

    def failed_by(self, execution: Execution, leak: str) -> Outcome:
        """The Outcome of the last run, whose leak makes it fail by policy."""
        delivery, message = execution.delivery, execution.message
        return self._ended(delivery, message, TaskState.FAILED, "LeakFound", leak, runtime=self.runtime)

    def close(self) -> None:
        """Close the loop of the async tasks, if there was one."""
        if self._loop is not None:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    # ---- outcomes

    def _succeeded(self, delivery: Delivery, message: Message, value: Any) -> Outcome:
        if message.ignore_result:
            return Outcome(delivery, _SUCCEEDED)
        try:
            codec, encoded = encode_value(value, trusted=self._trusted, task=message.task)
        except EncodingError as error:
            return self._ended(delivery, message, TaskState.FAILED, "EncodingError", str(error), runtime=self.runtime)
        if len(encoded) > MAX_RESULT_BYTES:
            text = f"the result has {len(encoded)} bytes, more than {MAX_RESULT_BYTES}: store it elsewhere"
            return self._ended(delivery, message, TaskState.FAILED, "ResultTooLarge", text, runtime=self.runtime)
        record = Record(
            TaskState.SUCCEEDED, message.task, time.time(), encoded, codec, None, self.runtime, message.attempt,
            delivery.lost, self._owner,
        )  # fmt: skip
        return Outcome(delivery, TaskState.SUCCEEDED, encode_record(record), message.ttl)

    def _raised(self, delivery: Delivery, message: Message, options: TaskOptions, error: BaseException) -> Outcome:
        if not isinstance(error, Exception):
            self.tainted = f"{type(error).__name__} in {message.task}"
        elif isinstance(error, MemoryError):
            self.tainted = f"MemoryError in {message.task}"
        now = time.time()
        again = retry_of(message, options, type(error), now)
        if again is not None:
            log.info("task %s#%s raised %s: attempt %d of %d in %.1f s", message.task, message.id, type(error).__name__,
                     again.attempt, options.max_retries + 1, (again.eta or now) - now)  # fmt: skip
            return Outcome(delivery, None, follow_ups=(Enqueue.of(again),))
        log.warning("task %s#%s failed: %s", message.task, message.id, type(error).__name__)
        text = "".join(traceback.format_exception(type(error), error, _user_frames(error)))
        return self._ended(
            delivery, message, TaskState.FAILED, type(error).__name__, _text_of(error),
            trace=text[-MAX_TRACEBACK:], error=error, runtime=self.runtime,
        )  # fmt: skip

    def _unreadable(self, delivery: Delivery, error: DecodingError) -> Outcome:
        log.error("message %s is dead: %s", delivery.task_id, error)
        record = Record(
            TaskState.DEAD, "", time.time(), error=ErrorInfo("DecodingError", str(error)), lost=delivery.lost,
            owner=self._owner, envelope=_bytes_of(delivery.envelope),
        )  # fmt: skip
        return Outcome(delivery, TaskState.DEAD, encode_record(record), DEAD_TTL)

    def _unknown(self, delivery: Delivery, message: Message) -> Outcome:
        self._avoided[message.task] = time.monotonic() + AVOID_SECONDS
        count = message.unknown_count + 1
        if count >= MAX_UNKNOWN:
            return self._ended(
                delivery, message, TaskState.DEAD, "UnknownTask",
                f"no worker knows a task named {message.task!r} ({count} looked); known here: {self._some_names()}",
            )  # fmt: skip
        # Jitter, or what one node hands back as a batch comes back as a batch, to the same greedy node.
        delay = min(2.0 ** (count - 1), 15.0) * random.uniform(0.5, 1.5)
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
        info = ErrorInfo(encodable(kind), encodable(text), encodable(trace), exception, codec)
        record = Record(
            state, message.task, time.time(), error=info, runtime=runtime, attempt=message.attempt,
            lost=delivery.lost, owner=self._owner, envelope=_bytes_of(delivery.envelope), peak_memory=own_peak(),
        )  # fmt: skip
        if state is TaskState.DEAD:
            log.error("task %s#%s is dead: %s: %s", message.task, message.id, kind, text)
            return Outcome(delivery, state, encode_record(record), DEAD_TTL)
        return Outcome(delivery, state, encode_record(record), message.ttl)

    def _pickled(self, error: BaseException | None) -> tuple[bytes | None, str]:
        """The exception by value where that is allowed, without its traceback, whose frames hold arguments."""
        if error is None or not self._trusted:
            return None, ""
        try:
            return pickle(error, "the exception"), PICKLE
        except BaseException:  # noqa: BLE001  the exception's own __reduce__ may raise anything
            return None, ""


def _out_of_group(error: BaseException) -> BaseException:
    """The interruption in an exception group (a TaskGroup's), or ``error`` itself."""
    while isinstance(error, BaseExceptionGroup):
        found = error.subgroup((SoftTimeLimitExceeded, TaskInterrupted))
        if found is None:
            break
        error = found.exceptions[0]
    return error


def _bytes_of(envelope: object) -> bytes:
    """What was stored, for the record; a foreign writer may have stored anything."""
    return envelope if isinstance(envelope, bytes) else str(envelope).encode("utf-8", "replace")


def _text_of(error: BaseException) -> str:
    try:
        return str(error)[:4096]
    except BaseException as broken:  # noqa: BLE001  a task's exception may have a broken __str__
        return f"<str() of it raised {type(broken).__name__}>"


def _user_frames(error: BaseException) -> Any:
    """The traceback from the user's function on: our own frame above it says nothing."""
    trace = error.__traceback__
    return trace.tb_next if trace is not None and trace.tb_next is not None else trace
