"""SQLite: each way the machine or another process can be in the way, and that the broker works again after it."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from poolrt.brokers.sqlite import SqliteBroker
from poolrt.errors import (
    BrokerBusy,
    BrokerCorrupt,
    BrokerFull,
    BrokerReadOnly,
    Fenced,
)
from poolrt.message import Enqueue, Owner, new_task_id

Script = Callable[..., subprocess.Popen[str]]
Open = Callable[..., SqliteBroker]


def put(broker: SqliteBroker, envelope: bytes = b"") -> str:
    task = new_task_id()
    assert broker.enqueue([Enqueue(task, envelope, "default", 0, None)]) == [True]
    return task


def test_a_full_database(open_broker: Open) -> None:
    """SQLITE_FULL is BrokerFull; nothing of that call is stored, and with room again the same object works."""
    broker = open_broker()
    task = put(broker)
    store = broker._store
    limit = store.read(lambda db: db.execute("pragma page_count").fetchone()[0])
    store.read(lambda db: db.execute(f"pragma max_page_count = {limit + 2}").fetchone())
    with pytest.raises(BrokerFull, match="make room"):
        put(broker, b"x" * 100_000)
    assert broker.find(task)
    assert broker.depth().queued == 1
    store.read(lambda db: db.execute("pragma max_page_count = 1000000").fetchone())
    put(broker, b"x" * 100_000)


NO_ROOM = """
import resource, signal, sys
from poolrt.brokers.sqlite import SqliteBroker
from poolrt.errors import BrokerFull
from poolrt.message import Enqueue
broker = SqliteBroker(sys.argv[1])
put = lambda name: broker.enqueue([Enqueue(name, b"x" * 50_000, "default", 0, None)])
put("first")
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
try:
    for number in range(100):
        put(f"more-{number}")
    print("never full")
except BrokerFull:
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert broker.find(f"more-{number}") is None and broker.find(f"more-{number - 1}")
    put(f"more-{number}")
    assert broker.depth().queued == number + 2
    print("full, then good")
broker.close()
"""


def test_no_room_to_write(file: Path, script: Script) -> None:
    """A write that the system refuses for want of room is BrokerFull too, and passes with it."""
    said, _ = script(NO_ROOM, file).communicate()
    assert said == "full, then good\n"


READ_ONLY = """
import os, sys
from poolrt.brokers.sqlite import SqliteBroker
from poolrt.errors import BrokerReadOnly
from poolrt.message import Enqueue
os.chdir(sys.argv[1])
warm = SqliteBroker("warm.db")  # nobody may not be allowed to read the modules that load with the first call
warm.depth()
warm.close()
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
broker = SqliteBroker("q.db")
put = lambda name: broker.enqueue([Enqueue(name, b"", "default", 0, None)])
put("first")
broker.close()
said = []
def attempt():
    try:
        put("more")
        said.append("stored")
    except BrokerReadOnly:
        said.append("read-only")
os.chmod("q.db", 0o400); attempt(); os.chmod("q.db", 0o600)
os.chmod("q.db-claims", 0o400); attempt(); os.chmod("q.db-claims", 0o600)
os.chmod(".", 0o500); attempt(); os.chmod(".", 0o700)
put("last")
assert broker.find("last") and broker.find("more") is None
broker.close()
print(*said)
"""


def test_a_read_only_store(node_dir: Path, private_tmp: Path, script: Script) -> None:
    """A file, lock or folder that cannot be written is BrokerReadOnly, and works when it can again."""
    if os.geteuid() == 0:  # root may write whatever the mode says, so the script becomes nobody
        os.chown(node_dir, 65534, 65534)
        private_tmp.chmod(0o711)
    try:
        said, _ = script(READ_ONLY, node_dir).communicate()
    finally:
        private_tmp.chmod(0o700)
    assert said == "read-only read-only read-only\n"


def test_a_read_only_connection(open_broker: Open) -> None:
    """SQLITE_READONLY is BrokerReadOnly."""
    broker = open_broker()
    task = put(broker)
    broker._store.read(lambda db: db.execute("pragma query_only = 1"))
    with pytest.raises(BrokerReadOnly, match="permissions"):
        put(broker)
    broker._store.read(lambda db: db.execute("pragma query_only = 0"))
    assert broker.find(task)
    put(broker)


def test_a_damaged_file(file: Path, open_broker: Open) -> None:
    """Pages full of garbage are BrokerCorrupt, which says how to look at them."""
    broker = open_broker()
    broker.enqueue([Enqueue(new_task_id(), b"x" * 2000, "default", 0, None) for _ in range(100)])
    broker.close()
    with file.open("r+b") as raw:
        raw.seek(4096)
        raw.write(b"\xa5" * 40_000)
    with pytest.raises(BrokerCorrupt, match="integrity_check"):
        put(broker)


def test_a_deleted_file(file: Path, open_broker: Open) -> None:
    """A file deleted while in use is said so, once, instead of being written to where nobody sees it."""
    broker = open_broker()
    broker.join("inc", "node")
    broker.attach(Owner("inc", 0, 1))
    put(broker)
    file.unlink()
    with pytest.raises(BrokerCorrupt, match="was deleted"):
        broker.nudge()
    put(broker)
    assert broker.depth().queued == 1
    with pytest.raises(Fenced):
        broker.settle([], 1, 1)


REPLACED = """
import os, sys
from poolrt.brokers.sqlite import SqliteBroker
from poolrt.errors import BrokerCorrupt
from poolrt.message import Enqueue
path = sys.argv[1]
put = lambda broker, name: broker.enqueue([Enqueue(name, b"", "default", 0, None)])
old, new = SqliteBroker(path), SqliteBroker(path + ".new")
put(old, "old")
put(new, "new")
new.close()
os.replace(path + ".new", path)
try:
    old.promote()
