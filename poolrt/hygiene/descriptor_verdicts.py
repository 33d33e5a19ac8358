"""What is said of the descriptors that runs left: which leaked, whose peers have gone, what only the collector closed.

    DescriptorWatch ── births ──▶ Verdicts ── a row of runs, groups that grew, lost peers, a full table ──▶ Findings

Whatever is about to be said, the cycle collector runs first: what it closes did not leak, but was not closed either.
That is told (UNCLOSED) once it comes from three runs, whatever collection closed it (see `DescriptorWatch.collection`).

The same is said again when there is as much of it again as was said before; what was said is not counted twice.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Final

from poolrt.hygiene.births import (
    Birth,
    Pair,
    growing,
    has_peer,
    is_used,
    leak_kind,
    most,
    name,
    phrase,
    runs_that_leak,
    wider,
)  # fmt: skip
from poolrt.hygiene.births import birth as new_birth
from poolrt.hygiene.findings import Finding, LeakKind, Rest
from poolrt.posix.descriptors import Descriptor

PEER_GONE_FOR: Final = 60.0
"""Seconds a connection may stand in CLOSE_WAIT: a client that comes back to it sees that it was closed."""
_FEW_GONE: Final = 2
"""To one peer: a single one is a client's kept connection, which it will replace."""
_SHARE_OF_RUNS: Final = 0.8
"""Of a pool whose next connection is drawn at random, half were used again after 30 runs, give or take a tenth."""
_OWN_PATHS_FROM: Final = 512
"""Files with a path each that make a leak of a row of runs: the largest bounds of caches are below."""
_MOST_READ: Final = 1024
"""Descriptors looked at to name the cause near the limit: 10 ms."""
_FEW_UNCLOSED: Final = 3
"""Runs of a task that left to the collector what is told: one or two may be a mishap."""
_MOST_UNCLOSED: Final = 256
"""Births of a task that the collector closed and that wait for more of their kind."""
_CLOSED: Final = 64
"""The last closed ones of a group that are remembered, each by the number of runs when it was seen."""

OF_DESCRIPTORS: Final = (LeakKind.CONNECTIONS, LeakKind.CLOSE_WAIT, LeakKind.UNCLOSED, LeakKind.FILES)

Key = tuple[LeakKind, str, str]


class NearTheLimit(Finding, frozen=True, array_like=True):
    """Descriptors are about to run out: whatever the policy says, the child has to leave."""


