"""Rule 1 of `DescriptorWatch`, the limit; what a look costs; and both rules under any program."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolrt.hygiene.descriptor_verdicts import NearTheLimit
from poolrt.hygiene.descriptors import DescriptorWatch
from poolrt.hygiene.findings import LeakKind

PG = "10.0.0.7:5432"


def nothing():
    pass


def test_no_run_meets_the_limit(new_table):
    """At 70 % the child is told, by task and peer, though no task leaks at each of its runs."""
    table = new_table(limit=256)
    runs = iter(range(10_000))

    def sometimes():
        if next(runs) % 3 == 0:
            table.open()

    watch = table.watch()
    told = []
    while not told or not isinstance(told[-1], NearTheLimit):
        told += [finding for _, finding in table.drive(2, ("other", nothing), ("t", sometimes), watch=watch)]
    finding = told[-1]
    assert 179 < table.most < 256
    assert {each.key for each in told} == {(LeakKind.CONNECTIONS, "t", PG)}
    assert sum(each.count for each in told) == table.most - 8, "none is counted twice"
    assert finding.reason.startswith("near the limit: 180 of 256 descriptors are open; t left most, ")
    assert finding.reason.endswith(f"{table.most - 8} times a socket to {PG}")


def test_a_small_table_is_counted_more_often(new_table):
    """A late leak of 15 a run, out of sight, is told before a table of 256 is full."""
    table = new_table(limit=256)
    watch = table.watch()
    assert table.drive(500, ("a", nothing), watch=watch) == []
    while watch._left != watch._pause:  # the worst moment: just counted
        table.drive(1, ("a", nothing), watch=watch)

    def grab():
        for _ in range(15):
            table.open()

    found = []
    while not found:
        found = table.drive(1, ("t", lambda: table.holding_a_file(grab)), watch=watch)
    assert found[0][1].reason.startswith("near the limit: ")


def test_garbage_near_the_limit_is_collected_instead(new_table):
    """Connections in cycles, not left by each run, need no new child."""
    table = new_table(limit=256)
    runs = iter(range(10_000))

    def sometimes():
        if next(runs) % 3 == 0:
            table.garbage.append(table.open())

    found = table.drive(3000, ("t", sometimes))
    assert {finding.kind for _, finding in found} == {LeakKind.UNCLOSED}
    assert table.most < 190


@pytest.mark.parametrize("hidden", [False, True])
def test_the_worst_run_is_expected_again(new_table, hidden):
    """Where one more run like the worst would reach the limit, the child is told before 70 %."""
    table = new_table(limit=256)

    def grab():
        for _ in range(125):
            table.open()

    work = grab if not hidden else lambda: table.holding_a_file(grab)
    watch = table.watch()
    work()
    [finding] = watch.after("t", table.lowest())
    assert finding.reason.startswith("near the limit: 133 of 256")


def test_where_nothing_can_be_read_the_limit_is_still_watched(new_table):
    """Without /proc there is the count, the numbers and the last task's name."""
    table = new_table(limit=100)
    watch = DescriptorWatch(
        table.limit, table.lowest(), lambda numbers: [], table.clock, count=table.count, collect=table.collect
    )
    found = table.drive(70, ("t", table.open), watch=watch)
    said = "near the limit: 71 of 100 descriptors are open; t ran last"
    assert found[0][1] == NearTheLimit(LeakKind.FILES, "t", "", 71, 1, said)
    assert len(found) == 1


def test_near_the_limit_is_said_again_when_half_the_rest_is_gone(new_table):
    """Not at each run."""
    table = new_table(limit=256)
    odd = iter(range(10_000))
    found = table.drive(480, ("t", lambda: next(odd) % 2 and table.open()))
    assert 3 <= len(found) <= 6


def test_a_table_that_was_nearly_full_at_birth_is_told_at_once(new_table):
    """It cannot be blamed on a task, but the operator hears of it."""
    table = new_table(holds=95, limit=100)
    [(_, finding)] = table.drive(10, ("t", nothing))
    assert finding.reason == "near the limit: 95 of 100 descriptors are open; t ran last"


# ---- cost


def test_a_quiet_run_reads_nothing(table):
    """10,000 runs that leave nothing: one count in 64, and no scan."""
    assert table.drive(10_000, ("a", nothing), ("b", lambda: table.close(table.open()))) == []
    assert table.counts < 10_000 / 64 + 10
    assert table.scans == []


def test_counting_each_run_ends_where_it_is_dear(table):
    """Where a count takes 1 ms, a hidden growth is followed by two counted runs, not by hundreds."""
    real = table.count

    def dear():
        table.now += 0.001
        return real()

    watch = DescriptorWatch(table.limit, table.lowest(), table.scan, table.clock, count=dear, collect=table.collect)
    table.drive(100, ("a", nothing), watch=watch)
    before = table.counts
    table.drive(1, ("a", lambda: table.holding_a_file(table.open)), watch=watch)
    table.drive(99, ("a", nothing), watch=watch)
    assert table.counts - before <= 7


