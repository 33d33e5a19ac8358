"""SQLite: what single queues cost and whom they wake, the bell of a steward, and answers after trouble."""

from __future__ import annotations

import re
import select
import socket
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from poolrt.brokers.base import Found
from poolrt.brokers.sqlite import SqliteBroker, queue_statements
from poolrt.clock import FakeClock
from poolrt.errors import BrokerBusy, BrokerError
from poolrt.message import Enqueue, Outcome, Owner, new_task_id
from poolrt.posix.unix_sockets import bind_datagram
from poolrt.queue_choice import QueueChoice
from poolrt.states import TaskState

Open = Callable[..., SqliteBroker]
Listen = Callable[[str], socket.socket]
WaitFor = Callable[..., None]

WHOLE = re.compile(r"\s*(select|insert|update|delete|with)\b")
"""Statements, and not the pieces of some."""


@pytest.fixture
def store(open_broker: Open, clock: FakeClock) -> SqliteBroker:
    """A client of a new file, on which the nodes ``node`` and ``there`` have joined."""
    broker = open_broker(clock=clock)
    broker.join("inc", "node")
    broker.join("other", "there")
    return broker


@pytest.fixture
def listen(store: SqliteBroker) -> Iterator[Listen]:
    """Binds a socket in the node directory, as a node's children and steward do."""
    sockets: list[socket.socket] = []

    def bind(name: str) -> socket.socket:
        sock = bind_datagram(store.node_directory() / name)
        sock.setblocking(False)
        sockets.append(sock)
        return sock

    yield bind
    for sock in sockets:
        sock.close()


def woken(sock: socket.socket) -> int:
    """How many datagrams have come; they are there when the call that sent them has returned."""
    count = 0
    while True:
        try:
            sock.recv(64)
        except BlockingIOError:
            return count
        count += 1


def put(broker: SqliteBroker, queue: str, count: int = 1, eta: float | None = None) -> list[str]:
    ids = [new_task_id() for _ in range(count)]
    broker.enqueue([Enqueue(task, b"", queue, 0, eta) for task in ids])
    return ids


def attached(broker: SqliteBroker, *queues: str) -> SqliteBroker:
    broker.attach(Owner("inc", 0, 1), QueueChoice(queues))
    return broker


def has_index(file: Path) -> bool:
    db = sqlite3.connect(file)
    try:
        return db.execute(queue_statements.HAS_INDEX).fetchone() is not None
    finally:
        db.close()


# ---- what it costs


def test_who_uses_no_single_queues_pays_nothing(file: Path, store: SqliteBroker) -> None:
    """The index of queues is not there until somebody needs it, so that no enqueue or reserve keeps it up."""
    put(store, "mail", 3)
    client = attached(store)
    held = client.settle([], 2, 1).deliveries
    client.release(held)
    store.queues()
    store.peek("mail")
    store.unpause("mail")
    assert not has_index(file)


USES: dict[str, Callable[[SqliteBroker], object]] = {
    "a choice": lambda broker: attached(broker, "mail"),
    "all but some": lambda broker: broker.attach(Owner("inc", 0, 1), QueueChoice(without=("mail",))),
    "a pause": lambda broker: broker.pause("mail"),
    "a move": lambda broker: broker.move("mail", "bulk"),
    "emptying": lambda broker: broker.empty("mail"),
}


@pytest.mark.parametrize("use", USES)
def test_the_first_use_makes_the_index(file: Path, store: SqliteBroker, use: str) -> None:
    """And the second one finds it."""
    put(store, "mail", 3)
    USES[use](store)
    assert has_index(file)
    USES[use](store)


def test_queue_statements_use_the_index(file: Path, store: SqliteBroker) -> None:
    """However many messages wait in other queues, none of them is read."""
    store.pause("mail")
    db = sqlite3.connect(file)
    may_walk = {"COUNTS_UNINDEXED"}
    sorts = {"FIRST", "EMPTY", "MOVE", "PEEK"}  # what of the queue waits behind gates
    walk = re.compile(r"SCAN task(?! USING (COVERING )?INDEX task_(queued|suspect|by_queue))")
    for name, text in vars(queue_statements).items():
        if not isinstance(text, str) or not WHOLE.match(text) or name in may_walk or " task" not in text:
            continue
        named = dict.fromkeys(re.findall(r":(\w+)", text))
        plan = [row[3] for row in db.execute(f"explain query plan {text}", named or [None] * text.count("?"))]
        walks = [line for line in plan if walk.search(line)]
        assert not walks, (name, plan)
        assert name in sorts or not [line for line in plan if "TEMP B-TREE" in line], (name, plan)
        if name not in {"ANY_WAITING", "COUNTS_BEHIND", "ANY_BEHIND_IN"}:
            assert any("task_by_queue" in line for line in plan), (name, plan)
    db.close()


