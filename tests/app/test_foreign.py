"""What else may stand in the queue: foreign, newer and damaged messages are dead by name, their neighbours run."""

from __future__ import annotations

import os
import pickle
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from poolrt import App, TaskState
from poolrt.codec import PICKLE
from poolrt.errors import DuplicateTask, TaskDead
from poolrt.message import Enqueue, Message, Record, decode_message, encode_message, new_task_id

SECONDS = 20.0

pytestmark = pytest.mark.usefixtures("pool")


@pytest.fixture
def put(shop: Any) -> Callable[[bytes], str]:
    """``put(envelope)``: enqueue raw bytes under a new id, as another program would."""

    def put(envelope: bytes) -> str:
        task_id = new_task_id()
        shop.app.broker.enqueue([Enqueue(task_id, envelope, "default", 5, None)])
        return task_id

    return put


class Canary:
    """Unpickling it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.path),))


GOOD = encode_message(Message("inner", "shop_tasks.add", b"[[1],{}]"))


@pytest.mark.parametrize(
    ("envelope", "said"),
    [
        (b"", "empty message"),
        (b"\x00\xff", "not a poolrt message"),
        (b'{"task": "celery.task", "id": 1}', "not a poolrt message"),
        (pickle.dumps({"a": 1}), "not a poolrt message"),
        (b"\x02" + GOOD[1:], "envelope version 2, but this poolrt reads up to 1: upgrade this node"),
        (GOOD[:-4], "damaged envelope"),
        (b"\x01" + msgspec.msgpack.encode(["id", "task", "no bytes"]), "damaged envelope"),
        (encode_message(Message("inner", "shop_tasks.add", b"[[1],")), "damaged JSON"),
        (encode_message(Message("inner", "shop_tasks.add", b"[" * 200_000)), "damaged JSON"),
        (encode_message(Message("inner", "shop_tasks.add", b'{"a":1}')), "its payload is not"),
        (encode_message(Message("inner", "shop_tasks.add", b"[[1],{}]", "yaml")), "unknown codec 'yaml'"),
        (encode_message(Message("inner", "shop_tasks.add", b"no pickle", PICKLE)), "cannot be unpickled here"),
    ],
    ids=lambda value: None if isinstance(value, bytes) else value.split(":")[0],
)  # fmt: skip
def test_unreadable_messages_are_dead(
    envelope: bytes, said: str, put: Callable[[bytes], str], shop: Any, record: Callable[[str], Record]
) -> None:
    """Each is dead at once with its bytes kept, is found among the dead, and the next task runs."""
    task_id = put(envelope)
    with pytest.raises(TaskDead, match="dead: DecodingError: ") as error:
        shop.app.result(task_id).get(timeout=SECONDS)
    assert said in str(error.value)
    assert record(task_id).envelope == envelope
    assert task_id in {found.id for found in shop.app.broker.ended(TaskState.DEAD)}
    assert shop.add.delay(2, 3).get(timeout=SECONDS) == 5


def test_a_batch_of_good_and_bad(put: Callable[[bytes], str], shop: Any) -> None:
    """Bad messages in the middle of a long batch are dead, and every good one beside them has run."""
    shop.add.enqueue_many((number,) for number in range(50))[-1].get(timeout=SECONDS)
    results, bad = [], []
    for number in range(40):
        results.append(shop.add.delay(number))
        bad.append(put(b"bad %d" % number))
    assert [result.get(timeout=SECONDS) for result in results] == list(range(40))
    for task_id in bad:
        with pytest.raises(TaskDead):
            shop.app.result(task_id).get(timeout=SECONDS)


@pytest.mark.parametrize("where", ["payload", "function"])
def test_another_minors_pickle_is_dead_and_never_unpickled(
    where: str, put: Callable[[bytes], str], shop: Any, tmp_path: Path
) -> None:
    """Bytes pickled by another Python minor are refused by its name; the canary in them has not sung."""
    canary = pickle.dumps(((Canary(tmp_path / "unpickled"),), {}))
    if where == "payload":
        message = Message("inner", "shop_tasks.same", canary, "cloudpickle:3.99")
    else:
        message = Message("inner", "their.task", b"[[],{}]", function=canary, function_codec="cloudpickle:3.99")
    task_id = put(encode_message(message))
    with pytest.raises(TaskDead, match=rf"pickled by Python 3.99, this is 3.{sys.version_info[1]}: never unpickled"):
        shop.app.result(task_id).get(timeout=SECONDS)
    assert not (tmp_path / "unpickled").exists()


def test_the_canary_sings_where_it_may(put: Callable[[bytes], str], shop: Any, tmp_path: Path) -> None:
    """The same message of this minor is unpickled: without this the test above would prove nothing."""
    canary = pickle.dumps(((Canary(tmp_path / "unpickled"),), {}))
    task_id = put(encode_message(Message("inner", "shop_tasks.same", canary, PICKLE)))
    shop.app.result(task_id).get(timeout=SECONDS)
    assert (tmp_path / "unpickled").exists()


def test_messages_of_a_later_release(put: Callable[[bytes], str], shop: Any) -> None:
    """A message with a field more than this release knows is run all the same."""
    fields = [*msgspec.msgpack.decode(GOOD[1:]), "a field of release N+1"]
    task_id = put(b"\x01" + msgspec.msgpack.encode(fields))
    assert shop.app.result(task_id).get(timeout=SECONDS) == 1


def test_an_unknown_task_is_handed_back(shop: Any, wait_for: Callable[..., None]) -> None:
    """A task this worker does not know waits for another node, by its own count; the next task runs meanwhile."""
    stranger = App("stranger", shop.app.broker.url)
    stranger.broker = shop.app.broker
    result = stranger.task(name="nobody.knows", retry_for=Exception)(_importable).delay(1)
    wait_for(lambda: result.state is TaskState.DELAYED, "it was handed back with a delay")
    message = decode_message(shop.app.broker.find(result.id).envelope)
    assert (message.unknown_count, message.attempt, message.payload) == (1, 1, b"[[1],{}]")
    assert message.eta - time.time() <= 1.5
    assert shop.add.delay(2, 3).get(timeout=SECONDS) == 5


def _importable(x: int) -> int:
    return x


def test_two_tasks_of_one_name(shop: Any) -> None:
    """The error names both places, and the first task stays."""
    with pytest.raises(DuplicateTask) as error:
        shop.app.task(name="shop_tasks.add")(_importable)
    first = f"{shop.__file__}:{shop.add.function.__code__.co_firstlineno}"
    second = f"{__file__}:{_importable.__code__.co_firstlineno}"
    assert str(error.value) == f"two tasks are named 'shop_tasks.add': {first} and {second}; give one of them name=..."
    assert shop.app.tasks["shop_tasks.add"] is shop.add
