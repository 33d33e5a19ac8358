"""The child's loop over a broker in memory: what it reserves, when it settles, and how it leaves."""

from __future__ import annotations

import time

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from poolrt.child import loop as loop_module
from poolrt.child.pace import MAX_BATCH, MAX_PIPELINED_BATCH
from poolrt.child.watches import Verdict
from poolrt.errors import BrokerBusy, BrokerFull, Fenced
from poolrt.message import Message, Outcome, decode_record
from poolrt.notice import Leaving, Trouble
from poolrt.states import Activity, Order, TaskState

pytestmark = pytest.mark.usefixtures("clock")


def states(broker) -> list[TaskState | None]:  # type: ignore[no-untyped-def]
    return [outcome.state for outcome in broker.outcomes]


@pytest.mark.parametrize("pipelined", [False, True])
def test_runs_everything_once_and_holds_nothing(noop, put, make, broker, row, lifeline, pipelined) -> None:
    """All that is queued is run and settled once, in batches that grow but never beyond their bound."""
    broker.pipelined = pipelined
    put("noop", 500)
    make().run()
    assert states(broker) == [TaskState.SUCCEEDED] * 500
    assert not broker.held
    assert not broker.queue
    assert row.done == 500
    assert row.held_now == 0
    assert row.word is Activity.LEAVE
    assert 1 < broker.max_held <= 1.5 * (MAX_PIPELINED_BATCH if pipelined else MAX_BATCH)
    assert lifeline.sent == [Leaving("supervisor gone", 500)]


def test_reserves_are_numbered_and_published_before_they_are_sent(noop, put, make, broker, row) -> None:
    """No reserve number is used twice, and the row shows it first (protocol.md, 1 and 7)."""
    put("noop", 30)
    sent = broker.submit

    def submit(outcomes, reserve, n, **_):  # type: ignore[no-untyped-def]
        if reserve:
            assert [entry for entry in row.log if entry[0] == "reserving"][-1] == ("reserving", n)
        sent(outcomes, reserve, n)

    broker.submit = submit
    make().run()
    numbers = [entry[3] for entry in broker.log if entry[0] == "submit" and entry[2]]
    assert numbers == sorted(set(numbers))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(max_tasks=st.integers(1, 90), queued=st.integers(0, 200), pipelined=st.booleans())
def test_max_tasks_is_never_exceeded(max_tasks, queued, pipelined, noop, put, make, broker, row, lifeline) -> None:
    """A child runs exactly as many as it may, and holds none that it will not run."""
    broker.pipelined = pipelined
    broker.log.clear()
    broker.queue.clear()
    broker.outcomes.clear()
    row.done, lifeline.cut, lifeline.sent[:] = 0, False, []
    put("noop", queued)
    make(max_tasks).run()
    ran = min(max_tasks, queued)
    assert (row.done, len(broker.outcomes), len(broker.queue)) == (ran, ran, queued - ran)
    assert not broker.held
    assert not [entry for entry in broker.log if entry[0] == "release"], "it never reserved more than it may run"
    reason = "max_tasks_per_child" if queued >= max_tasks else "supervisor gone"
    assert lifeline.sent == [Leaving(reason, ran)]


def test_max_tasks_needs_no_release(noop, put, make, broker) -> None:
    """A planned recycling puts nothing back: it never reserved more than it may run."""
    put("noop", 100)
    make(40).run()
    assert not [entry for entry in broker.log if entry[0] == "release"]


def test_retire_puts_back_what_is_held_in_order(app, noop, put, make, broker, row, lifeline) -> None:
    """Told to retire during a task, the child ends that one, settles it, and puts back the others at their place."""

    @app.task(name="last")
    def last() -> None:
        row.order = Order.RETIRE

    loop = make()
    for name in ("noop", "last"):
        loop._pace.learn(name, 0.0001)
    loop._pace._batch = 8
    put("noop", 2)
    put("last")
    put("noop", 5)
    make_ids = [message.id for message in broker.queue]
    loop.run()
    assert row.done == 3
    assert [message.id for message in broker.queue] == make_ids[3:]
    assert states(broker) == [TaskState.SUCCEEDED] * 3
    assert lifeline.sent == [Leaving("retired", 3)]
    assert not broker.held
    assert row.held_now == 0


def test_a_retired_child_reserves_nothing(noop, put, make, broker, row, lifeline) -> None:
    """Told to retire before its first look, a child leaves without touching the queue."""
    row.order = Order.RETIRE
    put("noop", 3)
    make().run()
    assert len(broker.queue) == 3
    assert broker.log == []
    assert lifeline.sent == [Leaving("retired", 0)]


