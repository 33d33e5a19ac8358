"""An app over a FakeStore, with a few tasks, and a worker for it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from poolrt.app.app import App
from tests.unit.app.canvas.fake_store import FakeStore, Worker, app_with


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
def app(store: FakeStore) -> App:
    return app_with(store)


@pytest.fixture
def worker(app: App, store: FakeStore) -> Worker:
    return Worker(app, store)


def add(x: int, y: int) -> int:
    return x + y


def double(x: Any) -> Any:
    return x * 2


def total(numbers: list[int], more: int = 0) -> int:
    return sum(numbers) + more


def boom(*args: Any) -> None:
    raise ValueError("boom")


NOTED: list[tuple[Any, ...]] = []


def note(*args: Any) -> None:
    NOTED.append(args)


@pytest.fixture
def tasks(app: App) -> SimpleNamespace:
    """The functions above as tasks, by their names; ``noted``: what ``note`` was called with."""
    NOTED.clear()
    made = {each.__name__: app.task(name=each.__name__)(each) for each in (add, double, total, boom, note)}
    return SimpleNamespace(**made, noted=NOTED)
