from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolrt.hygiene.descriptors import DescriptorWatch, Finding
from poolrt.posix.descriptors import Descriptor

PG = "10.0.0.7:5432"


class Table:
    """A descriptor table as the kernel keeps it: the lowest free number first, and a new inode for each."""

    def __init__(self, holds: int = 8, limit: int = 1024) -> None:
        self.limit = limit
        self.open_now: dict[int, Descriptor] = {}
        self.garbage: list[int] = []
        self.scans: list[int] = []
        self.counts = 0
        self.most = 0
        self.inodes = 0
        self.now = 0.0
        for _ in range(holds):
            self.open("file", "/app")

    def open(self, kind: str = "socket", what: str = PG, *, written: int | None = 0, idle: float | None = None) -> int:
        """A new descriptor; OSError when there is no number left, as a task would meet it."""
        fd = self.lowest()
        if fd == self.limit:
            raise OSError("EMFILE")
        self.inodes += 1
        if kind != "socket":
            written = None
        self.open_now[fd] = Descriptor(fd, kind, what, self.inodes, idle, written)
        self.most = max(self.most, len(self.open_now))
        return fd

    def close(self, fd: int) -> None:
        del self.open_now[fd]

    def use(self, fd: int) -> None:
        seen = self.open_now[fd]
        if seen.written is None:
            self.open_now[fd] = seen._replace(idle=0.0)
        else:
            self.open_now[fd] = seen._replace(written=seen.written + 10)

    def lowest(self) -> int:
        return next(fd for fd in range(self.limit + 1) if fd not in self.open_now)

    def scan(self, numbers=None):
        numbers = sorted(self.open_now) if numbers is None else list(numbers)
        self.scans.append(len(numbers))
        return [self.open_now[fd] for fd in numbers if fd in self.open_now]

    def count(self) -> int:
        self.counts += 1
        return len(self.open_now)

    def collect(self) -> None:
        for fd in self.garbage:
            self.close(fd)
        self.garbage.clear()

    def clock(self) -> float:
        return self.now

    def watch(self) -> DescriptorWatch:
        return DescriptorWatch(self.limit, self.lowest(), self.scan, self.clock, count=self.count, collect=self.collect)


@pytest.fixture
def table():
    """A table with eight descriptors of the process's own."""
    return Table()


def drive(table, runs, *tasks, watch=None):
    """Run tasks in turn, ``(name, function)``; the findings, each with the number of runs its task had by then."""
    watch = watch or table.watch()
    had = dict.fromkeys((name for name, _ in tasks), 0)
    found = []
    for run in range(runs):
        name, function = tasks[run % len(tasks)]
        function()
        had[name] += 1
        table.now += 0.001
        finding = watch.after(name, table.lowest())
        if finding:
            found.append((had[finding.task], finding))
    return found


def nothing():
    pass


def holding_a_file(table, function):
    """A run that calls ``function`` while a temp file is open: what stays open hides above the file's number."""
    fd = table.open("file", "/tmp/x")
    function()
    table.close(fd)


def test_a_socket_left_at_each_run_is_found_at_the_thirtieth(table):
    """The task, the peer and the numbers are in the Finding."""
    [(had, found)] = drive(table, 40, ("shop.fetch", table.open))
    assert had == 30
    assert found == Finding(
        "shop.fetch", "socket", PG, 30, 30,
        "leak: 30 of 30 runs of shop.fetch left a socket to 10.0.0.7:5432 open",
    )  # fmt: skip


@pytest.mark.parametrize("others", [2, 100])
def test_the_right_one_of_many_tasks_is_named(table, others):
    """A leaky task between innocent ones is found at its own thirtieth run."""
    innocent = [(f"t{i}", lambda: table.close(table.open())) for i in range(others)]
    found = drive(table, 40 * (others + 1), *innocent, ("leaky", table.open))
    assert [(had, finding.task, finding.count) for had, finding in found] == [(30, "leaky", 30)]


def test_a_leak_that_hides_above_a_closed_number_is_found(table):
    """A run that connects while a file is open moves no lowest number, and is counted."""
    found = drive(table, 50, ("t", lambda: holding_a_file(table, table.open)))
    assert [(had, finding.what) for had, finding in found] == [(30, PG)]


