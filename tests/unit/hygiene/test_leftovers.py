"""When what tasks leave is a leak, on a fake clock."""

from __future__ import annotations

import random

import pytest

from poolrt.hygiene.findings import LeakKind, LeakTable, row_of
from poolrt.hygiene.leftovers import FEW, LIVES_ON, LONGER, SINGLY, SURE, Leftovers, without_numbers


class Runs:
    """Runs of tasks, each of which leaves things or ends some."""

    def __init__(self, **limits) -> None:
        self.now = 100.0
        self.takes = 1.0
        self.left = Leftovers[int](
            LeakKind.THREADS, "threads running", clock=lambda: self.now, details=lambda keys: f"ids {sorted(keys)}",
            **limits,
        )  # fmt: skip
        self.made = 0

    def run(self, task: str = "t", leaves: int = 1, *, pooled: bool = False, ran: dict[str, int] | None = None):
        ran = ran or {task: 1}
        self.left.ran(ran)
        new = {self.made + place: ("worker-*", pooled) for place in range(leaves)}
        self.made += leaves
        found = self.left.appeared(new, ran) if new else self.left.overdue()
        self.now += self.takes
        return found

    def end(self, *keys: int) -> None:
        for key in keys:
            self.left.ended(key)

    def burst(self, probability: float, runs: int, seed: int = 0) -> int:
        """So many runs in an instant, the last of which leaves something; how many did."""
        rng = random.Random(seed)
        leaves = [rng.random() < probability for _ in range(runs - 1)] + [True]
        self.takes = 0.0
        for each in leaves:
            assert not self.run(leaves=each)
        self.takes = 1.0
        return sum(leaves)


def rate(found) -> float:
    """As `poolrt leaks` shows it, over all findings."""
    table = LeakTable(row_of(finding, 0.0) for finding in found if finding)
    (row,) = table.rows()
    return row.rate


def test_what_every_run_leaves_is_told_once_it_has_lived_on() -> None:
    """The finding comes with a run that leaves another one, when those of five runs are old enough."""
    runs = Runs()
    found = [runs.run() for _ in range(20)]
    (first,) = [finding for finding in found[:10] if finding]
    assert found.index(first) == FEW + LIVES_ON - 1
    assert (first.kind, first.task, first.what) == (LeakKind.THREADS, "t", "worker-*")
    assert (first.count, first.runs) == (10, 10), "with those that are young"
    assert first.reason == (
        "leak: 10 runs of t left 10 threads running, worker-* (ids [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]), "
        "the oldest for 9.0 s, and none has ended"
    )
    assert [(finding.count, finding.runs) for finding in found if finding] == [(10, 10)] * 2, "each is told once"


@pytest.mark.parametrize("probability", [1.0, 0.1, 0.02])
def test_the_rate_that_is_told_is_the_true_one(probability: float) -> None:
    """Over many findings; runs before the first leftover count too."""
    runs, rng = Runs(), random.Random(1)
    found = [runs.run(leaves=rng.random() < probability) for _ in range(int(2000 / probability))]
    assert rate(found) == pytest.approx(100 * probability, rel=0.1)


@pytest.mark.parametrize("probability", [1.0, 0.1])
def test_the_rate_is_the_true_one_where_looks_are_seldom(probability: float) -> None:
    """What appeared after fifty runs of one task is all its own."""
    runs, rng = Runs(), random.Random(1)
    found = [runs.run(leaves=sum(rng.random() < probability for _ in range(50)), ran={"t": 50}) for _ in range(200)]
    assert rate(found) == pytest.approx(100 * probability, rel=0.1)


def test_runs_that_nobody_is_blamed_for_do_not_count() -> None:
    """After several tasks had run, what appeared is nobody's: nor are these runs a sign that it leaks seldom."""
    runs = Runs()
    found = [runs.run(ran=ran) for _ in range(50) for ran in ({"t": 1}, {"t": 30, "other": 1})]
    assert rate(found) == 100


def test_what_ends_by_itself_is_not_counted() -> None:
    """Each run leaves one that ends after thirty more, and each tenth one that does not: a tenth is told."""
    runs, short, found = Runs(), [], []
    runs.takes = 0.1
    for number in range(1000):
        leaks = number % 10 == 0
        short.append(runs.made + leaks)
        found.append(runs.run(leaves=1 + leaks))
        if len(short) > 30:
            runs.end(short.pop(0))
    assert rate(found) == pytest.approx(10, rel=0.1)
    first = next(finding for finding in found if finding)
    assert first.count / first.runs == pytest.approx(0.1, rel=0.3)
    assert "none that ended had lived for more than 3.1 s" in first.reason


def test_what_stops_growing_is_no_leak() -> None:
    """However long they live on, and however often the task runs: five runs left one each, and then no more."""
    runs = Runs()
    assert not any(runs.run() for _ in range(FEW))
    assert not any(runs.run(leaves=0) for _ in range(1000))


@pytest.mark.parametrize("grow", [FEW, SURE, 2 * SURE])
def test_what_grew_to_a_bound_in_an_instant_is_no_leak(grow: int) -> None:
    """One a run up to it; the next runs use what is there, and it is old only then."""
    runs = Runs()
    runs.burst(1.0, grow)
    runs.takes = 0.0
    for _ in range(3):
        assert not runs.run(leaves=0)
    runs.takes = LIVES_ON
    assert not any(runs.run(leaves=0) for _ in range(1000))


