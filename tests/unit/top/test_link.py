"""The link to a supervisor: asks without blocking, hears in order, and sees when nobody is there."""

from __future__ import annotations

import json
import select
import socket

import pytest

from poolrt.control import MAX_LINE, socket_path
from poolrt.posix.unix_sockets import listen_stream
from poolrt.top.link import Answer, Link


@pytest.fixture
def supervisor(node_dir, monkeypatch):
    """A listener where the supervisor of ``n`` would be."""
    monkeypatch.setenv("POOLRT_RUNTIME_DIR", str(node_dir / "run"))
    with listen_stream(socket_path("n")) as listener:
        yield listener


@pytest.fixture
def link(supervisor):
    """A link to it, connected."""
    made = Link("n")
    assert made.connect()
    yield made
    made.close()


@pytest.fixture
def peer(supervisor, link):
    """The supervisor's end of the link."""
    sock, _ = supervisor.accept()
    sock.settimeout(10)
    with sock:
        yield sock


def say(peer, link, data):
    """Send bytes to the link, and return what it makes of them once they are there."""
    peer.sendall(data)
    select.select([link], (), (), 10)
    return link.hear()


def test_requests_are_lines_and_answers_belong_to_them_in_order(peer, link):
    """Two requests, two answers in one packet: each is known by its place."""
    link.ask("status")
    link.ask("scale", n=3)
    assert [json.loads(line) for line in peer.recv(4096).splitlines()] == [{"do": "status"}, {"do": "scale", "n": 3}]
    assert link.awaits("status")
    answers = say(peer, link, b'{"ok": true, "result": {"node": "n"}}\n{"ok": false, "error": "no"}\n')
    assert answers == [Answer("status", {"node": "n"}), Answer("scale", error="no")]
    assert not link.awaits("status")
    assert link.connected


def test_an_answer_may_come_in_pieces(peer, link):
    """A line counts when its end is there."""
    link.ask("status")
    assert say(peer, link, b'{"ok": true, "res') == []
    assert say(peer, link, b'ult": 7}\n{"ok"') == [Answer("status", 7)]


def test_nothing_there_is_no_answer_and_no_wait(peer, link):
    """Hearing never blocks."""
    assert link.hear() == []
    assert link.connected


def test_what_was_said_before_the_end_is_heard(peer, link):
    """An answer right before end-of-file still counts; then the link is closed, and expects nothing."""
    link.ask("status")
    peer.sendall(b'{"ok": true, "result": 1}\n')
    peer.shutdown(socket.SHUT_WR)
    heard = []
    while link.connected:
        select.select([link], (), (), 10)
        heard += link.hear()
    assert heard == [Answer("status", 1)]
    link.ask("status")
    assert not link.awaits("status")


@pytest.mark.parametrize("said", [b"nonsense\n", b"[]\n", b'{"ok": true}\n', b"\xff\xfe\n"])
def test_nonsense_ends_the_link(peer, link, said):
    """What is no answer, or answers nothing that was asked, is no supervisor."""
    assert say(peer, link, said) == []
    assert not link.connected


def test_a_line_without_end_ends_the_link(peer, link):
    """No more is kept than the longest answer."""
    peer.setblocking(False)
    sent = 0
    while link.connected:
        try:
            sent += peer.send(b"x" * 65536)
        except (BlockingIOError, BrokenPipeError):
            pass
        link.hear()
        assert sent < MAX_LINE + (8 << 20)
    assert sent > MAX_LINE


def test_a_supervisor_that_does_not_read_blocks_nothing(peer, link):
    """Requests that do not fit wait here, in order."""
    while not link.wants_room:
        link.ask("status", padding="x" * 65536)
    read = b""
    while link.wants_room or select.select([peer], (), (), 0)[0]:
        read += peer.recv(1 << 20)
        link.send()
    assert all(json.loads(line)["do"] == "status" for line in read.splitlines())


def test_asking_one_that_is_gone_ends_the_link(peer, link):
    """A broken pipe is no error: the link is closed, to be made anew."""
    peer.close()
    link.ask("status")
    assert not link.connected
    assert not link.awaits("status")


def test_nobody_there_is_no_connection(node_dir, monkeypatch):
    """Without a listener connecting fails at once; nothing is raised by asking or hearing."""
    monkeypatch.setenv("POOLRT_RUNTIME_DIR", str(node_dir / "run"))
    link = Link("n")
    assert not link.connect()
    link.ask("status")
    assert link.hear() == []
    link.close()


def test_a_restarted_supervisor_is_found_again(supervisor, peer, link):
    """After a loss the same link connects anew, and old bytes are forgotten."""
    link.ask("status")
    say(peer, link, b'{"ok"')
    peer.close()
    while link.connected:
        link.hear()
    assert link.connect()
    again, _ = supervisor.accept()
    with again:
        link.ask("recycle", slots=[])
        assert say(again, link, b'{"ok": true, "result": {"recycling": 0}}\n') == [Answer("recycle", {"recycling": 0})]
