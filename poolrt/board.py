"""The board: one mapped file, a row a slot, through which children say what they do at 0.1 us a cell.

    child ──writes──▶ cells 0-47 of its row          supervisor ──writes──▶ cells 48-63 of that row
    child ◀──reads─── cells 48-63                    supervisor ◀──reads─── cells 0-47

Each cell has one writer, and the two writers' cells lie in different cache lines. The word (``seq << 8 |
activity``) is written last, so whoever reads a word reads the fields that belong to it. The file lies beside
the node's lock and outlives its supervisor: the next start reads from it which delivery each child was running.

Everything read here is untrusted (a task's C code can scribble over the map): values are bounds-checked,
and a length is never believed beyond its field.
"""

from __future__ import annotations

import mmap
import os
import stat
from typing import Final, NamedTuple

from poolrt.errors import PoolrtError
from poolrt.posix.boot import boot_id
from poolrt.states import Activity, Interruption, Kill, Order

ROW_BYTES: Final = 512
ROW_CELLS: Final = 64
SLOTS: Final = 1024
"""Rows of a board: half a MiB on disk, and of memory only the pages of rows that are used."""
RECALL_AFTER_NS: Final = 100_000_000
"""How long a task may run before what its child holds beside it is given to others."""
_MAGIC: Final = b"poolrt-board-1\n"
_ID_BYTES: Final = 120
_NAME_BYTES: Final = 128

_RUN: Final = int(Activity.RUN)
_COMMIT: Final = int(Activity.COMMIT)
"""Looked up once: an enum's member costs 0.1 us each time, and both are written for each task."""

# Cells written by the child.
_WORD, _HARD, _SOFT, _START, _N, _I, _LAST_RESERVE, _HELD = range(8)
_DONE, _FAILED, _GENERATION, _PID, _ID_LENGTH, _NAME_LENGTH, _MEMORY, _FDS = range(8, 16)
_ID_AT: Final = 16 * 8
_REFUSED: Final = 31
"""Behind the id's 120 bytes."""
_NAME_AT: Final = 32 * 8
# Cells written by the supervisor.
_COMMAND: Final = 48
_INTERRUPT: Final = 49
_KILL: Final = 50
_RECALL_N: Final = 51
_RECALL_I: Final = 52
_RECALL_UPTO: Final = 53
"""Written before ``_RECALL_N``, which is 0 for no mark: see ``Board.mark_recall``."""
# Cells of the header row.
_LEASE_UNTIL: Final = 61
"""Written by the steward: CLOCK_BOOTTIME ns until which the node may start tasks; 0 where there are no leases."""
_BEAT: Final = 62
"""Written by the steward: CLOCK_MONOTONIC ns of the last round of its loop."""
_NEXT_WAKE: Final = 63
"""Written by the supervisor: when it will look next, CLOCK_MONOTONIC ns."""


class Running(NamedTuple):
    """A row whose child was running something: what a dead start leaves us to know."""

    slot: int
    generation: int
    n: int
    i: int
    kill: int = 0
    """Why its supervisor was killing that very run (see states.Kill); 0: it was not."""


class BoardDamaged(PoolrtError):
    """The file is not a board, or has another size."""


class Row(NamedTuple):
    """A consistent reading of one child's row."""

    activity: Activity
    sequence: int
    hard_deadline: int
    """CLOCK_MONOTONIC ns; 0 is none."""
    soft_deadline: int
    """The same, for the soft limit."""
    memory_limit: int
    """Bytes of RSS the running task may not exceed; 0 is none."""
    fds: int
    """The lowest free descriptor after the last task: how many are open, if none was closed in between."""
    started: int
    """CLOCK_MONOTONIC ns of the task's start."""
    n: int
    i: int
    """The delivery it names; see message.Delivery."""
    held: int
    """Deliveries reserved and not settled yet, the running one included."""
    last_reserve: int
    """The number of the last reserve it sent, or is about to send."""
    done: int
    failed: int
    generation: int
    pid: int
    task_id: str
    task: str
    refused: int = 0
    """Outcomes that the broker refused: their deliveries were somebody else's already."""

    def __repr__(self) -> str:
        """One line for bug reports."""
        running = f" {self.task}#{self.task_id} ({self.n},{self.i})" if self.activity is Activity.RUN else ""
        return f"<Row {self.activity.name}{running} held={self.held} done={self.done} failed={self.failed}>"


