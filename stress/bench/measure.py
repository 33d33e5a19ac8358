"""The measures: drain, recycling, latency. README.md defines every number taken here."""

import time
from typing import Any, NamedTuple

from stress.bench import process_tree
from stress.bench.process_tree import Host
from stress.bench.services import Service
from stress.bench.site import Site, Workers
from stress.bench.variants import LATENCY_SAMPLES, Size, Variant

LATENCY_MAX_S = {"small": 8.0, "full": 20.0}
LATENCY_GAP_S = 0.005
WARM_TASKS = 20
SETTLE_S = 1.5
CHILD_TASKS = 10  # what Variant.recycle_arguments say


class Moment(NamedTuple):
    """The accounts at one point of a drain."""

    done: int
    workers: float
    service: float
    host: Host


def take(variant: Variant, measure: str, size: Size, site: Site) -> dict[str, Any]:
    """Take one measure of one variant."""
    tasks = variant.tasks[size]
    if measure == "latency":
        return latency(variant, size, site)
    if measure == "recycle10":
        return recycle(variant, variant.recycle_tasks[size], site)
    if measure == "add_results":
        return drain(variant, "add", tasks // 2, site, results=True)
    return drain(variant, measure, tasks, site)


def drain(
    variant: Variant, task: str, count: int, site: Site, *, results: bool = False, more: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Preload ``count`` tasks, start the workers, and time the tasks by their own records."""
    service, records = site.service(variant), site.records
    env = site.variant_env(variant, results=results)
    service.empty()
    records.clear()
    enqueued = site.produce(variant, env, "enqueue", task, count)
    with site.workers(variant, env, *more) as workers:
        complete = records.reached(count // 10)
        before = _moment(site, workers, service)
        complete = complete and records.reached(count * 9 // 10)
        after = _moment(site, workers, service)
        complete = complete and records.reached(count)
    ran = records.read()
    if len(ran) < 10:
        raise RuntimeError(f"only {len(ran)} of {count} tasks ran: {workers.last_words()}")
    return {
        "complete": complete,
        "enqueue_per_s": enqueued["count"] / enqueued["seconds"],
        "enqueue_cpu_us": enqueued["cpu"] / enqueued["count"] * 1e6,
        **_rates(ran, workers.started_ns),
        **_costs(before, after),
        "exit_code": workers.exit_code,
        "survivors": workers.survivors,
    }


def _moment(site: Site, workers: Workers, service: Service) -> Moment:
    host = process_tree.host()
    return Moment(site.records.count(), process_tree.cpu_seconds(workers.root), service.cpu_seconds(), host)


def _rates(ran: list[tuple[int, int]], started_ns: int) -> dict[str, Any]:
    at = [ns for ns, _ in ran]
    low, high = len(at) // 10, len(at) * 9 // 10
    return {
        "tasks": len(at),
        "pids": len({pid for _, pid in ran}),
        "mid_per_s": (high - low) / (at[high] - at[low]) * 1e9,
        "full_per_s": (len(at) - 1) / (at[-1] - at[0]) * 1e9,
        "cold_start_ms": (at[0] - started_ns) / 1e6,
    }


def _costs(before: Moment, after: Moment) -> dict[str, float]:
    done = max(1, after.done - before.done)
    seconds = max(1e-3, after.host.at - before.host.at)
    workers, service = after.workers - before.workers, after.service - before.service
    return {
        "worker_cpu_us": workers / done * 1e6,
        "service_cpu_us": service / done * 1e6,
        "other_cpus": max(0.0, after.host.busy - before.host.busy - workers - service) / seconds,
        "steal_cpus": (after.host.steal - before.host.steal) / seconds,
    }


def recycle(variant: Variant, count: int, site: Site) -> dict[str, Any]:
    """Drain no-ops with ten tasks a child; incomplete unless the children were in fact replaced."""
    result = drain(variant, "noop", count, site, more=variant.recycle_arguments)
    result["complete"] = result["complete"] and result["pids"] >= 0.9 * count / CHILD_TASKS
    return result


def latency(variant: Variant, size: Size, site: Site) -> dict[str, Any]:
    """Time single tasks on idle workers, then weigh the workers."""
    service, records = site.service(variant), site.records
    env = site.variant_env(variant, results=False)
    service.empty()
    records.clear()
    with site.workers(variant, env) as workers:
        site.produce(variant, env, "enqueue", "noop", WARM_TASKS)
        if not records.reached(WARM_TASKS):
            raise RuntimeError(f"the warm-up did not run: {workers.last_words()}")
        time.sleep(SETTLE_S)
        before = process_tree.host()
        probed = site.produce(variant, env, "latency", LATENCY_SAMPLES[size], LATENCY_MAX_S[size], LATENCY_GAP_S)
        after = process_tree.host()
        time.sleep(0.5)
        memory = process_tree.tree_memory(workers.root, {pid for _, pid in records.read()})
    samples = sorted(probed["us"])
    if not samples:
        raise RuntimeError(f"no probe ran: {workers.last_words()}")
    return {
        "complete": not probed["lost"],
        "samples": len(samples),
        "p50_ms": quantile(samples, 0.5) / 1e3,
        "p99_ms": quantile(samples, 0.99) / 1e3,
        "max_ms": samples[-1] / 1e3,
        # All of it, the probe and the workers too: one task at a time leaves most of the machine idle.
        "busy_cpus": (after.busy - before.busy) / (after.at - before.at),
        **memory,
        "exit_code": workers.exit_code,
        "survivors": workers.survivors,
    }


def quantile(ordered: list[float], share: float) -> float:
    """Return the sample below which ``share`` of them lie."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
