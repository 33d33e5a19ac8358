"""Leaked connections: the child is recycled, task and peer are named, and no child runs out of descriptors."""

import socket

import pytest


@pytest.fixture
def server():
    """A listener that accepts as fast as its backlog; its address as the tasks take it."""
    with socket.create_server(("127.0.0.1", 0), backlog=1000) as listener:
        yield listener.getsockname()[1]


def test_a_gross_leak_is_named_within_fifty_runs(serve, tasks, ledger, server):
    """Among innocent tasks, one that leaves a connection at each run gets its child recycled, named with the peer."""
    node = serve()
    leaks = tasks.leak.enqueue_many([(str(ledger), server)] * 50)
    innocent = tasks.note.enqueue_many([(str(ledger), i) for i in range(50)])
    assert [result.get(20) for result in innocent] == list(range(50))
    assert {result.get(20) for result in leaks} == {"leaked"}
    (recycled,) = node.wait_event("child-recycled")
    assert recycled["task"] == "leak"
    assert f"127.0.0.1:{server}" in recycled["cause"]
    assert recycled["numbers"]["done"] <= 50
    assert node.stop() == 0


def test_a_child_never_runs_out_of_descriptors(serve, tasks, ledger, server, record):
    """With 100 descriptors, 240 tasks that leak one each, then 10 plain ones: all succeed (celery fails 87 of 250)."""
    limit = "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))"
    node = serve(concurrency=2, patch=limit)
    leaks = tasks.leak.enqueue_many([(str(ledger), server)] * 240)
    plain = tasks.open_some.enqueue_many([(str(ledger), 10)] * 10)
    assert {result.get(30) for result in leaks} == {"leaked"}
    assert {result.get(10) for result in plain} == {10}
    assert {record(result).lost for result in leaks} == {0}
    assert len(node.wait_event("child-recycled", 4)) >= 4
    assert node.stop() == 0


def test_a_leak_of_now_and_then_is_caught_before_the_limit(serve, tasks, ledger, server):
    """Leaks that no streak shows are caught where descriptors become few: a fresh child, and what is most is named."""
    limit = "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))"
    node = serve(patch=limit)
    calls = [(str(ledger), server if i % 3 == 0 else 0) for i in range(300)]
    assert [result.get(30) for result in tasks.leak.enqueue_many(calls)].count("leaked") == 100
    recycled = node.wait_event("child-recycled")
    assert f"127.0.0.1:{server}" in recycled[0]["cause"]
    assert node.stop() == 0


def test_a_leak_may_only_be_told(serve, tasks, ledger, server):
    """``--leak-policy warn``: an event names task and peer, and the child stays."""
    node = serve(leak_policy="warn")
    tasks.leak.enqueue_many([(str(ledger), server)] * 60)[-1].get(20)
    found = node.wait_event("leak-found")[0]
    assert found["task"] == "leak"
    assert f"127.0.0.1:{server}" in found["cause"]
    assert not node.events("child-recycled")
    assert len(set(ledger.column(1))) == 1


def test_a_child_that_has_lost_the_lock_leaves(serve, tasks):
    """Who does not hold it may outlive its node unseen (protocol.md, rule 16): it is replaced, and the task named."""
    node = serve(concurrency=1)
    first = tasks.close_lock.delay().get(10)
    (gone,) = node.wait_event("child-recycled", timeout=10)
    assert (gone["pid"], "close_lock closed the node's lock" in gone["cause"]) == (first, True)
    assert tasks.close_lock.delay().get(10) != first
