"""Connections whose peer went away, told by a child: few of them, before any rule of leaks sees them."""

import socket
import threading

import pytest


@pytest.fixture
def closes_at_once():
    """A server that accepts, and closes what it accepted; its port."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=100)

    def serve():
        while True:
            try:
                listener.accept()[0].close()
            except OSError:
                return  # the test is over

    thread = threading.Thread(target=serve)
    thread.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


def test_connections_whose_peer_has_gone_are_told(serve, tasks, ledger, closes_at_once, wait_for):
    """Three of them among innocent runs: their kind, task, peer and number; the child stays."""
    node = serve("close_wait_app:app")
    for result in tasks.leak.enqueue_many([(str(ledger), closes_at_once)] * 3):
        result.get(10)

    def told():
        tasks.note.enqueue_many([(str(ledger), 0)] * 100)[-1].get(10)
        return node.events("leak-found")

    wait_for(told, "the finding")
    (found,) = node.events("leak-found")
    peer = f"127.0.0.1:{closes_at_once}"
    assert found["task"] == "leak"
    assert found["cause"].startswith(f"3 connections of leak to {peer} are open")
    assert (found["numbers"]["count"], "close-wait" in str(found)) == (3, True)
    assert not node.events("child-recycled")
