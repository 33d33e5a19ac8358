"""Database sessions that a task left in a transaction: rolled back, and told.

    taken from a pool (poolrt.hygiene.pools) ──┐   glance after the run: who ran       look: rolled back by its owner,
    opened by the app itself, as psycopg and   │                                       told with its task
      psycopg2 tell, or found by a search ─────┴──▶ in a transaction? 0.3 us each ──▶

Such a session holds locks, keeps the server from cleaning up, and would go on in its transaction in the next task. One
that was open before the first run is the app's own affair, and one that a running thread has taken is in use: both are
let be.

A task is named if no other can have left it so. Of a known session that is what ran since the glance before; of one
that a search met, what ran since the search before; of one that another thread may use, what ever ran here. Where that
is several, it waits until one of them leaves it again, or the child leaves, and is told with the names of all.
"""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple

from poolrt.hygiene.findings import Finding, LeakKind
from poolrt.hygiene.pools import drivers
from poolrt.hygiene.pools.rest import rests
from poolrt.hygiene.pools.unpooled import Unpooled

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from poolrt.hygiene.findings import Rest
    from poolrt.hygiene.pools.checked_out import CheckedOut
    from poolrt.hygiene.pools.taken import Taken

_NAMELESS_LOOKS: Final = 200
"""Looks after which what has no name is told without one."""
_FEW_NAMES: Final = 3
"""Tasks that are listed where it may have been any of them."""
_ROLLED_BACK: Final = "it was rolled back"


class _Left(NamedTuple):
    """A session that was left: where it leads, what came of it, and the tasks one of which has done it."""

    what: str
    done: str
    suspects: frozenset[str]


