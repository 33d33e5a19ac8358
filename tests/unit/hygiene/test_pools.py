"""Connections that are not given back: what is a leak, whose it is, and what is none."""

from __future__ import annotations

import threading

import pytest

from poolrt.hygiene.findings import LeakKind
from poolrt.hygiene.pools.checked_out import CheckedOut
from poolrt.hygiene.pools.taken import Taken
from poolrt.hygiene.pools.watch import PoolWatch

PEER = "db.example:5432/shop"


class Connection(Taken):
    """A connection to ``PEER``, or to what else it is made for."""

    def __init__(self, what: str = PEER) -> None:
        super().__init__()
        self.to = what
        self.dropped = False

    def what(self) -> str:
        """The peer."""
        return self.to

    def driver(self) -> object:
        """Something, until it is dropped."""
        return None if self.dropped else self


@pytest.fixture
def out():
    """What is checked out; no library is followed when the test is over."""
    made = CheckedOut()
    yield made
    made.close()


@pytest.fixture
def take(out):
    """``take()``: a connection that stays out; its key."""

    def do(what=PEER):
        taken = Connection(what)
        out.take(taken, taken)
        return taken

    return do


@pytest.fixture
def run(out):
    """``run(body, count)``: that many runs of ``task``, each followed by a look; the findings."""
    watch = PoolWatch(out)

    def do(body, count=1, task="pay"):
        found = []
        for number in range(count):
            body(number)
            found += watch.look({task: 1})
        return found

    do.watch = watch
    return do


def nothing(_):
    """A run that takes nothing."""


def test_what_a_start_hook_took_is_nobody_s(out, take):
    """Pools are followed from before the fork: what is out when the child begins is let be, and may come back."""
    of_the_hook = take()
    out.begin()
    watch = PoolWatch(out)
    assert out.now == {}
    out.give_back(of_the_hook)
    kept = [take() for _ in range(10)]
    (found,) = [finding for _ in range(10) for finding in watch.look({"pay": 1})]
    assert found.count == len(kept)


def test_what_is_given_back_is_no_leak(out, take, run):
    """However often it is taken."""
    assert run(lambda _: out.give_back(take()), 100) == []


def test_a_leak_at_each_run_is_named_at_the_second(take, run):
    """Both connections are told then, and each later one at once, each with its own runs."""
    found = run(lambda _: take(), 4)
    assert [(each.kind, each.task, each.what) for each in found] == [(LeakKind.CHECKED_OUT, "pay", PEER)] * 3
    assert [(each.count, each.runs) for each in found] == [(2, 2), (1, 1), (1, 1)]
    assert found[0].reason == f"leak: 2 runs of pay did not give 2 connections to {PEER} back to the pool"


def test_a_leak_of_now_and_then_is_named_at_its_second(take, run):
    """With all runs of the task since the first, so that the rate is right; nothing of another's."""
    assert run(nothing, 500, "other") == []
    found = run(lambda number: take() if number % 50 == 20 else None, 100)
    assert [(each.count, each.runs, each.task) for each in found] == [(2, 71, "pay")]


def test_one_that_is_kept_for_use_is_no_leak(take, run):
    """As of a scoped session: taken by the first run, out for ever; and another one by another task."""
    kept = [run(lambda number: number or take(), 50, task) for task in ("pay", "ship")]
    assert kept == [[], []]


def test_one_to_each_of_many_peers_is_no_leak(take, run):
    """A session for each tenant's database."""
    assert run(lambda number: take(f"tenant{number}.example:5432/shop"), 20) == []


def test_what_was_out_before_the_first_run_is_nobodys_fault(out, take):
    """A start hook may hold on to as many as it likes."""
    for _ in range(3):
        take()
    watch = PoolWatch(out)
    assert watch.look({"pay": 1}) == []
    take()
    assert watch.look({"pay": 1}) == []
    take()
    (found,) = watch.look({"pay": 1})
    assert (found.count, found.runs) == (2, 3)


def test_each_thread_that_runs_may_keep_one(out, run):
    """A scoped session in each thread of a pool is none; two of one thread, or of threads that have ended, are."""
    go, done = threading.Event(), threading.Barrier(4)

    def keep():
        taken = Connection()
        out.take(taken, taken)
        done.wait()
        go.wait()

    threads = [threading.Thread(target=keep) for _ in range(3)]
    for thread in threads:
        thread.start()
    done.wait()
    try:
        assert run(nothing, 5) == []
    finally:
        go.set()
        for thread in threads:
            thread.join()
    (found,) = run(nothing)
    assert found.count == 3


def test_several_tasks_since_the_last_look_are_told_apart_by_single_looks(take, run):
    """It wants a look after each run until it has seen the leak again; then both are one task's."""
    watch = run.watch
    take()
    assert watch.look({"pay": 3, "ship": 2}) == []
    assert watch.wants_each
    assert run(nothing, 3, "ship") == []
    assert watch.wants_each
    (found,) = run(lambda _: take(), 1, "pay")
    assert (found.task, found.count, found.runs) == ("pay", 2, 4)


def test_each_run_is_looked_at_for_a_while_after_one_that_left_something(take, run):
    """However long a look took: looks that came rarer then would let a pool run empty between them."""
    run(lambda _: take())
    wanted = 0
    while run.watch.wants_each:
        run(nothing)
        wanted += 1
    assert wanted == 30


