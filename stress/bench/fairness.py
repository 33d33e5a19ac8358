"""Fairness: a long task among short ones of the same name must not hold up those that its child holds behind it.

warm pool ◀── no-ops ──▶ all started: the best possible
warm pool ◀── the same no-ops and a long one among them ──▶ all no-ops started: how much later?
"""

import statistics
from typing import Any, NamedTuple

from stress.bench.report import table, verdict
from stress.bench.site import Site
from stress.bench.variants import VARIANTS, Size, Variant

NOOPS = 1000
LONG_S = 2.0
WARM_NOOPS = 2000
LATER_MS = 300.0


class Pair(NamedTuple):
    """One pool: the no-ops alone, then with a long task among them."""

    place: int
    alone_ms: float
    with_long_ms: float
    recalled: int | None
    """What the status counts after it, None if it counts none."""

    @property
    def later_ms(self) -> float:
        """How much later the last no-op started."""
        return self.with_long_ms - self.alone_ms


def fairness(site: Site, size: Size) -> tuple[dict[str, Any], str]:
    """Take how much later 1,000 no-ops are done with a task of 2 s among them, on SQLite and Redis, turn by turn."""
    repetitions = {"small": 3, "full": 15}[size]
    variants = [VARIANTS["poolrt/sqlite"], VARIANTS["poolrt/redis"]]
    found: dict[str, list[Pair]] = {variant.key: [] for variant in variants}
    for repetition in range(repetitions):
        place = NOOPS * (2 * repetition + 1) // (2 * repetitions)
        for variant in variants:
            found[variant.key].append(pair(site, variant, place))
    rows = [_row(key, pairs) for key, pairs in found.items()]
    head = ["variant", "no-ops alone, ms: median, range", "with a long task, ms: median, range",
            "later, ms: median, range", "recalled: total, fewest", "targets"]  # fmt: skip
    text = table(head, rows) + f"\n{NOOPS:,} no-ops, {repetitions} pools each; the long task takes {LONG_S:.0f} s.\n"
    return {key: [pair._asdict() for pair in pairs] for key, pairs in found.items()}, text


def pair(site: Site, variant: Variant, place: int) -> Pair:
    """Start a pool, teach it that the task is short, and take the two."""
    service, records = site.service(variant), site.records
    env = site.variant_env(variant, results=False)
    service.empty()
    records.clear()
    with site.workers(variant, env) as workers:

        def last_noop_ms(count: int, place: int) -> float:
            """Enqueue and return how long it took until the last no-op of these had started."""
            expected = records.count() + count + (place >= 0)
            began: int = site.produce(variant, env, "mixed", count, place, LONG_S)["began_ns"]
            if not records.reached(expected):
                raise RuntimeError(f"{records.count()} of {expected} tasks ran: {workers.last_words()}")
            return (max(record.at_ns for record in records.read() if not record.mark) - began) / 1e6

        last_noop_ms(WARM_NOOPS, -1)
        alone = last_noop_ms(NOOPS, -1)
        with_long = last_noop_ms(NOOPS, place)
        recalled = site.status(env)["totals"].get("recalled")
    return Pair(place, alone, with_long, recalled)


def _row(key: str, pairs: list[Pair]) -> list[str]:
    later = [pair.later_ms for pair in pairs]
    counts = [pair.recalled for pair in pairs if pair.recalled is not None]
    return [
        key,
        _spread([pair.alone_ms for pair in pairs]),
        _spread([pair.with_long_ms for pair in pairs]),
        _spread(later),
        f"{sum(counts)}, {min(counts)}" if counts else "not counted",
        verdict(f"each <= {LATER_MS:.0f} ms later", met=max(later) <= LATER_MS)
        + "; " + verdict("recalls counted", met=any(counts)),
    ]  # fmt: skip


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.0f}, {min(values):.0f}..{max(values):.0f}"
