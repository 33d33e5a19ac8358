"""The command line: ``python -m stress.bench --help``."""

import argparse
import json
import os
import platform
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stress.bench import backlog, environments, fairness, measure, pool_checks, report
from stress.bench.site import Site
from stress.bench.variants import DEFAULT_MEASURES, DEFAULT_SET, MEASURES, SETS, VARIANTS, Variant, chosen

SHOWN = (
    "mid_per_s", "per_s", "tasks_per_s", "cpu_us", "other_cpus", "cold_start_ms", "p50_ms", "p99_ms", "pids",
    "complete", "error",
)  # fmt: skip
CHECKS = {**pool_checks.CHECKS, "fairness": fairness.fairness, "backlog": backlog.backlog}


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m stress.bench", description="Measure poolrt next to its peers.")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="measure variants, interleaved, and print the report")
    run.add_argument(
        "variants", nargs="*",
        help=f"variants, peers, sets ({', '.join(SETS)}) or 'all'; default {DEFAULT_SET}",
    )  # fmt: skip
    run.add_argument("--reps", type=int, help="repetitions: by default 1 if small, 3 if full")
    run.add_argument("--only", help=f"of {','.join(MEASURES)}; default: all but add, and if small but latency_6s")
    for name, check in CHECKS.items():
        commands.add_parser(name, help=(check.__doc__ or "").splitlines()[0])
    for name in ("run", *CHECKS):
        _common(commands.choices[name])
    commands.add_parser("report", help="print the report of a run's file").add_argument("file", type=Path)
    commands.add_parser("list", help="list the variants, and the sets they are in")
    return parser.parse_args()


def _common(command: argparse.ArgumentParser) -> None:
    size = command.add_mutually_exclusive_group()
    size.add_argument("--small", dest="size", action="store_const", const="small", help="minutes at most (default)")
    size.add_argument("--full", dest="size", action="store_const", const="full", help="enough to quote")
    command.add_argument("--out", type=Path, help="JSON file, overwritten; default a new one under $BENCH_ROOT/out")
    command.add_argument(
        "--poolrt-python", type=Path, default=Path(sys.executable),
        help="interpreter that has poolrt installed (default: this one; without poolrt, an environment is made)",
    )  # fmt: skip
    command.set_defaults(size="small")


def meta(options: argparse.Namespace) -> dict[str, Any]:
    """Return what a reader must know of where a run was taken."""
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    return {
        "command": options.command,
        "size": options.size,
        "taken": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{os.cpu_count()} CPUs,{cpu.partition(':')[2]}, Linux {platform.release()}",
        "python": platform.python_version(),
        "run folder": str(environments.ROOT),
    }


def save(data: dict[str, Any], out: Path) -> None:
    """Write the file whole or not at all."""
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(out.name + ".part")
    part.write_text(json.dumps(data, indent=1))
    part.replace(out)


def run(options: argparse.Namespace, out: Path) -> str:
    """Measure, variant after variant within each measure and repetition, so that a ratio's two sides are neighbours;
    every other repetition in the reverse order."""
    variants = chosen(options.variants)
    measures = options.only.split(",") if options.only else DEFAULT_MEASURES[options.size]
    if unknown := set(measures) - set(MEASURES):
        raise ValueError(f"no such measure: {', '.join(sorted(unknown))}")
    data: dict[str, Any] = {"meta": meta(options), "takes": []}
    with Site(options.poolrt_python) as site:
        for rep in range(options.reps or {"small": 1, "full": 3}[options.size]):
            for name in measures:
                for variant in variants[:: -1 if rep % 2 else 1]:
                    if name in variant.measures:
                        data["takes"].append(take(variant, name, rep, options, site))
                        if site.redis:
                            data["meta"]["redis"] = site.redis.version
                        save(data, out)
    return report.render(data)


def take(variant: Variant, name: str, rep: int, options: argparse.Namespace, site: Site) -> dict[str, Any]:
    """Take one measure; a peer that fails is written down and does not end the run."""
    began = time.monotonic()
    try:
        taken = measure.take(variant, name, options.size, site)
    except Exception as error:
        taken = {"complete": False, "error": f"{type(error).__name__}: {error}"}
    brief = {key: value for key, value in taken.items() if key in SHOWN}
    shown = {key: round(value, 2) if isinstance(value, float) else value for key, value in brief.items()}
    print(f"[{time.monotonic() - began:5.1f} s] {rep} {variant.key} {name}: {shown}", file=sys.stderr, flush=True)
    return {"variant": variant.key, "measure": name, "rep": rep, **taken}


def check(options: argparse.Namespace, out: Path) -> str:
    """Run one of the checks of poolrt alone."""
    with Site(options.poolrt_python) as site:
        found, text = CHECKS[options.command](site, options.size)
    save({"meta": meta(options), "found": found}, out)
    return text


def main() -> None:
    """Do what the command line says."""
    options = arguments()
    if options.command == "list":
        sys.stdout.writelines(f"{variant.key:22} {variant.semantics}\n" for variant in VARIANTS.values())
        sys.stdout.writelines(f"set {name:18} {' '.join(keys)}\n" for name, keys in SETS.items())
        return
    if options.command == "report":
        print(report.render(json.loads(options.file.read_text())))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that services and workers are stopped on the way out
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    out = options.out or environments.ROOT / "out" / f"{options.command}-{stamp}.json"
    try:
        print(run(options, out) if options.command == "run" else check(options, out))
    except (ValueError, RuntimeError) as problem:
        sys.exit(f"stress.bench: {problem}")
    print(f"written to {out}", file=sys.stderr)


if __name__ == "__main__":
    main()
