"""Contract: what tasks left behind is summed over all who tell it, kept within bounds, read and forgotten."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from poolrt.brokers.base import Broker
from poolrt.errors import BrokerError
from poolrt.hygiene.findings import MOST_COUNT, LeakKind, LeakRow, LeakTable
from poolrt.message import Owner
from poolrt.steward.leaks import Leaks

Factory = Callable[..., Broker]


def row(what: str = "db:5432", count: int = 1, at: float = 5.0, **fields: Any) -> LeakRow:
    """A row of connections of one task, seen at one time."""
    made = LeakRow(LeakKind.CONNECTIONS, "shop.fetch", what, count, count * 2, at, at, f"reason of {at:g}")
    return msgspec.structs.replace(made, **fields)


def test_nothing_is_known_at_first(broker: Broker) -> None:
    """No rows, nothing to forget, and to tell nothing is allowed."""
    broker.note_leaks([], call="nothing")
    assert broker.leaks() == []
    assert broker.forget_leaks() == 0


def test_rows_of_one_key_are_summed(broker: Broker, broker_factory: Factory) -> None:
    """Counts and runs add up; the first and last time, and the reason and stack of the later are kept."""
    first = row(count=3, at=5.25, stack="a.py:1 in f")
    broker.note_leaks([first], call="1")
    assert broker.leaks() == [first]
    broker_factory().note_leaks([row(count=2, at=9.5)], call="2")
    assert broker.leaks() == [
        row(count=5, at=9.5, first_seen=5.25, stack="a.py:1 in f"),
    ]
    broker.note_leaks([row(count=1, at=7.0, stack="b.py:2 in g"), row(count=1, at=2.0)], call="3")
    assert broker.leaks() == [row(count=7, at=9.5, first_seen=2.0, stack="a.py:1 in f")]
    broker.note_leaks([row(count=0, at=11.0, stack="c.py:3 in h")], call="4")
    assert broker.leaks() == [row(count=7, at=11.0, first_seen=2.0, stack="c.py:3 in h")]


def test_runs_that_left_nothing_count_only_where_something_is_known(broker: Broker) -> None:
    """After ``forget_leaks`` a child that leaves tells of what is forgotten."""
    broker.note_leaks([row(count=0, runs=50)], call="1")
    assert broker.leaks() == []
    broker.note_leaks([row(count=2, runs=10)], call="2")
    broker.note_leaks([row(count=0, runs=50), row("db:6379", count=0)], call="3")
    assert broker.leaks() == [row(count=2, runs=60)]


def test_kind_task_and_what_are_the_key(broker: Broker) -> None:
    """A row differs from another by any of them; they are any text, and come by task, kind and count."""
    rows = [
        row(),
        row(kind=LeakKind.FILES),
        row(task="shop.store"),
        row(task=""),
        row("db:6379", 9),
        row("it's; \n\0 {ünïcode} 漢字 " + "x" * 400),
        row("", 4),
    ]
    broker.note_leaks(rows, call="1")
    assert broker.leaks() == LeakTable(rows).rows()
    assert len(broker.leaks()) == len(rows)


def test_forgetting(broker: Broker, broker_factory: Factory) -> None:
    """All rows go, for everybody, and it begins anew."""
    broker.note_leaks([row(), row("db:6379")], call="1")
    assert broker_factory().forget_leaks() == 2
    assert broker.leaks() == []
    broker.note_leaks([row(count=4)], call="2")
    assert broker.leaks() == [row(count=4)]


def test_a_call_made_again_after_an_error(broker: Broker, monkeypatch: pytest.MonkeyPatch, service: object) -> None:
    """It counts once, where the first one's answer was lost as well as where it never came."""
    steward = Leaks(broker, Owner("inc", 0, 1))
    steward.add(row(count=3))
    note = broker.note_leaks

    def fails(rows: Sequence[LeakRow], *, call: str) -> None:
        if service is not None:  # a file's broker does all of it or says nothing
            note(rows, call=call)
        raise BrokerError("the answer is lost")

    monkeypatch.setattr(broker, "note_leaks", fails)
    for _ in range(2):
        with pytest.raises(BrokerError):
            steward.write()
    steward.add(row(count=4, at=6.0))
    monkeypatch.undo()
    steward.write()
    assert [each.count for each in broker.leaks()] == [3]
    steward.write()
    assert broker.leaks() == [row(count=7, at=6.0, first_seen=5.0)]
    steward.write()
    assert [each.count for each in broker.leaks()] == [7]


def test_only_so_many_are_kept(broker: Broker) -> None:
    """Beyond ``MOST_ROWS`` those go that were not seen for longest."""
    most = LeakTable.MOST_ROWS
    broker.note_leaks([row(str(number), at=number) for number in range(most)], call="1")
    broker.note_leaks([row("0", at=most), row("new", at=most + 1), row("newer", at=most + 2)], call="2")
    kept = {each.what: each.count for each in broker.leaks()}
    assert kept == {str(number): 1 for number in range(3, most)} | {"0": 2, "new": 1, "newer": 1}


def test_a_count_has_an_end(broker: Broker) -> None:
    """It stops at 2^53, which is the largest that a script can count to."""
    for number in range(3):
        broker.note_leaks([row(count=MOST_COUNT, runs=MOST_COUNT - 1)], call=str(number))
    (found,) = broker.leaks()
    assert (found.count, found.runs) == (MOST_COUNT, MOST_COUNT)


ROWS = st.lists(
    st.builds(
        row,
        what=st.sampled_from(["a", "b", "c"]),
        count=st.integers(1, 1000),
        at=st.floats(0, 2e9, allow_nan=False),
        kind=st.sampled_from([LeakKind.FILES, LeakKind.MEMORY]),
        stack=st.sampled_from(["", "x.py:1 in f"]),
    ),
    max_size=8,
)


@given(told=st.lists(st.lists(ROWS, max_size=4), min_size=2, max_size=3))
@settings(
    max_examples=40, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
def test_stewards_that_write_at_once(broker: Broker, broker_factory: Factory, told: list[list[list[LeakRow]]]) -> None:
    """Whatever the order in which their calls come, the sums are those of all rows."""
    broker.forget_leaks()
    clients = [broker_factory() for _ in told]
    number = next(_numbers)

    def write(writer: int) -> None:
        steward = Leaks(clients[writer], Owner("inc", writer, number))
        for batch in told[writer]:
            for each in batch:
                steward.add(each)
            steward.write()

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(len(told))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for client in clients:
        client.close()
    expected = LeakTable(each for batches in told for batch in batches for each in batch).rows()
    assert sums(broker.leaks()) == sums(expected)


_numbers = iter(range(1, 1 << 20))


def sums(rows: list[LeakRow]) -> dict[tuple[str, ...], tuple[float, ...]]:
    """What does not depend on who came first: not the reason and the stack of two rows of one moment."""
    return {each.key: (each.count, each.runs, each.first_seen, each.last_seen) for each in rows}
