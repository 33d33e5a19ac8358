"""The child's settler through the broker's trouble: lost answers, broken connections, servers that forget
(protocol.md, rules 3, 4 and 23)."""

from __future__ import annotations

import itertools
import random
from collections import Counter, deque

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from poolrt.child.settler import MOST_UNSETTLED
from poolrt.errors import BrokerUnreachable, Fenced
from poolrt.message import Delivery, Outcome
from poolrt.notice import Leaving, Trouble
from poolrt.states import Activity, Order, TaskState

pytestmark = pytest.mark.usefixtures("clock", "noop")


@pytest.fixture(autouse=True)
def pipelined(broker) -> None:  # type: ignore[no-untyped-def]
    """The broker of these tests answers later."""
    broker.pipelined = True


@pytest.fixture
def loop(make):  # type: ignore[no-untyped-def]
    """A loop that knows "noop" to be quick, and holds eight at first."""
    loop = make()
    loop._pace.learn("noop", 0.00001)
    loop._pace._batch = 8
    return loop


def at_submit(broker, number, fault):  # type: ignore[no-untyped-def]
    """Have ``fault`` happen right after the ``number``-th submit."""
    submit, count = broker.submit, [0]

    def submitting(*what, **_):  # type: ignore[no-untyped-def]
        submit(*what)
        count[0] += 1
        if count[0] == number:
            fault()

    broker.submit = submitting


def all_once(broker, count):  # type: ignore[no-untyped-def]
    """Whether each of ``count`` tasks was settled once and nothing is left behind."""
    return Counter(broker.done) == Counter(f"id-{i}" for i in range(count)) and not broker.held and not broker.queue


@pytest.mark.parametrize("arrived", [0, 1])
@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_an_answer_that_is_lost_loses_nothing(put, loop, broker, lifeline, row, number, arrived, caplog) -> None:
    """Whether or not the broker did what was asked: outcomes are sent again if they are still held, what a lost answer
    brought goes back, nothing runs twice; and it is told once, also when it works again."""
    put("noop", 50)
    at_submit(broker, number, lambda: broker.cut(arrived))
    loop.run()
    assert all_once(broker, 50)
    assert row.done == 50
    assert "not ours" not in caplog.text
    assert lifeline.sent == [Trouble("BrokerUnreachable: cut"), Trouble(""), Leaving("supervisor gone", 50)]
    numbers = [entry[3] for entry in broker.log if entry[0] == "submit" and entry[2]]
    assert numbers == sorted(set(numbers)), "a number is never used again, also not by a repeated reserve"


def test_what_a_lost_answer_reserved_is_released(put, loop, broker) -> None:
    """Nobody will ever run it here: the child puts it back by its fence alone."""
    released = []
    release = broker.release

    def releasing(deliveries):  # type: ignore[no-untyped-def]
        released.extend((each.n, each.i) for each in deliveries)
        return release(deliveries)

    broker.release = releasing
    put("noop", 3)
    at_submit(broker, 1, broker.cut)
    loop.run()
    assert released == [(1, 0), (1, 1), (1, 2)]
    assert all_once(broker, 3)


@pytest.mark.parametrize("more", [0, 1])
def test_a_server_that_forgets_is_told_again(put, loop, broker, row, more) -> None:
    """What was answered and is held again, since the server came back older, is settled again and not run again."""
    put("noop", 50)
    answer, answers = broker.answer, []

    def answering():  # type: ignore[no-untyped-def]
        settled = answer()
        answers.append(len(broker.done))
        if len(answers) == 3:
            broker.cut(more)
            broker.roll_back(6)
        return settled

    broker.answer = answering
    loop.run()
    assert answers[2] >= 6
    assert all_once(broker, 50)
    assert row.done == 50


def test_what_was_answered_long_ago_is_forgotten(loop, clock) -> None:
    """After 2 s it is not kept: a server that forgets it then has it run again."""
    settler = loop._settler
    outcome = Outcome(Delivery(b"", 1, 1, "x", 0, suspect=False), TaskState.SUCCEEDED)
    kept = []
    for seconds in (0, 1.5, 0.4, 0.2, 1.9):
        clock[0] += int(seconds * 1e9)
        settler._remember([outcome] * 3)
        kept.append(len(settler._recent))
    assert kept == [1, 2, 3, 3, 2]
    assert settler._recent_outcomes == 6


