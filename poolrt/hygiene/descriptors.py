"""Which task leaves descriptors open, and how near the child is to their limit.

    after a run: task, lowest free number ──▶ DescriptorWatch ──▶ None, or Findings that name task, peer and counts

Rules:

1. Near the limit. More than 70 % of the limit is open, or one more run like the worst so far would reach the limit: a
   Finding whatever the pattern (`NearTheLimit`), so that no run of this child meets EMFILE.
2. Gross leak. Thirty runs of one task in a row, however mixed with other tasks', each left more open than they found.
   Then what these runs left is looked at once. A TCP connection that was used since its first run is no leak: a
   pool warms up, a client keeps its connections. One unused connection to each peer is keep-alive too, and a file that
   has a path of its own may be a cache's. What else is still open is leaked if it comes from four fifths of the runs;
   if not, the task is judged again when the row has doubled.
3. Leak of now and then. What one task left to one peer, or of one name, is a set that grows and is never used again
   (see births.py). It is judged when it has grown, at most every hundred runs and for 4 % of the time.
4. Connections whose peer closed them a minute ago, two or more to one peer (CLOSE_WAIT).

By rule 2 these are leaks too: a pool over Unix sockets, which do not tell their use, that grows at each of 30 runs. An
upper bound below stops it. And these are none: one connection to each of many peers; accepted connections, whose peers
have a port each; those that a thread of their client keeps writing to. Rule 1 ends them.

How the growth of a run is seen:

- The lowest free number moved up: no reading at all, and the numbers between are what is new.
- A run that opens a file, connects, and closes the file moves nothing: its connection hides above the hole. So
  descriptors are counted after at most 64 runs (sooner when few are free); and once there are more than ever, and more
  than the numbers showed, after each run for a while (2 ms of counting): until the task is known.

What only the cycle collector would close is no leak: it runs before any rule speaks, and what it closes is told. So it
is where a collection of another cause closes it (`collection`, to be put into gc.callbacks): the numbers in use before
and after it are compared. What a collection right after a run closes is that run's (`left_by`, `collected`).
"""

import gc
import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from poolrt.hygiene.births import Birth, birth
from poolrt.hygiene.descriptor_verdicts import Verdicts
from poolrt.hygiene.findings import Finding, Rest
from poolrt.posix.descriptors import Descriptor, lowest_free, open_count

RUNS_IN_A_ROW: Final = 30
"""Runs that must each leave a descriptor: a pool that serves one task at a time has stopped growing by then."""
_SHARE_OF_LIMIT: Final = 0.7
_LOOK_EVERY: Final = 64
"""Runs between two counts, at most: 4 us each."""
_LOOK_WITHIN: Final = 5.0
"""Seconds between two counts, about, of tasks that take long."""
_COUNTED_RUNS: Final = 512
"""Runs that are counted each after a hidden growth, so that a task that is one in hundreds runs again meanwhile."""
_COUNTING_SECONDS: Final = 0.002
"""What they may cost in all: 15 to 800 us each where the kernel has to list them."""
_CLOSELY: Final = 64
"""Runs that want to be looked at each after `missed` has met something new; the next time twice as many."""
_MOST_CLOSELY: Final = 1 << 20
_HELD_MEANWHILE: Final = 16
"""Descriptors that a run may have had open below a hidden one, and closed."""
_JUDGE_EVERY: Final = 100
"""Runs between two judgements of the groups that have grown, at least; each descriptor in them costs 6 us."""
_SHARE_OF_TIME: Final = 0.04
_PEERS_EVERY: Final = 20.0
"""Seconds between two looks for connections whose peers have gone."""


class _Row:
    """Runs of one task in a row that each grew; ``first`` is the number of the first of them (see `Birth`)."""

    __slots__ = ("first", "runs")

    def __init__(self, first: int) -> None:
        self.first = first
        self.runs = 0