except BrokerCorrupt as error:
    print("replaced" in str(error))
try:
    put(old, "more")
except BrokerCorrupt as error:
    print(f"remove {path}-wal" in str(error))
"""


def test_a_replaced_file(file: Path, script: Script) -> None:
    """Another file under the name is noticed and not opened: SQLite would apply the old file's WAL to it."""
    said, _ = script(REPLACED, file).communicate()
    assert said == "True\nTrue\n"


# ---- others in the way

HOLD = {
    "the write lock": """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("begin immediate")
print("held", flush=True)
sys.stdin.read()
""",
    "the claims lock": """
import sys
from poolrt.posix.locks import RecordLock
lock = RecordLock(sys.argv[1] + "-claims")
lock.acquire()
print("held", flush=True)
sys.stdin.read()
""",
}


@pytest.mark.parametrize("what", HOLD)
def test_a_stopped_holder_blocks_nobody_for_ever(file: Path, open_broker: Open, script: Script, what: str) -> None:
    """BrokerBusy after the timeout while a stopped process holds a lock; with its death all works again."""
    broker = open_broker(timeout=0.3)
    task = put(broker)
    holder = script(HOLD[what], file)
    assert holder.stdout is not None
    holder.stdout.readline()
    holder.send_signal(signal.SIGSTOP)
    started = time.monotonic()
    with pytest.raises(BrokerBusy, match="try again"):
        put(broker)
    assert 0.3 <= time.monotonic() - started < 3
    assert broker.find(task), "readers do not wait for writers"
    holder.kill()
    holder.wait()
    put(broker)


def test_another_thread_in_the_way(open_broker: Open) -> None:
    """A thread that stays inside a call makes the others' calls end in BrokerBusy, not hang."""
    broker = open_broker(timeout=0.2)
    inside, leave = threading.Event(), threading.Event()

    def stay(db: sqlite3.Connection) -> None:
        inside.set()
        leave.wait(10)

    thread = threading.Thread(target=broker._store.read, args=(stay,))
    thread.start()
    inside.wait()
    with pytest.raises(BrokerBusy, match="another thread"):
        broker.depth()
    leave.set()
    thread.join()
    assert broker.depth().queued == 0


KILLED_INSIDE = """
import sys
from poolrt.brokers.sqlite import SqliteBroker
from poolrt.brokers.sqlite import placing
from poolrt.message import Enqueue
broker = SqliteBroker(sys.argv[1])
def work(db):
    placing.place(db, [Enqueue(f"lost-{k}", b"x" * 3000, "default", 0, None) for k in range(3000)], 0.0, placing.News())
    print("inside", flush=True)
    sys.stdin.read()
broker._store.write(work)
"""


def test_a_kill_inside_a_transaction(file: Path, open_broker: Open, script: Script) -> None:
    """What was not committed never happened, the locks are free at once, and the file is sound."""
    broker = open_broker()
    task = put(broker)
    process = script(KILLED_INSIDE, file)
    assert process.stdout is not None
    process.stdout.readline()
    process.kill()
    process.wait()
    put(broker)
    assert broker.depth().queued == 2
    assert broker.find(task)
    assert broker._store.read(lambda db: db.execute("pragma integrity_check").fetchone()) == ("ok",)


SHARE = """
import sys
from poolrt.brokers.sqlite import SqliteBroker
from poolrt.message import Outcome, Owner
from poolrt.states import TaskState
broker = SqliteBroker(sys.argv[1])
broker.attach(Owner("inc", int(sys.argv[2]), 1))
print("up", flush=True)
sys.stdin.readline()
n, held, done = 1, broker.settle([], 1, 1).deliveries, 0
while held:
    n, done = n + 1, done + len(held)
    held = broker.settle([Outcome(d, TaskState.SUCCEEDED) for d in held], 1, n).deliveries
print(done)
broker.close()
"""


def test_claims_are_fair(file: Path, open_broker: Open, script: Script) -> None:
    """Eight processes that ask as fast as they can each get a share: none starves, as with SQLite's own waiting."""
    broker = open_broker()
    broker.join("inc", "node")
    processes = [script(SHARE, file, slot) for slot in range(8)]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    tasks = 4000
    broker.enqueue([Enqueue(new_task_id(), b"", "default", 0, None) for _ in range(tasks)])
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    shares = [int(process.communicate()[0]) for process in processes]
    assert sum(shares) == tasks
    assert min(shares) * 6 > max(shares), shares
