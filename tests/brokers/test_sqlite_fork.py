"""SQLite: no connection crosses a fork, and where one did it is not used."""

from __future__ import annotations

import gc
import os
import subprocess
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest

from poolrt.brokers.sqlite import SqliteBroker, fork
from poolrt.brokers.sqlite.store import Store
from poolrt.message import Enqueue, new_task_id

Script = Callable[..., subprocess.Popen[str]]
Open = Callable[..., SqliteBroker]


def put(broker: SqliteBroker, envelope: bytes = b"") -> str:
    task = new_task_id()
    assert broker.enqueue([Enqueue(task, envelope, "default", 0, None)]) == [True]
    return task


FORKED_INSIDE = """
import os, sys
from poolrt.brokers.sqlite import SqliteBroker
from poolrt.errors import BrokerError
from poolrt.message import Enqueue
broker = SqliteBroker(sys.argv[1])
put = lambda name: broker.enqueue([Enqueue(name, b"", "default", 0, None)])
put("before")
parent, code = os.getpid(), 0
try:
    pid = broker._store.write(lambda db: os.fork())
except BrokerError as error:
    code += "middle of a call" in str(error)
if os.getpid() != parent:
    try:
        put("child")
    except BrokerError as error:
        code += "middle of a call" in str(error)
    os._exit(7 if code == 2 else 1)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
put("after")
assert broker._store.read(lambda db: db.execute("pragma integrity_check").fetchone()) == ("ok",)
broker.close()
print("good")
"""


FORKED_BY_C = """
import ctypes, os, sys
from poolrt.brokers.sqlite import SqliteBroker
from poolrt.errors import BrokerError
from poolrt.message import Enqueue
broker = SqliteBroker(sys.argv[1])
put = lambda name: broker.enqueue([Enqueue(name, b"", "default", 0, None)])
put("before")
pid = ctypes.PyDLL(None).fork()
if pid == 0:
    try:
        put("child")
    except BrokerError as error:
        os._exit(7 if "C code forked" in str(error) else 1)
    os._exit(1)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
put("after")
broker.close()
print("good")
"""


@pytest.mark.parametrize("source", [FORKED_INSIDE, FORKED_BY_C], ids=["inside a call", "by C code"])
def test_a_fork_that_cannot_close_first(file: Path, script: Script, source: str) -> None:
    """Where the connection could not be closed before the fork, the child refuses to use it, and the parent goes on."""
    process = script("import warnings; warnings.simplefilter('ignore')\n" + source, file)
    said, _ = process.communicate()
    assert said == "good\n"


def test_a_fork_finds_the_connection_closed(file: Path, open_broker: Open) -> None:
    """No descriptor of the database crosses a fork: the hook closes them, and the next call opens them again."""
    broker = open_broker()
    task = put(broker)
    fork._before()
    try:
        targets = [
            os.readlink(f"/proc/self/fd/{fd}")
            for fd in os.listdir("/proc/self/fd")
            if fd.isdigit() and os.path.exists(f"/proc/self/fd/{fd}")
        ]
    finally:
        fork._after_in_parent()
    assert not [target for target in targets if target.startswith(str(file))]
    assert broker.find(task)


def test_stores_are_forgotten(node_dir: Path) -> None:
    """The fork hooks keep no broker alive."""
    broker = SqliteBroker(node_dir / "q.db")
    store: weakref.ref[Store] = weakref.ref(broker._store)
    del broker
    gc.collect()
    assert store() is None
