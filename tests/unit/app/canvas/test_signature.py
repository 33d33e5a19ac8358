"""Signatures never change, carry options, and go through JSON and back."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from poolrt import chain, chord, group
from poolrt.errors import ConfigurationError, EncodingError
from poolrt.message import decode_message


def only(store):
    (item,) = store.stored.values()
    return decode_message(item.envelope)


def test_partial_arguments_go_before_and_keywords_over(tasks) -> None:
    """As Celery's: the value first, then the arguments that the signature has."""
    call = tasks.add.s(2, a=1, b=1).clone((1,), {"b": 2})
    assert (call.args, call.kwargs) == ((1, 2), {"a": 1, "b": 2})
    assert tasks.add.s(2)(1) == 3


def test_an_immutable_call_takes_nothing(tasks) -> None:
    """``si`` stays as it is, whatever it is called with."""
    assert tasks.add.si(1, 2).clone((9,), {"z": 1}).args == (1, 2)


def test_no_method_changes_a_signature(tasks) -> None:
    """Each gives another one."""
    call = tasks.add.s(1)
    before = call.to_dict()
    for other in (call.set(queue="q"), call.link(tasks.note.s()), call.link_error(tasks.note.s()), call.clone((5,))):
        assert other.to_dict() != before
        assert call.to_dict() == before


def test_delay_of_a_call_is_the_call_itself(tasks, store) -> None:
    """A signature with nothing around it costs what ``apply_async`` costs: no terms in its envelope."""
    result = tasks.add.s(2).set(queue="q", priority=3).delay(1)
    message = only(store)
    assert (message.id, message.queue, message.priority, message.terms) == (result.id, "q", 3, None)


@pytest.mark.parametrize("wrong", [{"queues": "q"}, {"unique": False}])
def test_an_unknown_option_is_named(tasks, wrong) -> None:
    """Where it is written, not when it runs."""
    with pytest.raises(ConfigurationError, match=f"unknown option '{next(iter(wrong))}'"):
        tasks.add.s(1).set(**wrong)


def test_what_is_no_signature_is_refused(tasks) -> None:
    """A call that was made already, or a task without arguments, is a mistake that is easily made."""
    for make in (lambda: chain(tasks.add), lambda: group([tasks.add.s(1), 3]), lambda: tasks.add.s(1).link("x")):
        with pytest.raises(ConfigurationError, match=r"made of signatures such as task\.s"):
            make()


def canvases(tasks):
    add, double, total = tasks.add, tasks.double, tasks.total
    moment = datetime(2030, 1, 1, tzinfo=UTC)
    yield add.s(1, 2)
    yield add.si(1, y=2).set(queue="q", countdown=5, eta=moment).link(double.s()).link_error(tasks.note.s("e"))
    yield (add.s(1, 2) | double.s() | group(add.s(1), add.s(2) | double.s())).link_error(tasks.note.s())
    yield chord([add.s(1, 1), double.s(2)], total.s(more=1), collect_errors=True).set(expires="1m")
    yield add.chunks([(1, 2), (3, 4), (5, 6)], 2) | total.s()
    yield group(double.map([1, 2]), add.starmap([(1, 2)]))


def test_a_signature_goes_through_json_and_back(tasks, app) -> None:
    """Each kind, with options, links and errbacks, and moments."""
    for canvas in canvases(tasks):
        again = app.signature(json.loads(json.dumps(canvas.to_dict())))
        assert again == canvas
        assert type(again) is type(canvas)
        assert (
            again.line()._replace(errbacks=()) == canvas.line()._replace(errbacks=()) or canvas.links or again.errbacks
        )


@pytest.mark.parametrize(
    "wrong", [{}, {"task": "nobody"}, {"task": "poolrt.chain", "subtask_type": "chain"}, {"task": 3}]
)
def test_a_dict_that_is_no_signature_is_refused(app, wrong) -> None:
    """By a sentence, not by a KeyError."""
    with pytest.raises(ConfigurationError, match=r"not a signature|has no task"):
        app.signature(wrong)


def test_a_signature_by_name(tasks, app, store) -> None:
    """``app.signature`` takes a name, arguments and options."""
    app.signature("add", (1,), {"y": 2}, queue="q").delay()
    assert only(store).queue == "q"
    with pytest.raises(ConfigurationError, match="no task 'nobody'"):
        app.signature("nobody")


def test_chains_are_flat_and_groups_in_groups_too(tasks) -> None:
    """However they were put together; a group's options go behind its members' own."""
    a, b, c, d = (tasks.add.s(n) for n in range(4))
    assert ((a | b) | (c | d)).to_dict() == chain(a, b, c, d).to_dict()
    made = group(group(a, b.set(queue="own")).set(queue="q"), c)
    assert [each.options.get("queue") for each in made.members] == ["q", "own", None]


def test_a_group_has_no_value_to_link(tasks) -> None:
    """The sentence says what to write instead."""
    with pytest.raises(ConfigurationError, match=r"group\(…\) \| callback|group\(\.\.\.\) \| callback"):
        group(tasks.add.s(1, 1)).link(tasks.note.s())


def test_each_makes_its_calls_when_they_are_asked_for(tasks) -> None:
    """A group over a range holds the range."""
    made = tasks.double.each(range(10_000))
    assert len(made.members) == 10_000
    assert next(iter(made.members)) == tasks.double.s(0)
    assert tasks.double.s(9_999) in made.members
    assert not isinstance(made.members, tuple)


def test_a_local_task_cannot_be_mapped(app) -> None:
    """map finds its task by name, so one that travels by value is refused at once."""
    local = app.task(lambda x: x)
    with pytest.raises(ConfigurationError, match="workers cannot import"):
        local.map([1])


def test_arguments_that_cannot_be_carried_are_refused_before_anything_is_enqueued(tasks, store) -> None:
    """Also those of the last step."""
    with pytest.raises(EncodingError):
        (tasks.add.s(1, 2) | tasks.add.s(object())).delay()
    assert not store.stored
