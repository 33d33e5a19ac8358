"""Contract: what is promised holds between processes, and when they are killed at any instant."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from poolrt.brokers.base import Broker
from poolrt.errors import BrokerError
from poolrt.message import Enqueue, Outcome, Owner, Requeue, new_task_id
from poolrt.states import TaskState

Script = Callable[..., subprocess.Popen[str]]

# Settles and reserves until nothing is left. A line for each call: it is out before the next call, so that the reader
# knows between which two calls its kill fell. Some tasks retry once, some have a follow-up.
CHILD = """
import random, sys
from poolrt.brokers.urls import broker_from_url
from poolrt.message import Enqueue, Outcome, Owner
from poolrt.states import TaskState

url, slot, generation, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
rng = random.Random(seed)
broker = broker_from_url(url)
broker.attach(Owner("inc", slot, generation))
held, n = [], 0

def outcome(delivery):
    task = delivery.task_id
    if delivery.envelope == b"retry":
        return Outcome(delivery, None, follow_ups=(Enqueue(task, b"last", "default", 0, None),))
    links = (Enqueue(task + "-link", b"last", "default", 9, None),) if delivery.envelope == b"link" else ()
    return Outcome(delivery, TaskState.SUCCEEDED, b"record", follow_ups=links)

while True:
    n += 1
    settled = broker.settle([outcome(d) for d in held], rng.choice([1, 2, 4]), n)
    ended = [d.task_id for d in held if d.envelope != b"retry"]
    print("ended", settled.stale, *ended, flush=True)
    held = settled.deliveries
    if not held:
        break
    if rng.random() < 0.1:
        broker.release([held.pop()])
"""


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_children_lose_and_double_nothing(broker: Broker, script: Script, seed: int) -> None:
    """Four children, killed again and again at random points: every task ends once, and nothing stays held."""
    rng = random.Random(seed)
    kinds = {new_task_id(): rng.choice([b"plain", b"plain", b"retry", b"link"]) for _ in range(800)}
    broker.enqueue([Enqueue(task, kind, "default", rng.randrange(3), None) for task, kind in kinds.items()])
    expected = set(kinds) | {f"{task}-link" for task, kind in kinds.items() if kind == b"link"}
    ended: list[str] = []
    kills: list[int] = []
    lock = threading.Lock()

    def slot_of(slot: int, choices: random.Random) -> None:
        for generation in range(1, 100):
            process = script(CHILD, broker.url, slot, generation, choices.randrange(10**6))
            assert process.stdout is not None
            lines = choices.randrange(1, 8) if generation <= 4 else 10**9
            for line in process.stdout:
                _, stale, *tasks = line.split()
                with lock:
                    assert stale == "0"
                    ended.extend(tasks)
                lines -= 1
                if lines == 0:
                    process.send_signal(signal.SIGKILL)
                    break
            for line in process.stdout:  # what it still said before the signal came
                with lock:
                    ended.extend(line.split()[2:])
            kills.append(process.wait())
            broker.bury(Owner("inc", slot, generation), None)
            if process.returncode != -signal.SIGKILL:
                return

    threads = [threading.Thread(target=slot_of, args=(slot, random.Random(seed * 10 + slot))) for slot in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    last = script(CHILD, broker.url, 9, 1, 0)  # what the last ones to be buried had put back
    said, _ = last.communicate()
    ended += [task for line in said.splitlines() for task in line.split()[2:]]

    assert kills.count(-signal.SIGKILL) >= 2
    assert set(kills) <= {0, -signal.SIGKILL}
    assert len(ended) == len(set(ended)), "a task ended twice"
    found = {task: broker.find(task) for task in expected}
    assert [task for task, what in found.items() if what is None or what.record is None] == []
    depth = broker.depth()
    assert (depth.queued, depth.delayed, depth.reserved) == (0, 0, 0)
    # A child killed between the commit and its line has ended tasks that no line names: at most a batch for each kill.
    assert len(expected - set(ended)) <= 4 * 4 * 4


ENQUEUE_UNTIL_KILLED = """
import sys
from poolrt.brokers.urls import broker_from_url
from poolrt.message import Enqueue
broker = broker_from_url(sys.argv[1])
for number in range(10**6):
    broker.enqueue([Enqueue(f"{number}-{part}", b"x" * 500, "default", 0, None) for part in range(5)])
    print(number, flush=True)
"""


def test_what_enqueue_returned_for_survives_a_kill(broker: Broker, script: Script) -> None:
    """A SIGKILL in the middle of enqueueing leaves each call's messages whole: all that were told, none halved."""
    process = script(ENQUEUE_UNTIL_KILLED, broker.url)
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) == 200:
            process.kill()
            break
    rest = process.stdout.read().split()
    process.wait()
    told = int(rest[-1]) if rest else 200
    whole = [all(broker.find(f"{number}-{part}") for part in range(5)) for number in range(told + 1)]
    assert all(whole)
    assert broker.depth().queued in {(told + 1) * 5, (told + 2) * 5}


