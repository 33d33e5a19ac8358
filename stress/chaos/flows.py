"""The workflows of a storm: what is sent, which parts each has, and what each part must come to.

    chain   chain-00012:0, …, chain-00012:8, chain-00012    kinds step (9 times) and chain; a value carried through ten
    chord   chord-00013:g.0, …, chord-00013                 kinds member (30 times) and chord
    throng  throng-00014:g.0, …, throng-00014               the same, with 1,000 members

Kind and number of a part stand in its id; its number is that of its workflow times ``PLACES``, and its place in it.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from poolrt import App, chain, chord, group
from stress.chaos import faults
from stress.chaos.faults import Call

STEPS: Final = 10
MEMBERS: Final = {"chord": 30, "throng": 1000}
ROOTS: Final = ("chain", *MEMBERS)
"""Kinds of what a workflow is enqueued as, and of the part with its result."""
KINDS: Final = ("step", "member", *ROOTS)
PLACES: Final = 10_000
LASTS: Final = {"step": 0.04, "chain": 0.04, "member": 0.004, "chord": 0.4, "throng": 0.4}
"""Seconds that an attempt of a part takes: so long that faults meet it."""


class Flows(NamedTuple):
    """How many workflows of each kind a storm has."""

    chains: int
    chords: int
    throngs: int


def calls(seed: int, amounts: Flows, first: int, seconds: float) -> list[Call]:
    """Workflows over ``seconds``, numbered from ``first``."""
    draw = random.Random(f"flows {seed}")
    kinds = [kind for kind, amount in zip(ROOTS, amounts, strict=True) for _ in range(amount)]
    return [
        Call(draw.uniform(0, seconds), first + place, kind, (), 0.0, 0, "default", 0.0)
        for place, kind in enumerate(kinds)
    ]


def enqueue(app: App, call: Call) -> Any:
    """Enqueue a workflow, or what is missing of it; its result."""
    number, tasks = call.number, app.tasks
    if call.kind == "chain":
        steps = [tasks["step"].s(number, place) for place in range(1, STEPS)]
        return chain(tasks["step"].s(number, number, 0), *steps).apply_async(task_id=call.id)
    members = [tasks["member"].s(number, place) for place in range(MEMBERS[call.kind])]
    body = tasks["body"].s(number)
    canvas: Any = group(members) | body if number % 2 else chord(members, body)
    return canvas.apply_async(task_id=call.id)


def root_of(task_id: str) -> str:
    """The id of the workflow that this is a part of; of another task its own."""
    return task_id.partition(":")[0]


def parts(task_id: str) -> Iterable[str]:
    """The ids of all parts of the workflow with this id, but for the one that has it."""
    kind = task_id.partition("-")[0]
    if kind == "chain":
        return [f"{task_id}:{place}" for place in range(STEPS - 1)]
    return [f"{task_id}:g.{place}" for place in range(MEMBERS.get(kind, 0))]


def kind_of(task_id: str) -> tuple[str, int]:
    """Its kind, and its number."""
    root, _, part = task_id.partition(":")
    kind, _, number = root.rpartition("-")
    if kind not in ROOTS:
        return kind, int(number)
    if not part:
        return kind, int(number) * PLACES + (STEPS - 1 if kind == "chain" else 0)
    return ("step" if kind == "chain" else "member"), int(number) * PLACES + int(part.removeprefix("g."))


def attempts_of(kind: str, number: int) -> int:
    """The attempt with which a part, or any task, ends: every fifth step and every seventh member is retried once."""
    workflow, place = divmod(number, PLACES)
    if kind in ("step", "chain"):
        return 2 if (workflow + place) % 5 == 0 else 1
    if kind == "member":
        return 2 if place % 7 == 3 else 1
    return 1 if kind in MEMBERS else faults.attempts_of(kind, number)


def value_of(kind: str, number: int) -> int:
    """What a part, or any task, returns."""
    workflow, place = divmod(number, PLACES)
    if kind in ("step", "chain"):
        value = workflow
        for each in range(place + 1):
            value = stepped(value, each)
        return value
    if kind == "member":
        return member_of(workflow, place)
    if kind in MEMBERS:
        return summed([member_of(workflow, each) for each in range(MEMBERS[kind])])
    return faults.value_of(number)


def stepped(value: int, place: int) -> int:
    """What a step makes of the value of the one before it; another order of the steps has another end."""
    return value * 3 + place


def member_of(workflow: int, place: int) -> int:
    """What the member at this place returns."""
    return workflow * 1000 + place * place


def summed(results: list[int]) -> int:
    """What a body makes of all results: a sum of them, in their order."""
    return zlib.crc32(repr(results).encode())
