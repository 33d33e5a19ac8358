"""SQLite: what names the file, who may touch it, and how it keeps its size."""

from __future__ import annotations

import os
import re
import stat
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from poolrt.brokers.sqlite import SqliteBroker
from poolrt.brokers.urls import broker_from_url
from poolrt.errors import (
    BrokerError,
    BrokerIncompatible,
    ConfigurationError,
)
from poolrt.message import Enqueue, new_task_id

Script = Callable[..., subprocess.Popen[str]]
Open = Callable[..., SqliteBroker]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def put(broker: SqliteBroker, envelope: bytes = b"") -> str:
    task = new_task_id()
    assert broker.enqueue([Enqueue(task, envelope, "default", 0, None)]) == [True]
    return task


def test_urls(node_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative file is resolved when the object is made, three slashes and four mean what they mean elsewhere."""
    monkeypatch.chdir(node_dir)
    real = os.path.realpath(node_dir)
    assert SqliteBroker("sqlite:///q.db").url == f"sqlite:///{real}/q.db"
    assert SqliteBroker(f"sqlite:///{real}/q.db").url == f"sqlite:///{real}/q.db"
    assert SqliteBroker("q.db").path == f"{real}/q.db"
    assert broker_from_url("sqlite:///q.db").url == f"sqlite:///{real}/q.db"
    assert os.listdir(node_dir) == [], "making the object touches nothing"


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///", "sqlite:///:memory:", "redis://x", "sqlite:///q.db?x=1", "d/"]
)
def test_what_is_no_url(url: str) -> None:
    """What names no file is refused by name before anything is opened."""
    with pytest.raises(ConfigurationError, match=re.escape(repr(url))):
        SqliteBroker(url)


def test_wrong_options(file: Path) -> None:
    """A timeout or durability that means nothing is refused."""
    with pytest.raises(ConfigurationError, match="durability"):
        SqliteBroker(file, durability="maybe")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="timeout"):
        SqliteBroker(file, timeout=0)


def test_links_lead_to_the_same_broker(file: Path, open_broker: Open) -> None:
    """Two names of one file share its lock and its folder, else wake-ups would be lost between them."""
    broker = open_broker()
    task = put(broker)
    link = file.with_name("link.db")
    link.symlink_to(file)
    other = SqliteBroker(link)
    assert other.path == broker.path
    assert other.find(task)
    other.close()


# ---- the file's rights


def test_all_files_are_private(file: Path, open_broker: Open) -> None:
    """The database and every file beside it are readable by this user alone, whatever the umask."""
    before = os.umask(0)
    try:
        broker = open_broker()
        put(broker)
        broker.node_directory()
    finally:
        os.umask(before)
    modes = {name: oct(mode(file.parent / name)) for name in os.listdir(file.parent)}
    assert modes == {
        "q.db": "0o600",
        "q.db-wal": "0o600",
        "q.db-shm": "0o600",
        "q.db-claims": "0o600",
        "q.db-nodes": "0o700",
    }
    assert broker.trusted


def test_a_file_that_others_can_write_is_refused(file: Path, open_broker: Open) -> None:
    """Code in messages is run only because nobody else can write them: so such a file is not opened at all."""
    broker = open_broker()
    put(broker)
    broker.close()
    file.chmod(0o620)
    with pytest.raises(BrokerError, match="chmod 600"):
        put(broker)
    file.chmod(0o600)
    put(broker)


def test_someone_elses_file_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of another user is not opened, and both users are named."""
    with closing(SqliteBroker(file)) as broker:
        put(broker)
    mine = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: mine + 1)
    with pytest.raises(BrokerError, match=f"uid {mine}, not to {mine + 1}"):
        SqliteBroker(file).depth()


def test_a_missing_folder_is_named(node_dir: Path) -> None:
    """The broker makes its file, never a folder that a typo named."""
    with pytest.raises(BrokerError, match=re.escape(f"{node_dir}/no/such")):
        SqliteBroker(node_dir / "no" / "such" / "q.db").depth()


def test_a_network_file_system_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite's locks do not hold there: refused before the file is made."""
    monkeypatch.setattr("poolrt.brokers.sqlite.store.is_network_filesystem", lambda _: True)
    with pytest.raises(BrokerIncompatible, match="network"):
        SqliteBroker(file).depth()
    assert not file.exists()
