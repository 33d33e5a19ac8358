"""The steward's loop between two calls of the broker: renewals come in time, and end all else when they are refused."""

from __future__ import annotations

import os
import socket
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from poolrt import notice
from poolrt.board import Board
from poolrt.brokers.base import Buried, Depth
from poolrt.child.main import Place
from poolrt.errors import BrokerUnreachable, Fenced
from poolrt.hygiene.findings import LeakKind, LeakRow
from poolrt.posix.files import open_private
from poolrt.settings import Settings
from poolrt.states import Order
from poolrt.steward import main as main_module
from poolrt.steward import renewal as renewal_module
from poolrt.steward.main import Steward

LEASE = 10.0
EVERY = LEASE / 5


class Clock:
    """The time since boot and since then awake, moved by each call of the broker."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def monotonic_ns(self) -> int:
        return int(self.now * 1e9)


class FakeBroker:
    """A leased broker, each of whose calls takes ``slowness`` seconds."""

    leases = True
    timeout = 5.0

    def __init__(self, clock: Clock, directory: Path) -> None:
        self._clock = clock
        self._directory = directory
        self.slowness = 0.0
        self.calls: list[str] = []
        self.renewed_at: list[float] = []
        self.beats: dict[str, int] = {}
        self.fails: dict[str, Exception] = {}
        self.registered: list[tuple[str, str]] = []
        self.rescued: list[tuple[str, int | None]] = []
        self.noted: list[tuple[list[LeakRow], str]] = []

    def _called(self, name: str) -> None:
        self.calls.append(name)
        self._clock.now += self.slowness
        if name in self.fails:
            raise self.fails[name]

    def node_directory(self) -> Path:
        return self._directory

    def doorbell(self, node: str) -> Any:
        return types.SimpleNamespace(fileno=lambda: -1, answer=lambda: None, close=lambda: None)

    def join(self, incarnation: str, node: str) -> None:
        self._called("join")

    def renew(self, incarnation: str) -> dict[str, int]:
        self.renewed_at.append(self._clock.now)
        self._called("renew")
        return {incarnation: len(self.renewed_at), **self.beats}

    def depth(self) -> Depth:
        self._called("depth")
        return Depth(0, 0, 0, 0, None)

    def nudge(self) -> None:
        self._called("nudge")

    def others(self) -> list[tuple[str, str]]:
        self._called("others")
        return self.registered

    def promote(self) -> float | None:
        self._called("promote")
        return None

    def to_cancel(self, incarnation: str) -> list[Any]:
        self._called("to_cancel")
        return []

    def bury(self, owner: Any, verdict: Any) -> Buried:
        self._called("bury")
        return Buried(0, settled=False)

    def rescue(self, incarnation: str, verdicts: Any, *, suspect: bool, beat: int | None = None) -> Buried:
        self._called("rescue")
        self.rescued.append((incarnation, beat))
        return Buried(1, settled=False)

    def note_leaks(self, rows: Sequence[LeakRow], *, call: str) -> None:
        self.noted.append((list(rows), call))
        self._called("note_leaks")

    def leave(self, incarnation: str) -> int:
        self._called("leave")
        return 0

    def purge(self, limit: int = 1000) -> int:
        return 0


class FakeLifeline:
    """What was sent; what waits to be received."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self.cut = False
        self.sent: list[notice.Notice] = []
        self.waiting: list[notice.Notice] = []

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, message: notice.Notice) -> None:
        self.sent.append(message)

    def receive(self) -> list[notice.Notice]:
        received, self.waiting = self.waiting, []
        return received


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Time of the steward's modules; their waits take none."""
    clock = Clock()
    for module in (main_module, renewal_module):
        monkeypatch.setattr(module.time, "monotonic", clock.monotonic)
        monkeypatch.setattr(module.time, "monotonic_ns", clock.monotonic_ns)
    monkeypatch.setattr(renewal_module, "boottime_ns", clock.monotonic_ns)
    return clock


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    """A new start's board."""
    fd = open_private(tmp_path / "n.board", os.O_RDWR | os.O_CREAT)
    Board.initialize(fd, "own")
    board = Board(fd)
    yield board
    board.close()
    os.close(fd)


@pytest.fixture
def broker(clock: Clock, tmp_path: Path) -> FakeBroker:
    """It answers at once, until told otherwise."""
    return FakeBroker(clock, tmp_path)


@pytest.fixture
def lifeline() -> Iterator[FakeLifeline]:
    """Readable at all times, so that the loop never waits."""
    ours, theirs = socket.socketpair()
    ours.send(b"!")
    yield FakeLifeline(theirs)
    ours.close()
    theirs.close()


@pytest.fixture
def steward(broker: FakeBroker, board: Board, lifeline: FakeLifeline) -> Steward:
    """One that has not joined yet."""
    place = Place("node", "own", 0, 1, 1, 0, Settings(lease=LEASE))
    app = types.SimpleNamespace(broker=broker, tasks={})
    return Steward(app, place, lifeline, board)  # type: ignore[arg-type]


