"""Starts that fail, and what a start must not let through.

A failed import is tried five times with growing pauses, some 8 s in all. So that the tests do not take 8 s each,
one fixture starts all the failing nodes side by side, and each test looks at its own.
"""

import itertools
import subprocess
import sys
import textwrap

import pytest

from poolrt.errors import ExitCode

APPS = {
    "missing": None,
    "broken": "def broken(:\n    pass\n",
    "round_a": "import round_b\napp = round_b.app\n",
    "round_b": "import round_a\nfrom poolrt import App\nnever = round_a.app\napp = App('x')\n",
    "empty": "from poolrt import App\nother = App('x')\n",
    "no_app": "app = 'a text'\n",
    "leaving": "import sys\nsys.exit('the app had enough')\n",
    "raising": "def deep():\n    raise RuntimeError('no configuration')\n\n\ndeep()\n",
    "click_exit": "class Exit(Exception):\n    exit_code = 0\nraise Exit('as click and typer do')\n",
    "enqueueing": "from poolrt import App\napp = App('x')\n@app.task\ndef t(): pass\nt.delay()\n",
    "connected": """
        import socket
        server = socket.create_server(("127.0.0.1", 0))
        client = socket.create_connection(server.getsockname())
        from poolrt import App
        app = App("x")
        """,
}
TARGETS = [name for name in APPS if name != "round_b"]
PATIENT = ["missing", "raising"]
"""Those that are tried as often as in production; the others twice, to spare the processors."""
TWO_TRIES = "import poolrt.supervisor.template_keeper as keeper; assert keeper.MAX_IMPORTS == 5; keeper.MAX_IMPORTS = 2"


@pytest.fixture(scope="module")
def failed(serve_all):
    """Every failing node by its module's name, ended."""
    for name, text in APPS.items():
        if text is not None:
            (serve_all.folder / f"{name}.py").write_text(textwrap.dedent(text))
    nodes = {name: serve_all(f"{name}:app", patch="" if name in PATIENT else TWO_TRIES) for name in TARGETS}
    script = "import poolrt\ntry: poolrt.Supervisor('raising:app').start()\nexcept Exception as e: print(repr(e))\n"
    (serve_all.folder / "program.py").write_text(script)
    with subprocess.Popen(
        [sys.executable, "program.py"], cwd=serve_all.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as program:
        for node in nodes.values():
            node.expects_traceback = True
            node.wait_end(30)
        nodes["program"] = program.communicate(timeout=20)
    return nodes


@pytest.mark.parametrize("name", TARGETS)
def test_a_failed_import_ends_with_its_exit_code(failed, name):
    """Each way an import can fail ends the node with exit code 3, without a child ever forked."""
    node = failed[name]
    assert node.process.returncode == ExitCode.BOOT_FAILED, node.text()
    assert not node.events("child-up")
    assert not node.events("node-started")


@pytest.mark.parametrize("name", PATIENT)
def test_a_failed_import_is_tried_again_with_growing_pauses(failed, name):
    """Five tries, 0.5, 1, 2 and 4 s apart, each pause told in the log; in all well under a minute."""
    node = failed[name]
    tries = node.events("template-failed")
    assert len(tries) == 5
    pauses = [later["at"] - earlier["at"] for earlier, later in itertools.pairwise(tries)]
    for pause, least in zip(pauses, (0.5, 1, 2, 4), strict=True):
        assert pause >= least
    told = [message for message in node.messages() if "importing the app again" in message]
    assert [message.split(" in ")[1].split(" s")[0] for message in told] == ["0.5", "1.0", "2.0", "4.0"]


@pytest.mark.parametrize(
    ("name", "words", "line"),
    [
        ("missing", "No module named 'missing'", ""),
        ("broken", "SyntaxError", "def broken(:"),
        ("round_a", "has no attribute 'app'", "never = round_a.app"),
        ("raising", "RuntimeError: no configuration", "    raise RuntimeError('no configuration')"),
        ("leaving", "the app had enough", "sys.exit('the app had enough')"),
    ],
)
def test_the_apps_own_traceback_is_shown_once(failed, name, words, line):
    """The user's frames and the reason, once; not our own frames, nor the import machinery's."""
    node = failed[name]
    shown = [message for message in node.messages("error") if "Traceback" in message or words in message]
    traces = [message for message in shown if line in message and ("File " in message or not line)]
    assert traces, node.text()
    assert words in node.text()
    if line:
        assert len([message for message in traces if "File " in message]) == 1, "shown more than once"
        assert f"{name[:5]}" in traces[0]
    for message in traces:
        assert "importlib" not in message
        assert "poolrt/template" not in message
        assert "poolrt/app/location" not in message


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("empty", ["has no attribute 'app'", "it has other"]),
        ("no_app", ["is a str, not a poolrt.App"]),
        ("enqueueing", ["while the module is imported", "t.delay"]),
        ("connected", ["127.0.0.1:", "on_child_start"]),
    ],
)
def test_a_wrong_app_is_refused_with_what_to_do(failed, name, words):
    """What is there instead of an app, and what an import must not do, is said with the place and the advice."""
    for word in words:
        assert word in failed[name].text()


