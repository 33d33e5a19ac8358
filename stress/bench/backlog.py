"""Backlog: a long queue on Redis drains as fast as a short one, grows no process, and costs so much of the server."""

import statistics
from typing import Any

from stress.bench import process_tree
from stress.bench.measure import drain, moment, others, rates
from stress.bench.report import table, verdict
from stress.bench.services import RedisServer
from stress.bench.site import Site
from stress.bench.variants import VARIANTS, Size

SHORT = 10_000
LONG = {"small": 100_000, "full": 1_000_000}
SHARE = 0.8
FLAT_MIB = 1.0
TENTHS = 10
TASK = "add"  # two small numbers: what a typical small task carries
GUARDS = ("supervisor", "steward")


def backlog(site: Site, size: Size) -> tuple[dict[str, Any], str]:
    """Take how fast 10,000 and 1,000,000 (small: 100,000) queued tasks drain, what grows, and what a task weighs."""
    repetitions, tasks = {"small": 2, "full": 3}[size], LONG[size]
    found: dict[str, list[Any]] = {"short": [], "long": []}
    for _ in range(repetitions):
        # Three to one: 10,000 are gone in a moment, and their rate varies more.
        found["short"].append([drain(VARIANTS["poolrt/redis"], TASK, SHORT, site) for _ in range(3)])
        found["long"].append(_long(site, tasks))
    if not all(taken["complete"] for triple in found["short"] for taken in triple):
        raise RuntimeError(f"a drain of {SHORT} tasks is incomplete: {found['short']}")
    return found, _report(found, tasks)


def _long(site: Site, tasks: int) -> dict[str, Any]:
    """Preload, weigh the server, and drain; the guards are weighed at the start, in the middle, at the end."""
    variant, records = VARIANTS["poolrt/redis"], site.records
    service = site.service(variant)
    assert isinstance(service, RedisServer)
    env = site.variant_env(variant, results=False)
    service.empty()
    records.clear()
    empty = service.used_memory()
    sent = site.produce(variant, env, "preload", TASK, tasks)
    weight = (service.used_memory() - empty) / tasks
    with site.workers(variant, env) as workers:
        reached = records.reached(1)
        before = moment(site, workers, service)
        told = site.status(env)
        pids = [told[name]["pid"] for name in GUARDS]
        rss = [_rss(pids)]
        for share in (2, 1):
            reached = reached and records.reached(tasks // share)
            rss.append(_rss(pids))
        after = moment(site, workers, service)
    if not reached:
        raise RuntimeError(f"{records.count()} of {tasks} tasks ran: {workers.last_words()}")
    ran = records.read()
    at = [record.at_ns for record in ran]
    step = len(at) // TENTHS
    tenths = [(step - 1) / (at[first + step - 1] - at[first]) * 1e9 for first in range(0, step * TENTHS, step)]
    return {
        "mid_per_s": rates(ran, workers.started_ns)["mid_per_s"],
        "tenths_per_s": tenths,
        "enqueue_many_per_s": sent["count"] / sent["seconds"],
        "bytes_a_task": weight,
        **others(before, after, after.workers - before.workers + after.service - before.service),
        "rss_mib": dict(zip(GUARDS, zip(*rss, strict=True), strict=True)),
    }


def _rss(pids: list[int]) -> list[float]:
    return [process_tree.rss(pid) for pid in pids]


def _report(found: dict[str, list[Any]], tasks: int) -> str:
    short = [taken for triple in found["short"] for taken in triple]
    long = found["long"]
    shares = [
        taken["mid_per_s"] / statistics.median(one["mid_per_s"] for one in triple)
        for triple, taken in zip(found["short"], long, strict=True)
    ]
    depths = [taken["tenths_per_s"][0] / taken["tenths_per_s"][-1] for taken in long]
    rows = [
        [f"tasks/s with {SHORT:,} queued", _spread(short, "mid_per_s"), "-"],
        [f"tasks/s with {tasks:,} queued", _spread(long, "mid_per_s"), "-"],
        ["the second over the first of a repetition", *_judged(shares)],
        ["first tenth of a long drain over its last", *_judged(depths)],
        ["other CPUs, most", f"{max(taken['other_cpus'] for taken in (*short, *long)):.2f}", "-"],
        ["enqueue_many, calls/s", _spread(long, "enqueue_many_per_s"), "-"],
        ["server bytes a queued add(1, 2)", _spread(long, "bytes_a_task"), "-"],
    ]  # fmt: skip
    for name in GUARDS:
        marks = [taken["rss_mib"][name] for taken in long]
        grown = max(max(mark) - mark[0] for mark in marks)
        shown = "; ".join(" → ".join(f"{rss:.2f}" for rss in mark) for mark in marks)
        target = verdict(f"grown by <= {FLAT_MIB:.0f} MiB ({grown:.2f})", met=grown <= FLAT_MIB)
        rows.append([f"{name} RSS MiB: start, middle, end", shown, target])
    return table(["what", "median, range", "target"], rows)


def _judged(ratios: list[float]) -> tuple[str, str]:
    middle = statistics.median(ratios)
    shown = f"{middle:.0%}, {min(ratios):.0%}..{max(ratios):.0%} ({len(ratios)})"
    return shown, verdict(f">= {SHARE:.0%}", met=middle >= SHARE)


def _spread(takes: list[dict[str, Any]], name: str) -> str:
    values = [taken[name] for taken in takes]
    return f"{statistics.median(values):,.0f}, {min(values):,.0f}..{max(values):,.0f} ({len(values)})"
