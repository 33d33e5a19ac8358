"""SQLite: whom a gate wakes, what it costs, and what of it is forgotten."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from poolrt.brokers.base import Settled
from poolrt.brokers.sqlite import SqliteBroker, gate_statements
from poolrt.clock import FakeClock
from poolrt.message import Delivery, Enqueue, Outcome, Owner, Requeue, new_task_id
from poolrt.queue_choice import QueueChoice
from poolrt.states import TaskState
from poolrt.terms import Gate

Child = Callable[..., SqliteBroker]
Put = Callable[..., list[str]]

NOTHING = Settled([], 0, more=False)
NOBODY = [0, 0]
CHILD = [1, 0]
STEWARD = [0, 1]
ONE = Gate("one", slots=1)
TENTH = Gate("tenth", rate=10.0)
"""One start in 0.1 s."""


def ids(deliveries: list[Delivery]) -> list[str]:
    return [delivery.task_id for delivery in deliveries]


def done(deliveries: list[Delivery]) -> list[Outcome]:
    return [Outcome(delivery, TaskState.SUCCEEDED) for delivery in deliveries]


# ---- whom it wakes


def test_a_pause_holds_what_is_behind_gates(
    store: SqliteBroker, sqlite_child: Child, put_behind: Put, woken: Callable[[], list[int]]
) -> None:
    """Nobody gets it and nobody is woken for it, until the pause is over."""
    store.pause("mail")
    wanted = put_behind(2, ONE, "mail")
    store.nudge()
    store.promote()
    assert woken()[0] == 0
    for choice in (QueueChoice(), QueueChoice(("mail",)), QueueChoice(without=("bulk",))):
        assert sqlite_child(choice=choice).settle([], 9, 1 + len(choice.names) + 2 * len(choice.without)) == NOTHING
    store.unpause("mail")
    assert woken() == CHILD
    assert ids(sqlite_child(1).settle([], 9, 1).deliveries) == wanted[:1]


def test_an_open_gate_wakes_a_child_and_a_closed_one_the_steward(
    store: SqliteBroker, sqlite_child: Child, put_behind: Put, woken: Callable[[], list[int]], clock: FakeClock
) -> None:
    """Of what waits for a token the steward is told once: then it knows the time, and wakes a child at it."""
    put_behind(1, TENTH)
    assert woken() == CHILD
    client = sqlite_child()
    client.settle([], 9, 1)
    assert woken() == NOBODY
    put_behind(1, TENTH)
    assert woken() == STEWARD
    put_behind(1, TENTH)
    store.nudge()
    assert woken() == NOBODY
    put_behind(1, Gate(TENTH.key, rate=20.0))
    assert woken() == STEWARD
    clock.advance(store.promote() or 9)
    assert woken() == NOBODY
    assert store.promote() is None
    assert woken() == CHILD
    client.settle([], 9, 2)
    assert woken() == STEWARD
    assert store.promote() == pytest.approx(0.05, abs=1e-5)


def test_an_open_gate_beside_one_that_is_mended(
    store: SqliteBroker, sqlite_child: Child, put_behind: Put, woken: Callable[[], list[int]], clock: FakeClock
) -> None:
    """A child is woken for it by the look that finds the clock put back."""
    put_behind(2, TENTH)
    sqlite_child().settle([], 9, 1)
    put_behind(1, ONE)
    clock.jump_wall(-3600)
    woken()
    assert store.promote() == pytest.approx(0.1, abs=1e-5)
    assert woken() == CHILD


def test_a_slot_of_others_wakes_nobody(sqlite_child: Child, put_behind: Put, woken: Callable[[], list[int]]) -> None:
    """The end of a task that has no slot, or whose next one is taken by the settler itself, is told to nobody."""
    put_behind(2, ONE)
    plain, rated = put_behind(2), put_behind(2, TENTH)
    client = sqlite_child()
    held = client.settle([], 9, 1).deliveries
    assert ids(held)[1:] == [*plain, rated[0]]
    woken()
    client.settle(done(held[1:]), 0, 2)
    assert woken() == NOBODY
    client.settle(done(held[:1]), 9, 3)
    assert woken() == NOBODY


PUTS_BACK: dict[str, Callable[[SqliteBroker, SqliteBroker, list[Delivery]], object]] = {
    "released": lambda store, client, held: client.release(held[1:]),
    "recalled": lambda store, client, held: store.recall(Owner("inc", 0, 1), (held[0].n, held[0].i), held[0].n),
    "buried": lambda store, client, held: store.bury(Owner("inc", 0, 1), None),
    "lost": lambda store, client, held: store.bury(Owner("inc", 0, 1), Requeue(held[1], 0)),
    "left": lambda store, client, held: store.leave("inc"),
    "suspected": lambda store, client, held: store.rescue("inc", [], suspect=True),
}


@pytest.mark.parametrize("puts_back", PUTS_BACK)
def test_what_is_put_back_waits_for_a_token(
    store: SqliteBroker,
    sqlite_child: Child,
    put_behind: Put,
    woken: Callable[[], list[int]],
    clock: FakeClock,
    puts_back: str,
) -> None:
    """However it came back, it starts when the next token is there: the steward is told."""
    put_behind()
    (task,) = put_behind(1, TENTH)
    client = sqlite_child()
    held = client.settle([], 9, 1).deliveries
    assert store.promote() is None
    woken()
    PUTS_BACK[puts_back](store, client, held)
    assert woken()[1] == 1
    assert store.promote() == pytest.approx(0.1, abs=1e-5)
    store.cancel(held[0].task_id, lambda delivery: Outcome(delivery, TaskState.CANCELLED))
    clock.advance(0.1)
    store.join("next", "node")
    assert ids(sqlite_child(incarnation="next").settle([], 9, 1).deliveries) == [task]


def test_what_is_moved_out_of_a_pause_waits_for_a_token(
    store: SqliteBroker, sqlite_child: Child, put_behind: Put, woken: Callable[[], list[int]]
) -> None:
    """Nobody waits for what a pause holds, and the steward is told when it is held no more, by a move or its end."""
    put_behind(1, TENTH)
    sqlite_child().settle([], 9, 1)
    for release in (lambda: store.move("mail", "bulk"), lambda: store.unpause("mail")):
        store.pause("mail")
        put_behind(1, TENTH, "mail")
        assert store.promote() is None
        woken()
        release()
        assert woken() == STEWARD
        assert store.promote() == pytest.approx(0.1, abs=1e-5)
        store.empty("bulk")


def test_a_slot_without_a_token_is_the_stewards(
    sqlite_child: Child, put_behind: Put, woken: Callable[[], list[int]], clock: FakeClock
) -> None:
    """Where both are needed the end of a task may make a token worth waiting for."""
    put_behind(2, Gate("key", rate=10.0, slots=1))
    client = sqlite_child()
    held = client.settle([], 9, 1).deliveries
    woken()
    client.settle(done(held), 0, 2)
    assert woken() == STEWARD
    clock.advance(0.1)
    held = client.settle([], 9, 3).deliveries
    put_behind(1, Gate("key", rate=10.0, slots=1))
    woken()
    clock.advance(0.1)
    client.settle(done(held), 0, 4)
    assert woken() == CHILD


# ---- what it costs


def test_statements_of_gates_use_the_index(file: Path, store: SqliteBroker, put_behind: Put) -> None:
    """However much waits behind a gate, none of it is read but the first."""
    put_behind(1, ONE)
    db = sqlite3.connect(file)
    for name, text in vars(gate_statements).items():
        if (
            name.startswith("_")
            or not isinstance(text, str)
            or not re.match(r"\s*(select|insert|update|delete|with)\b", text)
        ):
            continue
        named = dict.fromkeys(re.findall(r":(\w+)", text))
        plan = [row[3] for row in db.execute(f"explain query plan {text}", named or [None] * text.count("?"))]
        assert not [line for line in plan if "SCAN task" in line or "TEMP B-TREE" in line], (name, plan)
    db.close()


def steps(broker: SqliteBroker, call: Callable[[], object]) -> int:
    """How many hundreds of SQLite's steps a call takes."""
    count = 0

    def step() -> int:
        nonlocal count
        count += 1
        return 0

    broker._store.read(lambda db: db.set_progress_handler(step, 100))
    call()
    broker._store.read(lambda db: db.set_progress_handler(None, 0))
    return count


