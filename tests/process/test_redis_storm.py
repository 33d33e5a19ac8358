"""The small storm of ``stress.chaos`` on a server, one act of ``stress.cluster``, and that the server's file tells."""

import os
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

import msgspec
import pytest

from poolrt import App
from stress.chaos import flows
from stress.chaos.account import Admitted, Ledger, account
from stress.chaos.aof_journal import AofJournal
from stress.chaos.journal import ENDED, KEPT, MOVED, PLACED, TWICE, UNHELD, Entry, complaints
from stress.chaos.stores import RedisStore

ROOT = Path(__file__).parents[2]
SKIPPED = 77


def run(module: str, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=55, check=False
    )


def test_a_small_storm_on_a_server_loses_nothing(redis_server):
    """320 mixed tasks on two nodes whose processes are killed and stopped, while the server is killed and stopped, cuts
    its clients off and forgets its scripts, and some tasks are cancelled: no limit is broken either."""
    # What it says of time holds on a machine that has nothing else to do.
    done = run(
        "stress.chaos", "storm", "--broker", "redis", "--nodes", "2", "--tasks", "320", "--every", "0.3",
        "--seed", "1210", "--reclaim-within", "25",
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "0 lost, 0 ended twice" in done.stdout
    assert "0 started after that was acknowledged" in done.stdout
    assert re.search(r"\nchain +10 .*\nchord +4 ", done.stdout)
    assert done.stdout.endswith("VERDICT: all kept\n")
    for fault in ("kill server", "stall server", "cut clients", "flush scripts"):
        assert f"1 {fault}\n" in done.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make network namespaces")
@pytest.mark.skipif(shutil.which("ip") is None, reason="there is no `ip` (iproute2)")
def test_a_node_that_is_cut_off_is_rescued_and_comes_back(redis_server):
    """Three machines in namespaces of the kernel: one is cut off for longer than its lease."""
    done = run("stress.cluster", "--acts", "cut")
    if done.returncode == SKIPPED:
        pytest.skip(done.stdout.strip().splitlines()[-1])
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "0 lost, 0 ended twice" in done.stdout
    assert "ok    it fenced itself" in done.stdout
    runs = {path.name.split("-")[2] for path in Path("/run/netns").glob("poolrt-cluster-*")}
    assert all(Path("/proc", pid).exists() for pid in runs), "its namespaces are left"


def test_a_steward_is_not_replaced_because_the_server_is_silent(own_servers, serve):
    """Each of its calls then takes as long as it may; its loop goes round."""
    server = own_servers.server()
    node = serve(env={"TEST_BROKER": server.url()}, concurrency=1, lease="5s").wait_up(1)
    server.pause()
    node.wait(lambda: node.status()["lease"]["until_in"] < -1.0, "the lease has run out a second ago")
    assert node.events("steward-replaced") == []
    server.go_on()
    node.wait_event("node-resumed")


def test_what_is_left_of_a_workflow_on_a_server_is_seen(place, redis_server):
    """A chord that nobody runs: its group in both places, and its body, which is planned."""
    store = RedisStore(place, "everysec")
    app = App("left", broker=store.url)
    for name in ("member", "body"):
        app.task(name=name)(lambda *arguments: None)
    flows.enqueue(app, flows.calls(1, flows.Flows(0, 1, 0), 13, 1.0)[0])
    left = store.planned_left()
    app.close()
    store.close()
    assert sorted(left) == ["chord-00013", "chord-00013:g", "chord-00013:g"]


class AofFile:
    """A server's file that a test writes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "appendonlydir").mkdir()
        self.path = folder / "appendonlydir" / "appendonly.aof.1.incr.aof"
        self.path.write_bytes(b"#TS:1700000000\r\n")

    def transaction(self, *commands: tuple[object, ...]) -> None:
        """What one script wrote."""
        with open(self.path, "ab") as file:
            for command in (("MULTI",), *commands, ("EXEC",)):
                words = [word if isinstance(word, bytes) else str(word).encode() for word in command]
                file.write(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words))

    def enqueue(self, task_id: str) -> None:
        self.transaction(
            ("HSET", "{poolrt}:msg", task_id, msgspec.msgpack.encode([1, 0, 0, 0, 0.0, "default", "t", task_id, ""])),
            ("ZADD", "{poolrt}:ready:default", 1, task_id),
        )

    def reserve(self, owner: str, *ids: str) -> None:
        self.transaction(
            ("ZREM", "{poolrt}:ready:default", *ids),
            ("HSET", f"{{poolrt}}:held:{owner}", 1, msgspec.msgpack.encode(ids)),
        )

    def settle(self, owner: str, task_id: str) -> None:
        self.transaction(
            ("HDEL", f"{{poolrt}}:held:{owner}", 1),
            ("HDEL", "{poolrt}:msg", task_id),
            ("HSETNX", "{poolrt}:res", task_id, "record"),
        )

    def life(self, task_id: str) -> list[str]:
        return [entry.what for entry in AofJournal(self.folder).read()[task_id]]

    def wrong(self, task_id: str) -> str:
        return "; ".join(complaints(AofJournal(self.folder).read()[task_id]))


@pytest.fixture
def aof(place) -> AofFile:
    """An empty file."""
    return AofFile(place)


def test_the_file_tells_of_a_good_life(aof):
    """Placed, reserved, put back by a rescue, reserved by another, ended; what a kill cut off is not read."""
    aof.enqueue("x")
    aof.reserve("one/1.1", "x")
    aof.transaction(("ZADD", "{poolrt}:suspect:default", 1, "x"), ("DEL", "{poolrt}:held:one/1.1"))
    aof.reserve("two/1.1", "x")
    aof.settle("two/1.1", "x")
    with open(aof.path, "ab") as file:
        file.write(b"*1\r\n$5\r\nMULTI\r\n*3\r\n$4\r\nHDEL\r\n$12\r\n{poolrt}:m")
    assert aof.life("x") == [PLACED, MOVED, MOVED, MOVED, ENDED, KEPT]
    assert not aof.wrong("x")


def test_the_file_tells_of_two_holders_and_of_two_outcomes(aof):
    """The second record of an id changes nothing and is not written; but a delivery ended whose message had ended."""
    aof.enqueue("x")
    aof.reserve("one/1.1", "x")
    aof.reserve("two/1.1", "x")
    aof.settle("one/1.1", "x")
    assert aof.life("x") == [PLACED, MOVED, TWICE, ENDED, KEPT]
    aof.transaction(("HDEL", "{poolrt}:held:two/1.1", 1))
    assert aof.wrong("x") == f"it was {TWICE}; it had 2 outcomes"


def test_the_file_tells_of_a_dropped_task(aof):
    """Taken from its owner and put nowhere, though it has not ended: lost."""
    aof.enqueue("x")
    aof.reserve("one/1.1", "x", "y")
    aof.transaction(("HDEL", "{poolrt}:held:one/1.1", 1))
    assert f"it was {UNHELD}" in aof.wrong("x")


def test_the_file_tells_of_a_slot_that_was_lost(aof):
    """A sweep writes a gate only if it counts its slots anew."""
    aof.transaction(("HSET", "{poolrt}:gates", "one", "x"), ("HSET", "{poolrt}:slots", "task", "one"))
    aof.transaction(("SET", "{poolrt}:swept", "1"), ("HDEL", "{poolrt}:slots", "task"))
    assert AofJournal(aof.folder).mended_gates() == set()
    aof.transaction(("SET", "{poolrt}:swept", "2"), ("HSET", "{poolrt}:gates", "two", "x"))
    assert AofJournal(aof.folder).mended_gates() == {"two"}


@pytest.mark.parametrize(("lives", "again"), [(2, 1), (3, 0)])
def test_the_account_admits_one_repeated_enqueue_of_what_leaves_no_record(place, lives, again):
    """Nobody remembers its id once it has ended; but a third time is no answer that was lost."""
    task_id = "noop-00001"
    moments = range(1, 2 * lives, 2)
    lines = [f"start {task_id} 1 0 100 {moment}\nend {task_id} 1 0 100 {moment + 1}" for moment in moments]
    (place / "ledger").write_text("\n".join(lines) + "\n")
    life = [Entry(1.0, PLACED, 0, 0), Entry(1.0, ENDED, 3, 0)] * lives
    app = types.SimpleNamespace(broker=types.SimpleNamespace(find=lambda task_id: None))
    made = account([task_id], app, Ledger(place / "ledger"), {task_id: life}, set(), Admitted(forgotten=2))
    assert (made.stored_again, made.doubled) == (again, 1 - again)
