"""The peers and their variants: what is launched, and how many tasks each measure takes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

MEASURES = ("noop", "add", "add_results", "recycle10", "latency")
DEFAULT_MEASURES = ("noop", "add_results", "recycle10", "latency")
DEFAULT_VARIANTS = ("poolrt/sqlite", "huey/sqlite_nosync", "celery/default")

Size = Literal["small", "full"]
Tasks = Mapping[Size, int]
LATENCY_SAMPLES: Tasks = {"small": 200, "full": 500}


@dataclass(frozen=True)
class Variant:
    """One way to run one peer with two worker processes."""

    peer: str
    name: str
    module: str
    command: tuple[str, ...]
    service: Literal["redis", "sqlite"]
    tasks: Tasks
    semantics: str
    options: Mapping[str, Any] = field(default_factory=dict)
    recycle_arguments: tuple[str, ...] = ()  # what means "ten tasks a child"; empty: the peer cannot
    recycle_tasks: Tasks = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Its name on the command line and in reports."""
        return f"{self.peer}/{self.name}"

    def measures(self) -> tuple[str, ...]:
        """Return the measures it can take part in."""
        return tuple(name for name in MEASURES if name != "recycle10" or self.recycle_arguments)


TEN_A_CHILD = ("--max-tasks-per-child", "10")
CELERY = ("celery", "-A", "celery_app", "worker", "-c", "2")
HUEY = ("huey_consumer", "huey_app.huey", "-k", "process", "-w", "2", "-q")
POOLRT = ("poolrt", "serve", "poolrt_app:app", "--concurrency", "2", "--node-name", "bench")


def _celery(name: str, semantics: str, **options: Any) -> Variant:
    return Variant(
        "celery", name, "celery_app", CELERY, "redis", {"small": 1500, "full": 4000}, semantics, options,
        TEN_A_CHILD, {"small": 200, "full": 400},
    )  # fmt: skip


def _huey(name: str, semantics: str, **options: Any) -> Variant:
    # No recycling: at its default health check of 10 s, 400 tasks took huey over 3 minutes.
    return Variant("huey", name, "huey_app", HUEY, "sqlite", {"small": 15000, "full": 40000}, semantics, options)


def _poolrt(name: Literal["sqlite", "redis"], semantics: str) -> Variant:
    return Variant(
        "poolrt", name, "poolrt_app", POOLRT, name, {"small": 30000, "full": 100000}, semantics, {"broker": name},
        TEN_A_CHILD, {"small": 2000, "full": 6000},
    )  # fmt: skip


VARIANTS = {
    variant.key: variant
    for variant in (
        _poolrt("sqlite", "at-least-once (lease, fence); WAL, synchronous=NORMAL"),
        _poolrt("redis", "at-least-once (lease, fence)"),
        _huey("sqlite_nosync", "at-most-once (DELETE on take); synchronous=OFF", fsync=False),
        _huey("sqlite", "at-most-once (DELETE on take); WAL, synchronous=FULL"),
        _celery("default", "at-most-once (acked on receipt)"),
        _celery("acks_late", "at-least-once (visibility timeout 1 h)", task_acks_late=True),
    )
}


def chosen(names: list[str]) -> list[Variant]:
    """Return the variants that ``names`` (a variant, a peer, or ``all``) ask for, each once, in the table's order."""
    known = VARIANTS.keys() | {variant.peer for variant in VARIANTS.values()} | {"all"}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"no such peer or variant: {', '.join(unknown)}")
    wanted = set(names or DEFAULT_VARIANTS)
    return [variant for variant in VARIANTS.values() if wanted & {variant.key, variant.peer, "all"}]
