"""The board: what a child writes is what the supervisor reads, and whatever stands there, reading it is safe."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from poolrt import board as board_module
from poolrt.board import ROW_BYTES, ROW_CELLS, SLOTS, Board, BoardDamaged, Row
from poolrt.incarnation import left_running
from poolrt.states import Activity, Interruption, Kill, Order


@pytest.fixture
def fd() -> Iterator[int]:
    """An empty file without a name."""
    with tempfile.TemporaryFile() as file:
        yield file.fileno()


@pytest.fixture
def board(fd: int) -> Iterator[Board]:
    """An empty board of incarnation ``inc``."""
    Board.initialize(fd, "inc")
    board = Board(fd)
    yield board
    board.close()


def cells(board: Board, slot: int) -> memoryview:
    """The raw cells of a row."""
    return board._cells[(slot + 1) * ROW_CELLS : (slot + 2) * ROW_CELLS]


def test_a_row_is_read_as_written(board: Board) -> None:
    """Everything a child says of itself and its task reaches the supervisor."""
    board.clear(3, 7)
    writer = board.writer(3)
    writer.boot(4242)
    writer.reserving(5)
    writer.held(2)
    writer.fds(12)
    writer.run(5, 99, b"an-id", b"shop.add", 1000, 2000, 1500, 4096)
    row = board.read(3)
    assert row == Row(Activity.RUN, 1, 2000, 1500, 4096, 12, 1000, 5, 99, 2, 5, 0, 0, 7, 4242, "an-id", "shop.add")
    assert repr(row) == "<Row RUN shop.add#an-id (5,99) held=2 done=0 failed=0>"
    writer.ended(failed=True)
    row = board.read(3)
    assert (row.activity, row.done, row.failed) == (Activity.COMMIT, 1, 1)
    assert repr(row) == "<Row COMMIT held=2 done=1 failed=1>"


def test_an_interruption_names_its_run(board: Board) -> None:
    """The supervisor's word on whom it interrupts and why reaches the child, which knows its own run's number."""
    writer = board.writer(3)
    assert (writer.interruption, writer.sequence) == (0, 0)
    writer.run(5, 99, b"an-id", b"shop.add", 1000, 2000, 1500, 4096)
    board.interrupt(3, 1, Interruption.STOP)
    assert (writer.interruption, writer.sequence) == (1 << 8 | Interruption.STOP, 1)
    assert board.writer(2).interruption == 0, "another row's"


def test_each_run_has_a_new_word(board: Board) -> None:
    """Two runs of one task never share a word: a kill meant for the first cannot hit the second."""
    writer = board.writer(0)
    words = set()
    for _ in range(10):
        writer.run(1, 1, b"same", b"same", 1, 2, 0, 4096)
        words.add(board.word(0))
        writer.ended(failed=False)
        words.add(board.word(0))
    assert len(words) == 20


def test_orders_reach_the_child(board: Board) -> None:
    """What the supervisor orders is what the child reads; a new row's order is to work."""
    writer = board.writer(0)
    assert writer.order == Order.WORK
    for order in Order:
        board.order(0, order)
        assert writer.order == order
    board.publish_next_wake(123)
    assert writer.next_wake == 123


def test_rows_are_apart(board: Board) -> None:
    """What one child writes changes no other row, the last slot's and the header included."""
    for slot in (0, 1, SLOTS - 1):
        board.clear(slot, slot + 1)
    board.writer(0).run(2**64 - 1, 2**64 - 1, b"i" * 128, b"n" * 500, 2**64 - 1, 2**64 - 1, 2**64 - 1, 4096)
    board.writer(SLOTS - 1).run(1, 1, b"i" * 128, b"n" * 128, 1, 1, 1, 4096)
    assert board.read(1) == Row(Activity.NONE, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, "", "")
    assert board.tells_of("inc")
    assert board.read(0).task == "n" * 128


def test_ids_and_names_are_cut_at_their_fields(board: Board) -> None:
    """A foreign envelope's endless id or name spills into no other cell, not even the supervisor's."""
    board.order(0, Order.STANDBY)
    board.clear(1, 9)
    writer = board.writer(0)
    writer.refused(2)
    writer.run(1, 2, b"i" * 5000, b"n" * 5000, 1, 2, 3, 4096)
    writer.refused(1)
    row = board.read(0)
    assert (row.task_id, row.task, row.refused) == ("i" * 120, "n" * 128, 3)
    assert board.writer(0).order == Order.STANDBY
    assert board.read(1).generation == 9


def test_a_cleared_row_says_nothing_of_the_last_child(board: Board) -> None:
    """The next child of a slot starts from zero, with its own generation."""
    writer = board.writer(2)
    writer.run(1, 2, b"id", b"name", 1, 2, 3, 4096)
    writer.ended(failed=True)
    board.clear(2, 5)
    assert board.read(2) == Row(Activity.NONE, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, "", "")


