"""What a child holds behind a task that runs long is taken back, and runs elsewhere: once, uncounted, and soon."""

import random
import time

import psutil
import pytest

from poolrt.states import TaskState

QUICK = 200


def teach(tasks, ledger, count=300):
    """Have every child learn that ``step`` is quick, so that it holds many."""
    taught = tasks.step.enqueue_many([(str(ledger), f"taught{i}") for i in range(count)])
    for result in taught:
        result.get(10)


def ran(ledger, prefix="q"):
    """The tags of the quick ones that began."""
    return [tag for tag in ledger.column() if tag.startswith(prefix)]


def test_no_ops_behind_a_long_task_that_looked_short(serve, tasks, ledger, gate, record):
    """Another child runs what was held behind it while it still runs; each runs once, none counts as lost."""
    node = serve(concurrency=2).wait_up(2)
    teach(tasks, ledger)
    calls = [(str(ledger), "long", str(gate)), *((str(ledger), f"q{i}") for i in range(QUICK))]
    long, *quick = tasks.step.enqueue_many(calls)
    assert [result.get(10) for result in quick] == [f"q{i}" for i in range(QUICK)]
    assert long.state is TaskState.RESERVED, "the long one still runs"
    gate.touch()
    assert long.get(10) == "long"
    assert sorted(ran(ledger)) == sorted(f"q{i}" for i in range(QUICK))
    assert ledger.column().count("long") == 1
    assert {record(result).lost for result in quick} == {0}
    node.wait(lambda: node.status()["totals"]["recalled"] > 0, "the recall is counted")
    (told, *_) = node.wait_event("tasks-recalled", task_id=long.id)
    assert (told["task"], told["numbers"]["count"] > 0) == ("step", True)
    assert not node.events("task-requeued")
    assert not node.events("child-crashed")


def test_an_idle_child_that_takes_a_batch_is_looked_at_in_time(serve, tasks, ledger, gate):
    """The supervisor looks once a second at an idle pool; what is held behind a long task waits no second."""
    node = serve(concurrency=2).wait_up(2)
    times = []
    for turn in range(3):
        teach(tasks, ledger)
        node.wait(lambda: all(child["activity"] == "idle" for child in node.status()["children"]), "both idle")
        gate.unlink(missing_ok=True)
        calls = [(str(ledger), f"long{turn}", str(gate)), *((str(ledger), f"q{turn}-{i}") for i in range(20))]
        began = time.monotonic()
        long, *quick = tasks.step.enqueue_many(calls)
        for result in quick:
            result.get(10)
        times.append(time.monotonic() - began)
        gate.touch()
        long.get(10)
    assert max(times) < 0.6, f"what was held waited {times}"
    node.wait(lambda: node.status()["totals"]["recalled"] >= 3, "each time something was recalled")


def test_a_child_works_on_after_a_recall(serve, tasks, ledger, gate):
    """With one child nobody else runs what was taken back: it takes that again itself, and later batches too."""
    node = serve().wait_up()
    for turn in range(3):
        teach(tasks, ledger)  # that it is quick after all
        gate.unlink(missing_ok=True)
        calls = [(str(ledger), f"long{turn}", str(gate)), *((str(ledger), f"q{turn}-{i}") for i in range(20))]
        before = node.status()["totals"]["recalled"]
        _, *quick = tasks.step.enqueue_many(calls)
        node.wait(lambda before=before: node.status()["totals"]["recalled"] > before, "its batch is taken back")
        gate.touch()
        assert [result.get(10) for result in quick] == [f"q{turn}-{i}" for i in range(20)]
    assert len(ran(ledger)) == len(set(ran(ledger))) == 60
    assert {child["generation"] for child in node.status()["children"]} == {1}


def test_a_recall_that_the_steward_missed(serve, tasks, ledger, gate):
    """The steward is dead when the child is marked: its successor reads the mark on the board."""
    node = serve(concurrency=2).wait_up(2)
    teach(tasks, ledger)
    steward = psutil.Process(node.child_of("steward"))
    steward.suspend()
    long, *quick = tasks.step.enqueue_many(
        [(str(ledger), "long", str(gate)), *((str(ledger), f"q{i}") for i in range(20))]
    )
    node.wait(lambda: "long" in ledger.column(), "the long one runs")
    steward.kill()
    assert [result.get(10) for result in quick] == [f"q{i}" for i in range(20)]
    assert long.state is TaskState.RESERVED
    gate.touch()
    assert long.get(10) == "long"
    assert len(ran(ledger)) == len(set(ran(ledger)))


@pytest.mark.parametrize("how", ["retire", "kill"])
def test_a_child_that_leaves_with_a_mark(serve, tasks, ledger, gate, how):
    """Asked to leave, or killed, while its batch is taken back: everything ends, and what was recalled runs once."""
    node = serve(concurrency=2).wait_up(2)
    teach(tasks, ledger)
    calls = [(str(ledger), "long", str(gate)), *((str(ledger), f"q{i}") for i in range(QUICK))]
    long, *quick = tasks.step.enqueue_many(calls)
    node.wait(lambda: node.status()["totals"]["recalled"] > 0, "its batch is taken back")
    (slot,) = [child["slot"] for child in node.status()["children"] if child["task_id"] == long.id]
    if how == "retire":
        node.call("recycle", slots=[slot])
        node.wait(lambda: node.child(slot)["state"] == "retiring", "it is asked to leave")
    else:
        psutil.Process(node.child(slot)["pid"]).kill()
    gate.touch()
    assert [result.get(10) for result in quick] == [f"q{i}" for i in range(QUICK)]
    assert long.get(10) == "long"
    assert len(ran(ledger)) == len(set(ran(ledger)))


def test_nothing_is_recalled_where_tasks_are_quick(serve, tasks, ledger):
    """Batches flow without a single child being stopped."""
    node = serve(concurrency=2).wait_up(2)
    teach(tasks, ledger, 3000)
    assert node.status()["totals"]["recalled"] == 0


def test_tasks_about_as_long_as_a_recall_takes(serve, tasks, ledger, record):
    """Of a thousand quick ones some end just when their child is being stopped and marked: each runs once, and none
    stays with a child that has given it up."""
    node = serve(concurrency=2).wait_up(2)
    chance = random.Random(11)
    lengths = [chance.uniform(0.095, 0.115) if i % 60 == 59 else 0 for i in range(1200)]
    results = tasks.nap.enqueue_many([(str(ledger), f"q{i}", length) for i, length in enumerate(lengths)])
    for result in results:
        result.get(20)
    assert sorted(ran(ledger)) == sorted(f"q{i}" for i in range(1200))
    assert {record(result).lost for result in results} == {0}
    node.wait(lambda: node.status()["totals"]["recalled"] > 0, "something was recalled")
    node.wait(lambda: node.status()["queue"]["reserved"] == 0, "nothing stays reserved")
