"""``poolrt enqueue``: arguments from the shell, the task that is meant, and what it returned; without a node."""

from __future__ import annotations

import json
from datetime import datetime

import pytest

from poolrt.brokers.urls import broker_from_url
from poolrt.cli.enqueue import arguments
from poolrt.codec import decode
from poolrt.errors import ConfigurationError, ExitCode
from poolrt.message import Message, decode_message
from poolrt.states import TaskState
from tests.cli.kept_tasks import OWNER, end, message

APP = """
import poolrt
app = poolrt.App("shop", broker={url!r})

@app.task
def add(a, b): ...

@app.task(queue="images", priority=2)
def resize(name, width=100): ...

@app.task(bind=True, name="mail.add")
def add_address(self, address): ...

@app.task(ignore_result=True)
def quiet(): ...
"""


@pytest.fixture
def broker(store, node_dir, monkeypatch):
    """The broker of the app ``enqueue_app:app``."""
    (node_dir / "enqueue_app.py").write_text(APP.format(url=store))
    monkeypatch.chdir(node_dir)
    monkeypatch.delitem(__import__("sys").modules, "enqueue_app", raising=False)
    monkeypatch.syspath_prepend(str(node_dir))
    broker = broker_from_url(store)
    yield broker
    broker.close()


@pytest.fixture
def enqueue(poolrt, broker):
    """``enqueue("enqueue_app.add", "2", "3")``."""
    return lambda *words: poolrt("enqueue", "enqueue_app:app", *words)


def sent(broker, said) -> Message:
    """The message whose id the command printed."""
    assert (said.code, said.err) == (ExitCode.OK, "")
    return decode_message(broker.find(said.out.strip()).envelope)


@pytest.mark.parametrize(
    ("words", "kwargs", "args", "named"),
    [
        (["2", "-0.5", "true", "null"], "", [2, -0.5, True, None], {}),
        (["ann", "007", "2026-11-28", "NaN", ""], "", ["ann", "007", "2026-11-28", "NaN", ""], {}),
        (['[1, "a"]', '{"a": [2]}', '"2"'], "", [[1, "a"], {"a": [2]}, "2"], {}),
        (["width=300", "name=a=b", "größe=x"], "", [], {"width": 300, "name": "a=b", "größe": "x"}),
        (['"a=b"', "1=2", "a b=c"], "", ["a=b", "1=2", "a b=c"], {}),
        (["1"], '{"b": [1], "c": null}', [1], {"b": [1], "c": None}),
        (["c="], '{"b": 1}', [], {"b": 1, "c": ""}),
    ],
)
def test_arguments(words, kwargs, args, named):
    """JSON where it is, else text; a word with a name and = is a keyword argument."""
    assert arguments(words, kwargs) == (args, named)


@pytest.mark.parametrize(
    ("words", "kwargs", "why"),
    [
        (["a=1", "a=2"], "", "a is given twice"),
        (["a=1"], '{"a": 2}', "a is given twice"),
        ([], "[1]", "not a JSON obj"),
    ],
)
def test_arguments_that_cannot_be_meant(words, kwargs, why):
    """A name twice, and --kwargs that are none."""
    with pytest.raises(ConfigurationError, match=why):
        arguments(words, kwargs)


def test_a_call(enqueue, broker):
    """The id is printed; the call is what was written, with the task's own options."""
    message = sent(broker, enqueue("enqueue_app.resize", "photo.jpg", "width=300"))
    assert decode(message.codec, message.payload, trusted=False) == [["photo.jpg"], {"width": 300}]
    assert (message.task, message.queue, message.priority) == ("enqueue_app.resize", "images", 2)


def test_options(enqueue, broker):
    """Each is that of apply_async."""
    said = enqueue(
        *("resize", "a", "--queue", "slow", "--priority", "7", "--eta", "2030-01-02T03:04Z", "--expires", "1h30m"),
        *("--id", "order-17", "--json"),
    )
    assert json.loads(said.out) == {"schema": 1, "id": "order-17"}
    message = decode_message(broker.find("order-17").envelope)
    assert (message.queue, message.priority) == ("slow", 7)
    assert message.eta == datetime.fromisoformat("2030-01-02T03:04Z").timestamp()
    assert message.expires == pytest.approx(message.enqueued_at + 5400)
    assert broker.find("order-17").state == TaskState.DELAYED


def test_countdown_and_a_moment_to_expire(enqueue, broker):
    """A duration from now, and a moment."""
    message = sent(broker, enqueue("resize", "a", "--countdown", "5m", "--expires", "2030-01-02T03:04+01:00"))
    assert message.eta == pytest.approx(message.enqueued_at + 300, abs=1)
    assert message.expires == datetime.fromisoformat("2030-01-02T03:04+01:00").timestamp()


