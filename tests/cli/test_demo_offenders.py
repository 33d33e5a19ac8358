"""The demo's offenders: each way not to be contained is found, they do what they are said to, and their order holds."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from typing import Any

import pytest

from poolrt.cli.demo import listener as demo_listener
from poolrt.cli.demo import tasks, workload
from poolrt.cli.demo.listener import Listener, listening
from poolrt.cli.demo.offenders import Accepted, Daemon, Heard, Traces, not_contained, offences, where
from poolrt.message import ErrorInfo, Record
from poolrt.posix import processes
from poolrt.states import TaskState

OK, FAILED = TaskState.SUCCEEDED, TaskState.FAILED
PEER = "127.0.0.1:4000"


# ---- what is found


def event(kind: str, task: str = "", task_id: str = "", cause: str = "", **more: Any) -> dict[str, Any]:
    """An event of the pool."""
    return {"kind": kind, "at": 1.0, "task": task, "task_id": task_id, "cause": cause, **more}


def record(state: TaskState, error: str = "", runtime: float = 0.0, stack: str = "") -> Record:
    """A record of a task that ran in child 3.1."""
    info = ErrorInfo(error, "text") if error else None
    return Record(state, "t", 1.0, error=info, runtime=runtime, owner="abc/3.1", stack=stack)


ACCEPTED = [
    Accepted("0", "parse", "a.py", OK),
    Accepted("1", "leak-socket", "leaves a socket", OK),
    Accepted("2", "leak-memory", "keeps 5 MiB", OK),
    Accepted("3", "hang", "loops in C", FAILED, error="TimeLimitExceeded", within=2.0),
    Accepted("4", "hog", "allocates", FAILED, error="MemoryLimitExceeded"),
    Accepted("5", "overrun", "runs long", FAILED, error="SoftTimeLimitExceeded"),
    Accepted("6", "daemon", "leaves a daemon", OK),
]
RECORDS = {
    "0": record(OK),
    "1": record(OK),
    "2": record(OK),
    "3": record(
        FAILED, "TimeLimitExceeded", 1.1, 'Thread:\n  File "/a b/tasks.py", line 83 in hang\n  File "x", line 1'
    ),
    "4": record(FAILED, "MemoryLimitExceeded", 0.7),
    "5": record(FAILED, "SoftTimeLimitExceeded", 0.5),
    "6": record(OK),
}
LEAK = event("child-recycled", "leak-socket", cause=f"leak: 30 of 30 runs of leak-socket left a socket to {PEER} open")
MEMORY = event("child-recycled", "leak-memory", cause="max_memory_per_child: 131.0 MiB, its ceiling is 129.0 MiB")
HANG = event("child-killed", "hang", "3", "TimeLimitExceeded: ran 1.10 s, its limit is 1s")
HOG = event("child-killed", "hog", "4", "MemoryLimitExceeded: its child has 301.0 MiB, its limit is 300.0 MiB")
BEHIND = event("left-behind", cause="processes its tasks had started outlived it", slot=3, generation=1)
EVENTS = [LEAK, MEMORY, HANG, HOG, BEHIND]
TRACES = Traces(Heard(4000, 90, 60, 0), {"6": Daemon(77, lives=False)}, frozenset({"5"}))


def test_offenders_that_were_contained():
    """Each was contained as it was meant to: no finding, and each has a line with what befell it."""
    assert not_contained(ACCEPTED, RECORDS, EVENTS, TRACES) == []
    found, others = offences(ACCEPTED, RECORDS, EVENTS, TRACES)
    told = {each.task: each for each in found}
    assert list(told) == ["leak-socket", "leak-memory", "hang", "hog", "overrun", "daemon"]
    assert [told[name].told for name in ("leak-socket", "hang", "daemon")] == [[LEAK], [HANG], [BEHIND]]
    assert told["hang"].note == "at hang (tasks.py:83)"
    assert told["overrun"].note == "its cleanup ran"
    assert told["daemon"].note == "pid 77 has ended"
    assert told["leak-socket"].note == "of 90 connections at most 60 were open, 0 are left"
    assert others == []


def but(**changes: Any) -> dict[str, Any]:
    """The arguments of ``not_contained``, with these instead."""
    return {"accepted": ACCEPTED, "records": RECORDS, "events": EVENTS, "traces": TRACES, **changes}


def without(*gone: dict[str, Any], more: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    """The same without these events, and with more."""
    return but(events=[*(each for each in EVENTS if each not in gone), *more])


ELSEWHERE = {**LEAK, "cause": "leak: 30 of 30 runs of leak-socket left a socket to 127.0.0.1:40001 open"}
FAULTS = {
    "the memory leaker was never recycled": (
        without(MEMORY),
        "no child was recycled for the memory that leak-memory kept",
    ),
    "it was recycled for something else": (
        without(MEMORY, more=({**MEMORY, "cause": "max_tasks_per_child"},)),
        "no child was recycled for the memory that leak-memory kept",
    ),
    "somebody else was blamed for its memory": (
        without(MEMORY, more=({**MEMORY, "task": "parse"},)),
        "no child was recycled for the memory that leak-memory kept",
    ),
    "the socket leaker was never recycled": (without(LEAK), f"no child was recycled for the sockets to {PEER}"),
    "the peer is not named": (without(LEAK, more=(ELSEWHERE,)), f"no child was recycled for the sockets to {PEER}"),
    "the leaking task is not named": (
        without(LEAK, more=({**LEAK, "task": ""},)),
        f"no child was recycled for the sockets to {PEER}",
    ),
    "a neighbour was blamed for a leak": (
        without(more=({**LEAK, "task": "parse"},)),
        "parse is no offender: leak: 30 of 30",
    ),
    "its connections outlive its child": (
        but(traces=TRACES._replace(heard=Heard(4000, 90, 60, 2))),
        f"2 connections to {PEER} are still open",
    ),
    "the hang was killed late": (
        but(records={**RECORDS, "3": record(FAILED, "TimeLimitExceeded", 2.5)}),
        "hang#3 was to be ended in 2 s, and ran 2.50 s",
    ),
    "the hang ended by itself": (
        but(records={**RECORDS, "3": record(FAILED, "SoftTimeLimitExceeded", 0.5)}),
        "hang#3 was to end with TimeLimitExceeded, and ended with SoftTimeLimitExceeded",
    ),
    "the kill was not told": (without(HANG), "hang#3 was to be killed once for TimeLimitExceeded; told: nothing"),
    "the kill was told twice": (without(more=(HANG,)), "hang#3 was to be killed once for TimeLimitExceeded; told: ["),
    "the hog was killed for its time": (
        without(HOG, more=({**HOG, "cause": "TimeLimitExceeded: ran 9.00 s"},)),
        "hog#4 was to be killed once for MemoryLimitExceeded; told: ['TimeLimitExceeded",
    ),
    "a neighbour was killed": (
        without(more=({**HANG, "task": "parse", "task_id": "0"},)),
        "parse#0 was killed, and is no offender: TimeLimitExceeded",
    ),
    "a soft limit ran over the cleanup": (but(traces=TRACES._replace(cleaned=frozenset())), "overrun#5 was not let to"),
    "the daemon lives": (
        but(traces=TRACES._replace(daemons={"6": Daemon(77, lives=True)})),
        "the process that daemon#6 left still lives: Daemon(pid=77",
    ),
    "the daemon is not known": (but(traces=TRACES._replace(daemons={})), "that daemon#6 left is not known"),
    "the daemon's end was not told": (without(BEHIND), "what daemon#6 left was not told when its child 3.1 ended"),
    "another child's strays were told": (
        without(BEHIND, more=({**BEHIND, "generation": 2},)),
        "what daemon#6 left was not told when its child 3.1 ended",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_offender_that_was_not_contained(fault):
    """Each way in which an offender can escape, or a neighbour be taken for one, is found and named."""
    arguments, says = FAULTS[fault]
    found = not_contained(**arguments)
    assert len(found) == 1, found
    assert says in found[0]


def test_strays_of_children_that_ended_together_count():
    """What outlives two children at once is told without a child, and is told all the same."""
    assert not_contained(**without(BEHIND, more=({**BEHIND, "slot": None, "generation": None},))) == []


def test_where_a_stack_begins():
    """The innermost frame is named by its function and file; a stack that was not written, by nothing."""
    assert where('Current thread 0x1 (most recent call first):\n  File "/x/y.py", line 7 in f\n') == "f (y.py:7)"
    assert where("") == ""


# ---- their order


def test_the_order_of_what_is_enqueued(tmp_path):
    """Every module once; leakers before anybody ends a child by force, what leaves a daemon after it."""
    files = [f"{number}.py" for number in range(100)]
    planned = workload.calls(files, 2, 130 << 20, 4000, tmp_path)
    names = [call.task.name for call in planned]
    assert sorted(call.arguments[0] for call in planned if call.task.name == "parse") == sorted(files)
    last = {name: index for index, name in enumerate(names)}
    first_of_force = min(names.index(name) for name in ("crash", "crash-once", "hang", "swallow", "hog"))
    assert max(last["leak-socket"], last["leak-memory"]) < first_of_force
    assert max(last[name] for name in ("crash", "hang", "swallow", "hog", "overrun")) < last["daemon"] < len(names) - 1


@pytest.mark.parametrize("concurrency", [1, 2, 4, 64])
def test_some_child_leaks_enough(concurrency, tmp_path):
    """However the runs fall on the children, one has so many that it must be recycled."""
    ceiling = workload.ceiling(30 << 20, concurrency)
    names = [call.task.name for call in workload.calls(["a.py"], concurrency, ceiling, 4000, tmp_path)]
    assert names.count("leak-socket") > concurrency * (workload.RUNS_IN_A_ROW - 1)
    assert names.count("leak-memory") > concurrency * (ceiling // tasks.LEAK)
    assert (ceiling - (30 << 20)) * concurrency <= 3.2 * (1 << 30)


def test_spread_mixes_evenly():
    """Calls of two groups alternate in proportion, each group in its order; an empty one changes nothing."""
    first, second = [1, 2, 3, 4], ["a", "b"]
    assert workload.spread(first, second, []) == [1, "a", 2, 3, "b", 4]  # type: ignore[arg-type]


# ---- what they do


HANG_IN_C = """
import os, signal, threading, time
from poolrt.cli.demo.tasks import hang
signal.signal(signal.SIGALRM, lambda *_: os._exit(3))
threading.Thread(target=lambda: (time.sleep(0.2), os._exit(4)), daemon=True).start()
signal.setitimer(signal.ITIMER_REAL, 0.2)
print("hangs", flush=True)
hang.function()
"""


def test_the_hang_holds_the_gil():
    """Neither another thread nor the handler of a signal gets to run while it hangs: only SIGKILL ends it."""
    with subprocess.Popen([sys.executable, "-c", HANG_IN_C], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "hangs\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.8)
        process.kill()
    assert process.returncode == -signal.SIGKILL


SWALLOW = """
import os
from poolrt.cli.demo import tasks
class Broadest(BaseException): pass
raised = 0
def interrupted_sleep(seconds):
    global raised
    if raised == 20:
        os._exit(5)
    raised += 1
    raise Broadest
