"""What tasks leave to the garbage collector, as a child's whole audit sees it: its samples' collections close it."""

from __future__ import annotations

import gc
import random
from types import SimpleNamespace

import pytest

from poolrt import message
from poolrt.child.audit import Audit
from poolrt.hygiene.findings import LeakKind, Policies
from poolrt.states import TaskState

DONE = message.Outcome(message.Delivery(b"", 1, 1, "id", 0, suspect=False), TaskState.SUCCEEDED)
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


def in_a_cycle(thing):
    holder = [thing]
    holder.append(holder)


@pytest.fixture
def collector():
    """Frozen, as in a child; what listens to it is taken away at the end."""
    listeners = gc.callbacks[:]
    gc.collect()
    gc.freeze()
    yield
    gc.callbacks[:] = listeners
    gc.unfreeze()
    gc.collect()


@pytest.mark.usefixtures("collector")
@pytest.mark.parametrize("by_itself", [False, True])
@pytest.mark.parametrize("share", [1.0, 0.02])
def test_files_in_cycles_are_named(share: float, by_itself: bool) -> None:  # noqa: FBT001
    """In each run or one in fifty, with the collector on or off; within 1,500 runs, and nobody else."""
    told = []
    row = SimpleNamespace(fds=lambda lowest: None, activity=lambda activity: None)
    audit = Audit(Policies("warn"), 0, row, SimpleNamespace(read=lambda: 0), told.append)
    rng = random.Random(5)
    if not by_itself:
        gc.disable()
    try:
        for _ in range(3000):
            task = rng.choice(("leaks", "other"))
            sampled = audit.samples_next(task)
            if task == "other":
                [[] for _ in range(100)]
            elif rng.random() < share:
                in_a_cycle(open("/etc/hostname"))  # noqa: SIM115
            if sampled:
                audit.sample(task, 1e-4, DONE)
            audit.after(task, 1e-4)
    finally:
        gc.enable()
    assert {finding.key for finding in told} == {(LeakKind.UNCLOSED, "leaks", "/etc/hostname")}
