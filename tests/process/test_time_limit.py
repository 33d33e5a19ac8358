"""A task over its hard limit is killed, and never another one."""

import pytest

from poolrt.errors import TimeLimitExceeded
from poolrt.states import TaskState


@pytest.mark.parametrize("how", ["sleep", "loop", "stubborn", "grip", "stopped"])
def test_the_slot_is_free_soon_after_the_limit(serve, tasks, ledger, record, how):
    """A sleep, a busy loop, a task that swallows everything, one that holds the GIL in C, one that is stopped: each
    ends with TimeLimitExceeded within limit + 1 s, and with its last stack unless it is stopped."""
    result = tasks.overrun.delay(str(ledger), "t", how)
    after = tasks.note.delay(str(ledger), "after")
    node = serve()
    with pytest.raises(TimeLimitExceeded, match=r"its limit is 300ms"):
        result.get(10)
    assert after.get(5) == "after"
    (killed,) = node.wait_event("child-killed")
    assert (killed["task"], killed["task_id"]) == ("overrun", result.id)
    began = float(ledger.lines()[0][2])
    assert 0.3 <= killed["at"] - began < 1.3
    ended = record(result)
    assert (ended.state, ended.error.type, ended.lost) == (TaskState.FAILED, "TimeLimitExceeded", 0)
    assert 0.3 <= ended.runtime < 1.3
    assert ended.envelope is not None
    assert ended.status == -9
    assert ended.peak_memory > 1 << 20
    assert ("in overrun" in ended.stack) is (how != "stopped")
    assert ledger.column() == ["t", "after"], "the task ran once"
    (told,) = node.wait_event("task-failed")
    assert told["task_id"] == result.id
    assert not node.events("task-requeued")


def test_the_nodes_limit_is_for_tasks_without_their_own(serve, tasks, ledger):
    """``--time-limit`` ends a task that declares none."""
    result = tasks.step.delay(str(ledger), "t", "", "hang")
    serve(time_limit="200ms")
    with pytest.raises(TimeLimitExceeded, match="its limit is 200ms"):
        result.get(10)


def test_neighbours_of_a_killed_task_are_put_back_uncounted(serve, tasks, ledger, record):
    """What the killed child had reserved runs elsewhere, once each, and nothing of it counts as lost."""
    node = serve().wait_up()
    taught = tasks.limited_step.enqueue_many([(str(ledger), f"a{i}") for i in range(300)])
    assert taught[-1].get(10) == "a299"
    calls = [(str(ledger), "over", "hang"), *((str(ledger), f"b{i}") for i in range(40))]
    over, *neighbours = tasks.limited_step.enqueue_many(calls)
    node.wait(lambda: "over" in ledger.column(), "the long one runs")
    assert node.child()["held"] > 1
    assert [result.get(10) for result in neighbours] == [f"b{i}" for i in range(40)]
    assert {record(result).lost for result in neighbours} == {0}
    assert record(over).error.type == "TimeLimitExceeded"
    assert len([tag for tag in ledger.column() if tag.startswith("b")]) == 40
    assert ledger.column().count("over") == 1


def test_two_hundred_tasks_about_as_long_as_their_limit(serve, tasks, ledger, record):
    """Tasks that end from 2 ms before their limit to 8 ms after it, while their stacks are asked for: each runs once,
    ends once, and only its own limit kills it."""
    limit = 0.02
    lengths = [limit + (i % 41 - 8) * 250e-6 for i in range(200)]
    results = tasks.about.enqueue_many([(str(ledger), i, length) for i, length in enumerate(lengths)])
    node = serve(concurrency=2)
    records = []
    for i, result in enumerate(results):
        with_value = None
        try:
            with_value = result.get(20)
        except TimeLimitExceeded:
            pass
        ended = record(result)
        assert ended.lost == 0
        if with_value is None:
            assert (ended.state, ended.error.type) == (TaskState.FAILED, "TimeLimitExceeded")
            assert ended.runtime >= limit
        else:
            assert (ended.state, with_value) == (TaskState.SUCCEEDED, i)
        records.append(ended)
    began = [int(tag) for tag in ledger.column()]
    assert len(set(began)) == len(began), "a task ran twice"
    for i in set(range(200)).difference(began):
        assert records[i].state is TaskState.FAILED, "on a busy machine a task may be killed before its first line"
    failed = {result.id for result, ended in zip(results, records, strict=True) if ended.state is TaskState.FAILED}
    node.wait_event("task-failed", len(failed))
    killed = {event["task_id"] for event in node.events("child-killed")}
    assert failed == {event["task_id"] for event in node.events("task-failed")}
    assert failed == killed, "a child was killed for a task that ended by itself, or the other way round"
    assert 0 < len(failed) < 200, f"{len(failed)} of 200 were killed: the test does not test the edge"
    assert not node.events("child-crashed")