def test_a_recall_mark_reaches_child_and_steward(board: Board) -> None:
    """The child reads its own, the steward all of them with the generations they are for; a new child has none."""
    assert (board.recall_marks(), board.recall_mark(2), board.writer(2).recall_mark) == ([], (0, 0, 0), (0, 0, 0))
    board.clear(2, 5)
    board.mark_recall(2, 7, 0, 9)
    board.clear(SLOTS - 1, 1)
    board.mark_recall(SLOTS - 1, 1, 99, 1)
    assert board.writer(2).recall_mark == board.recall_mark(2) == (7, 0, 9)
    assert board.writer(1).recall_mark == (0, 0, 0)
    assert board.recall_marks() == [(2, 5, 7, 0, 9), (SLOTS - 1, 1, 1, 99, 1)]
    board.clear(2, 6)
    assert board.recall_marks() == [(SLOTS - 1, 1, 1, 99, 1)]


class Meanwhile:
    """The board's cells; when the one numbered ``at`` is read, ``then`` happens first, once."""

    def __init__(self, cells: memoryview, at: int, then: Callable[[], object]) -> None:
        self.cells = cells
        self.at = at
        self.then: Callable[[], object] | None = then

    def __getitem__(self, at: object) -> object:
        if at == self.at and self.then is not None:
            then, self.then = self.then, None
            then()
        return self.cells[at]  # type: ignore[index]


@pytest.mark.parametrize("cell", range(51, 54))
def test_a_child_never_reads_half_a_mark(board: Board, cell: int) -> None:
    """Stopped and marked anew in the middle of its reading, it reads one mark or the other."""
    board.mark_recall(0, 5, 6, 7)
    writer = board.writer(0)
    cells = Meanwhile(board._cells, ROW_CELLS + cell, lambda: board.mark_recall(0, 9, 1, 11))
    writer._cells = cells  # type: ignore[assignment]
    assert writer.recall_mark in {(5, 6, 7), (9, 1, 11)}
    assert cells.then is None


@pytest.mark.parametrize("change", ["mark", "clear", "successor"])
@pytest.mark.parametrize("cell", [10, 51, 52, 53])
def test_the_steward_never_reads_half_a_mark(board: Board, cell: int, change: str) -> None:
    """Nor one generation's mark as another's: each could take back what runs. It looks again later."""
    board.clear(0, 1)
    board.mark_recall(0, 5, 6, 7)
    raw = board._cells

    def then() -> None:
        board._cells = raw
        if change != "mark":
            board.clear(0, 2)
        if change != "clear":
            board.mark_recall(0, 5 if change == "successor" else 9, 1, 11)
        board._cells = cells  # type: ignore[assignment]

    cells = Meanwhile(raw, ROW_CELLS + cell, then)
    board._cells = cells  # type: ignore[assignment]
    try:
        marks = board.recall_marks()
    finally:
        board._cells = raw
    new = (0, 2, 5, 1, 11) if change == "successor" else (0, 1, 9, 1, 11)
    assert set(marks) <= {(0, 1, 5, 6, 7), new}
    assert cells.then is None


class Watched:
    """The board's cells; after each one that is written, ``look`` is called."""

    def __init__(self, cells: memoryview, look: Callable[[], object]) -> None:
        self.cells = cells
        self.look = look

    def __setitem__(self, at: int, value: int) -> None:
        self.cells[at] = value
        self.look()


def test_a_half_written_mark_is_none(board: Board, fd: int) -> None:
    """The steward reads while the supervisor writes: the old mark, the new one, or none."""
    board.clear(0, 1)
    board.mark_recall(0, 5, 6, 7)
    stewards, raw = Board(fd), board._cells
    seen = [stewards.recall_marks()]
    board._cells = Watched(raw, lambda: seen.append(stewards.recall_marks()))  # type: ignore[assignment]
    try:
        board.mark_recall(0, 9, 1, 11)
    finally:
        board._cells = raw
        stewards.close()
    assert seen[0] == [(0, 1, 5, 6, 7)]
    assert seen[-1] == [(0, 1, 9, 1, 11)]
    assert seen[1:-1] == [[]] * (len(seen) - 2)


def test_running_names_what_a_dead_start_ran(board: Board) -> None:
    """Only rows whose word says RUN name a delivery; those that settle or wait do not."""
    for slot, activity in enumerate(Activity):
        board.clear(slot, slot + 10)
        writer = board.writer(slot)
        writer.run(slot, slot * 2, b"id", b"name", 1, 2, 3, 4096)
        if activity is not Activity.RUN:
            writer.activity(activity)
    slot = int(Activity.RUN)
    assert board.running() == ((slot, slot + 10, slot, slot * 2, 0),)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(noise=st.binary(min_size=ROW_BYTES, max_size=ROW_BYTES))
def test_scribbles_are_read_safely(board: Board, noise: bytes) -> None:
    """Whatever a task's C code wrote over its row, reading it raises nothing and reaches no other row."""
    board.clear(1, 1)
    board.writer(1).run(1, 1, b"NEIGHBOUR", b"NEIGHBOUR", 1, 1, 1, 4096)
    board._map[ROW_BYTES : 2 * ROW_BYTES] = noise
    row = board.read(0)
    assert row.activity in Activity
    assert len(row.task_id.encode("utf-8", "replace")) <= 3 * 128
    assert "NEIGHBOUR" not in repr(row)
    assert board.word(0) == int.from_bytes(noise[:8], "little")
    assert (1, 1, 1, 1, 0) in board.running()
    assert board.writer(0).order == int.from_bytes(noise[48 * 8 : 49 * 8], "little")