@pytest.mark.parametrize(("size", "kept"), [(0, 2_000), (8 * 1024, 1000)])
def test_little_is_kept_of_what_was_answered(loop, size, kept) -> None:
    """At most 2,000 outcomes, and of large ones 8 MiB."""
    settler = loop._settler
    outcome = Outcome(Delivery(b"", 1, 1, "x", 0, suspect=False), TaskState.SUCCEEDED, b"x" * size)
    for _ in range(300):
        settler._remember([outcome] * 10)
    assert 0.9 * kept <= sum(len(batch.outcomes) for batch in settler._recent) <= max(kept, 1024)
    assert settler._recent_bytes == settler._recent_outcomes * size


def test_what_the_broker_does_not_hold_is_not_started(put, loop, broker, row, caplog) -> None:
    """After a reconnect the child drops what another has by now, and says so."""
    put("noop", 40)
    gone = []
    answer = broker.answer

    def answering():  # type: ignore[no-untyped-def]
        settled = answer()
        if not gone:  # the reserve ahead, with half of the batch left, meets a broken connection
            broker.cut()
            gone.append(broker.held.pop(max(broker.held)).id)
        return settled

    broker.answer = answering
    loop.run()
    assert len(gone) == 1
    assert sorted(broker.done) == sorted({f"id-{i}" for i in range(40)} - set(gone))
    assert row.done == 39
    assert "1 reserved tasks are not ours any more" in caplog.text


def test_trouble_while_resuming(put, loop, broker, lifeline) -> None:
    """A server that is still loading is asked again after ever longer pauses; the other reason is told too."""
    broker.refusals = [BrokerUnreachable("loading")] * 3
    put("noop", 10)
    at_submit(broker, 2, broker.cut)
    loop.run()
    assert all_once(broker, 10)
    assert lifeline.sent[:3] == [
        Trouble("BrokerUnreachable: cut"),
        Trouble("BrokerUnreachable: loading"),
        Trouble(""),
    ]
    for pause, wait in zip((0.05, 0.1, 0.2, 0.4), lifeline.waits, strict=True):
        assert pause * 0.5 <= wait <= pause * 1.5


@pytest.mark.parametrize("when", ["submit", "answer", "resume", "release"])
def test_fenced_is_final(put, loop, broker, lifeline, when) -> None:
    """Whatever the call, a child the broker does not know does not try again."""
    put("noop", 10)

    def fenced(*_, **__):  # type: ignore[no-untyped-def]
        raise Fenced("buried")

    if when == "resume":
        at_submit(broker, 2, broker.cut)
        broker.refusals = [Fenced("buried")]
    elif when == "release":
        at_submit(broker, 1, broker.cut)
        broker.release = fenced
    else:
        at_submit(broker, 1, lambda: setattr(broker, when, fenced))
    with pytest.raises(Fenced):
        loop.run()
    assert Trouble("") not in lifeline.sent


def test_what_a_fenced_child_had_finished_is_counted(put, loop, broker, row) -> None:
    """It is refused as a whole, sent or not: somebody else runs it."""
    put("noop", 1)

    def fenced(*_, **__):  # type: ignore[no-untyped-def]
        raise Fenced("rescued")

    at_submit(broker, 2, lambda: setattr(broker, "answer", fenced))
    with pytest.raises(Fenced):
        loop.run()
    assert row.too_late == 1


def test_retire_during_trouble_with_a_reserve_on_its_way(put, loop, broker, row, lifeline) -> None:
    """With nothing to settle a child that is to leave does not wait for a broker that is gone."""
    put("noop", 10)
    at_submit(broker, 1, broker.cut)
    broker.refusals = [BrokerUnreachable("refused")] * 50
    lifeline.when_ordered = lambda: len(lifeline.waits) == 2 and setattr(row, "order", Order.RETIRE)
    loop.run()
    assert len(lifeline.waits) == 2
    assert lifeline.sent[-1] == Leaving("retired", 0)


def test_retire_during_trouble_with_unanswered_outcomes(put, loop, broker, row, lifeline) -> None:
    """Outcomes whose answer is missing are to be settled first; nothing more is reserved."""
    put("noop", 40)
    at_submit(broker, 2, lambda: broker.cut(0))
    broker.refusals = [BrokerUnreachable("refused")] * 3
    lifeline.when_ordered = lambda: setattr(row, "order", Order.RETIRE)
    loop.run()
    assert len(broker.refusals) == 0
    assert len(broker.done) == row.done == 8
    assert not broker.held
    assert lifeline.sent[-2:] == [Leaving("retired", 8), Trouble("")]


