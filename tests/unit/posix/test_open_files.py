"""What another process has open: kinds and peers, within bounds."""

from __future__ import annotations

import errno
import os
import signal
import socket

import pytest

from poolrt.posix import open_files as module
from poolrt.posix.open_files import open_files
from poolrt.posix.pidfd import open_pidfd


@pytest.fixture
def other(spawn_quiet, tmp_path):
    """A forked process with known things open: its pid, its pidfd, and the address that it is connected to."""
    listener = socket.create_server(("127.0.0.1", 0))
    connections = [socket.create_connection(listener.getsockname()) for _ in range(3)]
    pair = socket.socketpair()
    ends = os.pipe()
    with (tmp_path / "file").open("w"):
        pid = spawn_quiet()
        if pid == 0:
            signal.pause()
    pidfd = open_pidfd(pid)
    yield pid, pidfd, "{}:{}".format(*listener.getsockname())
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(pidfd)
    for end in ends:
        os.close(end)
    for sock in (listener, *connections, *pair):
        sock.close()


def test_kinds_and_peers(other):
    """Descriptors are counted by kind, connections by peer; a socket without a named peer is a socket only."""
    pid, pidfd, address = other
    found = open_files(pid, pidfd, within=60)
    assert found.complete
    assert found.kinds["socket"] >= 6
    assert found.kinds["pipe"] >= 2
    assert found.kinds["file"] >= 1
    assert found.peers[address] == 3
    assert found.peers[f"listening on {address}"] == 1
    assert not any(peer.startswith("socketpair") for peer in found.peers)


def test_it_leaves_nothing_open(other):
    """A socket that was asked is not held: its owner's close must be its end."""
    pid, pidfd, _ = other
    before = os.listdir("/proc/self/fd")
    open_files(pid, pidfd, within=60)
    assert os.listdir("/proc/self/fd") == before


def test_no_more_than_so_many(other):
    """Beyond the bound nothing is looked at, and that is told."""
    pid, pidfd, _ = other
    found = open_files(pid, pidfd, most=4, within=60)
    assert (sum(found.kinds.values()), found.complete) == (4, False)


def test_no_longer_than_so_long(other):
    """Once the time is over nothing more is looked at."""
    pid, pidfd, _ = other
    found = open_files(pid, pidfd, within=-1)
    assert (found.kinds, found.peers, found.complete) == ({}, {}, False)


def test_where_sockets_may_not_be_asked(other, monkeypatch):
    """A container that forbids pidfd_getfd is asked once; the kinds are there all the same."""
    asked = []

    def refuse(pidfd: int, number: int) -> int:
        asked.append(number)
        raise PermissionError(errno.EPERM, "pidfd_getfd")

    monkeypatch.setattr(module, "_pidfd_getfd", lambda: refuse)
    pid, pidfd, _ = other
    found = open_files(pid, pidfd, within=60)
    assert (found.peers, found.complete, len(asked)) == ({}, True, 1)
    assert found.kinds["socket"] >= 6


def test_a_process_that_is_gone_has_nothing():
    """No error for a pid that nobody has."""
    assert open_files(2**22 + 1, -1) == ({}, {}, True)
