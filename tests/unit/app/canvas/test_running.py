"""What canvases come to on a store that keeps the broker's rules: values, failures, callbacks, cancels, retries."""

from __future__ import annotations

import asyncio
import time

import pytest

from poolrt import ChordError, TaskState, chain, chord, group
from poolrt.app.canvas.found import tree_of_root
from poolrt.app.canvas.results import GroupResult
from poolrt.app.result import AsyncResult
from poolrt.app.retried import retried
from poolrt.errors import ConfigurationError, Ignore, TaskCancelled, TaskFailed
from poolrt.message import Enqueue, decode_message, decode_record
from poolrt.terms import Slot


def retry(store, task_id) -> None:
    assert store.retry(Enqueue.of(retried(decode_record(store.kept[task_id]), time.time())))


def terms_of(store, task_id):
    return decode_message(store.stored[task_id].envelope).terms


def test_values_go_before_the_arguments(tasks, worker) -> None:
    """Of each next step; not of immutable ones."""
    result = (tasks.add.s(1, 2) | tasks.add.s(10) | tasks.note.s("after")).delay()
    last = (tasks.add.s(1, 2) | tasks.add.si(5, 5)).delay()
    worker.drain()
    assert tasks.noted == [(13, "after")]
    assert (result.get(), last.get(), last.parent.get()) == (None, 10, 3)


def test_a_group_then_a_task_is_a_chord(tasks, worker, store) -> None:
    """Its body's message holds no result: only where they are."""
    result = (group(tasks.add.s(i, i) for i in range(3)) | tasks.total.s(more=100) | tasks.double.s()).delay()
    for _ in range(3):
        worker.step()
    (body,) = store.stored
    message = decode_message(store.stored[body].envelope)
    assert (message.payload, message.terms.collect) == (b'[[],{"more":100}]', (f"{body}:g", 3))
    worker.drain()
    assert result.get() == 212
    assert result.parent.parent.get() == [0, 2, 4]
    assert not store.groups


def test_a_chain_may_end_in_a_group(tasks, worker) -> None:
    """Its result is the group's, in order; groups inside stay lists."""
    result = (tasks.add.s(1, 2) | group(tasks.double.s(), tasks.add.s(1) | group(tasks.double.s()))).delay()
    assert isinstance(result, GroupResult)
    assert (result.ready(), result.completed_count()) == (False, 0)
    worker.drain()
    assert result.get() == [6, [8]]
    assert (result.ready(), result.successful(), result.failed(), result.completed_count()) == (True, True, False, 2)


def test_empty_groups(tasks, worker) -> None:
    """Nothing is nothing: an empty result, and a body that gets an empty list."""
    nothing = group().delay()
    assert (nothing.get(), nothing.ready(), str(nothing.tree())) == ([], True, "group of 0 members: ")
    ended, called = (tasks.add.s(1, 1) | group()).delay(), chord([], tasks.total.s(more=7)).delay()
    between = (tasks.add.s(1, 1) | group() | tasks.total.s()).delay()
    worker.drain()
    assert (ended.get(), called.get(), between.get()) == ([], 7, 0)


def test_map_starmap_and_chunks(tasks, worker) -> None:
    """One call for many items, and a group of such calls."""
    results = [
        tasks.double.map(range(3)).delay(), tasks.add.starmap([(1, 2), (3, 4)]).delay(),
        tasks.add.chunks([(i, i) for i in range(5)], 2).delay(), tasks.double.each(range(3)).delay(),
    ]  # fmt: skip
    worker.drain()
    assert [each.get() for each in results] == [[0, 2, 4], [3, 7], [[0, 2], [4, 6], [8]], [0, 2, 4]]


def test_a_failure_is_told_at_once(tasks, worker, store) -> None:
    """Whoever waits for the last step gets the error of the one that failed; the rest never runs."""
    result = (tasks.add.s(1, 2) | tasks.boom.s() | tasks.note.s() | tasks.note.s()).delay()
    assert result.state is TaskState.PLANNED
    worker.drain()
    with pytest.raises(TaskFailed, match=r"ValueError: boom \(in boom#.*:1, a step before it\)"):
        result.get(timeout=0)
    assert result.parent.state is TaskState.FAILED
    assert not tasks.noted
    assert not store.stored


def test_a_failed_member_fails_the_chord_at_once(tasks, worker, store) -> None:
    """Through all levels, with the steps that follow; its cause is named; the other members go on."""
    inner = chord([tasks.boom.s(), tasks.add.s(1, 1)], tasks.total.s()) | tasks.double.s()
    result = (chord([inner, tasks.add.s(2, 2)], tasks.total.s()) | tasks.note.s()).delay()
    worker.step()
    with pytest.raises(ChordError, match=r"member 0 \(boom#.*failed: ValueError: boom"):
        result.get(timeout=0)
    worker.drain()
    assert worker.runs("add") == 2
    assert worker.runs("total") == worker.runs("double") == 0
    assert not store.planned


