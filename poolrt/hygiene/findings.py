"""What hygiene finds: its kinds, what is done about each, and how findings of many children are summed.

a watch in a child ── Finding ──▶ Policies ── ignore | warn | recycle | fail
                          └──▶ supervisor, steward, broker: LeakTable, a row for each (kind, task, what)
"""

from __future__ import annotations

import enum
import fnmatch
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from poolrt.errors import ConfigurationError


class LeakKind(enum.StrEnum):
    """What a task can leave behind; one sentence each."""

    CONNECTIONS = "connections"
    """Sockets to a peer that were never used again."""
    CHECKED_OUT = "checked-out"
    """Connections that the task took out of a pool and did not give back."""
    TRANSACTIONS = "transactions"
    """Database sessions that the task left in a transaction."""
    CLOSE_WAIT = "close-wait"
    """Connections whose peer has gone, and that nobody reads or closes."""
    UNCLOSED = "unclosed"
    """What only the garbage collector closed."""
    FILES = "files"
    """Open files, pipes and other descriptors."""
    THREADS = "threads"
    """Threads that the task started and that still run."""
    PROCESSES = "processes"
    """Processes that the task started and that still run."""
    TEMP_FILES = "temp-files"
    """Files left in the child's TMPDIR."""
    MEMORY = "memory"
    """Memory that stays in use from run to run."""
    STATE = "state"
    """Something of the process that the task changed: its directory, umask, locale, environment and the like."""


class Action(enum.StrEnum):
    """What is done about a finding; each does what those before it do."""

    IGNORE = "ignore"
    """Nothing, not even looking where that saves something."""
    WARN = "warn"
    """It is reported."""
    RECYCLE = "recycle"
    """The child is replaced after the task."""
    FAIL = "fail"
    """The run that was caught fails, as LeakFound."""


DEFAULTS: Final[Mapping[LeakKind, Action]] = {
    LeakKind.CONNECTIONS: Action.RECYCLE,
    LeakKind.CHECKED_OUT: Action.RECYCLE,
    LeakKind.TRANSACTIONS: Action.WARN,
    LeakKind.CLOSE_WAIT: Action.WARN,
    LeakKind.UNCLOSED: Action.WARN,
    LeakKind.FILES: Action.RECYCLE,
    LeakKind.THREADS: Action.RECYCLE,
    LeakKind.PROCESSES: Action.RECYCLE,
    LeakKind.TEMP_FILES: Action.WARN,
    LeakKind.MEMORY: Action.WARN,
    LeakKind.STATE: Action.WARN,
}
"""A transaction is rolled back, and changed state is restored, under any action but ``ignore``."""


class Finding(msgspec.Struct, frozen=True, array_like=True):
    """Something that a task left behind, since the last finding of the same kind, task and what in this child."""

    kind: LeakKind
    task: str
    what: str
    """The peer, path, thread, variable, … ; what most have in common."""
    count: int
    """How many were left; bytes for memory."""
    runs: int
    """In how many runs of the task: those that left some, and those beside them that did not."""
    reason: str
    """One line for the operator: what, how many, how often."""
    stack: str = ""
    """Where it was opened, where that is cheap to know: lines of ``file:line in function``, the innermost first."""

    @property
    def key(self) -> tuple[LeakKind, str, str]:
        """What findings are summed by."""
        return self.kind, self.task, self.what


class Rest(msgspec.Struct, frozen=True, array_like=True):
    """What a child that leaves has not told of one task: it counts where the same is known, and is no finding.

    Without it the rates would be those of the children in which enough was left.
    """

    kinds: tuple[LeakKind, ...]
    task: str
    runs: int
    """Of the task in this child, each of which would have been seen to leave something of these kinds."""
    since: list[tuple[LeakKind, str, int, int]]
    """Kind, what, count and runs since its last finding (or the child's start) of what was told or seen there."""

    def of(self, kind: LeakKind, what: str) -> tuple[int, int]:
        """The count and the runs that a row of this task is to get."""
        known = ((count, runs) for each, name, count, runs in self.since if (each, name) == (kind, what))
        return next(known, (0, self.runs if kind in self.kinds else 0))


