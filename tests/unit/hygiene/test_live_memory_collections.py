"""Which collections a sample makes: so many that garbage is no leak, so few that what has leaked makes none slower."""

from __future__ import annotations

import gc

import pytest

from poolrt.hygiene.live_memory import LiveMemory
from tests.unit.hygiene.readings import KIB, Process, names, nothing

pytestmark = pytest.mark.usefixtures("same_samples")


def test_a_leak_that_makes_full_collections_slow_is_named() -> None:
    """300 small dicts a run: a full collection takes longer than all that a sample may cost. One run in a hundred is
    looked at by one, since the collector ran in it."""
    process = Process(sample_us=20)

    def leaks():
        process.collect_all_ns += 15_000
        process.old += process.random.random() < 0.01
        return 100 * KIB

    assert names(process.mix(3000, leaks=leaks, innocent=nothing)) == ["leaks"]
    assert process.full_collections < 0.02 * process.runs["leaks"]


def test_garbage_that_became_old_in_the_run_is_no_leak() -> None:
    """A large tree with cycles: while it was built, the collector ran."""
    process = Process()

    def tree():
        process.old_garbage += 200 * KIB
        process.old += 1

    assert process.mix(8000, tree=tree, other=nothing) == []
    assert process.memory.culprit() == ""


def test_what_became_old_and_is_gone_needs_no_full_collection() -> None:
    """The collector ran in each run, and nothing is there that was not before: a full collection could but free it."""
    process = Process()

    def churns():
        process.old += 1

    process.mix(1000, churns=churns)
    assert process.full_collections == 0


def test_a_real_tree_with_cycles_is_no_leak() -> None:
    """10,000 nodes that know their parents outlive the young generations, and die with the run."""
    memory = LiveMemory(traces=False)

    def tree() -> None:
        nodes: list[list[object]] = [[None]]
        for _ in range(10_000):
            nodes.append([nodes[-1]])
            nodes[-2].append(nodes[-1])

    gc.collect()
    for _ in range(20):
        memory.before("tree")
        tree()
        memory.after("tree", 10**9)
    assert memory.culprit() == ""


def test_a_sample_of_a_real_process_is_no_full_collection() -> None:
    """What it costs does not depend on what was left before; cycles of the run are collected all the same."""
    memory = LiveMemory(traces=False)
    left = [[{"id": number} for number in range(300)] for _ in range(10)]
    before = gc.get_stats()[2]["collections"]
    gc.disable()
    try:
        for _ in range(10):
            memory.before("cycles")
            cycle: list[object] = [bytes(10 * KIB)]
            cycle.append(cycle)
            del cycle
            assert memory.after("cycles", 1000) == []
    finally:
        gc.enable()
    assert gc.get_stats()[2]["collections"] == before
    assert memory.culprit() == ""
    assert len(left) == 10


def test_old_garbage_is_collected_before_a_task_is_named() -> None:
    """Each run drops what the one before it had left, and that is old by then: garbage, for which the collector waits
    until it is a quarter of all."""
    process = Process()

    def replaces():
        process.old_garbage += 200 * KIB

    assert process.mix(8000, replaces=replaces, other=nothing) == []
    assert process.full_collections > 0


def test_a_leak_beside_old_garbage_is_named() -> None:
    """What is garbage is no reason to say nothing of what is not."""
    process = Process()
    others: list[int] = []

    def replaces():
        process.old_garbage += 200 * KIB
        others.append(1)
        if not len(others) % 100:
            process.old_garbage = 0

    assert "leaks" in names(process.mix(8000, leaks=lambda: 100 * KIB, other=replaces))


def test_full_collections_are_paid_for() -> None:
    """Each costs 50 ms where a sample costs 0.1 ms, and the collector runs in one run of ten: still no more than a
    suspected task may cost, 4 %, and as much again for chance."""
    process = Process()
    process.collect_all_ns = 50_000_000

    def leaks():
        process.old += process.random.random() < 0.1
        return 2 * KIB

    process.memory._spare = 0
    process.mix(20_000, a=leaks)
    spent = process.now - 20_000 * process.run_ns
    assert process.full_collections > 5
    assert spent < 0.08 * process.now


def test_the_first_reading_is_no_samples_cost() -> None:
    """It imports ctypes, for 5 ms: what a sample costs is known from the second on."""
    process = Process(run_us=100, sample_us=20, first_read_us=5000)
    process.mix(500, a=nothing)
    assert process.sampled["a"] > 40


def test_growth_pays_for_the_first_samples() -> None:
    """Runs of 60 us beside samples that settle for 2 ms: a child that grows is judged after hundreds of runs."""
    process = Process(run_us=60, sample_us=2000)
    process.mix(1000, leaks=lambda: 100 * KIB, innocent=nothing)
    assert process.sampled.total() >= 16