def test_a_backlog_behind_gates_costs_nobody(store: SqliteBroker, sqlite_child: Child, put_behind: Put) -> None:
    """Reserving, looking and enqueueing take as many steps with thousands of messages behind a gate as with a few."""
    client = sqlite_child()
    costs = []
    for n, count in enumerate((10, 5000)):
        put_behind(count, ONE)
        put_behind(count, TENTH)
        put_behind(10)
        client.settle([], 5, 10 * n + 1)
        costs.append(
            [
                steps(client, lambda n=n: client.settle([], 2, 10 * n + 2)),  # type: ignore[misc]
                steps(store, store.promote),
                steps(store, store.nudge),
                steps(store, lambda: put_behind(1, ONE)),
            ]
        )
    few, many = costs
    assert all(after <= before + 3 for before, after in zip(few, many, strict=True)), costs


def test_no_work_for_messages_without_a_gate(store: SqliteBroker, sqlite_child: Child, put_behind: Put) -> None:
    """While nothing waits behind a gate, the tables of gates are left alone, though the file has known some."""
    put_behind(1, Gate("key", rate=10.0, burst=1, slots=1))
    client = sqlite_child()
    held = client.settle([], 9, 1).deliveries
    told: list[str] = []
    for broker in (client, store):
        broker._store.read(lambda db: db.set_trace_callback(told.append))
    put_behind(3)
    client.settle(done(held), 9, 2)
    store.promote()
    assert told
    assert not [text for text in told if re.search(r"\b(from|into|update|join) (gate|holder)\b", text)]


