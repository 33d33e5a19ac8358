"""The measures: drain, recycling, enqueueing, workflows, latency. README.md defines every number taken here."""

import time
from typing import Any, NamedTuple

from stress.bench import process_tree
from stress.bench.process_tree import Host
from stress.bench.services import Service
from stress.bench.site import Ran, Site, Workers
from stress.bench.variants import ENQUEUED, ENQUEUED_MANY, PROBES, WORKFLOWS, Size, Variant

WARM_TASKS = 20
SETTLE_S = 1.5
ENQUEUES = {"enqueue": ("enqueue", ENQUEUED), "enqueue_many": ("preload", ENQUEUED_MANY)}
CHILD_TASKS = 10  # what Variant.recycle_arguments say


class Moment(NamedTuple):
    """The accounts at one point of a take."""

    done: int
    workers: float
    service: float
    host: Host


def take(variant: Variant, measure: str, size: Size, site: Site) -> dict[str, Any]:
    """Take one measure of one variant."""
    if measure in PROBES:
        return latency(variant, measure, size, site)
    if measure in WORKFLOWS:
        return workflow(variant, measure, WORKFLOWS[measure][size], site)
    if measure in ENQUEUES:
        mode, counts = ENQUEUES[measure]
        return enqueue(variant, mode, counts[size], site)
    if measure == "recycle10":
        return recycle(variant, variant.recycle_tasks[size], site)
    if measure == "add_results":
        return drain(variant, "add", variant.tasks[size] // 2, site, results=True)
    return drain(variant, measure, variant.tasks[size], site)


def drain(
    variant: Variant, task: str, count: int, site: Site, *, results: bool = False, more: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Preload ``count`` tasks, start the workers, and time the tasks by their own records."""
    service, records = site.service(variant), site.records
    env = site.variant_env(variant, results=results)
    service.empty()
    records.clear()
    site.produce(variant, env, "preload", task, count)
    with site.workers(variant, env, *more) as workers:
        complete = records.reached(count // 10)
        before = moment(site, workers, service)
        complete = complete and records.reached(count * 9 // 10)
        after = moment(site, workers, service)
        complete = complete and records.reached(count)
    ran = records.read()
    if len(ran) < 10:
        raise RuntimeError(f"only {len(ran)} of {count} tasks ran: {workers.last_words()}")
    return {
        "complete": complete,
        **rates(ran, workers.started_ns),
        **_costs(before, after),
        "exit_code": workers.exit_code,
        "survivors": workers.survivors,
    }


def moment(site: Site, workers: Workers | None, service: Service) -> Moment:
    """Return the accounts now."""
    host = process_tree.host()
    used = process_tree.cpu_seconds(workers.root) if workers else 0.0
    return Moment(site.records.count(), used, service.cpu_seconds(), host)


def rates(ran: list[Ran], started_ns: int) -> dict[str, Any]:
    """Return how fast the tasks of a drain started, by their records."""
    at = [record.at_ns for record in ran]
    low, high = len(at) // 10, len(at) * 9 // 10
    return {
        "tasks": len(at),
        "pids": len({record.pid for record in ran}),
        "mid_per_s": (high - low) / (at[high] - at[low]) * 1e9,
        "full_per_s": (len(at) - 1) / (at[-1] - at[0]) * 1e9,
        "cold_start_ms": (at[0] - started_ns) / 1e6,
    }


def _costs(before: Moment, after: Moment) -> dict[str, float]:
    done = max(1, after.done - before.done)
    workers, service = after.workers - before.workers, after.service - before.service
    return {
        "worker_cpu_us": workers / done * 1e6,
        "service_cpu_us": service / done * 1e6,
        "cpu_us": (workers + service) / done * 1e6,
        **others(before, after, workers + service),
    }


def others(before: Moment, after: Moment, ours: float) -> dict[str, float]:
    """Return what everybody else used between two moments, given what those who are measured did."""
    seconds = max(1e-3, after.host.at - before.host.at)
    return {
        "other_cpus": max(0.0, after.host.busy - before.host.busy - ours) / seconds,
        "steal_cpus": (after.host.steal - before.host.steal) / seconds,
    }


def recycle(variant: Variant, count: int, site: Site) -> dict[str, Any]:
    """Drain no-ops with ten tasks a child; incomplete unless the children were in fact replaced."""
    result = drain(variant, "noop", count, site, more=variant.recycle_arguments)
    result["complete"] = result["complete"] and result["pids"] >= 0.9 * count / CHILD_TASKS
    return result


def enqueue(variant: Variant, mode: str, count: int, site: Site) -> dict[str, Any]:
    """Enqueue no-ops while no worker runs."""
    service = site.service(variant)
    env = site.variant_env(variant, results=False)
    service.empty()
    before = moment(site, None, service)
    sent = site.produce(variant, env, mode, "noop", count)
    after = moment(site, None, service)
    used = after.service - before.service
    return {
        "complete": True,
        "tasks": sent["count"],
        "per_s": sent["count"] / sent["seconds"],
        "producer_cpu_us": sent["cpu"] / sent["count"] * 1e6,
        "service_cpu_us": used / sent["count"] * 1e6,
        **others(before, after, used + sent["process_cpu"]),
    }


def warmed(variant: Variant, env: dict[str, str], site: Site, workers: Workers) -> Moment:
    """Let the workers run a few tasks and settle down; return the accounts then."""
    site.produce(variant, env, "enqueue", "noop", WARM_TASKS)
    if not site.records.reached(WARM_TASKS):
        raise RuntimeError(f"the warm-up did not run: {workers.last_words()}")
    time.sleep(SETTLE_S)
    return moment(site, workers, site.service(variant))


def workflow(variant: Variant, kind: str, count: int, site: Site) -> dict[str, Any]:
    """Time one chord or chain on warm workers, from before the call that applies it to the start of its last task."""
    service, records = site.service(variant), site.records
    env = site.variant_env(variant, results=True)
    service.empty()
    records.clear()
    with site.workers(variant, env) as workers:
        before = warmed(variant, env, site, workers)
        applied = site.produce(variant, env, "workflow", kind, count)
        complete = records.reached(before.done + applied["count"])
        after = moment(site, workers, service)
    ran = [record for record in records.read() if record.at_ns > applied["began_ns"]]
    ends = [record.at_ns for record in ran if record.mark]
    if not ends:
        raise RuntimeError(f"a {kind} of {count} did not end, {len(ran)} tasks ran: {workers.last_words()}")
    seconds = (ends[0] - applied["began_ns"]) / 1e9
    used = after.workers - before.workers + after.service - before.service
    return {
        "complete": complete and records.count() == before.done + applied["count"] and len(ends) == 1,
        "tasks": len(ran),
        "tasks_per_s": count / seconds,
        "seconds": seconds,
        "apply_s": applied["seconds"],
        "first_s": (ran[0].at_ns - applied["began_ns"]) / 1e9,
        "producer_cpu_us": applied["cpu"] / count * 1e6,
        "cpu_us": used / applied["count"] * 1e6,
        **others(before, after, used + applied["process_cpu"]),
        "exit_code": workers.exit_code,
        "survivors": workers.survivors,
    }


def latency(variant: Variant, measure: str, size: Size, site: Site) -> dict[str, Any]:
    """Time single tasks on idle workers, then weigh the workers."""
    service, records, probe = site.service(variant), site.records, PROBES[measure]
    env = site.variant_env(variant, results=False)
    service.empty()
    records.clear()
    with site.workers(variant, env) as workers:
        before = warmed(variant, env, site, workers)
        probed = site.produce(variant, env, "latency", probe.samples[size], probe.max_s[size], probe.gap_s)
        after = moment(site, workers, service)
        time.sleep(0.5)
        memory = process_tree.tree_memory(workers.root, {record.pid for record in records.read()})
    samples = sorted(probed["us"])
    if not samples:
        raise RuntimeError(f"no probe ran: {workers.last_words()}")
    used = after.workers - before.workers + after.service - before.service
    return {
        "complete": not probed["lost"],
        "samples": len(samples),
        "p50_ms": quantile(samples, 0.5) / 1e3,
        "p99_ms": quantile(samples, 0.99) / 1e3,
        "max_ms": samples[-1] / 1e3,
        **others(before, after, used + probed["process_cpu"]),
        **memory,
        "exit_code": workers.exit_code,
        "survivors": workers.survivors,
    }


def quantile(ordered: list[float], share: float) -> float:
    """Return the sample below which ``share`` of them lie."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