@pytest.mark.parametrize("place", range(16))
@pytest.mark.parametrize("value", [2**64 - 1, 2**63, 129, 8, 255])
def test_no_cell_is_believed(board: Board, place: int, value: int) -> None:
    """Each cell at its worst: lengths are cut, an unknown activity reads as NONE."""
    writer = board.writer(0)
    writer.run(1, 2, b"id", b"name", 1, 2, 3, 4096)
    cells(board, 0)[place] = value
    row = board.read(0)
    assert row.activity in Activity
    assert len(row.task_id) <= 128
    assert len(row.task) <= 128


def test_a_row_that_never_stands_still_is_read_all_the_same(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader gives up waiting for a quiet moment after three looks."""

    class Restless:
        """Cells whose word is another one at each look."""

        looks = 0

        def __getitem__(self, key: object) -> object:
            if isinstance(key, slice):
                return real[key]
            Restless.looks += 1
            return Restless.looks << 8 | Activity.RUN

        def release(self) -> None:
            real.release()

    real = board._cells
    monkeypatch.setattr(board, "_cells", Restless())
    assert board.read(0).activity is Activity.RUN
    assert Restless.looks == 6 + 1  # twice the word each time, and once the cell behind the id


def test_text_that_is_no_utf8_is_read(board: Board) -> None:
    """A task name cut in the middle of a character is shown with a replacement, not refused."""
    board.writer(0).run(1, 2, b"\xff\xfe", ("é" * 200).encode()[:-1] + b"\xc3", 1, 2, 3, 4096)
    assert board.read(0).task_id == "��"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"poolrt-board-1\ninc\n",
        bytes(ROW_BYTES * (SLOTS + 1)),
        b"poolrt-board-2\ninc\n".ljust(ROW_BYTES * (SLOTS + 1), b"\0"),
        b"poolrt-board-1\ninc\n".ljust(ROW_BYTES * (SLOTS + 1) + 1, b"\0"),
    ],
    ids=["empty", "cut", "zeros", "another version", "too long"],
)
def test_damaged_files_are_refused(content: bytes, fd: int) -> None:
    """A file of another size or header is no board, and nothing is kept open of it."""
    os.pwrite(fd, content, 0)
    with pytest.raises(BoardDamaged):
        Board(fd)


def test_a_folder_is_no_board(tmp_path: Path) -> None:
    """What is no file at all is refused like a damaged one."""
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(BoardDamaged):
            Board(fd)
    finally:
        os.close(fd)


def test_initialize_forgets_what_was_there(board: Board, fd: int) -> None:
    """A new start's board holds nothing of the old one's; two maps of one file see the same rows."""
    board.writer(0).run(1, 2, b"id", b"name", 1, 2, 3, 4096)
    Board.initialize(fd, "second")
    other = Board(fd)
    assert other.tells_of("second")
    assert not other.tells_of("inc")
    assert other.running() == ()
    other.writer(5).boot(77)
    again = Board(fd)
    assert again.read(5).pid == 77
    other.close()
    again.close()


@pytest.mark.parametrize("header", [b"x" * 497, b"\xff\xfe\n", b"in"])
def test_a_scribbled_header_is_read_safely(board: Board, header: bytes) -> None:
    """Whatever stands in the header, it tells of no start that did not write it."""
    board._map[15 : 15 + len(header)] = header[::-1]
    assert not board.tells_of("inc")


def test_a_board_of_another_boot_tells_nothing(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a crash of the host the header may have reached the disk, and rows not: nobody saw what ran then."""
    assert board.tells_of("inc")
    monkeypatch.setattr(board_module, "boot_id", lambda: "another boot")
    assert not board.tells_of("inc")


def test_a_kill_is_known_for_the_very_run_it_was_meant_for(board: Board) -> None:
    """What a dead supervisor had ordered is read with the running row; of a later run of that child it says nothing."""
    board.clear(4, 1)
    writer = board.writer(4)
    writer.run(1, 7, b"id", b"name", 1, 2, 3, 0)
    board.kills(4, 1, Kill.TIME_LIMIT)
    assert board.running() == ((4, 1, 1, 7, Kill.TIME_LIMIT),)
    writer.run(1, 8, b"id", b"name", 1, 2, 3, 0)
    assert board.running() == ((4, 1, 1, 8, 0),)


def test_who_reads_while_another_start_takes_the_board_over(fd: int, board: Board) -> None:
    """A board that changes hands in the middle of a reading tells nothing, and its pages stay (no SIGBUS)."""
    board.writer(0).run(1, 2, b"id", b"name", 1, 2, 3, 0)
    assert left_running(fd, "inc") == ((0, 0, 1, 2, 0),)
    Board.initialize(fd, "second")
    assert left_running(fd, "inc") is None
    assert left_running(fd, "second") == ()
    assert board.read(0).activity is Activity.NONE
