"""Rules 3 and 4 of `DescriptorWatch`: leaks of now and then, connections whose peers have gone, what is said again."""

from __future__ import annotations

import itertools
import random

import pytest

from poolrt.hygiene.findings import LeakKind

PG = "10.0.0.7:5432"


def nothing():
    pass


def sometimes(table, share, do, seed=1):
    """A task that does it in about this share of its runs."""
    rng = random.Random(seed)
    return lambda: do() if rng.random() < share else None


def use_or_grow(table, most, every, what=PG, **how):
    """A pool that grows by one in so many runs, of which each run uses one."""
    pool, runs, rng = [], itertools.count(), random.Random(5)

    def work():
        if next(runs) % every == 0 and len(pool) < most:
            pool.append(table.open("socket", what, **how))
        if how.get("written", 0) is not None:
            table.use(rng.choice(pool))

    return work


@pytest.mark.parametrize("share", [0.1, 0.02, 0.005])
@pytest.mark.parametrize("seed", range(5))
def test_a_leak_of_now_and_then_is_named(table, share, seed):
    """Between a pool and temp files: the task, the peer, how many, in how many runs."""
    pool = use_or_grow(table, 20, 100)
    files = lambda: table.close(table.open("file", "/tmp/x"))  # noqa: E731
    watch = table.watch()
    found = []
    leak = sometimes(table, share, table.open, seed)
    had = 0
    while not found:
        had += 1
        found = table.drive(3, ("pool", pool), ("files", files), ("leaky", leak), watch=watch)
    [(_, finding)] = found
    assert finding.key == (LeakKind.CONNECTIONS, "leaky", PG)
    assert had <= 300 + 20 / share
    assert finding.count >= 5
    assert finding.runs in {had - 1, had}, "it may be told after a run of another task"
    assert finding.reason == (
        f"leak: {finding.count} of {finding.runs} runs of leaky left a socket to {PG} open, not used since"
    )


def test_its_own_pool_to_the_same_peer_does_not_hide_it(table):
    """As many more have to leak as its pool has."""
    pool = use_or_grow(table, 10, 1)
    leak = sometimes(table, 0.05, table.open)

    def work():
        pool()
        leak()

    found = table.drive(3000, ("t", work))
    assert found[0][1].key == (LeakKind.CONNECTIONS, "t", PG)
    assert found[0][1].count >= 15


@pytest.mark.parametrize(
    ("kind", "what", "how", "needs"),
    [
        ("socket", PG, {}, 5),
        ("file", "/etc/hostname", {}, 30),
        ("file", "/etc/hostname", {"read": 7}, 10),
        ("file", "/tmp/#{} (deleted)", {}, 30),
        ("socket", "listening on 127.0.0.1:{}", {"written": None}, 30),
        ("socket", "/run/pg.sock", {"written": None}, 30),
        ("pipe", "pipe", {}, 30),
    ],
)
def test_it_takes_more_of_what_tells_less_of_its_use(table, kind, what, how, needs):
    """Five of TCP, ten files that were read, thirty of others; names of their own are said by their part."""
    numbers = itertools.count()
    found = table.drive(
        6000, ("t", sometimes(table, 0.02, lambda: table.open(kind, what.format(next(numbers)), **how)))
    )
    assert found[0][1].what == what.replace("#{} (deleted)", "*").replace("{}", "*")
    assert needs <= found[0][1].count <= 2 * needs + 5


def test_files_with_a_path_each_are_a_cache(table):
    """One more at each run, to 400, then hits."""
    numbers = iter(range(400))

    def work():
        if (number := next(numbers, None)) is not None:
            table.open("file", f"/srv/part-{number}")

    assert table.drive(2000, ("t", work)) == []


def test_so_many_files_with_a_path_each_are_a_leak(new_table):
    """From 512 in a row on."""
    table = new_table(limit=100_000)
    numbers = itertools.count()
    [(had, found)] = table.drive(1000, ("t", lambda: table.open("file", f"/srv/part-{next(numbers)}")))
    assert (had, found.key) == (960, (LeakKind.FILES, "t", "/srv/*"))


@pytest.mark.parametrize("how", [{}, {"written": None}], ids=["tcp", "unix"])
def test_a_pool_that_grows_now_and_then_is_innocent(table, how):
    """To 28 connections, each told as used, or telling nothing."""
    assert table.drive(8000, ("t", use_or_grow(table, 28, 100, **how)), ("other", nothing)) == []


