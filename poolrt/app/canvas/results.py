"""Results of workflows: of a step, with what is before it, and of a group, in the order of its members."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator
from typing import Any, Final, TypeAlias, TypeVar, cast

from poolrt.app.canvas.ending import cancel_line, cancel_step
from poolrt.app.canvas.ids import derived
from poolrt.app.canvas.parts import CallPart, FanPart
from poolrt.app.canvas.plan import Plan, group_of
from poolrt.app.canvas.tree import Tree, tree_of
from poolrt.app.joining import refuse_join
from poolrt.app.result import AsyncResult
from poolrt.brokers.base import Found
from poolrt.errors import ResultIgnored, ResultTimeout
from poolrt.message import decode_record
from poolrt.states import FINAL, TaskState

R = TypeVar("R")
PAGE: Final = 1000
"""Records in one round trip."""


class StepResult(AsyncResult[R]):
    """The result of a step of a workflow, which may not be enqueued yet."""

    __slots__ = ("_parent", "_part", "_plan")

    def __init__(
        self, id: str, plan: Plan, part: CallPart, parent: Result | None  # noqa: A002  Celery's name
    ) -> None:  # fmt: skip
        super().__init__(id, plan.app.broker)
        self._parent = parent
        self._plan = plan
        self._part = part

    @property
    def parent(self) -> Result | None:
        """The result of what is before it: a step's or a group's."""
        return self._parent

    @property
    def children(self) -> list[Result]:
        """The results of its links."""
        lines = [link.line() for link in self._part.links]
        return [
            result_of(Plan(self._plan.app, line, derived(self.id, f"l{number}")), self)
            for number, line in enumerate(lines)
        ]

    @property
    def state(self) -> TaskState | str:
        """Where the step is; ``planned`` while what is before it goes on."""
        state = super().state
        if state is not TaskState.UNKNOWN or self.parent is None:
            return state
        before = self.parent.state
        return TaskState.PLANNED if before not in FINAL or before is TaskState.SUCCEEDED else before

    def get(self, timeout: float | None = None, **how: Any) -> Any:
        """See AsyncResult; what is before it is waited for, and its error is raised if the step does not come."""
        if self.is_known:
            return super().get(timeout, **how)
        if how.get("disable_sync_subtasks", True):
            refuse_join(f"task {self.id}")
        ends = None if timeout is None else time.monotonic() + timeout
        self._reach(ends)
        return super().get(_left(ends), **how)

    async def aget(self, timeout: float | None = None, *, disable_sync_subtasks: bool = True) -> R:  # noqa: ASYNC109
        """See AsyncResult, and ``get``."""
        from poolrt.app.aside import aside  # asyncio is slow to import, and most programs never need it

        if self.is_known:
            return await super().aget(timeout)
        if disable_sync_subtasks:
            refuse_join(f"task {self.id}")
        ends = None if timeout is None else time.monotonic() + timeout
        for each in await aside(self._before):
            try:
                await each.aget(_left(ends))
            except ResultIgnored:
                continue  # it has ended, and keeps no result
        return await super().aget(_left(ends), disable_sync_subtasks=disable_sync_subtasks)

    def _reach(self, ends: float | None) -> None:
        """Wait until it is enqueued, step by step."""
        for each in self._before():
            _end_of(each, _left(ends))

    def _before(self) -> list[Result]:
        """What must end before it is enqueued, the first first: from the last one on that is known by now."""
        before: list[Result] = []
        at: Result | None = self
        while isinstance(at, StepResult) and not at.is_known and self.broker.find(at.id) is None:
            at = at.parent
            if at is not None:
                before.append(at)
        return before[::-1]

    def cancel(self) -> bool:
        """Cancel it; the last step's result cancels all of its line. See AsyncResult."""
        return cancel_line(self._plan) if self.id == self._plan.id else cancel_step(self._plan, self.id)

    def tree(self) -> Tree:
        """Where each part of the workflow that ends with it is."""
        return tree_of(self._plan)


