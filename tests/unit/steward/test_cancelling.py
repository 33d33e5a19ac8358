"""Cancelling what a node holds: the supervisor is told until it is over, and what is put back meanwhile is ended."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from poolrt.brokers.base import Found
from poolrt.message import Delivery, Message, Outcome, Owner, decode_record, encode_message
from poolrt.notice import CancelRun
from poolrt.states import TaskState
from poolrt.steward.cancelling import Cancelling

OURS, OTHERS = "inc", "another"


class Store:
    """One message: who holds it, and whether there is word that it is to be cancelled."""

    def __init__(self) -> None:
        self.holder = OURS
        self.word = True
        self.state: TaskState | None = TaskState.RESERVED
        self.record: bytes | None = None
        self.calls = 0

    @property
    def delivery(self) -> Delivery:
        """The message, as its holder has it."""
        return Delivery(encode_message(Message("id", "shop.add", b"")), 5, 6, "id", 0, suspect=False)

    def put_back(self) -> None:
        """It waits, and the word has gone."""
        self.state, self.holder, self.word = TaskState.QUEUED, "", False

    def taken_by(self, incarnation: str) -> None:
        """Some node has it now."""
        self.state, self.holder = TaskState.RESERVED, incarnation

    def to_cancel(self, incarnation: str) -> list[tuple[Owner, Delivery]]:
        """As the broker's."""
        self.calls += 1
        held = self.state is TaskState.RESERVED and self.holder == incarnation and self.word
        return [(Owner(incarnation, 2, 4), self.delivery)] if held else []

    def cancel(self, task_id: str, outcome_of: Callable[[Delivery], Outcome]) -> bool:
        """As the broker's."""
        self.calls += 1
        assert task_id == "id"
        if self.state is not TaskState.QUEUED:
            return False
        outcome = outcome_of(self.delivery)
        self.state, self.record = outcome.state, outcome.record
        return True

    def cancel_held(self, task_id: str) -> bool:
        """As the broker's."""
        self.word = self.state is TaskState.RESERVED
        return self.word

    def find(self, task_id: str) -> Found | None:
        """As the broker's."""
        return None if self.state is None else Found("id", self.state, None, self.record, 0)


@pytest.fixture
def store() -> Store:
    """A message that this node holds, to be cancelled."""
    return Store()


@pytest.fixture
def told() -> list[CancelRun]:
    """What the supervisor was told."""
    return []


@pytest.fixture
def cancelling(store: Store, told: list[CancelRun]) -> Cancelling:
    """The steward's part."""
    return Cancelling(store, OURS, told.append, lambda: None)  # type: ignore[arg-type]


def test_the_supervisor_is_told_until_it_has_ended(store: Store, cancelling: Cancelling, told: list[CancelRun]) -> None:
    """By slot, generation and fence; then no more, and nothing is asked of the broker but the word."""
    cancelling.look()
    cancelling.look()
    assert told == [CancelRun(2, 4, 5, 6)] * 2
    store.state, store.word = TaskState.CANCELLED, False
    cancelling.look()
    before = store.calls
    cancelling.look()
    assert (len(told), store.calls) == (2, before + 1)


def test_what_was_put_back_is_ended(store: Store, cancelling: Cancelling) -> None:
    """Recalled, or its child died: the word is gone, but not the wish."""
    cancelling.look()
    store.put_back()
    cancelling.look()
    assert store.state is TaskState.CANCELLED
    assert store.record is not None
    error = decode_record(store.record).error
    assert error is not None
    assert error.text.endswith("it had not started")


@pytest.mark.parametrize("taker", [OURS, OTHERS])
def test_what_was_taken_again_meanwhile(
    store: Store, cancelling: Cancelling, told: list[CancelRun], taker: str
) -> None:
    """Somebody was faster than we: whoever has it now finds the word."""
    cancelling.look()
    store.put_back()
    store.taken_by(taker)
    cancelling.look()
    assert store.word
    cancelling.look()
    assert len(told) == (2 if taker == OURS else 1)
    store.put_back()
    cancelling.look()
    assert store.state is TaskState.CANCELLED


@pytest.mark.parametrize("state", [TaskState.SUCCEEDED, TaskState.FAILED, None])
def test_what_just_ended_stands(store: Store, cancelling: Cancelling, state: TaskState | None) -> None:
    """Its result stays, and a later task of the same id is another one."""
    cancelling.look()
    store.state = state
    cancelling.look()
    assert store.state is state
    store.put_back()
    cancelling.look()
    assert store.state is TaskState.QUEUED


def test_nothing_to_cancel(store: Store, cancelling: Cancelling, told: list[CancelRun]) -> None:
    """One call a tick."""
    store.word = False
    cancelling.look()
    assert (told, store.calls) == ([], 1)


def test_a_node_that_leaves(store: Store, cancelling: Cancelling) -> None:
    """What it puts back when it stops, and was to be cancelled, is not left to run elsewhere."""
    cancelling.look()
    store.put_back()
    cancelling.left()
    assert store.state is TaskState.CANCELLED
