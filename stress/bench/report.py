"""Markdown of one run: the ratios against their targets first, then what they come from."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# A take is quiet if other processes used at most this much in its window. Set on the peers alone, before poolrt ran:
# with 0.46 CPUs in use by others celery recycled at 33 tasks/s, with 0.02 at 79 to 99: a laxer limit would flatter us.
QUIET_CPUS = 0.2


@dataclass(frozen=True)
class Target:
    """How much faster ``ours`` must be than ``theirs``, in one run."""

    measure: str
    ours: str
    theirs: str
    at_least: float


TARGETS = (
    Target("noop", "poolrt/sqlite", "huey/sqlite_nosync", 2.0),
    Target("noop", "poolrt/sqlite", "celery/default", 10.0),
    Target("add_results", "poolrt/sqlite", "celery/default", 10.0),
    Target("recycle10", "poolrt/sqlite", "celery/default", 20.0),
)
ADD_RESULTS_PER_S = 12_000.0  # meets the add_results target by itself


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def verdict(target: str, *, met: bool) -> str:
    """Return a target with its verdict."""
    return f"{target}: {'met' if met else 'MISSED'}"


class Run:
    """What one run took, by variant and measure; incomplete takes are listed, never averaged."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.meta: dict[str, Any] = data["meta"]
        self.takes: list[dict[str, Any]] = data["takes"]
        self.variants = list(dict.fromkeys(take["variant"] for take in self.takes))

    def good(self, variant: str, measure: str) -> list[dict[str, Any]]:
        """Return the complete takes."""
        mine = (take for take in self.takes if (take["variant"], take["measure"]) == (variant, measure))
        return [take for take in mine if take.get("complete")]

    def values(self, variant: str, measure: str, name: str) -> list[float]:
        """Return one number of every complete take."""
        return [take[name] for take in self.good(variant, measure)]

    def median(self, variant: str, measure: str, name: str, digits: int = 0) -> str:
        """Return a number's median over the complete takes."""
        values = self.values(variant, measure, name)
        return f"{statistics.median(values):.{digits}f}" if values else "-"

    def spread(self, variant: str, measure: str, name: str) -> str:
        """Return a number's median and range over all complete takes."""
        values = self.values(variant, measure, name)
        if not values:
            return "-"
        return f"{statistics.median(values):.0f}, {min(values):.0f}..{max(values):.0f} ({len(values)})"

    def quiet(self, variant: str, measure: str, name: str) -> str:
        """Return a number's median over the takes that had the machine nearly to themselves."""
        values = [take[name] for take in self.good(variant, measure) if take["other_cpus"] <= QUIET_CPUS]
        return f"{statistics.median(values):.0f} ({len(values)})" if values else "-"

    def ratios(self, target: Target, *, most_others: float) -> list[float]:
        """Return ours over theirs for each repetition, the two taken one after the other, if others used that much."""
        ours, theirs = (
            {
                take["rep"]: take["mid_per_s"]
                for take in self.good(side, target.measure)
                if take["other_cpus"] <= most_others
            }
            for side in (target.ours, target.theirs)
        )
        return [ours[rep] / theirs[rep] for rep in sorted(ours.keys() & theirs.keys())]


def render(data: dict[str, Any]) -> str:
    """Return the whole report of one run."""
    run = Run(data)
    meta = "".join(f"* {name}: {value}\n" for name, value in run.meta.items())
    parts = [
        ("Ratios in one run", _targets(run)),
        ("Drain of no-ops, no result kept, 2 children", _drains(run, "noop")),
        ("Drain of add, no result kept", _drains(run, "add")),
        ("Drain of add, results kept", _drains(run, "add_results")),
        ("Recycling, 10 tasks a child", _recycling(run)),
        ("Latency on idle workers, and their memory", _latency(run)),
        ("Left out or left behind", _troubles(run)),
    ]
    return meta + "".join(f"\n### {title}\n\n{body}" for title, body in parts if body)


def _targets(run: Run) -> str:
    rows = []
    for target in TARGETS:
        ratios, quiet = (run.ratios(target, most_others=most) for most in (math.inf, QUIET_CPUS))
        if ratios:
            middle = f"{statistics.median(quiet):.1f} ({len(quiet)})" if quiet else "-"
            spread = f"{statistics.median(ratios):.1f}, {min(ratios):.1f}..{max(ratios):.1f} ({len(ratios)})"
            sides = f"{target.ours} / {target.theirs}"
            rows.append([target.measure, sides, middle, spread, _judged(run, target, quiet)])
    head = ["measure", "ratio of", f"others <= {QUIET_CPUS} CPUs: median (repetitions)",
            "all: median, range (repetitions)", "target"]  # fmt: skip
    return table(head, rows) if rows else ""


