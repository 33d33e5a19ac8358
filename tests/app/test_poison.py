"""Messages that kill whoever reads them, over a pool of their own: each is dead after its deliveries, the rest runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import poolrt
from poolrt import App, TaskState
from poolrt.errors import WorkerLost
from poolrt.message import decode_message, decode_record

SECONDS = 30.0


class Poison:
    """An argument whose unpickling ends the process, as a broken C extension would."""

    def __reduce__(self) -> Any:
        return (os._exit, (3,))


class PoisonedFunction:
    """A function by value whose unpickling ends the process."""

    __qualname__ = "<poison>"

    def __call__(self) -> None: ...

    def __reduce__(self) -> Any:
        return (os._exit, (3,))


@pytest.fixture
def app(place: Path) -> Iterator[App]:
    """An app with a broker of its own."""
    app = App("poison", f"sqlite:///{place}/poison.db")
    yield app
    app.close()


def test_messages_that_kill_their_reader(app: App) -> None:
    """Unpickling is under the same guard as running: the death counts, the message is given up, its neighbours run."""
    take = app.task(name="take")(lambda value: value)
    with poolrt.Supervisor(app, concurrency=1, max_deliveries=2, log_level="error") as pool:
        poisoned = [take.delay(Poison()), app.task(name="poisoned")(PoisonedFunction()).delay()]
        good = [take.delay(number) for number in range(5)]
        assert [result.get(timeout=SECONDS) for result in good] == list(range(5))
        for result in poisoned:
            with pytest.raises(WorkerLost, match="its child died 2 times while running it; last: exited with code 3"):
                result.get(timeout=SECONDS)
            assert result.state is TaskState.DEAD
            found = app.broker.find(result.id)
            assert found is not None
            assert found.record is not None
            envelope = decode_record(found.record).envelope
            assert envelope is not None
            assert decode_message(envelope).id == result.id, "it is kept, to be looked at"
        totals = pool.status()["totals"]
    assert (totals["crashed"], totals["done"]) == (4, 5)
    assert pool.exit_code == 0
