"""Memory: a hog is killed while it runs, a fat child leaves after its task, and the node stays within its budget."""

import time

import pytest

from poolrt.errors import ExitCode, MemoryLimitExceeded
from poolrt.states import TaskState

MIB = 1 << 20


def test_a_hog_is_killed_while_it_runs(serve, tasks, ledger, record):
    """At full speed it is killed less than 100 MiB above its limit; the record says all, and a neighbour works."""
    node = serve(concurrency=2)
    hog = tasks.hog.delay(str(ledger), "hog", 10_000)
    neighbours = tasks.note.enqueue_many([(str(ledger), i) for i in range(50)])
    with pytest.raises(MemoryLimitExceeded, match=r"its limit is 200.0 MiB"):
        hog.get(20)
    assert [result.get(10) for result in neighbours] == list(range(50))
    ended = record(hog)
    assert (ended.state, ended.error.type, ended.status, ended.lost) == (
        TaskState.FAILED, "MemoryLimitExceeded", -9, 0,
    )  # fmt: skip
    assert 200 * MIB < ended.peak_memory < 300 * MIB
    (killed,) = node.wait_event("child-killed")
    assert (killed["task"], killed["task_id"]) == ("hog", hog.id)
    assert killed["numbers"]["peak_rss"] == ended.peak_memory
    assert ledger.column().count("hog") == 1


def test_a_hog_leaves_its_stacks(serve, tasks, ledger, record):
    """It has 3 ms to write them: on a busy machine it may not run in so long, but one of five has."""
    serve(concurrency=2)
    for which in range(5):
        hog = tasks.hog.delay(str(ledger), f"hog-{which}", 10_000)
        with pytest.raises(MemoryLimitExceeded):
            hog.get(20)
        if "in hog" in record(hog).stack:
            return
    pytest.fail("none of five has left a stack")


def test_a_limit_of_the_call_wins(serve, tasks, ledger):
    """``apply_async(memory_limit=)`` is this call's; one above what it takes lets it succeed."""
    serve()
    low = tasks.hog.apply_async((str(ledger), "low", 150), memory_limit="100MiB")
    enough = tasks.hog.apply_async((str(ledger), "enough", 150), memory_limit="1GiB")
    with pytest.raises(MemoryLimitExceeded, match=r"its limit is 100.0 MiB"):
        low.get(20)
    assert enough.get(20) == 150


def test_the_nodes_limit_is_for_tasks_without_their_own(serve, tasks, ledger):
    """``--memory-limit`` ends a task that declares none."""
    serve(memory_limit="100MiB")
    with pytest.raises(MemoryLimitExceeded):
        tasks.swell.delay(str(ledger), "t", 200).get(20)


def test_a_limit_below_an_empty_child_is_an_error_of_the_call(serve, tasks, ledger, record):
    """A call that could never run within its limit fails with both sizes; no child is killed for it."""
    node = serve()
    result = tasks.hog.apply_async((str(ledger), "t", 1), memory_limit="1MiB")
    with pytest.raises(MemoryLimitExceeded, match=r"1.0 MiB is less than the .* a child has before its first task"):
        result.get(10)
    assert not ledger.lines()
    assert not node.events("child-killed")


def test_what_earlier_tasks_left_is_not_blamed_on_the_next(serve, tasks, ledger):
    """A child that has grown leaves before a task with a memory limit starts in it; the task runs in a fresh one."""
    node = serve()
    assert tasks.swell.delay(str(ledger), "leaves", 120, True).get(10) == 120
    assert tasks.hog.apply_async((str(ledger), "next", 20), memory_limit="150MiB").get(10) == 20
    (recycled,) = node.wait_event("child-recycled")
    assert "memory of earlier tasks" in recycled["cause"]
    assert len(set(ledger.column(1))) == 2, "two children"


def test_a_fat_child_leaves_after_its_task(serve, tasks, ledger):
    """Above ``--max-memory-per-child`` after a task it is recycled, with its sizes; the task has succeeded."""
    node = serve(max_memory_per_child="100MiB")
    assert tasks.swell.delay(str(ledger), "t", 150, True).get(10) == 150
    (recycled,) = node.wait_event("child-recycled")
    assert recycled["cause"].startswith("max_memory_per_child: 1")
    assert recycled["numbers"]["peak_rss"] > 150 * MIB
    assert tasks.note.delay(str(ledger), "after").get(10) == "after"


def test_garbage_and_freed_memory_are_no_reason_to_leave(serve, tasks, ledger):
    """What a collection and a trim give back does not count: the second look finds the child small again."""
    node = serve(max_memory_per_child="100MiB")
    for i in range(3):
        assert tasks.swell.delay(str(ledger), i, 150).get(10) == 150
        assert tasks.litter.delay(str(ledger), i, 150).get(10) == 150
    assert tasks.note.delay(str(ledger), "after").get(10) == "after"
    assert not node.events("child-recycled")
    assert len(set(ledger.column(1))) == 1, "one child ran all"


@pytest.mark.parametrize("setting", ["max_memory_per_child", "memory_limit", "pool_memory"])
def test_a_ceiling_below_the_baseline_is_refused_at_start(serve, setting):
    """A ceiling that the forked child is above already is a mistake: one line with both sizes, exit code 2, at once."""
    node = serve(**{setting: "2MiB"})
    assert node.wait_end(10) == ExitCode.USAGE
    whose = "supervisor and template have" if setting == "pool_memory" else "a child has"
    assert f"{setting} is 2.0 MiB, but {whose}" in node.text()
    assert len(node.events("template-failed")) == 1


def test_the_largest_child_leaves_when_the_node_is_over_its_budget(serve, tasks, ledger):
    """Over ``--pool-memory`` the child that has grown most is recycled, named with the sizes; the small one stays."""
    node = serve(concurrency=2, pool_memory="250MiB")
    node.wait_up(2)
    assert tasks.swell.delay(str(ledger), "fat", 200, True).get(10) == 200
    (recycled,) = node.wait_event("child-recycled")
    assert recycled["pid"] == int(ledger.lines()[0][1])
    assert recycled["cause"].startswith("pool_memory: the node uses")
    assert node.status()["memory"]["budget"] == 250 * MIB
    node.wait(lambda: node.status()["memory"]["used"] < 250 * MIB, "the node is within its budget again")
    assert len(node.events("child-recycled")) == 1


def test_a_memory_error_taints_the_child(serve, tasks, ledger):
    """A task that met a MemoryError has failed, and its child is recycled: who knows what is half done in it."""
    node = serve()
    with pytest.raises(MemoryError):
        tasks.out_of_memory.delay().get(10)
    (recycled,) = node.wait_event("child-recycled")
    assert "MemoryError in out_of_memory" in recycled["cause"]


def test_quick_tasks_with_a_limit_are_not_slowed_by_pokes(serve, tasks, ledger):
    """A limit makes the supervisor look every 50 ms, not at every task: its CPU time stays small."""
    import psutil

    node = serve(memory_limit="1GiB").wait_up()
    before = sum(psutil.Process(node.pid).cpu_times()[:2])
    began = time.monotonic()
    tasks.note.enqueue_many([(str(ledger), i) for i in range(5000)])[-1].get(30)
    spent = sum(psutil.Process(node.pid).cpu_times()[:2]) - before
    assert spent < 0.2 * (time.monotonic() - began) + 0.1
