"""A storm of SIGKILL and SIGSTOP on a node at work: is every task accounted for, and nothing left?

    python -m stress.chaos storm [--small | --full] [--seed N] [--tasks N] [--broker redis] [--nodes N]

    PRODUCER (a thread)  enqueues mixed tasks, in bursts, again under the same id until the broker takes them
    CANCELLER (another)  cancels some of them: queued, delayed, behind a limit, running
    STORM (this thread)  kills, stops and continues child, template, steward and supervisor; starts a node again;
                         kills and stops the server, cuts its clients off, makes it forget its scripts
    ────────────────────────────────────────────────────────────────────────────────────────────────────────────────
    then: all ends, TERM, and the account of ledger, journal and records

The exit code is 1 if a task was lost or ended twice, a limit was broken, a cancelled task was started, or a process, a
delivery, a descriptor or a file was left.
"""

from __future__ import annotations

import argparse
import heapq
import importlib
import itertools
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from poolrt import App
from poolrt.errors import BrokerError
from stress.chaos import account, faults, flows
from stress.chaos.canceller import Canceller
from stress.chaos.faults import Fault
from stress.chaos.producer import Producer
from stress.chaos.stores import Store, made_for
from stress.chaos.storm_node import CONCURRENCY, Node
from stress.chaos.storm_report import Reclaim, explain, report, report_limits, verdict

T = TypeVar("T")

MOST_DELIVERIES: Final = 50
REPLACED_WITHIN: Final = 20.0
"""Seconds a process that stands still may take to be replaced: 1.5 for a child without a task, else its task's limit,
the template's, or the steward's 15."""
LONGEST_BOOT: Final = 30.0
GONE_WITHIN: Final = 2.0
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
    flows: flows.Flows


SIZES: Final = {
    "small": Size(1000, 80, 0.4, 60, slow=False, flows=flows.Flows(10, 4, 0)),
    "full": Size(10_000, 110, 0.4, 180, slow=True, flows=flows.Flows(100, 20, 4)),
}


