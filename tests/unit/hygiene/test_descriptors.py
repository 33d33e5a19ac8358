"""Rule 2 of `DescriptorWatch`, gross leaks: which task leaves descriptors open at each run, and what is no leak."""

from __future__ import annotations

import random

import pytest

from poolrt.hygiene.findings import Finding, LeakKind
from poolrt.posix.descriptors import Descriptor

PG = "10.0.0.7:5432"


def nothing():
    pass


def test_a_socket_left_at_each_run_is_found_at_the_thirtieth(table):
    """The task, the peer and the numbers are in the Finding."""
    [(had, found)] = table.drive(40, ("shop.fetch", table.open))
    assert had == 30
    assert found == Finding(
        LeakKind.CONNECTIONS, "shop.fetch", PG, 30, 30,
        "leak: 30 of 30 runs of shop.fetch left a socket to 10.0.0.7:5432 open",
    )  # fmt: skip


@pytest.mark.parametrize("others", [2, 100])
def test_the_right_one_of_many_tasks_is_named(table, others):
    """A leaky task between innocent ones is found at its own thirtieth run."""
    innocent = [(f"t{i}", lambda: table.close(table.open())) for i in range(others)]
    found = table.drive(40 * (others + 1), *innocent, ("leaky", table.open))
    assert [(had, finding.task, finding.count) for had, finding in found] == [(30, "leaky", 30)]


def test_a_leak_that_hides_above_a_closed_number_is_found(table):
    """A run that connects while a file is open moves no lowest number, and is counted."""
    found = table.drive(50, ("t", lambda: table.holding_a_file(table.open)))
    assert [(had, finding.what) for had, finding in found] == [(30, PG)]


@pytest.mark.parametrize("late", [0, 7, 500])
def test_a_hidden_leak_that_begins_late_and_between_others_is_found(table, late):
    """Two counts are at most 64 runs apart; from the first growth on the right task is blamed."""
    watch = table.watch()
    quiet = [("a", nothing), ("b", lambda: table.holding_a_file(nothing))]
    assert table.drive(late, *quiet, watch=watch) == []
    found = table.drive(150, *quiet, ("leaky", lambda: table.holding_a_file(table.open)), watch=watch)
    assert [finding.task for _, finding in found] == ["leaky"]
    assert found[0][0] <= 30 + 64 / 3


def test_hidden_and_open_growth_are_told_apart(table):
    """A pool that grows beside a hidden leak is not blamed for it."""
    pool = []

    def warm():
        pool.append(table.open("socket", "pool:1"))
        for fd in pool:
            table.use(fd)

    found = table.drive(120, ("pool", warm), ("leaky", lambda: table.holding_a_file(table.open)))
    assert [(finding.task, finding.what) for _, finding in found] == [("leaky", PG)]


def test_holes_in_the_table_are_not_taken_for_leaks(table):
    """Numbers in use before the first run stay nobody's when the lowest free number jumps over them."""
    for fd in range(2, 6):
        table.close(fd)
    for fd in range(10, 30, 2):
        table.open_now[fd] = Descriptor(fd, "file", "/mapped", 1000 + fd)
    [(had, found)] = table.drive(45, ("t", table.open))
    assert had == 30
    assert found.reason == f"leak: 30 of 30 runs of t left a socket to {PG} open"


def test_what_was_open_above_a_hole_at_birth_is_nobodys(table):
    """A first run that hides a connection is not blamed for what it may be confused with; the following ones are."""
    table.open_now[200] = Descriptor(200, "file", "/mapped", 1000)
    [(had, found)] = table.drive(45, ("t", lambda: table.holding_a_file(table.open)))
    assert had == 30
    assert found.reason == f"leak: 29 of 30 runs of t left a socket to {PG} open"


def test_a_leak_into_numbers_that_were_in_use_before(table):
    """What another task opened and closed leaves no trace that hides it."""
    pool = []
    watch = table.watch()
    table.drive(40, ("pool", lambda: pool.append(table.open("socket", "pool:1"))), watch=watch)
    for fd in pool:
        table.close(fd)
    [(had, found)] = table.drive(32, ("t", table.open), watch=watch)
    assert had <= 31
    assert (found.task, found.what, found.count) == ("t", PG, 30)


def test_hidden_growth_between_two_counts_is_nobodys(table):
    """The task that happened to run before a count is not blamed for what the others did."""
    watch = table.watch()
    table.drive(200, ("a", nothing), watch=watch)
    table.drive(1, ("a", lambda: table.holding_a_file(table.open)), watch=watch)
    table.drive(70, ("b", nothing), watch=watch)
    assert watch._known[table.lowest() + 1] is None


def test_several_left_at_each_run(table):
    """All are counted, and the most frequent are named."""

    def leave():
        table.open("anon", "anon_inode:[eventpoll]")
        table.open("socket", "socketpair", written=None)
        table.open("socket", "socketpair", written=None)

    [(had, found)] = table.drive(50, ("t", leave))
    assert had == 30
    assert found.what == "socketpair"
    assert "of 30 runs of t left a socketpair (" in found.reason
    assert found.reason.endswith("others open")