def test_it_says_that_it_leaves_before_it_settles(app, put, make, broker, lifeline) -> None:
    """Its successor may start while it is still giving back."""

    @app.task(name="exit")
    def leave() -> None:
        raise SystemExit(1)

    seen = []
    submit = broker.submit

    def watched(outcomes, reserve, n, **_):  # type: ignore[no-untyped-def]
        if outcomes:
            seen.append(list(lifeline.sent))
        submit(outcomes, reserve, n)

    broker.submit = watched
    put("exit")
    make().run()
    assert seen == [[Leaving("tainted: SystemExit in exit", 1, "exit")]]
    assert states(broker) == [TaskState.FAILED]


def test_finished_tasks_are_settled_before_a_long_one(app, noop, put, make, broker) -> None:
    """What is finished does not wait for a long task behind it in the batch: a crash of that one repeats no other."""
    loop = make()

    @app.task(name="long")
    def long() -> None:
        settled.append((len(broker.outcomes), len(loop._settler.unanswered)))

    settled: list[tuple[int, int]] = []
    loop._pace.learn("noop", 0.0001)
    loop._pace.learn("long", 0.004)
    loop._pace._batch = 4
    put("noop", 3)
    put("long")
    loop.run()
    assert settled == [(3, 0)], "and the broker has said so"


def test_finished_tasks_are_settled_within_2_ms(app, put, make, broker, clock) -> None:
    """In a batch of short tasks, none waits more than 2 ms to be settled once it has ended."""
    loop = make()
    ended: dict[int, int] = {}

    @app.task(name="short")
    def short(number: int) -> None:
        clock[0] += 300_000
        ended[number] = clock[0]

    waited = []
    submit = broker.submit

    def watched(outcomes, reserve, n, **_):  # type: ignore[no-untyped-def]
        waited.extend(clock[0] - ended[int(outcome.delivery.task_id.removeprefix("id-"))] for outcome in outcomes)
        submit(outcomes, reserve, n)

    broker.submit = watched
    loop._pace.learn("short", 0.0003)
    loop._pace._batch = MAX_BATCH
    for number in range(60):
        put("short", 1, number)
    loop.run()
    assert len(waited) == 60
    assert max(waited) <= 2_000_000
    assert sum(1 for entry in broker.log if entry[0] == "submit" and entry[1] > 1) > 5, "and still by batches"


def test_what_does_not_fit_the_batch_is_released_at_once(noop, app, put, make, broker) -> None:
    """An unknown task in a batch is held only if it is alone: the others are another child's, now."""

    @app.task(name="unknown")
    def unknown() -> None:
        held.append(len(broker.held))

    held: list[int] = []
    loop = make()
    loop._pace.learn("noop", 0.0001)
    loop._pace._batch = 8
    put("noop", 2)
    put("unknown", 2)
    loop.run()
    assert ("release", 2) in broker.log
    assert held == [1, 1]
    assert states(broker) == [TaskState.SUCCEEDED] * 4


def test_what_cannot_be_released_is_run(noop, app, put, make, broker, busy) -> None:
    """A broker that will not take back what does not fit the batch costs nothing: the child runs it itself."""
    app.task(name="unknown")(lambda: None)
    loop = make()
    loop._pace._batch = 3
    put("unknown", 3)

    def refuse(deliveries):  # type: ignore[no-untyped-def]
        raise busy

    broker.release = refuse
    loop.run()
    assert states(broker) == [TaskState.SUCCEEDED] * 3


def test_leaving_does_not_wait_for_a_release(app, noop, put, make, broker, row, lifeline, busy) -> None:
    """A child that leaves and may not put back what it holds leaves all the same: the steward will do it."""
    app.task(name="last")(lambda: setattr(row, "order", Order.RETIRE))
    loop = make()
    for name in ("noop", "last"):
        loop._pace.learn(name, 0.0001)
    loop._pace._batch = 4
    put("last")
    put("noop", 3)

    def refuse(deliveries):  # type: ignore[no-untyped-def]
        raise busy

    broker.release = refuse
    loop.run()
    assert states(broker) == [TaskState.SUCCEEDED]
    assert len(broker.held) == 3
    assert lifeline.waits == []
    assert row.word is Activity.LEAVE


def test_what_cannot_run_is_settled_and_the_rest_goes_on(noop, put, make, broker) -> None:
    """An unknown task, an unreadable message and an expired one cost their neighbours nothing."""
    put("noop")
    put("nobody.knows.it")
    broker.queue.append(Message("late", "noop", b"[[],{}]", expires=1.0))
    put("noop")
    make().run()
    assert states(broker) == [TaskState.SUCCEEDED, None, TaskState.EXPIRED, TaskState.SUCCEEDED]
    assert not broker.held