def orders(clock: Clock, rounds: int, step: float, last: Order = Order.HAND_OVER) -> Callable[[], int]:
    """Work for so many rounds, each ``step`` seconds after the last."""
    left = [rounds * 2]  # the order is looked at twice a round

    def order() -> int:
        left[0] -= 1
        if left[0] % 2:
            clock.now += step
        return Order.WORK if left[0] > 0 else last

    return order


def test_the_first_lease_is_there_before_children_are(steward: Steward, broker: FakeBroker, board: Board) -> None:
    """Two thirds of it, from the sending of the renewal."""
    broker.slowness = 0.5
    steward.join()
    assert broker.calls == ["join", "renew"]
    assert board.lease_until == pytest.approx((1000.5 + LEASE * 2 / 3) * 1e9)
    assert board.beat == 1000.5 * 1e9


def test_no_call_may_delay_the_next_renewal(steward: Steward, broker: FakeBroker) -> None:
    """Each is bounded by 0.8 of the time between two."""
    assert broker.timeout == pytest.approx(0.8 * EVERY)


def test_it_renews_between_slow_calls(
    steward: Steward, broker: FakeBroker, board: Board, lifeline: FakeLifeline, clock: Clock
) -> None:  # fmt: skip
    """Fifty burials of 1.6 s each: no two renewals are further apart than a renewal's time, a call and a renewal."""
    steward.join()
    lifeline.waiting = [notice.Bury(number, 1, number, 0, 0, "", "none") for number in range(50)]
    broker.slowness = 0.8 * EVERY
    steward.run(orders(clock, 2, 0.0))
    assert broker.calls.count("bury") == 50
    gaps = [later - earlier for earlier, later in zip(broker.renewed_at, broker.renewed_at[1:], strict=False)]
    assert len(gaps) > 20
    assert max(gaps) <= EVERY * 2.6
    assert lifeline.sent.count(notice.Poke()) == 0


def test_while_the_broker_is_away_it_tries_more_often(
    steward: Steward, broker: FakeBroker, board: Board, lifeline: FakeLifeline, clock: Clock
) -> None:  # fmt: skip
    """The lease stays what it was, the board is stamped all the time, and the trouble is told once."""
    steward.join()
    until = board.lease_until
    broker.fails = dict.fromkeys(("renew", "depth", "promote", "to_cancel"), BrokerUnreachable("away"))
    broker.renewed_at.clear()
    steward.run(orders(clock, 100, 0.1))
    assert 10.0 / EVERY <= len(broker.renewed_at) <= 10.0 / EVERY * 3 + 1
    assert board.lease_until == until
    assert board.beat >= (clock.now - 0.2) * 1e9
    assert [message for message in lifeline.sent if isinstance(message, notice.Trouble)] == [
        notice.Trouble("BrokerUnreachable: away")
    ]
    broker.fails = {}
    steward.run(orders(clock, 20, 0.1))
    assert board.lease_until > until
    assert notice.Poke() in lifeline.sent  # it had run out: the supervisor starts children again at once


@pytest.mark.parametrize("refused", ["renew", "promote", "bury"])
def test_a_refusal_is_told_once_and_ends_all_work(
    steward: Steward, broker: FakeBroker, board: Board, lifeline: FakeLifeline, clock: Clock, refused: str
) -> None:  # fmt: skip
    """Whatever is refused. Then it only waits for its order, and stamps the board."""
    steward.join()
    lifeline.waiting = [notice.Bury(1, 1, 1, 0, 0, "", "none")]
    broker.fails = {refused: Fenced("rescued")}
    steward.run(orders(clock, 30, 0.1))
    assert [message for message in lifeline.sent if isinstance(message, notice.LeaseLost)] == [
        notice.LeaseLost("rescued")
    ]
    calls = len(broker.calls)
    steward.run(orders(clock, 30, 0.1))
    assert len(broker.calls) == calls
    assert board.beat >= (clock.now - 0.2) * 1e9
    steward.run(orders(clock, 1, 0.0, Order.RETIRE))
    assert "leave" not in broker.calls


def test_a_start_that_has_left_is_not_lost(
    steward: Steward, broker: FakeBroker, lifeline: FakeLifeline, clock: Clock
) -> None:  # fmt: skip
    """The answer to ``leave`` was lost: nobody must think that others took over."""
    steward.join()
    broker.fails = {"leave": BrokerUnreachable("away"), "renew": Fenced("it has left")}
    steward.run(orders(clock, 1, 0.0))
    broker.calls.clear()
    steward._left()  # the first try, whose answer is lost
    clock.now += LEASE
    broker.fails["promote"] = Fenced("it has left")
    steward.run(orders(clock, 3, 1.0, Order.RETIRE))
    assert not [message for message in lifeline.sent if isinstance(message, notice.LeaseLost)]
    assert "renew" not in broker.calls


