"""Sessions left in a transaction: rolled back, told, and what is let be."""

from __future__ import annotations

import gc
import os
import sqlite3
import sys
import threading
import types

import pytest

from poolrt.hygiene.findings import LeakKind
from poolrt.hygiene.pools.checked_out import CheckedOut
from poolrt.hygiene.pools.taken import Taken
from poolrt.hygiene.transactions import TransactionWatch

PEER = "db.example:5432/shop"
IDLE, ACTIVE, IN_TRANSACTION, IN_ERROR, UNKNOWN = range(5)


class Session(Taken):
    """A session of a driver that tells libpq's status."""

    def __init__(self, status: int, rolls_back: object) -> None:
        super().__init__()
        self.info = types.SimpleNamespace(transaction_status=status)
        self.rolls_back = rolls_back

    def what(self) -> str:
        """The peer."""
        return PEER

    def driver(self) -> object:
        """Itself."""
        return self

    def roll_back(self) -> bool:
        """As it was made to."""
        if isinstance(self.rolls_back, Exception):
            raise self.rolls_back
        if self.rolls_back:
            self.info.transaction_status = IDLE
        return bool(self.rolls_back)


@pytest.fixture
def out():
    """What is checked out; no library is followed when the test is over."""
    made = CheckedOut()
    yield made
    made.close()


@pytest.fixture
def leave(out):
    """``leave(status)``: a session that stays out of its pool."""

    def do(status=IN_TRANSACTION, *, rolls_back=True):
        session = Session(status, rolls_back)
        out.take(session, session)
        return session

    return do


@pytest.mark.parametrize("status", [IN_TRANSACTION, IN_ERROR])
def test_a_session_in_a_transaction_is_rolled_back_and_told_at_once(out, leave, status):
    """At each run that leaves it there, with the runs since the last time."""
    watch = TransactionWatch(out)
    assert watch.look({"pay": 1}) == []
    session = leave(status)
    (found,) = watch.look({"pay": 1})
    assert (found.kind, found.task, found.what, found.count, found.runs) == (
        LeakKind.TRANSACTIONS, "pay", PEER, 1, 2,
    )  # fmt: skip
    assert found.reason == f"2 runs of pay left a session of {PEER} in a transaction; it was rolled back"
    assert session.info.transaction_status == IDLE
    assert watch.look({"pay": 1}) == []
    session.info.transaction_status = status
    assert [each.runs for each in watch.look({"pay": 1})] == [2]


@pytest.mark.parametrize("status", [IDLE, ACTIVE, UNKNOWN])
def test_any_other_status_is_none_of_ours(out, leave, status):
    """A query that runs now is someone's; a closed session has no transaction."""
    watch = TransactionWatch(out)
    session = leave(status)
    assert watch.look({"pay": 1}) == []
    assert session.info.transaction_status == status


def test_one_that_was_open_before_the_first_run_is_let_be(out, leave):
    """Until it has been out of that transaction once."""
    session = leave()
    watch = TransactionWatch(out)
    assert watch.look({"pay": 1}) == []
    assert session.info.transaction_status == IN_TRANSACTION
    session.info.transaction_status = IDLE
    assert watch.look({"pay": 1}) == []
    session.info.transaction_status = IN_TRANSACTION
    assert len(watch.look({"pay": 1})) == 1


def test_one_that_a_running_thread_has_taken_is_in_use(out):
    """Rolled back it is when the thread has ended."""
    watch = TransactionWatch(out)
    taken, go = threading.Event(), threading.Event()
    sessions = []

    def work():
        sessions.append(Session(IN_TRANSACTION, True))
        out.take("key", sessions[0])
        taken.set()
        go.wait()

    thread = threading.Thread(target=work)
    thread.start()
    taken.wait()
    try:
        assert watch.look({"pay": 1}) == []
        assert sessions[0].info.transaction_status == IN_TRANSACTION
    finally:
        go.set()
        thread.join()
    assert len(watch.look({"pay": 1})) == 1


