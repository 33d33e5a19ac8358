"""What is held to its baseline, with this process's own state: each change is put back, and named."""

from __future__ import annotations

import cProfile
import decimal
import gc
import io
import locale
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from poolrt.hygiene.findings import LeakKind
from poolrt.hygiene.held_state import SEVERAL
from poolrt.hygiene.leftovers import FEW
from poolrt.hygiene.task_state import StateWatch


@pytest.fixture(autouse=True)
def as_in_a_child(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Some variables, and no timer: pytest-timeout's is stopped for the test.

    Watches are made in the tests themselves: pytest sets a variable after the fixtures.
    """
    monkeypatch.setenv("HAS", "some:path")
    monkeypatch.setenv("PATH_OF_LIBS", "/usr/lib")
    running = signal.setitimer(signal.ITIMER_REAL, 0)
    yield
    signal.setitimer(signal.ITIMER_REAL, *running)


def whats(watch: StateWatch, task: str = "t") -> list[str]:
    """What one run of the task is told to have changed."""
    found = watch.look({task: 1})
    assert all((each.kind, each.task, each.count) == (LeakKind.STATE, task, 1) for each in found)
    return [finding.what for finding in found]


def ignore(number: int, frame: object) -> None:
    """A handler of a task."""


def trace(*_: object) -> None:
    """A trace function of a task."""


CHANGES: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
    "cwd": (lambda: os.chdir("/"), os.getcwd),
    "umask": (lambda: os.umask(0o007), lambda: os.umask(0o022)),
    "signal mask": (
        lambda: signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM]),
        lambda: signal.pthread_sigmask(signal.SIG_BLOCK, []),
    ),
    "alarm": (lambda: signal.alarm(3600), lambda: signal.getitimer(signal.ITIMER_REAL)),
    "locale": (lambda: locale.setlocale(locale.LC_TIME, "C.UTF-8"), lambda: locale.setlocale(locale.LC_ALL)),
    "socket default timeout": (lambda: socket.setdefaulttimeout(1.5), socket.getdefaulttimeout),
    "environ HAS": (lambda: os.environ.__setitem__("HAS", "else"), lambda: os.environ.get("HAS")),
    "environ PATH_OF_LIBS": (lambda: os.environ.pop("PATH_OF_LIBS"), lambda: os.environ.get("PATH_OF_LIBS")),
    "sys.path": (sys.path.pop, lambda: list(sys.path)),
    "a handler of logger root": (lambda: logging.root.handlers.__delitem__(0), lambda: list(logging.root.handlers)),
    "level of logger root": (lambda: logging.disable(logging.CRITICAL), lambda: logging.root.manager.disable),
    "decimal context": (lambda: setattr(decimal.getcontext(), "prec", 3), lambda: decimal.getcontext().prec),
    "garbage collector": (gc.disable, gc.isenabled),
    "recursion limit": (lambda: sys.setrecursionlimit(12345), sys.getrecursionlimit),
    "sys.stdout": (lambda: setattr(sys, "stdout", io.StringIO()), lambda: sys.stdout),
    "sys.stderr": (lambda: setattr(sys, "stderr", None), lambda: sys.stderr),
    "profile function": (lambda: sys.setprofile(trace), sys.getprofile),
    "signal SIGTERM": (lambda: signal.signal(signal.SIGTERM, ignore), lambda: signal.getsignal(signal.SIGTERM)),
    "signal SIGCHLD": (lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN), lambda: signal.getsignal(signal.SIGCHLD)),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_is_put_back_and_named(what: str) -> None:
    """At the first run that made it, and at each; a run that changed nothing is not named."""
    watch = StateWatch()
    if what == "a handler of logger root":
        assert logging.root.handlers, "pytest has some"
    change, read = CHANGES[what]
    before = read()
    if what == "umask":
        os.umask(before)
        watch = StateWatch()
    assert whats(watch) == []
    for _ in range(2):
        change()
        assert whats(watch, "changer") == [what]
        after = read()
        assert after == before or after is before
        if what == "umask":
            os.umask(before)
        assert whats(watch) == []
    assert not watch.must_leave


def test_a_trace_function_is_taken_down_unless_it_is_a_debuggers() -> None:
    """A debugger was attached on purpose."""
    watch = StateWatch()
    before = sys.gettrace()
    try:
        sys.settrace(trace)
        found = watch.look({"t": 1})
        assert sys.gettrace() is before
        debugger = _traced_by("pydevd")
        sys.settrace(debugger)
        kept = watch.look({"t": 1})
        assert sys.gettrace() is debugger
    finally:
        sys.settrace(before)
    assert [finding.what for finding in found] == ["trace function"]
    assert kept == []


def _traced_by(module: str) -> Callable[..., None]:
    def trace(*_: object) -> None: ...

    trace.__module__ = module
    return trace


def test_a_profiler_left_on_is_taken_down() -> None:
    """It would slow down all later tasks."""
    watch = StateWatch()
    if hasattr(sys, "monitoring"):
        pytest.skip("it is no profile function there")
    profiler = cProfile.Profile()
    profiler.enable()
    found = whats(watch)
    profiler.disable()
    assert found == ["profile function"]


def test_a_wakeup_descriptor_left_is_taken_down() -> None:
    """When its number is another file's, signals would be written into that."""
    watch = StateWatch()
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    with reader, writer:
        signal.set_wakeup_fd(writer.fileno())
        assert whats(watch) == ["signal wake-up descriptor"]
        assert signal.set_wakeup_fd(-1) == -1


def test_the_handler_of_any_signal_is_put_back() -> None:
    """Of real-time signals, too; several at once."""
    watch = StateWatch()
    numbers = signal.SIGRTMIN + 3, signal.SIGWINCH
    for number in numbers:
        signal.signal(number, ignore)
    assert whats(watch) == ["signal SIGWINCH", "signal SIGRTMIN+3"]
    assert [signal.getsignal(number) for number in numbers] == [signal.SIG_DFL] * 2
    assert not watch.must_leave


def test_a_removed_working_directory_is_left(tmp_path: Path) -> None:
    """A task went into its own folder and removed it."""
    watch = StateWatch()
    before = os.getcwd()
    (tmp_path / "gone").mkdir()
    os.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert whats(watch) == ["cwd"]
    assert os.getcwd() == before


def test_a_folder_that_is_renamed_under_the_process_is_nobodys_doing(tmp_path: Path) -> None:
    """As when an app is deployed anew."""
    before = os.getcwd()
    (tmp_path / "release").mkdir()
    os.chdir(tmp_path / "release")
    try:
        watch = StateWatch()
        (tmp_path / "release").rename(tmp_path / "old")
        assert whats(watch) == []
        (tmp_path / "old").rmdir()
        assert whats(watch) == []
        assert not watch.must_leave
    finally:
        os.chdir(before)


def test_another_threads_files_keep_the_umask(tmp_path: Path) -> None:
    """There is no moment in which another mask is in force."""
    watch = StateWatch()
    done = threading.Event()
    modes = set()

    def write() -> None:
        for number in range(300):
            path = tmp_path / str(number)
            modes.add(os.fstat(fd := os.open(path, os.O_CREAT | os.O_WRONLY, 0o666)).st_mode & 0o777)
            os.close(fd)
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    while not done.is_set():
        watch.look({"t": 1})
    thread.join()
    assert len(modes) == 1


# ---- what libraries do


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Imports a module that is not the standard library's, as a first use does."""

    def load(name: str) -> None:
        monkeypatch.setitem(sys.modules, name, ModuleType(name))

    return load


def test_what_an_import_sets_is_kept(library: Callable[[str], None]) -> None:
    """New and longer variables, entries of the path, handlers, contexts: the library will not set them again."""
    watch = StateWatch()
    handler = logging.NullHandler()
    try:
        library("some_library")
        os.environ["NEW_OF_LIBRARY"] = "1"
        os.environ["PATH_OF_LIBS"] = "/lib/of/it:/usr/lib"
        sys.path.insert(0, "/lib/of/it")
        logging.root.addHandler(handler)
        socket.setdefaulttimeout(30)
        decimal.getcontext().prec = 50
        assert [what for _ in range(100) for what in whats(watch)] == []
        assert os.environ["NEW_OF_LIBRARY"] == "1"
        assert os.environ["PATH_OF_LIBS"] == "/lib/of/it:/usr/lib"
        assert sys.path[0] == "/lib/of/it"
        assert decimal.getcontext().prec == 50
    finally:
        logging.root.removeHandler(handler)
        os.environ.pop("NEW_OF_LIBRARY")
        sys.path.remove("/lib/of/it")
        socket.setdefaulttimeout(None)
        decimal.getcontext().prec = 28


def test_plugins_that_each_run_imports_are_kept(library: Callable[[str], None]) -> None:
    """Each from its own folder: what comes with an import is no growth."""
    watch = StateWatch()
    before = list(sys.path)
    for number in range(2 * FEW):
        library(f"plugin_{number}")
        sys.path.append(f"/lib/of/plugin/{number}")
        assert whats(watch) == []
    assert len(sys.path) == len(before) + 2 * FEW
    sys.path[:] = before


def test_what_an_import_set_is_not_changed_by_a_task(library: Callable[[str], None]) -> None:
    """It is put back to what the library set, and not taken back."""
    watch = StateWatch()
    library("some_library")
    os.environ["OF_LIBRARY"] = "1"
    try:
        assert whats(watch) == []
        os.environ["OF_LIBRARY"] = "2"
        assert whats(watch) == ["environ OF_LIBRARY"]
        assert os.environ["OF_LIBRARY"] == "1"
    finally:
        del os.environ["OF_LIBRARY"]


def test_what_an_import_may_not_change_is_put_back(library: Callable[[str], None]) -> None:
    """Directory, umask, handlers of signals, and variables that were something else."""
    watch = StateWatch()
    before = os.getcwd()
    library("some_library")
    os.environ["HAS"] = "else"
    os.chdir("/")
    signal.signal(signal.SIGTERM, ignore)
    assert sorted(whats(watch)) == ["cwd", "environ HAS", "signal SIGTERM"]
    assert os.environ["HAS"] == "some:path"
    assert os.getcwd() == before


def test_an_import_of_the_standard_library_excuses_nothing() -> None:
    """A task may import locale when it sets one."""
    watch = StateWatch()
    sys.modules.pop("this", None)
    sys.modules["this"] = ModuleType("this")
    socket.setdefaulttimeout(1.0)
    assert whats(watch) == ["socket default timeout"]
    del sys.modules["this"]


def test_a_variable_that_is_set_once_is_kept() -> None:
    """As ``os.environ.setdefault`` does at a first use; what stays the same is no growth."""
    watch = StateWatch()
    os.environ["SET_BY_DEFAULT"] = "1"
    try:
        assert [what for _ in range(100) for what in whats(watch)] == []
        assert os.environ["SET_BY_DEFAULT"] == "1"
    finally:
        del os.environ["SET_BY_DEFAULT"]


def test_variables_of_which_each_run_sets_another_are_told_and_taken_back() -> None:
    """All of them, from the third run on; another task may still set one."""
    watch = StateWatch()
    found = []
    for number in range(SEVERAL + 2):
        os.environ[f"JOB_{number}"] = "1"
        found.append(whats(watch))
    assert found == [[]] * (SEVERAL - 1) + [["environ JOB_*"]] * 3
    assert not [name for name in os.environ if name.startswith("JOB_")]
    os.environ["OF_ANOTHER"] = "1"
    assert whats(watch, "another") == []
    del os.environ["OF_ANOTHER"]


def test_a_variable_that_each_run_sets_anew_is_told_and_taken_back() -> None:
    """At its second value, and from then on at once, whoever sets it: a later task would read another's value."""
    watch = StateWatch()
    found = []
    for number in range(4):
        os.environ["REQUEST"] = str(number)
        found.append(whats(watch))
    assert found == [[]] + [["environ REQUEST"]] * 3
    assert "REQUEST" not in os.environ
    os.environ["REQUEST"] = "0"
    assert whats(watch, "another") == ["environ REQUEST"]
    assert "REQUEST" not in os.environ


def test_what_was_taken_back_is_not_told_again_with_the_rest() -> None:
    """A task that sets one variable anew at each run, and two others besides."""
    watch = StateWatch()
    found = []
    for others in ((), ("A",), ("B",)):
        os.environ["REQUEST"] = str(len(found))
        os.environ.update(dict.fromkeys(others, "1"))
        found.append(whats(watch))
    assert found == [[], ["environ REQUEST"], ["environ A", "environ B", "environ REQUEST"]]
    os.environ["C"] = "1"
    assert whats(watch) == ["environ C"]
    assert not {"A", "B", "C", "REQUEST"} & os.environ.keys()


def test_a_variable_that_is_removed_between_may_be_set_again() -> None:
    """To what it was before: it is no other value, and one task has set it twice only."""
    watch = StateWatch()
    for _ in range(2):
        os.environ["FLAG"] = "1"
        assert whats(watch) == []
        del os.environ["FLAG"]
        assert whats(watch) == []


def test_a_changing_variable_is_taken_back_after_several_tasks_too() -> None:
    """Which of two it was is not known; who sets it next is."""
    watch = StateWatch()
    found = []
    for number in range(2):
        os.environ["REQUEST"] = str(number)
        found += watch.look({"a": 1, "b": 1})
    assert [(each.task, each.what) for each in found] == [("", "environ REQUEST")]
    assert "REQUEST" not in os.environ
    os.environ["REQUEST"] = "2"
    assert whats(watch, "b") == ["environ REQUEST"]


def test_values_of_variables_are_not_shown() -> None:
    """They may be passwords."""
    watch = StateWatch()
    os.environ["HAS"] = "hunter2"
    (finding,) = watch.look({"t": 1})
    assert "hunter2" not in repr(finding)
    assert "some:path" not in repr(finding)


def test_the_time_zone_comes_back_with_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The C library keeps its own copy."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    watch = StateWatch()
    os.environ["TZ"] = "Asia/Tokyo"
    time.tzset()
    assert whats(watch) == ["environ TZ"]
    assert time.localtime(0).tm_hour == 0
    monkeypatch.undo()
    time.tzset()


def test_a_replaced_environ_is_put_back() -> None:
    """``os.environ = {…}`` reaches no program that is started."""
    watch = StateWatch()
    before = os.environ
    os.environ = {"HAS": "x"}  # type: ignore[assignment]  # noqa: B003
    assert whats(watch) == ["environ"]
    assert os.environ is before


def test_an_entry_of_the_path_twice_is_taken_out() -> None:
    """A task that inserts its folder at each run."""
    watch = StateWatch()
    before = list(sys.path)
    sys.path.insert(0, before[-1])
    assert whats(watch) == ["sys.path"]
    assert sys.path == before


def test_a_path_that_is_no_list_any_more_is_one_again() -> None:
    """No import would work."""
    watch = StateWatch()
    before = sys.path
    saved = list(before)
    sys.path = ("somewhere",)  # type: ignore[assignment]
    assert whats(watch) == ["sys.path"]
    assert sys.path == saved
    sys.path = before


def test_an_entry_of_the_path_that_each_run_adds_is_told() -> None:
    """And taken back, all of them."""
    watch = StateWatch()
    before = list(sys.path)
    found = []
    for number in range(SEVERAL):
        sys.path.append(f"/tmp/job-{number}")
        found.append(whats(watch))
    assert found == [[]] * (SEVERAL - 1) + [["sys.path"]]
    assert sys.path == before


def test_a_root_handler_that_each_run_adds_is_told() -> None:
    """Every line would be logged once more at each run."""
    watch = StateWatch()
    before = list(logging.root.handlers)
    found = []
    for _ in range(SEVERAL):
        logging.root.addHandler(logging.NullHandler())
        found.append(whats(watch))
    assert found == [[]] * (SEVERAL - 1) + [["a handler of logger root"]]
    assert logging.root.handlers == before


def test_what_compares_in_its_own_way_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A watch never raises for what a task did."""
    watch = StateWatch()

    class Odd:
        def __eq__(self, other: object) -> bool:
            raise ValueError("ambiguous")

        __hash__ = None  # type: ignore[assignment]

    for _ in range(2):
        before = sys.stdout
        watch = StateWatch()
        sys.stdout = Odd()  # type: ignore[assignment]
        assert whats(watch) == ["sys.stdout"]
        assert sys.stdout is before
        monkeypatch.setattr(sys, "stdout", Odd())  # it may be the app's own
    path, sys.path = sys.path, [*sys.path[:-1], Odd()]  # type: ignore[list-item]
    try:
        watch.look({"t": 1})
        assert "sys.path" in watch.must_leave
    finally:
        sys.path = path