def test_a_member_that_is_tried_again_mends_the_chord(tasks, worker, store, app) -> None:
    """The body then runs, and what waited for its failure gets its value."""
    result = (chord([tasks.boom.s(), tasks.add.s(1, 1)], tasks.total.s()) | tasks.double.s()).delay()
    worker.drain()
    assert result.state is TaskState.FAILED
    app.tasks["boom"].function = lambda *args: 40
    retry(store, Slot(f"{result.parent.id}:g", 0).id)
    worker.drain()
    assert AsyncResult(result.id, store).get(timeout=0) == 84


def test_a_failed_step_that_is_tried_again_goes_on(tasks, worker, store, app) -> None:
    """The failure of the steps after it is forgotten."""
    result = (tasks.boom.s() | tasks.double.s() | tasks.double.s()).delay()
    worker.drain()
    app.tasks["boom"].function = lambda *args: 1
    retry(store, f"{result.id}:0")
    worker.drain()
    assert result.get(timeout=0) == 4


def test_errors_may_be_collected(tasks, worker) -> None:
    """The body then runs once, with the exceptions in their places."""
    result = chord([tasks.boom.s(), tasks.double.s(2), tasks.boom.s() | tasks.double.s()], tasks.note.s(),
                   collect_errors=True).delay()  # fmt: skip
    worker.drain()
    ((values,),) = tasks.noted
    assert [type(each) for each in values] == [TaskFailed, int, TaskFailed]
    assert result.successful()


def test_errbacks_and_links(tasks, worker) -> None:
    """A chain's errback is called once, with the id of the step that failed; links get the value."""
    chained = (tasks.add.s(1, 2) | tasks.boom.s() | tasks.double.s()).link_error(tasks.note.s("chain")).delay()
    joined = chord([tasks.boom.s(), tasks.boom.s()], tasks.total.s()).link_error(tasks.note.s("chord")).delay()
    grouped = group(tasks.boom.s(), tasks.boom.s()).link_error(tasks.note.s("each")).delay()
    linked = tasks.add.s(1, 2).link(tasks.note.s("link") | tasks.note.s("then")).delay()
    worker.drain()
    assert sorted(tasks.noted, key=str) == sorted(
        [
            (f"{chained.id}:1", "chain"), (joined.id, "chord"), (f"{grouped.id}.0", "each"),
            (f"{grouped.id}.1", "each"), (3, "link"), (None, "then"),
        ],
        key=str,
    )  # fmt: skip
    assert [each.id for each in linked.children] == [f"{linked.id}:l0"]


def test_a_workflow_under_an_id_is_enqueued_once(tasks, worker, store) -> None:
    """However often it is applied: all ids are made from that one."""
    canvas = group(tasks.add.s(1, 1) | tasks.double.s(), tasks.add.s(2, 2)) | tasks.total.s()
    for _ in range(3):
        result = canvas.apply_async(task_id="order-17")
        worker.step()
    worker.drain()
    assert (result.id, result.get()) == ("order-17", 8)
    assert len(store.enqueued) == len(set(store.enqueued)) == 4


def test_all_messages_of_a_workflow_have_its_root(tasks, worker, store) -> None:
    """So that they are found, and cancelled, together."""
    result = (tasks.add.s(1, 2) | group(tasks.double.s(), tasks.double.s()) | tasks.total.s()).delay()
    roots = set()
    while store.stored:
        roots |= {decode_message(item.envelope).root for item in store.stored.values()}
        worker.step()
    assert roots == {result.id}


def test_options_of_a_canvas_go_behind_those_of_its_calls(tasks, worker, store) -> None:
    """Countdowns only to what comes first."""
    (tasks.add.s(1, 2) | tasks.double.s().set(queue="own")).apply_async(queue="all", countdown=60)
    (first,) = store.stored.values()
    assert (first.queue, first.eta > time.time() + 50) == ("all", True)
    worker.step()
    (second,) = store.stored.values()
    assert (second.queue, second.eta) == ("own", None)


def test_countdown_and_expires_of_a_later_step_begin_when_it_is_enqueued(tasks, worker, store) -> None:
    """Not when the workflow was."""
    (tasks.add.s(1, 2) | tasks.double.s().set(countdown=60, expires="2m")).delay()
    worker.step()
    (item,) = store.stored.values()
    message = decode_message(item.envelope)
    assert message.eta == pytest.approx(time.time() + 60, abs=5)
    assert message.expires == pytest.approx(time.time() + 120, abs=5)


