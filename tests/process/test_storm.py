"""The small storm of ``stress.chaos``, and that its account sees what it is there to see."""

import subprocess
import sys
import types
from pathlib import Path

import pytest

from poolrt.brokers.base import Found
from poolrt.message import ErrorInfo, Record, encode_record
from poolrt.states import TaskState
from stress.chaos.account import Ledger, account
from stress.chaos.faults import calls, faults, value_of
from stress.chaos.journal import ENDED, KEPT, MOVED, PLACED, Entry

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
    """400 mixed tasks while child, template, steward and supervisor are killed and stopped: all accounted for."""
    command = [sys.executable, "-m", "stress.chaos", "storm", "--tasks", "400", "--seed", "11"]
    # What it says of time holds on a machine that has nothing else to do.
    done = subprocess.run(
        [*command, "--reclaim-within", "25"], cwd=ROOT, capture_output=True, text=True, timeout=55, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "0 lost, 0 ended twice" in done.stdout


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

    def wrong(self):
        """What the account says is wrong with the task."""
        self.path.write_text("".join(line + "\n" for line in self.lines))
        stored = encode_record(self.record) if self.record else None
        found = Found(ID, self.state, None, stored, 0) if self.known else None
        broker = types.SimpleNamespace(find=lambda task_id: found)
        app = types.SimpleNamespace(broker=broker, result=lambda task_id: types.SimpleNamespace(result=self.value))
        made = account([ID], app, Ledger(self.path), {ID: self.life}, set())
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
