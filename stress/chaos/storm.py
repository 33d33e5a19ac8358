"""A storm of SIGKILL and SIGSTOP on a node at work: is every task accounted for, and nothing left?

    python -m stress.chaos storm [--small | --full] [--seed N] [--tasks N]

    PRODUCER (a thread)  enqueues mixed tasks, in bursts, again under the same id until the broker takes them
    STORM (this thread)  kills, stops and continues child, template, steward and supervisor; starts the node again
    ────────────────────────────────────────────────────────────────────────────────────────────────────────────────
    then: all ends, TERM, and the account of ledger, journal and records

The exit code is 1 if a task was lost or ended twice, or a process, a delivery, a descriptor or a file was left.
"""

from __future__ import annotations

import argparse
import heapq
import importlib
import itertools
import os
import shutil
import signal
import statistics
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from poolrt import App
from stress.chaos import account, faults
from stress.chaos.faults import Fault
from stress.chaos.journal import Journal
from stress.chaos.producer import Producer
from stress.chaos.storm_node import CONCURRENCY, Node

MOST_DELIVERIES: Final = 50
REPLACED_WITHIN: Final = 20.0
"""Seconds a process that stands still may take to be replaced: 1.5 for a child without a task, else its task's limit,
the template's, or the steward's 15."""
LONGEST_BOOT: Final = 30.0
GONE_WITHIN: Final = 2.0
MOST_EXPLAINED: Final = 10
STEADY: Final = ["standby"] * 2 + ["up"] * CONCURRENCY
"""The states of a node's children when nothing happens."""


class Size(NamedTuple):
    """How large a storm is."""

    tasks: int
    per_second: float
    every: float
    """Seconds between two faults, on average."""
    drain: float
    """Seconds that may pass after the storm until everything has ended."""
    slow: bool
    """With faults that take long to be noticed."""


SIZES: Final = {
    "small": Size(1000, 80, 0.4, 60, slow=False),
    "full": Size(10_000, 110, 0.4, 120, slow=True),
}


class Reclaim(NamedTuple):
    """How a start took back what the starts before it had held."""

    took: float
    """Seconds from its exec until the broker knew no earlier start any more."""
    booted: float
    """Seconds of these until its supervisor had a template that had imported the app."""
    fault: Fault

    def __str__(self) -> str:
        """For reports."""
        return (
            f"{self.fault}: what the node had held was taken back {self.took:.2f} s after its exec, "
            f"{self.booted:.2f} s of which until the app was imported"
        )