def test_an_expired_lease_is_rescued_with_its_beat(
    steward: Steward, broker: FakeBroker, lifeline: FakeLifeline, clock: Clock
) -> None:  # fmt: skip
    """Not before it was watched for a whole one."""
    steward.join()
    broker.beats = {"other": 7}
    steward.run(orders(clock, 100, 0.1))
    assert broker.rescued == []
    steward.run(orders(clock, 40, 0.1))
    assert broker.rescued[0] == ("other", 7)
    told = [message.event for message in lifeline.sent if isinstance(message, notice.Happened)]
    assert told[0].cause == "start other did not renew its lease"


def test_a_start_of_our_name_that_no_lock_lists_waits_for_its_lease(
    steward: Steward, broker: FakeBroker, clock: Clock
) -> None:  # fmt: skip
    """It may be another machine's; where there are no leases, nobody else can have the name."""
    broker.registered = [("elsewhere", "node"), ("far", "far-away")]
    steward.join()
    steward.run(orders(clock, 80, 0.1))
    assert broker.calls.count("others") >= 2
    assert broker.rescued == []
    broker.leases = False
    steward.run(orders(clock, 80, 0.1))
    assert set(broker.rescued) == {("elsewhere", None), ("far", None)}


def test_somebody_who_doubts_the_lease_has_it_asked_for_soon(
    steward: Steward, broker: FakeBroker, lifeline: FakeLifeline, clock: Clock
) -> None:  # fmt: skip
    """A child was refused; but a storm of them costs three renewals a second."""
    steward.join()
    steward.run(orders(clock, 1, 0.0))
    broker.renewed_at.clear()
    began = clock.now

    def poke() -> int:
        lifeline.waiting = [notice.Poke()]
        clock.now += 0.005
        return Order.WORK if clock.now < began + 1.0 else Order.HAND_OVER

    steward.run(poke)
    assert 2 <= len(broker.renewed_at) <= 4
    assert broker.renewed_at[0] <= began + 0.32


def test_a_steward_that_follows_another_renews_without_joining(
    steward: Steward, broker: FakeBroker, board: Board
) -> None:  # fmt: skip
    """Its start had a lease: it is known, or over (protocol.md, rule 2)."""
    board.publish_lease(1)
    steward.join()
    assert broker.calls == ["renew"]


def leaked(count: int = 1) -> notice.Leaked:
    """What the supervisor tells of a task that leaves files."""
    return notice.Leaked(LeakRow(LeakKind.FILES, "t", "/tmp/x", count, count, 1.0, 1.0, "it leaves /tmp/x"))


def test_leaks_are_written_each_second(
    steward: Steward, broker: FakeBroker, lifeline: FakeLifeline, clock: Clock
) -> None:  # fmt: skip
    """Ten that are told in a second are one call, with their sum; where there are none, there is no call."""
    steward.join()
    steward.run(orders(clock, 30, 0.1))
    assert broker.noted == []
    told = 0

    def order() -> int:
        nonlocal told
        told += 1
        clock.now += 0.1
        lifeline.waiting.append(leaked())
        return Order.WORK if told < 30 else Order.HAND_OVER

    steward.run(order)
    counts = [row.count for rows, _ in broker.noted for row in rows]
    assert len(counts) <= 4
    assert sum(counts) == told
    assert len({call for _, call in broker.noted}) == len(broker.noted)


def test_trouble_with_leaks_stops_nothing_else(
    steward: Steward, broker: FakeBroker, lifeline: FakeLifeline, clock: Clock
) -> None:  # fmt: skip
    """It is told once, the lease is renewed and the dead are buried; then the same rows come under the same name."""
    steward.join()
    broker.fails = {"note_leaks": BrokerUnreachable("away")}
    lifeline.waiting = [leaked(3)]
    steward.run(orders(clock, 50, 0.1))
    lifeline.waiting = [leaked(4), notice.Bury(1, 1, 1, 0, 0, "", "none")]
    broker.renewed_at.clear()
    steward.run(orders(clock, 50, 0.1))
    assert broker.calls.count("note_leaks") >= 8
    assert "bury" in broker.calls
    assert len(broker.renewed_at) >= 2
    assert [message for message in lifeline.sent if isinstance(message, notice.Trouble)] == [
        notice.Trouble("BrokerUnreachable: away")
    ]
    assert len(set(map(str, broker.noted))) == 1
    broker.fails = {}
    broker.noted.clear()
    steward.run(orders(clock, 30, 0.1))
    assert [[row.count for row in rows] for rows, _ in broker.noted] == [[3], [4]]
    assert notice.Trouble("") in lifeline.sent


@pytest.mark.parametrize("last", [Order.RETIRE, Order.HAND_OVER])
def test_the_last_leaks_are_written_before_it_goes(
    steward: Steward, broker: FakeBroker, lifeline: FakeLifeline, clock: Clock, last: Order
) -> None:  # fmt: skip
    """Also those that are told while the order is there already."""
    steward.join()

    def order() -> int:
        lifeline.waiting = [leaked()]
        return last

    steward.run(order)
    assert sum(row.count for rows, _ in broker.noted for row in rows) >= 1
    assert "leave" not in broker.calls or broker.calls.index("note_leaks") < broker.calls.index("leave")