def test_both_counts_say_the_same(store: SqliteBroker, clock: FakeClock) -> None:
    """Looking at queues answers the same before and after their index is made."""
    put(store, "mail", 2)
    clock.advance(3)
    put(store, "bulk", 3)
    put(store, "bulk", eta=clock.wall() + 9)
    before = store.queues()
    store.move("nothing", "nowhere")
    assert store.queues() == before
    assert [(queue.name, queue.queued, queue.oldest) for queue in before] == [
        ("bulk", 3, pytest.approx(0)),
        ("mail", 2, pytest.approx(3)),
    ]


def test_plans_of_all_queues_are_the_same_with_the_index(file: Path, store: SqliteBroker) -> None:
    """A node that reads all queues reserves as fast in a file where others choose."""
    from poolrt.brokers.sqlite import statements

    put(store, "mail")

    def plans() -> dict[str, list[str]]:
        db = sqlite3.connect(file)
        found = {}
        for name in ("TO_RESERVE", "SUSPECT_HEAD", "QUEUED_HEAD", "ANY_QUEUED", "RELEASE", "PROMOTE", "END", "HELD"):
            text = getattr(statements, name)
            rows = db.execute(f"explain query plan {text}", [None] * text.count("?"))
            found[name] = [row[3] for row in rows]
        db.close()
        return found

    before = plans()
    store.pause("mail")
    assert plans() == before


# ---- whom it wakes


def test_a_pause_lets_children_sleep(store: SqliteBroker, listen: Listen, clock: FakeClock) -> None:
    """Nothing that waits in a paused queue wakes a child, whoever put it there; the end of the pause does."""
    put(store, "mail", 2)
    client = attached(store)
    held = client.settle([], 2, 1).deliveries
    put(store, "mail", eta=clock.wall() + 5)
    store.pause("mail")
    wake = listen("node.wake")
    put(store, "mail")
    client.release(held[:1])
    clock.advance(5)
    store.promote()
    store.move("mail", "mail")
    retry = Enqueue(held[1].task_id, b"", "mail", 0, None)
    client.settle([Outcome(held[1], None, follow_ups=(retry,))], 0, 2)
    store.nudge()
    assert woken(wake) == 0
    put(store, "other")
    assert woken(wake) == 1
    store.nudge()
    assert woken(wake) == 1
    store.unpause("mail")
    assert woken(wake) == 1
    store.unpause("nothing")
    assert woken(wake) == 0


def test_what_is_moved_or_recalled_wakes(store: SqliteBroker, listen: Listen) -> None:
    """A message that an idle child may reserve now is told."""
    put(store, "mail", 2)
    store.pause("mail")
    wake = listen("node.wake")
    assert store.move("mail", "bulk") == 2
    assert woken(wake) == 1
    assert store.move("mail", "bulk") == 0
    assert woken(wake) == 0
    (first, _) = attached(store).settle([], 2, 1).deliveries
    store.recall(Owner("inc", 0, 1), (first.n, first.i), 1)
    assert woken(wake) == 1
    store.recall(Owner("inc", 0, 1), (first.n, first.i), 1)
    assert woken(wake) == 0


def test_a_follow_up_for_others_wakes_them(store: SqliteBroker, listen: Listen) -> None:
    """It is not the settler's to reserve, and so it is told although ``more`` is false."""
    put(store, "mail")
    client = attached(store, "mail")
    held = client.settle([], 1, 1).deliveries
    wake = listen("there.wake")
    link = Enqueue(new_task_id(), b"", "other", 0, None)
    got = client.settle([Outcome(held[0], TaskState.SUCCEEDED, follow_ups=(link,))], 1, 2)
    assert (got.deliveries, got.more, woken(wake)) == ([], False, 1)


def test_emptying_wakes_who_waits(store: SqliteBroker, wait_for: WaitFor) -> None:
    """The waiter of a deleted message is told by the call that deleted it, not by the steward's tick."""
    (task,) = put(store, "mail")
    answers: list[Found | None] = []
    thread = threading.Thread(target=lambda: answers.append(store.wait(task, 30)))
    thread.start()
    wait_for(lambda: store._store.read(lambda db: db.execute("select 1 from waiter").fetchone()), "it waits")
    assert store.empty("mail") == 1
    thread.join(10)
    assert answers == [None]


