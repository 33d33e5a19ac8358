"""Descriptors by the run that left them: which were used since, how they are named, and when a group of them is a leak.

    births still open, each as it was and as it is ──▶ growing() ──▶ those of one group that are to be told, or none

A group is what one task left to one peer, of one path, of one kind. Its members are one of these:

- used since the run that opened them: a TCP connection that this side wrote to or read from, a file whose position has
  moved;
- dead: not used in the next 50 runs of that task, nor in as many as the group had taken to grow to it (of a connection
  for each customer, the rarest come last, and for a second time as late);
- too young to tell.

Once a group is known to leak, its young ones are told with the dead: else half of what leaked would be missing.

A leak is a set of dead ones that grows: from runs far apart, and more than are used or were closed again since the
first (that is a pool, or a cache that closes its oldest). How many it takes is a matter of what a descriptor tells of
its use: 5 for TCP, 10 for a file, whose position may return to where it was, 30 where nothing is told: a pool over Unix
sockets, a connection of SQLite for each thread. Files that have a path each are left to the limit, and to rows of 512
runs: a cache fills up like a leak.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Final, NamedTuple

from poolrt.hygiene.findings import LeakKind
from poolrt.posix.descriptors import NO_PEER, Descriptor

OLD: Final = 50
"""Runs of its task after which an unused one is dead: of 20 pooled ones, drawn at random, 8 % are unused then."""
_SPREAD: Final = 4
"""Of how many spans of `OLD` runs the dead ones must come: what is opened at start-up comes from one or two."""
_WITH_PROOF: Final = 5
_OF_A_FILE: Final = 10
_WITHOUT_PROOF: Final = 30
_TEMPORARY: Final = ("/tmp/", "/var/tmp/")  # noqa: S108  nothing is made there
_CLOCK_TICKS: Final = 0.02
"""Seconds by which a connection's idle time may be short (a tick of the kernel is up to 10 ms)."""


class Birth(NamedTuple):
    """A descriptor as it was seen after the run that left it."""

    task: str
    run: int
    """The number of that run among those of its task."""
    at: float
    seen: Descriptor
    group: str
    said: bool = False
    """Whether it was part of a finding."""


Pair = tuple[Birth, Descriptor]
"""What was born, and what it is now."""


def birth(task: str, run: int, at: float, seen: Descriptor) -> Birth:
    """A new birth, with its group."""
    own_name = seen.kind == "file" and is_temporary(seen.what)
    no_port = seen.kind == "socket" and seen.what.startswith(("listening on ", "bound to "))
    return Birth(task, run, at, seen, wider(seen.kind, seen.what) if own_name or no_port else seen.what)


def growing(pairs: list[Pair], closed: Iterable[int], ran: int, now: float, said: int) -> list[Pair]:
    """The unused ones of a group that leaks, or none: not before there are as many as were said before.

    Arguments:
        pairs: its members that are open.
        closed: for each member that was closed, the runs of its task when that was seen.
        ran: runs of its task so far.
    """
    unused = [pair for pair in pairs if not is_used(*pair, now)]
    first = min((born.run for born, _ in unused), default=0)
    new = [pair for pair in unused if not pair[0].said]
    dead = [pair for pair in new if ran - pair[0].run >= _dies_after(*pair, first)]
    runs = {born.run for born, _ in dead}
    if len(new) < said or len({run // OLD for run in runs}) < _SPREAD:
        return []
    living = len(pairs) - len(unused) + sum(at > min(runs) for at in closed)
    return new if len(runs) >= living + max(_evidence(*pair) for pair in dead) else []


def _dies_after(born: Birth, seen: Descriptor, first: int) -> int:
    """In how many runs; ``first`` is the run of the group's first unused one."""
    return OLD if _evidence(born, seen) == _WITHOUT_PROOF else max(OLD, born.run - first)


def _evidence(born: Birth, seen: Descriptor) -> int:
    """How many like this one it takes."""
    if born.seen.written is not None or born.seen.idle is not None:
        return _WITH_PROOF
    return _OF_A_FILE if seen.kind == "file" and seen.read else _WITHOUT_PROOF


def is_used(born: Birth, seen: Descriptor, now: float) -> bool:
    """Whether it was in use after the run that opened it; False too where nothing tells."""
    then = born.seen
    if then.read is not None and seen.read is not None and seen.read > then.read:
        return True
    if then.written is not None and seen.written is not None:
        return seen.written != then.written
    return seen.idle is not None and seen.idle + _CLOCK_TICKS < now - born.at


def runs_that_leak(dead: list[Pair], *, own_paths: bool) -> set[int]:
    """The runs that left more than the first one to a peer, or of a path unless ``own_paths``."""
    runs, names = set(), set()
    for born, seen in dead:
        named = has_peer(seen.kind, name(born, seen)) or (
            seen.kind == "file" and not own_paths and not is_temporary(seen.what)
        )
        if named and name(born, seen) not in names:
            names.add(name(born, seen))
        else:
            runs.add(born.run)
    return runs


def most(pairs: list[Pair]) -> tuple[str, str, list[Birth]]:
    """The kind and name that most of these have, and which they are; a part of the name where whole ones are rare."""
    groups: dict[tuple[str, str], list[Birth]] = {}
    for born, seen in pairs:
        groups.setdefault((seen.kind, name(born, seen)), []).append(born)
    (kind, what), which = max(groups.items(), key=lambda group: len(group[1]))
    if 2 * len(which) >= len(pairs):
        return kind, what, which
    parts: dict[tuple[str, str], list[Birth]] = {}
    for (each, whole), births in groups.items():
        parts.setdefault((each, wider(each, whole)), []).extend(births)
    (kind, what), which = max(parts.items(), key=lambda group: len(group[1]))
    return kind, what, which


def leak_kind(kind: str, what: str) -> LeakKind:
    """What a descriptor of this kind and name is in a finding."""
    return LeakKind.CONNECTIONS if has_peer(kind, what) else LeakKind.FILES


def has_peer(kind: str, what: str) -> bool:
    """Whether it is a socket with a named peer."""
    return kind == "socket" and not what.startswith(NO_PEER)


def is_temporary(path: str) -> bool:
    """Whether a file is deleted, or in a folder for temporary ones: no cache opens it by its name."""
    own = os.environ.get("TMPDIR")
    return path.endswith(" (deleted)") or path.startswith((*_TEMPORARY, own + "/" if own else _TEMPORARY[0]))


def name(born: Birth, seen: Descriptor) -> str:
    """The peer or path; a connection that was reset has no peer any more."""
    return born.seen.what if seen.what.startswith("unconnected ") else seen.what


def wider(kind: str, what: str) -> str:
    """The part of a name that different ones share: ``host:*``, ``directory/*``."""
    if kind == "socket" and what.startswith(("listening on ", "bound to ")) and ":" in what:
        return what.rpartition(":")[0] + ":*"
    if kind == "socket" and not what.startswith((*NO_PEER, "/", "@")):
        return what.rpartition(":")[0] + ":*"
    if what.startswith("/memfd:"):
        return what
    return what.rpartition("/")[0] + "/*" if what.startswith("/") else what


def phrase(kind: str, what: str) -> str:
    """``a socket to host:port``, ``a file /path``."""
    if has_peer(kind, what):
        return f"a socket to {what}"
    if what.startswith(("listening ", "bound ", "accepted ")):
        return f"a socket {what}"
    named = what if kind in {"socket", "anon"} or what == "pipe" else f"{kind} {what}"
    return f"an {named}" if named.startswith(("a", "u")) else f"a {named}"