class Storm:
    """One storm from its first fault to its account."""

    def __init__(self, node: Node, app: App, planned: list[Fault], size: Size, options: argparse.Namespace) -> None:
        self.node = node
        self.app = app
        self.planned = planned
        self.size = size
        self.options = options
        self.made: Counter[str] = Counter()
        self.stopped: set[int] = set()
        self.reclaims: list[Reclaim] = []
        self.wrong: list[str] = []
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    # ---- the storm

    def rage(self) -> None:
        """Make all planned faults, each at its time or as soon after it as the one before is over."""
        began = time.monotonic()
        for fault in self.planned:
            if time.monotonic() - began > 3 * fault.at + self.size.drain:
                self.wrong.append(f"the storm is {time.monotonic() - began - fault.at:.0f} s late: it was cut short")
                break
            self._wait_until(began + fault.at)
            self._make(fault)
        while self._due:
            self._wait_until(self._due[0][0])

    def _make(self, fault: Fault) -> None:
        if fault.whom == "everyone":
            victims = self.node.marked()
        else:
            roles = self.node.roles()
            victims = [self._one(roles[role], fault.pick) for role in fault.whom.split("+")]
        victims = [pid for pid in victims if pid]
        if not victims:
            self.made[f"{fault.how} {fault.whom}: nobody there"] += 1
            return
        self.made[f"{fault.how} {fault.whom}"] += 1
        if fault.how == "freeze" and fault.whom == "template":
            self.node.send(self._one(roles["child"], fault.pick), signal.SIGKILL)  # else nobody needs to notice it
        for pid in victims:
            if fault.how != "kill":
                self.stopped.add(pid)
            self.node.send(pid, signal.SIGKILL if fault.how == "kill" else signal.SIGSTOP)
        if fault.ends_supervisor:
            self._start_again(fault)
        elif fault.how == "pause":
            for pid in victims:
                self._later(fault.seconds, lambda pid=pid: self.node.send(pid, signal.SIGCONT))
        elif fault.how == "freeze":
            self._must_go(victims[0], fault)

    @staticmethod
    def _one(pids: list[int], pick: float) -> int:
        return pids[int(pick * len(pids))] if pids else 0

    def _must_go(self, pid: int, fault: Fault) -> None:
        """It must be replaced without us; else that is wrong, and we end it."""
        deadline = time.monotonic() + REPLACED_WITHIN

        def look() -> None:
            if self.node.gone(pid):
                return
            if time.monotonic() < deadline:
                self._later(0.25, look)
                return
            self.wrong.append(f"{fault}: process {pid} stood still for {REPLACED_WITHIN:g} s and was not replaced")
            self.node.send(pid, signal.SIGKILL)

        look()

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._due, (time.monotonic() + seconds, next(self._numbers), action))

    def _wait_until(self, moment: float) -> None:
        """Do what is due meanwhile; and start a node again that ended by itself, which is wrong."""
        while True:
            now = time.monotonic()
            if self.node.ended() is not None:
                self.wrong.append(f"the supervisor ended by itself, with {self.node.ended()}")
                self.node.start(MOST_DELIVERIES)
            if self._due and self._due[0][0] <= now:
                heapq.heappop(self._due)[2]()
            elif now >= moment:
                return
            else:
                time.sleep(max(0.0, min(moment, self._due[0][0] if self._due else moment, now + 0.05) - now))

    # ---- starting again

    def _start_again(self, fault: Fault) -> None:
        if fault.how == "freeze":
            supervisor = self.node.process.pid
            time.sleep(faults.FROZEN_SUPERVISOR)
            self.node.send(supervisor, signal.SIGKILL)
        self.node.process.wait(5)
        time.sleep(fault.seconds)
        if fault.again:
            self.node.start(fault.max_deliveries)
            time.sleep(fault.again)
            self.made["kill supervisor while it boots"] += 1
            self.node.send(self.node.process.pid, signal.SIGKILL)
            self.node.process.wait(5)
        for _, _, action in sorted(self._due, key=lambda due: due[:2]):
            action()  # a paused process may hold the database's lock: what is measured here is the node
        self._due.clear()
        former = self._starts()
        began, wall = time.monotonic(), time.time()
        self.node.start(fault.max_deliveries)
        while former & self._starts():
            if time.monotonic() - began > LONGEST_BOOT:
                self.wrong.append(f"{fault}: what the node had held was not taken back within {LONGEST_BOOT:g} s")
                return
            time.sleep(0.005)
        if former:
            took = time.monotonic() - began
            self.reclaims.append(Reclaim(took, self.node.told_at("node-started") - wall, fault))
            if took > self.options.reclaim_within:
                self.wrong.append(str(self.reclaims[-1]))
        self.wait_up()

    def _starts(self) -> set[str]:
        """The starts of the node that the broker knows and that have not left."""
        return {incarnation for incarnation, _ in self.app.broker.others()}

    def wait_up(self) -> None:
        """Wait until the node works: else most faults would meet a node that boots, and too few one that runs tasks."""
        deadline = time.monotonic() + LONGEST_BOOT
        while not self.node.roles()["child"] and self.node.ended() is None and time.monotonic() < deadline:
            time.sleep(0.01)

    # ---- the calm after it

    def settle(self) -> None:
        """Wait until everything has ended."""
        deadline = time.monotonic() + self.size.drain
        while (depth := self.app.broker.depth())[:3] != (0, 0, 0):
            self._wait_until(time.monotonic() + 0.05)
            if time.monotonic() > deadline:
                self.wrong.append(f"{self.size.drain:g} s after the storm not all has ended: {depth}")
                return

    def open_files(self) -> int:
        """Descriptors of the supervisor once it has all its children; the most of some looks, 0 if it never has."""
        deadline = time.monotonic() + LONGEST_BOOT
        counts: list[int] = []
        while len(counts) < 5 and time.monotonic() < deadline:
            status = self.node.status()
            states = [row["state"] for row in status["children"]] if status else []
            if status and status["steward"] and sorted(states) == STEADY:
                counts.append(self.node.open_files())
            time.sleep(0.05)
        return max(counts, default=0)

    def check_files(self, before: int, after: int) -> None:
        """A supervisor that has lived through many faults has no more descriptors than one that has just begun."""
        if not 0 < after <= before + 1:  # one more: our own connection, which it has not closed yet
            self.wrong.append(f"the supervisor has {after} descriptors, at the beginning it had {before}")

    def check_stop(self) -> None:
        """TERM ends the node with 0, and 2 s later nothing of it is left."""
        code = self.node.stop(15)
        if code != 0:
            self.wrong.append(f"on TERM the node ended with {code}")
        deadline = time.monotonic() + GONE_WITHIN
        while (left := self.node.marked()) and time.monotonic() < deadline:
            time.sleep(0.02)
        for pid in left:
            with open(f"/proc/{pid}/cmdline") as file:
                self.wrong.append(f"process {pid} is left: {file.read()!r}")

    def check_logs(self) -> None:
        """No log tells of an impossible move, or has a traceback of ours beside its lines."""
        for words in ("impossible", "Traceback (most recent call last)"):
            self.wrong.extend(f"in a log: {line}" for line in self.node.messages(words))

    def check_left(self) -> None:
        """Nothing is held, registered, open or lying about."""
        depth = self.app.broker.depth()
        if depth[:3] != (0, 0, 0):
            self.wrong.append(f"left in the broker: {depth}")
        if starts := self.app.broker.others():
            self.wrong.append(f"registered with the broker: {starts}")
        self.app.close()
        name = self.node.database.name
        known = {name, f"{name}-claims", f"{name}-nodes", f"{name}-nodes/storm.lock", f"{name}-nodes/storm.board"}
        for folder, allowed in (("broker", known), ("run", set()), ("tmp", set())):
            place = self.node.folder / folder
            found = {str(path.relative_to(place)) for path in place.rglob("*")} - allowed
            self.wrong.extend(f"left in {folder}/: {path}" for path in sorted(found))


