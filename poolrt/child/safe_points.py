"""Where a task may be interrupted without cutting a library, a cleanup or an acquisition in half.

Two questions, both answered by reading, never by running:

- may this frame be cut where it stands? (`is_protected`: whose code it is; `is_cleanup`: where it stands)
- before which instructions may an exception be raised? (`points_of`: a statement's first, with its ``try`` in force)
"""

from __future__ import annotations

import dis
import functools
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import CodeType, FrameType

PROTECTED_MODULES: Final = frozenset(
    {
        # A module half imported is dropped, while what it registered stays.
        "importlib", "zipimport",
        # Locks, queues, waiters: a lock left held, an item taken and lost.
        "concurrent", "multiprocessing", "queue", "selectors", "threading", "weakref",
        # Their own code ends a loop when it is cut; a loop is interrupted through `task.cancel`.
        "anyio", "asyncio", "uvloop",
        # Half of an acquisition or of a release.
        "contextlib", "logging", "subprocess", "tempfile",
        # Connections and pools: a reply left unread goes to the next caller.
        "MySQLdb", "aiohttp", "amqp", "asyncpg", "botocore", "ftplib", "grpc", "http", "httpcore", "imaplib", "kombu",
        "mysql", "pika", "poplib", "psycopg", "psycopg2", "psycopg_pool", "pymongo", "pymysql", "redis", "smtplib",
        "socket", "sqlalchemy", "sqlite3", "ssl", "urllib3", "valkey",
        # This package.
        "poolrt",
    }
)  # fmt: skip
"""Top-level modules whose frames, and everything they call, are cut only as a last resort."""

PROTECTED_FUNCTIONS: Final = frozenset({"__enter__", "__exit__", "__aenter__", "__aexit__", "__del__"})
"""Names of functions, in any module, that acquire or release; what `__del__` raises is lost besides."""

OPEN_FUNCTIONS: Final = frozenset({("contextlib", "inner")})
"""Not protected all the same: contextlib's ``inner`` runs the whole of a function decorated with a context manager."""

OPEN_MODULES: Final = frozenset({"poolrt.cli.demo.tasks"})
"""Modules that are users' code by what they do: the demo's tasks."""

_END_OF_STATEMENT: Final = (
    "STORE_", "DELETE_", "POP_", "JUMP_BACKWARD", "JUMP_FORWARD", "RETURN_", "RAISE_", "RERAISE", "NOP",
    "END_FOR",
)  # fmt: skip
"""How the names of instructions begin after which nothing of an unfinished expression is held."""


class Points(NamedTuple):
    """Offsets of one code object's instructions, in bytes."""

    raisable: frozenset[int]
    """First instructions of statements, outside cleanups, whose ``try`` or ``with`` is in force already."""
    cleanup: frozenset[int]
    """Instructions of ``finally`` bodies, however they are reached, and of the end of ``with`` blocks."""


def is_protected(frame: FrameType) -> bool:
    """Whether ``frame`` runs code that may not be cut, nor what it calls."""
    name = frame.f_code.co_name
    if name in PROTECTED_FUNCTIONS:
        return True
    module = module_of(frame)
    if module not in PROTECTED_MODULES or (module, name) in OPEN_FUNCTIONS:
        return False
    return frame.f_globals.get("__name__") not in OPEN_MODULES


def is_cleanup(frame: FrameType) -> bool:
    """Whether ``frame`` stands in a cleanup of its own: a ``finally``, or the end of a ``with``."""
    code = frame.f_code
    return bool(code.co_exceptiontable) and frame.f_lasti in points_of(code).cleanup


def module_of(frame: FrameType) -> str:
    """The top-level name of the frame's module; empty for code that was made without one."""
    name = frame.f_globals.get("__name__")
    return name.partition(".")[0] if isinstance(name, str) else ""


@functools.lru_cache(maxsize=256)
def points_of(code: CodeType) -> Points:
    """Read ``code``: about 1 ms for each 1,000 bytes of it, once.

    The compiler writes a ``finally`` body twice, for the way with an exception and for the one without; both copies
    carry the same lines, and only the first is recognizable. So cleanups are told by their lines.
    """
    bytecode = code.co_code
    lines = _lines(code, len(bytecode) // 2)
    table = dis.Bytecode(code).exception_entries  # type: ignore[attr-defined]  # typeshed has forgotten it
    finals, withs = _cleanups(table, bytecode, lines)
    entered = {*(entry.start for entry in table), *dis.findlabels(bytecode)}  # type: ignore[arg-type]  # it takes bytes alone
    raisable, cleanup = set(), set()
    before, previous = "", ""
    for offset in range(0, len(bytecode), 2):
        line = lines[offset // 2]
        name = dis.opname[bytecode[offset]]
        if line in finals or offset >= withs.get(line, len(bytecode)):
            cleanup.add(offset)
        elif (
            line is not None
            and offset
            and line != lines[offset // 2 - 1]
            and previous.startswith(_END_OF_STATEMENT)
            # A `try` is a NOP, not covered by itself yet: what was acquired before it would be lost. The same holds for
            # the line of a `with`, and for what follows a `try` whose body is nothing: the compiler drops its handler.
            and name != "NOP"
            and (not before == previous == "NOP" or offset in entered)
            and line not in withs
        ):
            raisable.add(offset)
        if name != "CACHE":
            before, previous = previous, name
    return Points(frozenset(raisable), frozenset(cleanup))


def _lines(code: CodeType, units: int) -> list[int | None]:
    """The line of each two-byte unit; an inline cache has its instruction's: a frame in a call points into it."""
    lines: list[int | None] = [None] * units
    for start, end, line in code.co_lines():
        lines[start // 2 : end // 2] = [line] * (end // 2 - start // 2)
    return lines


def _cleanups(
    table: Sequence[Any], bytecode: bytes, lines: list[int | None]
) -> tuple[set[int | None], dict[int | None, int]]:
    """Lines of ``finally`` bodies, and for each line of a ``with`` the offset from which it is inside or at its end."""
    finals: set[int | None] = set()
    withs: dict[int | None, int] = {}
    for handler in {entry.target for entry in table}:
        if dis.opname[bytecode[handler]] != "PUSH_EXC_INFO":
            continue
        if dis.opname[bytecode[handler + 2]] == "WITH_EXCEPT_START":
            line = lines[handler // 2]
            began = min(entry.start for entry in table if entry.target == handler)
            withs[line] = min(began, withs.get(line, began))
        elif _is_finally(bytecode, handler):
            # A handler's body is covered itself, by the instructions behind it that drop its exception.
            end = min((entry.target for entry in table if entry.start <= handler < entry.end), default=handler)
            finals.update(lines[handler // 2 + 1 : end // 2])
    finals.discard(None)
    return finals, withs


def _is_finally(bytecode: bytes, handler: int) -> bool:
    """Whether the handler is a ``finally``: an ``except`` first compares the exception, or drops it if it is bare."""
    for offset in range(handler + 2, len(bytecode), 2):
        name = dis.opname[bytecode[offset]]
        if name in {"CHECK_EXC_MATCH", "CHECK_EG_MATCH"} or (name == "POP_TOP" and offset == handler + 2):
            return False
        if "JUMP" in name or name.startswith(("RERAISE", "RAISE", "RETURN")):
            break
    return True
