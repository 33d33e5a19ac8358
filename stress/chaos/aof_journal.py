"""What became of each message, from the server's append-only file: an oracle that the runtime neither feeds nor reads.

    broker ──scripts──▶ server ──every write, in order──▶ appendonlydir/*.incr.aof ──reads──▶ the test

A script's writes stand there as one transaction, or not at all if the server was killed in it. The file must never be
rewritten (``auto-aof-rewrite-percentage 0``). What changed nothing is not in it: a record that is refused because the
id has one shows as a delivery that ended although its message had ended before.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from stress.chaos.journal import ENDED, KEPT, MOVED, PLACED, TWICE, UNHELD, Entry

OPTIONS: Final = {
    "appendonly": "yes",
    "auto_aof_rewrite_percentage": "0",
    "aof_timestamp_enabled": "yes",
    "aof_load_truncated": "yes",
}
"""How a server must be started to be read here; Redis 7 or Valkey."""

_QUEUED, _SUSPECT, _DELAYED, _RESERVED = range(4)
_RECORD: Final = 10
_PLACES: Final = {"ready": _QUEUED, "suspect": _SUSPECT, "delayed": _DELAYED}

Command = list[bytes]
_decode = msgspec.msgpack.Decoder(list[object]).decode


class AofJournal:
    """The journal of one server.

    Args:
        folder: the server's.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def install(self) -> None:
        """Nothing is to be done: the server writes it."""

    def read(self) -> dict[str, list[Entry]]:
        """What happened to each message, in order."""
        reader = _Reader()
        for moment, transaction in self._transactions():
            reader.take(moment, transaction)
        return reader.lives

    def mended_gates(self) -> set[str]:
        """The gates whose slots in use a sweep had to count anew: somebody had not given one back."""
        found = set()
        for _, transaction in self._transactions():
            written = [
                (name.upper(), key.partition(b"}:")[2], *rest)
                for name, key, *rest in (each for each in transaction if each[2:])
            ]
            if any(words[:2] == (b"SET", b"swept") for words in written):
                found |= {words[2].decode(errors="replace") for words in written if words[:2] == (b"HSET", b"gates")}
        return found

    def _transactions(self) -> Iterator[tuple[float, list[Command]]]:
        files = sorted(self._folder.glob("appendonlydir/*.incr.aof")) or [self._folder / "appendonly.aof"]
        for path in files:
            with open(path, "rb") as file:
                yield from _transactions(file)


def _transactions(file: BinaryIO) -> Iterator[tuple[float, list[Command]]]:
    """Each transaction, or command outside of one, with the second in which it was written."""
    moment, open_one = 0.0, None
    while line := file.readline():
        if line.startswith(b"#TS:"):
            moment = float(line[4:])
        elif line.startswith(b"*"):
            command = _command(file, int(line[1:]))
            if command is None:
                return  # cut by a kill, and nothing follows
            name = command[0].upper()
            if name == b"MULTI":
                open_one = []
            elif name == b"EXEC":
                yield moment, open_one or []
                open_one = None
            elif open_one is not None:
                open_one.append(command)
            else:
                yield moment, [command]


def _command(file: BinaryIO, words: int) -> Command | None:
    command = []
    for _ in range(words):
        length = file.readline()
        if not length.endswith(b"\r\n"):
            return None
        word = file.read(int(length[1:]) + 2)
        if not word.endswith(b"\r\n"):
            return None
        command.append(word[:-2])
    return command


class _Reader:
    """Follows every message through the transactions."""

    def __init__(self) -> None:
        self.lives: dict[str, list[Entry]] = defaultdict(list)
        self._lost: dict[str, int] = {}
        """The messages that have not ended, each with its count of lost deliveries."""
        self._held: dict[str, dict[bytes, list[str]]] = defaultdict(dict)
        """What each owner holds: reserve number -> ids."""
        self._holders: dict[str, str] = {}
        self._moment = 0.0
        self._written = 0
        self._ended: set[str] = set()
        self._put: set[str] = set()

    def take(self, moment: float, transaction: list[Command]) -> None:
        """Take in one transaction."""
        self._moment = moment
        self._ended, self._put = set(), set()
        before: dict[str, set[tuple[bytes, str]]] = {}
        for name, key, *rest in (each for each in transaction if len(each) > 1):
            _, _, what = key.decode(errors="replace").partition("}:")
            kind, _, owner = what.partition(":")
            if kind == "held":
                before.setdefault(owner, self._holds(owner))
                self._hold(name.upper(), owner, rest)
            else:
                self._apply(name.upper().decode(), kind, rest)
        changes = [(owner, then, self._holds(owner)) for owner, then in before.items()]
        for owner, then, now in changes:
            for _, task_id in then - now:
                self._taken(owner, task_id)
        for owner, then, now in changes:
            for _, task_id in now - then:
                self._write(task_id, TWICE if task_id in self._holders else MOVED, _RESERVED, owner)
                self._holders[task_id] = owner

    def _taken(self, owner: str, task_id: str) -> None:
        """An owner holds it no more: it ended, or was put back; else it ended before, or is lost."""
        if self._holders.get(task_id) == owner:
            del self._holders[task_id]
        if task_id not in self._ended and task_id not in self._put:
            self._write(task_id, UNHELD if task_id in self._lost else KEPT, _RECORD, owner)

    def _holds(self, owner: str) -> set[tuple[bytes, str]]:
        return {(number, task_id) for number, ids in self._held[owner].items() for task_id in ids}

    def _hold(self, name: bytes, owner: str, words: Command) -> None:
        held = self._held[owner]
        if name == b"HSET":
            for number, packed in zip(words[::2], words[1::2], strict=True):
                held[number] = [str(each) for each in _decode(packed) if each]
        else:
            for number in words if name == b"HDEL" else list(held):  # else DEL or UNLINK
                held.pop(number, None)

    def _apply(self, name: str, kind: str, raw: Command) -> None:
        words = [word.decode(errors="surrogateescape") for word in raw]
        if kind == "msg" and name in ("HSET", "HSETNX"):
            for task_id, value in zip(words[::2], raw[1::2], strict=True):
                self._message(task_id, value)
        elif kind == "msg" and name == "HDEL":
            for task_id in words:
                if self._lost.pop(task_id, None) is not None:
                    self._ended.add(task_id)
                    self._write(task_id, ENDED, _RESERVED)
        elif kind == "res" and name in ("HSET", "HSETNX"):
            for task_id in words[::2]:
                self._write(task_id, KEPT, _RECORD)
        elif kind in _PLACES and name == "ZADD":
            for task_id in words[1::2]:
                self._put.add(task_id)
                if task_id in self._holders or kind == "delayed":
                    self._write(task_id, MOVED, _PLACES[kind])

    def _message(self, task_id: str, value: bytes) -> None:
        lost = _decode(value)[1]
        new = task_id not in self._lost
        self._lost[task_id] = int(str(lost))
        if new:
            self._write(task_id, PLACED, _QUEUED)

    def _write(self, task_id: str, what: str, state: int, note: str = "") -> None:
        self._written += 1
        self.lives[task_id].append(Entry(self._moment, what, state, self._lost.get(task_id, 0), note, self._written))
