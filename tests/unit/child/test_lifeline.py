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
from poolrt.posix.boot import boottime_ns
from poolrt.posix.unix_sockets import type_of_packets


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
def pipe() -> Iterator[tuple[int, int]]:
    """A connection to the broker, as far as a lifeline sees one: where to read, where to write."""
    out, into = os.pipe()
    yield out, into
    os.close(out)
    os.close(into)


def test_an_answer_ends_the_wait(lifeline, pipe) -> None:
    """It is said, and not read."""
    os.write(pipe[1], b"+")
    assert lifeline.wait_for_answer(pipe[0], 30.0)
    assert os.read(pipe[0], 2) == b"+"


def test_an_order_ends_the_wait_at_once(lifeline, supervisor, pipe) -> None:
    """A child that is blocked on the broker hears its supervisor within 50 ms."""
    sent = []

    def order() -> None:
        select.select([], [supervisor[0]], [], 5)
        sent.append(time.monotonic())
        notice.send(supervisor[0], notice.Poke())

    thread = threading.Timer(0.05, order)
    thread.start()
    assert not lifeline.wait_for_answer(pipe[0], 30.0)
    took = time.monotonic() - sent[0]
    thread.join()
    assert took < 0.05
    assert lifeline.receive() == [], "the order was taken"
    assert not lifeline.cut


def test_an_answer_beside_an_order_is_not_lost(lifeline, supervisor, pipe) -> None:
    """Both came: the order is taken, and the answer is said."""
    notice.send(supervisor[0], notice.Poke())
    os.write(pipe[1], b"+")
    assert lifeline.wait_for_answer(pipe[0], 30.0)
    assert lifeline.receive() == []


def test_the_supervisor_is_gone(lifeline, supervisor, pipe) -> None:
    """End-of-file ends the wait and is remembered."""
    supervisor[0].close()
    assert not lifeline.wait_for_answer(pipe[0], 30.0)
    assert lifeline.cut


def test_the_wait_has_an_end(lifeline, pipe) -> None:
    """Nothing came, and the time is over, or was over before."""
    began = time.monotonic()
    assert not lifeline.wait_for_answer(pipe[0], 0.05)
    assert 0.05 <= time.monotonic() - began < 5
    assert not lifeline.wait_for_answer(pipe[0], -1)


def test_the_clock_of_leases_counts_on() -> None:
    """It is never behind the monotonic clock, which stands still while the machine sleeps, and it moves."""
    before = time.monotonic_ns()
    first = boottime_ns()
    assert before <= first <= boottime_ns()