class TransactionWatch:
    """Watches sessions of this process, from run to run.

    It is made when the process is ready for its first task.

    Args:
        out: what is checked out of pools.
    """

    def __init__(self, out: CheckedOut) -> None:
        self._out = out
        self._unpooled = Unpooled(out)
        self._ran: Counter[str] = Counter()
        self._unsearched: set[str] = set()
        """What ran since the last search."""
        self._glanced: Sequence[str] = ()
        """What ran since the glance before the last one."""
        self._stirred = False
        """Whether the last glance saw what no look has ended yet."""
        self._told_at: dict[tuple[str, str], int] = {}
        self._nameless: Counter[_Left] = Counter()
        self._stacks: dict[str, str] = {}
        self._nameless_looks = 0
        self._let_be: set[Hashable] = set(self._in_transaction())
        """What was left in a transaction before, and still is: it is told once."""

    @property
    def wants_each(self) -> bool:
        """While something has no name: a quick run may have left it, and these share glances."""
        return bool(self._nameless)

    def stirs(self, tasks: Sequence[str]) -> bool:
        """A glance after runs of these tasks, each counted to the next look: whether that look is due now, since a
        session that is known has come into a transaction. 0.3 us if none is known, and 0.3 us for each."""
        self._glanced = [*self._glanced, *tasks] if self._stirred else tasks
        now = self._out.now
        self._stirred = False
        if self._let_be or self._unpooled.stirs() or (now and any(map(_is_in_transaction, list(now.values())))):
            found = self._in_transaction()
            self._let_be &= found.keys()
            self._stirred = not found.keys() <= self._let_be
        return self._stirred

    def look(self, ran: Mapping[str, int]) -> list[Finding]:
        """What the runs since the last look left in a transaction. 2 us if no session is known."""
        return self._look(ran, search=False)

    def leaving(self, ran: Mapping[str, int]) -> list[Finding]:
        """As `look`, for the last time: with a search if one is due, and what has no name is told without it."""
        return self._look(ran, search=self._unpooled.may_be_more) + self._tell_nameless()

    def rest(self) -> list[Rest]:
        """What is not told when the child leaves: runs, after `leaving`."""
        return rests(LeakKind.TRANSACTIONS, self._ran, self._told_at, {})

    def _look(self, ran: Mapping[str, int], *, search: bool) -> list[Finding]:
        for task, runs in ran.items():
            self._ran[task] += runs
        self._unsearched.update(ran)
        imported = self._out.follow()
        met = self._unpooled.search(now=search or imported)
        unsearched = ran if imported else self._unsearched  # before its import a driver has no session
        glanced, self._glanced, self._stirred = self._glanced, (), False
        found = self._in_transaction()
        self._let_be &= found.keys()
        left: dict[_Left, int] = {}
        for key in found.keys() - self._let_be:
            taken = found[key]
            suspects = (unsearched if met and key in met else glanced or ran) if taken.is_ours() else self._ran
            of = self._end(key, taken, frozenset(suspects or self._ran))
            left[of] = left.get(of, 0) + 1
        if met is not None:
            self._unsearched = set()
        return self._name(left) if left or self._nameless else []

    def _in_transaction(self) -> dict[Hashable, Taken]:
        """By a key that lasts as long as the session."""
        if not self._out.now and not self._unpooled.knows_any:
            return {}
        out = self._out.still_out()
        found = {key: taken for key, taken in out.items() if _is_left(taken)}
        return found | {
            key: taken for key, taken in self._unpooled.sessions()
            if _is_left(taken) and all(other.driver() is not taken.driver() for other in out.values())
        }  # fmt: skip

    def _end(self, key: Hashable, taken: Taken, suspects: frozenset[str]) -> _Left:
        what, done = _end(taken)
        self._stacks[what] = taken.stack
        self._out.traces = True  # from now on: where the next one is taken
        if done != _ROLLED_BACK:
            self._let_be.add(key)
        return _Left(what, done, suspects)

    def _name(self, found: Mapping[_Left, int]) -> list[Finding]:
        """Those of one task are told, and with them such as waited and may be its; others wait."""
        named = Counter({left: count for left, count in found.items() if len(left.suspects) == 1})
        self._nameless.update({left: count for left, count in found.items() if left not in named})
        for left in named:
            for waiting in list(self._nameless):
                if waiting[:2] == left[:2] and left.suspects <= waiting.suspects:
                    named[left] += self._nameless.pop(waiting)
        self._nameless_looks = self._nameless_looks + 1 if self._nameless else 0
        told = [self._finding(left, count) for left, count in named.items()]
        return told + (self._tell_nameless() if self._nameless_looks > _NAMELESS_LOOKS else [])

    def _tell_nameless(self) -> list[Finding]:
        told = [self._finding(left, count) for left, count in self._nameless.items()]
        self._nameless.clear()
        return told

    def _finding(self, left: _Left, count: int) -> Finding:
        tasks = sorted(left.suspects)
        names = " or ".join(tasks) if len(tasks) <= _FEW_NAMES else "several tasks"
        ran = sum(self._ran[task] for task in tasks)
        runs = max(1, ran - self._told_at.get((names, left.what), 0))
        self._told_at[names, left.what] = ran
        sessions = "a session" if count == 1 else f"{count} sessions"
        who = f"{runs} run{'s' if runs > 1 else ''} of {names}"
        reason = f"{who} left {sessions} of {left.what} in a transaction; {left.done}"
        task = tasks[0] if len(tasks) == 1 else ""
        return Finding(LeakKind.TRANSACTIONS, task, left.what, count, runs, reason, self._stacks.pop(left.what, ""))


def _is_in_transaction(taken: Taken) -> bool:
    try:
        return drivers.is_in_transaction(taken.driver())
    except Exception:  # noqa: BLE001  closed, or in a state that the library does not tell
        return False


def _is_left(taken: Taken) -> bool:
    """Whether it is in a transaction, and no running thread but this one has taken it."""
    return _is_in_transaction(taken) and (
        taken.thread in (0, threading.get_ident()) or all(taken.thread != each.ident for each in threading.enumerate())
    )


def _end(taken: Taken) -> tuple[str, str]:
    """Where the session leads, and what came of rolling it back."""
    try:
        what = taken.what()
    except Exception as error:  # noqa: BLE001  the driver's
        what = type(error).__name__
    try:
        return what, _ROLLED_BACK if taken.roll_back() else "it is another thread's or event loop's, and was let be"
    except Exception as error:  # noqa: BLE001  the server has gone, for instance
        return what, f"it could not be rolled back: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
