"""Which task leaves descriptors open at each run, and how near the child is to their limit.

    after a run: task, lowest free number ──▶ DescriptorWatch ──▶ None, or a Finding that names task, peer and counts

Two rules:

1. Near the limit. More than 70 % of the limit is open, or one more run like the worst so far would reach the limit: a
   Finding whatever the pattern, so that no run of this child meets EMFILE.
2. Gross leak. Thirty runs of one task in a row, however mixed with other tasks', each left more open than they found.
   Then what these runs left is looked at once. A TCP connection that was written to since its first run is in use: a
   pool warms up, a client keeps its connections. One unused connection to each peer is keep-alive too. What else is
   still open is leaked if it comes from four fifths of the runs; if not, the task is judged again when the row has
   doubled.

By rule 2 these are leaks too: a task that opens another file at each of 30 runs and keeps them all, on purpose or not;
a pool over Unix sockets, which do not tell their use, that grows at each of 30 runs. An upper bound on them stops it.
And these are none: one connection to each of many peers; accepted connections, whose peers have a port each; those that
a thread of their client keeps writing to. Rule 1 ends them.

How the growth of a run is seen:

- The lowest free number moved up: no reading at all, and the numbers between are what is new.
- A run that opens a file, connects, and closes the file moves nothing: its connection hides above the hole. So
  descriptors are counted after at most 64 runs (sooner when few are free); and once there are more than ever, and more
  than the numbers showed, after each run for a while (1 ms of counting): until the task is known.

What only the cycle collector would close is no leak: it runs before either rule speaks.
"""

import gc
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from poolrt.posix.descriptors import NO_PEER, Descriptor, open_count

RUNS_IN_A_ROW: Final = 30
"""Runs that must each leave a descriptor: a pool that serves one task at a time has stopped growing by then."""
_SHARE_OF_RUNS: Final = 0.8
"""Of a pool whose next connection is drawn at random, half were used again after 30 runs, give or take a tenth."""
_SHARE_OF_LIMIT: Final = 0.7
_LOOK_EVERY: Final = 64
"""Runs between two counts, at most: 4 us each."""
_COUNTED_RUNS: Final = 256
"""Runs that are counted each after a hidden growth, so that a task that is one in hundreds runs again meanwhile."""
_COUNTING_SECONDS: Final = 0.001
"""What they may cost in all: 15 to 800 us each where the kernel has to list them."""
_HELD_MEANWHILE: Final = 16
"""Descriptors that a run may have had open below a hidden one, and closed."""
_CLOCK_TICKS: Final = 0.02
"""Seconds by which a connection's idle time may be short (a tick of the kernel is up to 10 ms)."""
_MOST_READ: Final = 1024
"""Descriptors looked at to name the cause near the limit: 10 ms."""


class Finding(NamedTuple):
    """What was found.

    Attributes:
        kind: as in `Descriptor`; empty where nothing can be read.
        what: the peer or path most of them have; ``host:*`` or ``directory/*`` where only that is common.
        count: how many of this kind and name are open.
        runs: how many runs of the task left them.
        reason: one line for the operator.
    """

    task: str
    kind: str
    what: str
    count: int  # type: ignore[assignment]  # hides the method of tuples: nobody counts in a Finding
    runs: int
    reason: str


class _Birth(NamedTuple):
    """A descriptor as it was seen after the run that left it; runs are numbered among those that grew."""

    task: str
    run: int
    at: float
    seen: Descriptor


class _Row:
    """Runs of one task in a row that each grew; ``first`` is the number of the first of them (see `_Birth`)."""

    __slots__ = ("first", "runs")

    def __init__(self, first: int) -> None:
        self.first = first
        self.runs = 0