def test_members_of_a_chord_keep_their_results(app, tasks, worker) -> None:
    """Also those of tasks that keep none; a step of a chain that keeps none hands its value on all the same."""
    quiet = app.task(name="quiet", ignore_result=True)(tasks.double.function)
    result = chord([quiet.s(1), quiet.s(2) | quiet.s()], tasks.total.s()).delay()
    worker.drain()
    assert result.get() == 10
    assert str(result.tree()).count("succeeded") > 3


def test_cancel_of_a_workflow(tasks, worker, store) -> None:
    """What waits ends, what would follow never comes, and whoever waits is told."""
    result = (tasks.add.s(1, 2) | group(tasks.double.s(), tasks.note.s()) | tasks.note.s() | tasks.note.s()).delay()
    assert result.cancel()
    worker.drain()
    assert not worker.ran
    with pytest.raises(TaskCancelled):
        result.get(timeout=0)
    assert not result.cancel()


def test_cancel_of_a_step_that_is_not_enqueued_yet(tasks, worker, store) -> None:
    """What is before it runs; what is after it ends as cancelled, also in the group around it."""
    result = (
        group(tasks.add.s(1, 2) | tasks.double.s() | tasks.double.s(), tasks.add.s(1, 1)) | tasks.note.s()
    ).delay()
    member = result.parent[0]
    assert member.parent.cancel()
    worker.drain()
    assert worker.runs("add") == 2
    assert worker.runs("double") == worker.runs("note") == 0
    for each in (member, result):
        with pytest.raises((TaskCancelled, ChordError)):
            each.get(timeout=0)


def test_cancel_of_a_member_fails_its_chord(tasks, worker) -> None:
    """At once."""
    result = chord([tasks.add.s(1, 1), tasks.add.s(2, 2)], tasks.total.s()).delay()
    assert result.parent[1].cancel()
    with pytest.raises(ChordError, match="cancelled"):
        result.get(timeout=0)


def test_a_tree_says_where_each_part_is(tasks, worker) -> None:
    """Also those that are planned, and those that will not come."""
    result = (tasks.add.s(1, 2) | group(tasks.double.s(), tasks.boom.s()) | tasks.total.s() | tasks.note.s()).delay()
    assert result.tree().counts() == {"queued": 1, "planned": 4}
    worker.step()
    assert result.tree().counts() == {"succeeded": 1, "queued": 2, "planned": 2}
    worker.drain()
    tree = result.tree()
    assert tree.counts() == {"succeeded": 2, "failed": 3}
    assert [part["kind"] for part in tree.to_dict()["parts"]] == ["call", "group", "call", "call"]
    assert str(tree).splitlines()[0] == "chain of 4 steps: 2 succeeded, 3 failed"
    assert result.parent.parent[0].tree().counts() == {"succeeded": 1}


def test_a_result_may_be_awaited(tasks, worker) -> None:
    """What is known already, without a thread; a group's in order."""
    result = (tasks.add.s(1, 2) | group(tasks.double.s(), tasks.add.s(1))).delay()
    worker.drain()
    assert result.get() == [6, 4]

    async def wait() -> list[int]:
        return await result

    assert asyncio.run(wait()) == [6, 4]


def test_a_value_too_large_for_what_follows_fails_the_step(tasks, worker, app) -> None:
    """With a sentence that says what to do, in the step that returned it."""
    app.tasks["double"].function = lambda x: "x" * (16 * 1024 * 1024 + 1)
    result = (tasks.double.s(1) | tasks.note.s()).delay()
    worker.drain()
    for each in (result, result.parent):
        with pytest.raises(TaskFailed, match=r"EncodingError: .*store the data elsewhere"):
            each.get(timeout=0)


def test_a_step_that_ignores_itself_ends_its_workflow(tasks, worker, app) -> None:
    """It has no value to go on with, so what waits for one is told."""

    def ignore(x: object) -> None:
        raise Ignore

    app.tasks["double"].function = ignore
    result = group(tasks.double.s(1) | tasks.note.s(), tasks.add.s(1, 1)) | tasks.note.s()
    result = result.delay()
    worker.drain()
    assert not tasks.noted
    with pytest.raises(ChordError, match="Ignored: it ended without a result"):
        result.get(timeout=0)


def test_what_cannot_be_in_a_workflow_is_refused(app, tasks, store) -> None:
    """Unique tasks, ids inside, errbacks that are chains, gates of results that nobody knows yet."""
    unique = app.task(name="unique", unique=True)(tasks.double.function)
    keyed = app.task(name="keyed", max_concurrency=1, limit_key=str)(tasks.double.function)
    wrong = {
        "is unique": tasks.add.s(1, 2) | unique.s(),
        "task_id is of a whole workflow": tasks.add.s(1, 2) | tasks.double.s().set(task_id="x"),
        "one call, not several": (tasks.add.s(1, 2) | tasks.note.s()).link_error(tasks.note.s() | tasks.note.s()),
        "limit_key of keyed": group(tasks.add.s(1, 2), tasks.add.s(1, 2)) | keyed.s(),
    }
    for says, canvas in wrong.items():
        with pytest.raises(ConfigurationError, match=says):
            canvas.delay()
    with pytest.raises(ConfigurationError, match="has no step"):
        chain().delay()
    assert not store.stored