def test_an_idle_child_waits_and_is_woken(noop, put, make, broker, row, lifeline) -> None:
    """With nothing to do the child waits as IDLE, without asking again, until a producer wakes it."""
    waits = []

    def idle() -> bool:
        waits.append((row.word, len(broker.log)))
        if len(waits) == 1:
            put("noop", 3)
            return True
        lifeline.cut = True
        return False

    lifeline.when_idle = idle
    make().run()
    assert [word for word, _ in waits] == [Activity.IDLE] * 2
    assert waits[0][1] == 1
    assert row.done == 3
    assert broker.nudges == 1, "it was woken and there was more than it took: it passes the wake-up on"


def test_a_standby_waits_for_the_order(noop, put, make, broker, row, lifeline) -> None:
    """A standby says so in its row, touches no message, and works once its order says so."""
    row.order = Order.STANDBY
    put("noop", 2)
    seen = []

    def ordered() -> None:
        seen.append((row.word, len(broker.log)))
        if len(seen) == 3:
            row.order = Order.WORK

    lifeline.when_ordered = ordered
    make().run()
    assert seen == [(Activity.STANDBY, 0)] * 3
    assert row.done == 2


def test_a_standby_ends_with_its_supervisor(make, broker, row, lifeline) -> None:
    """A standby whose supervisor is gone leaves without ever having asked the broker."""
    row.order = Order.STANDBY
    lifeline.when_ordered = lambda: setattr(lifeline, "cut", True)
    make().run()
    assert lifeline.sent == [Leaving("supervisor gone", 0)]
    assert broker.log == []


def test_trouble_keeps_the_outcomes_and_is_told_once(noop, put, make, broker, lifeline, busy) -> None:
    """While the broker refuses, outcomes are kept and sent again, ever more rarely; it is told once, its end too."""
    put("noop", 3)
    loop = make()
    submit = broker.submit

    def submit_into_trouble(outcomes, reserve, n, **_):  # type: ignore[no-untyped-def]
        if outcomes and not lifeline.waits:
            broker.trouble = [busy] * 6
        submit(outcomes, reserve, n)

    broker.submit = submit_into_trouble
    loop.run()
    assert states(broker) == [TaskState.SUCCEEDED] * 3
    assert not broker.held
    assert lifeline.sent[:2] == [Trouble("BrokerBusy: locked by another process"), Trouble("")]
    assert lifeline.sent[2:] == [Leaving("supervisor gone", 3)]
    base = (0.05, 0.1, 0.2, 0.4, 0.8, 1.0)
    assert len(lifeline.waits) == 6
    for pause, wait in zip(base, lifeline.waits, strict=True):
        assert pause * 0.5 <= wait <= pause * 1.5


def test_another_trouble_is_told_too(noop, put, make, broker, lifeline) -> None:
    """If the broker's reason changes, the supervisor hears the new one."""
    put("noop")
    broker.trouble = [BrokerBusy("a"), BrokerFull("b"), BrokerFull("b")]
    make().run()
    assert lifeline.sent[:3] == [Trouble("BrokerBusy: a"), Trouble("BrokerFull: b"), Trouble("")]


def test_retire_during_trouble(noop, put, make, broker, row, lifeline, busy) -> None:
    """A child that holds nothing leaves though the broker is down; it need not wait for its grace to be killed."""
    put("noop")
    broker.trouble = [busy] * 50

    def ordered() -> None:
        if len(lifeline.waits) == 2:
            row.order = Order.RETIRE

    lifeline.when_ordered = ordered
    make().run()
    assert len(lifeline.waits) == 2
    assert lifeline.sent[-1] == Leaving("retired", 0)
    assert len(broker.queue) == 1


def test_retire_during_trouble_with_outcomes(noop, put, make, broker, row, lifeline, busy) -> None:
    """With finished tasks in hand it goes on trying to settle them, and reserves no more."""
    put("noop", 2)
    submit = broker.submit

    def submit_into_trouble(outcomes, reserve, n, **_):  # type: ignore[no-untyped-def]
        if outcomes and not lifeline.waits:
            broker.trouble = [busy] * 5
        submit(outcomes, reserve, n)

    broker.submit = submit_into_trouble
    lifeline.when_ordered = lambda: setattr(row, "order", Order.RETIRE)
    make().run()
    assert states(broker) == [TaskState.SUCCEEDED]
    assert len(broker.queue) == 1
    assert not broker.held


def test_fenced_leaves_at_once(noop, put, make, broker, lifeline) -> None:
    """A child the broker does not know does not try again: what it held is someone else's."""
    put("noop", 2)
    broker.trouble = [Fenced("buried")]
    with pytest.raises(Fenced):
        make().run()
    assert lifeline.waits == []
    assert lifeline.sent == []
    assert len(broker.log) == 1


def test_an_orphan_in_trouble_ends(noop, put, make, broker, lifeline, busy) -> None:
    """With the supervisor gone and the broker down, the child ends instead of trying for ever."""
    put("noop")
    broker.trouble = [busy] * 50
    lifeline.when_ordered = lambda: setattr(lifeline, "cut", True)
    with pytest.raises(BrokerBusy):
        make().run()
    assert len(lifeline.waits) == 1


