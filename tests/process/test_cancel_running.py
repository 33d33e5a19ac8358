"""Cancelling what a worker has: the run is ended and never another one; what waits behind it is ended unstarted.

How a task cleans up before that: test_soft_cancel.py.
"""

import random
import signal
import time

import psutil
import pytest

from poolrt.errors import TaskCancelled
from poolrt.states import TaskState

SOON = 3.0
"""Two seconds and a tick of the steward."""


def test_a_task_without_a_grace(serve, tasks, ledger, record, is_gone):
    """Its child is killed at once and replaced, what another child runs is not disturbed, and nothing else is
    blamed: no crash, no lost delivery, no failure."""
    node = serve(concurrency=2, cancel_grace="0s").wait_up(2)
    victim = tasks.step.delay(str(ledger), "victim", "", "hang")
    node.wait(lambda: "victim" in ledger.column(), "it runs")
    other = tasks.nap.delay(str(ledger), "other", 1.0)
    node.wait(lambda: "other" in ledger.column(), "the other one runs")
    (pid,) = [int(words[1]) for words in ledger.lines() if words[0] == "victim"]
    began = time.monotonic()
    assert victim.cancel()
    with pytest.raises(TaskCancelled, match=r"cancelled at .* UTC: it was running, and its child was killed"):
        victim.get(SOON)
    assert time.monotonic() - began < SOON
    assert is_gone(pid)
    kept = record(victim)
    assert (kept.state, kept.task, kept.lost, kept.status) == (TaskState.CANCELLED, "step", 0, -signal.SIGKILL)
    assert kept.envelope is not None
    assert kept.runtime > 0
    assert kept.owner
    (killed,) = node.wait_event("child-killed")
    assert (killed["task_id"], killed["cause"]) == (victim.id, "TaskCancelled: it had not ended within cancel_grace")
    (told,) = node.wait_event("task-cancelled")
    assert (told["task"], told["task_id"]) == ("step", victim.id)
    assert tasks.note.delay(str(ledger), "after").get(10) == "after"
    assert other.get(10) is None
    node.wait_event("child-up", 3)
    for kind in ("child-crashed", "task-requeued", "task-failed", "task-dead", "child-boot-failed"):
        assert not node.events(kind)
    assert ledger.column().count("other") == ledger.column().count("victim") == 1
    assert not victim.cancel(), "it has ended"


def test_what_it_had_started_ends_with_it(serve, tasks, ledger, gate, is_gone):
    """Processes of the task are ended like those of one over its limit."""
    node = serve().wait_up()
    result = tasks.leave_strays.delay(str(ledger), "exec", str(gate))
    node.wait(lambda: len(ledger.strays()) == 2, "its processes run")
    assert result.cancel()
    with pytest.raises(TaskCancelled):
        result.get(SOON)
    node.wait(lambda: all(is_gone(pid) for pid in ledger.strays()), "its processes are ended")


def test_one_that_is_held_behind_a_long_one(serve, tasks, ledger, gate):
    """It never starts, even if no child is idle; the long one goes on, and so does what was held beside it."""
    node = serve().wait_up()
    for result in tasks.step.enqueue_many([(str(ledger), f"taught{i}") for i in range(300)]):
        result.get(10)
    calls = [(str(ledger), "long", str(gate)), *((str(ledger), f"q{i}") for i in range(10))]
    long, *quick = tasks.step.enqueue_many(calls)
    node.wait(lambda: "long" in ledger.column(), "the long one runs")
    assert quick[3].cancel()
    with pytest.raises(TaskCancelled, match="it had not started"):
        quick[3].get(SOON)
    assert long.state is TaskState.RESERVED
    gate.touch()
    assert long.get(10) == "long"
    others = [i for i in range(10) if i != 3]
    assert [quick[i].get(10) for i in others] == [f"q{i}" for i in others]
    assert sorted(tag for tag in ledger.column() if tag.startswith("q")) == [f"q{i}" for i in others]
    assert node.status()["totals"]["killed"] == 0


def test_cancelled_and_then_its_child_dies(serve, tasks, ledger):
    """The steward cannot see to it before the child dies by itself: it is cancelled and not delivered again."""
    node = serve().wait_up()
    result = tasks.step.delay(str(ledger), "t", "", "hang")
    node.wait(lambda: "t" in ledger.column(), "it runs")
    child = psutil.Process(node.child()["pid"])
    supervisor = psutil.Process(node.pid)
    supervisor.suspend()
    try:
        assert result.cancel()
        child.kill()
    finally:
        supervisor.resume()
    with pytest.raises(TaskCancelled):
        result.get(10)
    assert ledger.column() == ["t"]


def test_with_its_supervisor_dead_as_well(serve, tasks, ledger, kill, record):
    """A supervisor that dies after it has noted the kill: the next start finds on the board that it was cancelled."""
    patch = (
        "import os, signal\n"
        "from poolrt.supervisor import obituary\n"
        "obituary.end_tree = lambda reporter, child: os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    node = serve(name="twice", patch=patch, cancel_grace="0s").wait_up()
    result = tasks.step.delay(str(ledger), "t", "", "hang")
    node.wait(lambda: "t" in ledger.column(), "it runs")
    assert result.cancel()
    node.wait_end()
    serve(name="twice")
    with pytest.raises(TaskCancelled, match="it was running"):
        result.get(10)
    assert record(result).lost == 0
    assert ledger.column() == ["t"]


def test_one_that_does_not_run_twice(serve, tasks, ledger, gate):
    """``acks_late=False`` makes no difference: it is cancelled, not lost."""
    node = serve().wait_up()
    result = tasks.hold_once.delay(str(ledger), "t", str(gate))
    node.wait(ledger.lines, "it runs")
    assert result.cancel()
    with pytest.raises(TaskCancelled):
        result.get(SOON)


def test_the_steward_is_dead_when_the_word_is_left(serve, tasks, ledger):
    """Its successor reads the word from the broker: nobody needs to hear the bell."""
    node = serve().wait_up()
    result = tasks.step.delay(str(ledger), "t", "", "hang")
    node.wait(lambda: "t" in ledger.column(), "it runs")
    steward = psutil.Process(node.child_of("steward"))
    steward.suspend()
    assert result.cancel()
    steward.kill()
    with pytest.raises(TaskCancelled):
        result.get(10)


def test_forty_that_end_about_when_they_are_interrupted(serve, tasks, ledger, record):
    """100 ms after the cancel, as they sleep: each ends once, cancelled or with its value; none runs twice."""
    serve(concurrency=2).wait_up(2)
    chance = random.Random(7)
    outcomes = {"cancelled": 0, "ended": 0}
    for i in range(40):
        result = tasks.nap.delay(str(ledger), f"t{i}", 0.15)
        bystander = tasks.note.delay(str(ledger), f"b{i}")
        while f"t{i}" not in ledger.column():
            time.sleep(0.001)
        time.sleep(chance.uniform(0.02, 0.07))
        said = result.cancel()
        try:
            assert result.get(10) is None
            outcomes["ended"] += 1
            assert record(result).state is TaskState.SUCCEEDED
        except TaskCancelled:
            outcomes["cancelled"] += 1
            assert said
        assert bystander.get(10) == f"b{i}"
    tags = ledger.column()
    assert len(tags) == len(set(tags)) == 80
    assert all(outcomes.values()), f"{outcomes}: the test does not test the edge"
