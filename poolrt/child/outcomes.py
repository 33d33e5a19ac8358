"""What a delivery leaves: Outcomes with their records, for every way in which it can end here.

The broker is not touched, and no user code is called but a value's or an exception's own pickling.
"""

from __future__ import annotations

import logging
import random
import time
import traceback
from typing import TYPE_CHECKING, Any, Final

import msgspec

from poolrt.app.cancelled import cancelled, going_on
from poolrt.app.canvas.failing import failing
from poolrt.app.canvas.following import follow
from poolrt.codec import PICKLE, encode_value, pickle
from poolrt.errors import ResultTooLarge
from poolrt.message import (
    DEAD_TTL,
    Delivery,
    ErrorInfo,
    Message,
    Outcome,
    Record,
    encodable,
    encode_record,
)
from poolrt.posix.memory import own_peak
from poolrt.states import TaskState

if TYPE_CHECKING:
    from poolrt.app.app import App
    from poolrt.errors import DecodingError, EncodingError

log = logging.getLogger("poolrt.child")

MAX_UNKNOWN: Final = 10
"""Looks at a task that nobody knows before it is dead; 1, 2, 4, 8 and then 15 s between them."""
MAX_TRACEBACK: Final = 32 * 1024
MAX_RESULT_BYTES: Final = 64 * 1024 * 1024
"""What a broker's store takes without holding everyone else up for seconds."""
_SUCCEEDED: Final = TaskState.SUCCEEDED
"""Looked up once: an enum's member costs 0.1 us each time."""


