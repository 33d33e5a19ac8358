"""Sentinel and Cluster addresses: they lead to the master, also after it has changed."""

from __future__ import annotations

import os
import time

import pytest

from poolrt.brokers.redis import RedisBroker
from poolrt.errors import BrokerBusy, BrokerError, BrokerUnreachable
from poolrt.message import Enqueue, Outcome, Owner, new_task_id
from poolrt.states import TaskState
from poolrt.terms import Gate, Unique
from tests.brokers.connections import SECRET, answer, array, ask, connected, hello, refused
from tests.servers import until


def test_a_broker_works_through_each(redis_server, redis_cluster, own_servers):
    """As through a server's port or socket file."""
    for url in (
        redis_server.url(5, namespace="by-port"),
        redis_server.socket_url(namespace="by-file"),
        redis_cluster.url(namespace="by-cluster"),
        own_servers.sentinels().url(namespace="by-sentinel"),
    ):
        broker = RedisBroker(url)
        assert broker.enqueue([Enqueue(new_task_id(), b"envelope", "default", 0, None)]) == [True], url
        assert broker.depth().queued == 1
        broker.join("inc", "node")
        broker.attach(Owner("inc", 0, 1))
        terms = ("t", Gate("k", rate=0.01, slots=1), Unique("key"))
        assert broker.enqueue([Enqueue(new_task_id(), b"", "default", 9, None, *terms)]) == [True]
        assert broker.enqueue([Enqueue(new_task_id(), b"", "default", 9, None, *terms)]) == [False]
        held = broker.settle([], 9, 1).deliveries
        assert len(held) == 2
        assert broker.settle([Outcome(each, TaskState.SUCCEEDED) for each in held], 9, 2).deliveries == []
        assert broker.promote() is None
        broker.purge()
        broker.close()


# ---- Sentinel


def test_sentinels_lead_to_the_master_also_after_its_death(own_servers):
    """The one that it was before is a replica when it comes back."""
    sentinels = own_servers.sentinels()
    with connected(sentinels.url(3)) as connection:
        assert (connection.port, b"db=3" in ask(connection, "CLIENT", "INFO")) == (sentinels.master.port, True)
    sentinels.master.kill()
    refused(sentinels.url(), BrokerUnreachable, "no Sentinel leads to a master")
    sentinels.await_failover()
    sentinels.master.start()
    deadline = time.monotonic() + 20
    while True:  # the Sentinel tells of it a moment after the replica knows
        try:
            with connected(sentinels.url()) as connection:
                assert connection.port == sentinels.replica.port
                break
        except BrokerUnreachable:
            assert time.monotonic() < deadline


def test_sentinels_are_asked_in_turn(own_servers):
    """A dead and a stopped one cost their share of the time; a stopped one not all of it."""
    sentinels = own_servers.sentinels(3)
    sentinels.sentinels[0].kill()
    sentinels.sentinels[1].pause()
    with connected(sentinels.url(), timeout=6) as connection:
        assert connection.port == sentinels.master.port
    sentinels.sentinels[2].kill()
    refused(sentinels.url(), BrokerUnreachable, "no Sentinel leads to a master", timeout=0.5)


def test_a_service_that_no_sentinel_knows(own_servers):
    """It is named."""
    url = own_servers.sentinels().url().replace("/main/", "/other/")
    refused(url, BrokerUnreachable, "no service 'other'")


def test_passwords_of_sentinels_and_of_their_master(own_servers, monkeypatch):
    """They are two; each is asked for by name."""
    sentinels = own_servers.sentinels(requirepass=SECRET, sentinel_password="s-" + SECRET)
    monkeypatch.setenv("OF_SENTINEL", "s-" + SECRET)
    assert answer(sentinels.url(password=SECRET, sentinel_password_env="OF_SENTINEL"), "PING") == b"PONG"
    refused(sentinels.url(password=SECRET), BrokerError, "sentinel_password_file")
    refused(sentinels.url(sentinel_password_env="OF_SENTINEL"), BrokerError, "wants a password")
    monkeypatch.setenv("OF_SENTINEL", "no")
    refused(sentinels.url(password=SECRET, sentinel_password_env="OF_SENTINEL"), BrokerError, "sentinel_password_file")


