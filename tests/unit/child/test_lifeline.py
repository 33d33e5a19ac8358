"""The child's lifeline on real sockets: orders come through while it waits, and so do the broker's wake-ups."""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from poolrt import notice
from poolrt.child.lifeline import Lifeline
from poolrt.child.main import queues_of
from poolrt.errors import BrokerUnreachable
from poolrt.posix.boot import boottime_ns
from poolrt.posix.unix_sockets import type_of_packets
from poolrt.settings import Settings


class PipeSource:
    """A wake source over a pipe: ``w`` is a wake-up, ``n`` a wait that ended by itself, ``x`` a broken connection.

    Attributes:
        silent: what ``is_silent`` says.
        told: what was asked of it, in order.
    """

    def __init__(self) -> None:
        self.out, self.into = os.pipe()
        self.silent = False
        self.told: list[str] = []

    def arm(self) -> int:
        self.told.append("arm")
        return self.out

    def take(self) -> bool:
        self.told.append("take")
        what = os.read(self.out, 1)
        if what == b"x":
            raise BrokerUnreachable("reset")
        return what == b"w"

    def is_silent(self) -> bool:
        self.told.append("is_silent")
        return self.silent

    def close(self) -> None:
        os.close(self.out)
        os.close(self.into)


@pytest.fixture
def supervisor() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The two ends of a lifeline: the supervisor's, the child's."""
    ours, childs = socket.socketpair(socket.AF_UNIX, type_of_packets)
    with ours, childs:
        ours.setblocking(False)
        yield ours, childs


@pytest.fixture
def lifeline(supervisor) -> Iterator[Lifeline]:  # type: ignore[no-untyped-def]
    """The child's end, without a shared wake socket."""
    lifeline = Lifeline(supervisor[1], None)
    yield lifeline
    lifeline.close()


@pytest.fixture
def source() -> Iterator[PipeSource]:
    """A wake source."""
    source = PipeSource()
    yield source
    source.close()


def test_a_wake_up_ends_the_wait(lifeline, source) -> None:
    """It is armed, and what it brings is said; waits that end by themselves are armed again, without a look."""
    os.write(source.into, b"nnw")
    assert lifeline.wait_for_wake(source, 30.0)
    assert source.told == ["arm", "take"] * 3


def test_an_order_ends_the_wait_at_once(lifeline, supervisor, source) -> None:
    """A child that is blocked on the broker hears its supervisor within 50 ms."""
    sent = []

    def order() -> None:
        select.select([], [supervisor[0]], [], 5)
        sent.append(time.monotonic())
        notice.send(supervisor[0], notice.Poke())

    thread = threading.Timer(0.05, order)
    thread.start()
    assert not lifeline.wait_for_wake(source, 30.0)
    took = time.monotonic() - sent[0]
    thread.join()
    assert took < 0.05
    assert source.told == ["arm"]
    assert lifeline.receive() == [], "the order was taken"
    assert not lifeline.cut


def test_a_wake_up_beside_an_order_is_not_lost(lifeline, supervisor, source) -> None:
    """Both came: the order is taken, and the wake-up is said."""
    notice.send(supervisor[0], notice.Poke())
    os.write(source.into, b"w")
    assert lifeline.wait_for_wake(source, 30.0)
    assert lifeline.receive() == []


def test_the_supervisor_is_gone(lifeline, supervisor, source) -> None:
    """End-of-file ends the wait and is remembered."""
    supervisor[0].close()
    assert not lifeline.wait_for_wake(source, 30.0)
    assert lifeline.cut


def test_the_watchdog_ends_the_wait(lifeline, source) -> None:
    """Though each wait of the server is in time and empty, after the timeout the child looks by itself."""
    began = time.monotonic()
    assert not lifeline.wait_for_wake(source, 0.05)
    assert 0.05 <= time.monotonic() - began < 5
    assert "take" not in source.told


def test_a_silent_connection_is_trouble(lifeline, source, monkeypatch) -> None:
    """An answer that is overdue raises; one that is not is waited for."""
    monkeypatch.setattr("poolrt.child.lifeline._LONGEST_WAIT", 0.01)
    ask = source.is_silent

    def is_silent() -> bool:
        source.silent = source.told.count("is_silent") == 2
        return ask()

    source.is_silent = is_silent
    with pytest.raises(BrokerUnreachable, match="silent"):
        lifeline.wait_for_wake(source, 30.0)
    assert source.told == ["arm", "is_silent"] * 3


def test_a_broken_connection_is_trouble(lifeline, source) -> None:
    """What the source raises is its caller's."""
    os.write(source.into, b"x")
    with pytest.raises(BrokerUnreachable, match="reset"):
        lifeline.wait_for_wake(source, 30.0)


@pytest.mark.parametrize(
    ("text", "queues"), [("", ()), ("a", ("a",)), (" a , b,,c ", ("a", "b", "c")), (" , ", ())]
)  # fmt: skip
def test_the_queues_of_a_node(text: str, queues: tuple[str, ...]) -> None:
    """Separated by commas, spaces aside; none is all."""
    assert queues_of(Settings(queues=text)) == queues


def test_the_clock_of_leases_counts_on() -> None:
    """It is never behind the monotonic clock, which stands still while the machine sleeps, and it moves."""
    before = time.monotonic_ns()
    first = boottime_ns()
    assert before <= first <= boottime_ns()
