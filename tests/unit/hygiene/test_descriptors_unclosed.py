"""What only the garbage collector closes, whatever started the collection: real descriptors and collections."""

from __future__ import annotations

import gc
import random
import socket

import pytest

from poolrt.hygiene.descriptors import DescriptorWatch
from poolrt.hygiene.findings import LeakKind
from poolrt.posix.descriptors import limit, lowest_free, scan

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture
def port():
    """A listener; what connects waits in its backlog."""
    with socket.create_server(("127.0.0.1", 0), backlog=1000) as listener:
        yield listener.getsockname()[1]


class Child:
    """Runs tasks under a watch that hears of each collection, as a child does."""

    def __init__(self) -> None:
        self.watch = DescriptorWatch(limit(), lowest_free(), scan)
        self.found = []
        self.ran = 0

    def run(self, function, task="t", *, sampled=False):
        """One run; if it is sampled, a collection follows at once."""
        function()
        if sampled:
            left = self.watch.left_by(task, lowest_free())
            gc.collect()
            self.watch.collected(left)
        self.ran += 1
        self.found += self.watch.after(task, lowest_free()) or ()


@pytest.fixture
def child():
    """One whose collector does not run by itself."""
    gc.collect()
    gc.freeze()  # as the template does: collections are cheap then
    child = Child()
    gc.callbacks.append(child.watch.collection)
    gc.disable()
    yield child
    gc.enable()
    gc.callbacks.remove(child.watch.collection)
    gc.collect()
    gc.unfreeze()


def in_a_cycle(thing):
    """Keep it in garbage that only the collector frees."""
    holder = [thing]
    holder.append(holder)


def connect(port):
    return socket.create_connection(("127.0.0.1", port))


def nothing():
    pass


@pytest.mark.parametrize("share", [1.0, 0.1, 0.02])
def test_what_is_in_cycles_is_named_with_its_rate(child, share):
    """Collections for memory samples close them before they add up: they are counted there, by task and path."""
    rng = random.Random(3)
    left = 0
    for run in range(2000):
        leaks = rng.random() < share
        left += leaks
        child.run((lambda: in_a_cycle(open("/etc/hostname"))) if leaks else nothing, sampled=run % 9 == 0)  # noqa: SIM115
        child.run(nothing, "other", sampled=run % 20 == 0)
    assert {finding.key for finding in child.found} == {(LeakKind.UNCLOSED, "t", "/etc/hostname")}
    told, runs = sum(finding.count for finding in child.found), sum(finding.runs for finding in child.found)
    assert 0.4 * left < told <= left, "the rest waits until it is as much again"
    assert share / 2 < told / runs < share * 2


def test_connections_in_a_cycle_are_named(child, port):
    """By the peer; three runs are enough."""
    for run in range(20):
        child.run(lambda: in_a_cycle(connect(port)), sampled=run % 5 == 4)
    finding = child.found[0]
    assert finding.key == (LeakKind.UNCLOSED, "t", f"127.0.0.1:{port}")
    assert (finding.count, finding.runs) == (5, 5)
    assert finding.reason == f"5 times a socket to 127.0.0.1:{port} of t was closed only by the garbage collector"


def test_what_a_sampled_run_leaves_is_its_own(child, port):
    """Nobody saw it after the run: the collection of the sample had closed it."""
    for _ in range(3):
        child.run(lambda: in_a_cycle(connect(port)), sampled=True)
        child.run(nothing, "other", sampled=True)
    (finding,) = child.found
    assert (finding.task, finding.count, finding.runs) == ("t", 3, 3)


def test_collections_that_come_by_themselves_are_heard(child, port):
    """The youngest generation is collected in the middle of other runs."""
    gc.enable()
    for _ in range(5):
        child.run(lambda: in_a_cycle(connect(port)))
        child.run(lambda: [[] for _ in range(2000)], "other")
    assert {(finding.kind, finding.task) for finding in child.found} == {(LeakKind.UNCLOSED, "t")}


def test_two_runs_are_a_mishap(child, port):
    """As many as they left."""
    for _ in range(2):
        child.run(lambda: [in_a_cycle(connect(port)) for _ in range(4)], sampled=True)
    for _ in range(300):
        child.run(nothing, sampled=True)
    assert child.found == []


def test_what_is_closed_beside_a_collection_is_not_the_collectors(child, port):
    """A pool opens and closes connections between collections that free other garbage."""
    kept = []

    def pool():
        in_a_cycle(bytearray(100))
        if len(kept) < 5:
            kept.append(connect(port))
        else:
            while kept:
                kept.pop().close()

    for run in range(600):
        child.run(pool, sampled=run % 3 == 0)
    assert child.found == []
    assert not child.watch._verdicts._unclosed


def test_a_number_given_to_another_meanwhile_is_nobodys(child, port):
    """A pool that takes the number of what was collected in the same run does not leave a birth to the next task."""
    kept = []
    child.run(lambda: in_a_cycle(connect(port)))
    child.run(lambda: kept.append(connect(port)), "pool")
    first = kept[0].fileno() - 1

    def take():
        gc.collect()
        kept.append(connect(port))

    child.run(take, "pool")
    assert kept[1].fileno() == first
    kept.append(connect(port))
    child.run(nothing, "other")
    assert child.watch._known[first] is None
    for each in kept:
        each.close()