# ---- the bell


def test_only_the_holder_is_rung(open_broker: Open, store: SqliteBroker, listen: Listen) -> None:
    """A held message is cancelled by one node: no other steward is woken, and no child."""
    here, there, wake = listen("node.steward"), listen("there.steward"), listen("node.wake")
    put(store, "mail", 2)
    woken(wake)
    (held,) = attached(store).settle([], 1, 1).deliveries
    assert store.cancel_held(held.task_id)
    assert [woken(sock) for sock in (here, there, wake)] == [1, 0, 0]
    neighbour = open_broker()
    neighbour.attach(Owner("other", 0, 1))
    (theirs,) = neighbour.settle([], 1, 1).deliveries
    assert store.cancel_held(theirs.task_id)
    assert [woken(sock) for sock in (here, there, wake)] == [0, 1, 0]
    assert not store.cancel_held("nobody")
    assert [woken(sock) for sock in (here, there, wake)] == [0, 0, 0]


def test_the_bell_is_a_private_socket(store: SqliteBroker) -> None:
    """``<node>.steward`` in the node directory, for this user alone, and gone with the bell."""
    bell = store.doorbell("node")
    path = store.node_directory() / "node.steward"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    put(store, "mail", eta=1e12)
    assert select.select([bell], [], [], 0)[0]
    bell.answer()
    assert not select.select([bell], [], [], 0)[0]
    bell.close()
    assert not path.exists()


def test_a_bell_that_somebody_left(store: SqliteBroker) -> None:
    """The socket of a killed steward is replaced; so is that of a living one, whose close leaves the new one alone."""
    path = store.node_directory() / "node.steward"
    bind_datagram(path).close()
    first = store.doorbell("node")
    second = store.doorbell("node")
    first.close()
    assert path.exists()
    put(store, "mail", eta=1e12)
    assert select.select([second], [], [], 0)[0]
    second.close()
    assert not path.exists()


def test_a_bell_that_cannot_be_hung_up(store: SqliteBroker) -> None:
    """What stands in the way is named by a broker's error."""
    (store.node_directory() / "node.steward").mkdir()
    with pytest.raises(BrokerError, match=r"q\.db"):
        store.doorbell("node")


# ---- words


def test_words_do_not_pile_up(store: SqliteBroker) -> None:
    """The rows of words on deliveries that are over go with the next word, and with their owner."""
    put(store, "mail", 3)
    client = attached(store)

    def rows() -> int:
        count: int = store._store.read(lambda db: db.execute("select count(*) from to_cancel").fetchone()[0])
        return count

    held = client.settle([], 3, 1).deliveries
    store.cancel_held(held[0].task_id)
    store.cancel_held(held[1].task_id)
    client.settle([Outcome(held[0], TaskState.SUCCEEDED)], 0, 2)
    assert store.cancel_held(held[1].task_id)
    assert rows() == 1
    store.cancel_held(held[2].task_id)
    store.bury(Owner("inc", 0, 1), None)
    assert rows() == 0
    store.attach(Owner("inc", 0, 2))
    store.cancel_held(store.settle([], 1, 1).deliveries[0].task_id)
    assert rows() == 1
    store.leave("inc")
    assert rows() == 0


# ---- answers


def test_after_an_error_nothing_is_unanswered(open_broker: Open, file: Path, store: SqliteBroker) -> None:
    """The failed submit did nothing; the one before it was done, and ``resume`` tells what it gave."""
    wanted = put(store, "mail", 3)
    client = attached(open_broker(timeout=0.05))
    client.submit([], 2, 1)
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("begin immediate")
    with pytest.raises(BrokerBusy):
        client.submit([], 1, 2)
    other.execute("rollback")
    other.close()
    with pytest.raises(RuntimeError, match="without a submit"):
        client.answer()
    rows = store._store.read(lambda db: dict(db.execute("select id, seq from task")))
    assert client.resume() == [(1, rows[task]) for task in wanted[:2]]
    assert len(client.settle([], 9, 3).deliveries) == 1


def test_resuming_drops_answers(store: SqliteBroker) -> None:
    """So does another attach: an answer of before would be taken for that of the next submit."""
    put(store, "mail", 2)
    client = attached(store)
    client.submit([], 1, 1)
    ((n, _),) = client.resume()
    assert n == 1
    with pytest.raises(RuntimeError):
        client.answer()
    client.submit([], 1, 2)
    attached(client)
    with pytest.raises(RuntimeError):
        client.answer()