class Policies:
    """What to do about each finding.

    Args:
        text: the node's, ``"threads=warn,memory=recycle"`` or one action for all kinds (``"warn"``).
        allowed: patterns that are no leak, ``"connections:db.example:*,threads:ThreadPoolExecutor-*"``: a kind (or
            ``*``), a colon, and a shell pattern for ``what``.
    """

    def __init__(self, text: str = "", allowed: str = "") -> None:
        self._actions = {**DEFAULTS, **parse_policies(text)}
        self._allowed = parse_allowed(allowed)
        self._of_task: dict[str, dict[LeakKind, Action]] = {}

    def learn(self, task: str, text: str) -> None:
        """The task's own policies, which go before the node's."""
        if text:
            self._of_task[task] = parse_policies(text)

    def action(self, finding: Finding) -> Action:
        """What to do about it."""
        if any(
            kind in ("*", finding.kind) and (finding.what == pattern or fnmatch.fnmatchcase(finding.what, pattern))
            for kind, pattern in self._allowed
        ):
            return Action.IGNORE
        own = self._of_task.get(finding.task)
        return (own and own.get(finding.kind)) or self._actions[finding.kind]

    def watches(self, kind: LeakKind) -> bool:
        """Whether anything may come of a finding of this kind."""
        return self._actions[kind] is not Action.IGNORE or any(
            own.get(kind, Action.IGNORE) is not Action.IGNORE for own in self._of_task.values()
        )

    def fails(self, task: str) -> frozenset[LeakKind]:
        """The kinds of which a finding fails the run of this task that was caught."""
        actions = self._actions | self._of_task.get(task, {})
        return frozenset(kind for kind, action in actions.items() if action is Action.FAIL)

    @property
    def may_fail(self) -> bool:
        """Whether any finding may make a run fail."""
        policies = (self._actions, *self._of_task.values())
        return any(Action.FAIL in each.values() for each in policies)


def parse_policies(text: str) -> dict[LeakKind, Action]:
    """The policies in ``"threads=warn,memory=recycle"``; one word is for all that are not named, wherever it stands.

    Raises:
        ConfigurationError: no such kind, or no such action.
    """
    named: dict[LeakKind, Action] = {}
    of_all: dict[LeakKind, Action] = {}
    for part in _parts(text):
        name, equals, action = (word.strip() for word in part.partition("="))
        try:
            if equals:
                named[LeakKind(name)] = Action(action)
            else:
                of_all = dict.fromkeys(LeakKind, Action(name))
        except ValueError:
            raise ConfigurationError(
                f"{part!r} is no leak policy: write KIND=ACTION, with a kind of {', '.join(LeakKind)} and an action of "
                f"{', '.join(Action)}"
            ) from None
    return of_all | named


def parse_allowed(text: str) -> list[tuple[str, str]]:
    """Pairs of a kind, or ``*``, and a pattern for what was left; raises ConfigurationError."""
    pairs = []
    for part in _parts(text):
        kind, colon, pattern = (word.strip() for word in part.partition(":"))
        if not colon or not pattern or kind not in ("*", *LeakKind):
            raise ConfigurationError(
                f"{part!r} is no allowed leak: write KIND:PATTERN, with a kind of *, {', '.join(LeakKind)}"
            )
        pairs.append((kind, pattern))
    return pairs


def _parts(text: str) -> list[str]:
    """What stands between commas."""
    return [part for part in map(str.strip, text.split(",")) if part]


MOST_TEXT: Final = 500
"""Characters of a task's name, of what was left and of a reason that are kept."""
MOST_STACK: Final = 2000
"""Characters of a stack that are kept."""
MOST_REST: Final = 20
"""Different things that a child that leaves tells of one task."""
MOST_COUNT: Final = 1 << 53
"""What a count stops at: a broker's script counts in doubles."""