@pytest.mark.parametrize(
    ("kind", "what", "said"),
    [
        ("file", "/etc/hostname", "a file /etc/hostname"),
        ("pipe", "pipe", "a pipe"),
        ("anon", "anon_inode:[eventfd]", "an anon_inode:[eventfd]"),
        ("directory", "/srv", "a directory /srv"),
    ],
)
def test_other_kinds_that_stay_open_are_leaks(table, kind, what, said):
    """A file or pipe has no use to be read: kept at each run is leaked."""
    [(had, found)] = table.drive(40, ("t", lambda: table.open(kind, what)))
    assert (had, found.kind, found.what) == (30, LeakKind.FILES, what)
    assert found.reason == f"leak: 30 of 30 runs of t left {said} open"


def test_different_files_are_named_by_their_directory(table):
    """Thirty temp files with names of their own are one leak."""
    names = iter(range(1000))
    [(_, found)] = table.drive(40, ("t", lambda: table.open("file", f"/tmp/tmp{next(names)} (deleted)")))
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

    assert table.drive(2 * peers, ("t", work)) == []


def test_a_leak_to_a_few_peers_in_turn_is_found(table):
    """Where no peer has most of them, their host is named."""
    turns = iter(range(10_000))
    [(had, found)] = table.drive(50, ("t", lambda: table.open("socket", f"[fd00::1]:{next(turns) % 5}")))
    assert had == 30
    assert (found.what, found.count) == ("[fd00::1]:*", 30)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("listening on 0.0.0.0:80", "a socket listening on 0.0.0.0:80"),
        ("unconnected tcp socket", "an unconnected tcp socket"),
        ("/run/pg.sock", "a socket to /run/pg.sock"),
        ("bound to 0.0.0.0:53/udp", "a socket bound to 0.0.0.0:53/udp"),
    ],
)
def test_sockets_are_said_as_they_are(table, what, said):
    """With and without a peer."""
    [(_, found)] = table.drive(40, ("t", lambda: table.open("socket", what, written=None)))
    assert f"left {said} open" in found.reason


def test_a_reset_connection_is_named_by_the_peer_it_had(table):
    """A server that closed its end does not take the name away."""
    fds = []

    def leave():
        for fd in fds:
            table.open_now[fd] = table.open_now[fd]._replace(what="unconnected tcp socket")
        fds.append(table.open())

    [(_, found)] = table.drive(40, ("t", leave))
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

    assert table.drive(400, ("t", work)) == []
    assert sum(n > 1 for n in table.scans) <= 6


def test_a_pool_of_which_only_the_first_is_used_is_a_leak(table):
    """Twenty-nine connections that nobody used again."""
    pool = []

    def work():
        if pool:
            table.use(pool[0])
        pool.append(table.open())

    [(_, found)] = table.drive(40, ("t", work))
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

    assert table.drive(100, ("t", work)) == []


def test_a_run_that_leaves_none_ends_the_row(table):
    """Twenty-nine runs in a row are no gross leak yet."""
    runs = iter(range(10_000))

    def work():
        if next(runs) % 30:
            table.open()

    assert table.drive(180, ("t", work)) == []


def test_what_the_collector_closes_is_no_leak(table):
    """Connections in garbage cycles are closed before the verdict, and near the limit too; told is who closed them."""
    found = table.drive(2000, ("t", lambda: table.garbage.append(table.open())))
    assert {finding.key for _, finding in found} == {(LeakKind.UNCLOSED, "t", PG)}
    assert found[0][1].reason == f"30 times a socket to {PG} of t was closed only by the garbage collector"
    assert len(found) < 10, "again only when there is as much of it again"
    assert sum(finding.count for _, finding in found) <= 2000
    assert sum(finding.runs for _, finding in found) <= 2000
    assert table.most < 800


def test_a_leak_that_goes_on_is_said_again_when_the_row_has_doubled(table):
    """An operator who only wants warnings gets few."""
    found = table.drive(300, ("t", table.open))
    assert [had for had, _ in found] == [30, 60, 120, 240]
    assert [(finding.count, finding.runs) for _, finding in found] == [(30, 30), (30, 30), (60, 60), (120, 120)]


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

    found = table.drive(120, ("t", work))
    assert found[0][0] == 45 + 30


def test_what_appears_among_missed_runs_is_nobodys(table):
    """It may be any of theirs: nobody is blamed, and each of the next runs is to be looked at; longer each time."""
    watch = table.watch()
    table.drive(200, ("good", lambda: None), watch=watch)
    assert not watch.wants_each
    wanted = []
    for _ in range(2):
        table.open("socket", "db:5432")
        watch.missed(["bad", "good"], table.lowest())
        wanted.append(0)
        while watch.wants_each:
            assert watch.after("good", table.lowest()) is None
            wanted[-1] += 1
    assert wanted[1] > 1.5 * wanted[0] > 60
    found = table.drive(60, ("bad", lambda: table.open("socket", "db:5432")), watch=watch)
    assert [(ran, finding.task, finding.count) for ran, finding in found] == [(30, "bad", 30), (60, "bad", 30)]


def test_missed_runs_end_a_row(table):
    """Thirty runs in a row that leave something are no row if others came between that left nothing."""
    watch = table.watch()
    for _ in range(40):
        table.drive(20, ("bad", lambda: table.open("socket", "db:5432")), watch=watch)
        watch.missed(["bad"], table.lowest())
        assert not [finding for finding in watch.after("bad", table.lowest()) or () if "20 of 20" in finding.reason]