tasks.time.sleep = interrupted_sleep
tasks.swallow.function()
"""


def test_nothing_that_is_raised_ends_the_swallower():
    """It begins again after each of twenty exceptions of the broadest kind."""
    assert subprocess.run([sys.executable, "-c", SWALLOW], timeout=20, check=False).returncode == 5


def test_a_daemon_is_an_orphan_in_a_session_of_its_own():
    """What ``daemon`` leaves is no process of its caller's, nor of its session; it is found by its pid alone."""
    pid, began = tasks.daemon.function()
    try:
        assert began > 0
        assert os.getsid(pid) not in {os.getsid(0), pid}
        assert processes.command(pid) == "sleep 300"
    finally:
        os.kill(pid, signal.SIGKILL)


# ---- the listener


def connected(port: int) -> socket.socket:
    """A connection to it."""
    return socket.create_connection(("127.0.0.1", port), timeout=5)


def test_the_listener_counts_and_sees_ends(wait_for):
    """It keeps what connects, and forgets what its other side has closed."""
    with listening() as listener:
        kept = [connected(listener.port) for _ in range(3)]
        wait_for(lambda: listener.heard().accepted == 3, "three are accepted")
        for each in kept[1:]:
            each.close()
        wait_for(lambda: listener.heard().still_open == 1, "two are forgotten")
        kept[0].close()
        assert listener.heard() == Heard(listener.port, 3, 3, 0)


def test_the_listener_closes_the_oldest(monkeypatch, wait_for):
    """Beyond its most it closes the oldest, so that it never runs out of descriptors and nobody waits in connect."""
    monkeypatch.setattr(demo_listener, "MOST", 2)
    with listening() as listener:
        kept = [connected(listener.port) for _ in range(5)]
        assert kept[0].recv(1) == kept[1].recv(1) == kept[2].recv(1) == b""
        assert kept[4].getpeername() == ("127.0.0.1", listener.port)
        for each in kept:
            each.close()
        wait_for(lambda: listener.heard().still_open == 0, "all are forgotten")
        assert listener.heard().accepted == 5


def test_a_listener_with_open_connections_closes(wait_for):
    """Whoever is connected does not hold its end up."""
    listener = Listener()
    with connected(listener.port) as connection:
        wait_for(lambda: listener.heard().accepted, "it is accepted")
        listener.close()
        assert connection.recv(1) == b""
