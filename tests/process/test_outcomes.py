"""The outcome table, one cause after the other, on a real node; and where else a row is proven.

    cause                      outcome
    -------------------------  --------------------------------------------------------------------------------------
    returns                    succeeded: test_returned
    raises                     failed, again by retry_for: test_raised
      SystemExit and its like  failed, child recycled: test_raised_what_ends_the_child (test_crash, test_memory)
    soft, hard, memory limit   failed, again only if named: test_over_a_limit (test_time_limit: stacks of all kinds;
                               test_memory: how far above; tests/unit/child/test_interruption: where it is raised)
    child lost, running        requeued with backoff, counted, then dead: test_its_child_died, test_killed_from_outside
                               (test_crash: growing backoff, the breaker; tests/app/test_poison: unpickling)
      with acks_late=False     failed, WorkerLost: test_its_child_died_and_it_must_not_run_twice
    held, not started          requeued at its old place, uncounted: test_held_behind_a_crash
                               (test_time_limit, test_shutdown, test_recycling, test_signals: each other reason)
    interrupted, node stops    requeued at its old place, uncounted (test_signals, test_shutdown)
    node lost                  what ran is counted, the rest is not: test_the_whole_node_died
                               (test_own_deaths: each process alone, another node as rescuer)
      and its board            suspects, counted by their claim: test_the_whole_node_died_and_its_board
                               (tests/brokers/test_owners: delivered alone, counted at the next loss)
    unknown task name          handed back with delay, then dead: test_unknown (tests/app/test_foreign)
    unreadable, other minor    dead at once, bytes kept: test_unreadable (tests/app/test_foreign: a dozen kinds)
    wrong arguments            failed, TypeError: test_unreadable
    expired                    expired: test_expired
    cancelled                  cancelled: test_cancelled (tests/app/test_cancel, tests/brokers/test_cancel)

Without a test, since there is nothing to test yet: a wrong signature, the recall of what is held behind a long task.
"""

import os
import pickle
import signal
import time
from datetime import UTC, datetime, timedelta

import pytest

from poolrt.errors import TaskCancelled, TaskDead, TaskExpired, TaskFailed, WorkerLost
from poolrt.message import Enqueue, Message, decode_message, encode_message
from poolrt.states import TaskState

WAYS = {
    "SIGSEGV": (-signal.SIGSEGV, "killed by SIGSEGV", "Segmentation fault"),
    "SIGABRT": (-signal.SIGABRT, "killed by SIGABRT", "Aborted"),
    "SIGKILL": (-signal.SIGKILL, "killed by SIGKILL", ""),
    "3": (3, "exited with code 3", ""),
}
"""How a child may end: its status, what is said of it, and what its last stacks begin with, if it can write them."""


@pytest.fixture
def app(place):
    """The App of outcome_apps on this test's broker file."""
    import outcome_apps

    made = outcome_apps.build(f"sqlite:///{place}/p.db")
    yield made
    made.close()


@pytest.fixture
def start(serve):
    """``start(**settings)``: a node with one child that runs outcome_apps."""
    return lambda **settings: serve("outcome_apps:app", **settings)


@pytest.fixture
def holding(start, tasks, ledger, gate):
    """``holding(task, how)``: a node whose child runs a gated ``task`` and holds twenty more; node and results."""

    def begin(name, how="", **settings):
        task = getattr(tasks, name)
        node = start(**settings)
        taught = task.enqueue_many([(str(ledger), f"a{i}") for i in range(200)])
        assert taught[-1].get(10) == "a199"  # the name is known as quick by now: a batch is held
        calls = [(str(ledger), "running", how, str(gate)), *((str(ledger), f"b{i}") for i in range(20))]
        results = task.enqueue_many(calls)
        node.wait(lambda: "running" in ledger.column(), "the gated task runs")
        assert node.child()["held"] > 1
        return node, results

    return begin


