"""The command line, called in this process or as a user would; without the caller's own POOLRT_* variables."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from poolrt.cli.main import run
from tests.servers import Server

ROOT = Path(__file__).resolve().parents[2]


class Said(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own settings must not decide a test."""
    for name in list(os.environ):
        if name.startswith("POOLRT_"):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def logger_as_it_was() -> Iterator[None]:
    """``poolrt serve`` sets the logger ``poolrt`` up for good: it is a process's main, and here it is not."""
    logger = logging.getLogger("poolrt")
    before = (logger.handlers[:], logger.level, logger.propagate)
    yield
    logger.handlers[:], logger.level, logger.propagate = before


@pytest.fixture(scope="session", params=["sqlite", "redis"])
def service(request: pytest.FixtureRequest) -> Server | None:
    """The shared server of the broker under test; None where its store is a file."""
    if request.param == "sqlite":
        return None
    server: Server = request.getfixturevalue("redis_server")  # here, so that no test is blamed for it
    return server


@pytest.fixture
def store(service: Server | None, node_dir: Path) -> str:
    """The URL of an empty broker of each kind."""
    return service.url(namespace=f"t-{uuid.uuid4().hex}") if service else f"sqlite:///{node_dir}/store.db"


@pytest.fixture
def poolrt(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """``poolrt("serve", "--help")``: the command line in this process."""

    def call(*arguments: str) -> Said:
        code = run(arguments)
        return Said(code, *capsys.readouterr())

    return call


@pytest.fixture
def command(node_dir: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """``command("demo", "--json")``: the command line as a process, its control sockets in a folder of the test."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str, **options: Any) -> subprocess.Popen[str]:
        env = {**os.environ, "POOLRT_RUNTIME_DIR": str(node_dir / "run"), "PYTHONPATH": str(ROOT)}
        settings = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        process = subprocess.Popen(
            [sys.executable, "-m", "poolrt", *arguments], env=env, text=True, process_group=0, **settings
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()
