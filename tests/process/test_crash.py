"""A child that dies while it runs a task: the task is named, tried again with backoff, and given up with its cause."""

import os
import signal

import pytest

from poolrt.errors import TaskFailed
from poolrt.states import TaskState

WAYS = {
    "SIGKILL": "killed by SIGKILL",
    "SIGSEGV": "killed by SIGSEGV",
    "SIGABRT": "killed by SIGABRT",
    "0": "exited with code 0",
    "3": "exited with code 3",
}


def test_a_task_that_kills_its_child_is_tried_with_growing_backoff_then_dead(serve, app, tasks, ledger, record):
    """Delivered ``max_deliveries`` times, 0.5 s and 1 s apart; then dead, with the cause and its message as it was."""
    result = tasks.die.delay(str(ledger), "t", "SIGKILL")
    envelope = app.broker.find(result.id).envelope
    node = serve(max_deliveries=3)
    dead = node.wait_event("task-dead")[0]
    assert (dead["task"], dead["task_id"]) == ("die", result.id)
    assert "3 times" in dead["cause"]
    assert "killed by SIGKILL" in dead["cause"]
    assert [event["numbers"]["backoff"] for event in node.events("task-requeued")] == [0.5, 1.0]
    began = [float(words[2]) for words in ledger.lines()]
    assert len(began) == 3
    assert 0.5 <= began[1] - began[0] < 1.5
    assert 1.0 <= began[2] - began[1] < 2.0
    ended = record(result)
    assert (ended.state, ended.lost, ended.error.type) == (TaskState.DEAD, 3, "WorkerLost")
    assert ended.envelope == envelope
    with pytest.raises(TaskFailed, match="killed by SIGKILL while running die") as error:
        result.get(1)
    assert error.value.cause == "WorkerLost"


def test_each_way_to_die_is_named(serve, tasks, ledger, record):
    """SIGKILL, SIGSEGV, abort, exit codes 0 and 3: event and record name the task and how its child ended."""
    results = {how: tasks.die.delay(str(ledger), how, how) for how in WAYS}
    node = serve(max_deliveries=1, concurrency=2)
    node.wait_event("task-dead", len(WAYS))
    for how, cause in WAYS.items():
        (crash,) = node.events("child-crashed", task_id=results[how].id)
        assert crash["task"] == "die"
        assert crash["cause"] == f"{cause} while running die"
        assert cause in record(results[how]).error.text
    assert sorted(ledger.column()) == sorted(WAYS)
    assert node.stop() == 0


def test_a_task_lost_once_succeeds_at_its_next_delivery(serve, tasks, ledger, record):
    """A crash is not the end of a task: delivered again, it succeeds, and its record says that it was lost once."""
    result = tasks.step_once.delay(str(ledger), "t", "SIGSEGV")
    node = serve()
    assert result.get(10) == "t"
    assert record(result).lost == 1
    assert len(set(ledger.column(1))) == 2
    assert node.events("task-requeued", task_id=result.id)


def test_held_neighbours_of_a_crash_are_put_back_uncounted(serve, tasks, ledger, gate, record):
    """What a dying child had reserved and not started runs elsewhere at once, and none of it counts as lost."""
    node = serve(max_deliveries=1).wait_up()
    taught = tasks.step.enqueue_many([(str(ledger), f"a{i}") for i in range(300)])
    assert taught[-1].get(10) == "a299"  # the name is known as quick by now: a batch is held
    calls = [(str(ledger), "bomb", str(gate), "SIGKILL"), *((str(ledger), f"b{i}") for i in range(40))]
    bomb, *neighbours = tasks.step.enqueue_many(calls)
    node.wait(lambda: "bomb" in ledger.column(), "the bomb runs")
    row = node.child()
    assert row["held"] > 1
    assert row["task_id"] == bomb.id
    gate.touch()
    assert [result.get(10) for result in neighbours] == [f"b{i}" for i in range(40)]
    assert {record(result).lost for result in neighbours} == {0}
    assert record(bomb).state is TaskState.DEAD
    (crash,) = node.events("child-crashed")
    assert crash["task_id"] == bomb.id
    assert len([tag for tag in ledger.column() if tag.startswith("b")]) == 41, "each of the held ran once"


def test_a_crash_among_quick_tasks_loses_none(serve, tasks, ledger, record):
    """Three crashes in 300 quick tasks: each of the others succeeds, uncounted; at most the last 2 ms run twice."""
    bombs = {50: "SIGKILL", 150: "SIGSEGV", 250: "7"}
    results = tasks.step.enqueue_many([(str(ledger), i, "", bombs.get(i, "")) for i in range(300)])
    node = serve(max_deliveries=1, concurrency=2)
    node.wait_event("task-dead", 3)
    for i, result in enumerate(results):
        if i not in bombs:
            assert result.get(10) == i
            assert record(result).lost == 0
    assert {event["task_id"] for event in node.events("task-dead")} == {results[i].id for i in bombs}
    assert node.status()["queue"] is not None
    assert node.stop() == 0


@pytest.mark.parametrize("kind", ["SystemExit", "KeyboardInterrupt", "GeneratorExit"])
def test_what_is_no_exception_fails_the_task_once_and_recycles_the_child(serve, tasks, ledger, record, kind):
    """sys.exit and its like end the task, not the pool: failed once, never lost, and the child is replaced."""
    result = tasks.leave.delay(str(ledger), "t", kind)
    node = serve()
    (recycled,) = node.wait_event("child-recycled")
    assert recycled["cause"] == f"tainted: {kind} in leave"
    after = tasks.note.delay(str(ledger), "after")
    assert after.get(10) == "after"
    ended = record(result)
    assert (ended.state, ended.error.type, ended.lost) == (TaskState.FAILED, kind, 0)
    assert ledger.column() == ["t", "after"]
    assert ledger.column(1)[0] != ledger.column(1)[1]
    assert not node.events("child-crashed")
    assert node.stop() == 0


def test_crashing_tasks_do_not_trip_the_breaker(serve, tasks, ledger):
    """Twelve crashes in a row, of children that had run nothing else: the node goes on serving."""
    tasks.die.enqueue_many([(str(ledger), i, "SIGKILL") for i in range(12)])
    node = serve(max_deliveries=1, restart_burst="3/45s")
    node.wait_event("task-dead", 12)
    assert tasks.note.delay(str(ledger), "after").get(10) == "after"
    assert node.stop() == 0


def test_a_kill_from_outside_of_an_idle_child_costs_nothing(serve, tasks, ledger, record):
    """An idle child killed by somebody is replaced and named; no message is counted, the breaker does not notice."""
    node = serve(restart_burst="2/45s").wait_up()
    for killed in range(1, 5):
        node.wait(lambda: node.status()["children"] and node.child()["activity"] == "idle", "an idle child")
        os.kill(node.child()["pid"], signal.SIGKILL)
        node.wait_event("child-crashed", killed)
        node.wait_event("child-up", killed + 1)
    result = tasks.note.delay(str(ledger), "t")
    assert result.get(10) == "t"
    assert record(result).lost == 0
    assert not node.events("task-requeued")
    assert node.stop() == 0
