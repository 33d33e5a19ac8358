"""Who keeps memory, by injected readings: leaks are named, and what only looks like one is not."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest

from poolrt.hygiene import live_memory
from poolrt.hygiene.findings import LeakKind
from tests.unit.hygiene.readings import KIB, Process, names, nothing

pytestmark = pytest.mark.usefixtures("same_samples")


def cache(entries, size, rng):
    """A run that takes one of some keys, and keeps its entry."""
    known = set()

    def run():
        key = rng.randrange(entries)
        if key in known:
            return 0
        known.add(key)
        return size

    return run


def lru(entries, size):
    """A run with a key of its own, that keeps its entry until there are so many."""
    keys = iter(range(10**9))
    return lambda: size if next(keys) < entries else 0


def buffer(size, runs):
    """A run that adds to a buffer, which each so manieth run empties."""
    numbers = iter(range(1, 10**9))
    return lambda: size if next(numbers) % runs else -size * (runs - 1)


def test_a_leak_is_named_with_its_numbers() -> None:
    """The task, bytes and runs since then, and how long it takes to the ceiling; nobody else is named."""
    process = Process(ceiling=500 << 20, resident=lambda: 276 << 20)
    found = process.mix(1000, leaks=lambda: 100 * KIB, innocent=nothing)
    finding = found[0]
    assert names(found) == ["leaks"]
    assert (finding.kind, finding.what) == (LeakKind.MEMORY, "live bytes")
    assert finding.count == finding.runs * 100 * KIB
    assert finding.count > 24 << 20
    assert finding.reason.startswith("keeps 100.0 KiB a run (")
    assert finding.reason.endswith(" samples): 2,293 more runs to max_memory_per_child of 500.0 MiB")


@pytest.mark.parametrize("size", [4 * KIB, 15 * KIB])
def test_small_leaks_are_named(size: int) -> None:
    """A few KiB a run: once there were 1,250 runs, and 1 MiB."""
    process = Process()
    assert names(process.mix(4000, leaks=lambda: size, innocent=nothing)) == ["leaks"]
    assert process.runs["leaks"] > 1250


@pytest.mark.parametrize("share", [0.1, 0.02])
def test_a_leak_of_few_runs_is_named(share: float) -> None:
    """100 KiB in one run of ten or fifty, among innocent tasks: within 3,000 runs of it, or 10,000."""
    process = Process()
    runs = 10_000 if share < 0.1 else 3_000
    found = process.mix(
        3 * runs, leaks=lambda: 100 * KIB if process.random.random() < share else 0, a=nothing, b=nothing
    )
    assert names(found) == ["leaks"]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("entries", "size", "share"), [(200, 100 * KIB, 0.1), (128, 60 * KIB, 0.05), (1024, 8 * KIB, 0.1)]
)
def test_a_cache_that_fills_now_and_then_is_no_leak(entries: int, size: int, share: float, seed: int) -> None:
    """Most runs find what they need; the others fill it for thousands of runs."""
    process = Process()
    process.random.seed(seed)
    fill = lru(entries, size) if entries != 200 else cache(entries, size, process.random)
    assert process.mix(40_000, a=lambda: fill() if process.random.random() < share else 0, b=nothing, c=nothing) == []


@pytest.mark.parametrize(
    "innocent",
    [
        lambda rng: cache(60, 512 * KIB, rng),
        lambda rng: cache(500, 50 * KIB, rng),
        lambda rng: lru(128, 200 * KIB),
        lambda rng: lru(1024, 20 * KIB),
        lambda rng: buffer(10 * KIB, 50),
        lambda rng: lambda: rng.choice((0, 0, 3 * KIB, -3 * KIB)),
    ],
    ids=["cache of 60", "cache of 500", "lru_cache(128)", "lru_cache(1024)", "buffer", "noise"],
)
def test_what_does_not_stay_is_no_leak(innocent) -> None:
    """Caches that fill, buffers that are emptied, noise: alone, and beside others and a real leak."""
    alone = Process()
    assert alone.mix(3000, innocent=innocent(alone.random)) == []
    beside = Process()
    found = beside.mix(6000, innocent=innocent(beside.random), other=nothing, leaks=lambda: 100 * KIB)
    assert names(found) == ["leaks"]


def test_what_another_task_takes_away_is_no_leak() -> None:
    """One task puts into a queue of the process, another empties it."""
    process = Process()
    queue = [0]

    def put():
        queue[0] += 20 * KIB
        return 20 * KIB

    def take():
        taken, queue[0] = queue[0], 0
        return -taken

    assert process.mix(8000, put=put, take=take, other=nothing) == []


def test_a_buffer_emptied_when_nobody_looks_is_no_leak() -> None:
    """Where one run in a hundred is sampled each sample may see it grow: between them it does not."""
    process = Process(run_us=20)
    full = iter(range(10**9))

    def fill():
        # Empties itself in runs that are never sampled: before each sample a few runs passed by.
        return 20 * KIB if process.looked or next(full) % 10 else -9 * 20 * KIB

    assert process.mix(30_000, fill=fill, other=nothing) == []


def test_garbage_is_no_leak() -> None:
    """Cycles that only the collector frees are gone before anything is read, at both ends."""
    process = Process()

    def cycles():
        process.garbage += 100 * KIB

    process.mix(3000, cycles=cycles, other=nothing)
    assert process.memory._ledger._laps[-1].tallies["cycles"].kept == 0
    assert process.memory._ledger._laps[-1].tallies["other"].kept == 0


def test_what_is_finished_is_settled_before_each_collection() -> None:
    """A finalizer that crashes there takes nothing with it that was done; and that time is a cost, not the run's."""
    calls = []
    process = Process(settle=lambda: calls.append("settle"))
    process.memory._collect = lambda generation: calls.append("collect")
    process.run("a", nothing)
    assert calls == ["settle", "collect", "settle", "collect"]


