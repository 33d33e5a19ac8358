"""``poolrt.Supervisor``: a pool that belongs to a program, from wherever the program runs, and ends with it."""

import os
import signal
import subprocess
import sys
import textwrap
import threading

import pytest

import poolrt
from poolrt.errors import (
    ConfigurationError,
    ControlError,
    EncodingError,
    NodeNameTaken,
    PoolrtError,
    SupervisorNotRunning,
)
from poolrt.states import TaskState


@pytest.fixture
def pool(place):
    """``pool(app="process_apps:app", **settings)``: a Supervisor, stopped with the test."""
    made = []

    def make(app="process_apps:app", **settings):
        settings = {"concurrency": 1, "node_name": f"e{os.getpid()}-{len(made)}", **settings}
        made.append(poolrt.Supervisor(app, **settings))
        return made[-1]

    yield make
    for each in made:
        each.stop(timeout=0)
        assert each.exit_code != 1, "the supervisor failed: see its stderr"


# ---- from programs of every kind

GUARDED = """
import sys, poolrt
app = poolrt.App("script", broker="sqlite:///s.db")

@app.task
def add(a, b):
    return a + b

if __name__ == "__main__":
    with poolrt.Supervisor(app, concurrency=2) as pool:
        print(add.delay(2, 3).get(10), add.name, pool.status()["state"])
    print("exit code", pool.exit_code, app.broker.depth()._asdict())
"""

UNGUARDED = """
import poolrt
app = poolrt.App("script", broker="sqlite:///s.db")

@app.task
def add(a, b):
    return a + b

result = add.delay(2, 3)
pool = poolrt.Supervisor(app, concurrency=2).start()
print(result.get(10), add.name)
again = [add.delay(i, i).get(10) for i in range(3)]
print("exit code", pool.stop(), again)
import sqlite3
records = sqlite3.connect("s.db").execute("select count(*) from record").fetchone()[0]
print("records", records, app.broker.depth().queued)
"""


def test_a_script_with_a_guard(run_script):
    """The usual script: its tasks are found by running it again under another name."""
    out = run_script(GUARDED).stdout.splitlines()
    assert out[0] == "5 program.add serving"
    assert out[1].startswith("exit code 0 {'queued': 0")


def test_a_script_without_a_guard_does_not_enqueue_again(run_script):
    """The template stops the second run at its first effect: four calls were made, four records are there."""
    out = run_script(UNGUARDED).stdout.splitlines()
    assert out == ["5 program.add", "exit code 0 [0, 2, 4]", "records 4 0"]


def test_a_script_that_starts_the_pool_before_it_enqueues(run_script):
    """The second run ends at ``start`` too, and starts no pool of its own."""
    text = UNGUARDED.replace("result = add.delay(2, 3)\n", "").replace("result.get(10)", "add.delay(2, 3).get(10)")
    assert run_script(text).stdout.splitlines()[0] == "5 program.add"