def test_threads_share_one_object(broker: Broker, child: Callable[..., Broker]) -> None:
    """Four threads enqueue, settle and look through one object each at once; all adds up."""
    client = child()
    failures: list[BaseException] = []

    def produce(number: int) -> None:
        try:
            for k in range(50):
                broker.enqueue([Enqueue(f"{number}.{k}", b"", "default", 0, None)])
                assert broker.find(f"{number}.{k}")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=produce, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    done, n, held = 0, 1, client.settle([], 5, 1).deliveries
    while done < 200 and not failures:
        done += len(held)
        n += 1
        held = client.settle([Outcome(d, TaskState.SUCCEEDED, b"") for d in held], 5, n).deliveries
    for thread in threads:
        thread.join()
    assert failures == []
    assert (done, broker.depth().queued) == (200, 0)


FORK = """
import os, sys, threading
from poolrt.brokers.urls import broker_from_url
from poolrt.errors import Fenced
from poolrt.message import Enqueue, Owner

broker = broker_from_url(sys.argv[1])
broker.attach(Owner("inc", 5, 1))
put = lambda name: broker.enqueue([Enqueue(name, b"", "default", 0, None)])
assert put("before") == [True]
stop = threading.Event()

def busy():
    for number in range(10**6):
        put(f"thread-{number}")
        if stop.is_set():
            return

thread = threading.Thread(target=busy)
if sys.argv[2] == "threaded":
    thread.start()
for number in range(15):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            assert put("before") == [False] and put(f"child-{number}") == [True]
            try:
                broker.settle([], 1, 1)
            except Fenced:  # the owner is the parent, not its fork
                code = 0
        finally:
            os._exit(code)
    assert put(f"parent-{number}") == [True]
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert broker.find(f"child-{number}") and put(f"child-{number}") == [False]
if thread.is_alive():
    stop.set()
    thread.join()
assert len(broker.settle([], 3, 1).deliveries) == 3
broker.close()
print("good")
"""


@pytest.mark.parametrize("how", ["alone", "threaded"])
def test_use_before_and_after_a_fork(broker: Broker, script: Script, how: str) -> None:
    """Parent and child both go on, also when another thread is in the middle of a call; the owner stays the parent."""
    process = script("import warnings; warnings.simplefilter('ignore')\n" + FORK, broker.url, how)
    said, _ = process.communicate()
    assert said == "good\n"
    assert process.returncode == 0
    assert broker.depth().queued >= 1 + 30 - 3


def test_close_and_use_again(broker: Broker, put: Callable[..., list[str]]) -> None:
    """Closing is not the end of the object: the next call opens it again."""
    (task,) = put()
    broker.close()
    broker.close()
    assert broker.find(task) is not None


def test_a_killed_child_is_counted_once(broker: Broker, script: Script) -> None:
    """A child killed while it holds a batch: what ran is lost once, the rest goes back; its old fences are stale."""
    tasks = [new_task_id() for _ in range(3)]
    broker.enqueue([Enqueue(task, b"", "default", 0, None) for task in tasks])
    process = script(
        "import sys, time\n"
        "from poolrt.brokers.urls import broker_from_url\n"
        "from poolrt.message import Owner\n"
        "broker = broker_from_url(sys.argv[1])\n"
        "broker.attach(Owner('inc', 0, 1))\n"
        "held = broker.settle([], 3, 7).deliveries\n"
        "print(held[1].i, flush=True)\n"
        "sys.stdin.read()\n",
        broker.url,
    )
    assert process.stdout is not None
    i = int(process.stdout.readline())
    process.kill()
    process.wait()
    owner = Owner("inc", 0, 1)
    running = broker.running(owner, 7, i)
    assert running is not None
    assert running.task_id == tasks[1]
    assert broker.bury(owner, Requeue(running, 0)).requeued == 3
    found = [broker.find(task) for task in tasks]
    assert [f.lost for f in found if f is not None] == [0, 1, 0]


def test_errors_are_broker_errors(broker: Broker, node_dir: Path) -> None:
    """Whatever the driver raises reaches the caller as a BrokerError."""
    with pytest.raises(BrokerError):
        broker.enqueue([Enqueue("task", object(), "default", 0, None)])  # type: ignore[arg-type]
    assert os.path.isdir(node_dir)


def test_node_directory_is_private(broker: Broker) -> None:
    """The folder of sockets, locks and boards is this user's alone."""
    folder = broker.node_directory()
    assert folder.is_dir()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert broker.node_directory() == folder
