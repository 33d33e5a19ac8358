"""Every error and exit code of poolrt, each with its one sentence.

An error says what happened, where, and what to do; the command line prints it as one line and turns it
into the exit code of its class.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from typing import Any


class ExitCode(enum.IntEnum):
    """Exit codes of ``poolrt`` (documented in docs/reference/exit-codes.md, generated from here)."""

    OK = 0
    """Clean: everything that was held is finished or was put back."""
    UNEXPECTED = 1
    """An error poolrt did not foresee; run again with ``-v`` for the traceback."""
    USAGE = 2
    """A flag, an environment variable or a setting is wrong."""
    BOOT_FAILED = 3
    """The app cannot be imported, or children keep failing before they are up."""
    BROKER_UNUSABLE = 4
    """The broker cannot be used: wrong version, not a database, read-only, on a network file system."""
    RESTART_LIMIT = 5
    """Children died too often in too short a time; poolrt gave up instead of looping."""
    FORCED_STOP = 6
    """The grace was over, or a second signal came: what still ran was stopped and put back."""
    NODE_NAME_TAKEN = 7
    """Another supervisor runs under this node name."""
    NOT_RUNNING = 8
    """``poolrt status`` or ``poolrt top`` found no supervisor of that name."""
    UNBALANCED = 9
    """``poolrt demo``: the account does not balance, or a process was left over."""
    TASK_FAILED = 10
    """``poolrt enqueue --wait``: the task ended without a value."""
    NOT_IN_TIME = 11
    """``poolrt enqueue --wait``: the task did not end in time; it goes on."""
    TASK_REFUSED = 12
    """A task that was named is unknown, or its state does not allow what was asked; of other tasks it is done."""


class PoolrtError(Exception):
    """Base of every error poolrt raises on purpose."""

    exit_code: ExitCode = ExitCode.UNEXPECTED


class ConfigurationError(PoolrtError, ValueError):
    """A setting, an option of a task or an argument of a call is wrong."""

    exit_code = ExitCode.USAGE


class DuplicateTask(ConfigurationError):
    """Two tasks carry one name; both places are named."""


class AppNotFound(PoolrtError):
    """The app named on the command line cannot be imported or is not an ``App``."""

    exit_code = ExitCode.BOOT_FAILED


class BootFailed(PoolrtError):
    """The template could not import the app, or children keep failing before they are up."""

    exit_code = ExitCode.BOOT_FAILED


class RestartLimitReached(PoolrtError):
    """Children died too often in too short a time."""

    exit_code = ExitCode.RESTART_LIMIT


class NodeNameTaken(PoolrtError):
    """Another supervisor runs under this node name."""

    exit_code = ExitCode.NODE_NAME_TAKEN


class SupervisorNotRunning(PoolrtError):
    """No supervisor answers on the control socket."""

    exit_code = ExitCode.NOT_RUNNING


class ControlError(PoolrtError):
    """The supervisor refused a control request; the text says why."""


class BrokerError(PoolrtError):
    """Base of what a broker can raise to a producer; nothing was enqueued unless the text says otherwise."""

    exit_code = ExitCode.BROKER_UNUSABLE


class BrokerBusy(BrokerError, TimeoutError):
    """The broker did not let us in within its timeout; try again."""


class BrokerUnreachable(BrokerError):
    """The broker's server cannot be reached, or did not answer within the timeout; whether it did what was asked last
    is not known."""


class BrokerFull(BrokerError):
    """No space is left where the broker stores its messages."""


class BrokerReadOnly(BrokerError):
    """The broker's store cannot be written."""


class BrokerCorrupt(BrokerError):
    """The broker's store is damaged or not one of poolrt's."""


class BrokerDamaged(BrokerError):
    """A key of the broker's namespace holds what poolrt did not put there; the rest of the store goes on."""


class BrokerIncompatible(BrokerError):
    """The store was written by a newer poolrt, lies where it cannot work (a network file system), or its server is
    too old."""


class Fenced(BrokerError):
    """The owner was buried or is unknown: the broker did nothing for it (protocol.md, rule 2)."""


class EncodingError(PoolrtError, TypeError):
    """A value cannot be carried by the codecs this broker allows."""


class ResultTooLarge(EncodingError):
    """A result has more bytes than a broker's store should take."""


class DecodingError(PoolrtError, ValueError):
    """Bytes are not a message this poolrt can read; they were kept, and never unpickled."""


class TaskRefused(PoolrtError):
    """A task that was named on the command line is unknown, or not in a state that allows what was asked."""

    exit_code = ExitCode.TASK_REFUSED