def test_the_last_line_says_why(failed):
    """The reason stands at the end, where an operator looks."""
    assert "No module named 'missing'" in failed["missing"].messages("error")[-1]


def test_start_raises_boot_failed_with_the_reason(failed):
    """``Supervisor.start()`` raises BootFailed naming the exception; the app's traceback is on stderr."""
    out, err = failed["program"]
    assert out.strip() == "BootFailed('RuntimeError: no configuration')"
    assert err.count("raise RuntimeError('no configuration')") == 1
    assert "poolrt/template" not in err


def write_app(place, text):
    (place / "own_app.py").write_text("from process_apps import *\n" + textwrap.dedent(text))
    return "own_app:app"


def test_a_hook_that_raises_is_a_failed_boot(serve, place):
    """``@app.on_child_start`` raising: its traceback is shown, pauses grow, and the node gives up with exit code 3."""
    target = write_app(place, "@app.on_child_start\ndef connect():\n    raise OSError('no such host')\n")
    node = serve(target, restart_burst="3/45s")
    assert node.wait_end(20) == ExitCode.BOOT_FAILED
    failures = node.events("child-boot-failed")
    assert len(failures) == 3
    assert "no such host" in failures[0]["cause"]
    pauses = [later["at"] - earlier["at"] for earlier, later in itertools.pairwise(failures)]
    assert 0.5 <= pauses[0] < pauses[1]
    assert "raise OSError('no such host')" in node.text()
    assert "OSError: no such host" in node.messages("error")[-1]
    assert not node.events("child-up")


def test_a_hook_that_exits_is_a_failed_boot(serve, place):
    """The same for ``sys.exit`` in a hook, which must not look like a child that left by itself."""
    target = write_app(place, "@app.on_child_start\ndef leave():\n    sys.exit(0)\n")
    node = serve(target, restart_burst="2/45s")
    assert node.wait_end(20) == ExitCode.BOOT_FAILED
    assert len(node.events("child-boot-failed")) == 2


def test_a_hook_that_kills_its_child_trips_the_breaker(serve, place):
    """Children that die in their boot count as failed boots, whatever killed them."""
    target = write_app(place, "@app.on_child_start\ndef crash():\n    end_by('SIGSEGV')\n")
    node = serve(target, restart_burst="2/45s")
    assert node.wait_end(20) == ExitCode.BOOT_FAILED
    (first, _) = node.events("child-crashed")
    assert first["cause"] == "killed by SIGSEGV before it was up"


def test_a_hook_that_hangs_is_ended(serve, place):
    """A boot that takes longer than ``boot_timeout`` is killed and named; the second in a row ends the node."""
    target = write_app(place, "@app.on_child_start\ndef hang():\n    time.sleep(60)\n")
    node = serve(target, boot_timeout="300ms")
    (killed, *_) = node.wait_event("child-boot-failed")
    assert "not up within 0.3 s" in killed["cause"]
    assert node.wait_end(20) == ExitCode.BOOT_FAILED


