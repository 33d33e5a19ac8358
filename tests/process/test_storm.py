"""The small storm of ``stress.chaos``, and that its account sees what it is there to see."""

import re
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest

from poolrt import App
from poolrt.brokers.base import Found
from poolrt.message import ErrorInfo, Record, encode_record
from poolrt.states import TaskState
from poolrt.terms import Attempt
from stress.chaos import flows
from stress.chaos.account import Ledger, account
from stress.chaos.canceller import Cancel
from stress.chaos.faults import LIMITS, calls, faults, value_of
from stress.chaos.journal import ENDED, KEPT, MOVED, PLACED, Entry
from stress.chaos.limits import LATE, Signal, limits_kept, unique_kept
from stress.chaos.stores import SqliteStore

ROOT = Path(__file__).parents[2]
RESERVED = 3

ID = "value-00007"
LIFE = [
    Entry(1.0, PLACED, 0, 0),
    Entry(1.1, MOVED, RESERVED, 0),
    Entry(1.2, ENDED, RESERVED, 0),
    Entry(1.2, KEPT, 11, 0),
]


def test_a_small_storm_loses_nothing_and_leaves_nothing():
    """400 mixed tasks on two nodes while child, template, steward and supervisor are killed and stopped, and some tasks
    are cancelled: all accounted for, each workflow's end among it, and no limit broken."""
    command = [sys.executable, "-m", "stress.chaos", "storm", "--tasks", "400", "--seed", "11", "--nodes", "2"]
    # What it says of time holds on a machine that has nothing else to do.
    done = subprocess.run(
        [*command, "--reclaim-within", "25"], cwd=ROOT, capture_output=True, text=True, timeout=55, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "0 lost, 0 ended twice" in done.stdout
    assert "0 started after that was acknowledged" in done.stdout
    assert re.search(r"\nchain +10 .*\nchord +4 ", done.stdout)
    assert done.stdout.endswith("VERDICT: all kept\n")


def test_a_storm_is_made_again_by_its_seed():
    """The same seed draws the same tasks and faults, another one others."""
    assert calls(3, 200, 5.0) == calls(3, 200, 5.0) != calls(4, 200, 5.0)
    assert faults(3, 20.0, 0.3, slow=False) == faults(3, 20.0, 0.3, slow=False) != faults(4, 20.0, 0.3, slow=False)


class Doctored:
    """An account of one task, whose evidence a test can change."""

    def __init__(self, folder):
        self.path = folder / "ledger"
        self.lines = [f"start {ID} 1 0 100 1000", f"end {ID} 1 0 100 2000"]
        self.life = list(LIFE)
        self.record = Record(TaskState.SUCCEEDED, "value", 0.0)
        self.state = TaskState.SUCCEEDED
        self.value = value_of(7)
        self.known = True
        self.cancels = {}

    def wrong(self):
        """What the account says is wrong with the task."""
        self.path.write_text("".join(line + "\n" for line in self.lines))
        stored = encode_record(self.record) if self.record else None
        found = Found(ID, self.state, None, stored, 0) if self.known else None
        broker = types.SimpleNamespace(find=lambda task_id: found)
        app = types.SimpleNamespace(broker=broker, result=lambda task_id: types.SimpleNamespace(result=self.value))
        made = account([ID], app, Ledger(self.path), {ID: self.life}, set(), cancels=self.cancels)
        return "; ".join(made.wrong.get(ID, []))


@pytest.fixture
def doctored(place):
    """Evidence of one task that ended well."""
    return Doctored(place)


def test_the_account_finds_nothing_wrong_with_a_good_life(doctored):
    """Placed, reserved, run, ended, kept: there is nothing to say; also if a first run was cut by a kill."""
    assert not doctored.wrong()
    doctored.lines.insert(0, f"start {ID} 1 0 99 500")
    assert not doctored.wrong()


def test_the_account_sees_a_lost_task(doctored):
    """A task that the broker has neither as a message nor as a record is lost, and so is one that has not ended."""
    doctored.record, doctored.state = None, TaskState.RESERVED
    doctored.life = LIFE[:2]
    assert "it has not ended: it is reserved" in doctored.wrong()
    doctored.known = False
    assert "neither message nor record" in doctored.wrong()


def test_the_account_sees_a_second_outcome(doctored):
    """A second record is told by the journal, although the broker keeps the first; so is a message stored again."""
    doctored.life = [*LIFE, Entry(1.3, KEPT, 11, 0)]
    assert "it had 2 outcomes" in doctored.wrong()
    doctored.life = [*LIFE, *LIFE[:3]]
    assert "it was stored 2 times" in doctored.wrong()


def test_the_account_sees_two_runs_at_once(doctored):
    """A run that begins before another one of the same task has ended had no death between them."""
    doctored.lines.insert(1, f"start {ID} 1 0 200 1500")
    assert "process 200 began it while process 100 ran it" in doctored.wrong()


def test_the_account_sees_a_run_again_without_a_death(doctored):
    """A run that ended may run again if its child died with it unsettled; not if that child ended 65 more after it."""
    doctored.lines += [line for i in range(65) for line in (f"start x-{i} 1 0 100 3000", f"end x-{i} 1 0 100 3000")]
    doctored.lines += [f"start {ID} 1 0 200 9000", f"end {ID} 1 0 200 9001"]
    assert "yet it ran again" in doctored.wrong()


def test_the_account_sees_a_wrong_value_and_a_strange_death(doctored):
    """The value is compared; a task is dead only if children died while they ran it, and limited only if stopped."""
    doctored.value = 1
    assert "its value is 1, not 50" in doctored.wrong()
    doctored.record = Record(TaskState.DEAD, "value", 0.0, error=ErrorInfo("UnknownTask", "nobody knows it"))
    assert "it is dead, lost 0: UnknownTask" in doctored.wrong()
    doctored.record = Record(TaskState.FAILED, "value", 0.0, error=ErrorInfo("TimeLimitExceeded", "ran 4 s"))
    assert "its child was never stopped" in doctored.wrong()


def test_the_account_sees_what_became_of_a_cancel(doctored):
    """One that was acknowledged ends the task for good; nobody else's does."""
    doctored.record = Record(TaskState.CANCELLED, "value", 0.0)
    assert "nobody cancelled it" in doctored.wrong()
    doctored.cancels = {ID: Cancel(waited=True, ended=True, told=False, sought=False, at=1500)}
    assert not doctored.wrong()  # it had begun before, was cut, and waited for its next delivery
    doctored.lines = [f"start {ID} 1 0 100 1600"]
    assert "process 100 began it 0.0 ms after its cancel" in doctored.wrong()
    doctored.cancels = {ID: Cancel(waited=False, ended=False, told=True, sought=False, at=1500)}
    assert not doctored.wrong()  # the word was on its way
    doctored.cancels = {ID: Cancel(waited=False, ended=False, told=False, sought=True, at=1500)}
    assert "process 100 began it" in doctored.wrong()  # the filter had not found it


def test_the_account_sees_a_cancel_that_was_forgotten(doctored):
    """It may not end otherwise."""
    doctored.cancels = {ID: Cancel(waited=True, ended=True, told=False, sought=False, at=2500)}
    assert "it had been acknowledged as cancelled" in doctored.wrong()


def test_the_account_sees_a_retry_too_many(doctored):
    """Its attempt, and those that its record has, are the planned ones; each has come to its end."""
    doctored.record = Record(TaskState.SUCCEEDED, "value", 0.0, attempt=2)
    said = doctored.wrong()
    assert "its record has the attempts [], and ended with 2" in said
    assert "it ended at attempt 2, not 1" in said
    assert "no run of attempt 2 came to its end" in said


class DoctoredFlow:
    """An account of a chain or a chord that ended well, whose evidence a test can change."""

    def __init__(self, folder, root):
        self.path, self.root = folder / "ledger", root
        self.ids = [*flows.parts(root), root]
        self.lives, self.records, self.values, self.lines = {}, {}, {}, []
        for task_id in self.ids:
            kind, number = flows.kind_of(task_id)
            attempts = flows.attempts_of(kind, number)
            self.values[task_id] = flows.value_of(kind, number)
            self.lives[task_id] = LIFE[:3] * attempts + LIFE[3:]
            history = tuple(Attempt(each, 0.0, 0.0, "Refused") for each in range(1, attempts))
            self.records[task_id] = Record(TaskState.SUCCEEDED, kind, 0.0, attempt=attempts, history=history)
            for attempt in range(1, attempts + 1):
                at = len(self.lines)
                self.lines += [f"start {task_id} {attempt} 0 100 {at}", f"end {task_id} {attempt} 0 100 {at + 1}"]

    def end(self, task_id, state, error, envelope=b"x"):
        """Let a part end so."""
        self.records[task_id] = Record(state, "", 0.0, error=ErrorInfo(*error), envelope=envelope, lost=2)

    def never(self, task_id):
        """Let a part never have been enqueued."""
        self.lives[task_id] = [entry for entry in self.lives[task_id] if entry.what == KEPT]
        self.lines = [line for line in self.lines if f" {task_id} " not in line]

    def made(self):
        """The account."""
        self.path.write_text("".join(line + "\n" for line in self.lines))

        def find(task_id):
            record = self.records.get(task_id)
            return Found(task_id, record.state, None, encode_record(record), 0) if record else None

        app = types.SimpleNamespace(
            broker=types.SimpleNamespace(find=find),
            result=lambda task_id: types.SimpleNamespace(result=self.values[task_id]),
        )
        return account([self.root], app, Ledger(self.path), self.lives, set())


@pytest.mark.parametrize("root", ["chain-00012", "chord-00013"])
def test_the_account_finds_nothing_wrong_with_a_good_workflow(place, root):
    """All parts are accounted for by the id that was accepted."""
    made = DoctoredFlow(place, root).made()
    assert (made.wrong, made.total("planned")) == ({}, 10 if root == "chain-00012" else 31)


@pytest.mark.parametrize("root", ["chain-00012", "chord-00013"])
def test_the_account_sees_a_wrong_end_of_a_workflow(place, root):
    """A value that was not carried on, results in another order, a body that took effect twice."""
    flow = DoctoredFlow(place, root)
    flow.values[root] += 1
    flow.lives[root] = [*LIFE[:3], *LIFE[:3], LIFE[3], LIFE[3]]
    made = flow.made()
    assert "its value is" in str(made.wrong[root])
    assert "it was stored 2 times" in str(made.wrong[root])
    assert "it had 2 outcomes" in str(made.wrong[root])


def test_results_in_another_order_have_another_sum():
    """So that a body tells of them."""
    assert flows.summed([1, 2, 3]) != flows.summed([1, 3, 2])


def test_the_account_admits_a_workflow_that_is_broken_off_only_with_a_cause(place):
    """The step after one that died never comes; if none died, the chain is lost. Its end has a record in any case."""
    flow = DoctoredFlow(place, "chain-00012")
    for task_id in ("chain-00012:8", "chain-00012"):
        flow.never(task_id)
        flow.records.pop(task_id)
    assert "neither message nor record" in str(flow.made().wrong["chain-00012"])
    flow.end("chain-00012", TaskState.FAILED, ("WorkerLost", "in a step before it"), envelope=None)
    assert "though no part of it died" in str(flow.made().wrong["chain-00012"])
    flow.end("chain-00012:7", TaskState.DEAD, ("WorkerLost", "killed"))
    made = flow.made()
    assert (made.wrong, made.total("broken"), made.total("dead")) == ({}, 2, 1)


def test_the_account_sees_a_member_that_was_lost(place):
    """Nobody has it, though the body has ended."""
    flow = DoctoredFlow(place, "chord-00013")
    flow.records.pop("chord-00013:g.7")
    assert "neither message nor record" in str(flow.made().wrong["chord-00013:g.7"])


def test_what_is_left_of_a_workflow_is_seen(place):
    """A chord that nobody runs: its group, and its body, which is planned."""
    store = SqliteStore(place)
    app = App("left", broker=store.url)
    for name in ("member", "body"):
        app.task(name=name)(lambda *arguments: None)
    flows.enqueue(app, flows.calls(1, flows.Flows(0, 1, 0), 13, 1.0)[0])
    assert sorted(store.planned_left()) == ["chord-00013", "chord-00013:g"]
    app.close()


class Runs:
    """A ledger that a test writes, and what the limits' account says of it."""

    def __init__(self, folder):
        self.path = folder / "ledger"
        self.lines = []

    def add(self, task_id, pid, began, ended=None):
        """A run, in seconds; without ``ended`` it was cut."""
        self.lines.append(f"start {task_id} 1 0 {pid} {int(began * 1e9)}")
        if ended is not None:
            self.lines.append(f"end {task_id} 1 0 {pid} {int(ended * 1e9)}")

    def wrong(self, *signals):
        """What is wrong."""
        self.path.write_text("".join(line + "\n" for line in self.lines))
        return "; ".join(text for kept in limits_kept(Ledger(self.path), signals) for text in kept.wrong())


@pytest.fixture
def runs(place):
    """No run yet."""
    return Runs(place)


RATE = LIMITS["rated"].rate


def test_a_rate_holds_with_its_burst_and_a_steady_stream_after_it(runs):
    """A burst at once, then one every 1 / rate."""
    for number in range(5 * RATE):
        at = 10 + max(0, number - RATE + 1) / RATE
        runs.add(f"rated-{number}", 1, at, at)
    assert not runs.wrong()


@pytest.mark.parametrize("faster", [1.2, 2.0])
def test_a_rate_that_is_exceeded_is_seen(runs, faster):
    """By a little for long, as by two nodes that count for themselves."""
    for number in range(10 * RATE):
        at = 10 + number / RATE / faster
        runs.add(f"rated-{number}", 1, at, at)
    assert f"starts above {RATE}/s * t" in runs.wrong()


def test_a_second_burst_is_seen_unless_its_children_had_been_stopped(runs):
    """What a stopped child held was let before the stop."""
    for number in range(RATE):
        runs.add(f"rated-{number}", 1, 10 + LATE + 0.01 * number, 10.5)
        runs.add(f"rated-{100 + number}", 2, 12, 12)
        runs.add(f"rated-{200 + number}", 3, 12.1, 12.1)
    assert f"rated: {2 * RATE - 0.35 * RATE:.1f} starts above" in runs.wrong()
    stopped = [Signal(3, signal.SIGSTOP, int(11.2e9)), Signal(3, signal.SIGCONT, int(12.0e9))]
    assert not runs.wrong(*stopped)


def test_more_at_a_time_than_allowed_are_seen(runs):
    """One that was killed had its slot until the kill."""
    runs.add("narrow-0", 1, 10.0, 10.2)
    runs.add("narrow-3", 2, 10.0)
    runs.add("narrow-6", 3, 10.1, 10.3)
    runs.add("narrow-1", 4, 10.1, 10.3)  # another key
    assert not runs.wrong(Signal(2, signal.SIGKILL, int(10.05e9)))
    assert "narrow-0: 3 ran at a time, not at most 2" in runs.wrong(Signal(2, signal.SIGKILL, int(10.15e9)))


def test_two_of_one_unique_key_are_seen():
    """Also if one of them was retried meanwhile."""

    def life(*entries):
        return [Entry(1.0, what, 0, 0, order=order) for order, what in entries]

    lives = {
        "unique-0": life((1, PLACED), (4, ENDED), (5, PLACED), (8, ENDED)),
        "unique-1": life((2, PLACED), (3, ENDED)),
        "unique-3": life((9, PLACED), (10, ENDED)),
    }
    assert unique_kept(lives) == {"unique-0": 1, "unique-1": 1}
    lives["unique-6"] = life((7, PLACED), (11, ENDED))
    assert unique_kept(lives) == {"unique-0": 2, "unique-1": 1}