class DescriptorWatch:
    """Watches one process's descriptors, from run to run.

    It is made when the process is ready for its first task: what is open then is nobody's fault.

    Invariant: ``_known`` has the numbers seen in use, and never the lowest free one. None stands for a number that no
    run is blamed for.
    Invariant: ``_left`` equals ``_pause`` exactly when the last run was counted.

    Arguments:
        limit, lowest: `posix.descriptors.limit` and `lowest_free`, now.
        scan: `posix.descriptors.scan`.
        clock: monotonic, in seconds.
        count: `posix.descriptors.open_count`.
        collect: closes what only the cycle collector would close.
    """

    __slots__ = (
        "_clock", "_collect", "_count", "_counted_runs", "_every", "_grown", "_known", "_largest", "_left", "_limit",
        "_lowest", "_most", "_open_count", "_patience", "_pause", "_quiet_up_to", "_rows", "_scan", "_surveyed",
    )  # fmt: skip

    def __init__(
        self,
        limit: int,
        lowest: int,
        scan: Callable[[Iterable[int] | None], list[Descriptor]],
        clock: Callable[[], float] = time.monotonic,
        *,
        count: Callable[[], int] = open_count,
        collect: Callable[[], object] = gc.collect,
    ) -> None:
        self._limit = limit
        self._lowest = lowest
        self._scan = scan
        self._clock = clock
        self._open_count = count
        self._collect = collect
        self._count = self._most = count()
        self._known: dict[int, _Birth | None] = dict.fromkeys(range(lowest))
        self._surveyed = self._count == lowest
        self._rows: dict[str, _Row] = {}
        self._patience: dict[str, int] = {}
        self._grown = 0
        self._largest = 0
        self._quiet_up_to = 0
        self._every = 1
        self._pause = self._left = 0
        self._counted_runs = 0

    def after(self, task: str, lowest: int) -> Finding | None:
        """Take note of a run of ``task`` that ended, with the lowest free number now. About 0.1 us if nothing moved."""
        if lowest == self._lowest and self._left and task not in self._rows:
            self._left -= 1
            return None
        return self._look(task, lowest)

    def _look(self, task: str, lowest: int) -> Finding | None:
        before, self._lowest = self._lowest, lowest
        new = [fd for fd in range(before, lowest) if fd not in self._known]
        self._known.pop(lowest, None)
        # One new number is this run's. Of several, some may be what other runs had hidden above it: then count.
        grew = (
            self._note(task, new, lowest - before) if self._left and len(new) < 2 else self._count_and_note(task, new)
        )
        found = None
        if grew:
            row = self._rows.setdefault(task, _Row(self._grown))
            row.runs += 1
            if row.runs >= self._patience.get(task, RUNS_IN_A_ROW):
                found = self._judge(task, row)
        elif self._rows.pop(task, None) is not None and task in self._patience:
            self._patience[task] = max(RUNS_IN_A_ROW, self._patience[task] // 2)
        return found or self._near_the_limit(task)

    def _note(self, task: str, new: list[int], moved: int) -> bool:
        """Go by the numbers; whether the run left one."""
        self._left -= 1
        self._count += len(new) - (moved < 0)
        if not new:
            return False
        self._largest = max(self._largest, 1)
        self._blame(task, self._scan(new), new)
        return True

    def _count_and_note(self, task: str, new: list[int]) -> bool:
        """Go by the count; whether the run left any."""
        exact = self._left == self._pause
        began = self._clock()
        count = self._open_count()
        seconds = self._clock() - began
        more, self._count = count - self._count, count
        hidden = max(0, more - len(new))
        self._largest = max(self._largest, len(new), more)
        if count > self._most and (hidden or (len(new) > 1 and not exact)):
            affordable = _COUNTING_SECONDS / seconds if seconds > 0 else _COUNTED_RUNS
            self._counted_runs = min(_COUNTED_RUNS, 1 + int(affordable))
        elif self._counted_runs:
            self._counted_runs -= 1
        self._most = max(self._most, count)
        # Few enough that 16 hidden ones at each run in between do not fill the table.
        self._every = max(1, min(self._every * 2, _LOOK_EVERY, (self._limit - count) // 16))
        self._pause = self._left = 0 if self._counted_runs else self._every - 1
        if not new and not hidden:
            return False
        sure = max(0, more) if exact else 1
        births = self._scan(new[:sure]) if new else []
        if hidden:
            births += self._hidden(hidden, blame=exact and self._surveyed)
            self._surveyed = True
        grew = sure > 0 if exact else bool(new)
        self._blame(task, births, new) if grew else self._known.update(dict.fromkeys(new))
        return grew

    def _hidden(self, count: int, *, blame: bool) -> list[Descriptor]:
        """Find new ones above the lowest free number: those of the last run, or, if not to blame, nobody's."""
        if not self._surveyed:
            found = self._scan(None)
        else:
            # Each took the lowest number free at its time: they are among the first ones not known.
            unknown = (fd for fd in itertools.count(self._lowest + 1) if fd not in self._known)
            found = self._scan(list(itertools.islice(unknown, count + 1)))
            if len(found) < count or not blame:
                found += self._scan(list(itertools.islice(unknown, _HELD_MEANWHILE)))
        if blame:
            return found[:count]
        for each in found:
            self._known.setdefault(each.fd)
        return []

    def _blame(self, task: str, births: list[Descriptor], new: list[int]) -> None:
        self._grown += 1
        now = self._clock()
        self._known.update(dict.fromkeys(new))
        self._known.update({each.fd: _Birth(task, self._grown, now, each) for each in births})

    def _judge(self, task: str, row: _Row) -> Finding | None:
        """Whether the row's runs left what nobody uses; the next time is when the row has doubled."""
        self._patience[task] = 2 * row.runs
        self._collect()
        births = [birth for birth in self._known.values() if birth and birth.task == task and birth.run >= row.first]
        open_now = self._still_open(births)
        now = self._clock()
        dead = [(birth, seen) for birth, seen in open_now if not _is_used(birth, seen, now)]
        if len(_runs_that_leak(dead)) < _SHARE_OF_RUNS * row.runs:
            return None
        kind, what, which = _most(dead)
        runs = len({birth.run for birth in which})
        more = f" ({len(which)} in all)" if len(which) > runs else ""
        rest = len(dead) - len(which)
        others = f" and {rest} other{'s' if rest > 1 else ''}" if rest else ""
        reason = f"leak: {runs} of {row.runs} runs of {task} left {_phrase(kind, what)}{more}{others} open"
        return Finding(task, kind, what, len(which), row.runs, reason)

    def _near_the_limit(self, task: str) -> Finding | None:
        # The worst run, once more, must still find room.
        calm = min(int(_SHARE_OF_LIMIT * self._limit), self._limit - self._largest - 1)
        if max(self._count, self._lowest) <= calm:
            self._quiet_up_to = 0
            return None
        calm = max(calm, self._quiet_up_to)
        if self._recounted() <= calm:
            return None
        self._collect()
        count = self._recounted()
        if count <= calm:
            return None
        self._quiet_up_to = max(count, (count + self._limit) // 2)
        said = f"near the limit: {count} of {self._limit} descriptors are open"
        births = [birth for birth in self._known.values() if birth]
        open_now = self._still_open(births[-_MOST_READ:])
        if not open_now:
            return Finding(task, "", "", count, 1, f"{said}; {task} ran last")
        worst = Counter(birth.task for birth, _ in open_now).most_common(1)[0][0]
        theirs = [(birth, seen) for birth, seen in open_now if birth.task == worst]
        kind, what, which = _most(theirs)
        runs = len({birth.run for birth, _ in theirs})
        named = f"{len(which)} times {_phrase(kind, what)}"
        reason = f"{said}; {worst} left most, {len(theirs)} in {runs} runs: {named}"
        return Finding(worst, kind, what, len(which), runs, reason)

    def _recounted(self) -> int:
        self._count = self._open_count()
        return self._count

    def _still_open(self, births: list[_Birth]) -> list[tuple[_Birth, Descriptor]]:
        """Each with what it is now; a number that was given to another one since is left out."""
        now = {each.fd: each for each in self._scan([birth.seen.fd for birth in births])}
        pairs = [(birth, now.get(birth.seen.fd)) for birth in births]
        return [(birth, seen) for birth, seen in pairs if seen and seen.inode == birth.seen.inode]


def _is_used(birth: _Birth, seen: Descriptor, now: float) -> bool:
    """Whether a connection was in use after the run that opened it."""
    if birth.seen.written is not None and seen.written is not None:
        return seen.written != birth.seen.written
    return seen.idle is not None and seen.idle + _CLOCK_TICKS < now - birth.at


def _runs_that_leak(dead: list[tuple[_Birth, Descriptor]]) -> set[int]:
    """The runs that left more than the first connection to a peer."""
    runs, peers = set(), set()
    for birth, seen in dead:
        name = _name(birth.seen, seen)
        if seen.kind == "socket" and not name.startswith(NO_PEER) and name not in peers:
            peers.add(name)
        else:
            runs.add(birth.run)
    return runs


def _most(pairs: list[tuple[_Birth, Descriptor]]) -> tuple[str, str, list[_Birth]]:
    """The kind and name that most of these have, and which they are; a part of the name where whole ones are rare."""
    groups: dict[tuple[str, str], list[_Birth]] = {}
    for birth, seen in pairs:
        groups.setdefault((seen.kind, _name(birth.seen, seen)), []).append(birth)
    (kind, what), which = max(groups.items(), key=lambda group: len(group[1]))
    if 2 * len(which) >= len(pairs):
        return kind, what, which
    wider: dict[tuple[str, str], list[_Birth]] = {}
    for (each, name), births in groups.items():
        wider.setdefault((each, _wider(each, name)), []).extend(births)
    (kind, what), which = max(wider.items(), key=lambda group: len(group[1]))
    return kind, what, which


def _name(then: Descriptor, now: Descriptor) -> str:
    """A connection that was reset has no peer any more."""
    return then.what if now.what.startswith("unconnected ") else now.what


def _wider(kind: str, what: str) -> str:
    if kind == "socket" and not what.startswith((*NO_PEER, "/", "@")):
        return what.rpartition(":")[0] + ":*"
    return what.rpartition("/")[0] + "/*" if what.startswith("/") else what


def _phrase(kind: str, what: str) -> str:
    if kind == "socket" and not what.startswith(NO_PEER):
        return f"a socket to {what}"
    if what.startswith(("listening ", "bound ", "accepted ")):
        return f"a socket {what}"
    named = what if kind in {"socket", "anon"} or what == "pipe" else f"{kind} {what}"
    return f"an {named}" if named.startswith(("a", "u")) else f"a {named}"
