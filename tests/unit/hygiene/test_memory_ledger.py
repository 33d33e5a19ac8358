"""Each rule by which a task that keeps memory is named, by samples and gaps made for it."""

from __future__ import annotations

import random

from poolrt.hygiene.memory_ledger import MemoryLedger

KIB = 1024
MIB = 1 << 20


class Run:
    """Feeds a ledger; ``named`` is who, after how many samples."""

    def __init__(self) -> None:
        self.ledger = MemoryLedger()
        self.live = 0
        self.samples = 0
        self.named: list[tuple[str, int]] = []

    def sample(self, task, kept, runs=1, gap=None, growth=0):
        """A sample that kept so much, after a gap with these runs and that growth."""
        before = self.live + int(growth)
        self.live = before + kept
        self.samples += 1
        if self.ledger.note(task, runs, before, self.live, gap or {}):
            self.named += [(keeper.task, self.samples) for keeper in self.ledger.judge()]


def test_four_judgments_must_agree() -> None:
    """A leak of every run is named 48 samples after there were 200 runs of it."""
    run = Run()
    for _ in range(400):
        run.sample("a", MIB)
    assert run.named[0] == ("a", 256)


def test_a_warm_up_does_not_hide_a_leak() -> None:
    """Much more is kept at first: the oldest lap is left out, and the leak goes on."""
    run = Run()
    for _ in range(16):
        run.sample("a", 4 * MIB)
    for _ in range(500):
        run.sample("a", 100 * KIB)
    assert run.named


def test_one_large_leftover_among_small_ones_is_an_accident() -> None:
    """Without it there is next to nothing."""
    run = Run()
    for number in range(2000):
        run.sample("a", {1500: 30 * MIB, 100: KIB, 700: KIB, 1400: KIB}.get(number, 0))
    assert run.named == []


def test_two_leftovers_are_an_accident() -> None:
    """However large."""
    run = Run()
    for number in range(2000):
        run.sample("a", {900: 10 * MIB, 1500: 30 * MIB}.get(number, 0))
    assert run.named == []


def rarely_sampled(kept, growth, samples=400, **others):
    """Tasks that run ten times between two samples, more or less; ``growth`` of a gap, by the runs in it."""
    run, rng = Run(), random.Random(2)
    kept_by = {"a": kept, **others}
    names = sorted(kept_by)
    for number in range(samples):
        gap = {name: rng.randrange(20) for name in names}
        task = names[number % len(names)]
        run.sample(task, kept_by[task], 10 * len(names), gap, growth(gap, rng))
    return {task for task, _ in run.named}


def test_a_leak_is_named_where_gaps_grow_with_it() -> None:
    """The counterpart of the following ones."""
    assert rarely_sampled(100 * KIB, lambda gap, _: 100 * KIB * gap["a"], b=0) == {"a"}


def test_few_samples_are_not_enough() -> None:
    """Fifteen samples of a task say nothing, though they stand for hundreds of runs."""
    run, rng = Run(), random.Random(2)
    for number in range(100):
        gap = {"a": rng.randrange(20), "b": rng.randrange(20)}
        task = "a" if number % 7 == 6 else "b"
        run.sample(task, 100 * KIB * (task == "a"), 70, gap, 100 * KIB * gap["a"])
    assert run.named == []


def test_gaps_that_grow_by_less_than_samples_deny_it() -> None:
    """Beyond chance, but by a tenth of what the samples kept: most of it goes away between them."""
    assert rarely_sampled(100 * KIB, lambda gap, _: 10 * KIB * gap["a"], b=0) == set()


def test_gaps_that_grow_by_chance_deny_it() -> None:
    """By enough, but not surely with this task."""
    grow = lambda gap, rng: 100 * KIB * gap["a"] + rng.choice((-1, 1)) * 5 * MIB  # noqa: E731
    assert rarely_sampled(100 * KIB, grow, b=0) == set()


def test_what_another_takes_away_is_not_made_up_for_by_a_third() -> None:
    """A task that frees what was put is no less one because another keeps something in its samples."""

    def grow(gap, _):
        return KIB * (100 * gap["a"] - 80 * gap["takes"] - 5 * gap["third"])

    assert rarely_sampled(100 * KIB, grow, samples=900, takes=-80 * KIB, third=90 * KIB) == set()


def test_what_goes_away_before_the_next_sample_is_no_leak() -> None:
    """Where each run is a sample: a result that is let go of with the next run, for example."""
    run = Run()
    for _ in range(2000):
        run.sample("a", 5 * KIB, growth=-5 * KIB)
    assert run.named == []


def test_what_a_run_keeps_is_told_by_samples_and_gaps() -> None:
    """Few samples met a leak of now and then, and others that of a peak's end: the gaps say what is kept."""
    run, rng = Run(), random.Random(2)
    told = []
    judge = run.ledger.judge
    run.ledger.judge = lambda: [told.append(keeper) or keeper for keeper in judge()]
    for number in range(3000):
        gap = {"a": rng.randrange(1, 20), "b": rng.randrange(20)}
        leaks = sum(rng.random() < 0.04 for _ in range(gap["a"]))
        kept = 100 * KIB * (number % 50 == 0) - 300 * KIB * (number == 900)
        run.sample("ab"[number % 2], kept if number % 2 == 0 else 0, 20, gap, 100 * KIB * leaks)
    assert {keeper.task for keeper in told} == {"a"}
    assert 3 * KIB < told[0].a_run < 5 * KIB
