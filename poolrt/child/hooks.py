"""The hooks around one run: the middleware's and the task class's own.

    before_run 1, 2 …  before_start ─▶ function ─▶ on_success | on_failure | on_retry  after_return  after_run … 2, 1

Each hook may be interrupted as the function may. What a hook raises is logged, and changes nothing; but what
`before_start` raises, the task has raised, and an interruption that comes before the function has begun ends the run.
After a run that was interrupted the hooks are not: only the hard limit can end them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from poolrt.app.middleware import Ended, log_broken
from poolrt.app.request import current_request
from poolrt.child.interruption import INTERRUPTIONS
from poolrt.child.outcomes import traceback_of
from poolrt.states import TaskState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from poolrt.app.request import Request
    from poolrt.app.task import Task
    from poolrt.child.interruption import Interrupter
    from poolrt.message import Message, Outcome


class Hooks:
    """Made for a run of a task that has any.

    Attributes:
        status: as ``Ended`` has it, where the Outcome does not tell; else empty.
        value: what the function returned.
        error: what ended the run, if something did.
        taint: why the child must be recycled for what a hook did, or an empty text.
    """

    def __init__(
        self, interrupter: Interrupter, task: Task[..., Any], message: Message, args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> None:  # fmt: skip
        self._interrupter = interrupter
        self._task = task
        self._message = message
        self._args = args
        self._kwargs = kwargs
        self._request: Request | None = None
        self.status = ""
        self.value: Any = None
        self.error: BaseException | None = None
        self.taint = ""

    def before(self) -> None:
        """Call what comes before the function; raises what `before_start` raises, and interruptions."""
        self._interrupter.raised = None
        middleware = self._task.app.middleware
        if middleware:
            self._request = current_request()
        for each in middleware:
            try:
                self._call(each.before_run, self._request, self._args, self._kwargs)
            except INTERRUPTIONS:
                raise
            except BaseException as error:  # noqa: BLE001  no hook may end more than itself
                self._broken(each.before_run, error)
        self._call(self._task.before_start, self._message.id, self._args, self._kwargs)

    def after(self, outcome: Outcome, runtime: float) -> None:
        """Call what comes after it."""
        task, task_id, args, kwargs = self._task, self._message.id, self._args, self._kwargs
        status, error = self.status or str(outcome.state or "retry"), self.error
        einfo = traceback_of(error) if error is not None else ""
        if status == TaskState.SUCCEEDED:
            self._try(task.on_success, self.value, task_id, args, kwargs)
        elif status == "retry":
            self._try(task.on_retry, error, task_id, args, kwargs, einfo)
        elif status == TaskState.FAILED:
            self._try(task.on_failure, error, task_id, args, kwargs, einfo)
        result = self.value if error is None else error
        self._try(task.after_return, status, result, task_id, args, kwargs, einfo)
        ended = Ended(status, self.value if status == TaskState.SUCCEEDED else None, error, einfo, runtime)
        for each in reversed(task.app.middleware):
            self._try(each.after_run, self._request, ended)

    def _try(self, hook: Callable[..., Any], *args: Any) -> None:
        try:
            if self._interrupter.raised is None:
                self._call(hook, *args)
            else:
                hook(*args)
        except BaseException as error:  # noqa: BLE001  no hook may end more than itself
            self._broken(hook, error)

    def _call(self, hook: Callable[..., Any], *args: Any) -> None:
        interrupter = self._interrupter
        interrupter.open_for_hook()
        try:
            hook(*args)
        finally:
            interrupter.close_for_hook()

    def _broken(self, hook: Callable[..., Any], error: BaseException) -> None:
        log_broken(hook, self._message, error)
        if not isinstance(error, Exception) or isinstance(error, MemoryError):
            self.taint = f"{type(error).__name__} in {getattr(hook, '__qualname__', 'a hook')} of {self._message.task}"