def test_what_comes_and_goes_out_of_sight_is_not_followed(table):
    """Only a count never seen before is followed by counted runs, or a pool that is replaced would be for ever."""
    pool = [table.open("socket", "pool:1") for _ in range(3)]

    def more():
        table.holding_a_file(lambda: pool.append(table.open("socket", "pool:1")))

    assert table.drive(4000, ("a", more), ("b", lambda: table.close(pool.pop()))) == []
    assert table.counts < 4000 / 6


def test_near_the_limit_is_said_again_after_it_was_calm(new_table):
    """A table that emptied and fills again is news."""
    table = new_table(limit=256)
    held = []
    runs = iter(range(10_000))

    def breathe():
        if next(runs) % 2:
            held.append(table.open())
        if len(held) == 190:
            while held:
                table.close(held.pop())

    found = [finding for _, finding in table.drive(1000, ("t", breathe)) if isinstance(finding, NearTheLimit)]
    assert [finding.reason[:30] for finding in found] == ["near the limit: 180 of 256 des"] * 2


# ---- any program

SEEDS = st.integers(0, 10_000)  # drawn choices would be shrunk to the first one for ever
ACTIONS = st.sampled_from(["nothing", "temp", "open", "close", "hide", "hide 3", "open 2", "replace", "use", "cycle"])


class Program:
    """What a task of a generated program does to the table in one run."""

    def __init__(self, table) -> None:
        self.table = table
        self.mine: list[int] = []

    def act(self, action: str) -> None:
        table, mine = self.table, self.mine
        word, _, number = action.partition(" ")
        for _ in range(int(number or 1)):
            if word == "temp":
                table.close(table.open("file", "/tmp/x"))
            elif word == "open":
                mine.append(table.open("socket", "pool:1"))
            elif word == "hide":
                table.holding_a_file(lambda: mine.append(table.open("socket", "pool:1")))
            elif word == "cycle":
                table.garbage.append(table.open("socket", "cycle:1"))
            elif word == "close" and mine:
                table.close(mine.pop(0))
            elif word == "replace" and mine:
                table.close(mine.pop())
                mine.append(table.open("socket", "pool:1"))
        if word == "use":
            for fd in mine:
                table.use(fd)


@given(
    st.lists(st.lists(ACTIONS, min_size=1, max_size=3), min_size=1, max_size=3),
    st.integers(1, 3),
    st.booleans(),
    SEEDS,
)
def test_no_program_reaches_the_limit(new_table, tasks, leaks, hide, seed):
    """Whatever tasks do, mixed at random: a Finding (a recycling) comes before a run meets EMFILE."""
    rng = random.Random(seed)
    table = new_table(limit=128)
    program = Program(table)
    watch = table.watch()
    names = [*range(len(tasks)), "leaky"]
    for _ in range(1500):
        name = rng.choice(names)
        if name == "leaky":
            program.act(f"{'hide' if hide else 'open'} {leaks}")
            program.mine[-leaks:] = []
        else:
            for action in tasks[name]:
                program.act(action)
        if watch.after(str(name), table.lowest()):
            return
    raise AssertionError("a leak was never told")


@given(
    st.lists(st.sampled_from(["nothing", "temp", "replace", "use", "open", "hide"]), min_size=1, max_size=3),
    SEEDS,
)
def test_a_bounded_pool_beside_any_other_is_innocent(new_table, actions, seed):
    """A pool of at most 25 connections, opened, hidden, replaced and used in any order, is never a leak."""
    rng = random.Random(seed)
    table = new_table()
    program = Program(table)
    watch = table.watch()
    for _ in range(400):
        action = rng.choice(actions)
        if action in {"open", "hide"} and len(program.mine) >= 25:
            action = "use"
        program.act(action)
        assert watch.after(rng.choice("ab"), table.lowest()) is None


@given(st.integers(1, 3), st.integers(0, 6), st.booleans(), SEEDS)
def test_a_leak_at_each_run_is_named_within_fifty(new_table, leaks, others, hide, seed):
    """Beside any number of tasks that open and close, hidden or not, the leaky one is named, and no other."""
    rng = random.Random(seed)
    table = new_table(limit=100_000)
    watch = table.watch()
    runs = 0
    while True:
        name = rng.choice(["leaky", *map(str, range(others))])
        if name == "leaky":
            runs += 1
            for _ in range(leaks):
                table.holding_a_file(table.open) if hide else table.open()
        else:
            table.holding_a_file(nothing)
        found = watch.after(name, table.lowest())
        if found:
            assert [(each.task, each.what) for each in found] == [("leaky", PG)]
            return
        assert runs < 50
