"""HUP imports the code anew and moves the children to it; nothing is dropped, and a broken import changes nothing."""

import os
import signal
import threading

import pytest

from poolrt import App
from poolrt.errors import ExitCode
from poolrt.states import TaskState

CODE = """
import os, time
from poolrt import App

app = App("reloaded", broker=os.environ["TEST_BROKER"])

@app.task(name="version")
def version():
    return {version!r}, os.getpid(), os.getppid()

@app.task(name="slow")
def slow(gate):
    while not os.path.exists(gate):
        time.sleep(0.002)
    return {version!r}
"""


@pytest.fixture
def write(place):
    """``write(version)``: the app's module from now on; ``write(None, text)`` writes any text."""

    def write(version, text=""):
        (place / "reloaded.py.new").write_text(text or CODE.format(version=version))
        os.replace(place / "reloaded.py.new", place / "reloaded.py")

    write("one")
    return write


@pytest.fixture
def code(place):
    """The app as a producer sees it: names only."""
    app = App("reloaded", broker=f"sqlite:///{place}/p.db")

    @app.task(name="version")
    def version():
        raise AssertionError("only workers run it")

    @app.task(name="slow")
    def slow(gate):
        raise AssertionError("only workers run it")

    yield app
    app.close()


@pytest.fixture(autouse=True)
def no_bytecode(monkeypatch):
    """Two versions written within a second have one mtime: a cached module would hide the second."""
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")


def test_hup_moves_to_the_new_code(serve, write, code, gate, is_gone):
    """After HUP new tasks run the new code, a running one finishes the old, and the old template and steward end."""
    version, slow = code.tasks["version"], code.tasks["slow"]
    node = serve("reloaded:app", concurrency=2)
    text, _, template = version.delay().get(10)
    assert text == "one"
    steward = node.child_of("steward")
    running = slow.delay(str(gate))
    node.wait(lambda: running.state is TaskState.RESERVED, "it runs")
    write("two")
    node.send(signal.SIGHUP)
    node.wait_event("node-reloaded")
    node.wait(lambda: version.delay().get(10)[0] == "two", "the new code runs")
    assert not is_gone(template), "its child still runs a task"
    gate.touch()
    assert running.get(10) == "one"
    node.wait(lambda: is_gone(template) and is_gone(steward), "the old processes are gone")
    assert node.child_of("template") != template
    recycled = node.wait_event("child-recycled", 2)
    assert {event["cause"] for event in recycled} == {"reloaded"}
    assert not node.events("steward-replaced"), "it was handed over, not lost"
    assert node.stop() == ExitCode.OK


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("raise OSError('no such service')", "OSError: no such service"),
        ("import os; os._exit(7)", "the template died while it imported the app"),
        ("from poolrt import App; app = App('moved', broker='sqlite:///elsewhere.db')", "restart the node for that"),
        ("app = 3", "is a int, not a poolrt.App"),
    ],
)
def test_a_broken_import_keeps_the_old_code_serving(serve, write, code, text, says):
    """An import that raises, dies, or moves to another broker is told with its reason; the node works on, untouched."""
    version = code.tasks["version"]
    node = serve("reloaded:app")
    node.expects_traceback = True
    _, pid, template = version.delay().get(10)
    write(None, text)
    node.send(signal.SIGHUP)
    (failed,) = node.wait_event("template-failed")
    assert failed["cause"].startswith("the reload failed, the old code goes on serving: ")
    assert says in failed["cause"]
    assert version.delay().get(10) == ["one", pid, template]
    write("two")
    node.send(signal.SIGHUP)
    node.wait_event("node-reloaded")
    node.wait(lambda: version.delay().get(10)[0] == "two", "the mended code runs")
    assert node.stop() == ExitCode.OK


def test_reloads_under_load_drop_nothing(serve, write, code):
    """Three reloads while tasks stream through: each ends once, from one of the versions, none lost, none counted."""
    version = code.tasks["version"]
    node = serve("reloaded:app", concurrency=2).wait_up(2)
    results = []
    stop = threading.Event()

    def produce():
        while not stop.is_set():
            results.extend(version.enqueue_many([()] * 20))
            stop.wait(0.01)

    producer = threading.Thread(target=produce)
    producer.start()
    try:
        for number in range(1, 4):
            write(f"v{number}")
            node.send(signal.SIGHUP)
            node.wait_event("node-reloaded", number)
            node.wait(lambda number=number: version.delay().get(10)[0] == f"v{number}", f"v{number} runs")
    finally:
        stop.set()
        producer.join()
    seen = {result.get(10)[0] for result in results}
    assert {"v1", "v2"} <= seen
    assert not node.events("child-crashed")
    assert not node.events("task-requeued")
    assert node.stop() == ExitCode.OK
    assert code.broker.depth()[:4] == (0, 0, 0, 0)


def test_a_template_killed_during_a_reload(serve, write, code):
    """The serving template dies while the next one imports: that one takes the place, and nothing waits for a third."""
    version = code.tasks["version"]
    node = serve("reloaded:app")
    _, _, template = version.delay().get(10)
    write(None, "import time; time.sleep(1)\n" + CODE.format(version="two"))
    node.send(signal.SIGHUP)
    node.wait(lambda: len(node.tree()) > 4, "the next template imports")
    os.kill(template, signal.SIGKILL)
    node.wait_event("template-lost")
    assert version.delay().get(15)[0] == "two"
    assert node.stop() == ExitCode.OK


def test_a_reload_during_an_import_follows_it(serve, write, code):
    """The code changes again while it is imported, at a reload or at the start: the last HUP's code is what runs."""
    version = code.tasks["version"]
    slow = "import time; time.sleep(0.7)\n"
    write(None, slow + CODE.format(version="two"))
    node = serve("reloaded:app")
    node.wait(lambda: len(node.tree()) > 1, "it imports")
    write(None, slow + CODE.format(version="three"))
    node.call("reload")
    node.wait(lambda: version.delay().get(10)[0] == "three", "what the first one asked for runs")
    node.send(signal.SIGHUP)
    node.wait(lambda: len(node.tree()) > 4, "it imports again")
    write("four")
    node.send(signal.SIGHUP)
    node.wait(lambda: version.delay().get(10)[0] == "four", "the last code runs")
    assert node.stop() == ExitCode.OK


def test_a_stop_during_a_reload(serve, write, code, is_gone):
    """TERM while the next template imports ends both, at once."""
    version = code.tasks["version"]
    node = serve("reloaded:app")
    version.delay().get(10)
    write(None, "import time; time.sleep(30)")
    node.send(signal.SIGHUP)
    node.wait(lambda: len(node.tree()) > 4, "the next template imports")
    tree = node.tree()
    assert node.stop(timeout=5) == ExitCode.OK
    assert all(is_gone(pid) for pid in tree)
