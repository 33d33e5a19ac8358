"""Runs the demo: a real Supervisor on a SQLite file, its tasks, and the count of what is left afterwards.

this process ──starts──▶ supervisor ──▶ template ──▶ children, steward
    │  enqueue ─▶ demo.db ◀─ reserve, settle ─────────────┤
    │  broker.wait: one task after the other, woken by its end; each quarter second the screen is drawn
    ├─ Witness thread ◀─ events over the control socket   │
    └─ Listener thread ◀─ connections of leak-socket ─────┘
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from poolrt.brokers.base import Broker, Depth
from poolrt.cli.demo import stdlib
from poolrt.cli.demo.account import Account, told_by_record
from poolrt.cli.demo.listener import listening
from poolrt.cli.demo.offenders import Accepted, Daemon, Heard, Traces
from poolrt.codec import decode
from poolrt.embed import Supervisor
from poolrt.errors import ControlError, PoolrtError, SupervisorNotRunning
from poolrt.message import Record, decode_record
from poolrt.posix import processes
from poolrt.posix.pidfd import open_pidfd, send_signal
from poolrt.states import FINAL, TaskState

DEADLINE: Final = 51.0
"""Seconds after which the demo stops waiting and says what is missing; the stop may take ``STOP`` more."""
GRACE: Final = 3.0
STOP: Final = 5.0
BOOT: Final = 20.0
TASKS_A_CHILD: Final = 100
REFRESH: Final = 0.25


class Progress(NamedTuple):
    """One moment of the run, for the screen."""

    accepted: int
    ended: int
    seconds: float
    waiting: Depth
    status: Mapping[str, Any]


class ReaderLeft(Exception):
    """Whoever read what the demo prints is gone."""


class Screen(Protocol):
    """Where the run is shown."""

    def begin(self, modules: int, concurrency: int) -> None:
        """Before anything starts; raises ReaderLeft."""

    def progress(self, now: Progress) -> None:
        """About four times a second; raises ReaderLeft."""

    def contained(self, event: Mapping[str, Any]) -> None:
        """An event, or a task that ended without a value; from two threads, and it raises nothing."""

    def end(self) -> None:
        """The run is over, whatever its end."""


class Witness:
    """Keeps every event of the pool; its thread ends with the pool's stream."""

    def __init__(self, pool: Supervisor, screen: Screen) -> None:
        self.events: list[Mapping[str, Any]] = []
        self._pool = pool
        self._screen = screen
        self._thread = threading.Thread(target=self._watch, name="poolrt-demo-events", daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        try:
            for event in self._pool.events():
                self.events.append(event)
                self._screen.contained(event)
        except (PoolrtError, OSError):
            return  # the pool is gone; the account shows what was not told

    def join(self) -> None:
        """Wait until the stream has ended, after the pool has."""
        self._thread.join(2.0)


def run(concurrency: int, screen: Screen, log: Path) -> Account:
    """Run the demo on the broker that the environment names, and account for it.

    Args:
        concurrency: how many children.
        screen: where it is shown.
        log: where the pool logs to; tasks may write beside it.

    Raises:
        PoolrtError: the pool could not be started.
        ReaderLeft: there is nobody to show it to; the pool is stopped by then.
        KeyboardInterrupt: ^C; the pool is stopped by then.
    """
    started = time.monotonic()
    from poolrt.cli.demo import workload
    from poolrt.cli.demo.tasks import app

    before = set(processes.descendants(os.getpid()))
    files = stdlib.modules()
    max_memory = workload.ceiling(processes.rss_bytes(os.getpid()) or 0, concurrency)
    screen.begin(len(files), concurrency)
    incarnation = ""
    pool = Supervisor(
        "poolrt.cli.demo.tasks:app",
        node_name=f"demo-{os.getpid()}",
        concurrency=concurrency,
        max_tasks_per_child=TASKS_A_CHILD,
        max_memory_per_child=f"{max_memory}B",
        max_deliveries=workload.MAX_DELIVERIES,
        graceful_timeout=GRACE,
        boot_timeout=BOOT,
        log_level="info",
    )
    try:
        with listening() as listener:
            with started_quietly(pool, log):
                incarnation = str(pool.status()["incarnation"])
                witness = Witness(pool, screen)
                planned = workload.calls(files, concurrency, max_memory, listener.port, log.parent)
                watch = Watch(app.broker, pool, screen, workload.enqueue(planned), started)
                with suppress(SupervisorNotRunning, ControlError):  # it was killed or stopped: the account says so
                    watch.until_all_ended()
            witness.join()
            left = left_over(incarnation, before)
            return watch.account(witness.events, left, pool.exit_code or 0, listener.heard(), log.parent)
    except KeyboardInterrupt as interrupt:
        interrupt.add_note(f"processes left over: {len(left_over(incarnation, before))}")
        raise
    finally:
        app.close()
        screen.end()


class Watch:
    """Waits for each accepted task's record, and draws meanwhile."""

    def __init__(
        self, broker: Broker, pool: Supervisor, screen: Screen, accepted: Sequence[Accepted], started: float
    ) -> None:
        self.records: dict[str, Record] = {}
        self._broker = broker
        self._pool = pool
        self._screen = screen
        self._accepted = accepted
        self._started = started
        self._drawn = 0.0

    def until_all_ended(self) -> None:
        """Return when every task has a record, or at the deadline."""
        for task in self._accepted:
            while task.task_id not in self.records:
                left = self._started + DEADLINE - time.monotonic()
                if left <= 0:
                    return
                found = self._broker.wait(task.task_id, min(REFRESH, left))
                if found is not None and found.record is not None:
                    self._keep(task, decode_record(found.record))
                self._draw()
        self._draw(at_once=True)

    def _keep(self, task: Accepted, record: Record) -> None:
        self.records[task.task_id] = record
        if record.state is not TaskState.SUCCEEDED:
            self._screen.contained(told_by_record(task, record))

    def _draw(self, *, at_once: bool = False) -> None:
        now = time.monotonic()
        if now - self._drawn < REFRESH and not at_once:
            return
        self._drawn = now
        waiting = self._broker.depth()
        ended = len(self._accepted) - waiting.queued - waiting.delayed - waiting.reserved
        seconds = now - self._started
        self._screen.progress(Progress(len(self._accepted), ended, seconds, waiting, self._pool.status()))

    def account(
        self, events: Sequence[Mapping[str, Any]], left: Sequence[str], exit_code: int, heard: Heard, folder: Path
    ) -> Account:
        """The account, from what the broker says now that the pool has stopped."""
        pending: dict[str, str] = {}
        for task in self._accepted:
            if task.task_id not in self.records:
                found = self._broker.find(task.task_id)
                if found is not None and found.record is not None:
                    self.records[task.task_id] = decode_record(found.record)
                else:
                    pending[task.task_id] = "lost" if found is None else str(found.state)
        most = len(self._accepted) + 1
        return Account(
            accepted=self._accepted,
            records=self.records,
            pending=pending,
            depth=self._broker.depth(),
            ended={state: frozenset(found.id for found in self._broker.ended(state, most)) for state in FINAL},
            events=events,
            traces=Traces(heard, self._daemons(), self._cleaned(folder)),
            sums=add_up(self._accepted, self.records, trusted=self._broker.trusted),
            left_over=left,
            exit_code=exit_code,
            seconds=time.monotonic() - self._started,
        )

    def _daemons(self) -> dict[str, Daemon]:
        """The processes that ``daemon`` left, by the pid and start time that it returned."""
        found = {}
        for task in self._accepted:
            record = self.records.get(task.task_id)
            if task.task == "daemon" and record is not None and record.value is not None:
                pid, began = decode(record.codec, record.value, trusted=self._broker.trusted)
                lives = processes.is_alive(pid) and processes.start_time(pid) == began
                found[task.task_id] = Daemon(pid, lives)
        return found

    def _cleaned(self, folder: Path) -> frozenset[str]:
        """The ids of ``overrun``, if its draft was put away."""
        done = any(folder.glob("*.cleaned")) and not any(folder.glob("*.draft"))
        return frozenset(task.task_id for task in self._accepted if task.task == "overrun" and done)


def add_up(accepted: Sequence[Accepted], records: Mapping[str, Record], *, trusted: bool) -> dict[str, int]:
    """The library in numbers: what the parse tasks returned, added up."""
    sums = {"files": 0, "lines": 0, "nodes": 0, "functions": 0, "classes": 0}
    for task in accepted:
        record = records.get(task.task_id)
        if task.task == "parse" and record is not None and record.value is not None:
            sums["files"] += 1
            for name, count in decode(record.codec, record.value, trusted=trusted).items():
                sums[name] += count
    return sums


def left_over(incarnation: str, before: set[int]) -> list[str]:
    """The processes that carry the pool's mark or descend from this one, a line each; zombies count.

    After a stop there is none at once. A second is waited for what a killed supervisor left: its template ends it.
    """
    patience = time.monotonic() + 1.0
    while True:
        pids = set(processes.descendants(os.getpid())) - before
        if incarnation:
            pids |= set(processes.marked("POOLRT_INCARNATION", incarnation))
        pids.discard(os.getpid())
        if not pids or time.monotonic() > patience:
            return [f"{pid} ({processes.command(pid)})" for pid in sorted(pids)]
        time.sleep(0.02)


@contextmanager
def started_quietly(pool: Supervisor, log: Path) -> Iterator[None]:
    """The pool, started with its stderr in a file: a line of its log would tear the live view."""
    kept = os.dup(2)
    try:
        with log.open("ab") as file:
            os.dup2(file.fileno(), 2)
            pool.start()
    finally:
        os.dup2(kept, 2)
        os.close(kept)
    try:
        yield
    finally:
        stop_within(pool, STOP)


def stop_within(pool: Supervisor, seconds: float) -> None:
    """Stop the pool; a supervisor that takes longer is killed, and the template then ends everything below it."""
    if pool.pid is None:
        return
    handle = open_pidfd(pool.pid)
    timer = threading.Timer(seconds, send_signal, (handle, signal.SIGKILL))
    timer.start()
    try:
        pool.stop()
    finally:
        timer.cancel()
        timer.join()
        os.close(handle)