@pytest.mark.parametrize(
    ("rolls_back", "words"),
    [
        (False, "it is another thread's or event loop's, and was let be"),
        (RuntimeError("the server has gone\nsince"), "it could not be rolled back: RuntimeError: the server has gone"),
    ],
)
def test_one_that_cannot_be_rolled_back_is_told_once(out, leave, rolls_back, words):
    """With the reason, in one line."""
    watch = TransactionWatch(out)
    leave(rolls_back=rolls_back)
    (found,) = watch.look({"pay": 1})
    assert found.reason.endswith(f"in a transaction; {words}")
    assert watch.look({"pay": 1}) == []


def test_several_tasks_since_the_last_look_are_told_apart_by_single_looks(out, leave):
    """The session is rolled back at once, and told when it is known whose it is."""
    watch = TransactionWatch(out)
    session = leave()
    assert watch.look({"pay": 2, "ship": 1}) == []
    assert session.info.transaction_status == IDLE
    assert watch.wants_each
    assert watch.look({"ship": 1}) == []
    session.info.transaction_status = IN_TRANSACTION
    (found,) = watch.look({"pay": 1})
    assert (found.task, found.count, found.runs) == ("pay", 2, 3)


def test_a_glance_after_each_run_tells_whose_it_is(out, leave):
    """However rare the looks: a known session was left by what ran since the glance before."""
    watch = TransactionWatch(out)
    session = leave(IDLE)
    assert not watch.stirs(["ship", "ship"])
    session.info.transaction_status = IN_TRANSACTION
    assert watch.stirs(["pay"])
    (found,) = watch.look({"ship": 2, "pay": 1})
    assert (found.task, found.count, found.runs) == ("pay", 1, 1)
    assert not watch.stirs(["ship"])


def test_what_stirred_and_was_not_looked_at_is_not_blamed_on_the_next(out, leave):
    """A look does not follow where the child leaves for something else."""
    watch = TransactionWatch(out)
    leave()
    assert watch.stirs(["pay"])
    assert watch.stirs(["ship"])
    assert watch.look({"pay": 1, "ship": 1}) == []
    (found,) = watch.leaving({})
    assert found.task == ""
    assert "of pay or ship left" in found.reason


def test_what_is_let_be_stirs_no_more(out, leave):
    """Until it was out of its transaction at a glance."""
    session = leave()
    watch = TransactionWatch(out)
    assert not watch.stirs(["pay"])
    session.info.transaction_status = IDLE
    assert not watch.stirs(["pay"])
    session.info.transaction_status = IN_TRANSACTION
    assert watch.stirs(["pay"])


def test_a_thread_that_ended_may_be_another_tasks(out):
    """Whose it was is not known once other tasks have run."""
    watch = TransactionWatch(out)
    thread = threading.Thread(target=lambda: out.take("key", Session(IN_TRANSACTION, True)))
    assert watch.look({"ship": 1}) == []
    thread.start()
    thread.join()
    assert watch.look({"pay": 1}) == []
    (found,) = watch.leaving({})
    assert (found.task, found.runs) == ("", 2)


def test_what_nobody_leaves_again_is_told_without_a_name(out, leave):
    """After so many looks that the task would have run again."""
    watch = TransactionWatch(out)
    leave()
    found = watch.look({"pay": 2, "ship": 1})
    for _ in range(300):
        found += watch.look({"pay": 1})
    assert [(each.task, each.count) for each in found] == [("", 1)]
    assert not watch.wants_each


# ---- the app's own connections


@pytest.fixture
def database(node_dir):
    """A file with a table."""
    path = str(node_dir / "shop.db")
    connection = sqlite3.connect(path)
    connection.execute("create table paid (id)")
    connection.close()
    return path


def test_a_connection_of_the_apps_own_is_found_and_rolled_back(out, database):
    """It is named by its file, and others can write again."""
    watch = TransactionWatch(out)
    kept = sqlite3.connect(database)
    other = sqlite3.connect(database, timeout=0, isolation_level=None)
    kept.execute("insert into paid values (1)")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        other.execute("insert into paid values (2)")
    (found,) = looks(watch, 20)
    assert (found.what, found.count) == (f"sqlite:///{database}", 1)
    other.execute("insert into paid values (2)")
    other.close()
    kept.close()


