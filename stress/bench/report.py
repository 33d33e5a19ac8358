"""Markdown of one run: the ratios against their targets first, then what they come from."""

import statistics
from collections.abc import Sequence
from typing import Any

from stress.bench.takes import QUIET_CPUS, Run
from stress.bench.targets import TARGETS, judge


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def verdict(target: str, *, met: bool) -> str:
    """Return a target with its verdict."""
    return f"{target}: {'met' if met else 'MISSED'}"


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
        ("Enqueueing no-ops, no worker running", _enqueueing(run)),
        ("A chord, from the call to the start of its callback; each task keeps its result", _workflows(run, "chord")),
        ("A chain, from the call to the start of its last step; each keeps its result", _workflows(run, "chain")),
        ("Latency on idle workers, tasks 5 ms apart, and their memory", _latency(run, "latency")),
        ("Latency after about 6 s idle", _latency(run, "latency_6s")),
        ("Left out or left behind", _troubles(run)),
    ]
    return meta + "".join(f"\n### {title}\n\n{body}" for title, body in parts if body)


def _targets(run: Run) -> str:
    rows = []
    for target in TARGETS:
        judged = judge(run, target)
        if judged:
            met = "undecided, no quiet repetition" if judged.met is None else "met" if judged.met else "MISSED"
            rows.append([
                target.title, f"{target.ours} / {judged.theirs}", _middle(judged.quiet), _spread(judged.every),
                f"{target.wanted}: {met}",
            ])  # fmt: skip
    head = ["measure", "ratio of", f"others <= {QUIET_CPUS} CPUs: median (repetitions)",
            "all: median, range (repetitions)", "target"]  # fmt: skip
    return table(head, rows) if rows else ""


def _middle(ratios: Sequence[float]) -> str:
    return f"{statistics.median(ratios):.3g} ({len(ratios)})" if ratios else "-"


def _spread(ratios: Sequence[float]) -> str:
    if not ratios:
        return "-"
    return f"{statistics.median(ratios):.3g}, {min(ratios):.3g}..{max(ratios):.3g} ({len(ratios)})"


def _most_others(run: Run, variant: str, measure: str) -> str:
    return f"{max(run.values(variant, measure, 'other_cpus')):.2f}"


def _drains(run: Run, measure: str) -> str:
    costs = ("worker_cpu_us", "service_cpu_us", "cpu_us")
    rows = [
        [
            variant,
            run.quiet(variant, measure, "mid_per_s"),
            run.spread(variant, measure, "mid_per_s"),
            *(run.median(variant, measure, name, 1) for name in costs),
            run.median(variant, measure, "cold_start_ms"),
            _most_others(run, variant, measure),
        ]
        for variant in run.variants
        if run.good(variant, measure)
    ]
    head = ["variant", f"tasks/s, others <= {QUIET_CPUS} CPUs: median (takes)", "tasks/s, all: median, range (takes)",
            "worker CPU us/task", "service CPU us/task", "both", "cold start ms", "other CPUs, most"]  # fmt: skip
    return table(head, rows) if rows else ""


def _recycling(run: Run) -> str:
    rows = []
    for variant in run.variants:
        slow, fast = (run.values(variant, measure, "mid_per_s") for measure in ("recycle10", "noop"))
        if slow:
            # Two children in parallel: what one replacement costs one child, in wall time.
            down = 2 * 10 * (1 / statistics.median(slow) - 1 / statistics.median(fast)) * 1e3 if fast else None
            rows.append([
                variant, run.spread(variant, "recycle10", "mid_per_s"), run.median(variant, "recycle10", "pids"),
                f"{down:.1f}" if down is not None else "-",
                run.median(variant, "recycle10", "worker_cpu_us"), _most_others(run, variant, "recycle10"),
            ])  # fmt: skip
    head = ["variant", "tasks/s: median, range (takes)", "children", "child downtime a replacement, ms",
            "worker CPU us/task", "other CPUs, most"]  # fmt: skip
    return table(head, rows) if rows else ""


def _enqueueing(run: Run) -> str:
    rows = [
        [
            f"{variant}, {title}",
            run.quiet(variant, measure, "per_s"),
            run.spread(variant, measure, "per_s"),
            run.median(variant, measure, "producer_cpu_us", 1),
            run.median(variant, measure, "service_cpu_us", 1),
            _most_others(run, variant, measure),
        ]
        for measure, title in (("enqueue", "one by one"), ("enqueue_many", "many at once"))
        for variant in run.variants
        if run.good(variant, measure)
    ]
    head = ["variant", f"calls/s, others <= {QUIET_CPUS} CPUs: median (takes)", "calls/s, all: median, range (takes)",
            "producer CPU us/call", "service CPU us/call", "other CPUs, most"]  # fmt: skip
    return table(head, rows) if rows else ""


def _workflows(run: Run, measure: str) -> str:
    rows = [
        [
            variant,
            run.quiet(variant, measure, "tasks_per_s"),
            run.spread(variant, measure, "tasks_per_s"),
            *(run.median(variant, measure, name, 3) for name in ("seconds", "apply_s", "first_s")),
            *(run.median(variant, measure, name, 1) for name in ("producer_cpu_us", "cpu_us")),
            _most_others(run, variant, measure),
        ]
        for variant in run.variants
        if run.good(variant, measure)
    ]
    head = ["variant", f"tasks/s, others <= {QUIET_CPUS} CPUs: median (takes)", "tasks/s, all: median, range (takes)",
            "seconds", "of the call", "to the first task", "producer CPU us/task", "worker and service CPU us/task",
            "other CPUs, most"]  # fmt: skip
    return table(head, rows) if rows else ""


def _latency(run: Run, measure: str) -> str:
    weights = (("samples", 0), ("processes", 0), ("tree_pss_mib", 1), ("child_private_mib", 1))
    rows = [
        [
            variant,
            *(run.quiet(variant, measure, name, 2) for name in ("p50_ms", "p99_ms")),
            *(run.spread(variant, measure, name, 2) for name in ("p50_ms", "p99_ms")),
            *(run.median(variant, measure, name, digits) for name, digits in (("max_ms", 2), *weights)),
            _most_others(run, variant, measure),
        ]
        for variant in run.variants
        if run.good(variant, measure)
    ]
    head = ["variant", f"p50 ms, others <= {QUIET_CPUS} CPUs", "p99 ms, the same", "p50 ms, all: median, range (takes)",
            "p99 ms, all", "max ms", "samples", "processes", "tree PSS MiB", "child private MiB",
            "other CPUs, most"]  # fmt: skip
    return table(head, rows) if rows else ""


def _troubles(run: Run) -> str:
    lines = []
    for take in run.takes:
        name = f"{take['variant']} {take['measure']} (repetition {take['rep']})"
        if "error" in take:
            lines.append(f"* {name} failed: {take['error']}\n")
        elif not take["complete"]:
            lines.append(f"* {name} is incomplete: {take.get('tasks', take.get('samples'))} tasks ran\n")
        elif take.get("survivors") or take.get("exit_code"):
            lines.append(f"* {name}: exit code {take['exit_code']}, {take['survivors']} processes left after TERM\n")
    return "".join(lines)
