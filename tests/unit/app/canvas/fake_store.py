"""The broker's rules of workflows as plain Python, and a worker that runs what is in it: one step, one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from poolrt.app.app import App
from poolrt.brokers.base import Broker, Found
from poolrt.child.outcomes import Outcomes
from poolrt.child.reading import call_of
from poolrt.errors import EncodingError, Ignore
from poolrt.message import (
    Delivery,
    Enqueue,
    Filled,
    NewGroup,
    Outcome,
    decode_message,
    decode_record,
)
from poolrt.states import TaskState


class Group:
    """What is known of a group."""

    def __init__(self, made: NewGroup) -> None:
        self.made = made
        self.filled: set[int] = set()
        self.failed = False


class FakeStore(Broker):
    """Keeps what ``Broker.enqueue`` says on groups, and nothing else: no time, no owners, no queues."""

    url = "fake:"
    trusted = False

    def __init__(self) -> None:
        self.stored: dict[str, Enqueue] = {}
        self.held: dict[str, Delivery] = {}
        self.kept: dict[str, bytes] = {}
        self.groups: dict[str, Group] = {}
        self.planned: set[str] = set()
        self.enqueued: list[str] = []
        """Every id that was stored, in order; twice if it was stored twice."""
        self.calls = 0
        self._number = 0

    # ---- producers

    def enqueue(self, items: Sequence[Enqueue], groups: Sequence[NewGroup] = ()) -> list[bool]:
        self.calls += 1
        for made in groups:
            if made.id not in self.groups:
                self.groups[made.id] = Group(made)
                self._plan(made.body.id)
                self._plan(made.body.last)
        return [self._place(item) for item in items]

    def _plan(self, task_id: str) -> None:
        if task_id and task_id not in self.stored and task_id not in self.kept:
            self.planned.add(task_id)

    def _place(self, item: Enqueue) -> bool:
        if item.id in self.stored or item.id in self.kept:
            return False
        self.stored[item.id] = item
        self.enqueued.append(item.id)
        self.planned.discard(item.id)
        self._plan(item.last)
        return True

    def find(self, task_id: str) -> Found | None:
        if task_id in self.stored:
            state = TaskState.RESERVED if task_id in self.held else TaskState.QUEUED
            return Found(task_id, state, self.stored[task_id].envelope, None, 0)
        if task_id in self.kept:
            return Found(task_id, decode_record(self.kept[task_id]).state, None, self.kept[task_id], 0)
        return Found(task_id, TaskState.PLANNED, None, None, 0) if task_id in self.planned else None

    def wait(self, task_id: str, timeout: float | None) -> Found | None:
        found = self.find(task_id)
        return found if found is not None and found.record is not None else None

    def records(self, ids: Sequence[str]) -> list[bytes | None]:
        assert len(ids) <= 1000
        return [self.kept.get(task_id) for task_id in ids]

    def messages(self, after: str = "", limit: int = 1000) -> tuple[list[Found], str]:
        return [found for task_id in self.stored if (found := self.find(task_id))], ""

    def end_ahead(self, records: Sequence[tuple[str, bytes]], ttl: float) -> list[bool]:
        return [self._keep(task_id, record) for task_id, record in records]

    def _keep(self, task_id: str, record: bytes) -> bool:
        if task_id in self.stored or task_id in self.kept:
            return False
        self.kept[task_id] = record
        self.planned.discard(task_id)
        return True

    def fail_group(self, group: str, failure: bytes) -> bool:
        return self._fail(group, failure)

    def retry(self, item: Enqueue) -> bool:
        if item.id not in self.kept:
            return False
        del self.kept[item.id]
        if item.last:
            self.kept.pop(item.last, None)
        return self._place(item)

    def cancel(self, task_id: str, outcome_of: Callable[[Delivery], Outcome]) -> bool:
        if task_id not in self.stored or task_id in self.held:
            return False
        self._end(outcome_of(Delivery(self.stored[task_id].envelope, 0, 0, task_id, 0, suspect=False)))
        return True

    def cancel_held(self, task_id: str) -> bool:
        return False

    # ---- children

    def take(self, choose: Callable[[Sequence[str]], str]) -> Delivery | None:
        """Reserve one of those that wait."""
        waiting = [task_id for task_id in self.stored if task_id not in self.held]
        if not waiting:
            return None
        task_id = choose(waiting)
        self._number += 1
        delivery = Delivery(self.stored[task_id].envelope, self._number, 0, task_id, 0, suspect=False)
        self.held[task_id] = delivery
        return delivery

    def put_back(self, delivery: Delivery) -> None:
        """Its child died."""
        del self.held[delivery.task_id]

    def end(self, outcome: Outcome) -> bool:
        """One settle; whether the delivery was still held."""
        if self.held.get(outcome.delivery.task_id) != outcome.delivery:
            return False
        del self.held[outcome.delivery.task_id]
        self._end(outcome)
        return True

    def _end(self, outcome: Outcome) -> None:
        task_id = outcome.delivery.task_id
        del self.stored[task_id]
        if outcome.record is not None:
            self.kept[task_id] = outcome.record
        for later, record in outcome.also:
            self._keep(later, record)
        self.enqueue(outcome.follow_ups, outcome.groups)
        if outcome.filled is not None:
            self._fill(outcome.filled)

    def _fill(self, filled: Filled) -> None:
        group = self.groups.get(filled.slot.group)
        if group is None:
            return
        if filled.failure is not None and not group.made.collects:
            self._fail(filled.slot.group, filled.failure)
            return
        group.filled.add(filled.slot.index)
        if len(group.filled) == group.made.size:
            del self.groups[group.made.id]
            if group.failed:
                self.kept.pop(group.made.body.id, None)
                self.kept.pop(group.made.body.last, None)
            self._place(group.made.body)

    def _fail(self, group_id: str, failure: bytes) -> bool:
        group = self.groups.get(group_id)
        if group is None or group.failed:
            return False
        group.failed = True
        self._keep(group.made.body.id, failure)
        if group.made.body.last:
            self._keep(group.made.body.last, failure)
        for errback in group.made.errbacks:
            self._place(errback)
        if group.made.outer is not None:
            self._fill(Filled(group.made.outer, failure))
        return True


FakeStore.__abstractmethods__ = frozenset()


class Worker:
    """Runs what a FakeStore holds, with the tasks of an app."""

    def __init__(self, app: App, store: FakeStore) -> None:
        self.app = app
        self.store = store
        self.outcomes = Outcomes(app, "fake/0.1")
        self.ran: list[tuple[str, str]] = []
        """(task, id) of each run that was settled."""

    def outcome_of(self, delivery: Delivery) -> Outcome:
        """What the child would settle it with."""
        message = decode_message(delivery.envelope)
        try:
            args, kwargs = call_of(message, self.store)
            value = (self.app.tasks.get(message.task) or self.app.builtin[message.task])(*args, **kwargs)
            return self.outcomes.succeeded(delivery, message, value, 0.0)
        except EncodingError as error:
            return self.outcomes.refused(delivery, message, error, 0.0)
        except Ignore:
            return self.outcomes.ignored(delivery, message)
        except Exception as error:
            return self.outcomes.raised(delivery, message, error, 0.0)

    def step(self, choose: Callable[[Sequence[str]], str] = lambda ids: ids[0]) -> bool:
        """Run one; False if nothing waits."""
        delivery = self.store.take(choose)
        if delivery is None:
            return False
        outcome = self.outcome_of(delivery)
        assert self.store.end(outcome)
        self.ran.append((decode_message(delivery.envelope).task, delivery.task_id))
        return True

    def drain(self, choose: Callable[[Sequence[str]], str] = lambda ids: ids[0]) -> None:
        """Run until nothing waits."""
        while self.step(choose):
            pass

    def runs(self, task: str) -> int:
        """How often a task of this name ran."""
        return sum(name == task for name, _ in self.ran)


def app_with(store: FakeStore) -> App:
    """An app whose broker is the store."""
    app = App("canvas", broker="sqlite:////nonexistent/poolrt.db")
    app.broker = store
    return app
