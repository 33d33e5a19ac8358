"""Which tasks a command means: by id, by name, queue, root and state; and how a broker is searched for them."""

from __future__ import annotations

import difflib
import heapq
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import click

from poolrt.cli.options import SectionedOption
from poolrt.states import FINAL, TaskState

if TYPE_CHECKING:
    from poolrt.brokers.base import Broker
    from poolrt.cli.task_facts import Task

F = TypeVar("F", bound=Callable[..., object])

SEARCHED: Final = 10_000
"""So many of the newest records of each state are searched."""
_STEP: Final = 1000

LIVE: Final = "live"
ALL: Final = "all"
_RANKS: Final = {"started": 0, "reserved": 1, "queued": 2, "delayed": 3}
"""What runs comes first in a list, then what runs next; states that tasks give themselves are running ones."""


class Choice(NamedTuple):
    """What a task must be to be meant; what is empty does not matter."""

    task: str = ""
    """A glob that its name matches."""
    queue: str = ""
    root: str = ""
    """The id of the first task of its line, or its own."""

    def __bool__(self) -> bool:
        return any(self)

    def __str__(self) -> str:
        """In words, for questions: ``mail.* of queue slow``."""
        parts = [self.task or "every task", f"of queue {self.queue}" if self.queue else ""]
        return " ".join([*filter(None, parts), *([f"of root {self.root}"] if self.root else [])])

    def admits(self, task: Task) -> bool:
        """Whether the task is meant. One whose message is not kept has no queue and no root."""
        message = task.message
        return (
            (not self.task or fnmatchcase(task.name, self.task))
            and (not self.queue or (message is not None and message.queue == self.queue))
            and (not self.root or self.root in {task.found.id, message.root if message else ""})
        )


def choice_options(*names: str) -> Callable[[F], F]:
    """Add ``--task``, ``--queue`` and ``--root``, or some of them."""
    helps = {
        "task": ("GLOB", "Only tasks of this name; * stands for anything, as in 'mail.*'."),
        "queue": ("QUEUE", "Only tasks of this queue."),
        "root": ("ID", "Only what began with this task: it, its follow-ups, and theirs."),
    }

    def decorate(function: F) -> F:
        for name in reversed(names):
            metavar, text = helps[name]
            function = click.option(
                f"--{name}", default="", cls=SectionedOption, section="Choice", metavar=metavar, help=text
            )(function)
        return function

    return decorate


def waiting_or_running(broker: Broker, choice: Choice) -> Iterator[Task]:
    """The tasks that have not ended, each once, in no certain order."""
    from poolrt.cli.task_facts import Task

    seen: set[str] = set()
    after = ""
    while True:
        found, after = broker.messages(after)
        for each in found:
            if each.id not in seen and choice.admits(task := Task.of(each)):
                seen.add(each.id)
                yield task
        if not after:
            return


def ended(broker: Broker, state: TaskState, choice: Choice) -> Iterator[Task]:
    """The records of a final state, the newest first, each once, also while they are deleted."""
    from poolrt.cli.task_facts import Task

    seen: set[str] = set()
    window = _STEP
    while True:
        found = broker.ended(state, window)
        new = [each for each in found if each.id not in seen]
        yield from filter(choice.admits, map(Task.of, new))
        seen.update(each.id for each in new)
        if len(found) < window:
            return
        if not new:
            window *= 2


def states_of(words: Iterable[str]) -> list[str]:
    """The states in ``--state`` words, commas and ``all`` resolved. Raises click.BadParameter for what looks misspelt.

    A task may give itself a state of any name, so that a word near none of ours is let pass.
    """
    names: dict[str, Any] = {}
    known = [LIVE, ALL, *TaskState]
    for word in filter(None, (part.strip() for part in ",".join(words).lower().split(","))):
        near = difflib.get_close_matches(word, known, n=1, cutoff=0.75)
        if near and word not in known:
            raise click.BadParameter(f"no state {word!r} (did you mean {near[0]}?)")
        names.update(dict.fromkeys([LIVE, *sorted(FINAL)] if word == ALL else [word]))
    return list(names) or [LIVE]


def listed(broker: Broker, states: list[str], choice: Choice, limit: int) -> list[Task]:
    """The tasks in these states: what runs, what waits, the oldest first; then what ended, the newest first."""
    found: list[Task] = []
    alive = [state for state in states if state not in FINAL]
    if alive:
        tasks = waiting_or_running(broker, choice)
        admitted = (task for task in tasks if LIVE in alive or {task.state, str(task.found.state)} & {*alive})
        found += heapq.nsmallest(limit, admitted, key=_order)
    for state in [each for each in TaskState if each in FINAL and each in states]:
        found += islice(_newest(broker, state, choice, limit), limit)
    found.sort(key=lambda task: -task.since if task.found.state in FINAL else -float("inf"))
    return found[:limit]


def _newest(broker: Broker, state: TaskState, choice: Choice, limit: int) -> Iterable[Task]:
    from poolrt.cli.task_facts import Task

    if choice:
        return (task for task in islice(ended(broker, state, Choice()), SEARCHED) if choice.admits(task))
    return map(Task.of, broker.ended(state, limit))


def _order(task: Task) -> tuple[int, float, float]:
    message = task.message
    rank = _RANKS.get(task.state, 0)
    when = (message.eta or 0.0) if message and rank == _RANKS["delayed"] else task.since
    return rank, -(message.priority if message else 0), when
