"""Leaks in the supervisor: summed, told when they are news, and passed on to the steward without waiting for it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest

from poolrt import notice
from poolrt.events import Event, EventKind
from poolrt.hygiene.findings import Finding, LeakKind, LeakRow, Rest
from poolrt.posix.unix_sockets import seqpacket_pair
from poolrt.states import ChildState
from poolrt.supervisor.leaks import Leaks
from poolrt.supervisor.lifecycle import STEWARD, Child
from poolrt.supervisor.reporter import Reporter


@pytest.fixture
def events() -> list[Event]:
    """What was reported."""
    return []


@pytest.fixture
def leaks(events: list[Event]) -> Leaks:
    """The leaks of a node that just started."""
    return Reporter("node", lambda event: None, events.append).leaks


@pytest.fixture
def steward() -> Iterator[tuple[Child, socket.socket]]:
    """A steward that is up, and its end of the lifeline."""
    child = Child(0, 1, STEWARD, 100.0)
    child.state = ChildState.UP
    ours, theirs = seqpacket_pair()
    ours.setblocking(False)
    theirs.setblocking(False)
    child.lifeline = ours
    with ours, theirs:
        yield child, theirs


def found(what: str = "db:5432", count: int = 1, at: float = 5.0, task: str = "shop.fetch") -> notice.Found:
    return notice.Found(
        Finding(LeakKind.CONNECTIONS, task, what, count, 10, f"{count} to {what}", "a.py:1 in f"), at, "an-id"
    )


def taken(sock: socket.socket) -> list[LeakRow]:
    """What the steward was told."""
    rows = []
    while True:
        try:
            received = notice.receive(sock)
        except BlockingIOError:
            return rows
        assert received is not None
        assert isinstance(received[0], notice.Leaked)
        rows.append(received[0].row)


def test_an_event_names_all(leaks: Leaks, events: list[Event], make_child: Callable[..., Child]) -> None:
    """Child, task, run, kind, count, runs, rate and reason."""
    leaks.heard(make_child(), found(count=3))
    (event,) = events
    assert (event.kind, event.slot, event.task, event.task_id) == (EventKind.LEAK_FOUND, 0, "shop.fetch", "an-id")
    assert event.cause == "3 to db:5432"
    assert event.numbers == {"kind": "connections", "count": 3, "runs": 10, "per_100_runs": 30.0}


def test_it_is_told_again_when_it_has_doubled(
    leaks: Leaks, events: list[Event], make_child: Callable[..., Child]
) -> None:
    """A thousand findings of one thing are ten events, with the sums of all children."""
    for slot in range(1000):
        leaks.heard(make_child(slot=slot % 4), found())
    assert [event.numbers["count"] for event in events] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
    events.clear()
    leaks.heard(make_child(), found("db:6379"))
    leaks.heard(make_child(), found(task="shop.other"))
    assert [event.numbers["count"] for event in events] == [1, 1]


def test_ever_other_things_do_not_fill_the_log(
    leaks: Leaks, events: list[Event], make_child: Callable[..., Child]
) -> None:
    """A task that leaves a file of another name at each run is told less and less; another task is not its victim."""
    for number in range(1000):
        leaks.heard(make_child(), found(f"/tmp/{number}"))
    assert 8 < len(events) < 20
    leaks.heard(make_child(), found("/tmp/x", task="shop.other"))
    assert events[-1].task == "shop.other"


def test_rows_are_shown_whole_or_without_stacks(leaks: Leaks, make_child: Callable[..., Child]) -> None:
    """What scripts read, and what is looked at twice a second."""
    leaks.heard(make_child(), found(count=2, at=4.0))
    leaks.heard(make_child(), found(count=3, at=6.0))
    (row,) = leaks.rows(stacks=True)
    assert LeakRow.from_object(row) == LeakRow(
        LeakKind.CONNECTIONS, "shop.fetch", "db:5432", 5, 20, 4.0, 6.0, "3 to db:5432", "a.py:1 in f"
    )
    assert leaks.rows(stacks=False) == [{name: row[name] for name in row if name != "stack"}]
    assert leaks.forget() == 1
    assert leaks.rows(stacks=True) == []


def test_what_a_child_that_leaves_has_not_told_counts_where_it_is_known(
    leaks: Leaks, events: list[Event], steward: tuple[Child, socket.socket], make_child: Callable[..., Child]
) -> None:
    """Runs without a finding, and things too few for one: else the rate would be that of the unlucky children."""
    kinds = (LeakKind.CONNECTIONS, LeakKind.FILES)
    rest = Rest(kinds, "shop.fetch", 90, [(LeakKind.CONNECTIONS, "db:5432", 4, 30)])
    leaks.left(rest)
    assert leaks.rows(stacks=True) == [], "nothing is known of it"
    leaks.heard(make_child(), found(count=3))
    leaks.heard(make_child(), found("db:6379"))
    leaks.heard(make_child(), found(task="shop.other"))
    before = len(events)
    leaks.left(rest)
    rows = {(row["task"], row["what"]): (row["count"], row["runs"]) for row in leaks.rows(stacks=True)}
    assert rows == {
        ("shop.fetch", "db:5432"): (7, 40), ("shop.fetch", "db:6379"): (1, 100), ("shop.other", "db:5432"): (1, 10),
    }  # fmt: skip
    assert len(events) == before
    leaks.forward(steward[0])
    assert sum(row.runs for row in taken(steward[1])) == 150


def test_the_steward_is_told_sums(
    leaks: Leaks, steward: tuple[Child, socket.socket], make_child: Callable[..., Child]
) -> None:
    """Once each; forgetting what the node shows takes nothing from it."""
    for _ in range(50):
        leaks.heard(make_child(), found())
    leaks.forget()
    leaks.forward(steward[0])
    leaks.forward(steward[0])
    assert [row.count for row in taken(steward[1])] == [50]
    leaks.heard(make_child(), found())
    leaks.forward(steward[0])
    assert [row.count for row in taken(steward[1])] == [1]


def test_what_does_not_reach_the_steward_waits(
    leaks: Leaks, steward: tuple[Child, socket.socket], make_child: Callable[..., Child]
) -> None:
    """While there is none, while it boots, while it does not read, and when it is gone."""
    child, sock = steward
    wanted = {f"host-{number}": 2 for number in range(400)}
    for _ in range(2):
        for what in wanted:
            leaks.heard(make_child(), found(what))
        leaks.forward(None)
        child.state = ChildState.STARTING
        leaks.forward(child)
    assert taken(sock) == []
    child.state = ChildState.UP
    child.lifeline.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # type: ignore[union-attr]
    got: list[LeakRow] = []
    rounds = 0
    while len(got) < len(wanted):
        leaks.forward(child)
        new = taken(sock)
        assert new
        got += new
        rounds += 1
    assert {row.what: row.count for row in got} == wanted
    assert rounds > 2
    leaks.heard(make_child(), found())
    sock.close()
    leaks.forward(child)
    assert len(leaks._unsent) == 1
