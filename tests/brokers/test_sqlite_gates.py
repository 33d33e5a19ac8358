"""SQLite: what a gate lets start, by its rate and by its slots."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from poolrt.brokers.base import Settled
from poolrt.brokers.sqlite import SqliteBroker
from poolrt.clock import FakeClock
from poolrt.message import Delivery, Enqueue, Outcome, Owner, Requeue, new_task_id
from poolrt.states import TaskState
from poolrt.terms import Gate

Open = Callable[..., SqliteBroker]
Child = Callable[..., SqliteBroker]
Put = Callable[..., list[str]]

NOTHING = Settled([], 0, more=False)
NOBODY = [0, 0]
CHILD = [1, 0]
ONE = Gate("one", slots=1)
TENTH = Gate("tenth", rate=10.0)
"""One start in 0.1 s."""


def ids(deliveries: list[Delivery]) -> list[str]:
    return [delivery.task_id for delivery in deliveries]


def done(deliveries: list[Delivery]) -> list[Outcome]:
    return [Outcome(delivery, TaskState.SUCCEEDED) for delivery in deliveries]


# ---- rates


def test_a_rate(store: SqliteBroker, sqlite_child: Child, put_behind: Put, clock: FakeClock) -> None:
    """A burst at once, then one each period, whoever asks; after a pause another burst, and no more."""
    wanted = put_behind(20, Gate("key", rate=10.0, burst=3))
    clients = [sqlite_child(0), sqlite_child(1)]
    assert ids(clients[0].settle([], 2, 1).deliveries) == wanted[:2]
    assert ids(clients[1].settle([], 9, 1).deliveries) == wanted[2:3]
    assert clients[0].settle([], 9, 2) == NOTHING
    for at in range(3, 8):
        assert store.promote() == pytest.approx(0.1, abs=1e-5)
        clock.advance(0.09)
        assert clients[at % 2].settle([], 9, 10 * at) == NOTHING
        clock.advance(store.promote() or 9)
        assert ids(clients[at % 2].settle([], 9, 10 * at + 1).deliveries) == [wanted[at]]
    clock.advance(100)
    got = clients[0].settle([], 9, 100)
    assert (ids(got.deliveries), got.more) == (wanted[8:11], False)


def test_the_end_of_a_task_gives_no_token_back(sqlite_child: Child, put_behind: Put) -> None:
    """It is starts that are counted: what ended, was released or lost has had its own."""
    put_behind(3, TENTH)
    client = sqlite_child()
    held = client.settle([], 9, 1).deliveries
    client.release(held)
    assert client.settle([], 9, 2) == NOTHING


@pytest.mark.parametrize("burst", [1, 3])
@pytest.mark.parametrize("looks", ["child", "steward"])
def test_a_clock_that_is_put_back(
    store: SqliteBroker, sqlite_child: Child, put_behind: Put, clock: FakeClock, burst: int, looks: str
) -> None:
    """An hour back: what was taken before counts for one period more, whoever sees it first."""
    put_behind(20, Gate("key", rate=10.0, burst=burst))
    client = sqlite_child()
    assert len(client.settle([], 9, 1).deliveries) == burst
    clock.jump_wall(-3600)
    if looks == "steward":
        assert store.promote() == pytest.approx(0.1, abs=1e-5)
    else:
        assert client.settle([], 9, 2) == NOTHING
    clock.advance(0.1)
    assert len(client.settle([], 9, 3).deliveries) == 1
    assert store.promote() == pytest.approx(0.1, abs=1e-5)


def test_a_token_is_there_when_it_was_said(
    store: SqliteBroker, sqlite_child: Child, put_behind: Put, clock: FakeClock
) -> None:
    """At the time that ``promote`` gave, however that is rounded; so nobody has to look twice."""
    client = sqlite_child()
    for n, rate in enumerate((3.0, 7.0, 10.0, 999.0)):
        put_behind(40, Gate(str(rate), rate=rate))
        for start in range(39):
            assert len(client.settle([], 9, 100 * n + start + 1).deliveries) == 1, (rate, start)
            clock.advance(store.promote() or 9)
        store.empty("default")


def test_a_clock_that_is_put_forward(sqlite_child: Child, put_behind: Put, clock: FakeClock) -> None:
    """Years on: one burst, and then the rate again."""
    put_behind(20, Gate("key", rate=10.0, burst=3))
    client = sqlite_child()
    client.settle([], 9, 1)
    clock.jump_wall(1e8)
    assert len(client.settle([], 9, 2).deliveries) == 3
    assert client.settle([], 9, 3) == NOTHING
    clock.advance(0.1)
    assert len(client.settle([], 9, 4).deliveries) == 1


def test_the_last_limits_count(store: SqliteBroker, sqlite_child: Child, put_behind: Put, clock: FakeClock) -> None:
    """A slower rate made faster is not waited out; one that is taken away lets all start."""
    put_behind(1, Gate("key", rate=1 / 3600))
    client = sqlite_child()
    assert len(client.settle([], 9, 1).deliveries) == 1
    put_behind(1, Gate("key", rate=1 / 3600))
    assert store.promote() == pytest.approx(3600, abs=1e-3)
    put_behind(2, Gate("key", rate=10.0))
    clock.advance(store.promote() or 9)
    clock.advance(store.promote() or 0)
    assert len(client.settle([], 9, 2).deliveries) == 1
    assert client.settle([], 9, 3) == NOTHING
    put_behind(1, Gate("key"))
    assert len(client.settle([], 9, 4).deliveries) == 3


# ---- slots


def test_slots(sqlite_child: Child, put_behind: Put) -> None:
    """So many are held at a time, by all together; each end lets the next one in, by the same settle."""
    wanted = put_behind(5, Gate("key", slots=2))
    first, second = sqlite_child(0), sqlite_child(1)
    one = first.settle([], 1, 1).deliveries
    other = second.settle([], 9, 1).deliveries
    assert ids(one + other) == wanted[:2]
    assert first.settle([], 9, 2) == NOTHING
    got = first.settle(done(one), 9, 3)
    assert (ids(got.deliveries), got.more) == (wanted[2:3], False)
    assert ids(second.settle(done(other), 9, 2).deliveries) == wanted[3:4]


ENDS: dict[str, Callable[[SqliteBroker, SqliteBroker, Delivery], object]] = {
    "settled": lambda store, client, held: client.settle(done([held]), 0, 2),
    "retried": lambda store, client, held: client.settle(
        [Outcome(held, None, follow_ups=(Enqueue(held.task_id, b"", "default", 0, 2e9, gate=ONE),))], 0, 2
    ),
    "released": lambda store, client, held: client.release([held]),
    "buried": lambda store, client, held: store.bury(Owner("inc", 0, 1), None),
    "buried with its outcome": lambda store, client, held: store.bury(Owner("inc", 0, 1), done([held])[0]),
    "lost": lambda store, client, held: store.bury(Owner("inc", 0, 1), Requeue(held, 60)),
    "rescued": lambda store, client, held: store.rescue("inc", [], suspect=True),
    "left": lambda store, client, held: store.leave("inc"),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_slot_comes_back(
    store: SqliteBroker, sqlite_child: Child, put_behind: Put, woken: Callable[[], list[int]], end: str
) -> None:
    """However the delivery is over: somebody may start then, and an idle child is told; while it is held nobody is."""
    held_id, waits = put_behind(2, ONE)
    client = sqlite_child()
    (held,) = client.settle([], 9, 1).deliveries
    woken()
    store.nudge()
    store.promote()
    assert woken() == NOBODY
    ENDS[end](store, client, held)
    assert woken()[0] == 1
    store.join("next", "node")
    (got,) = sqlite_child(incarnation="next").settle([], 9, 1).deliveries
    assert got.task_id in {held_id, waits}


def test_a_recall_gives_slots_back(
    store: SqliteBroker, sqlite_child: Child, put_behind: Put, woken: Callable[[], list[int]]
) -> None:
    """What waits behind a long task may start elsewhere."""
    (plain,) = put_behind()
    limited = put_behind(2, ONE)
    client = sqlite_child()
    held = client.settle([], 9, 1).deliveries
    assert ids(held) == [plain, limited[0]]
    woken()
    assert store.recall(Owner("inc", 0, 1), (held[0].n, held[0].i), 1) == 1
    assert woken() == CHILD
    assert ids(sqlite_child(1).settle([], 9, 1).deliveries) == limited[:1]


def test_both_limits(store: SqliteBroker, sqlite_child: Child, put_behind: Put, clock: FakeClock) -> None:
    """A token is taken only with a slot, and none is waited for while there is no slot."""
    wanted = put_behind(4, Gate("key", rate=10.0, burst=2, slots=1))
    client = sqlite_child()
    held = client.settle([], 9, 1).deliveries
    assert store.promote() is None
    held = client.settle(done(held), 9, 2).deliveries
    assert ids(held) == wanted[1:2]
    assert client.settle(done(held), 9, 3) == NOTHING
    assert store.promote() == pytest.approx(0.1, abs=1e-5)
    clock.advance(0.1)
    assert ids(client.settle([], 9, 4).deliveries) == wanted[2:3]


# ---- many processes


HAMMER = """
import sys, time
from poolrt.brokers.sqlite import SqliteBroker
from poolrt.message import Outcome, Owner
from poolrt.states import TaskState
broker = SqliteBroker(sys.argv[1])
broker.attach(Owner("inc", int(sys.argv[2]), 1))
print("up", flush=True)
sys.stdin.readline()
until, n, held = time.monotonic() + 1.2, 0, []
while time.monotonic() < until:
    n += 1
    held = broker.settle([Outcome(each, TaskState.SUCCEEDED) for each in held], 4, n).deliveries
    for each in held:
        print(time.time(), flush=True)
"""


def test_the_rate_holds_over_processes(open_broker: Open, file: Path, script: Callable[..., object]) -> None:
    """Children that ask as fast as they can: in no stretch of time do more start than the rate and a burst allow."""
    rate, burst = 100.0, 5
    store = open_broker()
    store.join("inc", "node")
    store.enqueue(
        [Enqueue(new_task_id(), b"", "default", 0, None, gate=Gate("key", rate=rate, burst=burst)) for _ in range(400)]
    )
    processes = [script(HAMMER, file, slot) for slot in range(3)]
    for process in processes:
        process.stdout.readline()  # type: ignore[attr-defined]
    for process in processes:
        process.stdin.write("go\n")  # type: ignore[attr-defined]
        process.stdin.flush()  # type: ignore[attr-defined]
    starts = sorted(float(line) for process in processes for line in process.communicate()[0].split())  # type: ignore[attr-defined]
    assert len(starts) > 0.8 * rate
    seconds = starts[-1] - starts[0]
    assert len(starts) <= rate * seconds + burst + 2, (len(starts), seconds)  # two were told late