class Storm:
    """One storm from its first fault to its account."""

    def __init__(
        self, nodes: list[Node], store: Store, app: App, planned: list[Fault], size: Size, options: argparse.Namespace
    ) -> None:  # fmt: skip
        self.nodes = nodes
        self.store = store
        self.app = app
        self.planned = planned
        self.size = size
        self.options = options
        self.made: Counter[str] = Counter()
        self.reclaims: list[Reclaim] = []
        self.wrong: list[str] = []
        self._due: list[tuple[float, int, Callable[[], object]]] = []
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
        if fault.hits_store:
            there = self.store.hit(fault.how, fault.seconds, self._later)
            self.made[f"{fault.how} {fault.whom}" + ("" if there else ": nobody there")] += 1
            return
        node = self.nodes[int(fault.pick * 997) % len(self.nodes)]
        if fault.whom == "everyone":
            victims = node.marked()
        else:
            roles = node.roles()
            victims = [self._one(roles[role], fault.pick) for role in fault.whom.split("+")]
        victims = [pid for pid in victims if pid]
        if not victims:
            self.made[f"{fault.how} {fault.whom}: nobody there"] += 1
            return
        self.made[f"{fault.how} {fault.whom}"] += 1
        if fault.how == "freeze" and fault.whom == "template":
            node.send(self._one(roles["child"], fault.pick), signal.SIGKILL)  # else nobody needs to notice it
        for pid in victims:
            node.send(pid, signal.SIGKILL if fault.how == "kill" else signal.SIGSTOP)
        if fault.ends_supervisor:
            self._start_again(node, fault)
        elif fault.how == "pause":
            for pid in victims:
                self._later(fault.seconds, lambda pid=pid: node.send(pid, signal.SIGCONT))
        elif fault.how == "freeze":
            self._must_go(node, victims[0], fault)

    @staticmethod
    def _one(pids: list[int], pick: float) -> int:
        return pids[int(pick * len(pids))] if pids else 0

    def _must_go(self, node: Node, pid: int, fault: Fault) -> None:
        """It must be replaced without us; else that is wrong, and we end it."""
        deadline = time.monotonic() + REPLACED_WITHIN

        def look() -> None:
            if node.gone(pid):
                return
            if time.monotonic() < deadline:
                self._later(0.25, look)
                return
            self.wrong.append(f"{fault}: process {pid} stood still for {REPLACED_WITHIN:g} s and was not replaced")
            node.send(pid, signal.SIGKILL)

        look()

    def _later(self, seconds: float, action: Callable[[], object]) -> None:
        heapq.heappush(self._due, (time.monotonic() + seconds, next(self._numbers), action))

    def _wait_until(self, moment: float) -> None:
        """Do what is due meanwhile; and start a node again that ended by itself, which is wrong."""
        while True:
            now = time.monotonic()
            for node in self.nodes:
                if node.ended() is not None:
                    self.wrong.append(f"the supervisor of {node.name} ended by itself, with {node.ended()}")
                    node.start(MOST_DELIVERIES)
            if self._due and self._due[0][0] <= now:
                heapq.heappop(self._due)[2]()
            elif now >= moment:
                return
            else:
                time.sleep(max(0.0, min(moment, self._due[0][0] if self._due else moment, now + 0.05) - now))

    # ---- starting again

    def _start_again(self, node: Node, fault: Fault) -> None:
        if fault.how == "freeze":
            supervisor = node.process.pid
            time.sleep(faults.FROZEN_SUPERVISOR)
            node.send(supervisor, signal.SIGKILL)
        node.process.wait(5)
        time.sleep(fault.seconds)
        if fault.again:
            node.start(fault.max_deliveries)
            time.sleep(fault.again)
            self.made["kill supervisor while it boots"] += 1
            node.send(node.process.pid, signal.SIGKILL)
            node.process.wait(5)
        for _, _, action in sorted(self._due, key=lambda due: due[:2]):
            action()  # a paused process may hold the database's lock: what is measured here is the node
        self._due.clear()
        former = self._starts(node)
        began, wall = time.monotonic(), time.time()
        node.start(fault.max_deliveries)
        while former & self._starts(node):
            if time.monotonic() - began > LONGEST_BOOT:
                self.wrong.append(f"{fault}: what {node.name} had held was not taken back within {LONGEST_BOOT:g} s")
                return
            time.sleep(0.005)
        if former:
            took = time.monotonic() - began
            self.reclaims.append(Reclaim(took, node.told_at("node-started") - wall, fault))
            if took > self.options.reclaim_within:
                self.wrong.append(str(self.reclaims[-1]))
        self.wait_up(node)

    def _starts(self, node: Node) -> set[str]:
        """The starts of the node that the broker knows and that have not left."""
        return {incarnation for incarnation, name in self._asked(self.app.broker.others) if name == node.name}

    def _asked(self, question: Callable[[], T]) -> T:
        """What the broker answers, once it does."""
        deadline = time.monotonic() + LONGEST_BOOT
        while True:
            try:
                return question()
            except BrokerError:
                if time.monotonic() > deadline:
                    raise
                self._wait_until(time.monotonic() + 0.05)

    @staticmethod
    def wait_up(node: Node) -> None:
        """Wait until the node works: else most faults would meet a node that boots, and too few one that runs tasks."""
        deadline = time.monotonic() + LONGEST_BOOT
        while not node.roles()["child"] and node.ended() is None and time.monotonic() < deadline:
            time.sleep(0.01)

    # ---- the calm after it

    def settle(self) -> None:
        """Wait until everything has ended."""
        deadline = time.monotonic() + self.size.drain
        while (depth := self._asked(self.app.broker.depth))[:3] != (0, 0, 0):
            self._wait_until(time.monotonic() + 0.05)
            if time.monotonic() > deadline:
                self.wrong.append(f"{self.size.drain:g} s after the storm not all has ended: {depth}")
                return

    @staticmethod
    def open_files(node: Node) -> int:
        """Descriptors of the supervisor once it has all its children; the most of some looks, 0 if it never has."""
        deadline = time.monotonic() + LONGEST_BOOT
        counts: list[int] = []
        while len(counts) < 5 and time.monotonic() < deadline:
            status = node.status()
            states = [row["state"] for row in status["children"]] if status else []
            if status and status["steward"] and sorted(states) == STEADY:
                counts.append(node.open_files())
            time.sleep(0.05)
        return max(counts, default=0)

    def check_files(self, before: list[int]) -> None:
        """A supervisor that has lived through many faults has no more descriptors than one that has just begun."""
        for node, first in zip(self.nodes, before, strict=True):
            after = self.open_files(node)
            if not 0 < after <= first + 1:  # one more: our own connection, which it has not closed yet
                self.wrong.append(f"the supervisor of {node.name} has {after} descriptors, at the beginning {first}")

    def check_stop(self) -> None:
        """TERM ends each node with 0, and 2 s later nothing of it is left."""
        for node in self.nodes:
            code = node.stop(15)
            if code != 0:
                self.wrong.append(f"on TERM {node.name} ended with {code}")
            deadline = time.monotonic() + GONE_WITHIN
            while (left := node.marked()) and time.monotonic() < deadline:
                time.sleep(0.02)
            for pid in left:
                with open(f"/proc/{pid}/cmdline") as file:
                    self.wrong.append(f"process {pid} of {node.name} is left: {file.read()!r}")

    def check_logs(self) -> None:
        """No log tells of an impossible move, or has a traceback of ours beside its lines."""
        for words in ("impossible", "Traceback (most recent call last)"):
            told = [line for node in self.nodes for line in node.messages(words)]
            # A child that could not reach the server tells why.
            self.wrong.extend(f"in a log: {line}" for line in told if "could not boot" not in line)

    def check_left(self, broken: Collection[str]) -> None:
        """Nothing is held, registered, open or lying about."""
        depth = self.app.broker.depth()
        if depth[:3] != (0, 0, 0):
            self.wrong.append(f"left in the broker: {depth}")
        if starts := self.app.broker.others():
            self.wrong.append(f"registered with the broker: {starts}")
        self.app.close()
        left = sorted({task_id for task_id in self.store.planned_left() if flows.root_of(task_id) not in broken})
        self.wrong.extend(f"left of a workflow: {task_id}" for task_id in left)
        self.wrong += self.store.left([node.name for node in self.nodes])
        for node in self.nodes:
            for place in (node.folder / "run", node.folder / "tmp"):
                found = sorted(str(path.relative_to(node.folder)) for path in place.rglob("*"))
                self.wrong.extend(f"left in {node.name}/: {path}" for path in found)