@pytest.mark.parametrize("late", [0, 7, 500])
def test_a_hidden_leak_that_begins_late_and_between_others_is_found(table, late):
    """Two counts are at most 32 runs apart; from the first growth on the right task is blamed."""
    watch = table.watch()
    quiet = [("a", nothing), ("b", lambda: holding_a_file(table, nothing))]
    assert drive(table, late, *quiet, watch=watch) == []
    found = drive(table, 150, *quiet, ("leaky", lambda: holding_a_file(table, table.open)), watch=watch)
    assert [finding.task for _, finding in found] == ["leaky"]
    assert found[0][0] <= 50


def test_hidden_and_open_growth_are_told_apart(table):
    """A pool that grows beside a hidden leak is not blamed for it."""
    pool = []

    def warm():
        pool.append(table.open("socket", "pool:1"))
        for fd in pool:
            table.use(fd)

    found = drive(table, 120, ("pool", warm), ("leaky", lambda: holding_a_file(table, table.open)))
    assert [(finding.task, finding.what) for _, finding in found] == [("leaky", PG)]


def test_holes_in_the_table_are_not_taken_for_leaks(table):
    """Numbers in use before the first run stay nobody's when the lowest free number jumps over them."""
    for fd in range(2, 6):
        table.close(fd)
    for fd in range(10, 30, 2):
        table.open_now[fd] = Descriptor(fd, "file", "/mapped", 1000 + fd)
    [(had, found)] = drive(table, 45, ("t", table.open))
    assert had == 30
    assert (found.what, found.count) == (PG, 30)


def test_several_left_at_each_run(table):
    """All are counted, and the most frequent are named."""

    def leave():
        table.open("anon", "anon_inode:[eventpoll]")
        table.open("socket", "socketpair", written=None)
        table.open("socket", "socketpair", written=None)

    [(had, found)] = drive(table, 50, ("t", leave))
    assert had == 30
    assert found.what == "socketpair"
    assert "of 30 runs of t left a socketpair (" in found.reason
    assert found.reason.endswith("others open")


@pytest.mark.parametrize("kind", ["file", "pipe", "anon", "directory"])
def test_other_kinds_that_stay_open_are_leaks(table, kind):
    """A file or pipe has no use to be read: kept at each run is leaked."""
    [(had, found)] = drive(table, 40, ("t", lambda: table.open(kind, "x")))
    assert (had, found.kind, found.what) == (30, kind, "x")


def test_different_files_are_named_by_their_directory(table):
    """Thirty temp files with names of their own are one leak."""
    names = iter(range(1000))
    [(_, found)] = drive(table, 40, ("t", lambda: table.open("file", f"/tmp/tmp{next(names)} (deleted)")))
    assert (found.what, found.count) == ("/tmp/*", 30)
    assert found.reason == "leak: 30 of 30 runs of t left a file /tmp/* open"


@pytest.mark.parametrize("peers", [40, 200])
def test_one_connection_kept_to_each_peer_is_innocent(table, peers):
    """Also while the first round is made, when none was used again."""
    kept = {}
    turns = iter(range(10_000))

    def work():
        peer = f"10.0.0.{next(turns) % peers}:443"
        if peer in kept:
            table.use(kept[peer])
        else:
            kept[peer] = table.open("socket", peer)

    assert drive(table, 2 * peers, ("t", work)) == []


def test_a_leak_to_a_few_peers_in_turn_is_found(table):
    """Where no peer has most of them, their host is named."""
    turns = iter(range(10_000))
    [(had, found)] = drive(table, 50, ("t", lambda: table.open("socket", f"[fd00::1]:{next(turns) % 5}")))
    assert had == 30
    assert (found.what, found.count) == ("[fd00::1]:*", 30)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("listening on 0.0.0.0:80", "a socket listening on 0.0.0.0:80"),
        ("unconnected tcp socket", "a unconnected tcp socket"),
        ("/run/pg.sock", "a socket to /run/pg.sock"),
        ("bound to 0.0.0.0:53/udp", "a socket bound to 0.0.0.0:53/udp"),
    ],
)
def test_sockets_are_said_as_they_are(table, what, said):
    """With and without a peer."""
    [(_, found)] = drive(table, 40, ("t", lambda: table.open("socket", what, written=None)))
    assert f"left {said} open" in found.reason


