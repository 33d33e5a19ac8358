"""Database sessions that a task left in a transaction: rolled back, and told.

    taken from a pool (poolrt.hygiene.pools) ──┐
    opened by the app itself: found among the  ├──▶ in a transaction? 0.3 us each ──▶ rolled back by its owner
    collector's objects, once descriptors have │
    become more (poolrt.hygiene.connections) ──┘

Such a session holds locks, keeps the server from cleaning up, and would go on in its transaction in the next task. One
that was open before the first run is the app's own affair, and one that a running thread has taken is in use: both are
let be.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Hashable, Mapping
from typing import Final

from poolrt.hygiene.findings import Finding, LeakKind
from poolrt.hygiene.pools import drivers
from poolrt.hygiene.pools.checked_out import CheckedOut
from poolrt.hygiene.pools.taken import Taken
from poolrt.hygiene.pools.unpooled import Unpooled

_LOOKS_EACH: Final = 200
"""Runs that are looked at each after a find or a search: both are slow, looks would come rarer, and sessions that wait
for a look hold connections. And so many looks later, what has no name is told without one."""
_ROLLED_BACK: Final = "it was rolled back"


class TransactionWatch:
    """Watches sessions of this process, from run to run.

    It is made when the process is ready for its first task.

    Args:
        out: what is checked out of pools.
    """

    def __init__(self, out: CheckedOut) -> None:
        self.wants_each = False
        self._out = out
        self._unpooled = Unpooled()
        self._ran: dict[str, int] = {}
        self._told_at: dict[tuple[str, str], int] = {}
        self._nameless: Counter[tuple[str, str]] = Counter()
        self._stacks: dict[str, str] = {}
        self._nameless_looks = 0
        self._each = 0
        self._let_be: set[Hashable] = set(self._in_transaction())
        """What was left in a transaction before, and still is: it is told once."""

    def look(self, ran: Mapping[str, int]) -> list[Finding]:
        """What the runs since the last look left in a transaction. 1.5 us if no session is known."""
        for task, runs in ran.items():
            self._ran[task] = self._ran.get(task, 0) + runs
        self._out.follow()
        found = self._in_transaction()
        if found.keys() - self._let_be or self._unpooled.has_searched:
            self._each = _LOOKS_EACH
        elif self._each:
            self._each -= 1
        self.wants_each = self._each > 0
        if not found and not self._let_be and not self._nameless:
            return []
        return self._name(self._end(found), next(iter(ran)) if len(ran) == 1 else None)

    def _in_transaction(self) -> dict[Hashable, Taken]:
        """By a key that lasts as long as the session."""
        out = self._out.still_out() if self._out.now else {}
        found = {key: taken for key, taken in out.items() if _is_left(taken)}
        if self._unpooled.look():
            sessions = self._unpooled.sessions()
            found |= {
                key: taken for key, taken in sessions
                if _is_left(taken) and not self._is_pooled(taken.driver(), out)
            }  # fmt: skip
        return found

    def _is_pooled(self, connection: object, out: Mapping[Hashable, Taken]) -> bool:
        return connection in self._out.pooled or any(taken.driver() is connection for taken in out.values())

    def _end(self, found: Mapping[Hashable, Taken]) -> Counter[tuple[str, str]]:
        """End those left since the last look; how many by name and by what came of it."""
        left: Counter[tuple[str, str]] = Counter()
        self._let_be &= found.keys()
        for key, taken in found.items():
            if key not in self._let_be:
                what, done = _end(taken)
                left[what, done] += 1
                self._stacks[what] = taken.stack
                self._out.traces = True  # from now on: where the next one is taken
                if done != _ROLLED_BACK:
                    self._let_be.add(key)
        return left

    def _name(self, left: Counter[tuple[str, str]], task: str | None) -> list[Finding]:
        """Those of one task are told; others wait until the same session is left again by a task that is known."""
        if task is None:
            self._nameless += left
        else:
            names = {what for what, _ in left}
            for key in [key for key in self._nameless if key[0] in names]:
                left[key] += self._nameless.pop(key)
        found = [(task, *key, count) for key, count in left.items()] if task is not None else []
        self._nameless_looks = self._nameless_looks + 1 if self._nameless else 0
        if self._nameless_looks > _LOOKS_EACH:
            found += [("", *key, count) for key, count in self._nameless.items()]
            self._nameless.clear()
        self.wants_each = self._each > 0 or bool(self._nameless)
        return [self._finding(*each) for each in found]

    def _finding(self, task: str, what: str, done: str, count: int) -> Finding:
        ran = self._ran.get(task, 0) if task else sum(self._ran.values())
        runs = max(1, ran - self._told_at.get((task, what), 0))
        self._told_at[task, what] = ran
        sessions = "a session" if count == 1 else f"{count} sessions"
        who = f"{runs} run{'s' if runs > 1 else ''} of {task or 'several tasks'}"
        reason = f"{who} left {sessions} of {what} in a transaction; {done}"
        return Finding(LeakKind.TRANSACTIONS, task, what, count, runs, reason, self._stacks.pop(what, ""))


def _is_left(taken: Taken) -> bool:
    """Whether it is in a transaction, and no running thread but this one has taken it."""
    try:
        if not drivers.is_in_transaction(taken.driver()):
            return False
    except Exception:  # noqa: BLE001  closed, or in a state that the driver does not tell
        return False
    return taken.thread in (0, threading.get_ident()) or all(
        taken.thread != thread.ident for thread in threading.enumerate()
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