class GroupResult:
    """The results of a group, in the order of its members.

    Attributes:
        id: the group's.
        parent: the result of what is before it, or None.
    """

    __slots__ = ("_fan", "_plan", "_results", "_step_id", "id", "parent")

    def __init__(self, plan: Plan, step_id: str, fan: FanPart, parent: Result | None) -> None:
        self.id = group_of(step_id, fan)
        self.parent = parent
        self._plan = plan
        self._step_id = step_id
        self._fan = fan
        self._results: list[Result] | None = None

    def __repr__(self) -> str:
        """The id only: a repr must not ask the broker."""
        return f"<GroupResult {self.id} of {len(self)}>"

    @property
    def results(self) -> list[Result]:
        """Of each member: an AsyncResult, or a GroupResult where it ends with a group."""
        if self._results is None:
            self._results = [result_of(each, self.parent) for each in self._plan.members(self._step_id, self._fan)]
        return self._results

    @property
    def children(self) -> list[Result]:
        """The same: Celery's name."""
        return self.results

    def __len__(self) -> int:
        return len(self._fan.members)

    def __iter__(self) -> Iterator[Result]:
        return iter(self.results)

    def __getitem__(self, index: int) -> Result:
        return self.results[index]

    # ---- how it is

    def ready(self) -> bool:
        """Whether all members have ended."""
        return self._learnt() and all(each.ready() for each in self.results)

    def successful(self) -> bool:
        """Whether all members have ended by returning."""
        return self._learnt() and all(each.successful() for each in self.results)

    def failed(self) -> bool:
        """Whether a member has ended without a value."""
        self._learnt()
        return any(each.failed() for each in self.results)

    def waiting(self) -> bool:
        """Whether a member has not ended."""
        return not self.ready()

    def completed_count(self) -> int:
        """How many members have ended by returning."""
        self._learnt()
        return sum(each.successful() for each in self.results)

    @property
    def state(self) -> TaskState | str:
        """``failed`` if a member has ended without a value, ``succeeded`` if all have succeeded, else ``queued``."""
        if self.failed():
            return TaskState.FAILED
        return TaskState.SUCCEEDED if self.successful() else TaskState.QUEUED

    @property
    def leaves(self) -> list[AsyncResult[Any]]:
        """The results of all members, those of groups in them among them."""
        return list(_leaves(self))

    # ---- waiting

    def get(
        self, timeout: float | None = None, *, propagate: bool = True, disable_sync_subtasks: bool = True
    ) -> list[Any]:
        """Wait for all members and return their values, in order.

        Args:
            timeout: seconds to wait for all of them; None waits for ever.
            propagate: raise what the first member in their order that has no value ended with; else that stands in
                its place.
            disable_sync_subtasks: refuse to wait inside a running task; see ``poolrt.allow_join_result``.

        Raises:
            ResultTimeout, WaitInsideTask, TaskFailed: as ``AsyncResult.get``.
        """
        if disable_sync_subtasks:
            refuse_join(f"group {self.id}")
        ends = None if timeout is None else time.monotonic() + timeout
        if self.parent is not None:
            try:
                _end_of(self.parent, _left(ends))
            except ResultTimeout:
                raise
            except Exception as error:  # what is before it has failed: no member will come
                if propagate:
                    raise
                return [error] * len(self)
        self._learnt()
        return [
            each.get(_left(ends), propagate=propagate, disable_sync_subtasks=disable_sync_subtasks)
            for each in self.results
        ]

    join = get

    async def aget(self, timeout: float | None = None) -> list[Any]:  # noqa: ASYNC109  as AsyncResult's
        """``get`` for an event loop, which is never blocked."""
        import asyncio  # slow to import, and most programs never need it

        async with asyncio.timeout(timeout):
            if self.parent is not None:
                await self.parent.aget()
            return [await each.aget() for each in self.results]

    def __await__(self) -> Generator[Any, None, list[Any]]:
        """``await result`` is ``await result.aget()``."""
        return self.aget().__await__()

    # ---- ending it

    def cancel(self) -> int:
        """Cancel all members that have not ended; how many."""
        self._learnt()
        return sum(int(each.cancel()) for each in self.results if not each.ready())

    def revoke(self, terminate: bool = False) -> int:  # noqa: FBT001, FBT002  Celery's
        """Celery's name for ``cancel``; without ``terminate`` what a worker has goes on."""
        return self.cancel() if terminate else sum(int(each.revoke()) for each in self.leaves)

    def forget(self) -> int:
        """Delete the records of the members; how many there were."""
        return sum(each.forget() for each in self.leaves)

    def tree(self) -> Tree:
        """Where each part of the workflow that it is the end of is."""
        return tree_of(self._plan)

    # ---- inside

    def _learnt(self) -> bool:
        """Ask for the records of all members that are not known to have ended, a thousand at a time; True."""
        learn([each for each in _leaves(self) if not each.is_known])
        return True


Result: TypeAlias = "AsyncResult[Any] | GroupResult"


def result_of(plan: Plan, parent: Result | None = None) -> Result:
    """The result of a line: that of its last step, from which ``parent`` leads to those before."""
    at = parent
    for step_id, part in plan.steps():
        if isinstance(part, CallPart):
            at = StepResult(step_id, plan, part, at)
            continue
        if len(part.members) or part.body is None:
            at = GroupResult(plan, step_id, part, at)
        if part.body is not None:
            at = StepResult(step_id, plan, part.body, at)
    return cast("Result", at)


def learn(results: list[AsyncResult[Any]]) -> None:
    """Have each result know its record, if there is one."""
    for start in range(0, len(results), PAGE):
        some = results[start : start + PAGE]
        records = some[0].broker.records([each.id for each in some])
        for each, record in zip(some, records, strict=True):
            if record is not None:
                state = decode_record(record).state
                each.keep(Found(each.id, state, None, record, 0))


def _leaves(result: Result) -> Iterable[AsyncResult[Any]]:
    if isinstance(result, GroupResult):
        for each in result.results:
            yield from _leaves(each)
    else:
        yield result


def _end_of(result: Result, left: float | None) -> None:
    """Wait until it has ended; raises what it ended with, if that was no value."""
    try:
        result.get(left)
    except ResultIgnored:  # it has ended, and keeps no result
        return


def _left(ends: float | None) -> float | None:
    return None if ends is None else max(0.0, ends - time.monotonic())