class ResultError(PoolrtError):
    """Base of what ``AsyncResult.get`` raises when there is no value to return."""


class ResultTimeout(ResultError, TimeoutError):
    """The task did not end within the timeout of ``get``; it goes on."""

    exit_code = ExitCode.NOT_IN_TIME


class ResultIgnored(ResultError):
    """The task keeps no result (``ignore_result=True``), so there is nothing to wait for."""


class WaitInsideTask(ResultError, RuntimeError):
    """A running task waits for another one, which may need the child that it holds itself: neither would end."""


class TaskFailed(ResultError):
    """The task ended without a value.

    Attributes:
        task_id: the id of the task.
        cause: the name of the exception or of the outcome, for example ``ValueError`` or ``WorkerLost``.
        traceback: the formatted traceback of the task, or an empty string.
    """

    exit_code = ExitCode.TASK_FAILED

    def __init__(self, text: str, *, task_id: str = "", cause: str = "", traceback: str = "") -> None:
        super().__init__(text)
        self.task_id = task_id
        self.cause = cause
        self.traceback = traceback


class TaskDead(TaskFailed):
    """The message was given up; its record says why and keeps its bytes."""


class WorkerLost(TaskDead):
    """The child that ran the task died, and the task may not be delivered again."""


class TaskExpired(TaskFailed):
    """The task's ``expires`` had passed before it could start."""


class TaskCancelled(TaskFailed):
    """The task was cancelled: it never started, or ``Cancelled`` was raised in it."""


class TimeLimitExceeded(TaskFailed):
    """The task ran past its ``time_limit`` and its child was killed."""


class MemoryLimitExceeded(TaskFailed):
    """The task's child grew past the task's ``memory_limit`` and was killed."""


class ChordError(TaskFailed):
    """A member of a group ended without a value, so that what waits for all of them is not called."""


class MaxRetriesExceeded(TaskFailed):
    """The task asked for another attempt, without an exception to fail with, and had none left."""


class Ending(BaseException):
    """Base of what a task raises to say how this attempt ends. A BaseException, so that ``except Exception`` in a task
    or in a library that it calls cannot swallow it."""


class Retry(Ending):
    """Raised inside a task: try it again. ``self.retry()`` raises it.

    Args:
        text: why, for the record.
        exc: what to fail with when no attempt is left; else it is MaxRetriesExceeded.
        countdown: seconds until the next attempt, or a duration such as ``"5m"``; by default the task's backoff.
        eta: the moment of the next attempt, an aware datetime, instead of a countdown.
        max_retries: as many retries, instead of the task's.
        call_args: positional arguments of the next attempt, instead of this one's.
        call_kwargs: keyword arguments of the next attempt, instead of this one's.

    Raises:
        ConfigurationError: a countdown and an eta, or an eta without a time zone.
    """

    def __init__(
        self, text: str = "", *, exc: BaseException | None = None, countdown: float | str | None = None,
        eta: datetime | None = None, max_retries: int | None = None,
        call_args: Sequence[Any] | None = None, call_kwargs: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(text)
        if countdown is not None and eta is not None:
            raise ConfigurationError("Retry: give countdown or eta, not both")
        self.exc = exc
        self.countdown = countdown
        self.eta = eta
        self.max_retries = max_retries
        self.call_args = call_args
        self.call_kwargs = call_kwargs


class Reject(Ending):
    """Raised inside a task: give it up as dead, or with ``requeue`` put it back uncounted, to be run in a second."""

    def __init__(self, reason: str = "", requeue: bool = False) -> None:  # noqa: FBT001, FBT002  Celery's signature
        super().__init__(reason)
        self.reason = reason
        self.requeue = requeue


class Ignore(Ending):
    """Raised inside a task: it ends without a record, as if it kept no result."""


class SoftTimeLimitExceeded(BaseException):
    """Raised inside a task that has run past its ``soft_time_limit``: clean up and end.

    A BaseException, so that a task's ``except Exception`` cannot swallow it. Outside the task it is an ordinary
    failure: ``AsyncResult.get`` raises TaskFailed with this name as its ``cause``.
    """


class Cancelled(BaseException):
    """Raised inside a task that is cancelled while it runs: clean up and end.

    Whatever it does then, it ends as cancelled and is not tried again; after the node's ``cancel_grace`` its child is
    killed. Outside the task ``AsyncResult.get`` raises TaskCancelled.
    """


class TaskInterrupted(BaseException):
    """Raised inside a task that still runs when its node must stop now: clean up and end.

    The delivery is put back, uncounted, and runs again elsewhere; a task that catches this and returns has succeeded.
    """