class Outcomes:
    """Makes the Outcomes of one child.

    Args:
        app: whose tasks it runs.
        owner: the child, as records name it.
    """

    def __init__(self, app: App, owner: str) -> None:
        self._app = app
        self._owner = owner
        self._trusted = app.broker.trusted

    def succeeded(self, delivery: Delivery, message: Message, value: Any, runtime: float) -> Outcome:
        """The task returned ``value``; raises EncodingError if that cannot be kept, or carried to what follows."""
        terms = message.terms
        if message.ignore_result and (terms is None or not terms.follow):
            return Outcome(delivery, _SUCCEEDED)
        codec, encoded = encode_value(value, trusted=self._trusted, task=message.task)
        if len(encoded) > MAX_RESULT_BYTES:
            raise ResultTooLarge(
                f"the result has {len(encoded)} bytes, more than {MAX_RESULT_BYTES}: store it elsewhere"
            )
        record = Record(
            _SUCCEEDED, message.task, time.time(), encoded, codec, None, runtime, message.attempt, delivery.lost,
            self._owner,
        )  # fmt: skip
        if terms is None:
            return Outcome(delivery, _SUCCEEDED, encode_record(record), message.ttl)
        record = msgspec.structs.replace(record, history=terms.history)
        outcome = Outcome(
            delivery, _SUCCEEDED, None if message.ignore_result else encode_record(record), message.ttl
        )  # fmt: skip
        return follow(self._app, message, codec, encoded, record.finished_at).of(outcome)

    def ignored(self, delivery: Delivery, message: Message) -> Outcome:
        """The task ended without a record; what follows it in a workflow does not come."""
        record = Record(
            TaskState.FAILED, message.task, time.time(), error=ErrorInfo("Ignored", "it ended without a result"),
            owner=self._owner,
        )  # fmt: skip
        return failing(message, record).of(Outcome(delivery, _SUCCEEDED))

    def raised(
        self, delivery: Delivery, message: Message, error: BaseException, runtime: float
    ) -> Outcome:  # fmt: skip
        """The task raised ``error``, and is not tried again."""
        log.warning("task %s#%s failed: %s", message.task, message.id, type(error).__name__)
        return self.ended(
            delivery, message, TaskState.FAILED, type(error).__name__, text_of(error),
            trace=traceback_of(error), error=error, runtime=runtime,
        )  # fmt: skip

    def refused(self, delivery: Delivery, message: Message, error: EncodingError, runtime: float) -> Outcome:
        """The task returned what cannot be kept."""
        return self.ended(delivery, message, TaskState.FAILED, type(error).__name__, str(error), runtime=runtime)

    def continued(self, delivery: Delivery, again: Message) -> Outcome:
        """The task goes on as ``again``."""
        return going_on(delivery, again)

    def ended(
        self, delivery: Delivery, message: Message, state: TaskState, kind: str, text: str,
        *, trace: str = "", error: BaseException | None = None, runtime: float = 0.0, is_theirs: bool = False,
    ) -> Outcome:  # fmt: skip
        """It ended without a value; the record keeps the message as it was. What is ``theirs`` stays out of logs."""
        exception, codec = self._pickled(error)
        info = ErrorInfo(encodable(kind), encodable(text), encodable(trace), exception, codec)
        record = Record(
            state, message.task, time.time(), error=info, runtime=runtime, attempt=message.attempt,
            lost=delivery.lost, owner=self._owner, envelope=_bytes_of(delivery.envelope), peak_memory=own_peak(),
            history=message.terms.history if message.terms is not None else (),
        )  # fmt: skip
        if state is TaskState.DEAD:
            log.error("task %s#%s is dead: %s", message.task, message.id, kind if is_theirs else f"{kind}: {text}")
        ttl = DEAD_TTL if state is TaskState.DEAD else message.ttl
        return failing(message, record).of(Outcome(delivery, state, encode_record(record), ttl))

    def cancelled(self, delivery: Delivery, history: str, runtime: float) -> Outcome:
        """It was cancelled while it ran, and has ended before its child had to be killed."""
        return cancelled(delivery, history=history, owner=self._owner, runtime=runtime, peak_memory=own_peak())

    def unreadable(self, delivery: Delivery, error: DecodingError) -> Outcome:
        """Its envelope is none that can be read here."""
        log.error("message %s is dead: %s", delivery.task_id, error)
        record = Record(
            TaskState.DEAD, "", time.time(), error=ErrorInfo("DecodingError", str(error)), lost=delivery.lost,
            owner=self._owner, envelope=_bytes_of(delivery.envelope),
        )  # fmt: skip
        return Outcome(delivery, TaskState.DEAD, encode_record(record), DEAD_TTL)

    def unknown(self, delivery: Delivery, message: Message) -> Outcome:
        """Nobody here knows its task: handed back for a while, at last dead."""
        count = message.unknown_count + 1
        if count >= MAX_UNKNOWN:
            return self.ended(
                delivery, message, TaskState.DEAD, "UnknownTask",
                f"no worker knows a task named {message.task!r} ({count} looked); known here: {self._some_names()}",
            )  # fmt: skip
        # Jitter, or what one node hands back as a batch comes back as a batch, to the same greedy node.
        delay = min(2.0 ** (count - 1), 15.0) * random.uniform(0.5, 1.5)
        log.warning("task %s#%s is unknown here: handed back for %.0f s", message.task, message.id, delay)
        again = msgspec.structs.replace(message, unknown_count=count, eta=time.time() + delay)
        return self.continued(delivery, again)

    def _some_names(self) -> str:
        names = sorted(self._app.tasks)
        return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "") or "none"

    def _pickled(self, error: BaseException | None) -> tuple[bytes | None, str]:
        """The exception by value where that is allowed, without its traceback, whose frames hold arguments."""
        if error is None or not self._trusted:
            return None, ""
        try:
            return pickle(error, "the exception"), PICKLE
        except BaseException:  # noqa: BLE001  the exception's own __reduce__ may raise anything
            return None, ""


def _bytes_of(envelope: object) -> bytes:
    """What was stored, for the record; a foreign writer may have stored anything."""
    return envelope if isinstance(envelope, bytes) else str(envelope).encode("utf-8", "replace")


def text_of(error: BaseException) -> str:
    """What it says, cut."""
    try:
        return str(error)[:4096]
    except BaseException as broken:  # noqa: BLE001  a task's exception may have a broken __str__
        return f"<str() of it raised {type(broken).__name__}>"


def traceback_of(error: BaseException) -> str:
    """Formatted from the user's code on, since our own frames above it say nothing; cut, to its end."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None and _is_ours(trace.tb_frame.f_globals):
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(error), error, trace))[-MAX_TRACEBACK:]


def _is_ours(module: dict[str, Any]) -> bool:
    return str(module.get("__name__", "")).startswith("poolrt.child.")