def test_the_time_to_settle_is_no_runs_time() -> None:
    """A server that takes long to answer makes samples dear, and so rare; runs do not seem longer."""
    rare, often = Process(settle=lambda: None), Process()

    def settle() -> None:
        rare.now += 5_000_000

    rare.memory._settle = settle
    for process in (rare, often):
        process.mix(20_000, a=nothing)
    assert rare.sampled["a"] < 0.1 * often.sampled["a"]


def test_three_large_leftovers_are_no_leak() -> None:
    """A registry that is filled three times and for good: rare accidents, however large."""
    process = Process()
    runs = iter(range(10**9))
    assert process.mix(20_000, a=lambda: (20 << 20) * (next(runs) in (500, 4000)), other=nothing) == []


def test_short_tasks_beside_long_ones_are_sampled_as_often() -> None:
    """What sampling may cost is a share of the time of all: a short leak among long tasks is found as soon."""
    process = Process()

    def long():
        process.now += 5_000_000

    process.run_ns = 5_000
    process.mix(4000, long=long, short=nothing)
    assert process.sampled["short"] > 0.1 * process.runs["short"]


def test_the_outcome_is_not_the_tasks() -> None:
    """What the runtime keeps of a run is taken off: it goes away with the next answer of the broker."""
    process = Process()
    for _ in range(2000):
        before = process.live
        found = process.run("results", lambda: 50 * KIB, own=50 * KIB)
        process.live = before
        assert found == []
    assert process.memory.culprit() == ""


def test_samples_cost_so_much_and_no_more() -> None:
    """Beyond what a child may spend at first: 1 us of a no-op, and 2 % of a longer run."""
    for run_us, most in ((1, 1.0), (1000, 20.0), (100_000, 2000.0)):
        process = Process(run_us=run_us)
        process.mix(5000, a=nothing, b=nothing)
        process.collections = 0
        process.mix(10_000, a=nothing, b=nothing)
        assert 0 < process.collections * process.collect_ns / 1000 / 10_000 <= most


def test_each_run_is_a_sample_or_in_a_gap() -> None:
    """What was kept by the run that is sampled is not the gap's."""
    process = Process()
    process.mix(5000, a=nothing, b=nothing)
    process.memory._left_then = dict(process.memory._left)
    process.memory.due("a")
    process.memory.due("b")
    assert process.memory._gap("a") == {"b": 1}


def test_one_slow_sample_does_not_end_sampling() -> None:
    """A sample in which the process was off its processor for a second is one sample of many."""
    process = Process()
    process.mix(1000, a=nothing)
    process.memory._spare = 0
    usual, process.collect_ns = process.collect_ns, 10**9
    process.memory.before("a")
    process.memory.after("a", 1000)
    process.collect_ns = usual
    process.sampled.clear()
    process.mix(1000, a=nothing)
    assert process.sampled["a"] > 20