def test_children_that_fail_side_by_side_are_one_failure(serve, place):
    """Eight children whose hook fails at once do not use up the breaker at once: the pauses still grow."""
    target = write_app(place, "@app.on_child_start\ndef connect():\n    raise OSError('no such host')\n")
    node = serve(target, restart_burst="3/45s", concurrency=8)
    assert node.wait_end(20) == ExitCode.BOOT_FAILED
    pauses = [message for message in node.messages() if message.startswith("next child in")]
    assert pauses == ["next child in 0.5 s", "next child in 1.0 s"]
    lasted = node.events("node-draining")[0]["at"] - node.events("child-boot-failed")[0]["at"]
    assert lasted >= 1.5, f"gave up after {lasted:.3f} s"


def test_a_node_that_worked_gives_up_with_another_code(serve, place, tasks, ledger):
    """Boots that begin to fail after tasks were done end with exit code 5: the app was importable."""
    target = write_app(
        place, f"@app.on_child_start\ndef fail():\n    if os.path.exists({str(ledger)!r}): raise OSError('gone')\n"
    )
    node = serve(target, restart_burst="2/45s", max_tasks_per_child=1)
    assert tasks.note.delay(str(ledger), "t").get(10) == "t"
    assert node.wait_end(20) == ExitCode.RESTART_LIMIT


def test_boots_that_fail_while_others_work_do_not_end_the_node(serve, place, tasks, ledger):
    """A child that works goes on, with a warning and a growing pause, however often new ones fail beside it."""
    target = write_app(
        place, f"@app.on_child_start\ndef fail():\n    if os.path.exists({str(ledger)!r}): raise OSError('gone')\n"
    )
    node = serve(target, restart_burst="2/45s")
    assert tasks.note.delay(str(ledger), "t").get(10) == "t"
    node.call("scale", n=2)
    (warning,) = node.wait_event("warning", timeout=20)
    assert "older ones go on working" in warning["cause"]
    assert tasks.note.delay(str(ledger), "u").get(10) == "u"
    assert node.stop() == ExitCode.OK


def test_hooks_run_once_in_each_child(serve, tasks, ledger, place):
    """Each child runs ``@app.on_child_start`` after its fork and before its first task; template and steward do not."""
    node = serve(env={"TEST_HOOK_LEDGER": str(place / "hooks")}, concurrency=3).wait_up(3)
    hooked = [int(line.split()[1]) for line in (place / "hooks").read_text().splitlines()]
    assert sorted(hooked) == sorted(node.pids()["children"])


def test_siblings_do_not_draw_the_same_random_numbers(serve, tasks):
    """``random`` is seeded anew after each fork."""
    node = serve(max_tasks_per_child=1, concurrency=2)
    results = tasks.draw.enqueue_many([()] * 8)
    drawn = [result.get(10) for result in results]
    assert len({pid for pid, _ in drawn}) == 8
    assert len({number for _, number in drawn}) == 8
    assert node.stop() == 0


def test_a_thread_of_the_import_is_named(serve, place, tasks, ledger):
    """A thread that the import started does not exist in children: a warning names it, and the node serves."""
    target = write_app(
        place,
        """
        import threading
        threading.Thread(target=threading.Event().wait, name="metrics-pusher", daemon=True).start()
        """,
    )
    node = serve(target)
    (warning,) = node.wait_event("warning")
    assert "'metrics-pusher'" in warning["cause"]
    assert tasks.note.delay(str(ledger), "t").get(10) == "t"
    assert node.stop() == 0


def test_what_an_import_leaves_running_ends_with_the_node(serve, place, is_gone):
    """A process that the import started is ended when the node stops."""
    target = write_app(
        place,
        f"""
        import pathlib
        helper = subprocess.Popen(["sleep", "1000"], start_new_session=True)
        pathlib.Path({str(place)!r}, "helper").write_text(str(helper.pid))
        """,
    )
    node = serve(target).wait_up()
    pid = int((place / "helper").read_text())
    assert node.stop() == 0
    assert is_gone(pid)


def test_an_app_factory_is_called(serve, place, tasks, ledger):
    """``module:make()`` names a function that returns the app."""
    write_app(place, "def make():\n    return app\n")
    node = serve("own_app:make()")
    assert tasks.note.delay(str(ledger), "t").get(10) == "t"
    assert node.stop() == 0
