"""Workloads whose memory only looks like a leak: garbage that the collector has not met yet."""

from __future__ import annotations

from typing import Any

from stress.leaks.innocent import Run, innocent
from stress.leaks.site import Site


def tree(nodes: int) -> list[Any]:
    """Nodes that know their parents: a cycle each."""
    made: list[list[Any]] = [[None]]
    for _ in range(nodes):
        made.append([made[-1]])
        made[-2].append(made[-1])
    return made


@innocent
def tree_of_10000_nodes(site: Site) -> Run:
    """The collector runs while it is built, and is in no hurry after the run."""
    return lambda: tree(10_000) and None


@innocent
def tree_of_each_run_kept_until_the_next(site: Site) -> Run:
    """What a sample made old, the next run leaves to the collector."""
    kept: list[Any] = [None]

    def run() -> None:
        kept[0] = tree(site.rng.randint(200, 2000))

    return run


@innocent
def tree_of_each_run_beside_many_objects(site: Site) -> Run:
    """The collector waits until a quarter of all is new."""
    many = [[number] for number in range(1_000_000)]
    kept: list[Any] = [None, many]

    def run() -> None:
        kept[0] = tree(site.rng.randint(200, 2000))

    return run


@innocent
def cache_of_1000_answers(site: Site) -> Run:
    """100 small dicts each."""
    known: dict[int, list[dict[str, int]]] = {}

    def run() -> None:
        known.setdefault(site.rng.randrange(1000), [{"id": number} for number in range(100)])

    return run