def test_stale_settles_are_logged_and_counted(noop, put, make, broker, row, caplog) -> None:
    """What the broker did not take, since it was not ours any more, is said."""
    put("noop")
    submit = broker.submit

    def steal(outcomes, reserve, n, **_):  # type: ignore[no-untyped-def]
        if outcomes:
            broker.held.clear()
        submit(outcomes, reserve, n)

    broker.submit = steal
    make().run()
    assert "1 settled tasks were not ours any more" in caplog.text
    assert row.too_late == 1


@pytest.mark.parametrize("first", [True, False])
def test_a_finding_that_fails_its_run(noop, put, make, audit, broker, row, lifeline, first) -> None:  # type: ignore[no-untyped-def]
    """By policy the run that was caught fails, as LeakFound; where no policy says so it is settled as it ended."""
    put("noop", 2)
    audit.goes_first = first
    audit.finds = Verdict("it leaks", "noop", "it leaks")
    make().run()
    (outcome,) = broker.outcomes
    assert outcome.state is (TaskState.FAILED if first else TaskState.SUCCEEDED)
    assert lifeline.sent == [Leaving("it leaks", 1, "noop")]
    assert row.failed == int(first)
    if first:
        assert decode_record(outcome.record).error.type == "LeakFound"


def test_a_sampled_run(noop, put, make, audit, broker) -> None:  # type: ignore[no-untyped-def]
    """What it kept is read when its outcome is settled: a collection may hang in what the task left."""
    put("noop", 1)
    audit.sampling = lambda: True
    seen = []

    def sample(task: str, runtime: float, outcome: Outcome) -> None:
        audit.settle_first()
        seen.append((task, outcome.state, len(broker.done)))

    audit.sample = sample
    make().run()
    assert seen == [("noop", TaskState.SUCCEEDED, 1)]
    assert audit.left


def test_a_run_that_was_taken_away_before_its_sample(noop, put, make, audit, broker, row) -> None:  # type: ignore[no-untyped-def]
    """To settle what is finished may bring the news that this one is somebody else's by now: it is not started."""
    put("noop", 1)
    loop = make()

    def sampling() -> bool:
        loop._held.clear()
        return True

    audit.sampling = sampling
    loop.run()
    assert row.done == 0


def test_a_failed_run_is_not_failed_again(app, put, make, audit, broker) -> None:  # type: ignore[no-untyped-def]
    """What it raised says more than what it left; a retry stays one."""

    @app.task(name="bad")
    def bad() -> None:
        raise ValueError("mine")

    put("bad")
    audit.goes_first = True
    audit.finds = Verdict("it leaks", "bad", "it leaks")
    make().run()
    (outcome,) = broker.outcomes
    assert decode_record(outcome.record).error.type == "ValueError"


def test_what_is_found_before_a_run_makes_the_child_leave(noop, put, make, audit, broker, lifeline) -> None:  # type: ignore[no-untyped-def]
    """The run is not started: it goes back with the rest."""
    put("noop", 3)
    audit.finds_before = Verdict("another leaks", "other")
    make().run()
    assert audit.seen == []
    assert len(broker.queue) == 3
    (leaving,) = [sent for sent in lifeline.sent if isinstance(sent, Leaving)]
    assert (leaving.reason, leaving.task) == ("another leaks", "other")


def test_a_finding_of_the_audit_makes_the_child_leave(noop, put, make, audit, broker, lifeline) -> None:  # type: ignore[no-untyped-def]
    """After the task that the audit finds fault with nothing is started; the rest goes back, and the reason is told."""
    put("noop", 3)
    audit.finds = Verdict("it leaks", "noop")
    make().run()
    assert audit.seen == ["noop"]
    assert len(broker.queue) == 2
    (leaving,) = [sent for sent in lifeline.sent if isinstance(sent, Leaving)]
    assert (leaving.reason, leaving.task) == ("it leaks", "noop")


def test_a_refused_put_back_is_not_forgotten(noop, put, make, broker, row, lifeline, busy) -> None:  # type: ignore[no-untyped-def]
    """A quiet child lives on, so what the broker does not take back it offers again, also once it is to work again."""
    put("noop", 12)
    submit, release, refused = broker.submit, broker.release, []

    def submitting(outcomes, reserve, n, **_):  # type: ignore[no-untyped-def]
        submit(outcomes, reserve, n)
        if reserve > 1 and not refused:
            row.order = Order.STANDBY  # the order comes while it reserves

    def releasing(deliveries):  # type: ignore[no-untyped-def]
        if len(refused) < 2:
            refused.append(len(deliveries))
            raise busy
        return release(deliveries)

    def resume() -> None:
        row.order = Order.WORK

    broker.submit, broker.release, lifeline.when_ordered = submitting, releasing, resume
    make().run()
    assert len(refused) == 2
    assert not broker.held
    assert states(broker) == [TaskState.SUCCEEDED] * 12