def test_a_key_of_the_arguments_is_made_when_they_are_known(app, tasks, worker, store) -> None:
    """By the child that enqueues the step."""
    keyed = app.task(name="keyed", max_concurrency=1, limit_key=lambda x: f"k{x}")(tasks.double.function)
    (tasks.add.s(1, 2) | keyed.s()).delay()
    worker.step()
    (item,) = store.stored.values()
    assert item.gate.key == "k3"


def test_bounds(tasks) -> None:
    """Steps, members and nesting; the sentence says what to do instead."""
    with pytest.raises(ConfigurationError, match="10001 steps in a chain: at most 10000"):
        chain(*[tasks.double.s()] * 10_001)
    with pytest.raises(ConfigurationError, match="100001 members"):
        tasks.double.each(range(100_001))
    deep = tasks.double.s(1)
    for _ in range(52):
        deep = chord([deep, tasks.double.s(1)], tasks.total.s())
    with pytest.raises(ConfigurationError, match="nested deeper than 50"):
        deep.delay()


def test_a_deep_workflow_has_ids_that_fit(tasks, worker, store) -> None:
    """Forty levels: every id fits a board row, and the value comes through."""
    deep = tasks.double.s(1)
    for _ in range(40):
        deep = chord([deep], tasks.total.s())
    result = deep.delay()
    assert max(map(len, store.stored)) <= 120
    worker.drain()
    assert result.get() == 2
    assert max(map(len, store.enqueued)) <= 120


def test_a_large_group_is_enqueued_in_thousands(tasks, store) -> None:
    """The group goes with its first members."""
    (tasks.double.each(range(2_500)) | tasks.total.s()).delay()
    assert store.calls == 3
    assert len(store.stored) == 2_500


def test_a_tree_from_the_root_alone(tasks, worker, store) -> None:
    """Another process, which has nothing but the id, sees the same parts: those that ended, run and are to come."""
    inner = chord([tasks.double.s(1), tasks.double.s(2)], tasks.total.s())
    ends = group(tasks.double.s(), tasks.add.s(1))
    canvas = group(inner, tasks.add.s(1, 2) | tasks.double.s()) | tasks.total.s() | ends
    result = canvas.delay()
    for _ in range(20):
        seen, expected = tree_of_root(store, result.id), result.tree()
        assert {each.id for each in seen.calls()} <= {each.id for each in expected.calls()}
        states = {each.id: each.state for each in expected.calls()}
        assert all(states[each.id] == each.state for each in seen.calls())
        if not worker.step():
            break
    assert result.tree() == tree_of_root(store, result.id)
    assert len(list(result.tree().calls())) == 8


def test_a_long_chain_travels_in_parcels(tasks, worker, store) -> None:
    """Its messages stay small, its tree whole, and the steps far ahead come in their order."""
    steps = [tasks.add.s(1) if number % 2 else tasks.double.si(number) for number in range(500)]
    result = chain(tasks.add.s(0, 1), *steps).delay()
    (item,) = store.stored.values()
    assert len(item.envelope) < 20_000
    assert len(list(tree_of_root(store, result.id).calls())) == 501
    worker.drain()
    assert result.get() == 2 * 498 + 1
    assert worker.runs("double") == 250
    failed = (chain(tasks.boom.s(), *steps) | tasks.note.s()).delay()
    worker.drain()
    with pytest.raises(TaskFailed, match=r"^note#"):
        failed.get(timeout=0)


def test_calling_a_canvas_enqueues_it(tasks, worker) -> None:
    """As in Celery: ``chord(header)(body)``, ``group(...)()``, ``chain(...)()``; of a task it is run here and now."""
    called = chord(tasks.add.s(i, i) for i in range(3))(tasks.total.s())
    all_of = group(tasks.add.s(i, 1) for i in range(3))()
    line = chain(tasks.add.s(1, 2), tasks.add.s(3))()
    worker.drain()
    assert (called.get(), all_of.get(), line.get()) == (6, [1, 2, 3], 6)
    assert tasks.add.s(1, 2)() == 3


def test_a_chord_needs_its_body(tasks) -> None:
    """It says how to give it one."""
    with pytest.raises(ConfigurationError, match=r"chord\(header\)\(body\)"):
        chord(tasks.add.s(i, i) for i in range(3)).delay()