@pytest.mark.parametrize(("probability", "burst"), [(1.0, 30), (0.1, 400)])
def test_what_became_old_in_silence_is_told_at_the_next_look(probability: float, burst: int) -> None:
    """Although no further one has come, and whoever ran: there are too many of them."""
    runs = Runs()
    many = runs.burst(probability, burst)
    assert many >= SURE
    runs.now += LIVES_ON - 1
    assert not runs.run("other", leaves=0)
    found = runs.run("other", leaves=0)
    assert found is not None
    assert (found.task, found.count, found.runs) == ("t", many, burst)


def test_few_that_became_old_in_silence_may_be_kept_on_purpose() -> None:
    """Each of them as old as they come; it is told with the next one."""
    runs = Runs()
    runs.burst(1.0, SURE - 1)
    runs.now += 100
    assert not any(runs.run("other", leaves=0) for _ in range(100))
    assert runs.run()


def test_runs_of_several_tasks_that_leave_nothing_show_that_it_has_stopped() -> None:
    """Though they are not counted: 30 helpers were enough, as all that follow show."""
    runs = Runs()
    runs.burst(1.0, 30)
    runs.left.ran({"t": 100, "other": 1})
    runs.now += LIVES_ON
    assert not any(runs.run("other", leaves=0) for _ in range(10))


def test_what_ends_by_itself_a_little_later_is_no_leak() -> None:
    """A run leaves one more each tenth of a second, and each ends after a second."""
    runs = Runs()
    for number in range(200):
        assert runs.run() is None
        runs.now -= 0.9
        if number >= 10:
            runs.left.ended(number - 10)


def test_a_longer_life_is_waited_for() -> None:
    """Where one was seen to end after 30 s, the others must have lived for twice that."""
    runs = Runs()
    runs.run()
    runs.now += 30
    runs.left.ended(0)
    found = [runs.run() for _ in range(80)]
    (at,) = [place for place, finding in enumerate(found[:70]) if finding]
    assert at >= 60


def test_a_pool_that_warms_up_is_no_leak() -> None:
    """Workers that come one at a run are only told when more runs than its bound have left one."""
    runs = Runs(pool=40)
    assert not any(runs.run(pooled=True) for _ in range(32 + int(LIVES_ON)))
    assert any(runs.run(pooled=True) for _ in range(20))


def test_so_many_at_once_are_told_however_old() -> None:
    """Before the machine runs out of them."""
    runs = Runs(most=100)
    assert runs.run(leaves=99) is None
    found = runs.run()
    assert found is not None
    assert (found.count, found.runs) == (100, 2)


def test_the_more_the_sooner() -> None:
    """Five of which each is a minute old, or thirty that are seconds old."""
    runs = Runs(enough=((FEW, 60.0), (30, LIVES_ON)))
    found = [runs.run() for _ in range(60)]
    assert next(place for place, finding in enumerate(found) if finding) == 30 + LIVES_ON - 1
    runs = Runs(enough=((FEW, 60.0), (30, LIVES_ON)))
    found = [runs.run(leaves=number % 10 == 0) for number in range(120)]
    assert next(place for place, finding in enumerate(found) if finding) == 100


def test_what_appears_after_runs_of_several_tasks_is_nobodys() -> None:
    """But the next runs are looked at singly, for a while."""
    runs = Runs()
    for _ in range(50):
        assert runs.run(ran={"a": 1, "b": 3}) is None
    assert runs.left.wants_each
    assert not runs.left.left
    for _ in range(SINGLY):
        runs.run(leaves=0)
    assert not runs.left.wants_each


def test_each_run_is_looked_at_until_the_task_is_named_or_something_has_ended() -> None:
    """What churns would be looked at singly for ever, and what is named already need not."""
    runs = Runs()
    wanted = []
    for number in range(10 * LONGER):
        runs.run(leaves=number % (LONGER // 2) == 0)
        wanted.append(runs.left.wants_each)
    named = FEW * LONGER // 2
    assert all(wanted[: named + LONGER // 2])
    assert not any(wanted[named + LONGER :])
    runs = Runs()
    runs.run()
    runs.end(0)
    for _ in range(LONGER):
        assert not runs.run(leaves=0)
    runs.run()
    assert not runs.left.wants_each


@pytest.mark.parametrize("ran", [{"t": 2}, {"a": 1, "b": 1}])
def test_runs_are_told_apart_once_something_appears(ran: dict[str, int]) -> None:
    """Several runs of one task count as one that left something; so they are looked at singly from then on."""
    runs = Runs()
    runs.run(leaves=0, ran=ran)
    assert not runs.left.wants_each
    runs.run(ran=ran)
    assert runs.left.wants_each


def test_each_task_is_judged_by_its_own() -> None:
    """A task that ran when nothing appeared is not named, and what others left does not count for it."""
    runs = Runs()
    found = [runs.run(task, leaves=task == "leaker") for _ in range(30) for task in ("leaker", "innocent")]
    found.append(runs.run("latest"))
    assert {finding.task for finding in found if finding} == {"leaker"}
    counted = next(finding for finding in found if finding)
    assert counted.count <= counted.runs <= 30


def test_tasks_that_leave_one_each_are_not_added_up() -> None:
    """Ten tasks, each with its own helper."""
    runs = Runs()
    assert not any(runs.run(f"task {number}") for number in range(30))


def test_numbers_in_names_become_one() -> None:
    """Numbered threads, files and the like have one name."""
    assert without_numbers("Thread-12 (work)") == without_numbers("Thread-7 (work)") == "Thread-* (work)"
