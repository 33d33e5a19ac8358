"""The child's loop over a broker in memory: what it reserves, when it settles, and how it leaves."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from poolrt.app.app import App
from poolrt.child import executor as executor_module
from poolrt.child import loop as loop_module
from poolrt.child.audit import Reason
from poolrt.child.executor import Executor
from poolrt.child.loop import MAX_BATCH, Loop
from poolrt.codec import encode_arguments
from poolrt.errors import BrokerBusy, BrokerFull, Fenced
from poolrt.message import Message
from poolrt.notice import Leaving, Trouble
from poolrt.states import Activity, Order, TaskState

Put = Callable[..., None]
Make = Callable[..., Loop]


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The child's monotonic clock, in ns: tasks take no time unless they move it, however loaded the machine is."""
    now = [10**9]

    class Time:
        monotonic_ns = staticmethod(lambda: now[0])
        time = staticmethod(time.time)
        monotonic = staticmethod(lambda: now[0] / 1e9)

    monkeypatch.setattr(loop_module, "time", Time)
    monkeypatch.setattr(executor_module, "time", Time)
    return now


class FakeAudit:
    """Remembers which tasks it looked at; ``finds`` is its answer."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.finds: Reason | None = None

    def after(self, task: str) -> Reason | None:
        self.seen.append(task)
        return self.finds


@pytest.fixture
def put(broker) -> Put:  # type: ignore[no-untyped-def]
    """``put("name", 3, *args)``: three calls into the queue."""
    numbers = itertools.count()

    def put(task: str, count: int = 1, *args: object) -> None:
        codec, payload = encode_arguments(args, {}, trusted=True, task=task)
        broker.queue.extend(Message(f"id-{next(numbers)}", task, payload, codec) for _ in range(count))

    return put


@pytest.fixture
def audit() -> FakeAudit:
    """An audit that finds nothing, until a test says otherwise."""
    return FakeAudit()


@pytest.fixture
def make(broker, executor: Executor, audit: FakeAudit, row, lifeline) -> Make:  # type: ignore[no-untyped-def]
    """``make(max_tasks=0)``: a loop; it ends when it is idle, as if the supervisor were gone."""
    return lambda max_tasks=0: Loop(broker, executor, audit, row, lifeline, max_tasks)


@pytest.fixture
def noop(app: App) -> None:
    """A task that does nothing."""

    @app.task(name="noop")
    def noop() -> None:
        pass


def states(broker) -> list[TaskState | None]:  # type: ignore[no-untyped-def]
    return [outcome.state for outcome in broker.outcomes]


def test_runs_everything_once_and_holds_nothing(noop, put, make, broker, row, lifeline) -> None:
    """All that is queued is run and settled once, in batches that grow but never beyond their bound."""
    put("noop", 500)
    make().run()
    assert states(broker) == [TaskState.SUCCEEDED] * 500
    assert not broker.held
    assert not broker.queue
    assert row.done == 500
    assert row.held_now == 0
    assert row.word is Activity.LEAVE
    assert 1 < broker.max_held <= 2 * MAX_BATCH
    assert lifeline.sent == [Leaving("supervisor gone", 500)]


def test_reserves_are_numbered_and_published_before_they_are_sent(noop, put, make, broker, row) -> None:
    """No reserve number is used twice, and the row shows it first (protocol.md, 1 and 7)."""
    put("noop", 30)
    sent = broker.settle

    def settle(outcomes, reserve, n, **_):  # type: ignore[no-untyped-def]
        if reserve:
            assert [entry for entry in row.log if entry[0] == "reserving"][-1] == ("reserving", n)
        return sent(outcomes, reserve, n)

    broker.settle = settle
    make().run()
    numbers = [entry[3] for entry in broker.log if entry[0] == "settle" and entry[2]]
    assert numbers == sorted(set(numbers))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(max_tasks=st.integers(1, 90), queued=st.integers(0, 200))
def test_max_tasks_is_never_exceeded(max_tasks: int, queued: int, noop, put, make, broker, row, lifeline) -> None:
    """A child runs exactly as many as it may, and holds none that it will not run."""
    broker.queue.clear()
    broker.outcomes.clear()
    row.done, lifeline.cut, lifeline.sent[:] = 0, False, []
    put("noop", queued)
    make(max_tasks).run()
    ran = min(max_tasks, queued)
    assert (row.done, len(broker.outcomes), len(broker.queue)) == (ran, ran, queued - ran)
    assert not broker.held
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
    settle = broker.settle

    def watched(outcomes, reserve, n, **_):  # type: ignore[no-untyped-def]
        if outcomes:
            seen.append(list(lifeline.sent))
        return settle(outcomes, reserve, n)

    broker.settle = watched
    put("exit")
    make().run()
    assert seen == [[Leaving("tainted: SystemExit in exit", 1, "exit")]]
    assert states(broker) == [TaskState.FAILED]


def test_finished_tasks_are_settled_before_a_long_one(app, noop, put, make, broker) -> None:
    """What is finished does not wait for a long task behind it in the batch: a crash of that one repeats no other."""
    loop = make()

    @app.task(name="long")
    def long() -> None:
        settled.append(len(broker.outcomes))

    settled: list[int] = []
    loop._pace.learn("noop", 0.0001)
    loop._pace.learn("long", 0.004)
    loop._pace._batch = 4
    put("noop", 3)
    put("long")
    loop.run()
    assert settled == [3]


def test_finished_tasks_are_settled_within_2_ms(app, put, make, broker, clock) -> None:
    """In a batch of short tasks, none waits more than 2 ms to be settled once it has ended."""
    loop = make()
    ended: dict[int, int] = {}

    @app.task(name="short")
    def short(number: int) -> None:
        clock[0] += 300_000
        ended[number] = clock[0]

    waited = []
    settle = broker.settle

    def watched(outcomes, reserve, n, **_):  # type: ignore[no-untyped-def]
        waited.extend(clock[0] - ended[int(outcome.delivery.task_id.removeprefix("id-"))] for outcome in outcomes)
        return settle(outcomes, reserve, n)

    broker.settle = watched
    loop._pace.learn("short", 0.0003)
    loop._pace._batch = MAX_BATCH
    for number in range(60):
        put("short", 1, number)
    loop.run()
    assert len(waited) == 60
    assert max(waited) <= 2_000_000
    assert sum(1 for entry in broker.log if entry[0] == "settle" and entry[1] > 1) > 5, "and still by batches"


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
    settle = broker.settle

    def settle_with_trouble(outcomes, reserve, n, **_):  # type: ignore[no-untyped-def]
        if outcomes and not lifeline.waits:
            broker.trouble = [busy] * 6
        return settle(outcomes, reserve, n)

    broker.settle = settle_with_trouble
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
    settle = broker.settle

    def settle_with_trouble(outcomes, reserve, n, **_):  # type: ignore[no-untyped-def]
        if outcomes and not lifeline.waits:
            broker.trouble = [busy] * 5
        return settle(outcomes, reserve, n)

    broker.settle = settle_with_trouble
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


def test_stale_settles_are_logged(noop, put, make, broker, caplog) -> None:
    """What the broker did not take, since it was not ours any more, is said."""
    put("noop")
    settle = broker.settle

    def steal(outcomes, reserve, n, **_):  # type: ignore[no-untyped-def]
        if outcomes:
            broker.held.clear()
        return settle(outcomes, reserve, n)

    broker.settle = steal
    make().run()
    assert "1 settled tasks were not ours any more" in caplog.text


def test_a_finding_of_the_audit_makes_the_child_leave(noop, put, make, audit, broker, lifeline) -> None:  # type: ignore[no-untyped-def]
    """After the task that the audit finds fault with nothing is started; the rest goes back, and the reason is told."""
    put("noop", 3)
    audit.finds = Reason("it leaks", "noop")
    make().run()
    assert audit.seen == ["noop"]
    assert len(broker.queue) == 2
    (leaving,) = [sent for sent in lifeline.sent if isinstance(sent, Leaving)]
    assert (leaving.reason, leaving.task) == ("it leaks", "noop")


def test_a_refused_put_back_is_not_forgotten(noop, put, make, broker, row, lifeline, busy) -> None:  # type: ignore[no-untyped-def]
    """A quiet child lives on, so what the broker does not take back it offers again, also once it is to work again."""
    put("noop", 12)
    settle, release, refused = broker.settle, broker.release, []

    def settling(outcomes, reserve, n, *, without=()):  # type: ignore[no-untyped-def]
        done = settle(outcomes, reserve, n, without=without)
        if len(done.deliveries) > 1 and not refused:
            row.order = Order.STANDBY  # the order comes while it reserves
        return done

    def releasing(deliveries):  # type: ignore[no-untyped-def]
        if len(refused) < 2:
            refused.append(len(deliveries))
            raise busy
        return release(deliveries)

    def resume() -> None:
        row.order = Order.WORK

    broker.settle, broker.release, lifeline.when_ordered = settling, releasing, resume
    make().run()
    assert len(refused) == 2
    assert not broker.held
    assert states(broker) == [TaskState.SUCCEEDED] * 12
