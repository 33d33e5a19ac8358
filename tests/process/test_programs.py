"""Programs that start a pool of their own, in the ways people write them: each was once refuted by doing it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAD = """
import dataclasses, os, sys, tempfile
from poolrt import App, Supervisor
"""
PROGRAMS = {
    "classes": (
        HEAD
        + """
app = App("p", broker="sqlite:///p.db")
@dataclasses.dataclass
class Point:
    x: int
class Refused(Exception):
    pass
@app.task
def make(x): return Point(x)
@app.task
def is_point(value): return isinstance(value, Point)
@app.task
def refuse(): raise Refused("no")
if __name__ == "__main__":
    with Supervisor(app, concurrency=1, log_level="error"):
        print(is_point.delay(Point(1)).get(timeout=20), make.delay(3).get(timeout=20) == Point(3))
        try:
            refuse.delay().get(timeout=20)
        except Refused:
            print("refused")
""",
        "True True\nrefused\n",
    ),
    "computed broker": (
        HEAD
        + """
folder = tempfile.mkdtemp()
app = App("p", broker=f"sqlite:///{folder}/p.db")
@app.task
def add(x, y): return x + y
if __name__ == "__main__":
    with Supervisor(app, concurrency=1, log_level="error"):
        print(add.delay(1, 2).get(timeout=20))
""",
        "3\n",
    ),
    "another folder": (
        HEAD
        + """
app = App("p", broker="sqlite:///p.db")
@app.task
def add(x, y): return x + y
if __name__ == "__main__":
    os.mkdir("elsewhere")
    os.chdir("elsewhere")
    with Supervisor(app, concurrency=1, log_level="error"):
        print(add.delay(1, 2).get(timeout=20))
""",
        "3\n",
    ),
    "unguarded with cleanup": (
        HEAD
        + """
app = App("p", broker="sqlite:///p.db")
@app.task
def add(x, y): return x + y
open("marker", "a").close()
try:
    try:
        with Supervisor(app, concurrency=1, log_level="error"):
            print(add.delay(1, 2).get(timeout=20))
    except:
        print("swallowed")
        raise
finally:
    print("marker", os.path.exists("marker"))
    os.remove("marker")
""",
        "3\nmarker True\n",
    ),
    "spawned producer": (
        HEAD
        + """
import multiprocessing
app = App("p", broker="sqlite:///p.db")
@app.task
def add(x, y): return x + y
def use(x):
    try:
        return add.delay(x, 1).get(timeout=20)
    finally:
        app.close()
if __name__ == "__main__":
    with Supervisor(app, concurrency=1, log_level="error"):
        with multiprocessing.get_context("spawn").Pool(1) as producers:
            print(producers.map(use, [1, 2]))
            producers.close()
            producers.join()
""",
        "[2, 3]\n",
    ),
}


def run_program(place: Path, source: str, *arguments: str) -> tuple[int, str, str]:
    (place / "program.py").write_text(source)
    done = subprocess.run(
        [sys.executable, *(arguments or ("program.py",))],
        cwd=place, env={**os.environ, "TMPDIR": str(place)}, capture_output=True, text=True, timeout=50, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_does_what_it_says(name: str, place: Path) -> None:
    """The program's own classes, broker, folder and cleanup are what they are without a pool."""
    source, said = PROGRAMS[name]
    code, out, err = run_program(place, source)
    assert (code, out) == (0, said), err


def test_a_module_of_the_same_name_as_one_of_pythons(place: Path) -> None:
    """A random.py in the current folder is the program's, and neither the supervisor's nor the template's."""
    (place / "random.py").write_text("raise SystemExit('my own random numbers')\n")
    (place / "tasks.py").write_text(HEAD + 'app = App("p", broker="sqlite:///p.db")\n@app.task\ndef one(): return 1\n')
    client = (
        "import sys; sys.path.append('.'); import tasks; from poolrt import Supervisor\n"
        "with Supervisor(tasks.app, concurrency=1, log_level='error'): print(tasks.one.delay().get(timeout=20))"
    )
    code, out, err = run_program(place, "", "-P", "-c", client)
    assert (code, out) == (0, "1\n"), err


def test_a_module_run_by_name(place: Path) -> None:
    """Tasks of ``python -m package.module`` have the names that a worker importing the module gives them."""
    package = place / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "module.py").write_text(
        HEAD
        + """
app = App("p", broker="sqlite:///p.db")
@app.task
def add(x, y): return x + y
if __name__ == "__main__":
    print(add.name)
    with Supervisor("package.module:app", concurrency=1, log_level="error"):
        print(add.delay(1, 2).get(timeout=20))
    with Supervisor(app, concurrency=1, log_level="error"):
        print(add.delay(3, 4).get(timeout=20))
"""
    )
    code, out, err = run_program(place, "", "-m", "package.module")
    assert (code, out) == (0, "package.module.add\n3\n7\n"), err


def test_two_apps_share_a_broker(place: Path) -> None:
    """Tasks that one pool does not know are handed back until the other takes them: none is given up."""
    source = (
        HEAD
        + """
first = App("first", broker="sqlite:///p.db")
second = App("second", broker="sqlite:///p.db")
@first.task
def double(x): return 2 * x
@second.task
def negate(x): return -x
if __name__ == "__main__":
    with Supervisor(first, concurrency=1, log_level="error"):
        with Supervisor(second, concurrency=1, log_level="error"):
            doubled = double.enqueue_many((x,) for x in range(5))
            negated = negate.enqueue_many((x,) for x in range(5))
            print([result.get(timeout=45) for result in doubled], [result.get(timeout=45) for result in negated])
"""
    )
    code, out, err = run_program(place, source)
    assert (code, out) == (0, "[0, 2, 4, 6, 8] [0, -1, -2, -3, -4]\n"), err
