"""Who cancels while the storm goes on: tasks that wait, are delayed, wait behind a limit, or run.

``revoke`` says whether a task waited: then it has ended, and must never start. ``cancel`` ends one that runs as well.
Some are cancelled by a filter of headers instead, which must find the task if it has not ended.
"""

from __future__ import annotations

import threading
import time
from typing import NamedTuple

from poolrt import App
from poolrt.errors import BrokerError
from poolrt.states import TaskState
from stress.chaos.faults import Call
from stress.chaos.producer import MARK, Producer


class Cancel(NamedTuple):
    """What became of one cancel."""

    waited: bool
    """The broker said that the task waited, and has ended."""
    ended: bool
    """Its record said so once the broker had answered."""
    told: bool
    """Its node was told; or, by a filter, it was found."""
    sought: bool
    """It was cancelled by a filter."""
    at: int
    """When all of this was known: CLOCK_MONOTONIC, ns."""


class Canceller(threading.Thread):
    """Cancels what is planned, some time after the broker has accepted it.

    Args:
        app: of the tasks.
        planned: all calls.
        producer: who enqueues them.
    """

    def __init__(self, app: App, planned: list[Call], producer: Producer) -> None:
        super().__init__(name="canceller")
        self.made: dict[str, Cancel] = {}
        """By task id."""
        self._app = app
        self._planned = sorted((call.at + call.cancelled_after, call.id) for call in planned if call.cancelled_after)
        self._producer = producer
        self._stopped = threading.Event()

    def run(self) -> None:
        """Cancel until all is done, or it is told to stop."""
        began = time.monotonic()
        for moment, task_id in self._planned:
            self._stopped.wait(max(0.0, began + moment - time.monotonic()))
            while not self._stopped.is_set() and task_id not in self.made:
                if task_id in self._producer.merged:
                    break
                try:
                    if task_id in self._producer.accepted:
                        self.made[task_id] = self._cancel(task_id)
                        break
                except BrokerError:
                    pass  # nobody knows what became of it: it is made again
                self._stopped.wait(0.02)

    def _cancel(self, task_id: str) -> Cancel:
        result = self._app.result(task_id)
        if sought := task_id.endswith("0"):
            waited, told = False, self._app.cancel_where(headers={MARK: task_id}) > 0
        else:
            waited = result.revoke()
            told = not waited and result.cancel()
        return Cancel(waited, result.state is TaskState.CANCELLED, told, sought, time.monotonic_ns())

    def left(self) -> int:
        """How many planned cancels it has not made."""
        return sum(task_id not in self.made and task_id not in self._producer.merged for _, task_id in self._planned)

    def stop(self) -> None:
        """Cancel no more."""
        self._stopped.set()
        if self.ident is not None:
            self.join()