def test_what_nobody_leaves_again_is_told_without_a_name(take, run):
    """After so many looks that the task would have run again; then looks after each run end."""
    watch = run.watch
    take()
    take()
    watch.look({"pay": 3, "ship": 2})
    found = run(nothing, 300)
    assert [(each.task, each.count) for each in found] == [("", 2)]
    assert "several tasks" in found[0].reason
    assert not watch.wants_each


def test_what_a_collection_brings_back_is_unclosed(out, take):
    """It is told as that, and looked for less often, but before a pool of ten is empty."""
    cycle = []

    def collect():
        while cycle:
            out.give_back(cycle.pop())

    watch = PoolWatch(out, collect=collect)
    found = []
    most = 0
    for _ in range(40):
        cycle.append(take())
        most = max(most, len(out.now))
        found += watch.look({"pay": 1})
    assert {each.kind for each in found} == {LeakKind.UNCLOSED}
    assert [(each.count, each.runs) for each in found] == [(2, 2), (4, 4), (8, 8), (8, 8), (8, 8), (8, 8)]
    assert most == 8
    assert watch.wants_each, "or a look that a collection has made slow would come too late"


def test_a_pool_that_is_gone_has_nothing_out(out, take, run):
    """Its connections went with it."""

    class Gone(Connection):
        def is_gone(self):
            return True

    def leave(_):
        taken = Gone()
        out.take(taken, taken)

    assert run(leave, 5) == []
    assert not out.now


def test_a_dropped_connections_number_may_be_given_to_the_next(out, run):
    """Both are out."""

    def leave(_):
        taken = Connection()
        out.take("number 1", taken)
        taken.dropped = True

    (first, *_) = run(leave, 3)
    assert first.count == 2
    assert len(out.now) == 3


def test_where_it_was_taken_is_remembered_once_something_is_suspected(take, run):
    """The innermost frame of the app first; nothing is remembered before."""

    def leaky(_):
        take()

    first, *rest = run(leaky, 3)
    assert rest
    assert first.stack.splitlines()[1].endswith("in test_where_it_was_taken_is_remembered_once_something_is_suspected.<locals>.leaky")  # fmt: skip  # noqa: E501


class Checks:
    """A check of the app's own: it names what stands in ``out``."""

    def __init__(self):
        self.out = []

    def __call__(self):
        return self.out


def test_the_apps_own_check_tells_what_is_out(out):
    """By names, each as often as it is out; what it named before the first run does not count."""
    check = Checks()
    check.out = ["mq.example:5672"]
    watch = PoolWatch(out, [check])
    assert watch.look({"pay": 1}) == []
    check.out = ["mq.example:5672"] * 2
    assert watch.look({"pay": 1}) == []
    check.out = ["mq.example:5672"]
    assert watch.look({"pay": 1}) == []
    check.out = ["mq.example:5672"] * 3
    (found,) = watch.look({"pay": 1})
    assert (found.kind, found.what, found.count, found.runs) == (LeakKind.CHECKED_OUT, "mq.example:5672", 2, 4)


def test_a_check_that_raises_is_not_asked_again(out, caplog):
    """It is told once."""
    asked = []

    def check():
        asked.append(1)
        if len(asked) > 1:
            raise RuntimeError("no pool any more")
        return []

    watch = PoolWatch(out, [check])
    for _ in range(3):
        assert watch.look({"pay": 1}) == []
    assert len(asked) == 2
    assert "no pool any more" in caplog.text


def test_a_library_of_an_unknown_kind_is_told_once(monkeypatch, caplog):
    """And does no harm."""
    from poolrt.hygiene.pools import checked_out

    def refuse(_):
        raise AttributeError("no such method")

    monkeypatch.setattr(checked_out, "_LIBRARIES", {"json": refuse})
    made = CheckedOut()
    made.follow()
    assert caplog.text.count("the connections of json are not watched: AttributeError: no such method") == 1


def test_one_that_a_task_cannot_have_taken_is_not_given_to_it(take, run):
    """It keeps one for use itself, to the same peer: two of one task would be a leak."""
    take()
    assert run.watch.look({"pay": 1, "ship": 1}) == []
    assert run(lambda _: take(), 1, "keep") == []
    found = run(nothing, 250, "keep")
    assert {each.task for each in found} <= {""}


def test_a_glance_after_each_run_tells_who_took_it(out, take):
    """However rare the looks; in the place of one that came back too."""
    watch = PoolWatch(out)
    take()
    assert watch.stirs(["pay"])
    assert watch.look({"ship": 3, "pay": 1}) == []
    out.give_back(next(iter(out.now)))
    second = take()
    assert watch.stirs(["pay"])
    assert watch.look({"ship": 1, "pay": 1}) == []
    assert not watch.stirs(["ship"])
    out.take(second, Connection())
    assert watch.stirs(["pay"])
    watch.look({"ship": 1, "pay": 1})
    take()
    assert watch.stirs(["pay"])
    (found,) = watch.look({"ship": 1, "pay": 1})
    assert (found.task, found.count, found.runs) == ("pay", 2, 4)


def test_what_is_not_told_counts_when_the_child_leaves(take, run):
    """One alone, and the runs since the last look."""
    run(lambda _: take(), 1)
    (rest,) = run.watch.rest({"pay": 4})
    assert (rest.task, rest.of(LeakKind.CHECKED_OUT, PEER)) == ("pay", (1, 5))