def test_a_connection_that_is_only_read_is_in_use(table):
    """Subscriptions: nothing is written, but what comes is read."""
    kept, runs, rng = [], itertools.count(), random.Random(5)

    def work():
        if next(runs) % 60 == 0 and len(kept) < 20:
            kept.append(table.open(read=0))
        fd = rng.choice(kept)
        table.open_now[fd] = table.open_now[fd]._replace(read=table.open_now[fd].read + 1)

    assert table.drive(4000, ("t", work)) == []


def test_what_is_opened_in_advance_is_innocent(table):
    """Ten connections in the first runs, never used, and one that is replaced again and again."""
    first, runs, own = iter(range(10)), itertools.count(), []

    def work():
        if next(first, None) is not None:
            table.open()
        if next(runs) % 70 == 0:
            if own:
                table.close(own.pop())
            own.append(table.open())
        table.use(own[0])

    assert table.drive(3000, ("t", work)) == []


def test_a_cache_that_closes_its_oldest_is_innocent(table):
    """It fills up at once; then one in 40 runs is replaced, mostly long after its last use."""
    kept, runs = [], itertools.count()

    def work():
        if len(kept) < 20 or next(runs) % 40 == 0:
            kept.append(table.open())
        if len(kept) > 20:
            table.close(kept.pop(0))

    assert table.drive(8000, ("t", work)) == []


@pytest.mark.parametrize("seed", range(5))
def test_a_connection_of_each_customer_is_innocent(table, seed):
    """To one server: the n-th of 150 comes 1/n as often as the first, so most are unused for long."""
    rng = random.Random(seed)
    kept = {}

    def work():
        (customer,) = rng.choices(range(150), [1 / n for n in range(1, 151)])
        if customer in kept:
            table.use(kept[customer])
        else:
            kept[customer] = table.open()

    assert table.drive(6000, ("t", work)) == []


def test_what_was_closed_counts_once(new_table):
    """A pool that its task has closed excuses as many leaks, not as many again at each judgement."""
    table = new_table(holds=60)
    watch = table.watch()
    pool = []
    table.drive(1, ("t", lambda: pool.extend(table.open() for _ in range(10))), watch=watch)
    for fd in [*range(3, 50), *pool]:  # the leaks take the lower numbers, and never come to those of the pool
        table.close(fd)
    found = table.drive(6000, ("t", sometimes(table, 0.02, table.open)), watch=watch)
    assert 15 <= found[0][1].count <= 25


def test_a_leak_under_a_number_that_was_closed_is_seen(table):
    """What is closed is forgotten, also where its number is not the lowest."""
    watch = table.watch()
    pool = []
    assert table.drive(30, ("pool", lambda: pool.append(table.open("file", "/srv/x"))), watch=watch)[1:] == []
    for fd in pool[10:]:
        table.close(fd)
    found = table.drive(3000, ("t", sometimes(table, 0.05, table.open)), watch=watch)
    assert found[0][1].key == (LeakKind.CONNECTIONS, "t", PG)
    assert found[0][0] < 600


def test_said_again_when_it_has_doubled_and_only_what_is_new(table):
    """Under ``warn`` the sum of counts is what leaked, the sum of runs is what ran."""
    left = itertools.count()

    def leak():
        next(left)
        table.open()

    found = [finding for _, finding in table.drive(20_000, ("t", sometimes(table, 0.02, leak)))]
    counts = [finding.count for finding in found]
    assert 3 <= len(found) <= 10
    assert all(later >= sum(counts[: n + 1]) for n, later in enumerate(counts[1:]))
    assert sum(counts) <= next(left)
    assert sum(finding.runs for finding in found) <= 20_000
    assert table.collections <= 2 * len(found) + 1, "none for what is not about to be said"


@pytest.mark.parametrize("share", [1.0, 0.1, 0.02])
def test_its_rate_is_the_truth_from_the_first_finding_on(table, share):
    """What is too young for evidence is counted as well once it is known that such things leak."""
    watch = table.watch()
    left, count, runs, told = itertools.count(), 0, 0, 0

    def leak():
        next(left)
        table.open()

    task = ("t", sometimes(table, share, lambda: table.holding_a_file(leak)))
    for _ in range(6000):
        for _, finding in table.drive(1, task, watch=watch):
            count, runs, told = count + finding.count, runs + finding.runs, told + 1
            truth = share * runs
            assert truth / 1.2 <= count + 1, f"finding {told}"
            assert count <= max(1.2 * truth, truth + 4 * truth**0.5)
        if told == 4 or len(table.open_now) > 600:
            break
    assert told >= 3
    more = sum(finding.count for _, finding in table.drive(100, ("t", nothing), watch=watch))
    (rest,) = watch.rest()
    assert (rest.task, rest.runs) == ("t", watch._ran["t"])
    unsaid, since = rest.of(LeakKind.CONNECTIONS, PG)
    assert 0 <= next(left) - (count + more + unsaid) <= 5, "those hidden before the first count are nobody's"
    assert more or runs + since == rest.runs