class Verdicts:
    """The births that are known, and what was said of them.

    Invariant: ``known`` has the numbers seen in use, and never the lowest free one. None stands for a number that no
    run is blamed for.

    Arguments:
        known: the numbers in use at the start.
        scan, clock, collect: as in `DescriptorWatch`.
    """

    def __init__(
        self,
        known: Iterable[int],
        scan: Callable[[Iterable[int] | None], list[Descriptor]],
        clock: Callable[[], float],
        collect: Callable[[], object],
    ) -> None:
        self.known: dict[int, Birth | None] = dict.fromkeys(known)
        self.ran: dict[str, int] = {}
        """Runs of each task so far; the watch counts them."""
        self._scan = scan
        self._clock = clock
        self._collect = collect
        self._grown: set[tuple[str, str]] = set()
        self._closed: dict[tuple[str, str], deque[int]] = {}
        self._said: dict[Key, tuple[int, int]] = {}
        self.collected: deque[Birth] = deque()
        """What collections closed and `of_collected` has not seen; any thread may add to it."""
        self._unclosed: dict[str, dict[Birth, None]] = {}
        """The same by task, until there is enough of one name."""
        self._untold: Counter[Key] = Counter()
        """How much there was enough of, and is as much again as was told before only later."""
        self._judge_unclosed_at: dict[str, int] = {}
        self._gone: dict[int, float] = {}
        self._said_gone: set[int] = set()

    @property
    def grown(self) -> bool:
        """Whether there are births that `growing_groups` has not seen."""
        return bool(self._grown)

    def blame(self, task: str, descriptors: list[Descriptor]) -> None:
        """Take note of what the last run, one of ``task``, left."""
        now, run = self._clock(), self.ran.get(task, 0)
        for each in descriptors:
            born = new_birth(task, run, now, each)
            self.known[each.fd] = born
            self._grown.add((task, born.group))

    def forget(self, fd: int) -> None:
        """Take note that this number is free, or no longer what it was."""
        if born := self.known.pop(fd, None):
            closed = self._closed.setdefault((born.task, born.group), deque(maxlen=_CLOSED))
            closed.append(self.ran.get(born.task, 0))

    def of_row(self, task: str, first: int, runs: int) -> list[Finding]:
        """Whether the last ``runs`` runs of a task, from its run ``first`` on, left what nobody uses."""
        own_paths = runs >= _OWN_PATHS_FROM

        def leaks(dead: list[Pair]) -> bool:
            return len(runs_that_leak(dead, own_paths=own_paths)) >= _SHARE_OF_RUNS * runs

        births = [born for born in self.known.values() if born and born.task == task and born.run >= first]
        dead = self._unused(births)
        if not leaks(dead):
            return []
        found, dead = self._collected(dead)
        if not leaks(dead):
            return found
        kind, what, which = most(dead)
        left = len({born.run for born in which})
        more = f" ({len(which)} in all)" if len(which) > left else ""
        rest = len(dead) - len(which)
        others = f" and {rest} other{'s' if rest > 1 else ''}" if rest else ""
        named = f"{phrase(kind, what)}{more}{others}"
        reason = f"leak: {left} of {runs} runs of {task} left {named} open{_lost(dead, which)}"
        return found + self._say_births((leak_kind(kind, what), task, what), which, reason)

    def of_groups(self) -> list[Finding]:
        """Whether a group that has grown since the last call is a leak (see `births.growing`)."""
        grown, self._grown = self._grown, set()
        groups: dict[tuple[str, str], list[Birth]] = {group: [] for group in grown}
        for born in self.known.values():
            if born and (born.task, born.group) in grown:
                groups[born.task, born.group].append(born)
        now = self._clock()
        suspects = {
            group: dead for group, pairs in self._members(groups).items() if (dead := self._growing(group, pairs, now))
        }
        found, _ = self._collected([pair for dead in suspects.values() for pair in dead])
        for group in suspects:
            if still := self._growing(group, self._still_open(groups[group]), now):
                found += self._say_group(group, still)
        return found

    def _growing(self, group: tuple[str, str], pairs: list[Pair], now: float) -> list[Pair]:
        if not pairs:
            return []
        task, what = group
        said = self._said.get((leak_kind(pairs[-1][1].kind, what), task, what), (0, 0))[0]
        return growing(pairs, self._closed.get(group, ()), self.ran.get(task, 0), now, said)

    def _say_group(self, group: tuple[str, str], dead: list[Pair]) -> list[Finding]:
        task, what = group
        kind = dead[-1][1].kind
        key = leak_kind(kind, what), task, what
        runs = self._runs_since(key)
        left = len({born.run for born, _ in dead})
        more = f" ({len(dead)} in all)" if len(dead) > left else ""
        which = [born for born, _ in dead]
        named = f"{phrase(kind, what)}{more}"
        reason = f"leak: {left} of {runs} runs of {task} left {named} open, not used since{_lost(dead, which)}"
        return self._say_births(key, which, reason)

    def of_lost_peers(self) -> list[Finding]:
        """Which connections were closed by their peers a minute ago and are still open here."""
        now = self._clock()
        births = [born for born in self.known.values() if born and has_peer(born.seen.kind, born.seen.what)]
        waiting = [pair for pair in self._still_open(births[-_MOST_READ:]) if pair[1].peer_gone]
        self._gone = {seen.inode: self._gone.get(seen.inode, now) for _, seen in waiting}
        self._said_gone &= self._gone.keys()
        late = [
            (born, seen) for born, seen in waiting
            if now - self._gone[seen.inode] >= PEER_GONE_FOR and not born.said and seen.inode not in self._said_gone
        ]  # fmt: skip
        groups: dict[tuple[str, str], list[Pair]] = {}
        for born, seen in late:
            groups.setdefault((born.task, name(born, seen)), []).append((born, seen))
        groups = {group: pairs for group, pairs in groups.items() if len(pairs) >= _FEW_GONE}
        found, _ = self._collected([pair for pairs in groups.values() for pair in pairs])
        for (task, what), pairs in groups.items():
            open_now = self._still_open([born for born, _ in pairs])
            reason = f"{len(open_now)} connections of {task} to {what} are open, a minute after the peer closed them"
            told = self._say(LeakKind.CLOSE_WAIT, task, what, len(open_now), reason) if open_now else []
            if told:
                self._said_gone.update(seen.inode for _, seen in open_now)
            found += told
        return found

    def note_collected(self, low: int, high: int) -> None:
        """A collection has just ended: all below ``high`` were in use when it began, and ``low`` is free now."""
        self.note_left([born for born in list(self.known.values()) if born and low <= born.seen.fd < high])

    def note_left(self, births: list[Birth]) -> None:
        """A collection has just ended before which these were open."""
        self.collected += _closed(births, self._scan([born.seen.fd for born in births]))

    def of_collected(self) -> list[Finding]:
        """What tasks have left to the collector, as far as it is enough to be told."""
        tasks = set()
        while self.collected:
            born = self.collected.popleft()
            self._free(born)
            if not born.said:
                self._unclosed.setdefault(born.task, {})[born] = None
                tasks.add(born.task)
        return [finding for task in sorted(tasks) for finding in self._of_unclosed(task)]

    def _of_unclosed(self, task: str) -> list[Finding]:
        waiting = self._unclosed[task]
        if len(waiting) < self._judge_unclosed_at.get(task, _FEW_UNCLOSED):
            return []
        kind, what, which = most([(born, born.seen) for born in waiting])
        if len({born.run for born in which}) < _FEW_UNCLOSED:
            self._unclosed[task] = dict.fromkeys(list(waiting)[-_MOST_UNCLOSED:])
            self._judge_unclosed_at[task] = min(_MOST_UNCLOSED, len(waiting) * 3 // 2)
            return []
        members = set(which)
        self._unclosed[task] = {born: None for born in waiting if born not in members}
        self._judge_unclosed_at[task] = _FEW_UNCLOSED
        key = LeakKind.UNCLOSED, task, what
        self._untold[key] += len(which)
        reason = f"{self._untold[key]} times {phrase(kind, what)} of {task} was closed only by the garbage collector"
        found = self._say(*key, self._untold[key], reason)
        if found:
            del self._untold[key]
        return found

    def _free(self, born: Birth) -> None:
        """Its number is free, or another's."""
        fd = born.seen.fd
        known = self.known.get(fd)
        if known and known.seen == born.seen:
            del self.known[fd]
            if self._scan([fd]):
                self.known[fd] = None

    def collect(self) -> list[Finding]:
        """Let the collector close what it can before the limit is judged."""
        births = [born for born in self.known.values() if born]
        return self._collected(self._still_open(births[-_MOST_READ:]), always=True)[0]

    def near_the_limit(self, task: str, said: str, count: int) -> NearTheLimit:
        """Who has left most, after a run of ``task``, when ``count`` are open; ``said`` tells so."""
        births = [born for born in self.known.values() if born]
        open_now = self._still_open(births[-_MOST_READ:])
        if not open_now:
            return NearTheLimit(LeakKind.FILES, task, "", count, 1, f"{said}; {task} ran last")
        worst = Counter(born.task for born, _ in open_now).most_common(1)[0][0]
        theirs = [(born, seen) for born, seen in open_now if born.task == worst]
        kind, what, which = most(theirs)
        key = leak_kind(kind, what), worst, what
        ran, new = self._runs_since(key), [born for born in which if not born.said]
        self._remember(key, len(new))
        self._mark(new)
        runs = len({born.run for born, _ in theirs})
        named = f"{len(which)} times {phrase(kind, what)}"
        reason = f"{said}; {worst} left most, {len(theirs)} in {runs} runs: {named}"
        return NearTheLimit(*key, len(new), ran, reason)

    def rest(self) -> list[Rest]:
        """What every task has left unused, and is not told, when the child leaves. Nothing is collected for it."""
        left = self._untold.copy()
        for task, closed in self._unclosed.items():
            left.update((LeakKind.UNCLOSED, task, name(born, born.seen)) for born in closed)
        births = [born for born in self.known.values() if born and not born.said]
        for born, seen in self._unused(births[-_MOST_READ:]):
            # A row of runs may have been told by a part of the name.
            for what in {born.group, wider(seen.kind, born.group)}:
                left[leak_kind(seen.kind, what), born.task, what] += 1
            if seen.peer_gone and seen.inode not in self._said_gone:
                left[LeakKind.CLOSE_WAIT, born.task, name(born, seen)] += 1
        since: dict[str, list[tuple[LeakKind, str, int, int]]] = {task: [] for task in self.ran}
        for key in {**left, **self._said}:
            kind, task, what = key
            since.setdefault(task, []).append((kind, what, left[key], self._runs_since(key)))
        return [Rest(OF_DESCRIPTORS, task, self.ran.get(task, 0), each) for task, each in since.items()]

    # ---- what is open, and used

    def _still_open(self, births: list[Birth]) -> list[Pair]:
        """Each with what it is now; a number that was given to another one since is left out."""
        now = {each.fd: each for each in self._scan([born.seen.fd for born in births])}
        pairs = [(born, now.get(born.seen.fd)) for born in births]
        return [(born, seen) for born, seen in pairs if seen and seen.inode == born.seen.inode]

    def _unused(self, births: list[Birth]) -> list[Pair]:
        open_now = self._still_open(births)
        now = self._clock()
        return [pair for pair in open_now if not is_used(*pair, now)]

    def _members(self, groups: dict[tuple[str, str], list[Birth]]) -> dict[tuple[str, str], list[Pair]]:
        """The open members of these groups. What is closed is forgotten: it would hide the next one of its number."""
        numbers = [born.seen.fd for births in groups.values() for born in births]
        now = {each.fd: each for each in self._scan(numbers)}
        members: dict[tuple[str, str], list[Pair]] = {group: [] for group in groups}
        for group, births in groups.items():
            for born in births:
                seen = now.get(born.seen.fd)
                if seen and seen.inode == born.seen.inode:
                    members[group].append((born, seen))
                    continue
                self.forget(born.seen.fd)
                if seen:
                    self.known[seen.fd] = None
        living = {(born.task, born.group) for born in self.known.values() if born}
        self._closed = {group: runs for group, runs in self._closed.items() if group in living}
        return members

    def _collected(self, pairs: list[Pair], *, always: bool = False) -> tuple[list[Finding], list[Pair]]:
        """Run the collector if there are any: what is said of those it closed, and those it did not close."""
        if not pairs and not always:
            return [], []
        self._collect()
        births = [born for born, _ in pairs]
        open_now = self._still_open(births)
        self.collected += _closed(births, [seen for _, seen in open_now])
        return self.of_collected(), open_now

    # ---- what was said

    def _say(self, kind: LeakKind, task: str, what: str, count: int, reason: str) -> list[Finding]:
        """A finding, unless less was found since the last one of this key than had been said by then."""
        key = kind, task, what
        if count < max(1, self._said.get(key, (0, 0))[0]):
            return []
        runs = self._runs_since(key)
        self._remember(key, count)
        return [Finding(kind, task, what, count, runs, reason)]

    def _say_births(self, key: Key, births: list[Birth], reason: str) -> list[Finding]:
        new = [born for born in births if not born.said]
        found = self._say(*key, len(new), reason)
        if found:
            self._mark(new)
        return found

    def _remember(self, key: Key, count: int) -> None:
        self._said[key] = self._said.get(key, (0, 0))[0] + count, self.ran.get(key[1], 0)

    def _runs_since(self, key: Key) -> int:
        return self.ran.get(key[1], 0) - self._said.get(key, (0, 0))[1]

    def _mark(self, births: list[Birth]) -> None:
        self.known.update({born.seen.fd: born._replace(said=True) for born in births})


def _closed(births: Iterable[Birth], open_now: list[Descriptor]) -> list[Birth]:
    inodes = {each.fd: each.inode for each in open_now}
    return [born for born in births if inodes.get(born.seen.fd) != born.seen.inode]


def _lost(pairs: list[Pair], which: list[Birth]) -> str:
    """How many of these the peer has closed: such a leak is one of connections and in CLOSE_WAIT."""
    members = set(which)
    gone = sum(seen.peer_gone for born, seen in pairs if born in members)
    return f"; the peer has closed {gone} of them (CLOSE_WAIT)" if gone else ""