def test_a_rare_task_is_sampled_as_well() -> None:
    """Samples are counted by task: one that is one in a hundred has as large a share of its runs sampled."""
    process = Process()
    process.mix(20_000, rare=nothing, **{f"often{n}": nothing for n in range(50)})
    assert process.sampled["rare"] > 0.05 * process.runs["rare"]


def test_named_again_when_twice_as_much_is_kept() -> None:
    """Findings say what came since the last one, and come more and more seldom."""
    process = Process()
    found = process.mix(6000, leaks=lambda: 100 * KIB, other=nothing)
    assert 2 <= len(found) <= 4
    assert all(later.count > earlier.count for earlier, later in itertools.pairwise(found))
    assert sum(finding.runs for finding in found) <= process.runs["leaks"]


def test_a_run_that_was_interrupted_is_not_noted() -> None:
    """``before`` without ``after``: the next sample stands for itself."""
    process = Process()
    process.run("a", nothing)
    process.memory.before("a")
    process.live += 500 << 20
    for _ in range(3000):
        assert process.run("a", nothing) == []
    assert process.memory.culprit() == ""


def test_the_culprit_of_a_full_process_is_a_hint() -> None:
    """A process that is full after fifty runs names who kept most, though it is no finding yet."""
    process = Process()
    assert process.memory.culprit() == ""
    assert process.mix(50, large=lambda: 10 << 20, small=lambda: 4 * KIB, other=nothing) == []
    assert process.memory.culprit() == "large"


def test_one_run_is_traced_before_it_is_reported() -> None:
    """The next run after the verdict says where; the following findings of this task do not trace again."""
    process = Process(traces=True)
    kept: list[bytes] = []

    def leaks():
        kept.append(bytes(100 * KIB))
        return 100 * KIB

    found = []
    while len(found) < 2 and process.runs["leaks"] < 4000:
        found += process.mix(1, leaks=leaks, other=nothing)
    first, second = found
    assert f"{__file__}:{leaks.__code__.co_firstlineno + 1}" in first.stack.splitlines()[0]
    assert "100.0 KiB" in first.stack
    assert second.stack == ""


def test_runs_are_traced_until_one_keeps_something() -> None:
    """Of a leak in one run of ten, nine show nothing; what they keep besides is not taken for it."""
    process = Process(traces=True)
    kept: list[bytes] = []
    besides: list[bytes] = []

    def leaks():
        if process.random.random() < 0.1:
            kept.append(bytes(100 * KIB))
            return 100 * KIB
        besides[:] = [bytes(2 * KIB)]
        return 0

    found = []
    while not found and process.runs["leaks"] < 8000:
        found = process.mix(1, leaks=leaks, other=nothing)
    assert f"{__file__}:{leaks.__code__.co_firstlineno + 2}" in found[0].stack.splitlines()[0]


@pytest.mark.parametrize(("run_us", "most"), [(2_000, 200), (20_000, 50)])
def test_runs_are_traced_so_often_and_so_long(run_us: int, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no trace shows what is kept, it is reported after 200 runs, or a second."""
    empty = SimpleNamespace(start=lambda: None, stop=lambda: "", kept=0)
    monkeypatch.setattr(live_memory, "AllocationTrace", lambda: empty)
    process = Process(run_us=run_us, traces=True)
    while not process.memory._found:
        assert process.mix(1, leaks=lambda: 100 * KIB, other=nothing) == []
    ran, found = process.runs["leaks"], []
    while not found:
        found = process.mix(1, leaks=lambda: 100 * KIB, other=nothing)
    assert process.runs["leaks"] - ran == pytest.approx(most, abs=2)
    assert found[0].stack == ""


def test_what_waits_for_its_traced_run_is_reported_when_the_child_leaves() -> None:
    """The verdict is not lost if the task does not come again."""
    process = Process(traces=True)
    while not process.memory._found:
        assert process.mix(1, leaks=lambda: 100 * KIB, other=nothing) == []
    assert names(process.memory.leaving()) == ["leaks"]
    assert process.memory.leaving() == []


def test_long_runs_are_not_traced() -> None:
    """They would be slower, and meet their limits."""
    process = Process(run_us=200_000, traces=True)
    assert process.mix(2000, leaks=lambda: 100 * KIB, other=nothing)[0].stack == ""
    assert process.memory._samplings["leaks"].traced is False