def test_a_search_in_vain_is_repeated_later_not_never(out, database):
    """Files that stay open make searches rare; a session among them is found all the same."""
    watch = TransactionWatch(out)
    files = []
    for _ in range(10):
        files.append(open(database, "rb"))  # noqa: SIM115  closed below
        assert looks(watch, 20) == []
    kept = sqlite3.connect(database)
    kept.execute("insert into paid values (1)")
    assert len(looks(watch, 600)) == 1
    kept.close()
    for file in files:
        file.close()


def looks(watch, count, task="pay"):
    """What so many looks find, each after a run of this task."""
    return [found for _ in range(count) for found in watch.look({task: 1})]


def test_one_that_a_search_meets_in_a_transaction_is_not_the_last_tasks(out, database):
    """It may have been left by any run since the search before; the first that leaves it again has it."""
    watch = TransactionWatch(out)
    kept = sqlite3.connect(database)
    kept.execute("insert into paid values (1)")
    assert looks(watch, 1) == []
    assert looks(watch, 100, "ship") == []
    assert not kept.in_transaction
    kept.execute("insert into paid values (1)")
    (found,) = looks(watch, 1)
    assert (found.task, found.count, found.runs) == ("pay", 2, 2)
    kept.close()


def test_one_that_a_search_meets_is_told_when_the_child_leaves_with_those_it_may_be_of(out, database):
    """The search is made then, if it was due."""
    watch = TransactionWatch(out)
    kept = sqlite3.connect(database)
    kept.execute("insert into paid values (1)")
    assert looks(watch, 1) + looks(watch, 1, "ship") == []
    (found,) = watch.leaving({"ship": 1})
    assert (found.task, found.count, found.runs) == ("", 1, 3)
    assert found.reason.startswith(f"3 runs of pay or ship left a session of sqlite:///{database} in a transaction")
    assert watch.leaving({}) == []
    kept.close()


@pytest.mark.skipif(sys.platform != "linux", reason="descriptors are read from /proc")
@pytest.mark.filterwarnings("ignore:unclosed database:ResourceWarning")
def test_a_connection_that_the_app_drops_is_not_kept_alive(out, database):
    """Of a kind that knows weak references, or not."""

    class Noted(sqlite3.Connection):
        pass

    watch = TransactionWatch(out)
    kept = [sqlite3.connect(database, factory=kind) for kind in (sqlite3.Connection, Noted)]
    for connection in kept:
        connection.execute("select * from paid")
    assert looks(watch, 20) == []
    known = dict(watch._unpooled.sessions())
    assert [known[id(each)].driver() is each for each in kept] == [True, True]
    before = _descriptors(database)
    del known, connection, kept
    gc.collect()
    assert _descriptors(database) == before - 2
    assert watch.look({"pay": 1}) == []


def _descriptors(path):
    links = [os.path.join("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]
    return sum(os.path.islink(link) and os.readlink(link) == path for link in links)


def test_a_session_that_does_not_tell_is_none_of_ours(out):
    """A driver may raise for one that is closed."""

    class Closed(Session):
        def driver(self):
            raise RuntimeError("the connection is closed")

    watch = TransactionWatch(out)
    out.take("key", Closed(IN_TRANSACTION, True))
    assert watch.look({"pay": 1}) == []


def test_beside_other_threads_a_connection_of_the_apps_own_is_told_only(out, database):
    """One of them may be using it."""
    watch = TransactionWatch(out)
    kept = sqlite3.connect(database)
    kept.execute("insert into paid values (1)")
    go = threading.Event()
    thread = threading.Thread(target=go.wait)
    thread.start()
    try:
        (found,) = looks(watch, 20)
        assert found.reason.endswith("was let be")
        assert kept.in_transaction
    finally:
        go.set()
        thread.join()
        kept.close()


def test_runs_that_left_nothing_count_when_the_child_leaves(out, leave):
    """Else the rate would be that of the runs until the last one that left something."""
    watch = TransactionWatch(out)
    leave()
    assert len(watch.look({"pay": 1})) == 1
    assert watch.leaving({"pay": 4, "ship": 2}) == []
    kind = LeakKind.TRANSACTIONS
    assert [(rest.task, rest.of(kind, PEER), rest.of(kind, "another")) for rest in watch.rest()] == [
        ("pay", (0, 4), (0, 5)), ("ship", (0, 2), (0, 2)),
    ]  # fmt: skip