def check_held(results, record, ledger):
    """What was held and not started has run once, in its old order, and was never lost."""
    assert [result.get(10) for result in results] == [f"b{i}" for i in range(20)]
    assert [(record(result).lost, record(result).attempt) for result in results] == [(0, 1)] * 20
    assert [tag for tag in ledger.column() if tag.startswith("b")] == [f"b{i}" for i in range(20)]


# ---- the task ends by itself


def test_returned(start, tasks, ledger, record):
    """A value: succeeded at its first attempt, and nothing is kept of the message."""
    result = tasks.note.delay(str(ledger), "t")
    node = start()
    assert result.get(10) == "t"
    ended = record(result)
    assert (ended.state, ended.attempt, ended.lost, ended.error, ended.envelope) == (
        TaskState.SUCCEEDED, 1, 0, None, None,
    )  # fmt: skip
    assert ledger.column() == ["t"]
    assert node.stop() == 0


def test_raised(start, tasks, ledger, record):
    """An exception: failed; tried again only for a class in ``retry_for`` or below it, up to ``max_retries``."""
    kinds = {"ValueError": 1, "ConnectionError": 3, "BrokenPipeError": 3}
    results = {kind: tasks.throw_again.delay(str(ledger), kind) for kind in kinds}
    node = start()
    for kind, attempts in kinds.items():
        with pytest.raises((ValueError, ConnectionError), match="the text") as error:
            results[kind].get(10)
        ended = record(results[kind])
        assert type(error.value).__name__ == ended.error.type == kind
        assert (ended.state, ended.attempt, ended.lost) == (TaskState.FAILED, attempts, 0)
        assert ledger.column().count(kind) == attempts
        assert decode_message(ended.envelope).id == results[kind].id, "it can be retried as it was"
    assert not node.events("child-recycled")
    assert node.stop() == 0


def test_raised_what_ends_the_child(start, tasks, ledger, record):
    """What is no Exception, and MemoryError: failed once, uncounted, and no later task runs in that child."""
    kinds = ["SystemExit", "KeyboardInterrupt", "GeneratorExit", "BaseException", "MemoryError"]
    results = tasks.throw.enqueue_many([(str(ledger), kind) for kind in kinds])
    after = tasks.note.delay(str(ledger), "after")
    node = start()
    assert after.get(10) == "after"
    for kind, result in zip(kinds, results, strict=True):
        ended = record(result)
        assert (ended.state, ended.error.type, ended.attempt, ended.lost) == (TaskState.FAILED, kind, 1, 0)
    recycled = node.wait_event("child-recycled", len(kinds))
    assert sorted(event["cause"] for event in recycled) == sorted(f"tainted: {kind} in throw" for kind in kinds)
    assert ledger.column() == [*kinds, "after"]
    assert len(set(ledger.column(1))) == len(kinds) + 1, "two of them ran in one child"
    assert not node.events("child-crashed")
    assert node.stop() == 0


# ---- the task is ended by a limit


@pytest.mark.parametrize(
    ("task", "kind", "status", "told"),
    [
        ("over_soft", "SoftTimeLimitExceeded", None, "child-recycled"),
        ("over_hard", "TimeLimitExceeded", -signal.SIGKILL, "child-killed"),
        ("over_memory", "MemoryLimitExceeded", -signal.SIGKILL, "child-killed"),
    ],
)
def test_over_a_limit(start, tasks, ledger, record, task, kind, status, told):
    """Our own kill: failed by its name, uncounted; its child goes; tried again only where that name is in
    ``retry_for``, which Exception, BaseException and the other limits are not."""
    results = {which: getattr(tasks, f"{task}_{which}").delay(str(ledger), which) for which in ("named", "unnamed")}
    node = start(concurrency=2)
    for which, attempts in {"named": 2, "unnamed": 1}.items():
        with pytest.raises(TaskFailed, match=f"failed: {kind}: ") as error:
            results[which].get(15)
        assert error.value.cause == kind
        ended = record(results[which])
        assert (ended.state, ended.error.type, ended.attempt, ended.lost) == (TaskState.FAILED, kind, attempts, 0)
        assert ledger.column().count(which) == attempts
        assert ended.status == status
        assert ended.peak_memory > 1 << 20
        trace = ended.error.traceback if status is None else ended.stack
        assert f"in {task}" in trace or (task == "over_memory" and not trace)  # a hog has 3 ms to write its stacks
        assert decode_message(ended.envelope).id == results[which].id, "it can be retried as it was"
    gone = node.wait_event(told, 3)
    assert len(gone) == 3
    assert all(kind in event["cause"] for event in gone)
    assert len(set(ledger.column(1))) == 3, "a child went on after it"
    retried = node.events("task-requeued")  # one that its own child retries is told by the log alone
    assert [event["task_id"] for event in retried] == ([] if status is None else [results["named"].id])
    assert not node.events("child-crashed")
    assert node.stop() == 0


