"""Leases of real nodes on a real server: lost by silence, refused, and what comes after.

The server is the test's own: it is stopped, killed and emptied. Most leases last 2 s, so a node renews each 0.4 s and
fences itself 1.33 s after the last renewal that was answered.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator

import psutil
import pytest

from poolrt.errors import ExitCode
from poolrt.incarnation import MARK, listed
from poolrt.message import Owner
from poolrt.posix.processes import marked

LEASE = 2.0

FRAGILE_APP = """
import os, signal
from process_apps import app

look = app.broker.depth

def depth():
    done = look()
    try:
        with open(os.environ["TEST_VICTIM"]) as file:
            os.kill(int(file.read()), signal.SIGKILL)
        os.unlink(os.environ["TEST_VICTIM"])
    except FileNotFoundError:
        pass
    return done

app.broker.depth = depth
"""
"""Its template kills the server once it has seen that it works: nothing that it forks can join."""


@pytest.fixture
def server(own_servers):
    """A server that this test may break."""
    return own_servers.server()


@pytest.fixture
def app(server, place) -> Iterator[object]:
    """The App of process_apps on it."""
    import process_apps

    made = process_apps.build(server.url())
    yield made
    made.close()


@pytest.fixture
def start(server, serve) -> Callable[..., object]:
    """``start(**settings)``: a node on that server, whose children pull tasks."""

    def make(**settings):
        settings = {"lease": f"{LEASE}s", **settings}
        children = settings.get("concurrency", 1)
        return serve(env={"TEST_BROKER": server.url()}, **settings).wait_up(children)

    return make


@pytest.fixture
def busy(start, tasks, ledger, gate, wait_for):
    """``busy(**settings)``: such a node, with one task that runs until the gate opens, and that task's result."""

    def make(**settings):
        node = start(**settings)
        result = tasks.hold.delay(str(ledger), "long", str(gate))
        wait_for(ledger.lines, "the task runs")
        return node, result

    return make


def begun(ledger) -> list[list[str]]:
    return [words for words in ledger.lines() if words[0] == "begin"]


def stop(pids: list[int], number: int) -> None:
    for pid in pids:
        os.kill(pid, number)


def is_fenced(node) -> bool:
    return bool(node.events("node-fenced"))


def test_a_lease_that_runs_out_puts_tasks_back_until_the_server_is_heard_again(
    busy, server, ledger, gate, wait_for, record
) -> None:  # fmt: skip
    """Before anybody else may take them over. Then the same start goes on, at once."""
    node, result = busy()
    before = node.status()
    assert before["lease"]["lost"] is False
    assert 0 < before["lease"]["until_in"] <= LEASE * 2 / 3
    server.pause()
    killed = node.wait_event("child-killed")
    assert "the node's lease ran out: the broker was not reached for 1." in killed[0]["cause"]
    assert node.status()["lease"]["lost"] is True
    assert node.status()["children"] == []
    server.go_on()
    node.wait_event("node-resumed")
    node.wait_up(2)
    wait_for(lambda: len(begun(ledger)) == 2, "it was put back, and runs again")
    gate.touch()
    assert result.get(10) == "long"
    status = node.status()
    assert (status["incarnation"], status["lease"]["lost"]) == (before["incarnation"], False)
    assert record(result).lost == 0
    assert not is_fenced(node)
    assert node.stop() == ExitCode.OK


def test_keep_lets_running_tasks_go_on(busy, server, ledger, gate) -> None:
    """Nothing is killed while no renewal is refused."""
    node, result = busy(on_lease_lost="keep")
    server.pause()
    node.wait(lambda: node.status()["lease"]["lost"], "the lease has run out")
    assert len(node.status()["children"]) == 1
    server.go_on()
    node.wait_event("node-resumed")
    gate.touch()
    assert result.get(10) == "long"
    assert (len(begun(ledger)), node.events("child-killed")) == (1, [])


@pytest.mark.parametrize("kept", ["stop", "keep"])
def test_a_refused_renewal_ends_the_start_and_begins_another(
    busy, app, ledger, gate, wait_for, is_gone, kept
) -> None:  # fmt: skip
    """Whatever on_lease_lost says. The process, its name, size and totals stay; nothing of the old start does."""
    node, result = busy(on_lease_lost=kept, concurrency=2)
    node.call("scale", n=3)
    node.wait_up(3)
    before, old, opened = node.status(), node.tree()[1:], psutil.Process(node.pid).num_fds()
    assert app.broker.rescue(before["incarnation"], (), suspect=True).requeued == 1
    node.wait(lambda: is_fenced(node), "the node knows it")
    wait_for(lambda: len(begun(ledger)) == 2, "the next start runs it")
    node.wait_up(6)
    after = node.status()
    assert after["incarnation"] != before["incarnation"]
    assert (after["node"], after["state"], after["concurrency"]) == (before["node"], "serving", 3)
    # Some learn it before their supervisor does, and leave by themselves; then a successor may be killed as well.
    assert 3 <= after["totals"]["killed"] + after["totals"]["recycled"] <= 4
    node.wait(lambda: psutil.Process(node.pid).num_fds() == opened, "the former start's descriptors are closed")
    assert all(is_gone(pid) for pid in old)
    assert marked(MARK, before["incarnation"]) == []
    lock = app.broker.node_directory() / f"{node.name}.lock"
    assert list(listed(lock.read_bytes())) == [after["incarnation"]]
    gate.touch()
    assert result.get(10) == "long"
    assert node.stop() == ExitCode.OK
    assert listed(lock.read_bytes()) == {}