class Board:
    """The whole map, as the supervisor and the template see it."""

    def __init__(self, fd: int) -> None:
        """Map the board behind ``fd``; the fd stays the caller's. Raises BoardDamaged."""
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size != ROW_BYTES * (SLOTS + 1):
            raise BoardDamaged(f"a board of {status.st_size} bytes")
        self._map = mmap.mmap(fd, ROW_BYTES * (SLOTS + 1))
        if self._map[: len(_MAGIC)] != _MAGIC:
            self._map.close()
            raise BoardDamaged("no board's header")
        self._cells = memoryview(self._map).cast("Q")

    @staticmethod
    def initialize(fd: int, incarnation: str) -> None:
        """Make the file behind ``fd`` an empty board of ``incarnation``.

        Whoever has the former content mapped must neither take it for the new one's nor lose its pages (SIGBUS): so the
        header goes first and comes last, and the file is never shortened below a board.
        """
        size = ROW_BYTES * (SLOTS + 1)
        os.pwrite(fd, bytes(ROW_BYTES), 0)
        os.ftruncate(fd, size)
        # Allocated now, and not by the first write: on a full disk that write would be a SIGBUS.
        os.posix_fallocate(fd, 0, size)
        os.pwrite(fd, bytes(size - ROW_BYTES), ROW_BYTES)
        os.pwrite(fd, _MAGIC + f"{incarnation}\n{boot_id()}\n".encode(), 0)

    def tells_of(self, incarnation: str) -> bool:
        """Whether it is that start's, and was written since the machine was booted."""
        head = bytes(self._map[:ROW_BYTES])
        return head.startswith(_MAGIC + f"{incarnation}\n{boot_id()}\n".encode())

    def close(self) -> None:
        """Unmap."""
        self._cells.release()
        self._map.close()

    # ---- the supervisor's side

    def clear(self, slot: int, generation: int) -> None:
        """Make the row ready for the next child of this slot; no child may be writing to it."""
        base = (slot + 1) * ROW_CELLS
        self._map[base * 8 : base * 8 + ROW_BYTES] = bytes(ROW_BYTES)
        self._cells[base + _GENERATION] = generation

    def order(self, slot: int, command: Order) -> None:
        """Write the order for the child in ``slot``; the child reads it between two tasks."""
        self._cells[(slot + 1) * ROW_CELLS + _COMMAND] = command

    def interrupt(self, slot: int, sequence: int, reason: Interruption) -> None:
        """Name the run, by its sequence number, that the SIGUSR2 sent next is meant for, and why."""
        self._cells[(slot + 1) * ROW_CELLS + _INTERRUPT] = sequence << 8 | reason

    def kills(self, slot: int, sequence: int, kill: Kill) -> None:
        """Note why that run's child is about to be killed, in case this supervisor dies before it can tell."""
        self._cells[(slot + 1) * ROW_CELLS + _KILL] = sequence << 8 | kill

    def mark_recall(self, slot: int, n: int, i: int, upto: int) -> None:
        """Take back what the child in ``slot`` holds after its delivery ``(n, i)`` of reserves up to ``upto``.

        Only while the child is stopped at ``RUN (n, i)`` (protocol.md, rules 7 and 9). A row's ``clear`` removes it."""
        base = (slot + 1) * ROW_CELLS
        self._cells[base + _RECALL_N] = 0
        self._cells[base + _RECALL_I] = i
        self._cells[base + _RECALL_UPTO] = upto
        self._cells[base + _RECALL_N] = n

    def recall_mark(self, slot: int) -> tuple[int, int, int]:
        """The mark of that row as ``(n, i, upto)``; all 0 for none."""
        base = (slot + 1) * ROW_CELLS
        return self._cells[base + _RECALL_N], self._cells[base + _RECALL_I], self._cells[base + _RECALL_UPTO]

    def recall_marks(self) -> list[tuple[int, int, int, int, int]]:
        """Every row's mark, as ``(slot, generation, n, i, upto)``, without those that are being written just now."""
        marks = []
        for slot, marked in enumerate(self._cells[ROW_CELLS + _RECALL_N :: ROW_CELLS].tolist()):
            if marked:
                base = (slot + 1) * ROW_CELLS
                generation = self._cells[base + _GENERATION]
                n, i, upto = self.recall_mark(slot)
                # Half of one mark and half of another, or of an earlier generation, could take back what runs.
                if n and n == self._cells[base + _RECALL_N] and generation == self._cells[base + _GENERATION]:
                    marks.append((slot, generation, n, i, upto))
        return marks

    def publish_lease(self, until: int) -> None:
        """Say until when the node may start tasks, CLOCK_BOOTTIME ns; by the steward."""
        self._cells[_LEASE_UNTIL] = until

    @property
    def lease_until(self) -> int:
        """Until when the node may start tasks, CLOCK_BOOTTIME ns; 0 where there are no leases."""
        return self._cells[_LEASE_UNTIL]

    def publish_beat(self, now: int) -> None:
        """Say that the steward's loop goes round, CLOCK_MONOTONIC ns; by the steward."""
        self._cells[_BEAT] = now

    @property
    def beat(self) -> int:
        """The last round of the steward's loop, CLOCK_MONOTONIC ns; 0 before the first."""
        return self._cells[_BEAT]

    def publish_next_wake(self, moment: int) -> None:
        """Say when the supervisor looks next (CLOCK_MONOTONIC ns); a child with an earlier deadline pokes it."""
        self._cells[_NEXT_WAKE] = moment

    def word(self, slot: int) -> int:
        """The word alone: what the hard limit compares while the child is stopped."""
        return self._cells[(slot + 1) * ROW_CELLS]

    def read(self, slot: int) -> Row:
        """A consistent copy of the row: read again while the word moves, at most three times."""
        base = (slot + 1) * ROW_CELLS
        for _ in range(3):
            word = self._cells[base]
            cells = self._cells[base : base + 16].tolist()
            task_id = bytes(self._map[base * 8 + _ID_AT : base * 8 + _ID_AT + min(cells[_ID_LENGTH], _ID_BYTES)])
            name = bytes(self._map[base * 8 + _NAME_AT : base * 8 + _NAME_AT + min(cells[_NAME_LENGTH], _NAME_BYTES)])
            if self._cells[base] == word:
                break
        state = word & 0xFF
        activity = Activity(state) if state <= max(Activity) else Activity.NONE
        return Row(
            activity, word >> 8, cells[_HARD], cells[_SOFT], cells[_MEMORY], cells[_FDS], cells[_START], cells[_N],
            cells[_I], cells[_HELD], cells[_LAST_RESERVE], cells[_DONE], cells[_FAILED], cells[_GENERATION],
            cells[_PID], task_id.decode("utf-8", "replace"), name.decode("utf-8", "replace"),
            self._cells[base + _REFUSED],
        )  # fmt: skip

    def running(self) -> tuple[Running, ...]:
        """Each row whose word says RUN."""
        found = []
        for slot in range(SLOTS):
            base = (slot + 1) * ROW_CELLS
            word, kill = self._cells[base], self._cells[base + _KILL]
            if word & 0xFF == Activity.RUN:
                code = kill & 0xFF if kill >> 8 == word >> 8 else 0
                generation, n, i = (self._cells[base + cell] for cell in (_GENERATION, _N, _I))
                found.append(Running(slot, generation, n, i, code))
        return tuple(found)

    def writer(self, slot: int) -> RowWriter:
        """The child's side of ``slot``."""
        return RowWriter(self._map, self._cells, slot)