# ---- the child dies


def test_its_child_died(start, tasks, ledger, record):
    """A segfault, an abort, a SIGKILL, an exit: delivered again after 0.5 s, counted; at ``max_deliveries`` dead, with
    how the child ended, its highest memory, and its last stack where it could write one."""
    results = {how: tasks.crash.delay(str(ledger), how, how) for how in WAYS}
    envelopes = {how: tasks.crash.app.broker.find(result.id).envelope for how, result in results.items()}
    node = start(concurrency=2, max_deliveries=2)
    for how, (status, said, stack) in WAYS.items():
        with pytest.raises(WorkerLost, match=f"died 2 times while running it; last: {said} while running crash"):
            results[how].get(15)
        ended = record(results[how])
        assert (ended.state, ended.attempt, ended.lost) == (TaskState.DEAD, 1, 2)
        assert ended.status == status
        assert ended.peak_memory > 1 << 20
        assert ended.envelope == envelopes[how]
        assert stack in ended.stack
        assert ("in crash" in ended.stack) is bool(stack)
        (requeued,) = node.events("task-requeued", task_id=results[how].id)
        assert requeued["numbers"] == {"delivery": 1, "of": 2, "backoff": 0.5}
    assert sorted(ledger.column()) == sorted([*WAYS, *WAYS])
    assert node.stop() == 0


def test_killed_from_outside(start, tasks, ledger, gate, record):
    """The same where somebody kills the child, which looks like the kernel out of memory: counted, then dead."""
    result = tasks.crash.delay(str(ledger), "t", "", str(gate))
    after = tasks.note.delay(str(ledger), "after")
    node = start(max_deliveries=2)
    for deaths in (1, 2):
        node.wait(lambda deaths=deaths: ledger.column().count("t") == deaths, "it runs")
        os.kill(int(ledger.column(1)[-1]), signal.SIGKILL)
        node.wait_event("child-crashed", deaths)
    with pytest.raises(WorkerLost, match="killed by SIGKILL while running crash"):
        result.get(10)
    ended = record(result)
    assert (ended.state, ended.lost, ended.status, ended.stack) == (TaskState.DEAD, 2, -signal.SIGKILL, "")
    assert after.get(10) == "after"
    assert record(after).lost == 0
    assert node.stop() == 0


def test_its_child_died_and_it_must_not_run_twice(start, tasks, ledger, gate, record):
    """``acks_late=False``: however its child died, it has failed with WorkerLost, and is not run again."""
    results = {how: tasks.crash_once.delay(str(ledger), how, how) for how in WAYS}
    outside = tasks.crash_once.delay(str(ledger), "outside", "", str(gate))
    node = start(concurrency=2, max_deliveries=3)
    node.wait(lambda: "outside" in ledger.column(), "it runs")
    os.kill(int(next(words[1] for words in ledger.lines() if words[0] == "outside")), signal.SIGKILL)
    for how, (status, said, stack) in {**WAYS, "outside": WAYS["SIGKILL"]}.items():
        result = results.get(how, outside)
        with pytest.raises(WorkerLost, match=f"failed: WorkerLost: {said} while running crash_once"):
            result.get(10)
        ended = record(result)
        assert (ended.state, ended.attempt, ended.lost, ended.status) == (TaskState.FAILED, 1, 1, status)
        assert ended.peak_memory > 1 << 20
        assert ("in crash" in ended.stack) is bool(stack)
        assert decode_message(ended.envelope).id == result.id
        assert node.wait_event("task-failed", task_id=result.id)
    assert tasks.note.delay(str(ledger), "after").get(10) == "after"
    assert sorted(ledger.column()) == sorted([*WAYS, "outside", "after"])
    assert not node.events("task-requeued")
    assert node.stop() == 0