def run(options: argparse.Namespace) -> int:
    """Make one storm; the exit code."""
    size = SIZES[options.size]
    if options.tasks:
        size = size._replace(tasks=options.tasks)
    if options.every:
        size = size._replace(every=options.every)
    seconds = size.tasks / size.per_second
    folder = Path(tempfile.mkdtemp(prefix="storm-"))
    node = Node(folder, str(uuid.uuid4()))
    os.environ.update(STORM_BROKER=node.env["STORM_BROKER"], STORM_LEDGER=str(node.ledger))
    app = importlib.import_module("stress.chaos.storm_app").app  # now, since it reads the environment
    app.broker.depth()
    journal = Journal(node.database)
    journal.install()
    producer = Producer(app, faults.calls(options.seed, size.tasks, seconds))
    storm = Storm(node, app, faults.faults(options.seed, seconds, size.every, slow=size.slow), size, options)
    began = time.monotonic()
    print(
        f"storm: seed {options.seed}, {size.tasks} tasks and {len(storm.planned)} faults in {seconds:.0f} s", flush=True
    )
    try:
        node.start(MOST_DELIVERIES)
        before = storm.open_files()
        producer.start()
        storm.rage()
        producer.join(seconds + 60)
        raged = time.monotonic() - began
        storm.settle()
        storm.check_files(before, storm.open_files())
        storm.check_stop()
    finally:
        producer.stop()
        node.end()
    made = account.account(producer.accepted, app, account.Ledger(node.ledger), journal.read(), storm.stopped)
    storm.check_left()
    storm.check_logs()
    report(storm, producer, made, raged, time.monotonic() - began)
    if not storm.wrong and not made.wrong:
        shutil.rmtree(folder)
        return 0
    explain(storm, made, journal)
    again = f"--{options.size} --tasks {size.tasks} --every {size.every:g} --seed {options.seed}"
    print(f"again: python -m stress.chaos storm {again}")
    print(f"logs, ledger and database: {folder}")
    return 1


def report(storm: Storm, producer: Producer, made: account.Account, raged: float, took: float) -> None:
    """Print what was done, and what came of it."""
    print(account.table(made))
    print("\nfaults")
    for name, count in sorted(storm.made.items()):
        print(f"  {count:4} {name}")
    if storm.reclaims:
        half = statistics.median(each.took for each in storm.reclaims)
        print(f"\n{len(storm.reclaims)} starts took their own back, half of them within {half:.2f} s; the slowest:")
        print(f"  {max(storm.reclaims)}")
    print(
        f"{storm.node.starts} starts of the node; {producer.refused} calls refused and made again; "
        f"{made.lost} lost, {made.doubled} ended twice, {made.total('again')} ran again; "
        f"storm {raged:.1f} s, all {took:.1f} s"
    )


def explain(storm: Storm, made: account.Account, journal: Journal) -> None:
    """Print what is wrong, and what ledger, journal and logs say of it."""
    for text in storm.wrong:
        print(f"WRONG: {text}")
    lives = journal.read()
    ledger = account.Ledger(storm.node.ledger)
    for number, (task_id, wrong) in enumerate(made.wrong.items()):
        print(f"WRONG: {task_id}: {'; '.join(wrong)}")
        if number < MOST_EXPLAINED:
            print(*(f"    {run}" for run in ledger.runs[task_id]), sep="\n")
            print(*(f"    {entry}" for entry in lives.get(task_id, [])), sep="\n")
            print(*(f"    {line}" for line in storm.node.messages(task_id)), sep="\n")


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m stress.chaos storm", description=__doc__.partition("\n")[0])
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--small", dest="size", action="store_const", const="small", help="1,000 tasks (the default)")
    size.add_argument("--full", dest="size", action="store_const", const="full", help="10,000 tasks")
    parser.add_argument("--seed", type=int, default=1, help="of the tasks and the faults (default: 1)")
    parser.add_argument("--tasks", type=int, help="so many tasks")
    parser.add_argument("--every", type=float, metavar="SECONDS", help="between two faults, on average (default: 0.4)")
    parser.add_argument(
        "--reclaim-within", type=float, default=1.0, metavar="SECONDS",
        help="how long a node that was started again may take to take its own back (default: 1)",
    )  # fmt: skip
    parser.set_defaults(size="small")
    sys.exit(run(parser.parse_args()))


if __name__ == "__main__":
    main()