def test_behind_two_dashes_nothing_is_a_flag(enqueue, broker):
    """So that negative numbers, and even --wait, can be arguments."""
    message = sent(broker, enqueue("enqueue_app.add", "--", "-2", "--wait"))
    assert decode(message.codec, message.payload, trusted=False) == [[-2, "--wait"], {}]


def test_the_end_of_a_name_is_enough(enqueue, broker):
    """Where only one task ends so; a whole name is always meant."""
    assert sent(broker, enqueue("resize", "a")).task == "enqueue_app.resize"
    assert sent(broker, enqueue("mail.add", "ann")).task == "mail.add"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("add", "2", "3"), "'add' may be any of enqueue_app.add, mail.add"),
        (("resise", "a"), "did you mean enqueue_app.resize?"),
        (("xyzzy",), "it has enqueue_app.add, enqueue_app.quiet, enqueue_app.resize, mail.add"),
        (("size", "a"), "has no task 'size'"),
        (("enqueue_app.add", "s3cret"), "missing a required argument: 'b'"),
        (("mail.add", "s3cret", "more"), "too many positional arguments"),
        (("resize", "s3cret", "height=3"), "unexpected keyword argument 'height'"),
        (("resize", "s3cret", "--priority", "11"), "priority is 0 to 9"),
        (("resize", "s3cret", "--eta", "2030-01-02T03:04"), "has no time zone"),
        (("resize", "s3cret", "--eta", "soon"), "is no moment"),
        (("resize", "s3cret", "--expires", "soon"), "is no moment"),
        (("resize", "s3cret", "--countdown", "soon"), "is not a duration"),
        (("resize", "s3cret", "--wait=soon"), "is not a duration"),
        (("quiet", "--wait"), "keeps no result"),
        ((), "name the app first, then TASK"),
    ],
)
def test_a_mistake_is_exit_2_and_nothing_is_enqueued(enqueue, broker, words, why):
    """One line that says which, and never the value of an argument."""
    said = enqueue(*words)
    assert (said.code, said.out, said.err.count("\n")) == (ExitCode.USAGE, "", 1)
    assert why in said.err
    assert "s3cret" not in said.err
    assert broker.messages() == ([], "")


def test_a_broker_is_no_app(poolrt, store):
    """A task's options are in the app; nothing of the URL is told."""
    said = poolrt("enqueue", store, "add", "2", "3")
    assert (said.code, said.err.count("\n")) == (ExitCode.USAGE, 1)
    assert "needs the app itself" in said.err


# ---- --wait: of tasks that have ended already, whose ids are known


@pytest.fixture
def ended(broker):
    """Tasks ``yes`` and ``no``, which have ended."""
    broker.join("inc", "node")
    broker.attach(OWNER)
    end(broker, [message("yes")], TaskState.SUCCEEDED)
    end(broker, [message("no")], TaskState.FAILED)


@pytest.mark.usefixtures("ended")
def test_wait_prints_the_result(enqueue):
    """A text as it is; --wait takes no word behind it for its timeout."""
    assert enqueue("resize", "--id", "yes", "--wait", "7") == (ExitCode.OK, "done\n", "")
    assert json.loads(enqueue("resize", "a", "--id", "yes", "--wait=5s", "--json").out) == {
        "schema": 1, "id": "yes", "state": "succeeded", "result": "done", "error": None,
    }  # fmt: skip


@pytest.mark.usefixtures("ended")
def test_wait_for_what_failed(enqueue):
    """Exit code 10, one line on stderr; as JSON with the traceback."""
    said = enqueue("resize", "a", "--id", "no", "--wait")
    assert said == (ExitCode.TASK_FAILED, "", "poolrt: shop.resize#no failed: ValueError: no page no\n")
    said = enqueue("resize", "a", "--id", "no", "--wait", "--json")
    shown = json.loads(said.out)
    assert (said.code, shown["state"], shown["result"]) == (ExitCode.TASK_FAILED, "failed", None)
    assert shown["error"] == {"type": "ValueError", "text": "no page no", "traceback": "Traceback: in resize"}


def test_wait_is_over(enqueue, broker):
    """Exit code 11; the line names the id, and the task goes on."""
    said = enqueue("resize", "a", "--id", "slow", "--wait=20ms")
    assert (said.code, said.out) == (ExitCode.NOT_IN_TIME, "")
    assert said.err == "poolrt: task slow has not ended within 0.02 s; it goes on\n"
    assert broker.find("slow").state == TaskState.QUEUED
