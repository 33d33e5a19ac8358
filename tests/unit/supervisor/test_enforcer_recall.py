"""The enforcer stops a child, and marks or kills it only while it still runs what was judged; on a real board.

Processes are stood in for: what happens while the supervisor waits for the stop is what each test decides.
"""

from __future__ import annotations

import signal
import tempfile
import time
from collections.abc import Callable, Iterator

import pytest

from poolrt.board import Board, RowWriter
from poolrt.posix.pidfd import Stopped
from poolrt.states import Activity, ChildState, Interruption
from poolrt.supervisor import enforcer as enforcer_module
from poolrt.supervisor.enforcer import Enforcer
from poolrt.supervisor.lifecycle import Child

MS = 1_000_000


class Stage:
    """One child that runs the delivery (5, 6) for 200 ms and holds two, and all that is done to it."""

    def __init__(self, board: Board, child: Child) -> None:
        self.board = board
        self.child = child
        child.pid = 4242
        board.clear(child.slot, child.generation)
        self.row: RowWriter = board.writer(child.slot)
        self.meanwhile: Callable[[], object] = lambda: None
        self.stop = Stopped.STOPPED
        self.stopped_by_others = False
        self.log: list[object] = []
        self.enforcer = Enforcer(board, lambda: [child], self._condemn, lambda: self.log.append("poke"), 5.0)
        self.row.reserving(5)
        self.row.held(2)
        self.run(5, 6)

    def run(self, n: int, i: int, ago: int = 200) -> None:
        """The child runs this delivery since so many ms."""
        self.row.run(n, i, b"an-id", b"shop.add", time.monotonic_ns() - ago * MS, 0, 0, 0)

    def _condemn(self, child: Child, cause: str, verdict: str) -> None:
        child.state = ChildState.CONDEMNED
        self.log.append((cause, verdict))

    def stop_and_wait(self, pid: int, pidfd: int, timeout: float = 0.05) -> Stopped:
        """What the child does until it stands still is the test's."""
        self.log.append("stop")
        self.meanwhile()
        return self.stop

    def send_signal(self, pidfd: int, number: int) -> bool:
        """Note the signal."""
        self.log.append(signal.Signals(number).name)
        return True

    def look(self) -> int:
        """Make the enforcer look now; after how many ms it wants to look again."""
        self.enforcer.look_now()
        return round((self.enforcer.enforce() - time.monotonic_ns()) / MS)

    @property
    def mark(self) -> tuple[int, int, int]:
        """The mark in its row."""
        return self.board.recall_mark(self.child.slot)