def _judged(run: Run, target: Target, quiet: list[float]) -> str:
    """Judge by quiet repetitions alone: others' load slows a peer that forks much more than one that does not."""
    wanted = f">= {target.at_least:g}x"
    if not quiet:
        return f"{wanted}: undecided, no quiet repetition"
    met = statistics.median(quiet) >= target.at_least
    if target.measure == "add_results":
        rate = statistics.median(run.values(target.ours, target.measure, "mid_per_s"))
        met, wanted = met or rate >= ADD_RESULTS_PER_S, f"{wanted} or {ADD_RESULTS_PER_S:.0f}/s ({rate:.0f}/s)"
    return verdict(wanted, met=met)


def _drains(run: Run, measure: str) -> str:
    rows = []
    for variant in run.variants:
        if run.good(variant, measure):
            others = max(run.values(variant, measure, "other_cpus"))
            columns = (("worker_cpu_us", 0), ("service_cpu_us", 0), ("enqueue_per_s", 0), ("enqueue_cpu_us", 0))
            rows.append([
                variant, run.quiet(variant, measure, "mid_per_s"), run.spread(variant, measure, "mid_per_s"),
                *(run.median(variant, measure, name, digits) for name, digits in columns),
                run.median(variant, measure, "cold_start_ms"), f"{others:.2f}",
            ])  # fmt: skip
    head = ["variant", f"tasks/s, others <= {QUIET_CPUS} CPUs: median (takes)", "tasks/s, all: median, range (takes)",
            "worker CPU us/task", "service CPU us/task", "enqueue/s", "enqueue CPU us", "cold start ms",
            "other CPUs, most"]  # fmt: skip
    return table(head, rows) if rows else ""


def _recycling(run: Run) -> str:
    rows = []
    for variant in run.variants:
        slow, fast = (run.values(variant, measure, "mid_per_s") for measure in ("recycle10", "noop"))
        if slow:
            # Two children in parallel: what one replacement costs one child, in wall time.
            down = 2 * 10 * (1 / statistics.median(slow) - 1 / statistics.median(fast)) * 1e3 if fast else None
            others = max(run.values(variant, "recycle10", "other_cpus"))
            rows.append([
                variant, run.spread(variant, "recycle10", "mid_per_s"), run.median(variant, "recycle10", "pids"),
                f"{down:.1f}" if down is not None else "-",
                run.median(variant, "recycle10", "worker_cpu_us"), f"{others:.2f}",
            ])  # fmt: skip
    head = ["variant", "tasks/s: median, range (takes)", "children", "child downtime a replacement, ms",
            "worker CPU us/task", "other CPUs, most"]  # fmt: skip
    return table(head, rows) if rows else ""


def _latency(run: Run) -> str:
    columns = [("p50 ms", "p50_ms", 2), ("p99 ms", "p99_ms", 2), ("max ms", "max_ms", 2), ("samples", "samples", 0),
               ("busy CPUs, all", "busy_cpus", 2), ("processes", "processes", 0), ("tree PSS MiB", "tree_pss_mib", 1),
               ("child private MiB", "child_private_mib", 1)]  # fmt: skip
    rows = [
        [variant, *(run.median(variant, "latency", name, digits) for _, name, digits in columns)]
        for variant in run.variants
        if run.good(variant, "latency")
    ]
    return table(["variant", *(title for title, _, _ in columns)], rows) if rows else ""


def _troubles(run: Run) -> str:
    lines = []
    for take in run.takes:
        name = f"{take['variant']} {take['measure']} (repetition {take['rep']})"
        if "error" in take:
            lines.append(f"* {name} failed: {take['error']}\n")
        elif not take["complete"]:
            lines.append(f"* {name} is incomplete: {take.get('tasks', take.get('samples'))} tasks ran\n")
        elif take["survivors"] or take["exit_code"]:
            lines.append(f"* {name}: exit code {take['exit_code']}, {take['survivors']} processes left after TERM\n")
    return "".join(lines)