def test_a_quiet_node_stays_quiet_through_a_fence(start, app, tasks, ledger, wait_for) -> None:
    """An operator's word outlives the start that heard it."""
    node = start()
    node.call("quiet")
    app.broker.rescue(node.status()["incarnation"], (), suspect=True)
    node.wait(lambda: is_fenced(node) and node.status()["state"] == "quiet", "it is quiet again")
    result = tasks.note.delay(str(ledger), "later")
    node.wait(lambda: node.status()["queue"] and node.status()["queue"]["queued"] == 1, "it waits")
    node.call("resume")
    assert result.get(10) == "later"


def test_a_server_that_comes_back_empty_is_served_anew(start, server, tasks, ledger) -> None:
    """It knows nothing of the start any more; nobody has to restart the node."""
    node = start()
    before = node.status()["incarnation"]
    server.restart()
    node.wait(lambda: is_fenced(node), "its renewal is refused")
    node.wait_up(2)
    assert tasks.note.delay(str(ledger), "again").get(10) == "again"
    assert node.status()["incarnation"] != before


def test_a_steward_that_joins_an_empty_server_does_not_make_its_start_anew(start, server, is_gone, wait_for) -> None:
    """Its start had a lease: it is known, or over (protocol.md, rule 2)."""
    node = start()
    before, steward = node.status()["incarnation"], node.child_of("steward")
    os.kill(node.child_of("template"), signal.SIGSTOP)  # no other steward is forked until the server is another
    os.kill(steward, signal.SIGKILL)
    wait_for(lambda: is_gone(steward), "the steward is dead")
    server.restart()
    os.kill(node.child_of("template"), signal.SIGCONT)
    node.wait(lambda: is_fenced(node), "the next one is refused")
    node.wait_up(2)
    assert node.status()["incarnation"] != before


def test_a_fence_while_the_server_goes_away_waits_for_it(start, app, server, tasks, ledger, place) -> None:
    """The next start cannot join yet: that is no reason to give up, as it is at a node's first start."""
    node = start()
    app.broker.rescue(node.status()["incarnation"], (), suspect=True)
    node.wait(lambda: is_fenced(node), "its renewal is refused")
    server.kill()
    node.wait(lambda: "the broker is away" in node.text() or "could not boot" in node.text(), "it cannot join")
    server.start()
    node.wait_up(2)
    assert tasks.note.delay(str(ledger), "again").get(10) == "again"


def test_a_steward_of_the_next_start_that_cannot_join_goes_on_trying(
    server, serve, app, tasks, ledger, place
) -> None:  # fmt: skip
    """At a node's first start five failures are enough to give up; this one has served."""
    (place / "fragile.py").write_text(FRAGILE_APP)
    victim = place / "victim"
    environment = {"TEST_BROKER": server.url(), "TEST_VICTIM": str(victim)}
    node = serve("fragile:app", env=environment, cwd=place, lease=f"{LEASE}s").wait_up()
    victim.write_text(str(server.pid))
    app.broker.rescue(node.status()["incarnation"], (), suspect=True)
    node.wait(lambda: node.text().count("could not boot") > 5, "more than five stewards could not join", 25)
    server.restart()
    node.wait_up(2)
    assert tasks.note.delay(str(ledger), "again").get(10) == "again"


def test_a_drain_is_obeyed_while_the_node_begins_anew(start, app) -> None:
    """Right after the fence, before the next start serves."""
    node = start()
    app.broker.rescue(node.status()["incarnation"], (), suspect=True)
    node.wait(lambda: is_fenced(node), "its renewal is refused")
    assert node.stop(timeout=5) == ExitCode.OK


def test_a_fence_while_it_drains_ends_the_node(busy, app) -> None:
    """What still ran is another's: nothing is waited for, and no other start begins."""
    node, _ = busy(graceful_timeout="60s")
    incarnation = node.status()["incarnation"]
    node.send(signal.SIGTERM)
    node.wait_event("node-draining")
    app.broker.rescue(incarnation, (), suspect=True)
    assert node.wait_end(5) == ExitCode.FORCED_STOP
    assert not is_fenced(node)