def run(options: argparse.Namespace) -> int:
    """Make one storm; the exit code."""
    size = SIZES[options.size]
    if options.tasks:
        size = size._replace(tasks=options.tasks)
    if options.every:
        size = size._replace(every=options.every)
    folder = Path(tempfile.mkdtemp(prefix="storm-"))
    ledger = folder / "ledger"
    store = made_for(options, folder)
    nodes = [Node(folder / f"storm-{i + 1}", store.url, ledger, store.flags) for i in range(options.nodes)]
    os.environ.update(STORM_BROKER=store.url, STORM_LEDGER=str(ledger))
    app = importlib.import_module("stress.chaos.storm_app").app  # now, since it reads the environment
    app.broker.depth()
    store.journal.install()
    seconds = size.tasks / size.per_second
    server = options.broker == "redis"
    planned = faults.faults(options.seed, seconds, size.every, slow=size.slow, server=server)
    calls = faults.calls(options.seed, size.tasks, seconds)
    calls = sorted(calls + flows.calls(options.seed, size.flows, size.tasks, seconds))
    producer = Producer(app, calls)
    canceller = Canceller(app, calls, producer)
    storm = Storm(nodes, store, app, planned, size, options)
    print(
        f"storm: seed {options.seed}, {size.tasks} tasks and {len(planned)} faults in {seconds:.0f} s; "
        f"{options.broker}, {options.nodes} nodes", flush=True,
    )  # fmt: skip
    try:
        raged, took = make(storm, producer, canceller, seconds)
        told, lives = account.Ledger(ledger), store.journal.read()
        signals = [sent for node in nodes for sent in node.signals]
        stopped = {sent.pid for sent in signals if sent.number == signal.SIGSTOP}
        made = account.account(producer.accepted, app, told, lives, stopped, store.admitted, canceller.made)
        storm.check_left(made.broken)
        storm.check_logs()
        report(storm, producer, made, raged, took)
        storm.wrong += report_limits(told, lives, signals, producer, canceller, made)
        print(verdict(storm, made))
        if not storm.wrong and not made.wrong:
            shutil.rmtree(folder)
            return 0
        explain(storm, made, ledger)
    finally:
        store.close()
    print(f"again: {again(options, size)}")
    print(f"logs, ledger and messages: {folder}")
    return 1


def make(storm: Storm, producer: Producer, canceller: Canceller, seconds: float) -> tuple[float, float]:
    """The storm and the calm after it; how many seconds the first took, and both."""
    began = time.monotonic()
    try:
        for node in storm.nodes:
            node.start(MOST_DELIVERIES)
        before = [storm.open_files(node) for node in storm.nodes]
        producer.start()
        canceller.start()
        storm.rage()
        producer.join(seconds + 60)
        canceller.join(30)
        raged = time.monotonic() - began
        storm.settle()
        storm.check_files(before)
        storm.check_stop()
    finally:
        producer.stop()
        canceller.stop()
        for node in storm.nodes:
            node.end()
    return raged, time.monotonic() - began


def again(options: argparse.Namespace, size: Size) -> str:
    """The command that makes this storm again."""
    store = f"--broker {options.broker} --fsync {options.fsync}" if options.broker == "redis" else ""
    amount = f"--{options.size} --tasks {size.tasks} --every {size.every:g} --seed {options.seed}"
    return f"python -m stress.chaos storm {amount} --nodes {options.nodes} {store}".rstrip()


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m stress.chaos storm", description=__doc__.partition("\n")[0])
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--small", dest="size", action="store_const", const="small", help="1,000 tasks (the default)")
    size.add_argument("--full", dest="size", action="store_const", const="full", help="10,000 tasks")
    parser.add_argument("--seed", type=int, default=1, help="of the tasks and the faults (default: 1)")
    parser.add_argument("--tasks", type=int, help="so many tasks")
    parser.add_argument("--every", type=float, metavar="SECONDS", help="between two faults, on average (default: 0.4)")
    parser.add_argument("--broker", choices=("sqlite", "redis"), default="sqlite", help="default: sqlite")
    parser.add_argument("--nodes", type=int, default=1, help="so many, each with a disk of its own (default: 1)")
    parser.add_argument("--fsync", choices=("always", "everysec"), default="everysec", help="of the server's file")
    parser.add_argument(
        "--reclaim-within", type=float, default=1.0, metavar="SECONDS",
        help="how long a node that was started again may take to take its own back (default: 1)",
    )  # fmt: skip
    parser.set_defaults(size="small")
    sys.exit(run(parser.parse_args()))


if __name__ == "__main__":
    main()