class RowWriter:
    """The child's side of its row. Invariant: ``_word`` is the last thing written by each method."""

    __slots__ = ("_base", "_cells", "_id_at", "_map", "_name", "_name_at", "_sequence", "done", "failed")

    def __init__(self, board: mmap.mmap, cells: memoryview[int], slot: int) -> None:
        self._map = board
        self._cells = cells
        self._base = (slot + 1) * ROW_CELLS
        self._id_at = self._base * 8 + _ID_AT
        self._name_at = self._base * 8 + _NAME_AT
        self._name = b""
        self._sequence = 0
        self.done = 0
        self.failed = 0

    def boot(self, pid: int) -> None:
        """Say that this row is ``pid``'s."""
        self._cells[self._base + _PID] = pid
        self.activity(Activity.BOOT)

    def activity(self, activity: Activity) -> None:
        """Move the word away from any delivery."""
        self._cells[self._base] = self._sequence << 8 | activity

    def reserving(self, n: int) -> None:
        """Publish reserve ``n`` before it is sent (protocol.md, rule 7)."""
        self._cells[self._base + _LAST_RESERVE] = n

    def held(self, count: int) -> None:
        """Publish how many deliveries are held."""
        self._cells[self._base + _HELD] = count

    def refused(self, count: int) -> None:
        """Count outcomes that came too late."""
        self._cells[self._base + _REFUSED] += count

    def fds(self, lowest_free: int) -> None:
        """Publish the lowest free descriptor."""
        self._cells[self._base + _FDS] = lowest_free

    def run(
        self, n: int, i: int, task_id: bytes, name: bytes, started: int, hard: int, soft: int, memory: int
    ) -> None:  # fmt: skip
        """Publish that delivery ``(n, i)`` runs from now on; times are CLOCK_MONOTONIC ns, limits 0 for none."""
        cells, base = self._cells, self._base
        cells[base + _MEMORY] = memory
        cells[base + _HARD] = hard
        cells[base + _SOFT] = soft
        cells[base + _START] = started
        cells[base + _N] = n
        cells[base + _I] = i
        cells[base + _ID_LENGTH] = length = min(len(task_id), _ID_BYTES)  # a foreign envelope may carry any id
        self._map[self._id_at : self._id_at + length] = task_id[:length]
        if name is not self._name:
            self._name = name
            cells[base + _NAME_LENGTH] = length = min(len(name), _NAME_BYTES)
            self._map[self._name_at : self._name_at + length] = name[:length]
        self._sequence += 1
        cells[base] = self._sequence << 8 | _RUN

    def ended(self, *, failed: bool) -> None:
        """Count a finished task and move the word away from its delivery."""
        cells, base = self._cells, self._base
        cells[base] = self._sequence << 8 | _COMMIT
        self.done += 1
        cells[base + _DONE] = self.done
        if failed:
            self.failed += 1
            cells[base + _FAILED] = self.failed

    def failed_after_all(self) -> None:
        """Count the last task that ended as failed: by what it left."""
        self.failed += 1
        self._cells[self._base + _FAILED] = self.failed

    @property
    def sequence(self) -> int:
        """The number of the run published last."""
        return self._sequence

    @property
    def interruption(self) -> int:
        """``sequence << 8 | Interruption``: the run that the supervisor wants interrupted; 0 for none so far."""
        return self._cells[self._base + _INTERRUPT]

    @property
    def order(self) -> int:
        """The supervisor's order for this child; see states.Order."""
        return self._cells[self._base + _COMMAND]

    @property
    def recalled(self) -> int:
        """The ``n`` of the present mark, 0 for none: it grows from mark to mark. To be read once the word has moved."""
        return self._cells[self._base + _RECALL_N]

    @property
    def recall_mark(self) -> tuple[int, int, int]:
        """What is taken back, as ``(n, i, upto)``; all 0 for nothing. To be read after the word has moved (rule 9)."""
        cells, base = self._cells, self._base
        while True:
            n, i, upto = cells[base + _RECALL_N], cells[base + _RECALL_I], cells[base + _RECALL_UPTO]
            if cells[base + _RECALL_N] == n:  # else this child was stopped and marked in the middle of this reading
                return n, i, upto

    @property
    def lease_until(self) -> int:
        """Until when this node may start tasks, CLOCK_BOOTTIME ns; 0 where there are no leases."""
        return self._cells[_LEASE_UNTIL]

    @property
    def next_wake(self) -> int:
        """When the supervisor will look at the rows next, CLOCK_MONOTONIC ns."""
        return self._cells[_NEXT_WAKE]
