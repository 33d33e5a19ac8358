"""What another process has open: how many of each kind, and who is at the other end of its connections.

Facts that bite:

- The links in /proc/PID/fd say what a descriptor is. A look through the link (stat) would hang on a dead network file
  system.
- /proc/PID/net/tcp is no way to a peer: one read walks the kernel's whole table (262,144 rows: 5 to 20 ms), whatever it
  finds. So a socket is taken over (pidfd_getfd, Linux 5.6, 2 us) and asked itself. That is allowed as ptrace is: for
  one's own descendants mostly; in Docker and containerd it takes CAP_SYS_PTRACE. Where it is refused no peer is named.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Final, NamedTuple

from poolrt.posix.descriptors import NO_PEER, scan

MOST: Final = 200
"""Descriptors that are looked at."""
WITHIN: Final = 0.005
"""Seconds after which the rest is left out."""
_PIDFD_GETFD: Final = 438  # on every architecture but Alpha, where it is 548
_LISTENS: Final = "listening on "
_KINDS: Final = (
    ("socket:", "socket"),
    ("pipe:", "pipe"),
    ("anon_inode:", "anon"),
    ("/dev/shm/", "file"),  # noqa: S108  nothing is made there
    ("/dev/", "device"),
)


class OpenFiles(NamedTuple):
    """What one process has open.

    Attributes:
        kinds: number of each kind, the most first: ``socket``, ``pipe``, ``file``, ``device``, ``anon`` (epoll and its
            like), ``other`` (closed meanwhile).
        peers: number of connections by the peer's host:port or path, the most first; also ``listening on host:port``.
        complete: whether all was looked at.
    """

    kinds: dict[str, int]
    peers: dict[str, int]
    complete: bool = True


def open_files(pid: int, pidfd: int, most: int = MOST, within: float = WITHIN) -> OpenFiles:
    """What the process has open, of its first ``most`` descriptors and as far as ``within`` seconds allow: 10 us each.

    Nothing where it is gone, another user's, or elsewhere than on Linux.
    """
    deadline = time.monotonic() + within
    try:
        numbers = sorted(map(int, os.listdir(f"/proc/{pid}/fd")))
    except OSError:
        return OpenFiles({}, {})
    kinds: Counter[str] = Counter()
    peers: Counter[str] = Counter()
    may_ask = True
    for number in numbers[:most]:
        if time.monotonic() > deadline:
            break
        kind = _kind(f"/proc/{pid}/fd/{number}")
        kinds[kind] += 1
        if kind == "socket" and may_ask:
            try:
                peer = _peer(pidfd, number)
            except OSError:
                may_ask = False
            else:
                peers[peer] += 1
    del peers[""]
    return OpenFiles(dict(kinds.most_common()), dict(peers.most_common()), kinds.total() == len(numbers))


def _kind(link: str) -> str:
    try:
        target = os.readlink(link)
    except OSError:
        return "other"
    return next((kind for start, kind in _KINDS if target.startswith(start)), "file")


def _peer(pidfd: int, number: int) -> str:
    """Who is at the other end of another process's socket; empty for nobody with a name. OSError: not to be asked."""
    fd = _pidfd_getfd()(pidfd, number)
    try:
        what = scan([fd])[0].what
    finally:
        os.close(fd)
    return "" if what.startswith(NO_PEER) and not what.startswith(_LISTENS) else what


@functools.cache
def _pidfd_getfd() -> Callable[[int, int], int]:
    """``pidfd_getfd(pidfd, number)``: a duplicate, close-on-exec, of another process's descriptor; raises OSError."""
    import ctypes  # 5 ms and 0.7 MiB; a supervisor has it loaded, for prctl

    syscall = ctypes.CDLL(None, use_errno=True).syscall

    def call(pidfd: int, number: int) -> int:
        found = int(syscall(_PIDFD_GETFD, pidfd, number, 0)) if sys.platform == "linux" else -1
        if found < 0:
            raise OSError(ctypes.get_errno(), "pidfd_getfd")
        return found

    return call