def test_a_sentinel_is_no_broker(own_servers):
    """A plain address of one says what to write."""
    refused(own_servers.sentinels().sentinels[0].url(), BrokerError, "redis+sentinel://")


@pytest.mark.parametrize("flags", ["master,s_down,o_down,failover_in_progress,disconnected", "master,s_down,o_down"])
def test_a_master_that_is_being_replaced_is_not_used(fake, redis_server, flags):
    """What it took now would be lost, though it may answer; its successor is used as soon as it is known."""
    named = array("127.0.0.1", redis_server.port)
    port = fake(named + array("ip", "127.0.0.1", "port", redis_server.port, "flags", flags))
    refused(f"redis+sentinel://127.0.0.1:{port}/main", BrokerUnreachable, "looks for another")
    port = fake(named + array("ip", "127.0.0.1", "port", 1, "flags", flags))
    assert answer(f"redis+sentinel://127.0.0.1:{port}/main", "PING") == b"PONG"


# ---- Cluster


def test_a_cluster_leads_to_the_owner_of_the_namespace(redis_cluster):
    """From whichever node is asked."""
    for namespace in ("a", "b", "c", "poolrt"):
        owner = redis_cluster.owner(namespace)
        for node in redis_cluster.nodes:
            with connected(redis_cluster.url([node], namespace=namespace)) as connection:
                assert connection.port == owner.port
                assert ask(connection, "EXISTS", f"{{{namespace}}}:x") == 0


def test_a_slot_that_moves(redis_cluster):
    """While it moves the old owner is it; after it the new one. An open connection is told, and is to be dropped."""
    namespace = f"moving-{os.getpid()}"
    source = redis_cluster.owner(namespace)
    target = next(node for node in redis_cluster.nodes if node is not source)
    url = redis_cluster.url(namespace=namespace)
    broker = RedisBroker(url)
    broker.join("inc", "node")
    redis_cluster.begin_move(namespace, target)
    with connected(url) as connection:
        assert connection.port == source.port
    redis_cluster.end_move(namespace, target)
    with connected(url) as connection:
        assert connection.port == target.port
    assert broker.others() == [("inc", "node")]  # its connection was to the old owner
    broker.close()


_CLUSTERED = hello(server="valkey", version="9.0.0", mode="cluster", role="master")


def test_a_node_that_does_not_say_its_host(fake, redis_server):
    """Then it is the host that was asked."""
    for host in ("", "?"):
        port = fake(_CLUSTERED, b"-MOVED 15495 %s:%d\r\n" % (host.encode(), redis_server.port))
        assert answer(f"redis+cluster://127.0.0.1:{port}", "PING") == b"PONG"


def test_nodes_that_disagree(fake):
    """They are not followed for ever."""
    port = fake(_CLUSTERED, b"-MOVED 15495 127.0.0.1:OWN-PORT\r\n")
    refused(f"redis+cluster://127.0.0.1:{port}", BrokerUnreachable, "disagree")


def test_cluster_nodes_are_asked_in_turn(own_servers):
    """A dead node and a stopped one do not matter, if neither owns the namespace."""
    cluster = own_servers.cluster(patience=60_000)
    owner = cluster.owner("poolrt")
    dead, stopped = (node for node in cluster.nodes if node is not owner)
    dead.kill()
    stopped.pause()
    with connected(cluster.url([dead, stopped, owner]), timeout=6) as connection:
        assert connection.port == owner.port
    refused(cluster.url([dead]), BrokerUnreachable, "no node leads to the owner")


def test_a_cluster_that_is_down(own_servers):
    """A slot without a master stops all of them, by default."""
    cluster = own_servers.cluster()
    owner = cluster.owner("poolrt")
    other = next(node for node in cluster.nodes if node is not owner)
    other.kill()
    until(lambda: "cluster_state:fail" in str(owner.call("CLUSTER", "INFO")), "the owner knows")
    refused(cluster.url([owner]), BrokerBusy, "CLUSTER INFO")


def test_a_cluster_needs_its_own_scheme(redis_cluster):
    """A plain address of a node that does not own the namespace would be sent away at each call."""
    refused(redis_cluster.nodes[0].url(), BrokerError, "redis+cluster://")