def test_a_reset_connection_is_named_by_the_peer_it_had(table):
    """A server that closed its end does not take the name away."""
    fds = []

    def leave():
        for fd in fds:
            table.open_now[fd] = table.open_now[fd]._replace(what="unconnected tcp socket")
        fds.append(table.open())

    [(_, found)] = drive(table, 40, ("t", leave))
    assert found.what == PG


@pytest.mark.parametrize("draws", ["all", "one", "newest"])
@pytest.mark.parametrize("counts", [True, False], ids=["written", "idle"])
def test_a_pool_that_grows_by_one_a_run_is_innocent(table, draws, counts):
    """To 200 connections, whichever of the older ones a run uses; told by bytes or by idle time; at a few looks."""
    pool = []
    rng = random.Random(7)

    def work():
        table.now += 0.05
        for fd in pool:
            seen = table.open_now[fd]
            table.open_now[fd] = seen._replace(idle=seen.idle + 0.051 if seen.idle is not None else None)
        if draws == "one" and pool:
            table.use(rng.choice(pool))
        elif draws == "all":
            for fd in pool:
                table.use(fd)
        elif pool:
            table.use(pool[-1])
        if len(pool) < 200:
            pool.append(table.open(written=0 if counts else None, idle=None if counts else 0.0))

    assert drive(table, 400, ("t", work)) == []
    assert sum(n > 1 for n in table.scans) <= 3


def test_a_pool_of_which_only_the_first_is_used_is_a_leak(table):
    """Twenty-nine connections that nobody used again."""
    pool = []

    def work():
        if pool:
            table.use(pool[0])
        pool.append(table.open())

    [(_, found)] = drive(table, 40, ("t", work))
    assert (found.count, found.runs) == (29, 30)
    assert found.reason.startswith("leak: 29 of 30 runs")


def test_a_number_given_to_another_one_is_no_evidence(table):
    """Connections that were replaced under the same numbers were closed by somebody, so none of them leaked."""
    pool = []

    def work():
        for fd in pool:
            table.close(fd)
            assert table.open() == fd
        pool.append(table.open())

    assert drive(table, 100, ("t", work)) == []


def test_a_run_that_leaves_none_ends_the_row(table):
    """Twenty-nine runs in a row are no leak yet."""
    runs = iter(range(10_000))

    def work():
        if next(runs) % 30:
            table.open()

    assert drive(table, 600, ("t", work)) == []


def test_what_the_collector_closes_is_no_leak(table):
    """Connections in garbage cycles are closed before the verdict, and near the limit too."""
    assert drive(table, 2000, ("t", lambda: table.garbage.append(table.open()))) == []
    assert table.most < 800


def test_a_leak_that_goes_on_is_said_again_when_the_row_has_doubled(table):
    """An operator who only wants warnings gets few."""
    found = drive(table, 300, ("t", table.open))
    assert [had for had, _ in found] == [30, 60, 120, 240]


def test_after_an_innocent_row_the_patience_shrinks_again(table):
    """A task that was judged innocent, then leaks, is still found by rule 2."""
    pool, leaks = [], iter(range(10_000))

    def work():
        for fd in pool:
            table.use(fd)
        run = next(leaks)
        if run < 40:
            pool.append(table.open())
        elif run >= 45:
            table.open()

    found = drive(table, 120, ("t", work))
    assert [had for had, _ in found][0] == 45 + 30


# ---- near the limit


def test_no_run_meets_the_limit():
    """At 70 % the child is told, by task and peer, though no task leaks at each of its runs."""
    table = Table(limit=256)
    runs = iter(range(10_000))

    def sometimes():
        if next(runs) % 3 == 0:
            table.open()

    watch = table.watch()
    found = []
    while not found:
        found = drive(table, 2, ("other", nothing), ("t", sometimes), watch=watch)
    [(_, finding)] = found
    assert 179 < table.most < 256
    assert (finding.task, finding.kind, finding.what) == ("t", "socket", PG)
    assert finding.count == finding.runs
    assert finding.reason.startswith("near the limit: 180 of 256 descriptors are open; t left most, ")
    assert finding.reason.endswith(f"{finding.count} times a socket to {PG}")


@pytest.mark.parametrize("hidden", [False, True])
def test_the_worst_run_is_expected_again(hidden):
    """Where one more run like the worst would reach the limit, the child is told before 70 %."""
    table = Table(limit=256)

    def grab():
        for _ in range(125):
            table.open()

    work = grab if not hidden else lambda: holding_a_file(table, grab)
    watch = table.watch()
    work()
    finding = watch.after("t", table.lowest())
    assert finding is not None
    assert finding.reason.startswith("near the limit: 133 of 256")