def test_an_orphan_in_trouble_ends(put, loop, broker, lifeline) -> None:
    """With the supervisor gone and the broker too, the child ends."""
    put("noop", 10)
    at_submit(broker, 2, broker.cut)
    lifeline.when_ordered = lambda: setattr(lifeline, "cut", True)
    with pytest.raises(BrokerUnreachable):
        loop.run()
    assert len(lifeline.waits) == 1


# ---- waits and backlog


def test_nothing_is_started_behind_an_overdue_answer(app, put, loop, broker, clock) -> None:
    """While outcomes wait for their answer longer than 100 ms no task is started; the answer is read first."""
    seen = []

    @app.task(name="late")
    def late() -> None:
        seen.append(len(broker.done))
        clock[0] += 99_000_000 if len(seen) == 1 else 2_000_000

    loop._pace.learn("late", 0.006)
    loop._pace.learn = loop._pace.believe = lambda *_: None
    loop._put_back_rest = lambda: None
    put("noop", 2)
    put("late", 3)
    loop.run()
    assert seen == [0, 0, 2], "the first submit's answer was overdue, the second's not"


def test_outcomes_do_not_pile_up(put, loop, broker, row, clock) -> None:
    """However quick the tasks, a batch and a half at most is finished and not answered for."""
    settler, now = loop._settler, clock[0]
    outcome = Outcome(Delivery(b"", 1, 1, "x", 0, suspect=False), TaskState.SUCCEEDED)
    for count, send in ((MOST_UNSETTLED - 10, True), (10, False)):
        assert not (settler.unanswered and settler.is_behind(now))
        for _ in range(count):
            settler.add(outcome)
        if send:
            settler.send(0)
    assert not settler.is_behind(now)
    settler.add(outcome)
    assert settler.is_behind(now)
    settler.receive()
    assert not settler.unanswered


def test_few_answers_wait_unread(put, loop, broker, row) -> None:
    """With one submit a task the answers are read in time, and not only at the end of the batch."""
    most = []
    run = row.run

    def running(*what):  # type: ignore[no-untyped-def]
        most.append(len(loop._settler.unanswered))
        run(*what)

    row.run = running
    loop._is_late = lambda _: True
    loop._pace._batch = 32
    put("noop", 200)
    loop.run()
    assert 3 <= max(most) <= 4
    assert all_once(broker, 200)


def test_waiting_for_an_answer_is_no_commit(put, loop, broker, row) -> None:
    """What was handed over is no part of the last task's life: a death from then on is not counted against it."""
    answer, words = broker.answer, []

    def answering():  # type: ignore[no-untyped-def]
        words.append(row.word)
        return answer()

    broker.answer = answering
    put("noop", 20)
    loop.run()
    assert set(words) == {Activity.IDLE}


def test_a_release_reads_what_is_unanswered_first(app, put, loop, broker) -> None:
    """Its answer would be taken for another's; what was read so is handed out in its turn."""
    app.task(name="unknown")(lambda: None)
    release, unanswered = broker.release, []

    def releasing(deliveries):  # type: ignore[no-untyped-def]
        unanswered.append(len(broker._requests))
        return release(deliveries)

    broker.release = releasing
    settler = loop._settler
    put("noop", 40)
    put("unknown", 3)
    settler.send(40)
    settler.send(4)
    first = settler.receive()
    assert settler.release(first.deliveries[1:]) is None
    assert unanswered == [0]
    assert settler.reserving == 4
    assert len(settler.receive().deliveries) == 3
    assert settler.reserving == 0


def test_a_release_that_breaks_is_reconciled(app, put, loop, broker, row) -> None:
    """The child does not know what became of it, so it runs only what the broker says it still holds."""
    for number in range(3):
        app.task(name=f"new-{number}")(lambda: None)
        put(f"new-{number}")
    release, run, broken = broker.release, row.run, []

    def releasing(deliveries):  # type: ignore[no-untyped-def]
        release(deliveries)
        if not broken:
            broken.append(broker.cut())
            raise BrokerUnreachable("reset")

    def running(n, i, *rest):  # type: ignore[no-untyped-def]
        assert (n, i) in broker.held
        run(n, i, *rest)

    broker.release, row.run, loop._is_late = releasing, running, lambda _: False
    loop.run()
    assert broken
    assert row.done == 3
    assert all_once(broker, 3)


