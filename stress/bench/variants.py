"""The peers and their variants: what is launched, which measures it takes part in, and how many tasks those take."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Size = Literal["small", "full"]
Tasks = Mapping[Size, int]

DRAINS = ("noop", "add", "add_results")
WORKFLOWS: Mapping[str, Tasks] = {"chord": {"small": 1000, "full": 10_000}, "chain": {"small": 100, "full": 1000}}
MEASURES = (*DRAINS, "recycle10", "enqueue", "enqueue_many", *WORKFLOWS, "latency", "latency_6s")
DEFAULT_MEASURES: Mapping[Size, tuple[str, ...]] = {
    "small": ("noop", "add_results", "recycle10", "enqueue", "enqueue_many", *WORKFLOWS, "latency"),
    "full": ("noop", "add_results", "recycle10", "enqueue", "enqueue_many", *WORKFLOWS, "latency", "latency_6s"),
}
ENQUEUED: Tasks = {"small": 3000, "full": 10_000}
ENQUEUED_MANY: Tasks = {"small": 30_000, "full": 200_000}


@dataclass(frozen=True)
class Probe:
    """How single tasks are timed on idle workers."""

    samples: Tasks
    gap_s: float
    max_s: Mapping[Size, float]


PROBES = {
    "latency": Probe({"small": 200, "full": 500}, 0.005, {"small": 8.0, "full": 20.0}),
    "latency_6s": Probe({"small": 4, "full": 12}, 6.0, {"small": 60.0, "full": 120.0}),
}


@dataclass(frozen=True)
class Variant:
    """One way to run one peer with two worker processes."""

    peer: str
    name: str
    module: str
    command: tuple[str, ...]
    service: Literal["redis", "sqlite"]
    semantics: str
    measures: tuple[str, ...]
    tasks: Tasks = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    recycle_arguments: tuple[str, ...] = ()  # what means "ten tasks a child"
    recycle_tasks: Tasks = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Its name on the command line and in reports."""
        return f"{self.peer}/{self.name}"


TEN_A_CHILD = ("--max-tasks-per-child", "10")
CELERY = ("celery", "-A", "celery_app", "worker", "-c", "2")
DRAMATIQ = ("dramatiq", "dramatiq_app", "--processes", "2", "--threads", "1")
HUEY = ("huey_consumer", "huey_app.huey", "-k", "process", "-w", "2", "-q")
TASKIQ = ("taskiq", "worker", "taskiq_app:broker", "--workers", "2", "--log-level", "WARNING")
POOLRT = ("poolrt", "serve", "poolrt_app:app", "--concurrency", "2", "--node-name", "bench")
BARE = ("python", "bare_loop.py", "2")


def _poolrt(name: Literal["sqlite", "redis"], semantics: str, tasks: Tasks) -> Variant:
    return Variant(
        "poolrt", name, "poolrt_app", POOLRT, name, semantics, MEASURES, tasks, {"broker": name},
        recycle_arguments=TEN_A_CHILD, recycle_tasks={"small": 2000, "full": 6000},
    )  # fmt: skip


def _bare() -> Variant:
    return Variant(
        "bare", "lua64", "bare_loop", BARE, "redis",
        "the ceiling: one script settles 64 and reserves 64; no rescue, no fence, no limits", ("noop",),
        {"small": 100_000, "full": 600_000},
    )  # fmt: skip


def _celery(name: str, semantics: str, **options: Any) -> Variant:
    return Variant(
        "celery", name, "celery_app", CELERY, "redis", semantics,
        (*DRAINS, "recycle10", "enqueue", *WORKFLOWS, "latency"), {"small": 1500, "full": 4000}, options,
        recycle_arguments=TEN_A_CHILD, recycle_tasks={"small": 200, "full": 400},
    )  # fmt: skip


def _dramatiq() -> Variant:
    # At its default prefetch, twice the threads, an empty fetch sleeps: 500 tasks/s.
    return Variant(
        "dramatiq", "p2t1_pf64", "dramatiq_app", DRAMATIQ, "redis", "at-least-once (heartbeat 60 s)",
        (*DRAINS, "enqueue", "latency"), {"small": 8000, "full": 30_000},
        environment={"dramatiq_queue_prefetch": "64"},
    )  # fmt: skip


def _taskiq(name: Literal["stream", "list"], semantics: str, *drains: str) -> Variant:
    # No recycling: with the stream each child leaves 90 of the 100 it has claimed to a wait of ten minutes.
    return Variant(
        "taskiq", name, "taskiq_app", TASKIQ, "redis", semantics, (*drains, "enqueue", "latency", "latency_6s"),
        {"small": 5000, "full": 20_000}, {"broker": name},
    )  # fmt: skip


def _huey(name: str, semantics: str, service: Literal["redis", "sqlite"], *measures: str, **options: Any) -> Variant:
    # No recycling: at its default health check of 10 s, 400 tasks took huey over 3 minutes.
    return Variant(
        "huey", name, "huey_app", HUEY, service, semantics, ("enqueue", "latency", *measures),
        {"small": 15_000, "full": 40_000}, {"storage": service, **options},
    )  # fmt: skip


VARIANTS = {
    variant.key: variant
    for variant in (
        _poolrt("sqlite", "at-least-once (lease, fence); WAL, synchronous=NORMAL", {"small": 30_000, "full": 100_000}),
        _poolrt("redis", "at-least-once (lease, fence)", {"small": 60_000, "full": 400_000}),
        _bare(),
        _dramatiq(),
        _taskiq("stream", "at-least-once (stream, idle 10 min), async task", *DRAINS),
        _taskiq("list", "at-most-once (BRPOP)"),
        _huey("redis", "at-most-once (BRPOP)", "redis", "latency_6s"),
        _huey("sqlite_nosync", "at-most-once (DELETE on take); synchronous=OFF", "sqlite", *DRAINS, fsync=False),
        _huey("sqlite", "at-most-once (DELETE on take); WAL, synchronous=FULL", "sqlite", *DRAINS),
        _celery("default", "at-most-once (acked on receipt)"),
        _celery("acks_late", "at-least-once (visibility timeout 1 h)", task_acks_late=True),
    )
}
SETS = {
    "embedded": ("poolrt/sqlite", "huey/sqlite_nosync", "celery/default"),
    "server": (
        "poolrt/redis", "bare/lua64", "dramatiq/p2t1_pf64", "taskiq/stream", "taskiq/list", "huey/redis",
        "celery/default",
    ),
}  # fmt: skip
DEFAULT_SET = "embedded"


def chosen(names: list[str]) -> list[Variant]:
    """Return the variants that ``names`` (a variant, a peer, a set, or ``all``) ask for, each once, in one order."""
    known = VARIANTS.keys() | {variant.peer for variant in VARIANTS.values()} | SETS.keys() | {"all"}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"no such variant, peer or set: {', '.join(unknown)}")
    names = names or [DEFAULT_SET]
    wanted = {*names, *(key for name in names for key in SETS.get(name, ()))}
    return [variant for variant in VARIANTS.values() if wanted & {variant.key, variant.peer, "all"}]
