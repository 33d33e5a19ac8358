"""What happens to the cluster, and what must hold meanwhile: each act is one loss of a node, from healthy to healthy.

    cut     the node's cable is pulled for longer than its lease: it fences itself before others run what it held
    keep    the same, of a node that lets running tasks go on: what they settle after it is refused
    freeze  all processes of the node stand still for longer than its lease: the same
    kill    all processes of the node die at one instant; it is started again later

In each, the node holds at least one task (``hold``: it waits on that node alone), and another node runs a task that
takes three leases.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from stress.cluster import ledger
from stress.cluster.account import Loss
from stress.cluster.ledger import Run
from stress.cluster.machines import CHILDREN, Machine, Sender, Told
from tests.servers import Server

RENEWALS: Final = 5
USABLE: Final = 2 / 3
SLACK: Final = 2.0
"""Seconds that a busy machine may keep any process waiting."""
LASTED: Final = 60.0
PAUSE: Final = 15.0
"""Seconds that a node may wait before it begins anew, if its last start was over sooner than ``LASTED``."""
PATIENCE: Final = 45.0
LOOK_EVERY: Final = 0.004


class Claim(NamedTuple):
    """One thing that must hold, and what was measured."""

    what: str
    holds: bool
    measured: str


class Cluster:
    """What acts act on."""

    def __init__(
        self, machines: list[Machine], server: Server, sender: Sender, lease: float, folder: Path,
        cut: Callable[[str], None], heal: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.machines = machines
        self.server = server
        self.sender = sender
        self.lease = lease
        self.folder = folder
        self.cut = cut
        self.heal = heal
        self.claims: list[Claim] = []
        self.losses: list[Loss] = []
        self._number = 0

    # ---- claims

    def claim(self, what: str, holds: object, measured: str = "") -> None:
        """Note a claim, and say it."""
        self.claims.append(Claim(what, bool(holds), measured))
        print(f"  {'ok   ' if holds else 'WRONG'} {what}{': ' + measured if measured else ''}", flush=True)

    def runs(self) -> list[Run]:
        """Every execution so far."""
        return ledger.read(self.folder / "ledger")

    def others(self, machine: Machine) -> list[Machine]:
        """The machines that nothing happens to."""
        return [each for each in self.machines if each is not machine]

    def rescues(self, incarnation: str) -> list[Told]:
        """Who has rescued this start because of its lease."""
        return [
            told
            for machine in self.machines
            for told in machine.told("node-rescued")
            if f"start {incarnation} did not renew" in told.cause
        ]

    def held_by(self, incarnation: str) -> frozenset[str]:
        """The tasks that the server knows as this start's."""
        keys = self.server.call("KEYS", f"{{poolrt}}:held:{incarnation}/*")
        arrays = [packed for key in keys for packed in self.server.call("HVALS", key)]
        told = [msgspec.msgpack.decode(packed.encode(errors="surrogateescape")) for packed in arrays]
        return frozenset(task_id for ids in told for task_id in ids if task_id)

    def wait(self, condition: Callable[[], object], what: str, timeout: float = PATIENCE) -> float:
        """Wait until it is so; the monotonic time at which it was seen."""
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"after {timeout:g} s still not: {what}")
            time.sleep(LOOK_EVERY)
        return time.monotonic()

    # ---- tasks

    def name(self, kind: str) -> str:
        """A new task id."""
        self._number += 1
        return f"{kind}-{self._number:03d}"

    def hold(self, machine: Machine) -> tuple[str, Path]:
        """Let the node run a task until the gate (a file) is there; its id, and the gate."""
        gate = self.folder / self.name("gate")
        tried: list[str] = []

        def runs_one() -> bool:
            runs = [run for run in self.runs() if run.task_id in tried]
            if len(runs) == len(tried):
                tried.append(self.name("hold"))
                self.sender.send("hold", tried[-1], machine.name, str(gate))
            return any(run.node == machine.name and not run.ended for run in runs)

        self.wait(runs_one, f"{machine.name} runs a task that waits")
        held = [run.task_id for run in self.runs() if run.task_id in tried and run.node == machine.name]
        return held[0], gate

    def run_long(self, machine: Machine) -> str:
        """Let the node run a task of three leases, of a queue that only it serves; the task's id."""
        task_id = self.name("long")
        self.sender.send("work", task_id, 3 * self.lease, queue=machine.name)
        self.wait(lambda: any(run.task_id == task_id for run in self.runs()), f"{task_id} runs")
        return task_id

    # ---- acts

    def lose(self, machine: Machine, act: str) -> None:
        """One act, from its first to its last moment."""
        what = f"{act} {machine.name} #{len(self.losses) + 1}"
        print(what, flush=True)
        long = self.run_long(self.others(machine)[0])
        task_id, gate = self.hold(machine)
        incarnation = machine.incarnation()
        began = time.monotonic()
        running = frozenset(
            run.task_id for run in self.runs() if run.incarnation == incarnation and not run.ended
        )  # fmt: skip
        {"cut": self.cut, "keep": self.cut}.get(act, lambda _: None)(machine.name)
        {"freeze": machine.freeze, "kill": machine.kill}.get(act, lambda: None)()
        lost = time.monotonic()
        time.sleep(0.05)  # what was on its way has arrived
        held = self.held_by(incarnation)
        self.losses.append(Loss(what, machine.name, incarnation, began, held, running))
        self.claim("it held what it ran", task_id in held, f"{len(held)} held, {len(running)} running by the ledger")
        gone = self._fences_itself(machine, began) if act == "cut" else lost
        self._is_rescued(machine, incarnation, held, began)
        self.wait(lambda: any(run.task_id == task_id and run.node != machine.name for run in self.runs()), "its rerun")
        rerun = min(run.began for run in self.runs() if run.task_id in held and run.incarnation != incarnation)
        if act in ("cut", "kill"):
            self.claim("nothing of it ran any more when others began", rerun > gone, f"{rerun - gone:.2f} s before")
        time.sleep(max(0.0, began + self.lease * 1.2 - time.monotonic()))
        back = time.monotonic()
        self._bring_back(machine, act, gate)
        if act in ("keep", "freeze"):
            self._late_settles(machine, incarnation, task_id, back)
        self._works_again(machine, incarnation, back)
        self._ran_once(long)

    def _fences_itself(self, machine: Machine, began: float) -> float:
        gone = self.wait(lambda: not machine.roles()["child"], f"the children of {machine.name} are gone")
        within = self.lease * USABLE + SLACK
        self.claim("it fenced itself", gone - began <= within, f"its children were gone after {gone - began:.2f} s")
        return gone

    def _is_rescued(self, machine: Machine, incarnation: str, held: frozenset[str], began: float) -> None:
        self.wait(lambda: self.rescues(incarnation), f"{machine.name} is rescued")
        (first, *more) = self.rescues(incarnation)
        after = first.at - began
        earliest = self.lease * (1 - 1 / RENEWALS)  # its last renewal may be so old already
        self.claim(
            "others rescued it once, after a lease", not more and after >= earliest,
            f"by {first.node} after {after:.2f} s, {len(more)} times more",
        )  # fmt: skip
        requeued = first.numbers.get("requeued")
        # An idle child's reserve waits on the server: what was queued within that second was given to it.
        most = max(len(held), CHILDREN)
        self.claim("they put back what it held", len(held) <= requeued <= most, f"{requeued}, of {len(held)} seen held")

    def _bring_back(self, machine: Machine, act: str, gate: Path) -> None:
        if act in ("cut", "keep"):
            self.heal(machine.name)
        gate.touch()
        if act == "freeze":
            machine.thaw()
        elif act == "kill":
            machine.start(50)

    def _late_settles(self, machine: Machine, incarnation: str, task_id: str, back: float) -> None:
        """The child that ended the task after the rescue is told that it is not its own; and all that ran is ended."""
        old = [run for run in self.runs() if run.incarnation == incarnation]
        pids = {run.pid for run in old}
        over = self.wait(lambda: all(machine.gone(pid) for pid in pids), "what ran is gone")
        bound = self.lease / RENEWALS + SLACK
        self.claim("what still ran was ended soon", over - back <= bound, f"{over - back:.2f} s after it was back")
        runs = [run for run in self.runs() if run.incarnation == incarnation]
        ended = [run for run in runs if run.task_id == task_id and run.ended]
        told = machine.messages(f"owner {incarnation}/")
        self.claim(
            "its late settles were refused", told or not ended,
            f"{len(ended)} of the tasks held ended, {len(told)} children were refused",
        )  # fmt: skip
        begun = [run for run in runs if run.began > back]
        latest = max((run.began - back for run in begun), default=0.0)
        self.claim("nothing was begun under the old lease", latest <= bound, f"{len(begun)} tasks")

    def _works_again(self, machine: Machine, incarnation: str, back: float) -> None:
        def works() -> bool:
            return any(
                run.node == machine.name and run.incarnation != incarnation and run.began > back for run in self.runs()
            )

        at = self.wait(works, f"{machine.name} works again")
        lost = [loss.at for loss in self.losses if loss.node == machine.name]
        often = len(lost) > 1 and lost[-1] - lost[-2] < LASTED + self.lease
        bound = self.lease + 5 + (PAUSE if often else 0)
        self.claim("it came back by itself and works", at - back <= bound, f"after {at - back:.2f} s")
        self.wait(machine.is_up, f"all children of {machine.name} are up")

    def _ran_once(self, task_id: str) -> None:
        self.wait(lambda: [run for run in self.runs() if run.task_id == task_id and run.ended], f"{task_id} ends")
        runs = [run for run in self.runs() if run.task_id == task_id]
        took = runs[0].ended - runs[0].began
        self.claim("a task of three leases was delivered once", len(runs) == 1, f"{len(runs)} times, {took:.1f} s")