def test_trouble_is_calm_again_after_a_while(put, loop, broker, lifeline, clock) -> None:
    """Trouble soon after trouble waits longer; after five quiet seconds it is the first again."""
    settler = loop._settler
    for seconds in (0, 1, 1, 6):
        clock[0] += seconds * 10**9
        broker.is_cut = True
        settler.recover(BrokerUnreachable("reset"))
    for pause, wait in zip((0.05, 0.1, 0.2, 0.05), lifeline.waits, strict=True):
        assert pause * 0.5 <= wait <= pause * 1.5


# ---- all of it at random

FAULTS = st.lists(
    st.tuples(st.sampled_from(["cut", "roll back", "recall", "refuse", "steal"]), st.integers(1, 5), st.integers(0, 3)),
    max_size=12,
)
"""Which, after how many submits, and how much of it: of the requests under way, of the refusals."""


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(faults=FAULTS, count=st.integers(1, 120), max_tasks=st.sampled_from([0, 0, 40]), seed=st.integers(0, 99))
def test_whatever_happens_nothing_is_lost_or_run_twice(
    faults, count, max_tasks, seed, put, make, broker, row, lifeline, clock, app
) -> None:
    """Lost answers, reconnects, rollbacks, recalls, in any order: a task that was settled does not run again in this
    child, each ends once, and nothing stays held."""
    app.tasks.pop("task", None)
    _reset(broker, row, lifeline)
    rng = random.Random(seed)
    put("noop", count)
    broker.queue = deque(
        msgspec.structs.replace(message, id=f"id-{number}") for number, message in enumerate(broker.queue)
    )
    plan = list(faults)
    loop = make(max_tasks)
    loop._pace.learn("noop", 0.00001)
    submit, run = broker.__class__.submit, row.__class__.run
    wait = [0]

    def running(n, i, task_id, *rest):  # type: ignore[no-untyped-def]
        name = task_id.decode()
        assert name not in broker.done, "it was settled already"
        run(row, n, i, task_id, *rest)
        clock[0] += rng.choice((1_000, 1_000, 700_000, 3_000_000))
        if plan and wait[0] <= 0 and plan[0][0] == "recall":
            wait[0] = plan.pop(0)[1]
            _recall(broker, row, n, i)

    def submitting(*what, **_):  # type: ignore[no-untyped-def]
        submit(broker, *what)
        wait[0] -= 1
        if wait[0] <= 0 and plan and plan[0][0] != "recall":
            kind, wait[0], number = plan.pop(0)
            _strike(kind, number, broker, loop)

    row.run, broker.submit = running, submitting
    try:
        loop.run()
    finally:
        del row.run, broker.submit
    assert max(Counter(broker.done).values(), default=0) <= 1
    assert not broker.held
    assert not loop._settler.outcomes
    assert len(broker.done) + len(broker.queue) == count
    if not max_tasks:
        assert len(broker.done) == count


def _reset(broker, row, lifeline):  # type: ignore[no-untyped-def]
    broker.__init__()
    broker.pipelined = True
    row.__init__()
    lifeline.__init__()


def _recall(broker, row, n, i):  # type: ignore[no-untyped-def]
    """What a supervisor and a steward do while ``(n, i)`` runs."""
    upto = max(entry[1] for entry in row.log if entry[0] == "reserving")
    if row.recall_mark[2] >= n:
        return
    row.recall_mark, broker.floor = (n, i, upto), upto
    taken = sorted(fence for fence in broker.held if fence > (n, i))
    broker.queue.extendleft([broker.held.pop(fence) for fence in reversed(taken)])


def _strike(kind, number, broker, loop):  # type: ignore[no-untyped-def]
    """One fault of the connection or of the server. A rollback takes no more than the settler remembers; what is stolen
    waits in the child, which cannot know of it before it has reconnected."""
    broker.cut(number)
    if kind == "refuse":
        broker.refusals = [BrokerUnreachable("loading")] * number
    elif kind == "roll back":
        batches = (*loop._settler._recent, *loop._settler.unanswered)
        known = {(each.delivery.n, each.delivery.i) for batch in batches for each in batch.outcomes}
        newest = itertools.takewhile(
            lambda outcome: (outcome.delivery.n, outcome.delivery.i) in known, reversed(broker.outcomes)
        )
        broker.roll_back(min(len(list(newest)), number * 10))
    elif kind == "steal" and len(loop._held) > 1:
        last = loop._held[-1].delivery
        if (last.n, last.i) in broker.held:
            broker.queue.append(broker.held.pop((last.n, last.i)))
