"""From a Delivery to its Outcome: decode, run the user's function between its hooks, see what came of it.

Nothing a task does leaves this module as an exception: whatever it raises, SystemExit and KeyboardInterrupt
included, becomes its Outcome. The broker is not touched here, but for ``track_started``. Only user code is inside the
interrupter's window: neither unpickling a call nor encoding its result can be cut in half by a soft limit.
"""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from poolrt.app import progress
from poolrt.app.request import enter, leave
from poolrt.app.retrying import attempt_ended, retry_as_asked, retry_of
from poolrt.child.coroutines import Coroutines
from poolrt.child.hooks import Hooks
from poolrt.child.interruption import INTERRUPTIONS
from poolrt.child.outcomes import Outcomes, text_of
from poolrt.child.reading import call_of, task_by_value
from poolrt.codec import JSON
from poolrt.errors import (
    BrokerError,
    Cancelled,
    ConfigurationError,
    DecodingError,
    EncodingError,
    Ending,
    Ignore,
    MaxRetriesExceeded,
    Reject,
    Retry,
    SoftTimeLimitExceeded,
    TaskInterrupted,
)
from poolrt.events import EventKind
from poolrt.hygiene.memory import LOOK_EVERY_NS
from poolrt.message import Delivery, Message, Outcome, Owner, decode_message
from poolrt.states import Activity, Interruption, TaskState
from poolrt.terms import Attempt

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Collection, Mapping, Sequence

    from poolrt.app.app import App
    from poolrt.app.options import TaskOptions
    from poolrt.app.task import Task
    from poolrt.board import RowWriter
    from poolrt.child.interruption import Interrupter
    from poolrt.child.limits import Limits

log = logging.getLogger("poolrt.child")

Tell = Callable[[EventKind, str, str, str], None]
"""Reports an event to the supervisor: kind, task, task id, cause."""

AVOID_SECONDS: Final = 20.0
"""How long a child leaves a task it does not know to others, so that a node that knows it finds it."""
REJECTED_FOR: Final = 1.0
"""Seconds that a task which was put back by ``Reject`` waits, so that nobody rejects it in a loop."""
_FAILED: Final = TaskState.FAILED
"""Looked up once: an enum's member costs 0.1 us each time."""
_INTERRUPTED: Final = {
    Interruption.SOFT_LIMIT: "soft time limit",
    Interruption.STOP: "interrupted by the stop of the node",
    Interruption.CANCEL: "cancelled",
}


class Execution:
    """A delivery with its decoded envelope and the task it names; made before it runs, so that a batch can be weighed.

    Attributes:
        task: None for a function that travels by value: it is unpickled only when it runs.
        memory_limit: bytes; 0 is none.
        deadline: of its first time limit, CLOCK_MONOTONIC ns, once it runs; 0 is none.
        taken_at: when its batch was taken, CLOCK_MONOTONIC ns.
        hooks: those of its task, once it runs.
    """

    __slots__ = ("deadline", "delivery", "hooks", "memory_limit", "message", "taken_at", "task")

    def __init__(
        self, delivery: Delivery, message: Message, task: Task[..., Any] | None, memory_limit: int
    ) -> None:  # fmt: skip
        self.delivery = delivery
        self.message = message
        self.task = task
        self.memory_limit = memory_limit
        self.deadline = 0
        self.taken_at = 0
        self.hooks: Hooks | None = None

    @property
    def name_bytes(self) -> bytes:
        """The task's name, for the board."""
        return self.task.name_bytes if self.task is not None else self.message.task.encode()