def test_what_a_child_that_leaves_has_not_told(table):
    """How often each task ran, and what it left so far; what was used is none of it."""
    watch = table.watch()
    pool = use_or_grow(table, 1, 1, "pool:1")
    first = iter(range(3))
    leak = lambda: table.open() if next(first, None) is not None else None  # noqa: E731
    assert table.drive(40, ("good", pool), ("bad", leak), watch=watch) == []
    rest = {each.task: each for each in watch.rest()}
    assert {task: each.runs for task, each in rest.items()} == {"good": 20, "bad": 20}
    assert rest["good"].since == []
    assert sorted(rest["bad"].since) == [
        (LeakKind.CONNECTIONS, "10.0.0.7:*", 3, 20), (LeakKind.CONNECTIONS, PG, 3, 20),
    ]  # fmt: skip
    assert table.collections == 0


def test_a_judgement_takes_a_twentieth_of_the_time(table):
    """Where a look at each descriptor takes 1 ms, as long as a run, a pool that grows is judged a few times."""
    real = table.scan

    def dear(numbers=None):
        found = real(numbers)
        table.now += 0.001 * table.scans[-1]
        return found

    table.scan = dear
    assert table.drive(3000, ("t", use_or_grow(table, 100, 20))) == []
    assert sum(table.scans) < 100 + 0.1 * 3000


# ---- peers that have gone


def lose_peer(table, fd):
    table.open_now[fd] = table.open_now[fd]._replace(peer_gone=True)


def test_connections_whose_peer_has_gone_are_counted_after_a_minute(table):
    """By task and peer, once; those of which one is kept are a client's own affair."""
    watch = table.watch()
    mine = [table.open() for _ in range(0)]
    for what in (PG, PG, PG, "10.0.0.9:443"):
        table.drive(1, ("t", lambda what=what: mine.append(table.open("socket", what))), watch=watch)
    for fd in mine:
        lose_peer(table, fd)
    assert table.drive(100, ("other", nothing), watch=watch) == []
    table.now += 30
    assert table.drive(100, ("other", nothing), watch=watch) == []
    told = []
    for _ in range(12):
        table.now += 30
        told += [found for found in (watch.after("other", table.lowest()) for _ in range(70)) if found]
    [[finding]] = told
    assert finding.key == (LeakKind.CLOSE_WAIT, "t", PG)
    assert finding.count == 3
    assert finding.reason == f"3 connections of t to {PG} are open, a minute after the peer closed them"


def test_connections_that_are_closed_in_time_are_none(table):
    """A client that comes back within a minute sees the end, and closes."""
    watch = table.watch()
    mine = []
    table.drive(1, ("t", lambda: mine.extend([table.open(), table.open()])), watch=watch)
    for fd in mine:
        lose_peer(table, fd)
    for step in range(8):
        table.now += 25
        if step == 1:
            for fd in mine:
                table.close(fd)
        assert table.drive(70, ("other", nothing), watch=watch) == []


def test_runs_that_take_long_are_counted_more_often(table):
    """Of tasks of ten seconds each one is counted, not one in 64."""
    watch = table.watch()
    table.drive(200, ("t", nothing), watch=watch)
    before = table.counts
    for _ in range(200):
        table.now += 10
        table.drive(1, ("t", nothing), watch=watch)
    assert table.counts - before > 60


@pytest.mark.parametrize("often", [1, 5])
def test_a_leak_whose_peers_have_gone_says_so(table, often):
    """It is one of connections, found long before the minute is over: with the number that are in CLOSE_WAIT."""
    runs = iter(range(10_000))

    def work():
        run = next(runs)
        if run % often == 0:
            fd = table.open()
            if run % (2 * often) == 0:
                lose_peer(table, fd)

    finding = table.drive(1000, ("t", work))[0][1]
    assert finding.kind == LeakKind.CONNECTIONS
    assert finding.reason.endswith(f"; the peer has closed {(finding.count + 1) // 2} of them (CLOSE_WAIT)")
