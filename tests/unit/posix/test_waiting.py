from __future__ import annotations

import os
import signal
import socket

import pytest

from poolrt.posix import procfs, waiting


@pytest.fixture(params=[waiting.ExclusiveWait, waiting._SelectWait])
def wait(request):
    made = request.param()
    yield made
    made.close()
    made.close()


@pytest.fixture
def pair():
    ends = socket.socketpair()
    yield ends
    for end in ends:
        end.close()


def test_what_is_ready_is_returned(wait, pair):
    """Own and shared descriptors are told by number; nothing ready is an empty set after the timeout."""
    ours, theirs = pair
    wait.register_shared(ours.fileno())
    wait.register_own(theirs.fileno())
    assert wait.wait(0) == set()
    assert wait.wait(0.01) == set()
    theirs.send(b"x")
    assert wait.wait(None) == {ours.fileno()}
    ours.send(b"x")
    assert wait.wait(5) == {ours.fileno(), theirs.fileno()}
    wait.unregister(ours.fileno())
    wait.unregister(ours.fileno())
    assert wait.wait(5) == {theirs.fileno()}


def test_a_hang_up_is_an_event(wait, pair):
    """The other side's end wakes the waiter."""
    ours, theirs = pair
    wait.register_own(ours.fileno())
    theirs.close()
    assert wait.wait(None) == {ours.fileno()}


def test_a_signal_does_not_end_the_wait(fork, pair):
    """The handler runs, and the wait goes on until its event."""
    ours, theirs = pair

    def main(talk):
        signal.signal(signal.SIGUSR1, lambda *_: talk.say("signalled"))
        wait = waiting.ExclusiveWait()
        wait.register_own(ours.fileno())
        talk.say("ready")
        talk.say(wait.wait(None) == {ours.fileno()})

    child = fork(main)
    assert child.hear() == "ready"
    os.kill(child.pid, signal.SIGUSR1)
    assert child.hear() == "signalled"
    theirs.send(b"x")
    assert child.hear() is True


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="EPOLLEXCLUSIVE is Linux's")
def test_one_event_does_not_wake_all_who_share_it(fork, pair):
    """Of several processes that wait for one socket, an event leaves some asleep; each is woken by its own."""
    ours, theirs = pair

    def main(talk):
        wait = waiting.ExclusiveWait()
        wait.register_shared(ours.fileno())
        wait.register_own(talk.sock.fileno())
        talk.say("ready")
        talk.say("own" if talk.sock.fileno() in wait.wait(None) else "shared")
        wait.close()
        talk.hear()

    children = [fork(main) for _ in range(5)]
    for child in children:
        assert child.hear() == "ready"
        while procfs.state(child.pid) != "S":
            os.sched_yield()
    theirs.send(b"x")
    for child in children:
        while procfs.state(child.pid) != "S":  # whoever was woken says so before it sleeps again
            os.sched_yield()
        child.say("wake up")
    woken_by = [child.hear() for child in children]
    assert "shared" in woken_by
    assert "own" in woken_by
