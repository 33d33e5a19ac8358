"""Findings: which policy holds for one, and how many of them become rows that are summed within bounds."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolrt.errors import ConfigurationError
from poolrt.hygiene.findings import (
    DEFAULTS,
    MOST_COUNT,
    MOST_STACK,
    MOST_TEXT,
    Action,
    Finding,
    LeakKind,
    LeakRow,
    LeakTable,
    Policies,
    fitting,
    parse_allowed,
    parse_policies,
    row_of,
)


def finding(kind: LeakKind = LeakKind.THREADS, task: str = "shop.fetch", what: str = "worker-1") -> Finding:
    """Three that were left in ten runs."""
    return Finding(kind, task, what, 3, 10, f"{task} leaves {what}")


# ---- policies


def test_every_kind_has_a_default() -> None:
    """No kind is forgotten, and none fails a task unasked."""
    assert set(DEFAULTS) == set(LeakKind)
    assert set(DEFAULTS.values()) == {Action.WARN, Action.RECYCLE}


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("", {}),
        (" , ", {}),
        ("threads=warn", {LeakKind.THREADS: Action.WARN}),
        (" threads = warn , memory=recycle,", {LeakKind.THREADS: Action.WARN, LeakKind.MEMORY: Action.RECYCLE}),
        ("threads=warn,threads=fail", {LeakKind.THREADS: Action.FAIL}),
        ("ignore", dict.fromkeys(LeakKind, Action.IGNORE)),
        ("warn,files=fail", dict.fromkeys(LeakKind, Action.WARN) | {LeakKind.FILES: Action.FAIL}),
        ("files=fail,warn", dict.fromkeys(LeakKind, Action.WARN) | {LeakKind.FILES: Action.FAIL}),
    ],
)
def test_policies_are_read(text: str, parsed: dict[LeakKind, Action]) -> None:
    """KIND=ACTION for some, one word for all others, wherever it stands."""
    assert parse_policies(text) == parsed


@pytest.mark.parametrize(
    "text", ["threads", "threads=", "=warn", "threads=Warn", "threads:warn", "warn=threads", "x=warn"]
)
def test_other_policies_are_refused(text: str) -> None:
    """The part that is none is quoted, and every kind and action named."""
    with pytest.raises(ConfigurationError) as refused:
        parse_policies(f"memory=warn,{text}")
    assert all(word in str(refused.value) for word in (repr(text), *LeakKind, *Action))


@pytest.mark.parametrize("text", ["threads", "threads:", ":x", "comets:x", "threads=x"])
def test_other_patterns_are_refused(text: str) -> None:
    """The part that is none is quoted, and every kind named."""
    with pytest.raises(ConfigurationError) as refused:
        parse_allowed(f"*:x,{text}")
    assert all(word in str(refused.value) for word in (repr(text), *LeakKind))


def test_the_task_goes_before_the_node() -> None:
    """A task's own policy holds for it alone, the node's for what it does not name, the default for the rest."""
    policies = Policies("threads=fail,files=warn")
    policies.learn("shop.fetch", "threads=ignore")
    assert policies.action(finding()) is Action.IGNORE
    assert policies.action(finding(LeakKind.FILES)) is Action.WARN
    assert policies.action(finding(task="shop.other")) is Action.FAIL
    assert policies.action(finding(LeakKind.PROCESSES)) is DEFAULTS[LeakKind.PROCESSES]
    assert policies.action(finding(task="")) is Action.FAIL


def test_what_fails_a_task_is_its_own_or_the_nodes() -> None:
    """Where both name a kind, the task goes before."""
    policies = Policies("threads=fail,files=fail,memory=warn")
    policies.learn("shop.fetch", "threads=warn,state=fail")
    assert policies.fails("shop.fetch") == {LeakKind.FILES, LeakKind.STATE}
    assert policies.fails("shop.other") == {LeakKind.THREADS, LeakKind.FILES}
    assert Policies().fails("shop.fetch") == frozenset()


@pytest.mark.parametrize(
    ("allowed", "action"),
    [
        ("threads:worker-*", Action.IGNORE),
        ("*:worker-?", Action.IGNORE),
        ("files:*", Action.RECYCLE),
        ("threads:WORKER-*", Action.RECYCLE),
        ("threads:worker", Action.RECYCLE),
        ("files:x, threads : worker-1", Action.IGNORE),
    ],
)
def test_what_is_allowed_is_ignored(allowed: str, action: Action) -> None:
    """A pattern of its kind, or of any, that matches the whole of what was left."""
    policies = Policies("recycle", allowed)
    policies.learn("shop.fetch", "threads=recycle")
    assert policies.action(finding()) is action


@pytest.mark.parametrize("what", ["[::1]:5432", "a[0]", "*"])
def test_what_is_allowed_may_be_written_as_it_is(what: str) -> None:
    """An address in brackets is no set of characters."""
    assert Policies("", f"connections:{what}").action(finding(LeakKind.CONNECTIONS, what=what)) is Action.IGNORE


def test_what_nobody_wants_to_know_is_not_watched() -> None:
    """Unless a task of its own does."""
    policies = Policies("ignore,threads=warn")
    assert [kind for kind in LeakKind if policies.watches(kind)] == [LeakKind.THREADS]
    policies.learn("shop.fetch", "files=ignore,memory=fail")
    assert [kind for kind in LeakKind if policies.watches(kind)] == [LeakKind.THREADS, LeakKind.MEMORY]


def test_whether_a_run_may_fail() -> None:
    """Where any policy, the node's or a task's, says so."""
    assert not Policies().may_fail
    assert Policies("threads=fail").may_fail
    policies = Policies("warn")
    policies.learn("shop.fetch", "threads=recycle")
    assert not policies.may_fail
    policies.learn("shop.other", "fail")
    assert policies.may_fail


# ---- rows


def row(what: str = "x", count: int = 1, at: float = 5.0, stack: str = "") -> LeakRow:
    """A row that was seen at one time."""
    return LeakRow(LeakKind.FILES, "t", what, count, 2 * count, at, at, f"reason of {at:g}", stack)


def test_a_finding_becomes_a_row() -> None:
    """With all that it says, and the rate."""
    made = row_of(finding(), 7.5)
    assert made.key == finding().key == (LeakKind.THREADS, "shop.fetch", "worker-1")
    assert (made.count, made.runs, made.first_seen, made.last_seen) == (3, 10, 7.5, 7.5)
    assert made.rate == 30.0
    assert msgspec.structs.replace(made, runs=0).rate == 0.0


def test_a_row_travels_as_an_object() -> None:
    """For scripts with the rate and by names; one of an unknown kind or with a part missing is refused."""
    told = msgspec.json.decode(msgspec.json.encode(row_of(finding(), 7.5).as_object()))
    assert (told["kind"], told["per_100_runs"]) == ("threads", 30.0)
    assert LeakRow.from_object(told) == row_of(finding(), 7.5)
    with pytest.raises(ValueError, match="comets"):
        LeakRow.from_object({**told, "kind": "comets"})
    with pytest.raises(KeyError):
        LeakRow.from_object({"kind": "threads"})


def test_the_later_row_has_the_word() -> None:
    """Reason and stack are of what was seen last, wherever it stands in the sum; a stack is not lost to none."""
    old, new = row(at=3.0, stack="old"), row(at=8.0, stack="new")
    for summed in (old.with_more(new), new.with_more(old)):
        assert summed == LeakRow(LeakKind.FILES, "t", "x", 2, 4, 3.0, 8.0, "reason of 8", "new")
    assert row(at=3.0, stack="old").with_more(row(at=8.0)).stack == "old"
    assert row(at=8.0).with_more(row(at=3.0, stack="old")).stack == "old"


def test_a_count_has_an_end() -> None:
    """Beyond it a script could not count, and a file not keep it."""
    assert row(count=MOST_COUNT).with_more(row()).count == MOST_COUNT


def test_texts_are_cut() -> None:
    """What a user named is kept up to a length, and numbers within what a broker keeps."""
    cut = fitting(Finding(LeakKind.FILES, "t" * 999, "w" * 999, 1 << 60, -5, "r" * 999, "s" * 9999))
    assert [len(text) for text in (cut.task, cut.what, cut.reason, cut.stack)] == [MOST_TEXT] * 3 + [MOST_STACK]
    assert (cut.count, cut.runs) == (MOST_COUNT, 0)
    assert fitting(finding()) == finding()


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 99), st.floats(0, 1e9)), max_size=30))
def test_a_table_sums_by_key(told: list[tuple[str, int, float]]) -> None:
    """Whatever the order: counts, runs, the first and the last time."""
    rows = [row(what, count, at) for what, count, at in told]
    for table in (LeakTable(rows), LeakTable(reversed(rows))):
        assert len(table) == len({what for what, _, _ in told})
        for found in table.rows():
            mine = [(count, at) for what, count, at in told if what == found.what]
            assert found.count == sum(count for count, _ in mine)
            assert found.runs == 2 * found.count
            assert (found.first_seen, found.last_seen) == (min(at for _, at in mine), max(at for _, at in mine))


def test_a_table_says_what_was_there_before() -> None:
    """None for a new row."""
    table = LeakTable()
    assert table.add(row(count=2)) is None
    assert table.add(row(count=3)) == row(count=2)


def test_a_table_keeps_what_was_added_to_last() -> None:
    """At most so many rows; the one that nothing was added to for longest goes."""
    table = LeakTable(row(str(number)) for number in range(LeakTable.MOST_ROWS))
    table.add(row("0"))
    table.add(row("new"))
    assert len(table) == LeakTable.MOST_ROWS
    assert {each.what for each in table.rows()} == {"0", "new", *map(str, range(2, LeakTable.MOST_ROWS))}


def test_a_table_is_read_by_task_and_count() -> None:
    """The largest of each kind of a task first."""
    table = LeakTable([row("few"), row("many", 9), msgspec.structs.replace(row("z"), task="a")])
    assert [each.what for each in table.rows()] == ["z", "many", "few"]


def test_a_table_is_emptied() -> None:
    """In the order of the last addition, and it can be filled again."""
    table = LeakTable([row("a"), row("b"), row("a")])
    assert [(each.what, each.count) for each in table.take()] == [("b", 1), ("a", 2)]
    assert (len(table), table.take()) == (0, [])
    assert table.add(row("a")) is None
