"""Functions and arguments by value: what a worker cannot import comes with the message."""

from __future__ import annotations

import datetime as dt
import decimal
import functools
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from poolrt import App
from poolrt.errors import EncodingError

SECONDS = 20.0

pytestmark = pytest.mark.usefixtures("pool")


@pytest.fixture
def notebook(shop: Any) -> App:
    """An app as a notebook makes one: its tasks are in no module a worker could import."""
    app = App("notebook", shop.app.broker.url)
    app.broker = shop.app.broker  # one connection a process and file is enough
    return app


def test_closures(notebook: App) -> None:
    """A local function runs with what it closes over, as it was when it was called."""
    offset = 10

    @notebook.task
    def shift(x: int) -> int:
        return x + offset

    first = shift.delay(1)
    assert first.get(timeout=SECONDS) == 11
    offset = 20
    assert shift.delay(1).get(timeout=SECONDS) == 21


def test_lambdas(notebook: App) -> None:
    """So does a lambda, with its defaults."""
    for factor in (2, 3):
        times = notebook.task(name=f"times {factor}")(lambda x, factor=factor: x * factor)
        assert times.delay(7).get(timeout=SECONDS) == 7 * factor


def test_options_travel_with_the_function(notebook: App, tmp_path: Path) -> None:
    """``bind`` and the retries of a function by value hold at the worker."""
    ledger = tmp_path / "ledger"

    @notebook.task(bind=True, retry_for=[ZeroDivisionError], max_retries=1, retry_backoff="10ms")
    def flaky(self: Any, path: str) -> int:
        with open(path, "a") as file:
            file.write(f"{self.request.attempt}\n")
        return 1 // (self.request.attempt - 1)

    assert flaky.delay(str(ledger)).get(timeout=SECONDS) == 1
    assert ledger.read_text().split() == ["1", "2"]


def test_async_closures(notebook: App) -> None:
    """A coroutine function by value runs on the child's loop."""

    @notebook.task
    async def later(x: int) -> int:
        import asyncio

        await asyncio.sleep(0)
        return x + 1

    assert later.delay(1).get(timeout=SECONDS) == 2


def test_local_exceptions(notebook: App) -> None:
    """An exception class that exists in no module comes back by value, equal in name and arguments."""

    class LocalError(Exception):
        pass

    @notebook.task
    def fail() -> None:
        raise LocalError("mine", 5)

    with pytest.raises(Exception, match="mine") as error:
        fail.delay().get(timeout=SECONDS)
    assert (type(error.value).__name__, error.value.args) == ("LocalError", ("mine", 5))


def test_unpicklable_closures_are_refused_at_the_call(notebook: App) -> None:
    """A function that holds what cannot travel is refused where it is called, by the task's name."""
    held: Iterator[int] = iter(())
    generator = (number for number in held)

    @notebook.task
    def use() -> None:
        next(generator)

    with pytest.raises(
        EncodingError, match=r"the task .*use, which workers cannot import, cannot be pickled: TypeError"
    ):
        use.delay()


@pytest.mark.parametrize(
    "value",
    [
        dt.datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=dt.UTC),
        dt.timedelta(days=1),
        {(1, "a"): {2, 3}},
        {1: "int keys", None: 2},
        b"\x00\xff",
        decimal.Decimal("1.10"),
        uuid.UUID(int=5),
        2**200,
        float("inf"),
        1 + 2j,
        Path("/x"),
        "\ud800",
        range(3),
        functools.partial(int, base=2),
    ],
    ids=lambda value: type(value).__name__,
)
def test_rich_arguments_and_results(value: Any, shop: Any) -> None:
    """What JSON would change travels by cloudpickle, to the worker and back, with its type."""
    back = shop.same.delay(value).get(timeout=SECONDS)
    assert type(back) is type(value)
    assert repr(back) == repr(value)


def test_functions_as_arguments(notebook: App) -> None:
    """A lambda may be an argument and a result."""
    apply = notebook.task(name="apply")(lambda function, x: (function(x), lambda: x))
    value, function = apply.delay(lambda x: x * 2, 21).get(timeout=SECONDS)
    assert (value, function()) == (42, 21)


def test_tuples_are_lists_by_json_only(shop: Any) -> None:
    """A tuple of plain values comes back as a list; in a value that is pickled it stays a tuple."""
    assert shop.same.delay((1, (2, 3))).get(timeout=SECONDS) == [1, [2, 3]]
    assert shop.same.delay((1, (2, b"3"))).get(timeout=SECONDS) == (1, (2, b"3"))


def test_what_cannot_be_carried_is_refused_at_the_call(shop: Any) -> None:
    """A generator as an argument is refused by the task's name, and nothing is enqueued."""
    before = shop.app.broker.depth()
    with pytest.raises(EncodingError, match=r"a call of shop_tasks\.same cannot be pickled: TypeError"):
        shop.same.delay(number for number in range(3))
    assert shop.app.broker.depth()[:2] == before[:2]
