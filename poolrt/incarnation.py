"""One start of a node, an *incarnation*: the mark of its processes, its lease, and what its board says that it ran.

a start ──exec with MARK=…──▶ template ──fork──▶ children, and all that their tasks exec
────────────────────────────────────── it dies ──────────────────────────────────────
the next start of the node, or a neighbour's steward ──left_running──▶ its board file
"""

from __future__ import annotations

from typing import Final

import msgspec

from poolrt.board import Board, BoardDamaged, Running

MARK: Final = "POOLRT_INCARNATION"
"""The environment variable that every process of a start but its supervisor carries from its exec on."""


RENEWALS: Final = 5
"""How often a start renews its lease within one length of it."""
USABLE: Final = 2 / 3
"""The part of a lease in which the start may begin tasks, from the sending of the renewal that was answered."""


class LockContent(msgspec.Struct):
    """What stands in a node's lock file, as JSON: people read it too."""

    pid: int = 0
    incarnations: dict[str, tuple[Running, ...] | None] = {}
    """The starts that may still hold something, each with what its board said that it ran, if that was read already."""


def listed(written: bytes) -> dict[str, tuple[Running, ...] | None]:
    """The starts in a lock's content; none if it is damaged."""
    try:
        return msgspec.json.decode(written or b"{}", type=LockContent).incarnations
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}


def left_running(fd: int, incarnation: str) -> tuple[Running, ...] | None:
    """What the children of a dead start were running, from the board file behind ``fd``.

    None when it tells nothing of that start: damaged, another start's (also if that one takes it over meanwhile), or
    written before the machine was booted, so that rows may be missing.
    """
    try:
        board = Board(fd)
    except BoardDamaged:
        return None
    try:
        running = board.running()
        return running if board.tells_of(incarnation) else None  # asked last: it is another's from its first byte on
    finally:
        board.close()