# ---- a broker that is pipelined


def test_late_outcomes_are_sent_without_waiting(app, noop, put, make, broker) -> None:
    """Before a long task what is finished is handed over, and the broker's answer is not waited for."""
    broker.pipelined = True
    loop = make()
    seen = []

    @app.task(name="long")
    def long() -> None:
        seen.append((broker.log[-1], len(broker.outcomes)))

    loop._pace.learn("noop", 0.0001)
    loop._pace.learn("long", 0.006)
    loop._pace._batch = 4
    put("noop", 3)
    put("long")
    loop.run()
    assert seen == [(("submit", 3, 0, 1), 0)]
    assert states(broker) == [TaskState.SUCCEEDED] * 4


@pytest.fixture
def reserved(make, broker):  # type: ignore[no-untyped-def]
    """A loop over a pipelined broker, and for each reserve: how many it still held, and how many were on their way."""
    broker.pipelined = True
    return _watched(make(), broker)


def _watched(loop, broker):  # type: ignore[no-untyped-def]
    submit, reserves = broker.submit, []

    def watched(outcomes, reserve, n, **_):  # type: ignore[no-untyped-def]
        if reserve:
            reserves.append((len(loop._held), loop._settler.reserving - reserve))
        submit(outcomes, reserve, n)

    broker.submit = watched
    return loop, reserves


def test_nothing_is_reserved_ahead_of_a_transaction(noop, put, make, broker) -> None:
    """Where a submit is the broker's work itself there is no trip to hide."""
    loop, reserves = _watched(make(), broker)
    put("noop", 300)
    loop.run()
    assert len(reserves) > 5
    assert set(reserves) == {(0, 0)}


