"""Connections that would cross a fork are named, by peer and library."""

from __future__ import annotations

import socket
import sys

import pytest

from poolrt.hygiene.findings import Policies
from poolrt.hygiene.inherited import inherited_connections, refusal

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sockets are read from /proc")
ALL = Policies()


@pytest.fixture
def connected():
    """Both ends of a connection, and what the client's peer is called."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
        with client, server:
            yield client, server, "{}:{}".format(*listener.getsockname())


def test_a_connection_is_named_by_its_peer(connected):
    """But for the one that is spared."""
    client, server, peer = connected
    assert peer in inherited_connections(server.fileno(), ALL)
    assert peer not in inherited_connections(client.fileno(), ALL)


def test_a_librarys_connection_is_named_by_the_library_too(redis_server):
    """As redis-py's client, behind its pool."""
    import redis

    client = redis.Redis(port=redis_server.port)
    client.ping()
    peer = f"127.0.0.1:{redis_server.port}"
    found = inherited_connections(-1, ALL)
    assert found[peer] == "redis"
    assert f"connections open to {peer} (redis): every child" in refusal({peer: found[peer]})
    client.close()
    assert peer not in inherited_connections(-1, ALL)


@pytest.mark.parametrize("policies", [("connections=ignore", ""), ("", "connections:127.0.0.1:*"), ("", "*:127.*")])
def test_what_the_policies_ignore_is_let_be(connected, policies):
    """By action, or by pattern."""
    _, server, peer = connected
    assert peer not in inherited_connections(server.fileno(), Policies(*policies))
