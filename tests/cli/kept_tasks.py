"""A broker with tasks in every state, for the commands that look after them."""

from __future__ import annotations

import time
from collections.abc import Iterable

import msgspec

from poolrt.app.progress import Progress
from poolrt.brokers.base import Broker
from poolrt.message import (
    DEAD_TTL,
    Enqueue,
    ErrorInfo,
    Message,
    Outcome,
    Owner,
    Record,
    encode_message,
    encode_record,
)
from poolrt.states import TaskState
from poolrt.terms import Attempt, Terms  # fmt: skip

SECRET = "s3cret-t0ken"
OWNER = Owner("inc", 3, 1)
HOUR = 3600.0


def message(task_id: str, task: str = "shop.resize", **fields: object) -> Message:
    """A call with a secret among its arguments, enqueued a minute ago."""
    payload = msgspec.json.encode(([SECRET], {"width": 7}))
    given = {"enqueued_at": time.time() - 60, **fields}
    return Message(task_id, task, payload, **given)  # type: ignore[arg-type]


def end(broker: Broker, messages: Iterable[Message], state: TaskState, *, ago: float = 10.0) -> None:
    """Enqueue each, take it, and let it end in this state, each a second later than the one before."""
    for number, each in enumerate(messages):
        broker.enqueue([Enqueue.of(each)])
        (delivery,) = broker.settle([], 1, reserve()).deliveries
        good = state is TaskState.SUCCEEDED
        error = None if good else ErrorInfo("ValueError", f"no page {each.id}", "Traceback: in resize")
        record = Record(
            state, each.task, time.time() - ago + number, b'"done"' if good else None, error=error, runtime=0.25,
            attempt=each.attempt, owner=str(OWNER), history=each.terms.history if each.terms else (),
            envelope=None if good else encode_message(each),
        )  # fmt: skip
        broker.settle([Outcome(delivery, state, encode_record(record), DEAD_TTL)], 0, reserve())


_reserves = iter(range(1, 10_000))


def reserve() -> int:
    """The next number of a reserve."""
    return next(_reserves)


def fill(broker: Broker) -> None:
    """One task and more in each state; ids begin with the state's name."""
    broker.join("inc", "node")
    broker.attach(OWNER)
    tried = Attempt(1, time.time() - 30, 2.5, "KeyError", "'page'", "inc/2.1")
    end(broker, [message("dead-1"), message("dead-2", "mail.send", queue="mail")], TaskState.DEAD)
    end(broker, [message("failed-1", attempt=2, terms=Terms(root="cart-1", history=(tried,)))], TaskState.FAILED)
    end(broker, [message("succeeded-1")], TaskState.SUCCEEDED)
    running = [message("started-1"), message("reserved-1", "mail.send", queue="mail")]
    broker.enqueue([Enqueue.of(each) for each in running])
    broker.settle([], 2, reserve())
    said = Progress("progress", b'{"current": 3, "total": 7}', "json", 1, time.time())
    broker.note_progress("started-1", msgspec.msgpack.encode(said), HOUR)
    waiting = [
        message("queued-1", enqueued_at=time.time() - 90), message("queued-9", "mail.send", priority=9, queue="mail"),
        message("delayed-1", eta=time.time() + HOUR, terms=Terms(root="cart-1", parent="cart-1")),
    ]  # fmt: skip
    broker.enqueue([Enqueue.of(each) for each in waiting])
    broker.close()
