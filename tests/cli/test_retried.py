"""What becomes of a message that is retried, and of a search while messages move."""

from __future__ import annotations

import pytest

from poolrt.app.retried import retried, retry_ended
from poolrt.brokers.base import Found
from poolrt.brokers.urls import broker_from_url
from poolrt.cli.task_choice import Choice, waiting_or_running
from poolrt.message import Enqueue, Record, encode_message
from poolrt.states import TaskState
from poolrt.terms import MAX_HISTORY, Attempt, Terms, Unique
from tests.cli.kept_tasks import OWNER, end, message


def kept(**fields) -> Record:
    """The record of a task that expired."""
    sent = message("t", enqueued_at=1000.0, **fields)
    return Record(TaskState.EXPIRED, sent.task, 2000.0, attempt=sent.attempt, envelope=encode_message(sent))


def test_it_is_due_at_once_and_has_as_much_time_as_it_had():
    """Neither the old eta nor the old end counts; nodes that did not know its task may know it now."""
    again = retried(kept(attempt=3, eta=9000.0, expires=1060.0, unknown_count=4), now=5000.0)
    assert (again.attempt, again.eta, again.expires, again.enqueued_at) == (1, None, 5060.0, 5000.0)
    assert again.unknown_count == 0
    assert retried(kept(), now=5000.0).expires is None


def test_its_history_ends_with_the_attempt_that_ended_it():
    """The last of it stays within what a message keeps."""
    before = tuple(Attempt(number, 1.0, 1.0, "KeyError") for number in range(MAX_HISTORY))
    history = retried(kept(attempt=30, terms=Terms(history=before)), now=5000.0).terms.history
    assert (len(history), history[0].number) == (MAX_HISTORY, 1)
    assert (history[-1].number, history[-1].cause, history[-1].ended_at) == (30, "expired", 2000.0)


def test_its_unique_key_may_be_held_by_another(store):
    """It is told by whom, and the record stays."""
    broker = broker_from_url(store)
    broker.join("inc", "node")
    broker.attach(OWNER)
    terms = Terms(unique=Unique("cart"))
    end(broker, [message("first", terms=terms)], TaskState.FAILED)
    broker.enqueue([Enqueue.of(message("second", terms=terms))])
    assert retry_ended(broker, "first", 5000.0) == "its unique key is held by second"
    assert broker.find("first").state == TaskState.FAILED
    broker.close()


@pytest.mark.parametrize(("root", "ids"), [("", ["a", "b"]), ("a", ["a"]), ("b", ["b"])])
def test_a_message_that_is_told_twice_is_one(root, ids):
    """A broker may tell it again when it moved; one that cannot be read is its own root."""

    class Moving:
        """Tells ``a`` in both of its parts."""

        def messages(self, after=""):
            """See ``Broker``."""
            a = Found("a", TaskState.QUEUED, encode_message(message("a")), None, 0)
            b = Found("b", TaskState.QUEUED, b"damaged", None, 0)
            return ([a, b], "") if after else ([a], "a")

    assert [task.found.id for task in waiting_or_running(Moving(), Choice(root=root))] == ids