class Executor:
    """Runs executions, one at a time.

    Attributes:
        tainted: why the child must be recycled after this task, or an empty text.
        runtime: seconds the last task ran, its hooks included.
        limits: of the runs.
    """

    def __init__(
        self, app: App, owner: Owner, row: RowWriter, limits: Limits, max_deliveries: int, interrupter: Interrupter,
        poke: Callable[[], None], tell: Tell, node: str = "",
    ) -> None:  # fmt: skip
        self._app = app
        self._owner = str(owner)
        self._node = node
        self._row = row
        self._trusted = app.broker.trusted
        self._max_deliveries = max_deliveries
        self._interrupter = interrupter
        self.limits = limits
        self._poke = poke
        self._tell = tell
        self._outcomes = Outcomes(app, self._owner)
        self._coroutines = Coroutines(interrupter)
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
            return self._outcomes.unreadable(delivery, error)
        task = self._app.tasks.get(message.task) or self._app.builtin.get(message.task)
        if message.function is not None:
            task = None  # what the sender has defined is run, not what has this name here
        elif task is None:
            self._avoided[message.task] = time.monotonic() + AVOID_SECONDS
            return self._outcomes.unknown(delivery, message)
        if message.expires is not None and time.time() > message.expires:
            text = f"expired {time.time() - message.expires:.1f} s before it could start"
            return self._outcomes.ended(delivery, message, TaskState.EXPIRED, "Expired", text)
        if delivery.suspect and (lost_for_good := self._lost_for_good(delivery, message)) is not None:
            return lost_for_good
        memory_limit = self.limits.memory(message)
        if memory_limit and (text := self.limits.never_holds(memory_limit)):
            return self._outcomes.ended(delivery, message, TaskState.FAILED, "MemoryLimitExceeded", text)
        return Execution(delivery, message, task, memory_limit)

    def _lost_for_good(self, delivery: Delivery, message: Message) -> Outcome | None:
        """The Outcome of a suspect (its node died, and nobody saw what ran) that may not be started once more."""
        if not message.acks_late:
            unseen = "its node died and nobody saw whether it ran: it must not run twice"
            return self._outcomes.ended(delivery, message, TaskState.FAILED, "WorkerLost", unseen)
        if delivery.lost >= self._max_deliveries:
            text = f"its child or its whole node died {delivery.lost} times while it ran, or may have run"
            return self._outcomes.ended(delivery, message, TaskState.DEAD, "WorkerLost", text)
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
            execution.deadline = first = soft or hard
            first = first or started + LOOK_EVERY_NS
            if (min(first, started + LOOK_EVERY_NS) if memory else first) < self._row.next_wake:
                self._poke()
        enter(execution, self._owner, self._node)
        try:
            if message.terms is not None and message.terms.track_started:
                progress.note(self._app.broker, execution, TaskState.STARTED, JSON, b"null")
            outcome = self._run(execution, started)
            if execution.hooks is not None and outcome is not None:
                self._after(execution.hooks, outcome, started)
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
            task = execution.task
            if task is None:
                task = execution.task = task_by_value(self._app, message)
            args, kwargs = call_of(message, self._app.broker)
        except BaseException as error:  # noqa: BLE001  see the module's docstring
            self.runtime = (time.monotonic_ns() - started) / 1e9
            return self._unread(delivery, message, error)
        interrupter = self._interrupter
        try:
            if task.has_hooks:
                execution.hooks = Hooks(interrupter, task, message, args, kwargs)
                execution.hooks.before()
            interrupter.open()
            try:
                value = task.function(task, *args, **kwargs) if task.options.bind else task.function(*args, **kwargs)
                if value is not None and inspect.iscoroutine(value):
                    value = self._coroutines.run(value)
            finally:
                interrupter.close()
            self.runtime = (time.monotonic_ns() - started) / 1e9
            if execution.hooks is not None:
                execution.hooks.value = value
            if interrupter.raised is not None and self._taint_by_interruption(message) is Interruption.CANCEL:
                return self._cancelled(execution, "returned")
            try:
                return self._outcomes.succeeded(delivery, message, value, self.runtime)
            except EncodingError as error:  # it is not tried again: it has run, and would be refused again
                return self._heard(execution, "", error, self._outcomes.refused(delivery, message, error, self.runtime))
        except BaseException as error:  # noqa: BLE001  see the module's docstring
            self.runtime = (time.monotonic_ns() - started) / 1e9
            return self._raised(execution, task, args, kwargs, error)

    def _unread(self, delivery: Delivery, message: Message, error: BaseException) -> Outcome:
        """What it is called with cannot be read: never, or not now."""
        if isinstance(error, BrokerError):
            log.warning("task %s#%s is put back for a second: %s", message.task, message.id, error)
            again = msgspec.structs.replace(message, eta=time.time() + REJECTED_FOR)
            return self._outcomes.continued(delivery, again)
        if not isinstance(error, DecodingError):
            self.tainted = f"{type(error).__name__} while reading a call of {message.task}"
        return self._outcomes.ended(delivery, message, TaskState.DEAD, "DecodingError", text_of(error))

    def _after(self, hooks: Hooks, outcome: Outcome, started: int) -> None:
        was = self._interrupter.raised
        hooks.after(outcome, self.runtime)
        self.runtime = (time.monotonic_ns() - started) / 1e9
        raised = self._interrupter.raised
        if raised is not None and was is None:
            hooks.taint = f"{_INTERRUPTED[raised]} in a hook"
        self.tainted = self.tainted or hooks.taint

    def current_loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop of the async tasks, once there was one."""
        return self._coroutines.loop

    def failed_by(self, execution: Execution, leak: str) -> Outcome:
        """The Outcome of the last run, whose leak makes it fail by policy."""
        delivery, message = execution.delivery, execution.message
        return self._outcomes.ended(delivery, message, TaskState.FAILED, "LeakFound", leak, runtime=self.runtime)

    def close(self) -> None:
        """Close the loop of the async tasks, if there was one."""
        self._coroutines.close()

    # ---- what raised

    def _raised(
        self, execution: Execution, task: Task[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any],
        error: BaseException,
    ) -> Outcome | None:  # fmt: skip
        """What came of a run that ``error`` ended; None if it is to be put back."""
        delivery, message = execution.delivery, execution.message
        if self._interrupter.raised is not None:
            error = _out_of_group(error)
            if self._taint_by_interruption(message) is Interruption.CANCEL:
                how = "ended by itself" if isinstance(error, Cancelled) else f"raised {type(error).__name__}"
                return self._cancelled(execution, how, error)
            if isinstance(error, TaskInterrupted):
                return self._stopped(execution, error)
            if isinstance(error, SoftTimeLimitExceeded) and not error.args:
                error.args = (f"ran {self.runtime:.2f} s, its soft limit is {self.limits.soft_text(message)}",)
        error = _out_of_group(error, (Ending,))
        if isinstance(error, Ignore | Reject):
            return self._given_up(execution, error)
        again, error = self._next_attempt(execution, task.options, error, args, kwargs)
        if not isinstance(error, Exception | Ending) or isinstance(error, MemoryError):
            self.tainted = f"{type(error).__name__} in {message.task}"
        if again is None:
            return self._heard(execution, "", error, self._outcomes.raised(delivery, message, error, self.runtime))
        if self._interrupter.is_cancelled:
            return self._cancelled(execution, f"raised {type(error).__name__}, and is not tried again", error)
        log.info("task %s#%s raised %s: attempt %d in %.1f s", message.task, message.id, type(error).__name__,
                 again.attempt, max((again.eta or 0) - time.time(), 0))  # fmt: skip
        reason = error.exc if isinstance(error, Retry) else error
        return self._heard(execution, "", reason, self._outcomes.continued(delivery, again))

    def _taint_by_interruption(self, message: Message) -> Interruption | None:
        """The child is recycled after an interruption, whatever came of the task; which one it was."""
        raised = self._interrupter.raised
        if raised is not None:
            self.tainted = f"{_INTERRUPTED[raised]} in {message.task}"
        return raised

    def _next_attempt(
        self, execution: Execution, options: TaskOptions, error: BaseException, args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> tuple[Message | None, BaseException]:  # fmt: skip
        """What follows a run that raised, if something does; and what it raised, or fails with."""
        if isinstance(error, Retry):
            return self._as_asked(execution, options, error, args, kwargs)
        if not options.retry_for:
            return None, error
        ended = self._attempt_ended(execution, type(error).__name__, text_of(error))
        return retry_of(execution.message, options, type(error), ended), error

    def _attempt_ended(self, execution: Execution, cause: str, text: str) -> tuple[Attempt, ...]:
        return attempt_ended(execution.message, cause, text, self.runtime, self._owner, execution.delivery.lost)

    def _as_asked(
        self, execution: Execution, options: TaskOptions, retry: Retry, args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> tuple[Message | None, BaseException]:  # fmt: skip
        """The next attempt that the task asked for; or None, and what the task fails with."""
        message = execution.message
        text, why = text_of(retry), retry.__context__
        if not text and retry.exc is not None:
            text = text_of(retry.exc)
        elif not text and why is not None:
            text = f"{type(why).__name__}: {text_of(why)}"
        ended = self._attempt_ended(execution, type(retry.exc or retry).__name__, text)
        try:
            again = retry_as_asked(message, options, retry, ended, (args, kwargs), trusted=self._trusted)
        except (ConfigurationError, EncodingError) as error:
            return None, error
        if again is not None:
            return again, retry
        attempts = f"{message.task} was tried {message.attempt} times"
        return None, retry.exc or MaxRetriesExceeded(f"{attempts}: {text}" if text else attempts)

    def _given_up(self, execution: Execution, error: Ignore | Reject) -> Outcome:
        """It has no value and has not failed: it ends without a record, or dead, or it is put back."""
        delivery, message = execution.delivery, execution.message
        if isinstance(error, Ignore):
            return self._heard(execution, "ignored", error, self._outcomes.ignored(delivery, message))
        if not error.requeue:
            text = text_of(error) or "the task gave it up"
            dead = self._outcomes.ended(
                delivery, message, TaskState.DEAD, "Rejected", text, runtime=self.runtime, is_theirs=True
            )  # fmt: skip
            return self._heard(execution, "", error, dead)
        if self._interrupter.is_cancelled:
            return self._cancelled(execution, "rejected it, and it is not put back", error)
        log.info("task %s#%s was rejected: put back for %.0f s", message.task, message.id, REJECTED_FOR)
        again = msgspec.structs.replace(message, eta=time.time() + REJECTED_FOR)
        return self._heard(execution, "requeued", error, self._outcomes.continued(delivery, again))

    def _stopped(self, execution: Execution, error: BaseException) -> Outcome | None:
        """The node stops: put back uncounted, or ended if it must not run twice."""
        delivery, message = execution.delivery, execution.message
        if not message.acks_late:
            text = f"interrupted after {self.runtime:.2f} s: the node stops, and it must not run twice"
            lost = self._outcomes.ended(
                delivery, message, TaskState.FAILED, "WorkerLost", text, runtime=self.runtime
            )  # fmt: skip
            return self._heard(execution, "", error, lost)
        cause = f"interrupted after {self.runtime:.2f} s: the node stops; put back, uncounted"
        self._tell(EventKind.TASK_REQUEUED, message.task, message.id, cause)
        return None

    def _cancelled(self, execution: Execution, how: str, error: BaseException | None = None) -> Outcome:
        """It was cancelled while it ran, and has ended before its child had to be killed."""
        message, text = execution.message, f"it was running, and {how} after {self.runtime:.2f} s"
        self._tell(EventKind.TASK_CANCELLED, message.task, message.id, f"TaskCancelled: {text}")
        return self._heard(execution, "", error, self._outcomes.cancelled(execution.delivery, text, self.runtime))

    def _heard(self, execution: Execution, status: str, error: BaseException | None, outcome: Outcome) -> Outcome:
        """``outcome``, and what the hooks are told beside it."""
        if (hooks := execution.hooks) is not None:
            hooks.status, hooks.error, hooks.value = status, error, None
        return outcome


def _out_of_group(error: BaseException, kinds: tuple[type[BaseException], ...] = INTERRUPTIONS) -> BaseException:
    """The first of these in an exception group (a TaskGroup's), or ``error`` itself."""
    while isinstance(error, BaseExceptionGroup):
        found = error.subgroup(kinds)
        if found is None:
            break
        error = found.exceptions[0]
    return error
