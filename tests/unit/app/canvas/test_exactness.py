"""Whatever fails, dies or is settled twice: each call of a workflow takes effect once; its result is the model's."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from poolrt.app.canvas.results import Result
from poolrt.app.canvas.signature import Signature
from poolrt.app.retried import retried
from poolrt.message import Delivery, Enqueue, Outcome, decode_message, decode_record
from poolrt.states import TaskState
from tests.unit.app.canvas.fake_store import FakeStore, Worker, app_with
from tests.unit.app.canvas.model import Expected, Labels, canvases, outcome

WAYS = ("once", "once", "twice", "retried", "killed before", "killed after")


class Workflows(RuleBasedStateMachine):
    """Workflows that run beside each other, and what can happen to them."""

    def __init__(self) -> None:
        super().__init__()
        self.store = FakeStore()
        self.app = app_with(self.store)
        self.labels = Labels(self.app)
        self.worker = Worker(self.app, self.store)
        self.applied: list[tuple[Signature[Any], Result]] = []
        self.settled: list[Outcome] = []
        self.ran: Counter[str] = Counter()
        self.told: Counter[str] = Counter()
        self.seen: list[tuple[set[str], set[str]]] = []
        """(failed, errbacks) of the model before each repair."""

    # ---- what happens

    @precondition(lambda self: len(self.applied) < 3)
    @rule(data=st.data(), twice=st.booleans())
    def apply(self, data: st.DataObject, twice: object) -> None:
        """A canvas is applied; perhaps again, by a producer that was not told that it was enqueued."""
        canvas = data.draw(canvases(self.labels), label="canvas")
        task_id = f"w{len(self.applied)}"
        result: Any = canvas.apply_async(task_id=task_id)
        if twice:
            canvas.apply_async(task_id=task_id)
        self.applied.append((canvas, result))

    @precondition(lambda self: self.store.stored)
    @rule(data=st.data(), how=st.sampled_from(WAYS))
    def run(self, data: st.DataObject, how: str) -> None:
        """A child takes a message, and ends it in one of these ways."""
        delivery = self.store.take(lambda ids: data.draw(st.sampled_from(sorted(ids)), label="message"))
        assert delivery is not None
        self._run(delivery, how)

    @precondition(lambda self: self.settled)
    @rule(data=st.data())
    def settle_late(self, data: st.DataObject) -> None:
        """An outcome that took effect comes again."""
        again = data.draw(st.sampled_from(self.settled), label="outcome")
        assert not self.store.end(again)

    @rule(data=st.data())
    def repair(self, data: st.DataObject) -> None:
        """An operator mends what made a call fail, and has it tried again."""
        failed = sorted(
            task_id
            for task_id, stored in self.store.kept.items()
            if (record := decode_record(stored)).state is TaskState.FAILED and record.envelope is not None
        )
        if not failed or any("'collect_errors': True" in str(canvas.to_dict()) for canvas, _ in self.applied):
            return  # a body that collects errors may have run with one, and does not run again
        task_id = data.draw(st.sampled_from(failed), label="failed")
        record = decode_record(self.store.kept[task_id])
        message = retried(record, time.time())
        self._note()
        self.labels.failing.discard(label_of(message.payload))
        assert self.store.retry(Enqueue.of(message))

    def _run(self, delivery: Delivery, how: str) -> None:
        outcome = self.worker.outcome_of(delivery)
        if how == "killed before":
            self.store.put_back(delivery)
            return
        if how == "retried":
            message = decode_message(delivery.envelope)
            again = Enqueue.of(msgspec.structs.replace(message, attempt=message.attempt + 1))
            assert self.store.end(Outcome(delivery, None, follow_ups=(again,)))
            self.store.enqueued.pop()
            return
        assert self.store.end(outcome)
        self.settled.append(outcome)
        message = decode_message(delivery.envelope)
        if message.task in {"call", "errback"}:
            (self.ran if message.task == "call" else self.told)[label_of(message.payload)] += 1
        if how == "twice":
            assert not self.store.end(outcome)
        elif how == "killed after":
            self.worker.outcome_of(delivery)  # it ran once more, on a node that is cut off
            assert not self.store.end(outcome)

    def _note(self) -> None:
        """What the model says now stays true of failures and errbacks."""
        for canvas, _ in self.applied:
            model = Expected(set(self.labels.failing))
            model.of(canvas)
            self.seen.append((model.failed, set(model.errbacks)))

    # ---- what is always so

    @invariant()
    def nothing_is_placed_twice(self) -> None:
        """Only what an operator tries again is stored again."""
        repaired = len(self.seen)
        counts = Counter(self.store.enqueued)
        assert repaired or all(count == 1 for count in counts.values())

    def teardown(self) -> None:
        """Run all that is left: then every workflow has come to what the model says."""
        while (delivery := self.store.take(lambda ids: ids[-1])) is not None:  # a body before what it waits for
            self._run(delivery, "once")
        self._note()
        succeeded: set[str] = set()
        told: Counter[str] = Counter()
        for canvas, result in self.applied:
            model = Expected(self.labels.failing)
            expected = model.of(canvas)
            assert outcome(result) == expected, (outcome(result), expected)
            succeeded |= model.succeeded
            told += model.errbacks
        failed = set[str]().union(*(failed for failed, _ in self.seen))
        errbacks = set[str]().union(*(errbacks for _, errbacks in self.seen))
        want = Counter(succeeded) + Counter(failed)
        assert self.ran == want, {n: (self.ran[n], want[n]) for n in {*self.ran, *want} if self.ran[n] != want[n]}
        assert set(self.told) == errbacks, (self.told, errbacks, [canvas.to_dict() for canvas, _ in self.applied])
        if len(self.seen) == len(self.applied):  # what is repaired may fail elsewhere, and tell again
            assert self.told == told, (self.told, told, [canvas.to_dict() for canvas, _ in self.applied])
        assert not self.store.held
        if not any(self.labels.failing):
            assert not self.store.groups


def label_of(payload: bytes) -> str:
    """The label of a call."""
    import json

    return str(json.loads(payload)[0][-1])


TestWorkflows = Workflows.TestCase
TestWorkflows.settings = settings(
    max_examples=100, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