class DescriptorWatch:
    """Watches one process's descriptors, from run to run.

    It is made when the process is ready for its first task: what is open then is nobody's fault.

    Invariant: ``_left`` equals ``_pause`` exactly when the last run was counted.

    Arguments:
        limit, lowest: `posix.descriptors.limit` and `lowest_free`, now.
        scan: `posix.descriptors.scan`.
        clock: monotonic, in seconds.
        count: `posix.descriptors.open_count`.
        collect: closes what only the cycle collector would close.
    """

    __slots__ = (
        "_clock", "_closely", "_count", "_counted_at", "_counted_runs", "_every", "_judge_at", "_known", "_largest",
        "_left", "_limit", "_lowest", "_lowest_before", "_most", "_next_closely", "_open_count", "_patience",
        "_pause", "_peers_at", "_quiet_up_to", "_ran", "_rows", "_runs_unjudged", "_scan", "_surveyed", "_verdicts",
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
        self._lowest = self._lowest_before = lowest
        self._scan = scan
        self._clock = clock
        self._open_count = count
        self._count = self._most = count()
        self._verdicts = Verdicts(range(lowest), scan, clock, collect)
        self._known = self._verdicts.known
        self._ran = self._verdicts.ran
        self._surveyed = self._count == lowest
        self._rows: dict[str, _Row] = {}
        self._patience: dict[str, int] = {}
        self._largest = 0
        self._quiet_up_to = 0
        self._every = 1
        self._pause = self._left = 0
        self._closely = 0
        """Runs that are still to be looked at each."""
        self._next_closely = _CLOSELY
        self._counted_runs = 0
        self._runs_unjudged = 0
        now = clock()
        self._counted_at = self._judge_at = now
        self._peers_at = now + _PEERS_EVERY

    def after(self, task: str, lowest: int) -> list[Finding] | None:
        """Take note of a run of ``task`` that ended, with the lowest free number now; None, or what was found.

        About 0.15 us if nothing moved.
        """
        ran = self._ran
        ran[task] = ran.get(task, 0) + 1
        if self._closely:
            self._closely -= 1
        if lowest == self._lowest and self._left and task not in self._rows:
            self._left -= 1
            return None
        return self._look(task, lowest) or None

    def collection(self, phase: str, info: Mapping[str, int]) -> None:
        """A collection begins or ends, in any thread: for gc.callbacks. About 1 us, 2 if it found garbage."""
        if phase == "start":
            self._lowest_before = lowest_free()
        elif info["collected"] and (lowest := lowest_free()) < self._lowest_before:
            self._verdicts.note_collected(lowest, self._lowest_before)

    def left_by(self, task: str, lowest: int) -> list[Birth]:
        """What the run of ``task`` that just ended, and that `after` is not told of yet, has left as far as is seen.

        For a collection right after the run; then call `collected`.
        """
        new = [fd for fd in range(self._lowest, lowest) if fd not in self._known]
        run, now = self._ran.get(task, 0) + 1, self._clock()
        return [birth(task, run, now, each) for each in (self._scan(new) if new else ())]

    def collected(self, left: list[Birth]) -> None:
        """The collection is over; the next call of `after` tells what follows of what it closed."""
        self._verdicts.note_left(left)
        if self._verdicts.collected:
            self._left = 0

    def missed(self, tasks: Sequence[str], lowest: int) -> None:
        """Take note of runs of these tasks after which nobody looked, with the lowest free number now.

        What is new since may be any of theirs, and is nobody's; so for a while each run wants to be looked at.
        """
        for task in tasks:
            self._ran[task] = self._ran.get(task, 0) + 1
            if self._rows:
                self._rows.pop(task, None)
        self._left = max(0, self._left - len(tasks))
        if lowest == self._lowest:
            return
        before, self._lowest = self._lowest, lowest
        self._verdicts.forget(lowest)
        if new := [fd for fd in range(before, lowest) if fd not in self._known]:
            self._known.update(dict.fromkeys(new))
            self._count += len(new)
            self._left, self._closely = 0, self._next_closely
            self._next_closely = min(2 * self._next_closely, _MOST_CLOSELY)

    def rest(self) -> list[Rest]:
        """What is not told when the child leaves."""
        return self._verdicts.rest()

    @property
    def wants_each(self) -> bool:
        """Whether `after` is to be called after each of the next runs, lest something new have no name."""
        return self._closely > 0 or not self._pause

    def _look(self, task: str, lowest: int) -> list[Finding]:
        before, self._lowest = self._lowest, lowest
        new = [fd for fd in range(before, lowest) if fd not in self._known]
        self._verdicts.forget(lowest)
        found = self._verdicts.of_collected() if self._verdicts.collected else []
        # One new number is this run's. Of several, some may be what other runs had hidden above it: then count.
        if self._left and len(new) < 2:
            grew = self._note(task, new, lowest - before)
        else:
            grew = self._count_and_note(task, new)
            found += self._judge_others()
        if grew:
            row = self._rows.setdefault(task, _Row(self._ran[task]))
            row.runs += 1
            if row.runs >= self._patience.get(task, RUNS_IN_A_ROW):
                self._patience[task] = 2 * row.runs
                found += self._verdicts.of_row(task, row.first, row.runs)
        elif self._rows.pop(task, None) is not None and task in self._patience:
            self._patience[task] = max(RUNS_IN_A_ROW, self._patience[task] // 2)
        return found + self._near_the_limit(task)

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
        self._runs_unjudged += self._pause - self._left + 1
        more, self._count = count - self._count, count
        hidden = max(0, more - len(new))
        self._largest = max(self._largest, len(new), more)
        if count > self._most and (hidden or (len(new) > 1 and not exact)):
            affordable = _COUNTING_SECONDS / seconds if seconds > 0 else _COUNTED_RUNS
            self._counted_runs = min(_COUNTED_RUNS, 1 + int(affordable))
        elif self._counted_runs:
            self._counted_runs -= 1
        self._most = max(self._most, count)
        slow = began - self._counted_at > _LOOK_WITHIN
        self._counted_at = began
        # Few enough that 16 hidden ones at each run in between do not fill the table.
        wanted = self._every // 2 if slow else self._every * 2
        self._every = max(1, min(wanted, _LOOK_EVERY, (self._limit - count) // 16))
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
        self._known.update(dict.fromkeys(new))
        self._verdicts.blame(task, births)

    def _judge_others(self) -> list[Finding]:
        """Rules 3 and 4, when it is time."""
        found: list[Finding] = []
        now = self._counted_at
        if self._verdicts.grown and self._runs_unjudged >= _JUDGE_EVERY and now >= self._judge_at:
            self._runs_unjudged = 0
            found += self._verdicts.of_groups()
            end = self._clock()
            self._judge_at = end + (end - now) / _SHARE_OF_TIME
        if now >= self._peers_at:
            self._peers_at = now + _PEERS_EVERY
            found += self._verdicts.of_lost_peers()
        return found

    def _near_the_limit(self, task: str) -> list[Finding]:
        # The worst run, once more, must still find room.
        calm = min(int(_SHARE_OF_LIMIT * self._limit), self._limit - self._largest - 1)
        if max(self._count, self._lowest) <= calm:
            self._quiet_up_to = 0
            return []
        calm = max(calm, self._quiet_up_to)
        if self._recounted() <= calm:
            return []
        found = self._verdicts.collect()
        count = self._recounted()
        if count <= calm:
            return found
        self._quiet_up_to = max(count, (count + self._limit) // 2)
        said = f"near the limit: {count} of {self._limit} descriptors are open"
        return [*found, self._verdicts.near_the_limit(task, said, count)]

    def _recounted(self) -> int:
        self._count = self._open_count()
        return self._count