def fitting_rest(rest: Rest) -> Rest:
    """The same, with the texts cut as those of findings are, and of many things those left most."""
    most = sorted(rest.since, key=lambda each: -each[2])[:MOST_REST]
    since = [(kind, what[:MOST_TEXT], count, runs) for kind, what, count, runs in most]
    return Rest(rest.kinds, rest.task[:MOST_TEXT], rest.runs, since)


def fitting(finding: Finding) -> Finding:
    """The finding with its texts cut to what is kept of them: a name may be a whole path, a stack deep."""
    task, what, reason = finding.task[:MOST_TEXT], finding.what[:MOST_TEXT], finding.reason[:MOST_TEXT]
    count, runs = (min(max(number, 0), MOST_COUNT) for number in (finding.count, finding.runs))
    return Finding(finding.kind, task, what, count, runs, reason, finding.stack[:MOST_STACK])


class LeakRow(msgspec.Struct, frozen=True, array_like=True):
    """What is known of one kind of thing that one task leaves, summed over children, and over nodes in the broker."""

    kind: LeakKind
    task: str
    what: str
    count: int
    runs: int
    first_seen: float
    """Wall time."""
    last_seen: float
    reason: str
    """Of the last finding."""
    stack: str = ""

    @property
    def key(self) -> tuple[LeakKind, str, str]:
        """What rows are summed by."""
        return self.kind, self.task, self.what

    @property
    def rate(self) -> float:
        """How many things are left in 100 runs: of a task that leaves a pipe (two descriptors) at each run, 200."""
        return 100 * self.count / self.runs if self.runs else 0.0

    def as_object(self) -> dict[str, Any]:
        """The row as scripts read it, and as ``from_object`` does."""
        return {**msgspec.structs.asdict(self), "kind": str(self.kind), "per_100_runs": round(self.rate, 3)}

    @classmethod
    def from_object(cls, told: Mapping[str, Any]) -> LeakRow:
        """The row of an object; raises ValueError for a kind that is unknown here, KeyError where a part is missing."""
        fields = {name: told[name] for name in cls.__struct_fields__}
        return cls(**{**fields, "kind": LeakKind(told["kind"])})

    def with_more(self, other: LeakRow) -> LeakRow:
        """The sum of two rows with the same key."""
        newer = other if other.last_seen >= self.last_seen else self
        return LeakRow(
            *self.key, min(self.count + other.count, MOST_COUNT), min(self.runs + other.runs, MOST_COUNT),
            min(self.first_seen, other.first_seen), newer.last_seen, newer.reason,
            newer.stack or self.stack or other.stack,
        )  # fmt: skip


def row_of(finding: Finding, at: float) -> LeakRow:
    """The row of one finding, seen at ``at`` (wall time)."""
    return LeakRow(
        finding.kind, finding.task, finding.what, finding.count, finding.runs, at, at, finding.reason, finding.stack
    )


class LeakTable:
    """Rows summed by kind, task and what; those added to last, at most ``MOST_ROWS``."""

    MOST_ROWS: Final = 500

    def __init__(self, rows: Iterable[LeakRow] = ()) -> None:
        self._rows: dict[tuple[LeakKind, str, str], LeakRow] = {}
        for row in rows:
            self.add(row)

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, row: LeakRow) -> LeakRow | None:
        """Count it in; beyond ``MOST_ROWS`` the row that was not added to for longest goes. What was there before."""
        known = self._rows.pop(row.key, None)
        self._rows[row.key] = row if known is None else known.with_more(row)
        if len(self._rows) > self.MOST_ROWS:
            del self._rows[next(iter(self._rows))]
        return known

    def of_task(self, task: str) -> list[LeakRow]:
        """The rows of one task."""
        return [row for row in self._rows.values() if row.task == task]

    def take(self) -> list[LeakRow]:
        """All rows, of which none stays; the one that was not added to for longest first."""
        taken = list(self._rows.values())
        self._rows.clear()
        return taken

    def rows(self) -> list[LeakRow]:
        """By task, the largest counts of each first."""
        return sorted(self._rows.values(), key=lambda row: (row.task, row.kind, -row.count, row.what))