@pytest.mark.parametrize("task", ["crash", "crash_once"])
def test_held_behind_a_crash(holding, tasks, ledger, gate, record, task):
    """What a dying child held and had not started runs before what came later, once, uncounted; also where it must
    not run twice."""
    node, (bomb, *held) = holding(task, "SIGKILL", max_deliveries=1)
    later = getattr(tasks, task).enqueue_many([(str(ledger), f"later{i}") for i in range(5)])
    gate.touch()
    check_held(held, record, ledger)
    assert [result.get(10) for result in later] == [f"later{i}" for i in range(5)]
    assert ledger.column()[-25:] == [*(f"b{i}" for i in range(20)), *(f"later{i}" for i in range(5))]
    with pytest.raises(WorkerLost):
        bomb.get(10)
    assert record(bomb).state is (TaskState.DEAD if task == "crash" else TaskState.FAILED)
    assert node.stop() == 0


# ---- the node dies


def kill_node(node, wait_for, is_gone):
    """SIGKILL the supervisor and the template at once, and see that nothing of the node is left."""
    tree, template = node.tree(), node.child_of("template")
    os.kill(template, signal.SIGKILL)
    node.send(signal.SIGKILL)
    node.wait_end()
    wait_for(lambda: all(is_gone(pid) for pid in tree), "the whole node is gone", 5)


@pytest.mark.parametrize("task", ["crash", "crash_once"])
def test_the_whole_node_died(holding, start, ledger, gate, record, wait_for, is_gone, task):
    """Its board says what ran: counted and run again, or failed where it must not run twice; the rest is uncounted."""
    node, (running, *held) = holding(task)
    kill_node(node, wait_for, is_gone)
    gate.touch()
    again = start(name=node.name)
    check_held(held, record, ledger)
    if task == "crash":
        assert running.get(10) == "running"
        assert (record(running).lost, ledger.column().count("running")) == (1, 2)
    else:
        with pytest.raises(WorkerLost, match="the whole node died while it ran"):
            running.get(10)
        assert (record(running).lost, ledger.column().count("running")) == (1, 1)
    assert again.stop() == 0


def test_the_whole_node_died_and_its_board(holding, start, app, ledger, gate, record, wait_for, is_gone):
    """Nobody saw what ran: all of it runs, in its old order, and this death is counted against none of it."""
    node, (running, *held) = holding("crash")
    kill_node(node, wait_for, is_gone)
    (app.broker.node_directory() / f"{node.name}.board").unlink()
    gate.touch()
    again = start(name=node.name)
    check_held(held, record, ledger)
    assert running.get(10) == "running"
    assert (record(running).lost, ledger.column().count("running")) == (0, 2)
    assert again.stop() == 0


# ---- the task does not start


def put(app, message, envelope=None):
    """Enqueue a message as it is, or these bytes in its place; its result."""
    app.broker.enqueue([Enqueue(message.id, envelope or encode_message(message), "default", 0, None, message.task)])
    return app.result(message.id)


