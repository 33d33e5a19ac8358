"""When what tasks leave is a leak, on a fake clock."""

from __future__ import annotations

import pytest

from poolrt.hygiene.findings import LeakKind
from poolrt.hygiene.leftovers import FEW, LIVES_ON, SINGLY, Leftovers, without_numbers


class Runs:
    """Runs of tasks, each of which leaves things or ends some."""

    def __init__(self, **limits: float) -> None:
        self.now = 100.0
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
        found = self.left.appeared(new, ran) if new else None
        self.now += 1.0
        return found


def test_what_every_run_leaves_is_told_once_it_has_lived_on() -> None:
    """The finding comes with a run that leaves another one, when those of five runs are old enough."""
    runs = Runs()
    found = [runs.run() for _ in range(20)]
    (first,) = [finding for finding in found[:10] if finding]
    assert found.index(first) == FEW + LIVES_ON - 1
    assert (first.kind, first.task, first.what, first.count) == (LeakKind.THREADS, "t", "worker-*", FEW)
    assert first.runs == FEW + LIVES_ON
    assert first.reason == (
        "leak: 5 of 10 runs of t left 5 threads running, worker-* (ids [0, 1, 2, 3, 4]), the oldest for 9.0 s, "
        "and now 5 more"
    )
    assert sum(finding.count for finding in found if finding) <= 20, "each is told once"


def test_what_stops_growing_is_no_leak() -> None:
    """However long they live on, and however often the task runs: five runs left one each, and then no more."""
    runs = Runs()
    assert not any(runs.run() for _ in range(FEW))
    assert not any(runs.run(leaves=0) for _ in range(1000))


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
    assert found.count == 100
    assert "so many at once" in found.reason


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
