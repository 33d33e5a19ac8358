"""Middleware: code around every call and every run of an app, ``App(middleware=[Tracing(), Timing()])``.

    sender   before_enqueue  1st, 2nd …  ──▶  broker  ──▶  … 2nd, 1st  after_enqueue
    child    before_run      1st, 2nd …  ──▶  task    ──▶  … 2nd, 1st  after_run

A hook that raises is logged, and the others, the call and the task go on as if it had not been there. Hooks in a child
are part of the run: its limits hold for them as well. What ends with its child (by a hard limit, a crash) gets no
after_run.
"""

from __future__ import annotations

import inspect
import logging
import traceback
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from poolrt.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from poolrt.app.request import Request
    from poolrt.message import Message

log = logging.getLogger("poolrt.app")


class Ended(NamedTuple):
    """How a run ended, as hooks see it."""

    status: str
    """A final TaskState, or ``retry`` (there is a next attempt), ``requeued`` (``Reject(requeue=True)``) or
    ``ignored`` (``Ignore``)."""
    value: Any
    """What the task returned; None unless it succeeded."""
    error: BaseException | None
    """What it raised; of ``Retry``, the exception that it was given."""
    traceback: str
    """Of ``error``, formatted; else empty."""
    runtime: float
    """Seconds, without the hooks."""


class Middleware:
    """Hooks that do nothing: override those you need. One object serves all calls of its process."""

    def before_enqueue(self, message: Message) -> Message | None:
        """Before a call is enqueued. Return another message in its place, or None for the same one:
        ``msgspec.structs.replace(message, headers={**(message.headers or {}), "trace": "…"})``.

        Retries do not pass here: they are the same message.
        """
        return None

    def after_enqueue(self, message: Message, *, stored: bool) -> None:
        """After it; ``stored`` is false if its id was known, its unique key taken, or the broker did not take it."""

    def before_run(self, request: Request, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Before a task runs, in its child; ``poolrt.current_task()`` is the task."""

    def after_run(self, request: Request, ended: Ended) -> None:
        """After it ran. Not after a run that the stop of its node has interrupted: that is put back and begins anew."""


HOOKS: Final = ("before_enqueue", "after_enqueue", "before_run", "after_run")


def refuse_async(owner: object, hooks: Sequence[str]) -> None:
    """Refuse hooks that would never be awaited; raises ConfigurationError."""
    for hook in hooks:
        if inspect.iscoroutinefunction(getattr(owner, hook)):
            raise ConfigurationError(f"{type(owner).__qualname__}.{hook} is async: hooks are ordinary functions")


def changed_by(middleware: Sequence[Middleware], message: Message) -> Message:
    """The message after every ``before_enqueue``."""
    for each in middleware:
        try:
            message = _checked(each.before_enqueue(message), message)
        except Exception as error:  # noqa: BLE001  a hook's
            log_broken(each.before_enqueue, message, error)
    return message


def _checked(changed: object, message: Message) -> Message:
    if changed is None:
        return message
    if not isinstance(changed, type(message)):
        raise TypeError(f"before_enqueue returned {type(changed).__name__}, neither a Message nor None")
    return changed


def tell_enqueued(middleware: Sequence[Middleware], message: Message, *, stored: bool) -> None:
    """Every ``after_enqueue``, the last first."""
    for each in reversed(middleware):
        try:
            each.after_enqueue(message, stored=stored)
        except Exception as error:  # noqa: BLE001  a hook's
            log_broken(each.after_enqueue, message, error)


def log_broken(hook: Callable[..., Any], message: Message, error: BaseException) -> None:
    """Say which hook is broken, and where; what ``error`` says may show arguments, and stays out of logs."""
    name, where = getattr(hook, "__qualname__", repr(hook)), "an unknown place"
    for frame, line in traceback.walk_tb(error.__traceback__):
        if not str(frame.f_globals.get("__name__", "")).startswith("poolrt."):
            where = f"{frame.f_code.co_filename}:{line}"
    log.error(
        "hook %s raised %s at %s: task %s#%s goes on", name, type(error).__name__, where, message.task, message.id
    )  # fmt: skip