def test_a_node_that_is_stopped_is_rescued_by_its_neighbour_and_begins_anew(
    busy, start, ledger, gate, wait_for
) -> None:  # fmt: skip
    """It holds its lock all the time: only its beat tells. When it goes on, its task is not its own any more."""
    node, result = busy()
    frozen = node.tree()
    stop(frozen, signal.SIGSTOP)
    try:
        neighbour = start()
        rescued = neighbour.wait_event("node-rescued", timeout=LEASE * 4)
        assert "did not renew its lease" in rescued[0]["cause"]
        wait_for(lambda: len(begun(ledger)) == 2, "the neighbour runs it")
    finally:
        stop(frozen, signal.SIGCONT)
    node.wait(lambda: is_fenced(node), "it is told")
    node.wait_up(2)
    gate.touch()
    assert result.get(10) == "long"
    wait_for(lambda: [words for words in ledger.lines() if words[0] == "end"], "it ended")
    assert len(begun(ledger)) == 2


def test_a_dead_neighbour_on_this_machine_is_rescued_long_before_its_lease(
    busy, start, kill, ledger, gate, wait_for
) -> None:  # fmt: skip
    """Its lock is free and lists the start: that is proof, and its board says what ran."""
    node, result = busy(lease="10m")
    kill(node)
    neighbour = start(lease="10m")
    neighbour.wait_event("node-rescued")
    wait_for(lambda: len(begun(ledger)) == 2, "the neighbour runs it")
    gate.touch()
    assert result.get(10) == "long"


def test_a_node_of_which_no_lock_is_here_is_not_thought_dead(start, app) -> None:
    """It is another machine's, also if it has our own name; only its beat tells."""
    mine = start(lease="10m")
    for name in ("far-away", mine.name):
        app.broker.join(f"start-of-{name}", name)
    neighbour = start(lease="10m")  # its first tick looks for dead nodes
    neighbour.wait(lambda: neighbour.status()["queue"], "a tick of the neighbour")
    known = {incarnation for incarnation, _ in app.broker.others()}
    assert {"start-of-far-away", f"start-of-{mine.name}"} <= known


def test_a_steward_that_stands_still_costs_no_lease(busy, ledger, gate, is_gone, wait_for) -> None:
    """It is replaced in time: the task runs on."""
    node, result = busy(lease="3s")
    steward = node.child_of("steward")
    os.kill(steward, signal.SIGSTOP)
    assert node.wait_event("steward-replaced")[0]["cause"] == "silent for 0.9 s"
    wait_for(lambda: is_gone(steward), "the old one is dead")
    node.wait(lambda: (node.status()["steward"] or {}).get("state") == "up", "another one has renewed")
    assert node.status()["lease"]["until_in"] > 1.0
    gate.touch()
    assert result.get(10) == "long"
    assert (len(begun(ledger)), node.events("node-lease-lost"), node.events("child-killed")) == (1, [], [])


def test_a_child_that_is_barred_alone_is_replaced_and_nothing_else_happens(start, app, tasks, ledger) -> None:
    """The steward asks at once whether the whole node is meant. It is not."""
    node = start()
    before = node.status()
    child = node.child()
    app.broker.bury(Owner(before["incarnation"], child["slot"], child["generation"]), None)
    tasks.note.delay(str(ledger), "wakes it")
    node.wait(lambda: node.status()["children"] and node.child()["pid"] != child["pid"], "another child")
    assert tasks.note.delay(str(ledger), "works").get(10) == "works"
    after = node.status()
    assert (after["incarnation"], after["totals"]["crashed"]) == (before["incarnation"], 0)


def test_a_fenced_child_has_the_steward_ask_at_once(start, app, tasks, ledger) -> None:
    """The next renewal is two minutes away, and nobody waits for it."""
    node = start(lease="10m")
    app.broker.rescue(node.status()["incarnation"], (), suspect=True)
    result = tasks.note.delay(str(ledger), "wakes it")
    node.wait(lambda: is_fenced(node), "the steward was refused")
    assert result.get(10) == "wakes it"


def test_where_there_are_no_leases_a_rescued_start_begins_anew_as_well(serve, place) -> None:
    """A file's lock that lies, in a container, must not leave a node that refuses all work."""
    import process_apps

    url = f"sqlite:///{place}/p.db"
    node = serve(env={"TEST_BROKER": url}).wait_up()
    assert node.status()["lease"] is None
    app = process_apps.build(url)
    app.broker.rescue(node.status()["incarnation"], (), suspect=True)
    result = app.tasks["note"].delay(str(place / "ledger"), "wakes it")
    node.wait(lambda: is_fenced(node), "the steward was refused")
    assert result.get(10) == "wakes it"
    app.close()


def test_a_drain_without_a_server_ends_in_time(busy, server) -> None:
    """What is left is another's to rescue; the node does not wait for a server that is silent."""
    node, _ = busy(graceful_timeout="0.2s")
    server.pause()
    assert node.stop(timeout=10) == ExitCode.FORCED_STOP
    assert not psutil.pid_exists(node.pid)
