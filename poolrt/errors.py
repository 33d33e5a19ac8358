"""Every error and exit code of poolrt, each with its one sentence.

An error says what happened, where, and what to do; the command line prints it as one line and turns it
into the exit code of its class.
"""

from __future__ import annotations

import enum


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


class DecodingError(PoolrtError, ValueError):
    """Bytes are not a message this poolrt can read; they were kept, and never unpickled."""


class ResultError(PoolrtError):
    """Base of what ``AsyncResult.get`` raises when there is no value to return."""


class ResultTimeout(ResultError, TimeoutError):
    """The task did not end within the timeout of ``get``; it goes on."""


class ResultIgnored(ResultError):
    """The task keeps no result (``ignore_result=True``), so there is nothing to wait for."""


class TaskFailed(ResultError):
    """The task ended without a value.

    Attributes:
        task_id: the id of the task.
        cause: the name of the exception or of the outcome, for example ``ValueError`` or ``WorkerLost``.
        traceback: the formatted traceback of the task, or an empty string.
    """

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
    """The task was cancelled."""


class TimeLimitExceeded(TaskFailed):
    """The task ran past its ``time_limit`` and its child was killed."""


class MemoryLimitExceeded(TaskFailed):
    """The task's child grew past the task's ``memory_limit`` and was killed."""


class SoftTimeLimitExceeded(BaseException):
    """Raised inside a task that has run past its ``soft_time_limit``: clean up and end.

    A BaseException, so that a task's ``except Exception`` cannot swallow it. Outside the task it is an ordinary
    failure: ``AsyncResult.get`` raises TaskFailed with this name as its ``cause``.
    """


class TaskInterrupted(BaseException):
    """Raised inside a task that still runs when its node must stop now: clean up and end.

    The delivery is put back, uncounted, and runs again elsewhere; a task that catches this and returns has succeeded.
    """
