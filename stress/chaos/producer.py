"""Who enqueues while the storm goes on; never killed itself, so that it knows what was accepted."""

from __future__ import annotations

import threading
import time
from typing import Final

from poolrt import App
from poolrt.errors import BrokerError
from stress.chaos import flows
from stress.chaos.faults import Call

MARK: Final = "storm-id"
"""The header that has the task's id."""


class Producer(threading.Thread):
    """Enqueues what is planned; a task counts as accepted when the broker has returned."""

    def __init__(self, app: App, planned: list[Call]) -> None:
        super().__init__(name="producer")
        self.accepted: dict[str, Call] = {}
        self.merged: dict[str, str] = {}
        """Unique calls that were not enqueued, and who had their key."""
        self.refused = 0
        """Calls that the broker refused, and that were made again."""
        self._app = app
        self._planned = planned
        self._stopped = threading.Event()

    def run(self) -> None:
        """Enqueue until all is accepted, or it is told to stop."""
        began = time.monotonic()
        for call in self._planned:
            self._stopped.wait(max(0.0, began + call.at - time.monotonic()))
            while not self._stopped.is_set() and not self.knows(call.id):
                try:
                    self._enqueue(call)
                except BrokerError:
                    self.refused += 1
                    self._stopped.wait(0.05)

    def knows(self, task_id: str) -> bool:
        """Whether the broker has answered its enqueue."""
        return task_id in self.accepted or task_id in self.merged

    def _enqueue(self, call: Call) -> None:
        if call.kind in flows.ROOTS:
            flows.enqueue(self._app, call)
            self.accepted[call.id] = call
            return
        arguments = (*call.arguments, time.time() + call.countdown) if call.kind == "delayed" else call.arguments
        result = self._app.tasks[call.kind].apply_async(
            arguments, task_id=call.id, priority=call.priority, countdown=call.countdown or None, queue=call.queue,
            headers={MARK: call.id},
        )  # fmt: skip
        if result.id == call.id:
            self.accepted[call.id] = call
        else:
            self.merged[call.id] = result.id

    def left(self) -> int:
        """How many planned calls nobody knows to be enqueued."""
        return sum(not self.knows(call.id) for call in self._planned)

    def stop(self) -> None:
        """Enqueue no more."""
        self._stopped.set()
        self.join()