def test_the_next_batch_is_reserved_ahead(noop, put, reserved, broker) -> None:
    """With half a batch of quick tasks left the next is asked for, once, and with what is finished: no trip is waited
    for, and none is made for outcomes alone."""
    loop, reserves = reserved
    loop._pace.learn("noop", 0.00001)
    loop._pace._batch = MAX_PIPELINED_BATCH
    put("noop", 10 * MAX_PIPELINED_BATCH)
    loop.run()
    assert reserves[:9] == [(0, 0)] + [(MAX_PIPELINED_BATCH // 2, 0)] * 8
    assert not [entry for entry in broker.log[:10] if not entry[2]]
    assert len(broker.done) == 10 * MAX_PIPELINED_BATCH


def test_what_takes_long_is_not_reserved_ahead(app, put, reserved) -> None:
    """Of tasks of 3 ms the next are asked for when one is left, not three; behind one of 10 ms never."""
    loop, reserves = reserved
    for name, seconds in (("three", 0.003), ("ten", 0.01)):
        app.task(name=name)(lambda: None)
        loop._pace.learn(name, seconds)
    loop._pace.learn = lambda *_: None
    loop._pace._batch = 6
    put("three", 12)
    put("ten", 6)
    loop.run()
    assert [held for held, _ in reserves if held] == [1, 1]


def test_nothing_is_reserved_ahead_of_an_unknown_task(app, put, reserved) -> None:
    """Nobody knows how long it takes, so nothing is to wait behind it."""
    loop, reserves = reserved
    for number in range(6):
        app.task(name=f"new-{number}")(lambda: None)
        put(f"new-{number}")
    loop.run()
    assert {held for held, _ in reserves} == {0}


@pytest.mark.parametrize("order", [Order.RETIRE, Order.STANDBY])
def test_what_is_on_its_way_is_put_back(app, noop, put, reserved, broker, row, lifeline, order) -> None:
    """Told to hold nothing while a reserve is in flight, the child reads its answer first, and puts that back too."""
    app.task(name="last")(lambda: setattr(row, "order", order))
    loop, _ = reserved
    for name in ("noop", "last"):
        loop._pace.learn(name, 0.00001)
    loop._pace._batch = 8
    lifeline.when_ordered = lambda: setattr(lifeline, "cut", True)
    put("noop", 5)
    put("last")
    put("noop", 30)
    expected = [message.id for message in broker.queue][6:]
    loop.run()
    assert max(entry[3] for entry in broker.log if entry[0] == "submit") == 2
    assert len(broker.done) == 6
    assert not broker.held
    assert sorted(message.id for message in broker.queue) == sorted(expected)


# ---- recalls


@pytest.fixture
def recalling(app, broker, row):  # type: ignore[no-untyped-def]
    """A task that is recalled from while it runs: the mark stands in the row, and the broker took all else back."""
    taken = []

    def long() -> None:
        if taken:
            return
        n, i = row.log[-1][1:3]
        upto = max(entry[1] for entry in row.log if entry[0] == "reserving")
        row.recall_mark = (n, i, upto)
        broker.floor = upto
        taken.extend(fence for fence in broker.held if fence > (n, i))
        broker.queue.extendleft([broker.held.pop(fence) for fence in reversed(taken)])

    app.task(name="long")(long)
    return taken


@pytest.mark.parametrize("pipelined", [False, True])
def test_what_was_recalled_is_given_up(noop, put, make, broker, recalling, pipelined, caplog) -> None:
    """What the child held behind a long task it neither runs nor releases: it is somebody else's, or reserved anew."""
    broker.pipelined = pipelined
    loop = make()
    for name in ("noop", "long"):
        loop._pace.learn(name, 0.0001)
    loop._pace._batch = 8
    put("noop", 2)
    put("long")
    put("noop", 20)
    loop.run()
    assert len(recalling) == 5
    assert sorted(broker.done) == sorted(f"id-{number}" for number in range(23))
    assert "not ours" not in caplog.text, "none was run twice"
    assert not [entry for entry in broker.log if entry[0] == "release"]


@pytest.mark.parametrize("arrives", ["before", "after"])
def test_a_reserve_on_its_way_is_recalled_too(noop, put, reserved, broker, recalling, arrives, caplog) -> None:
    """What a reserve sent before the mark brings is given up; if it brings nothing, that says nothing of the queue."""
    loop, _ = reserved
    for name in ("noop", "long"):
        loop._pace.learn(name, 0.00001)
    loop._pace._batch = 8
    if arrives == "before":
        broker.submit = _done_at_once(broker, broker.submit)
    put("noop", 6)
    put("long")
    put("noop", 20)
    loop.run()
    assert len(recalling) == (20 if arrives == "before" else 1)
    assert sorted(broker.done) == sorted(f"id-{number}" for number in range(27))
    assert "not ours" not in caplog.text
    assert not broker.held


def _done_at_once(broker, submit):  # type: ignore[no-untyped-def]
    def submit_and_do(*what, **_):  # type: ignore[no-untyped-def]
        submit(*what)
        broker._answers.append(broker._do())

    return submit_and_do


def test_a_reserve_that_was_taken_back_has_not_seen_the_queue(put, make, broker, row) -> None:
    """That it brings nothing does not mean that there is nothing: the child must not go idle over it."""
    broker.pipelined = True
    loop = make()
    row.recall_mark, broker.floor = (1, 1, 1), 1
    loop._settler.send(4)
    loop._settler.send(4)
    assert not loop._receive()
    assert loop._receive()


def test_a_recall_teaches_nothing_of_what_did_not_run(noop, put, make, broker, recalling) -> None:
    """The next batch is not smaller, nor larger, for what was taken back unrun."""
    loop = make()
    loop._pace.learn("noop", 0.0001)
    loop._pace.learn("long", 0.0001)
    loop._pace.learn = lambda *_: None
    loop._pace._batch = 8
    put("long")
    put("noop", 20)
    loop.run()
    assert [entry[2] for entry in broker.log if entry[0] == "submit"][:2] == [8, 8]


def test_the_interrupted_one_is_not_given_up(noop, put, make, broker, row, executor, monkeypatch) -> None:
    """A run that was recalled from and then interrupted is put back by the child: the recall does not cover it."""
    loop = make()
    loop._pace.learn("noop", 0.0001)
    loop._pace._batch = 4

    def interrupted(execution):  # type: ignore[no-untyped-def]
        row.recall_mark = (execution.delivery.n, execution.delivery.i, execution.delivery.n)
        row.order = Order.RETIRE

    monkeypatch.setattr(executor, "run", interrupted)
    put("noop", 4)
    loop.run()
    assert ("release", 1) in broker.log
    assert sorted(broker.held) == [(1, 1), (1, 2), (1, 3)], "the steward's"


def test_the_supervisor_is_to_look_at_a_child_that_holds_more(noop, put, make, row, lifeline, clock) -> None:
    """A batch is behind its first task: the supervisor is poked, unless it looks soon enough by itself."""
    put("noop", 5)
    row.next_wake = clock[0] + 90_000_000
    make().run()
    assert lifeline.pokes == 0
    lifeline.cut = False
    row.next_wake = 2**64 - 1
    put("noop", 1)
    make().run()
    assert lifeline.pokes == 0, "it held one"
    lifeline.cut = False
    put("noop", 5)
    make().run()
    assert lifeline.pokes == 1


# ---- the lease


@pytest.fixture
def leased(broker, row, monkeypatch) -> list[int]:  # type: ignore[no-untyped-def]
    """CLOCK_BOOTTIME; the lease runs out at 1000."""
    now = [0]
    monkeypatch.setattr(loop_module, "boottime_ns", lambda: now[0])
    broker.leases = broker.pipelined = True
    row.lease_until = 1000
    return now


def test_nothing_is_started_past_the_lease(app, noop, put, make, broker, row, lifeline, leased) -> None:
    """When the lease runs out, what is finished is sent and nothing is started until it is renewed."""
    app.task(name="slow")(lambda: leased.__setitem__(0, 1000))
    loop = make()
    for name in ("slow", "noop"):
        loop._pace.learn(name, 0.00001)
    loop._pace._batch = 4
    put("slow")
    put("noop", 3)
    seen = []

    def ordered() -> None:
        seen.append((row.done, broker.log[-1][1]))
        if len(seen) == 3:
            row.lease_until = 2000

    lifeline.when_ordered = ordered
    loop.run()
    assert seen == [(1, 1)] * 3
    assert set(lifeline.waits) == {0.2}
    assert len(broker.done) == 4
    assert lifeline.sent == [Leaving("supervisor gone", 4)], "that is no trouble of the broker"


@pytest.mark.parametrize("end", ["retire", "cut"])
def test_orders_hold_without_a_lease(noop, put, make, broker, row, lifeline, leased, end) -> None:
    """A child that may start nothing still leaves when it is told to, and puts back what it holds."""
    leased[0] = 5000
    put("noop", 2)
    if end == "cut":
        lifeline.when_ordered = lambda: setattr(lifeline, "cut", True)
    else:
        lifeline.when_ordered = lambda: setattr(row, "order", Order.RETIRE)
    make().run()
    assert row.done == 0
    assert not broker.held
    assert len(broker.queue) == 2


def test_no_lease_is_needed_where_there_is_none(noop, put, make, broker, row, leased, lifeline) -> None:
    """A cell that is 0 says that the node has none."""
    leased[0] = 5000
    row.lease_until = 0
    put("noop", 2)
    make().run()
    assert row.done == 2
    assert lifeline.waits == []


# ---- idle where the broker wakes


def test_a_wake_up_brings_work_and_is_passed_on(noop, put, make, lifeline, waiting, caplog) -> None:
    """The answer that it waited for holds the work, without another look; with more than that it wakes another."""

    def idle() -> bool:
        lifeline.cut = bool(waiting.done)
        if not waiting.done:
            put("noop", 3)
        return not lifeline.cut

    lifeline.when_idle = idle
    make().run()
    assert len(waiting.done) == 3
    assert waiting.log[:3] == [("submit", 0, 1, 1), ("wait", 1, 2), ("submit", 1, 4, 3)]
    assert waiting.nudges == 1
    assert not caplog.records


def test_a_wait_that_ends_by_itself_is_begun_again(make, lifeline, waiting) -> None:
    """Without another look at the queue: the broker has just had one."""
    idles = []

    def idle() -> bool:
        waiting.woken = False
        idles.append(waiting.log[-1])
        lifeline.cut = len(idles) == 3
        return not lifeline.cut

    lifeline.when_idle = idle
    make().run()
    assert idles == [("wait", 1, 2), ("wait", 1, 3), ("wait", 1, 4)]


@pytest.mark.parametrize(("age", "warned"), [(3.0, True), (0.2, False)])
def test_found_without_a_wake_up(noop, put, make, lifeline, waiting, told, age, warned) -> None:
    """Work that the end of a wait finds should have been announced, unless it is so new that it may be yet."""

    def idle() -> bool:
        lifeline.cut = bool(waiting.done)
        if not waiting.done:
            waiting.woken = False
            put("noop", 2)
            waiting.queue = type(waiting.queue)(
                msgspec.structs.replace(message, enqueued_at=time.time() - age) for message in waiting.queue
            )
        return not lifeline.cut

    lifeline.when_idle = idle
    make().run()
    assert len(waiting.done) == 2
    assert told == [("warning", "", "", "found work that no wake-up announced")] * warned
    assert waiting.nudges == 1, "another child may be idle just so"


def test_a_wait_that_breaks_is_trouble(noop, put, make, lifeline, waiting) -> None:
    """It is told, and begun again after a look at the queue and ever longer pauses; what came is found."""
    idles = []

    def idle() -> bool:
        idles.append(len(waiting.log))
        if len(idles) < 5:
            waiting.cut(arrived=0)
            return True
        lifeline.cut = True
        return False

    lifeline.when_idle = idle
    lifeline.when_ordered = lambda: len(lifeline.waits) == 2 and put("noop")
    make().run()
    assert [wait > 0.02 * 2**number for number, wait in enumerate(lifeline.waits)] == [True] * 4
    assert lifeline.sent[0] == Trouble("BrokerUnreachable: cut")
    assert lifeline.sent[-2:] == [Trouble(""), Leaving("supervisor gone", 1)]
    assert len([entry for entry in waiting.log if entry[0] == "resume"]) == 4


def test_what_a_broken_wait_brought_goes_back(noop, put, make, lifeline, waiting) -> None:
    """The server reserved, and its answer was lost: nothing stays with a child that does not know of it."""
    idles = []

    def idle() -> bool:
        idles.append(1)
        if len(idles) == 1:
            put("noop", 1)
            waiting.cut(arrived=1)
            return True
        lifeline.cut = True
        return False

    lifeline.when_idle = idle
    make().run()
    assert ("release", 1) in waiting.log
    assert len(waiting.done) == 1
    assert not waiting.held


def test_a_wait_that_cannot_begin_is_trouble(noop, put, make, lifeline, waiting, busy) -> None:
    """As any other call."""
    idles = []

    def idle() -> bool:
        idles.append(1)
        waiting.trouble = [busy] if len(idles) == 1 else []
        lifeline.cut = len(idles) == 2
        return not lifeline.cut

    lifeline.when_idle = idle
    make().run()
    assert lifeline.sent[0].text.startswith("BrokerBusy")


def test_silence_is_trouble(noop, put, make, lifeline, waiting, clock) -> None:
    """Pokes that order nothing do not end a wait; that no answer comes at all does, after some seconds."""
    idles = []

    def idle() -> bool:
        idles.append(waiting.log[-1])
        if len(idles) == 2:
            clock[0] += 7 * 10**9
        lifeline.cut = len(idles) == 4
        return False

    lifeline.when_idle = idle
    make().run()
    assert idles[:3] == [("wait", 1, 2), ("wait", 1, 2), ("wait", 1, 4)]
    assert "silent" in lifeline.sent[0].text


def test_an_idle_child_that_is_retired_leaves_at_once(noop, put, make, row, lifeline, waiting) -> None:
    """It asks the broker, which may be away, for nothing more; what came at the last moment its burial puts back."""

    def idle() -> bool:
        row.order = Order.RETIRE
        return False

    lifeline.when_idle = idle
    make().run()
    assert [entry[0] for entry in waiting.log] == ["submit", "wait", "close"]
    assert lifeline.sent == [Leaving("retired", 0)]


@pytest.mark.parametrize("came", [0, 2])
def test_an_idle_child_that_is_quieted_takes_its_wait_back(noop, put, make, row, lifeline, waiting, came) -> None:
    """It lives on, so it must know what the server gave it at the last moment."""

    def idle() -> bool:
        row.order = Order.STANDBY
        put("noop", came)
        waiting.cut(arrived=1)
        return False

    lifeline.when_idle = idle
    lifeline.when_ordered = lambda: setattr(row, "order", Order.RETIRE)
    make().run()
    assert [entry[0] for entry in waiting.log] == ["submit", "wait", "resume", *["release"] * bool(came)]
    assert not waiting.held
    assert len(waiting.queue) == came


def test_an_order_that_is_taken_back_in_time(noop, put, make, row, lifeline, waiting) -> None:
    """The child goes on, on another connection: an answer to what it hung up on is not read."""
    idles = []

    def idle() -> bool:
        idles.append(1)
        if len(idles) == 1:
            row.order = Order.RETIRE
            return False
        lifeline.cut = True
        return False

    def close() -> None:
        waiting.log.append(("close", 0, 0))
        waiting.cut(arrived=0)
        row.order = Order.WORK
        put("noop")

    waiting.close = close
    lifeline.when_idle = idle
    make().run()
    assert len(waiting.done) == 1
    assert ("resume", 0, 0, 0) in waiting.log


def test_an_order_beside_an_empty_answer(make, row, lifeline, waiting) -> None:
    """Its poke was taken with the answer, and no other comes: the child must not wait again."""
    idles = []

    def idle() -> bool:
        idles.append(1)
        assert len(idles) == 1
        row.order = Order.RETIRE
        return True

    lifeline.when_idle = idle
    make().run()
    assert lifeline.sent == [Leaving("retired", 0)]


@pytest.mark.parametrize("pipelined", [False, True])
@pytest.mark.parametrize(("milliseconds", "back"), [(30, True), (4, False)])
def test_a_batch_that_is_overrun_goes_back(app, put, make, broker, clock, pipelined, milliseconds, back) -> None:
    """Learnt as quick, it has become slow: what waits behind its first slow run is others' to take, before the next."""
    broker.pipelined = pipelined
    left: list[int] = []

    @app.task(name="slow")
    def slow() -> None:
        clock[0] += milliseconds * 1_000_000
        left.append(len(broker.queue))

    loop = make()
    loop._pace.learn("slow", 0.00001)
    loop._pace._batch = 8
    put("slow", 8)
    loop.run()
    assert len(broker.done) == 8
    assert left[0] == 0, "all were taken at once"
    assert (left[1] > 0) is back