def test_where_nothing_can_be_read_the_limit_is_still_watched():
    """Without /proc there is the count, the numbers and the last task's name."""
    table = Table(limit=100)
    watch = DescriptorWatch(
        table.limit, table.lowest(), lambda numbers: [], table.clock, count=table.count, collect=table.collect
    )
    found = drive(table, 70, ("t", table.open), watch=watch)
    assert found[0][1] == Finding("t", "", "", 71, 1, "near the limit: 71 of 100 descriptors are open; t ran last")
    assert len(found) == 1


def test_near_the_limit_is_said_again_when_half_the_rest_is_gone():
    """Not at each run."""
    table = Table(limit=256)
    odd = iter(range(10_000))
    found = drive(table, 480, ("t", lambda: next(odd) % 2 and table.open()))
    assert 3 <= len(found) <= 6


def test_a_table_that_was_nearly_full_at_birth_is_told_at_once():
    """It cannot be blamed on a task, but the operator hears of it."""
    table = Table(holds=95, limit=100)
    [(_, finding)] = drive(table, 10, ("t", nothing))
    assert finding.reason == "near the limit: 95 of 100 descriptors are open; t ran last"


# ---- cost


def test_a_quiet_run_reads_nothing(table):
    """10,000 runs that leave nothing: one count in 32, and no scan."""
    assert drive(table, 10_000, ("a", nothing), ("b", lambda: table.close(table.open()))) == []
    assert table.counts < 10_000 / 32 + 10
    assert table.scans == []


def test_counting_each_run_ends_where_it_is_dear(table):
    """Where a count takes 1 ms, a hidden growth is followed by two counted runs, not by hundreds."""
    real = table.count

    def dear():
        table.now += 0.001
        return real()

    watch = DescriptorWatch(table.limit, table.lowest(), table.scan, table.clock, count=dear, collect=table.collect)
    drive(table, 100, ("a", nothing), watch=watch)
    before = table.counts
    drive(table, 1, ("a", lambda: holding_a_file(table, table.open)), watch=watch)
    drive(table, 99, ("a", nothing), watch=watch)
    assert table.counts - before <= 7


# ---- any program

SEEDS = st.integers(0, 10_000)  # drawn choices would be shrunk to the first one for ever
ACTIONS = st.sampled_from(["nothing", "temp", "open", "close", "hide", "hide 3", "open 2", "replace", "use", "cycle"])


class Program:
    """What a task of a generated program does to the table in one run."""

    def __init__(self, table: Table) -> None:
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
                holding_a_file(table, lambda: mine.append(table.open("socket", "pool:1")))
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
def test_no_program_reaches_the_limit(tasks, leaks, hide, seed):
    """Whatever tasks do, mixed at random: a Finding (a recycling) comes before a run meets EMFILE."""
    rng = random.Random(seed)
    table = Table(limit=128)
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
def test_a_bounded_pool_beside_any_other_is_innocent(actions, seed):
    """A pool of at most 25 connections, opened, hidden, replaced and used in any order, is never a leak."""
    rng = random.Random(seed)
    table = Table()
    program = Program(table)
    watch = table.watch()
    for _ in range(400):
        action = rng.choice(actions)
        if action in {"open", "hide"} and len(program.mine) >= 25:
            action = "use"
        program.act(action)
        assert watch.after(rng.choice("ab"), table.lowest()) is None


@given(st.integers(1, 3), st.integers(0, 6), st.booleans(), SEEDS)
def test_a_leak_at_each_run_is_named_within_fifty(leaks, others, hide, seed):
    """Beside any number of tasks that open and close, hidden or not, the leaky one is named, and no other."""
    rng = random.Random(seed)
    table = Table(limit=100_000)
    watch = table.watch()
    runs = 0
    while True:
        name = rng.choice(["leaky", *map(str, range(others))])
        if name == "leaky":
            runs += 1
            for _ in range(leaks):
                holding_a_file(table, table.open) if hide else table.open()
        else:
            holding_a_file(table, nothing)
        found = watch.after(name, table.lowest())
        if found:
            assert (found.task, found.what) == ("leaky", PG)
            return
        assert runs < 50
