"""One scenario, in a process of its own: tasks drawn at random, one of which leaks or only looks like it.

tasks ── each run ──▶ Audit (or the descriptor watch alone) ── Findings ──▶ one line of JSON
"""

from __future__ import annotations

import itertools
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

from poolrt.hygiene.findings import Finding, Policies
from stress.leaks import innocent_files  # noqa: F401  it enters its workloads
from stress.leaks.innocent import INNOCENT
from stress.leaks.kinds import KINDS
from stress.leaks.site import Pool, Site, ask

Found = Callable[[Finding], None]
After = Callable[[str, float], object]
MOST_LEFT: Final = 500
"""Things that are left at most: what was not named by then is not named."""
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


def descriptors_alone(found: Found) -> After:
    """The descriptor watch without an audit."""
    from poolrt.hygiene.descriptors import DescriptorWatch
    from poolrt.posix.descriptors import limit, lowest_free, scan

    watch = DescriptorWatch(limit(), lowest_free(), scan)

    def after(task: str, runtime: float) -> None:
        for finding in watch.after(task, lowest_free()) or ():
            found(finding)

    return after


def audit(found: Found) -> After:
    """A child's whole audit; it tells everything, and leaves never."""
    from poolrt.child.audit import Audit
    from poolrt.child.watches import watches_for

    policies = Policies("warn")

    class Row:
        def fds(self, lowest: int) -> None: ...
        def activity(self, activity: object) -> None: ...

    class Resident:
        def read(self) -> int:
            return 0

    row: Any = Row()
    resident: Any = Resident()
    return Audit(policies, 0, row, resident, found, watches=watches_for(policies)).after


WATCHERS: Final[dict[str, Callable[[Found], After]]] = {"audit": audit, "descriptors": descriptors_alone}


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
        outcome = _drive(tasks, int(min(most, 4 * MOST_LEFT / probability)), watcher, site.rng, until_found=True)
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
    tasks: dict[str, Callable[[], object]], most: int, watcher: str, rng: random.Random, *, until_found: bool
) -> Outcome:  # fmt: skip
    findings: list[Finding] = []
    after = WATCHERS[watcher](findings.append)
    names = list(tasks)
    weights = [1.0 if until_found or name != SUSPECT else 3.0 for name in names]
    began, watching = time.monotonic(), 0.0
    ran = suspects = 0
    while ran < most and not (findings and until_found):
        (name,) = rng.choices(names, weights)
        start = time.perf_counter()
        tasks[name]()
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
