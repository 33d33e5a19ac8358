"""The command line: ``python -m stress.leaks --help``; the README says what is measured."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

from stress.leaks import scenario
from stress.leaks.echo_server import EchoServer
from stress.leaks.innocent import INNOCENT
from stress.leaks.kinds import KINDS
from stress.leaks.scenario import Outcome

PROBABILITIES: Final = (1.0, 0.1, 0.02, 0.005)
LONGEST: Final = 600
"""Seconds a scenario may take."""


class Size(NamedTuple):
    """How much is run."""

    seeds: int
    probabilities: Sequence[float]
    leaking: int
    """Tasks until a leak has to be named."""
    innocent: int
    """Tasks of a workload that leaks nothing."""


SIZES: Final = {
    "small": Size(1, (1.0, 0.1), 6000, 1000),
    "full": Size(5, PROBABILITIES, 60_000, 5000),
}


class Case(NamedTuple):
    """One scenario of one seed; probability 0: a workload that leaks nothing."""

    name: str
    probability: float
    seed: int


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m stress.leaks", description=__doc__)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--small", dest="size", action="store_const", const="small", help="a minute (default)")
    size.add_argument("--full", dest="size", action="store_const", const="full", help="enough to quote")
    parser.add_argument("--out", type=Path, help="the report's file, Markdown, overwritten")
    parser.add_argument("--only", default="", help="names of kinds and workloads, with commas; kinds=all leaks")
    parser.add_argument("--seeds", type=int, help="how many; default 1 if small, 5 if full")
    parser.add_argument("--jobs", type=int, default=2, help="scenarios at a time")
    parser.add_argument("--watch", choices=list(scenario.WATCHERS), default="audit")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.set_defaults(size="small")
    return parser.parse_args()


def run_one(text: str) -> Outcome:
    """In the process of a scenario."""
    case, size, watch, port, path = json.loads(text)
    name, probability, seed = case
    # Temporary files have a folder of their own, as in a child; the other one is no such: what is kept open there is a
    # cache's.
    with tempfile.TemporaryDirectory() as tempfile.tempdir, tempfile.TemporaryDirectory(dir=Path.home()) as folder:
        site = scenario.site_at(port, path, seed, folder)
        if probability:
            return scenario.run_leak(name, probability, SIZES[size].leaking, watch, site)
        return scenario.run_innocent(name, SIZES[size].innocent, watch, site)


def run_all(cases: Iterable[Case], options: argparse.Namespace, server: EchoServer) -> dict[Case, Outcome | str]:
    """Each in a process of its own; what goes wrong there is the outcome."""

    def run(case: Case) -> Outcome | str:
        text = json.dumps([case, options.size, options.watch, server.port, server.path])
        command = [sys.executable, "-m", "stress.leaks", "--one", text]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST, check=False)
        except subprocess.TimeoutExpired:
            return f"not over after {LONGEST} s"
        if done.returncode:
            return (done.stderr.strip() or "no message").splitlines()[-1]
        outcome = Outcome(*json.loads(done.stdout))
        shown = f"{case.name} {case.probability or ''} seed {case.seed}: {outcome.tasks} tasks, {outcome.found[:3]}"
        print(shown, file=sys.stderr, flush=True)
        return outcome

    cases = list(cases)
    with ThreadPoolExecutor(options.jobs) as pool:
        return dict(zip(cases, pool.map(run, cases), strict=True))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    return "".join(f"| {' | '.join(line)} |\n" for line in [head, ["---"] * len(head), *rows])


def report(outcomes: dict[Case, Outcome | str], probabilities: Sequence[float]) -> str:
    """Both tables, and what went wrong."""
    leaks = [case for case in outcomes if case.probability]
    names = dict.fromkeys(case.name for case in leaks)
    rows = [
        [
            name,
            KINDS[name][0].value,
            *(_cell([outcomes[case] for case in leaks if case[:2] == (name, p)]) for p in probabilities),
        ]
        for name in names
    ]
    text = "### Leaks: tasks of the leaking one until it is named (of all tasks), right names\n\n"
    text += table(["kind", "found as", *(f"p = {p:g}" for p in probabilities)], rows)
    quiet = [case for case in outcomes if not case.probability]
    found = {case: outcome for case in quiet if isinstance(outcome := outcomes[case], Outcome) and outcome.found}
    text += f"\n### No leak: {len(quiet)} runs of {len({c.name for c in quiet})} workloads, {len(found)} found\n\n"
    text += table(["workload", "tasks", "found", "watching, us a task"], [
        [name, *_quiet([outcomes[c] for c in quiet if c.name == name])] for name in dict.fromkeys(c.name for c in quiet)
    ])  # fmt: skip
    wrong = {case: outcome for case, outcome in outcomes.items() if isinstance(outcome, str)}
    return text + "".join(f"\n* {case}: {outcome}" for case, outcome in wrong.items()) + "\n" * bool(wrong)


def _cell(outcomes: Sequence[Outcome | str]) -> str:
    ended = [each for each in outcomes if isinstance(each, Outcome)]
    named = [each for each in ended if each.found]
    if not named:
        return f"not in {max((each.suspects for each in ended), default=0)}"
    suspects = statistics.median(each.suspects for each in named)
    tasks = statistics.median(each.tasks for each in named)
    right = sum(each.right for each in named)
    return f"{suspects:.0f} ({tasks:.0f}), {right}/{len(outcomes)}"


def _quiet(outcomes: Sequence[Outcome | str]) -> list[str]:
    ended = [each for each in outcomes if isinstance(each, Outcome)]
    tasks = sum(each.tasks for each in ended)
    found = [" ".join(each) for outcome in ended for each in outcome.found]
    costs = 1e6 * sum(each.watching for each in ended) / max(1, tasks)
    return [str(tasks), "; ".join(dict.fromkeys(found)) or "0", f"{costs:.1f}"]


def broken(outcomes: dict[Case, Outcome | str]) -> list[str]:
    """The promises that were broken: no false name at all, a right one at 0.02 and above."""
    return [
        f"{case.name} {case.probability:g} seed {case.seed}: {outcome if isinstance(outcome, str) else outcome.found}"
        for case, outcome in outcomes.items()
        if isinstance(outcome, str)
        or (outcome.found and not outcome.right)
        or (case.probability >= 0.02 and not outcome.found)
    ]


def main() -> None:
    """Do what the command line says."""
    options = arguments()
    if options.one:
        print(json.dumps(run_one(options.one)))
        return
    size = SIZES[options.size]
    seeds = range(options.seeds or size.seeds)
    only = [name for name in options.only.split(",") if name]
    cases = [Case(name, p, seed) for name in KINDS for p in size.probabilities for seed in seeds]
    cases += [Case(name, 0, seed) for name in INNOCENT for seed in seeds]
    cases = [case for case in cases if not only or case.name in only]
    with EchoServer() as server:
        outcomes = run_all(cases, options, server)
    text = report(outcomes, size.probabilities)
    print(text)
    if options.out:
        options.out.write_text(text)
    if problems := broken(outcomes):
        sys.exit("stress.leaks: " + "\n".join(problems))


if __name__ == "__main__":
    main()
