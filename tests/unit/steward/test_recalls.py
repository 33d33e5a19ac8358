"""Recalls: each mark on the board reaches the broker until that did it, and is told once it did."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

import pytest

from poolrt.board import Board
from poolrt.errors import BrokerBusy
from poolrt.message import Owner
from poolrt.notice import Recalled
from poolrt.steward.recalls import Recalls


class Store:
    """The one call of a broker that recalls need."""

    def __init__(self) -> None:
        self.calls: list[tuple[Owner, tuple[int, int], int]] = []
        self.refuses = False

    def recall(self, owner: Owner, after: tuple[int, int], upto: int) -> int:
        """Refuse, or put back three, and none if asked again."""
        if self.refuses:
            raise BrokerBusy("not now")
        self.calls.append((owner, after, upto))
        return 0 if self.calls.count((owner, after, upto)) > 1 else 3


class Stage:
    """A board, a store, and what the supervisor is told."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self.store = Store()
        self.told: list[Recalled] = []
        self.recalls = self.new_steward()

    def new_steward(self) -> Recalls:
        """A steward that knows nothing of what was done."""
        return Recalls(self.store, self.board, "inc", self.told.append, lambda: None)  # type: ignore[arg-type]


@pytest.fixture
def stage() -> Iterator[Stage]:
    """Children 0.1 and 1023.4."""
    with tempfile.TemporaryFile() as file:
        Board.initialize(file.fileno(), "inc")
        board = Board(file.fileno())
        board.clear(0, 1)
        board.clear(1023, 4)
        yield Stage(board)
        board.close()


def test_every_mark_is_done_once(stage: Stage) -> None:
    """By owner, run and last reserve; a look at what is done already costs the broker nothing."""
    stage.board.mark_recall(0, 5, 6, 7)
    stage.board.mark_recall(1023, 1, 0, 1)
    assert [stage.recalls.work_off() for _ in range(2)] == [True, False]
    assert stage.store.calls == [(Owner("inc", 0, 1), (5, 6), 7), (Owner("inc", 1023, 4), (1, 0), 1)]
    assert stage.told == [Recalled(0, 1, 7, 3), Recalled(1023, 4, 1, 3)]


def test_no_mark_no_call(stage: Stage) -> None:
    """The tick of an idle node recalls nothing."""
    stage.recalls.work_off()
    assert (stage.store.calls, stage.told) == ([], [])


def test_a_later_mark_of_the_same_child(stage: Stage) -> None:
    """Its next long run is another recall."""
    stage.board.mark_recall(0, 5, 6, 7)
    stage.recalls.work_off()
    stage.board.mark_recall(0, 8, 6, 8)
    stage.recalls.work_off()
    assert [told.upto for told in stage.told] == [7, 8]


def test_the_same_numbers_of_a_successor(stage: Stage) -> None:
    """Children count their reserves from 1: another generation's mark is another one."""
    stage.board.mark_recall(0, 1, 0, 1)
    stage.recalls.work_off()
    stage.board.clear(0, 2)
    stage.board.mark_recall(0, 1, 0, 1)
    stage.recalls.work_off()
    assert [call[0].generation for call in stage.store.calls] == [1, 2]


def test_what_the_broker_refused_is_done_again(stage: Stage) -> None:
    """It is not told before it is done: until then the supervisor must not replace the mark."""
    stage.board.mark_recall(0, 5, 6, 7)
    stage.store.refuses = True
    with pytest.raises(BrokerBusy):
        stage.recalls.work_off()
    assert stage.told == []
    stage.store.refuses = False
    stage.recalls.work_off()
    assert stage.told == [Recalled(0, 1, 7, 3)]


def test_a_new_steward_does_all_again_and_says_so(stage: Stage) -> None:
    """Its predecessor may have died before it could tell; nothing is put back twice."""
    stage.board.mark_recall(0, 5, 6, 7)
    stage.recalls.work_off()
    stage.new_steward().work_off()
    assert stage.told == [Recalled(0, 1, 7, 3), Recalled(0, 1, 7, 0)]


@pytest.mark.parametrize("mark", [(2**53, 0, 7), (1, 2**60, 7), (1, 0, 2**63)])
def test_scribbled_marks_reach_no_broker(stage: Stage, mark: tuple[int, int, int]) -> None:
    """A task's C code wrote over the row: such numbers a broker cannot count, or would take for a floor for good."""
    stage.board.mark_recall(0, *mark)
    stage.recalls.work_off()
    assert stage.store.calls == []
