"""A real pool for a module's tests: supervisor, template, children and steward over a SQLite file.

It is started once a module and used by all its tests, so none of them may end its child (test_poison.py has its own).
"""

from __future__ import annotations

import importlib
import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import poolrt
from poolrt.message import Record, decode_record
from tests import servers

HERE = Path(__file__).parent
SECONDS = 20.0
"""How long a result may take: nothing waits so long unless it is lost."""


@pytest.fixture(scope="module")
def place(private_tmp: Path) -> Iterator[Path]:
    """The folder of this module's broker and sockets; what is started from now on finds the app of shop_tasks."""
    patch = pytest.MonkeyPatch()
    folder = Path(tempfile.mkdtemp(prefix="a-", dir=private_tmp))
    for name in [name for name in os.environ if name.startswith("POOLRT_")]:
        patch.delenv(name)
    patch.setenv("POOLRT_RUNTIME_DIR", str(folder / "run"))
    patch.setenv("POOLRT_STRICT", "1")
    patch.setenv("TEST_BROKER", f"sqlite:///{folder}/shop.db")
    patch.syspath_prepend(str(HERE))
    yield folder
    patch.undo()
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def shop(place: Path) -> Iterator[ModuleType]:
    """The module shop_tasks, imported anew on this module's broker."""
    sys.modules.pop("shop_tasks", None)
    module = importlib.import_module("shop_tasks")
    yield module
    module.app.close()
    module.brief.close()


@pytest.fixture(scope="module", params=["sqlite", "redis"])
def hooked(request: pytest.FixtureRequest, place: Path, redis_server: servers.Server) -> Iterator[ModuleType]:
    """The module hooked_tasks, imported anew on each broker; its hooks write to a ledger."""
    patch = pytest.MonkeyPatch()
    patch.setenv("TEST_LEDGER", str(place / f"ledger-{request.param}"))
    if request.param == "redis":
        patch.setenv("TEST_BROKER", redis_server.url(namespace=f"t-{uuid.uuid4().hex}"))
    sys.modules.pop("hooked_tasks", None)
    module = importlib.import_module("hooked_tasks")
    yield module
    module.app.close()
    patch.undo()


@pytest.fixture
def told(hooked: ModuleType) -> Callable[[str], list[str]]:
    """``told(id)``: what the hooks wrote of a task."""

    def read(task_id: str) -> list[str]:
        lines = Path(hooked.LEDGER).read_text().splitlines()
        return [line.partition(" ")[2] for line in lines if line.startswith(task_id)]

    return read


@pytest.fixture
def ended() -> Callable[[Any], Any]:
    """``ended(result)``: how a task ended: its value, or the exception."""

    def wait(result: Any) -> Any:
        try:
            return result.get(timeout=SECONDS)
        except BaseException as error:
            return error

    return wait


@pytest.fixture(autouse=True)
def closed(shop: ModuleType) -> Iterator[None]:
    """Each test opens its connections anew, and leaves none open."""
    yield
    shop.app.close()
    shop.brief.close()


@pytest.fixture(scope="module")
def pool(shop: ModuleType) -> Iterator[poolrt.Supervisor]:
    """The pool: one child, so that what runs first is no matter of luck."""
    with poolrt.Supervisor(shop.app, concurrency=1) as pool:
        shop.add.delay(1, 1).get(timeout=SECONDS)
        yield pool


@pytest.fixture
def record(shop: ModuleType) -> Callable[[str], Record]:
    """``record(id)``: the stored record of a task that ended."""

    def find(task_id: str) -> Record:
        found = shop.app.broker.find(task_id)
        assert found is not None
        assert found.record is not None
        return decode_record(found.record)

    return find


class Gate:
    """A task that holds the only child until the test lets it go."""

    def __init__(self, shop: Any, folder: Path, wait_for: Callable[..., None]) -> None:
        self._folder = folder
        self.result = shop.hold.delay(str(folder))
        wait_for((folder / "started").exists, "the child runs the task that holds it", SECONDS)

    def open(self) -> None:
        """Let the child go on."""
        (self._folder / "gate").touch()
        assert self.result.get(timeout=SECONDS) == "went on"


@pytest.fixture
def gate(pool: poolrt.Supervisor, shop: ModuleType, tmp_path: Path, wait_for: Callable[..., None]) -> Iterator[Gate]:
    """The child is held; what is enqueued now waits until ``gate.open()``."""
    gate = Gate(shop, tmp_path, wait_for)
    yield gate
    gate.open()