def test_unknown(start, app, tasks, ledger, record):
    """A name that no node knows: handed back with a delay, by a count of its own; after ten looks dead, kept."""
    fresh = put(app, Message("fresh", "unheard.of", b"[[],{}]"))
    last = put(app, Message("last", "nobody.knows", b"[[],{}]", unknown_count=9))
    node = start()
    with pytest.raises(TaskDead, match=r"UnknownTask: no worker knows a task named 'nobody\.knows' \(10 looked\)"):
        last.get(10)
    ended = record(last)
    assert (ended.state, ended.error.type, ended.attempt, ended.lost) == (TaskState.DEAD, "UnknownTask", 1, 0)
    assert decode_message(ended.envelope).payload == b"[[],{}]"
    node.wait(lambda: fresh.state is TaskState.DELAYED, "it was handed back")
    found = app.broker.find("fresh")
    assert (decode_message(found.envelope).unknown_count, found.lost) == (1, 0)
    assert tasks.note.delay(str(ledger), "after").get(10) == "after"
    assert node.stop() == 0


class Canary:
    """Unpickling it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_unreadable(start, app, tasks, ledger, record, place):
    """Bytes that are no message, and another minor's pickle: dead at once, kept, never unpickled; the child goes on.
    Arguments that do not fit are the task's own failure."""
    canary = pickle.dumps(((Canary(place / "unpickled"), "t"), {}))
    bad = {
        "not a poolrt message": put(app, Message("bytes", "", b""), b"\x00 no message"),
        "pickled by Python 3.99": put(app, Message("minor", "note", canary, "cloudpickle:3.99")),
    }
    kept = {result.id: app.broker.find(result.id).envelope for result in bad.values()}
    misfit = put(app, Message("misfit", "note", b"[[1,2,3],{}]"))
    node = start()
    for said, result in bad.items():
        with pytest.raises(TaskDead, match=f"dead: DecodingError: .*{said}"):
            result.get(10)
        ended = record(result)
        assert (ended.state, ended.lost, ended.envelope) == (TaskState.DEAD, 0, kept[result.id])
    with pytest.raises(TypeError, match="takes 2 positional arguments but 3 were given"):
        misfit.get(10)
    assert record(misfit).state is TaskState.FAILED
    assert tasks.note.delay(str(ledger), "after").get(10) == "after"
    assert not (place / "unpickled").exists()
    assert len(node.events("child-up")) == 1, "none of them cost a child"
    assert node.stop() == 0


def test_expired(start, tasks, ledger, record):
    """Too late to start: expired, says by how much, and has not run; its message is kept."""
    result = tasks.note.apply_async((str(ledger), "t"), expires=datetime.now(UTC) - timedelta(seconds=5))
    node = start()
    assert tasks.note.delay(str(ledger), "after").get(10) == "after"
    with pytest.raises(TaskExpired, match=r"Expired: expired \d+\.\d s before it could start"):
        result.get(10)
    ended = record(result)
    assert (ended.state, ended.error.type, ended.lost) == (TaskState.EXPIRED, "Expired", 0)
    assert decode_message(ended.envelope).id == result.id
    assert ledger.column() == ["after"]
    assert node.stop() == 0


def test_cancelled(holding, app, tasks, ledger, gate, record):
    """What waits is cancelled and never runs; the rest goes on. (What is held or runs: test_cancel_running.py.)"""
    node, (running, *held) = holding("crash")
    queued = tasks.note.delay(str(ledger), "queued")
    delayed = tasks.note.apply_async((str(ledger), "delayed"), countdown=0.2)
    due = time.time() + 0.2
    assert (queued.cancel(), delayed.cancel()) == (True, True)
    assert not queued.cancel()
    gate.touch()
    check_held(held, record, ledger)
    assert running.get(10) == "running"
    for result in (queued, delayed):
        with pytest.raises(TaskCancelled, match=r"cancelled: Cancelled: cancelled at .* UTC: it had not started"):
            result.get(10)
        ended = record(result)
        assert (ended.state, ended.error.type, ended.lost) == (TaskState.CANCELLED, "Cancelled", 0)
        assert decode_message(ended.envelope).id == result.id
    late = tasks.note.apply_async((str(ledger), "late"), eta=datetime.fromtimestamp(due, UTC))
    assert late.get(10) == "late"  # due later than the one that was cancelled, which would have run before it
    assert not {"queued", "delayed"} & set(ledger.column())
    assert app.broker.depth() == (0, 0, 0, 0, None)
    assert node.stop() == 0