def test_python_dash_c(place):
    """A program without a file: the app travels by value."""
    text = GUARDED.replace('if __name__ == "__main__":\n', "if True:\n")
    done = subprocess.run(
        [sys.executable, "-c", text], cwd=place, capture_output=True, text=True, timeout=20, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("5 __main__.add serving")


def test_standard_input(place):
    """A program on stdin, as a REPL or a notebook: no file, no module."""
    text = GUARDED.replace('if __name__ == "__main__":\n', "if True:\n")
    done = subprocess.run(
        [sys.executable, "-"], input=text, cwd=place, capture_output=True, text=True, timeout=20, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("5 "), done.stdout
    assert "exit code 0" in done.stdout


def test_a_repl(place):
    """Line by line at the interactive prompt, a task defined anew under its old name included."""
    lines = """
import poolrt
app = poolrt.App("repl", broker="sqlite:///s.db")
@app.task
def add(a, b): return a + b

@app.task
def add(a, b): return 100 + a + b

pool = poolrt.Supervisor(app, concurrency=1).start()
print("got", add.delay(2, 3).get(10))
print("code", pool.stop())
"""
    done = subprocess.run(
        [sys.executable, "-i", "-q"], input=lines, cwd=place, capture_output=True, text=True, timeout=20, check=False
    )
    assert "got 105" in done.stdout, done.stderr
    assert "code 0" in done.stdout


def test_a_module_run_with_dash_m(place):
    """``python -m package.program`` with relative imports."""
    (place / "pack").mkdir()
    (place / "pack" / "__init__.py").write_text("")
    (place / "pack" / "values.py").write_text("THREE = 3\n")
    (place / "pack" / "program.py").write_text("from .values import THREE\n" + GUARDED.replace("2, 3", "2, THREE"))
    done = subprocess.run(
        [sys.executable, "-m", "pack.program"], cwd=place, capture_output=True, text=True, timeout=20, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("5 ")


def test_an_app_local_to_a_function(run_script):
    """An app that no module holds under a name, with a closure as its task, travels by value."""
    out = run_script(
        """
        import poolrt
        def main(offset):
            app = poolrt.App("local", broker="sqlite:///s.db")
            @app.task
            def add(a):
                return a + offset
            with poolrt.Supervisor(app, concurrency=1):
                return add.delay(2).get(10)
        print(main(40))
        """.replace("\n        ", "\n")
    ).stdout
    assert out.strip() == "42"


def test_an_app_that_cannot_travel_is_refused_by_name(place):
    """A local app whose task closes over a lock: refused before anything is started, saying what."""
    app = poolrt.App("stuck", broker=f"sqlite:///{place}/p.db")
    lock = threading.Lock()

    @app.task
    def locked():
        return lock

    with pytest.raises(EncodingError, match="stuck"):
        poolrt.Supervisor(app, concurrency=1).start()


def test_a_pool_in_a_thread(pool, tasks, ledger):
    """Started and stopped outside the main thread: no signal handler of the program is touched."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
    before = [signal.getsignal(number) for number in numbers]
    said = []

    def work():
        with pool() as started:
            said.append(tasks.note.delay(str(ledger), "t").get(10))
            said.append(started.stop())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(20)
    assert said == ["t", 0]
    assert before == [signal.getsignal(number) for number in numbers]


def test_one_pool_used_by_many_threads(pool, tasks, ledger):
    """Status, scale and tasks from eight threads at once: every call gets its own answer."""
    started = pool().start()
    errors = []

    def work(number):
        try:
            for _ in range(10):
                assert started.status()["node"] == started.node
                assert tasks.note.delay(str(ledger), number).get(10) == number
                started.scale(1 + number % 3)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert errors == []
    assert started.stop() == 0


# ---- the owner's end

OWNER = """
import sys, time, poolrt
from process_apps import build
app = build(sys.argv[1])
pool = poolrt.Supervisor("process_apps:app", concurrency=2, graceful_timeout=sys.argv[4]).start()
app.tasks["hold"].delay(sys.argv[2], "t", sys.argv[3])
status = pool.status()
children = [child["pid"] for child in status["children"]]
print(pool.pid, status["template"]["pid"], status["steward"]["pid"], *children, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_pool_ends_with_its_owner(place, app, ledger, gate, is_gone, wait_for, number):
    """However the program dies, its pool drains within the grace and leaves no process; the task is put back."""
    (place / "owner.py").write_text(OWNER)
    arguments = [app.broker.url, str(ledger), str(gate), "300ms"]
    with subprocess.Popen([sys.executable, "owner.py", *arguments], cwd=place, stdout=subprocess.PIPE) as owner:
        pids = [int(pid) for pid in owner.stdout.readline().split()]
        wait_for(ledger.lines, "the task runs")
        owner.send_signal(number)
        owner.wait(5)
    assert len(pids) >= 4
    wait_for(lambda: all(is_gone(pid) for pid in pids), "the pool is gone", 3)
    assert app.broker.depth().queued == 1


def test_a_task_may_finish_after_its_owner_has_gone(place, app, ledger, gate, is_gone, wait_for):
    """The grace holds for an owner's death too: the running task ends by itself."""
    (place / "owner.py").write_text(OWNER)
    arguments = [app.broker.url, str(ledger), str(gate), "20s"]
    with subprocess.Popen([sys.executable, "owner.py", *arguments], cwd=place, stdout=subprocess.PIPE) as owner:
        pids = [int(pid) for pid in owner.stdout.readline().split()]
        wait_for(ledger.lines, "the task runs")
        owner.kill()
        owner.wait(5)
    gate.touch()
    wait_for(lambda: all(is_gone(pid) for pid in pids), "the pool is gone", 5)
    assert [words[0] for words in ledger.lines()] == ["begin", "end"]
    assert app.broker.depth().queued == 0


def test_a_program_that_forgets_to_stop(run_script, is_gone, wait_for):
    """Falling off the end of the program without ``stop``: the pool is gone soon after."""
    done = run_script(
        "import poolrt\nfrom process_apps import build\n"
        "pool = poolrt.Supervisor('process_apps:app', concurrency=1).start()\nprint(pool.pid)\n"
    )
    wait_for(lambda: is_gone(int(done.stdout)), "the pool is gone", 5)


def test_a_child_process_of_the_program_does_not_keep_the_pool(run_script, is_gone, wait_for):
    """A process that the program forked or started before it died holds no end of the owner's connection."""
    done = run_script(
        "import poolrt, subprocess, os, time\n"
        "pool = poolrt.Supervisor('process_apps:app', concurrency=1).start()\n"
        "quiet = {'stdout': subprocess.DEVNULL, 'stderr': subprocess.DEVNULL}\n"
        "execed = subprocess.Popen(['sleep', '30'], close_fds=False, **quiet)\n"
        "forked = os.fork()\n"
        "if not forked:\n"
        "    assert pool.pid is None and pool.stop() == 0\n"
        "    nowhere = os.open(os.devnull, os.O_RDWR)\n"
        "    os.dup2(nowhere, 1), os.dup2(nowhere, 2)\n"
        "    time.sleep(30)\n"
        "print(pool.status()['state'], pool.pid, execed.pid, forked)\n"
    )
    state, *pids = done.stdout.split()
    pool, *others = map(int, pids)
    try:
        assert state == "serving"
        wait_for(lambda: is_gone(pool), "the pool is gone", 5)
    finally:
        for other in others:
            os.kill(other, signal.SIGKILL)


def test_an_exception_in_the_with_block_stops_the_pool(pool, is_gone):
    """The exception comes out as it is, and the pool has ended."""
    with pytest.raises(ZeroDivisionError), pool() as started:
        pid = started.pid
        assert 1 / 0
    assert is_gone(pid)
    assert started.exit_code == 0
    assert started.pid is None


# ---- what it can be asked


def test_starting_twice_is_an_error_and_starting_again_is_not(pool, tasks, ledger):
    """A second ``start`` while it runs is refused; after ``stop`` the same object starts anew."""
    started = pool().start()
    with pytest.raises(PoolrtError, match="runs already"):
        started.start()
    assert tasks.note.delay(str(ledger), 1).get(10) == 1
    assert started.stop() == 0
    assert started.stop() == 0, "a second stop is nothing"
    started.start()
    assert tasks.note.delay(str(ledger), 2).get(10) == 2
    assert started.stop() == 0


def test_asking_a_pool_that_does_not_run(pool):
    """Before the start and after the end each request says so."""
    made = pool()
    for ask in (made.status, made.drain, lambda: made.scale(2), made.recycle, made.events):
        with pytest.raises(SupervisorNotRunning):
            ask()
    assert "not running" in repr(made)
    assert made.wait() is None


def test_a_taken_name_is_raised(pool):
    """Two pools of one name: the second ``start`` raises NodeNameTaken, and the first goes on."""
    first = pool(node_name="one").start()
    with pytest.raises(NodeNameTaken, match="one"):
        pool(node_name="one").start()
    assert first.status()["state"] == "serving"


def test_an_unusable_broker_is_raised(pool, place, monkeypatch):
    """A broker file that is none: ``start`` raises with the reason."""
    (place / "bad.db").write_bytes(b"nonsense " * 500)
    (place / "bad.db").chmod(0o600)
    monkeypatch.setenv("TEST_BROKER", f"sqlite:///{place}/bad.db")
    made = pool()
    with pytest.raises(PoolrtError, match="not a database"):
        made.start()
    assert made.exit_code == 4


def test_a_runtime_folder_that_cannot_be_used_is_raised(place, monkeypatch):
    """A refusal before the first request was read reaches the program in its own words."""
    (place / "open").mkdir(mode=0o755)
    monkeypatch.setenv("POOLRT_RUNTIME_DIR", str(place / "open"))
    with pytest.raises(PoolrtError, match="open to other users"):
        poolrt.Supervisor("process_apps:app", concurrency=1).start()


def test_wrong_settings_are_refused_at_once():
    """Nothing is started for a setting that is unknown or wrong."""
    with pytest.raises(ConfigurationError, match="did you mean 'concurrency'"):
        poolrt.Supervisor("process_apps:app", concurency=2)
    with pytest.raises(ConfigurationError, match="time_limit"):
        poolrt.Supervisor("process_apps:app", time_limit="long")


def test_status_tells_the_whole_node(pool, app, tasks, ledger, gate):
    """Its shape: the node, its processes with pid and memory, each child with its task, totals, the queue."""
    started = pool(concurrency=2).start()
    assert tasks.note.delay(str(ledger), "t").get(10) == "t"
    held = tasks.hold.delay(str(ledger), "long", str(gate))
    while len(ledger.lines()) < 2:
        pass
    status = started.status()
    assert (status["node"], status["app"], status["broker"]) == (started.node, "process", app.broker.url)
    assert (status["state"], status["concurrency"]) == ("serving", 2)
    assert status["supervisor"]["pid"] == started.pid
    for role in ("supervisor", "template", "steward"):
        assert status[role]["rss"] > 1_000_000
    assert status["totals"]["done"] == 1
    assert set(status["queue"]) == {"queued", "delayed", "reserved", "dead", "oldest"}
    (busy,) = [child for child in status["children"] if child["activity"] == "run"]
    assert (busy["task"], busy["task_id"]) == ("hold", held.id)
    assert busy["running_for"] >= 0
    assert status["last_events"][0]["kind"] == "node-started"
    gate.touch()
    assert held.get(10) == "long"


def test_scaling_up_and_down(pool, tasks, ledger, gate, wait_for):
    """More children at once; fewer when they have finished what they run; none, and back."""
    started = pool().start()

    def children():
        return [child for child in started.status()["children"] if child["state"] == "up"]

    started.scale(3)
    wait_for(lambda: len(children()) == 3, "three children")
    held = tasks.hold.enqueue_many([(str(ledger), i, str(gate)) for i in range(3)])
    wait_for(lambda: len(ledger.lines()) == 3, "all three work")
    started.scale(0)
    assert not any(result.ready() for result in held)
    gate.touch()
    assert [result.get(10) for result in held] == [0, 1, 2]
    wait_for(lambda: not started.status()["children"], "no child")
    waiting = tasks.note.delay(str(ledger), "later")
    started.scale(1)
    assert waiting.get(10) == "later"
    with pytest.raises(ControlError, match="number of children"):
        started.scale(-1)
    assert started.status()["totals"]["crashed"] == 0


def test_recycling_on_demand(pool, tasks, ledger, wait_for):
    """``recycle()`` replaces every child; ``recycle(slot)`` one."""
    started = pool(concurrency=2).start()

    def pids():
        return {child["pid"] for child in started.status()["children"] if child["state"] == "up"}

    wait_for(lambda: len(pids()) == 2, "two children")
    before = pids()
    assert started.recycle() == 2
    wait_for(lambda: len(pids()) == 2 and not pids() & before, "two other children")
    between = pids()
    slot = next(child["slot"] for child in started.status()["children"] if child["state"] == "up")
    assert started.recycle(slot) == 1
    wait_for(lambda: len(pids() & between) == 1 and len(pids()) == 2, "one other child")
    wait_for(lambda: started.status()["totals"]["recycled"] == 3, "all three have left by plan")


def test_events_are_streamed_to_the_end(pool, tasks, ledger):
    """``events()`` gives what happens from the call on, in order, and ends with the node."""
    started = pool().start()
    stream = started.events()
    other = started.events()
    result = tasks.die.delay(str(ledger), "t", "3")
    told = []
    for event in stream:
        told.append(event["kind"])
        if event["kind"] == "task-requeued":
            assert event["task_id"] == result.id
            break
    assert "child-crashed" in told
    stream.close()
    started.stop(timeout=0)
    kinds = [event["kind"] for event in other]
    assert kinds[-1] == "node-stopped"
    assert kinds.index("child-crashed") < kinds.index("task-requeued") < kinds.index("node-draining")


def test_draining_without_waiting(pool, tasks, ledger, gate, wait_for):
    """``drain`` returns at once, ``wait`` waits for the end."""
    held = tasks.hold.delay(str(ledger), "t", str(gate))
    started = pool().start()
    wait_for(ledger.lines, "the task runs")
    started.drain()
    assert started.wait(0.05) is None
    assert started.status()["state"] == "draining"
    gate.touch()
    assert started.wait(10) == 0
    assert held.get(1) == "t"
    assert started.pid is None


def test_stopping_with_a_timeout_puts_the_rest_back(pool, app, tasks, ledger, gate, wait_for):
    """``stop(timeout)`` is the grace: the task is put back, uncounted, and the exit code is 6."""
    held = tasks.hold.delay(str(ledger), "t", str(gate))
    started = pool().start()
    wait_for(ledger.lines, "the task runs")
    assert started.stop(timeout="100ms") == 6
    found = app.broker.find(held.id)
    assert (found.state, found.lost) == (TaskState.QUEUED, 0)


def test_two_pools_of_different_apps(place):
    """Two Supervisors of two Apps in one program, each with its own file: neither sees the other's tasks."""
    import process_apps

    one = process_apps.build(f"sqlite:///{place}/one.db")
    two = process_apps.build(f"sqlite:///{place}/two.db")
    with poolrt.Supervisor(one, concurrency=1, node_name="one"), poolrt.Supervisor(two, concurrency=1, node_name="two"):
        first = one.tasks["note"].delay(f"{place}/1", "a")
        second = two.tasks["note"].delay(f"{place}/2", "b")
        assert (first.get(10), second.get(10)) == ("a", "b")
        assert two.broker.find(first.id) is None
    one.close()
    two.close()


def test_several_apps_in_one_module(run_script):
    """One script with two Apps and a pool for each: each pool runs its own app's tasks."""
    out = run_script(
        textwrap.dedent(
            """
            import poolrt
            one = poolrt.App("one", broker="sqlite:///one.db")
            two = poolrt.App("two", broker="sqlite:///two.db")

            @one.task(name="who")
            def first(): return "one"

            @two.task(name="who")
            def second(): return "two"

            if __name__ == "__main__":
                with poolrt.Supervisor(one, concurrency=1), poolrt.Supervisor(two, concurrency=1):
                    print(first.delay().get(10), second.delay().get(10))
            """
        )
    ).stdout
    assert out.strip() == "one two"


def test_the_default_name_lets_two_programs_of_one_app_run(pool):
    """Without a name given, two pools of one app in one program do not collide."""
    first = poolrt.Supervisor("process_apps:app", concurrency=1)
    second = poolrt.Supervisor("process_apps:app", concurrency=1)
    with first, second:
        assert first.status()["node"] != second.status()["node"]
