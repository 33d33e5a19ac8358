"""Workflows on real stores: random canvases, with deaths, retries and late settles, come to what plain Python says.

The state machine of tests/unit/app/canvas holds the same against a store in memory; this shows that brokers keep it.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from poolrt.app.app import App
from poolrt.message import Delivery, Enqueue, Outcome, decode_message
from tests.unit.app.canvas.fake_store import Worker
from tests.unit.app.canvas.model import Expected, Labels, canvases, outcome
from tests.unit.app.canvas.test_exactness import label_of

WAYS = ("once", "once", "once", "twice", "retried", "put back", "put back and settled late")


class Child:
    """Takes one message after the other, and ends each in one of the ways."""

    def __init__(self, broker: Any, worker: Worker) -> None:
        self.broker = broker
        self.worker = worker
        self.number = 0
        self.ran: Counter[str] = Counter()
        self.told: Counter[str] = Counter()

    def take(self) -> Delivery | None:
        self.number += 1
        deliveries = self.broker.settle([], 1, self.number).deliveries
        return deliveries[0] if deliveries else None

    def settle(self, outcome: Outcome) -> bool:
        """Whether it took effect."""
        self.number += 1
        return not self.broker.settle([outcome], 0, self.number).stale

    def end(self, delivery: Delivery, how: str) -> None:
        message = decode_message(delivery.envelope)
        if how == "retried":
            again = Enqueue.of(msgspec.structs.replace(message, attempt=message.attempt + 1))
            assert self.settle(Outcome(delivery, None, follow_ups=(again,)))
            return
        ended = self.worker.outcome_of(delivery)
        if how.startswith("put back"):
            assert self.broker.release([delivery]) == 1
            if how.endswith("late"):
                assert not self.settle(ended)
            return
        assert self.settle(ended)
        if how == "twice":
            assert not self.settle(ended)
        if message.task in {"call", "errback"}:
            (self.ran if message.task == "call" else self.told)[label_of(message.payload)] += 1


@pytest.mark.timeout(120)
def test_random_workflows_come_to_what_plain_python_says(broker, child) -> None:
    """Each call takes effect once, results are in order, and failures are told."""
    app = App("canvas", broker="sqlite:////nonexistent/poolrt.db")
    app.broker = broker
    client = child()

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(data=st.data())
    def run(data: st.DataObject) -> None:
        app.tasks.clear()
        labels = Labels(app)
        hand = Child(client, Worker(app, broker))
        hand.number = run.number  # type: ignore[attr-defined]  # of reserves, never used again
        canvas = data.draw(canvases(labels), label="canvas")
        result: Any = canvas.apply_async()
        try:
            while (delivery := hand.take()) is not None:
                hand.end(delivery, data.draw(st.sampled_from(WAYS), label=decode_message(delivery.envelope).task))
        finally:  # an example that is given up leaves nothing to the next one
            if delivery is not None:
                client.release([delivery])
            while (delivery := hand.take()) is not None:
                hand.end(delivery, "once")
        run.number = hand.number  # type: ignore[attr-defined]
        model = Expected(labels.failing)
        assert outcome(result) == model.of(canvas)
        assert hand.ran == Counter(model.succeeded) + Counter(model.failed)
        assert hand.told == model.errbacks

    run.number = 0  # type: ignore[attr-defined]
    run()
