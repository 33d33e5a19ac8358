"""Where a storm's messages are: a SQLite file, or a server of the storm's own, which is hit as well.

SqliteStore   a file; its journal is written by triggers
RedisStore    tests/servers.py runs the server: killed, stopped, its clients cut off, its scripts forgotten
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection
from pathlib import Path
from sqlite3 import connect
from typing import Any, Final

import msgspec

from stress.chaos.account import ONE_FILE, Admitted
from stress.chaos.aof_journal import OPTIONS, AofJournal
from stress.chaos.journal import Journal
from tests.servers import Server

LEASE: Final = 3.0
"""Seconds; of the nodes on a server."""
TIMEOUT: Final = 2.0
"""Seconds a broker call may take: less than the tasks' limit, since one of them enqueues."""
_OF_NO_TASK: Final = frozenset(
    {"msg", "delayed", "nodes", "beats", "cancel", "waiters", "quarantine", "opens", "slots"}
)
_OF_NO_TASK_EACH: Final = frozenset({"ready", "suspect", "held", "own", "behind", "open"})

Later = Callable[[float, Callable[[], object]], None]


class SqliteStore:
    """A file."""

    admitted = ONE_FILE
    flags: Final[dict[str, object]] = {}

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "broker"
        self._folder.mkdir()
        self._database = self._folder / "storm.db"
        self.url = f"sqlite:///{self._database}"
        self.journal = Journal(self._database)

    def left(self, nodes: Collection[str]) -> list[str]:
        """What lies about that should not."""
        name = self._database.name
        known = {name, f"{name}-claims", f"{name}-nodes"}
        known |= {f"{name}-nodes/{node}.{kind}" for node in nodes for kind in ("lock", "board")}
        found = {str(path.relative_to(self._folder)) for path in self._folder.rglob("*")} - known
        return [f"left in broker/: {path}" for path in sorted(found)]

    def planned_left(self) -> list[str]:
        """The ids of groups that are known, and of what is planned."""
        db = connect(self._database)
        try:
            found = [each for (each,) in db.execute("select id from member_group union all select id from planned")]
            rows = "select 'row of group ' || grp from {} where grp not in (select seq from member_group)"
            return found + [each for table in ("filled", "group_plan") for (each,) in db.execute(rows.format(table))]
        finally:
            db.close()

    def hit(self, how: str, seconds: float, later: Later) -> bool:
        """There is no server."""
        raise NotImplementedError(how)

    def close(self) -> None:
        """Nothing runs."""


class RedisStore:
    """A server with an append-only file.

    Args:
        folder: the storm's.
        fsync: ``always`` or ``everysec``: what a kill of the server alone loses is nothing in either.
    """

    admitted = Admitted(unsettled=96, placed={"make": 50}, forgotten=2)
    flags: Final[dict[str, object]] = {"lease": f"{LEASE:g}s"}

    def __init__(self, folder: Path, fsync: str) -> None:
        place = folder / "server"
        place.mkdir()
        self.server = Server(place, appendfsync=fsync, **OPTIONS).start()
        self.url = self.server.url(timeout=f"{TIMEOUT:g}s")
        self._away = False
        self.journal = AofJournal(place)

    def hit(self, how: str, seconds: float, later: Later) -> bool:
        """Do something to the server, and undo it ``later``; whether it was there."""
        if self._away:
            return False
        match how:
            case "kill":
                self._away = True
                self.server.kill()
                later(seconds, self._back)
            case "stall" | "outlast":
                self._away = True
                self.server.pause()
                later(seconds, self._back)
            case "cut":
                self._ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                self._ask("CLIENT", "KILL", "TYPE", "pubsub")
            case "flush":
                self._ask("SCRIPT", "FLUSH")
            case _:
                raise NotImplementedError(how)
        return True

    def _back(self) -> None:
        self._away = False
        if self.server.process is None:
            self.server.start()
        else:
            self.server.go_on()

    def _ask(self, *command: str) -> Any:
        return self.server.call(*command)

    def left(self, nodes: Collection[str]) -> list[str]:
        """What the server holds that should not be there any more; and a gate that counts a slot in use."""
        gates = self._ask("HGETALL", "{poolrt}:gates")
        found = [
            f"left on the server: {busy} slots in use of the gate {key}"
            for key, packed in zip(gates[::2], gates[1::2], strict=True)
            if (busy := msgspec.msgpack.decode(packed.encode(errors="surrogateescape"))[4])
        ]
        found += [f"a sweep found slots in use of the gate {key} that were not" for key in self.journal.mended_gates()]
        for key in sorted(self._ask("KEYS", "*")):
            kind, _, rest = key.partition("}:")[2].partition(":")
            if (kind in _OF_NO_TASK and not rest) or kind in _OF_NO_TASK_EACH:
                found.append(f"left on the server: {key}: {self._ask('TYPE', key)}")
        return found

    def planned_left(self) -> list[str]:
        """The ids of groups that are known, and of what is planned."""
        found: list[str] = [
            task_id for name in ("planned", "groups") for task_id in self._ask("ZRANGE", f"{{poolrt}}:{name}", 0, -1)
        ]
        keys = (key.partition("}:")[2].partition(":") for key in self._ask("KEYS", "*"))
        return found + [rest for kind, _, rest in keys if kind in ("group", "filled")]

    def close(self) -> None:
        """End the server."""
        self.server.kill()


Store = SqliteStore | RedisStore


def made_for(options: argparse.Namespace, folder: Path) -> Store:
    """The store that the command line asks for."""
    return RedisStore(folder, options.fsync) if options.broker == "redis" else SqliteStore(folder)