def test_idle_gates_are_forgotten(store: SqliteBroker, sqlite_child: Child, put_behind: Put, clock: FakeClock) -> None:
    """A gate that says nothing any more goes with a purge; not one that is still to be waited for, or is in use."""
    put_behind(1, Gate("waits", slots=1), eta=clock.wall() + 1000)
    put_behind(1, Gate("held", slots=1))
    put_behind(1, Gate("slow", rate=0.01))
    put_behind(1, Gate("over", rate=10.0, slots=1))
    client = sqlite_child()
    held = client.settle([], 9, 1).deliveries

    def keys() -> set[str]:
        return store._store.read(lambda db: {row[0] for row in db.execute("select key from gate")})

    store.purge()
    assert keys() == {"waits", "held", "slow", "over"}
    client.settle(done(held[1:]), 0, 2)
    clock.advance(1)
    store.purge(1)
    assert keys() == {"waits", "held", "slow"}
    client.settle(done(held[:1]), 0, 3)
    clock.advance(100)
    store.purge()
    assert keys() == {"waits"}


def test_what_nobody_needs_is_forgotten(store: SqliteBroker, sqlite_child: Child, clock: FakeClock) -> None:
    """Free unique keys and old progress go with a purge, however many."""
    from poolrt.terms import Unique

    items = [Enqueue(new_task_id(), b"", "default", 0, None, unique=Unique(str(key))) for key in range(30)]
    store.enqueue(items)
    client = sqlite_child()
    held = client.settle([], 29, 1).deliveries
    for item in items:
        store.note_progress(item.id, b"x", 5)
    client.settle(done(held), 0, 2)

    def rows(table: str) -> int:
        count: int = store._store.read(lambda db: db.execute(f"select count(*) from {table}").fetchone()[0])
        return count

    assert (rows("holder"), rows("progress")) == (30, 1)
    clock.advance(6)
    store.purge(7)
    assert (rows("holder"), rows("progress")) == (1, 0)
