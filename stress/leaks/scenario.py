"""One scenario, in a process of its own: tasks drawn at random, one of which leaks or only looks like it.

tasks ── each run ──▶ Audit (or the descriptor watch alone) ── Findings ──▶ one line of JSON
"""

from __future__ import annotations

import gc
import itertools
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

from poolrt import message
from poolrt.hygiene.findings import Finding, Policies
from poolrt.hygiene.processes import ProcessWatch
from poolrt.hygiene.temp_files import TempWatch
from poolrt.hygiene.threads import ThreadWatch
from poolrt.states import TaskState
from stress.leaks import innocent_files, innocent_left, innocent_memory  # noqa: F401  they enter their workloads
from stress.leaks.innocent import INNOCENT
from stress.leaks.kinds import KINDS
from stress.leaks.site import Pool, Site, ask

Found = Callable[[Finding], None]
Watcher = tuple[Callable[[str], object], Callable[[str, float], object]]
"""Called before each run with the task, and after it with the task and the seconds it took."""
MOST_LEFT: Final = 2500
"""Things that are left at most: what was not named by then is not named."""
DONE: Final = message.Outcome(message.Delivery(b"", 1, 1, "id", 0, suspect=False), TaskState.SUCCEEDED)
SUSPECT: Final = "suspect"
"""The task that leaks, or only looks like it."""


class Outcome(NamedTuple):
    """What one scenario came to.

    Attributes:
        tasks: runs of all tasks until the finding, or in all; ``suspects``: those of the suspect among them.
        leaks: things left until then.
        found: kind, task and what of each finding.
        right: whether the first one names the kind, the task and what leaked.
        seconds: that the runs took; ``watching``: those that went into watching.
    """

    tasks: int
    suspects: int
    leaks: int
    found: list[tuple[str, str, str]]
    right: bool
    seconds: float
    watching: float


def descriptors_alone(found: Found) -> Watcher:
    """The descriptor watch without an audit."""
    from poolrt.hygiene.descriptors import DescriptorWatch
    from poolrt.posix.descriptors import limit, lowest_free, scan

    watch = DescriptorWatch(limit(), lowest_free(), scan)

    def after(task: str, runtime: float) -> None:
        for finding in watch.after(task, lowest_free()) or ():
            found(finding)

    return lambda _: None, after


def audit(found: Found) -> Watcher:
    """A child's whole audit; it tells everything, and leaves never."""
    from poolrt.child.audit import Audit
    from poolrt.child.memory_audit import OUTCOME_BYTES
    from poolrt.child.watches import watches_for

    gc.collect()
    gc.freeze()  # as the template does: a collection is cheap then
    policies = Policies("warn")

    class Row:
        def fds(self, lowest: int) -> None: ...
        def activity(self, activity: object) -> None: ...

    class Resident:
        def read(self) -> int:
            return 0

    row: Any = Row()
    resident: Any = Resident()
    child = Audit(policies, 0, row, resident, found)
    folder = Path(tempfile.gettempdir())
    others = watches_for(policies, [], lambda: None, None, child.collect)
    late = (ThreadWatch(quickened), ProcessWatch(quickened), TempWatch(folder, quickened))
    child.add([*(watch for watch in others if not isinstance(watch, (ThreadWatch, ProcessWatch))), *late])
    sampled: list[str] = []

    def before(task: str) -> None:
        if child.samples_next(task):
            sampled.append(task)

    def after(task: str, runtime: float) -> None:
        if sampled:
            outcome = bytes(OUTCOME_BYTES)  # in the place of what a child holds, and a sample takes off
            child.sample(sampled.pop(), runtime, DONE)
            del outcome
        child.after(task, runtime)

    return before, after


def quickened() -> float:
    """What must be seconds old to be a leak: a task of 0.1 ms stands for one of 50 ms."""
    return time.monotonic() * 500


WATCHERS: Final[dict[str, Callable[[Found], Watcher]]] = {"audit": audit, "descriptors": descriptors_alone}


def innocents(site: Site) -> dict[str, Callable[[], object]]:
    """The tasks beside it: a pool, a client of three hosts, temporary files."""
    pool = Pool(site.connect, 3)
    kept = {host: site.connect(host) for host in ("127.0.2.1", "127.0.2.2", "127.0.2.3")}

    def files() -> None:
        with tempfile.TemporaryFile() as file:
            file.write(b"x")

    return {
        "pool": lambda: pool.use(site.rng.randint(1, 3)),
        "client": lambda: ask(kept[site.rng.choice(list(kept))]),
        "files": files,
    }


def run_leak(name: str, probability: float, most: int, watcher: str, site: Site) -> Outcome:
    """Leak with this probability in a quarter of at most ``most`` tasks, until something is found."""
    kind, make = KINDS[name]
    leaks = make(site)
    own = Pool(site.connect, 2)
    left = itertools.count()

    def suspect() -> None:
        own.use()
        if site.rng.random() < probability:
            next(left)
            leaks.leak()

    try:
        tasks = {SUSPECT: suspect, **innocents(site)}
        outcome = _drive(
            tasks, int(min(most, 4 * MOST_LEFT / probability)), watcher, site.rng, until_found=True, takes=leaks.takes
        )  # fmt: skip
    finally:
        leaks.end()
    (found,) = outcome.found[:1] or [("", "", "")]
    right = found[:2] == (kind, SUSPECT) and leaks.named(found[2])
    return outcome._replace(leaks=next(left), right=right)


def run_innocent(name: str, most: int, watcher: str, site: Site) -> Outcome:
    """Run one workload in half of ``most`` tasks; nothing may be found."""
    tasks = {SUSPECT: INNOCENT[name](site), **innocents(site)}
    return _drive(tasks, most, watcher, site.rng, until_found=False)


def _drive(
    tasks: dict[str, Callable[[], object]], most: int, watcher: str, rng: random.Random, *, until_found: bool,
    takes: float = 0.0,
) -> Outcome:  # fmt: skip
    findings: list[Finding] = []
    before, after = WATCHERS[watcher](findings.append)
    names = list(tasks)
    weights = [1.0 if until_found or name != SUSPECT else 3.0 for name in names]
    began, watching = time.monotonic(), 0.0
    ran = suspects = 0
    while ran < most and not (findings and until_found):
        (name,) = rng.choices(names, weights)
        before(name)
        start = time.perf_counter()
        tasks[name]()
        time.sleep(takes)
        middle = time.perf_counter()
        after(name, middle - start)
        watching += time.perf_counter() - middle
        ran += 1
        suspects += name == SUSPECT
    found = [(str(finding.kind), finding.task, finding.what) for finding in findings]
    return Outcome(ran, suspects, 0, found, not found, time.monotonic() - began, watching)


def site_at(port: int, path: str, seed: int, folder: str) -> Site:
    """The place of one scenario."""
    return Site(port, path, Path(folder), random.Random(seed))
