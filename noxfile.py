"""Everything that is checked, as sessions: ``nox`` runs the usual ones, ``nox -s NAME`` one, ``nox -l`` lists them.

Versions and requirements come from pyproject.toml, once. Interpreters are found by explicit path: a pyenv shim exists
for versions that do not run, and would hide an absent interpreter behind a failing one.
"""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import tempfile
from pathlib import Path

import nox

nox.needs_version = ">=2024.4"
nox.options.sessions = ["lint", "types", "tests", "build", "smoke"]
nox.options.default_venv_backend = "virtualenv"  # never uv: it brings interpreters and an index of its own
nox.options.reuse_existing_virtualenvs = True

ROOT = Path(__file__).resolve().parent
PYPROJECT = nox.project.load_toml(ROOT / "pyproject.toml")
VERSION = runpy.run_path(str(ROOT / "poolrt/version.py"))["VERSION"]
PYTHONS = nox.project.python_versions(PYPROJECT)  # the classifiers
OLDEST, NEWEST = PYTHONS[0], PYTHONS[-1]

DEMO_SECONDS = 120  # the demo takes about 30; a hang fails instead of holding CI


def find_python(version: str) -> str | None:
    """The path of an interpreter of this minor version: the newest of pyenv's, the system's, /usr/local's; or None."""
    roots = [Path(os.environ["PYENV_ROOT"])] if os.environ.get("PYENV_ROOT") else []
    roots.append(Path.home() / ".pyenv")
    built = {
        int(path.parts[-3].rpartition(".")[2]): path
        for root in reversed(roots)
        for path in root.glob(f"versions/{version}.*/bin/python{version}")
        if path.parts[-3].replace(".", "").isdigit()  # no 3.14.0t, no 3.15.0b1
    }
    places = [
        *(built[patch] for patch in sorted(built, reverse=True)),
        *(Path(folder) / f"python{version}" for folder in ("/usr/bin", "/usr/local/bin")),
    ]
    return next((str(path) for path in places if os.access(path, os.X_OK)), None)


# An absent interpreter has a session too, which says so: nothing is left out in silence.
each_python = nox.parametrize("python", [nox.param(find_python(version) or False, id=version) for version in PYTHONS])


def requirement(name: str) -> str:
    """What pyproject.toml asks for of this tool."""
    extras = PYPROJECT["project"]["optional-dependencies"]
    return next(spec for spec in extras["dev"] + extras["test"] if spec.startswith(name))


