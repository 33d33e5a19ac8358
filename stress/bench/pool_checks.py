"""Checks of poolrt alone: how fast a child is replaced, what an idle pool costs, whether the supervisor grows, what
hygiene costs."""

import os
from pathlib import Path
from typing import Any

from stress.bench import environments
from stress.bench.measure import drain, quantile
from stress.bench.report import table, verdict
from stress.bench.site import Site, answer_of
from stress.bench.variants import VARIANTS, Size

# The app's imports, and the p50 in ms under which a child of it must be replaced.
REPLACEMENT = {"poolrt_app": None, "poolrt_sqlalchemy_app": 10.0, "poolrt_pandas_app": 20.0}
IDLE_CHILDREN = 64
IDLE_CPU_SHARE = 0.01
IDLE_PRIVATE_MIB = 4.0
SUPERVISOR_RSS_MIB = 30.0
FLAT_EVERY = 10_000
PROBE_S = 540.0


def _probe(site: Site, bin_folder: Path, *arguments: object) -> dict[str, Any]:
    site.sqlite.empty()
    site.records.clear()
    paths = os.pathsep.join((str(environments.PEERS), str(environments.CHECKOUT)))
    command = [str(bin_folder / "python"), "-m", "stress.bench.probe", *map(str, arguments)]
    return answer_of(command, site.env(bin_folder, PYTHONPATH=paths), PROBE_S)


def replacement(site: Site, size: Size) -> tuple[dict[str, Any], str]:
    """Kill idle children of apps with light and heavy imports; always in the environment that has those."""
    samples = {"small": 20, "full": 100}[size]
    bin_folder = environments.environment("imports")
    found, rows = {}, []
    for module, target in REPLACEMENT.items():
        ms = _probe(site, bin_folder, "replacement", module, samples)["ms"]
        found[module] = ms
        p50 = quantile(ms, 0.5)
        judged = verdict(f"p50 < {target:.0f} ms", met=p50 < target) if target else "-"
        rows.append([module, str(len(ms)), f"{p50:.1f}", f"{quantile(ms, 0.99):.1f}", f"{ms[-1]:.1f}", judged])
    return found, table(["app", "samples", "p50 ms", "p99 ms", "max ms", "target"], rows)


def idle(site: Site, size: Size) -> tuple[dict[str, Any], str]:
    """Take what 64 children cost while they do nothing."""
    seconds = {"small": 10, "full": 30}[size]
    found = _probe(site, site.bin("poolrt"), "idle", IDLE_CHILDREN, seconds)
    share, private, rss = found["tree_cpu_share"], found["child_private_mib_max"], found["supervisor_rss_mib"]
    rows = [
        ["idle children (replaced meanwhile)", f"{found['children']} ({found['replaced']})", "-"],
        [f"CPU of the whole pool over {found['seconds']:.0f} s", f"{share:.2%} of one core",
         verdict(f"< {IDLE_CPU_SHARE:.0%}", met=share < IDLE_CPU_SHARE)],
        ["of which the children", f"{found['children_cpu_share']:.2%}", "-"],
        ["private memory of a child: mean, largest", f"{found['child_private_mib_mean']:.2f}, {private:.2f} MiB",
         verdict(f"< {IDLE_PRIVATE_MIB:.0f} MiB", met=private < IDLE_PRIVATE_MIB)],
        ["supervisor RSS", f"{rss:.1f} MiB", verdict(f"< {SUPERVISOR_RSS_MIB:.0f} MiB", met=rss < SUPERVISOR_RSS_MIB)],
    ]  # fmt: skip
    return found, table(["what", "measured", "target"], rows)


def flat(site: Site, size: Size) -> tuple[dict[str, Any], str]:
    """Take the supervisor's memory over many tasks."""
    tasks = {"small": 100_000, "full": 500_000}[size]
    found = _probe(site, site.bin("poolrt"), "flat", tasks, FLAT_EVERY)
    rows = [[f"{done:,}", f"{rss:.2f}"] for done, rss in found["rss_mib"]]
    grown = found["rss_mib"][-1][1] - found["rss_mib"][0][1]
    closing = f"Grown by {grown:.2f} MiB, start to end; from the first {FLAT_EVERY:,} tasks on by "
    closing += f"{found['rss_mib'][-1][1] - found['rss_mib'][1][1]:.2f} MiB.\n"
    return found, table(["tasks done", "supervisor RSS MiB"], rows) + "\n" + closing


HYGIENE_OFF = ("--leak-policy", "ignore")
HYGIENE_ON = (
    "--leak-policy", "recycle", "--max-memory-per-child", "4GiB", "--memory-limit", "8GiB", "--pool-memory", "16GiB",
    "--time-limit", "1h", "--soft-time-limit", "50m",
)  # fmt: skip
HYGIENE_US = 15.0
HYGIENE_SHARE = 0.05


def hygiene(site: Site, size: Size) -> tuple[dict[str, Any], str]:
    """Take what limits and audits cost no-ops and tasks of 1 ms: all of them on against all off, turn by turn."""
    repetitions = {"small": 3, "full": 9}[size]
    variant, found, rows, closing = VARIANTS["poolrt/sqlite"], {}, [], ""
    for task, count in (("noop", variant.tasks[size]), ("millisecond", variant.tasks[size] // 20)):
        takes: dict[str, list[dict[str, Any]]] = {"off": [], "on": []}
        for _ in range(repetitions):
            for name, flags in (("off", HYGIENE_OFF), ("on", HYGIENE_ON)):
                takes[name].append(drain(variant, task, count, site, more=flags))
        for name, taken in takes.items():
            cpu, rate = (sorted(take[key] for take in taken) for key in ("worker_cpu_us", "mid_per_s"))
            spread = f"{quantile(cpu, 0.5):.1f} ({cpu[0]:.1f}..{cpu[-1]:.1f})"
            rows.append([task, name, spread, f"{quantile(rate, 0.5):,.0f}"])
        found[task] = takes
        closing += _hygiene_verdict(task, takes)
    text = table(["task", "hygiene", "worker CPU us a task: median (range)", "tasks/s: median"], rows)
    return found, text + "\n" + closing


def _hygiene_verdict(task: str, takes: dict[str, list[dict[str, Any]]]) -> str:
    """What on costs more than off, by pairs of neighbours."""
    pairs = sorted(on["worker_cpu_us"] - off["worker_cpu_us"] for off, on in zip(*takes.values(), strict=True))
    cost, base = quantile(pairs, 0.5), quantile(sorted(take["worker_cpu_us"] for take in takes["off"]), 0.5)
    said = f"{task}: on costs {cost:.1f} us of CPU a task ({pairs[0]:.1f}..{pairs[-1]:.1f} over {len(pairs)} pairs), "
    if task == "noop":
        return said + verdict(f"< {HYGIENE_US:.0f} us", met=cost < HYGIENE_US) + "\n"
    return said + f"{cost / base:.1%}, " + verdict(f"< {HYGIENE_SHARE:.0%}", met=cost < HYGIENE_SHARE * base) + "\n"


CHECKS = {"replacement": replacement, "idle": idle, "flat": flat, "hygiene": hygiene}