@pytest.fixture
def stage(make_child: Callable[..., Child], monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """A child of slot 2 on a board of its own."""
    with tempfile.TemporaryFile() as file:
        Board.initialize(file.fileno(), "inc")
        board = Board(file.fileno())
        made = Stage(board, make_child(slot=2))
        monkeypatch.setattr(enforcer_module, "stop_and_wait", made.stop_and_wait)
        monkeypatch.setattr(enforcer_module, "send_signal", made.send_signal)
        monkeypatch.setattr(enforcer_module, "is_stopped", lambda pid: made.stopped_by_others)
        yield made
        board.close()


# ---- recall


def test_what_it_holds_is_marked(stage: Stage) -> None:
    """Stopped, marked with its run and the last reserve it sent, continued; then the steward is poked."""
    stage.row.reserving(7)
    stage.look()
    assert stage.mark == (5, 6, 7)
    assert stage.log == ["stop", "SIGCONT", "poke"]


def test_not_before_its_time(stage: Stage) -> None:
    """A run of 20 ms is left alone, and looked at when it is 100 ms old; an idle pool is looked at once a second."""
    stage.run(5, 6, ago=20)
    assert 60 <= stage.look() <= 80
    assert stage.log == []
    stage.row.activity(Activity.IDLE)
    assert stage.look() > 900


def test_a_child_that_went_on_meanwhile_is_not_marked(stage: Stage) -> None:
    """Its next run is another one, and too young; it is looked at again in time for it."""
    stage.meanwhile = lambda: stage.run(5, 7, ago=0)
    assert stage.look() <= 100
    assert stage.mark == (0, 0, 0)
    assert stage.log == ["stop", "SIGCONT"]


def test_a_child_that_ended_meanwhile(stage: Stage) -> None:
    """Nothing is signalled: its death is told elsewhere."""
    stage.stop = Stopped.EXITED
    stage.look()
    assert (stage.mark, stage.log) == ((0, 0, 0), ["stop"])


def test_a_child_that_does_not_stop_is_left_alone(stage: Stage) -> None:
    """One that waits in the kernel could still move: it is not marked, and not asked again for a second."""
    stage.stop = Stopped.TIMEOUT
    stage.look()
    stage.look()
    assert (stage.mark, stage.log) == ((0, 0, 0), ["stop", "SIGCONT"])


def test_a_child_that_somebody_stopped_stays_stopped(stage: Stage) -> None:
    """It is marked; whoever stopped it lets it go on."""
    stage.stopped_by_others = True
    stage.look()
    assert (stage.mark, stage.log) == ((5, 6, 5), ["stop", "poke"])


def test_a_mark_stays_until_the_steward_has_done_it(stage: Stage) -> None:
    """A newer one would replace it, and what it covers would stay with a child that has given it up."""
    stage.look()
    stage.row.reserving(9)
    stage.run(9, 1)
    stage.look()
    stage.enforcer.recalled(stage.child, 4)
    stage.look()
    assert stage.mark == (5, 6, 5)
    stage.enforcer.recalled(stage.child, 5)
    stage.look()
    assert stage.mark == (9, 1, 9)


def test_what_is_about_to_be_given_up_is_not_marked(stage: Stage) -> None:
    """Its run is covered by the mark: marked again, it would be kept by a child that has given it up (rule 9)."""
    stage.row.reserving(7)
    stage.look()
    stage.enforcer.recalled(stage.child, 7)
    stage.run(7, 1)
    stage.look()
    assert stage.mark == (5, 6, 7)


def test_a_successors_row_has_no_mark(stage: Stage) -> None:
    """Nor does what was done for its predecessor say anything of it."""
    stage.look()
    stage.enforcer.recalled(stage.child, 5)
    stage.board.clear(2, stage.child.generation + 1)
    stage.child.generation += 1
    assert stage.mark == (0, 0, 0)
    stage.row = stage.board.writer(2)
    stage.row.reserving(5)
    stage.row.held(2)
    stage.run(5, 6)
    stage.look()
    assert stage.mark == (5, 6, 5)


# ---- cancel


def grace_is_over(stage: Stage) -> None:
    """Five seconds have passed since the cancel."""
    stage.child.cancelled = stage.child.cancelled._replace(kill_at=time.monotonic_ns())
    stage.enforcer.look_now()


@pytest.fixture
def cancelled(stage: Stage) -> Stage:
    """What the child runs is cancelled, and has been interrupted once; nothing else is held."""
    stage.row.held(1)
    stage.enforcer.cancel(stage.child, 5, 6)
    stage.enforcer.enforce()
    assert stage.log == ["SIGUSR2"]
    stage.log.clear()
    return stage


def test_what_runs_is_interrupted(cancelled: Stage) -> None:
    """At once, by its sequence number and for that reason; asked again before the next stage, nothing happens."""
    assert cancelled.row.interruption == cancelled.row.sequence << 8 | Interruption.CANCEL
    cancelled.enforcer.cancel(cancelled.child, 5, 6)
    assert 50 < cancelled.look() <= 100
    assert cancelled.log == []


def test_what_has_not_ended_in_time_is_killed(cancelled: Stage) -> None:
    """By the same handshake as a limit, and without asking for stacks; its verdict is to be cancelled."""
    grace_is_over(cancelled)
    cancelled.enforcer.enforce()
    assert cancelled.log == ["stop", ("TaskCancelled: it had not ended within cancel_grace", "cancelled")]


def test_the_kill_is_due_five_seconds_after_the_first_word(cancelled: Stage) -> None:
    """Words that are repeated do not put it off."""
    first = cancelled.child.cancelled
    cancelled.enforcer.cancel(cancelled.child, 5, 6)
    assert cancelled.child.cancelled == first
    assert first.kill_at - first.since == 5000 * MS


def test_never_the_wrong_task(cancelled: Stage) -> None:
    """It has ended while the child was being stopped, and the next one runs: that one goes on."""
    cancelled.meanwhile = lambda: cancelled.run(5, 7)
    grace_is_over(cancelled)
    cancelled.enforcer.enforce()
    assert cancelled.log == ["stop", "SIGCONT"]


def test_the_next_run_is_not_interrupted(cancelled: Stage) -> None:
    """Nor killed: what was cancelled is over."""
    cancelled.run(5, 7)
    grace_is_over(cancelled)
    cancelled.enforcer.enforce()
    assert cancelled.log == []


def test_what_is_held_behind_a_run_is_taken_back(stage: Stage) -> None:
    """However young that run is: cancelled is then what waits."""
    stage.run(5, 6, ago=0)
    stage.enforcer.cancel(stage.child, 5, 7)
    assert (stage.mark, stage.log) == ((5, 6, 5), ["stop", "SIGCONT", "poke"])
    stage.enforcer.cancel(stage.child, 5, 7)
    assert stage.log == ["stop", "SIGCONT", "poke"], "asked again, it is not stopped in vain"


@pytest.mark.parametrize("activity", [each for each in Activity if each is not Activity.RUN])
def test_between_two_tasks_nothing_happens(stage: Stage, activity: Activity) -> None:
    """What just ended is settled; its result stands."""
    stage.row.activity(activity)
    stage.enforcer.cancel(stage.child, 5, 6)
    assert stage.log == []


def test_an_ended_delivery_of_an_earlier_reserve(stage: Stage) -> None:
    """It is on its way to be settled, and what is held beside it is nobody's business."""
    stage.enforcer.cancel(stage.child, 4, 1)
    assert stage.log == []


@pytest.mark.parametrize("state", [ChildState.STARTING, ChildState.CONDEMNED, ChildState.DEAD])
def test_a_child_that_does_not_work(stage: Stage, state: ChildState) -> None:
    """One that is being killed is not killed twice."""
    stage.child.state = state
    stage.enforcer.cancel(stage.child, 5, 6)
    assert stage.log == []
