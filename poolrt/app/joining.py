"""Waiting for a result inside a running task: refused, unless it is said to be meant.

The child that waits runs nothing else, so tasks that wait for tasks can take every child of every node: none of them
ends then, and nobody sees why.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

from poolrt.app.request import current_request
from poolrt.errors import WaitInsideTask

_allowed: ContextVar[bool] = ContextVar("join_allowed", default=False)


@contextlib.contextmanager
def allow_join_result() -> Iterator[None]:
    """Inside this block a running task may wait for the results of others. It must not be the last child to do so."""
    before = _allowed.set(True)
    try:
        yield
    finally:
        _allowed.reset(before)


def refuse_join(what: str) -> None:
    """Raises WaitInsideTask if ``what`` is to be waited for inside a running task, where that is not allowed."""
    request = current_request()
    if request is not None and not _allowed.get():
        raise WaitInsideTask(
            f"{request.task}#{request.id} waits for {what} while it runs: its child can run nothing meanwhile, so "
            "tasks that wait for each other can stop the whole pool. Let another task go on with what comes of it (a "
            "chain, or a chord for many); where enough children are free, `with poolrt.allow_join_result():` allows it"
        )