@nox.session
def lint(session: nox.Session) -> None:
    """Style and formatting: ruff check, ruff format --check."""
    session.install(requirement("ruff"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """The types of poolrt/ (mypy --strict), as the oldest and the newest supported Python see them."""
    session.install("-e", ".[test]")
    session.run("mypy", "--python-version", OLDEST)
    session.run("mypy", "--python-version", NEWEST)


@nox.session
@each_python
def tests(session: nox.Session) -> None:
    """The tests, on each interpreter that is here."""
    if not session.python:
        session.skip("no such interpreter in pyenv's versions, /usr/bin or /usr/local/bin")
    session.install("-e", ".[test]")
    session.run("pytest", *session.posargs)


@nox.session
def coverage(session: nox.Session) -> None:
    """The tests under coverage, forked and exec'ed processes too; fails below pyproject's floor."""
    session.install("-e", ".[test]")
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", "pytest", *session.posargs)
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report")


CHAOS = ("storm", "soft_delivery", "hard_limit", "memory_hog")
SERVER_STORMS = (("--nodes", "1", "--fsync", "always"), ("--nodes", "2", "--fsync", "everysec"))
SERVER_CHECKS = ("fairness", "backlog")
SKIPPED = 77  # stress.cluster, without root or ip


@nox.session
def stress_small(session: nox.Session) -> None:
    """The stress suites, small enough for CI."""
    session.install("-e", ".[test]")
    for scenario in CHAOS:
        session.run("python", "-m", "stress.chaos", scenario, "--small")
    for options in SERVER_STORMS:
        session.run("python", "-m", "stress.chaos", "storm", "--small", "--broker", "redis", *options)
    session.run("python", "-m", "stress.cluster", "--small", success_codes=[0, SKIPPED])
    session.run("python", "-m", "stress.leaks", "--small")
    session.run("python", "-m", "stress.postgres", "--small")
    session.run("python", "-m", "stress.bench", "run", "--small", *session.posargs)
    session.run("python", "-m", "stress.bench", "run", "server", "--small")
    for check in ("hygiene", *SERVER_CHECKS):
        session.run("python", "-m", "stress.bench", check, "--small")


@nox.session
@each_python
def stress_full(session: nox.Session) -> None:
    """The stress suites in full: hours, and every core; what interrupts and kills, on each interpreter that is here."""
    session.install("-e", ".[test]")
    for scenario in CHAOS:
        session.run("python", "-m", "stress.chaos", scenario, "--full")
    for options in SERVER_STORMS:
        session.run("python", "-m", "stress.chaos", "storm", "--full", "--broker", "redis", *options)
    session.run("python", "-m", "stress.cluster", "--full", success_codes=[0, SKIPPED])
    session.run("python", "-m", "stress.leaks", "--full")
    session.run("python", "-m", "stress.postgres", "--full")
    session.run("python", "-m", "stress.bench", "run", "--full", *session.posargs)
    session.run("python", "-m", "stress.bench", "run", "server", "--full")
    for check in ("hygiene", *SERVER_CHECKS):
        session.run("python", "-m", "stress.bench", check, "--full")


@nox.session
def build(session: nox.Session) -> None:
    """The sdist and the wheel, into dist/."""
    session.install(requirement("build"))
    for old in (ROOT / "dist").glob(f"poolrt-{VERSION}*"):
        old.unlink()
    session.run("python", "-m", "build", "--outdir", "dist")


@nox.session(requires=["build"])
def smoke(session: nox.Session) -> None:
    """The built wheel in an empty environment, away from the checkout: does what users get work?"""
    (wheel,) = (ROOT / "dist").glob(f"poolrt-{VERSION}-*.whl")
    env = {"PYTHONPATH": None}
    with tempfile.TemporaryDirectory(prefix="poolrt-smoke-") as folder:
        session.run("python", "-m", "venv", f"{folder}/venv")
        python, poolrt = f"{folder}/venv/bin/python", f"{folder}/venv/bin/poolrt"
        with session.chdir(folder):
            session.run(python, "-m", "pip", "install", "--quiet", str(wheel), external=True, env=env)
            for command in ([poolrt], [python, "-m", "poolrt"]):
                said = session.run(*command, "--version", external=True, env=env, silent=True) or ""
                if VERSION not in said:
                    session.error(f"{command} --version says {said!r}, not {VERSION}")
            session.run(poolrt, "--help", external=True, env=env, silent=True)
            check_demo(session, poolrt, folder)


def check_demo(session: nox.Session, poolrt: str, folder: str) -> None:
    """`poolrt demo --json` ends by itself with 0, accounts for every task, and leaves no process behind."""
    mark = f"SMOKE_OF_POOLRT={folder}"
    env = {**os.environ, "SMOKE_OF_POOLRT": folder}
    env.pop("PYTHONPATH", None)
    demo = subprocess.run(
        [poolrt, "demo", "--json"], cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        text=True, timeout=DEMO_SECONDS, check=False,
    )  # fmt: skip
    if demo.returncode:
        session.error(f"poolrt demo --json exited {demo.returncode}: {demo.stdout[-2000:]}")
    account = json.loads(demo.stdout)
    session.log(f"the demo accepted {account['accepted']} tasks in {account['seconds']} s")
    ended = sum(account[state] for state in ("succeeded", "failed", "dead"))
    if not account["accepted"] or account["accepted"] != ended:
        session.error(f"the demo accepted {account['accepted']} tasks and ended {ended}")
    left = [path.parent.name for path in Path("/proc").glob("[0-9]*/environ") if mark.encode() in readable(path)]
    if left:
        session.error(f"the demo left processes {left}")


def readable(path: Path) -> bytes:
    """A file of /proc, empty when its process is gone or another user's."""
    try:
        return path.read_bytes()
    except OSError:
        return b""
