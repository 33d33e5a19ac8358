"""Cancelling what runs, from inside: ``Cancelled`` is raised in it, it cleans up, and it ends as cancelled."""

import signal
import time

import pytest

from poolrt.errors import TaskCancelled
from poolrt.states import TaskState

GRACE = 0.6


@pytest.fixture
def app(place):
    """The App of cancel_apps on this test's broker file."""
    import cancel_apps

    made = cancel_apps.build(f"sqlite:///{place}/p.db")
    yield made
    made.close()


@pytest.fixture
def run(serve, tasks, ledger):
    """``run(name, *arguments, **settings)``: a task that runs, and its node."""

    def start(name, *arguments, **settings):
        node = serve("cancel_apps:app", **settings).wait_up()
        result = getattr(tasks, name).delay(str(ledger), name, *arguments)
        node.wait(lambda: name in ledger.column(), "it runs")
        return node, result

    return start


ENDS = {
    "sleeping": "ended by itself", "computing": "ended by itself", "awaiting": "ended by itself",
    "grouped": "ended by itself", "returning": "returned", "raising": "raised ValueError",
}  # fmt: skip


@pytest.mark.parametrize("name", ENDS)
def test_it_cleans_up_and_ends_as_cancelled(name, run, ledger, record):
    """Whether it sleeps, computes, awaits or swallows it: its blocks are left, nobody kills it, no attempt follows,
    and its child is recycled."""
    node, result = run(name)
    assert result.cancel()
    with pytest.raises(TaskCancelled, match=f"UTC: it was running, and {ENDS[name]} after ") as error:
        result.get(3)
    assert error.value.cause == "Cancelled"
    kept = record(result)
    assert (kept.state, kept.task, kept.attempt, kept.lost, kept.status) == (TaskState.CANCELLED, name, 1, 0, None)
    assert kept.envelope is not None
    assert kept.runtime > 0
    assert [words[1] for words in ledger.lines()] == ["began", *(["awaited"] if name == "awaiting" else []), "left"]
    (told,) = node.wait_event("task-cancelled")
    assert (told["task"], told["task_id"]) == (name, result.id)
    (recycled,) = node.wait_event("child-recycled")
    assert recycled["cause"] == f"tainted: cancelled in {name}"
    assert node.stop() == 0
    for kind in ("child-killed", "child-crashed", "task-requeued", "task-failed"):
        assert not node.events(kind)


@pytest.mark.parametrize(
    ("name", "why", "status"),
    [
        ("stubborn", "it had not ended within cancel_grace", -signal.SIGKILL),
        ("deadly", "the task had made the signal for it deadly", -signal.SIGUSR2),
    ],
)
def test_one_that_does_not_end_is_killed(name, why, status, run, ledger, record, is_gone):
    """After the grace, not before; or by its own doing. Its record says so; it is not delivered again."""
    node, result = run(name, cancel_grace=f"{GRACE}s")
    (pid,) = [int(words[2]) for words in ledger.lines()]
    began = time.monotonic()
    assert result.cancel()
    with pytest.raises(TaskCancelled, match=f"it was running, and its child was killed: {why}"):
        result.get(5)
    assert name == "deadly" or time.monotonic() - began >= GRACE
    assert is_gone(pid)
    kept = record(result)
    assert (kept.state, kept.attempt, kept.lost, kept.status) == (TaskState.CANCELLED, 1, 0, status)
    (killed,) = node.wait_event("child-killed")
    assert (killed["task_id"], killed["cause"]) == (result.id, f"TaskCancelled: {why}")
    assert [words[1] for words in ledger.lines()] == ["began"]
    node.wait_event("child-up", 2)
    assert not node.events("child-crashed")


def test_one_that_fails_before_it_is_reached_is_not_tried_again(run, ledger, gate, record):
    """The child knew of the cancel and could not tell the task: what would be its next attempt never starts."""
    node, result = run("failing", str(gate))
    assert result.cancel()
    time.sleep(0.3)  # it is signalled twice, and does not hear it
    gate.touch()
    with pytest.raises(TaskCancelled):
        result.get(3)
    assert record(result).attempt == 1
    assert node.stop() == 0
    assert [words[1] for words in ledger.lines()] == ["began", "left"]


def test_what_the_child_runs_next_is_not_touched(run, tasks, ledger):
    """A task that answered is over; the one behind it runs in another child and ends by its own time."""
    node, result = run("sleeping")
    behind = tasks.raising.delay(str(ledger), "behind")
    assert result.cancel()
    node.wait(lambda: "behind" in ledger.column(), "the next one runs")
    time.sleep(0.3)
    assert behind.state is TaskState.RESERVED
    assert behind.cancel()
    with pytest.raises(TaskCancelled):
        behind.get(3)
