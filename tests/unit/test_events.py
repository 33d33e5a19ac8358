"""Events: one line for people, with the task, the cause and the numbers."""

from __future__ import annotations

import msgspec
import pytest

from poolrt.events import Event, EventKind


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (Event(EventKind.NODE_STARTED, 1.0), "node-started"),
        (Event(EventKind.CHILD_UP, 1.0, slot=2, generation=3), "child 2.3 child-up"),
        (
            Event(
                EventKind.CHILD_CRASHED, 1.0, slot=0, generation=1, pid=99, task="shop.add", task_id="id",
                cause="killed by SIGSEGV", numbers={"done": 7, "age": 1.23456},
            ),
            "child 0.1 (pid 99) child-crashed shop.add#id: killed by SIGSEGV [done=7, age=1.23]",
        ),
    ],
)  # fmt: skip
def test_line(event: Event, line: str) -> None:
    """A line names who, what, which task, why and how much, and leaves out what is not there."""
    assert event.line() == line


def test_events_travel_as_json() -> None:
    """An event survives the control socket, and says nothing of what it does not know."""
    event = Event(EventKind.TASK_DEAD, 5.0, task="t", numbers={"deliveries": 3})
    raw = msgspec.json.encode(event)
    assert msgspec.json.decode(raw, type=Event) == event
    assert set(msgspec.json.decode(raw)) == {"kind", "at", "task", "numbers"}


def test_numbers_are_not_shared() -> None:
    """Two events without numbers do not share one dictionary."""
    one, other = Event(EventKind.WARNING, 1.0), Event(EventKind.WARNING, 1.0)
    assert one.numbers is not other.numbers
