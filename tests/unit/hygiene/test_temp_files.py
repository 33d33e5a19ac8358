"""A child's own temporary folder: made, filled, watched, removed."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from poolrt.hygiene import temp_files
from poolrt.hygiene.leftovers import LIVES_ON
from poolrt.hygiene.temp_files import (
    CACHE,
    HANDED_ON,
    MANY,
    MOST,
    TempWatch,
    remove,
)


class Folder:
    """A folder and its watch, on a fake clock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.now = 0.0
        self.made = 0
        self.watch = TempWatch(path, lambda: self.now)

    def leave(self, name: str | None = None) -> Path:
        self.made += 1
        path = self.path / (name or f"tmp{self.made:08x}.csv")
        path.write_bytes(b"x" * 1000)
        return path

    def drive(self, runs: int, function: Callable[[], object], takes: float = HANDED_ON):
        found = []
        for _ in range(runs):
            function()
            self.now += takes
            found += self.watch.look({"t": 1})
        return found


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """An empty one."""
    (tmp_path / "own").mkdir()
    return Folder(tmp_path / "own")


def test_files_left_by_each_run_are_named_with_their_size(folder: Folder) -> None:
    """Names that tempfile made are one name."""
    (finding,) = folder.drive(CACHE + 1, folder.leave)
    assert (finding.task, finding.what, finding.count, finding.runs) == ("t", "tmp*.csv", CACHE + 1, CACHE + 1)
    assert "64.5 KiB" in finding.reason


def test_many_files_need_only_be_seconds_old(folder: Folder) -> None:
    """The next look, whoever ran, sees that they are old enough."""
    assert not folder.drive(MANY, folder.leave, takes=0.001)
    folder.now += LIVES_ON - 1
    assert not folder.watch.look({"other": 1})
    folder.now += 1
    (finding,) = folder.watch.look({"other": 1})
    assert (finding.task, finding.count, finding.runs) == ("t", MANY, MANY)
    assert not folder.drive(MANY, folder.leave, takes=0.001), "each is told once"
    (finding,) = folder.drive(1, folder.leave, takes=LIVES_ON + 1)
    assert (finding.count, finding.runs) == (MANY + 1, MANY + 1)


def test_folders_are_weighed_with_what_is_in_them(folder: Folder) -> None:
    """As mkdtemp leaves them."""

    def run() -> None:
        made = Path(tempfile.mkdtemp(prefix="job-", dir=folder.path))
        (made / "data").write_bytes(b"x" * 1024 * 1024)

    (finding,) = folder.drive(CACHE + 1, run)
    assert finding.what == "job-*"
    assert "66.3 MiB" in finding.reason


def test_a_cache_is_no_leak(folder: Folder) -> None:
    """One folder made at first use, filled later."""
    cache = folder.path / "matplotlib-abc"
    assert not folder.drive(1, cache.mkdir)
    assert not folder.drive(50, lambda: folder.leave(f"matplotlib-abc/{folder.made}"))


def test_files_that_a_later_run_takes_away_are_no_leak(folder: Folder) -> None:
    """Each is there for three runs, however long these take."""
    there: list[Path] = []

    def run() -> None:
        there.append(folder.leave())
        if len(there) > 3:
            there.pop(0).unlink()

    assert not folder.drive(50, run)


@pytest.mark.parametrize(("bound", "takes"), [(32, 1.0), (64, 30.0), (256, 0.01), (256, 0.2)])
def test_a_cache_that_removes_its_oldest_file_is_no_leak(folder: Folder, bound: int, takes: float) -> None:
    """It fills up first, one file at a run, however long that takes if the cache is small."""
    kept: list[Path] = []

    def run() -> None:
        kept.append(folder.leave())
        if len(kept) > bound:
            kept.pop(0).unlink()

    assert not folder.drive(4 * bound, run, takes)


def test_files_that_a_thread_takes_away_are_no_leak(folder: Folder) -> None:
    """All that are there, each three seconds; a hundred runs a second leave one."""

    def run() -> None:
        folder.leave()
        if folder.made % 300 == 0:
            for path in folder.path.iterdir():
                path.unlink()

    assert not folder.drive(1500, run, takes=0.01)


def test_files_that_the_next_task_takes_away_are_no_leak(folder: Folder) -> None:
    """Ten a second wait in its queue for 25 seconds."""
    there: list[Path] = []

    def run() -> None:
        there.append(folder.leave())
        if len(there) > 250:
            there.pop(0).unlink()

    assert not folder.drive(1000, run, takes=0.1)


def test_a_folder_with_very_many_files_is_not_listed_after_each_run(folder: Folder) -> None:
    """That would take longer than most tasks."""
    folder.leave()
    folder.watch.look({"t": 2})
    assert folder.watch.wants_each
    for _ in range(2 * MOST):
        folder.leave()
    folder.watch.look({"t": 2})
    assert not folder.watch.wants_each


def test_very_many_are_told_at_once(folder: Folder) -> None:
    """Whatever their age."""
    for _ in range(MOST):
        folder.leave()
    (finding,) = folder.watch.look({"t": 1})
    assert finding.count == MOST


def test_a_file_that_comes_within_the_tick_of_a_look_is_seen(folder: Folder) -> None:
    """The folder's time does not move then: as long as its last change is that young, it is listed again."""
    folder.leave()
    folder.watch.look({"t": 1})
    before = os.stat(folder.path)
    folder.leave()
    os.utime(folder.path, ns=(before.st_atime_ns, before.st_mtime_ns))
    folder.watch._wall_ns = lambda: before.st_mtime_ns + 1  # no matter how slow this machine is
    folder.watch.look({"t": 1})
    folder.leave()
    os.utime(folder.path, ns=(before.st_atime_ns, before.st_mtime_ns))
    folder.watch.look({"t": 1})
    assert len(folder.watch._left.left) == 3


def test_nothing_is_listed_while_nothing_has_changed(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """One stat is all."""
    os.utime(folder.path, (1e9, 1e9))
    folder.watch.look({"t": 1})
    monkeypatch.setattr(os, "listdir", lambda _: pytest.fail("listed"))
    assert folder.watch.look({"t": 1}) == []


def test_a_folder_that_a_task_removed_is_made_again(folder: Folder) -> None:
    """Else tempfile would fail in every later task."""
    folder.leave().unlink()
    folder.path.rmdir()
    assert folder.watch.look({"t": 1}) == []
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    folder.leave()
    folder.watch.look({"t": 1})
    assert len(folder.watch._left.left) == 1


def test_a_file_in_the_folders_place_is_survived(folder: Folder, caplog: pytest.LogCaptureFixture) -> None:
    """A watch never raises for what a task did."""
    folder.path.rmdir()
    folder.path.write_text("")
    assert folder.watch.look({"t": 1}) == []
    assert "cannot look into" in caplog.text


def test_everything_in_the_folder_is_removed(tmp_path: Path) -> None:
    """Folders without permissions too; the targets of links stay."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("")
    path = tmp_path / "own"
    (path / "locked" / "inner").mkdir(parents=True)
    (path / "locked" / "inner" / "file").write_text("")
    (path / "locked" / "inner" / "file").chmod(0)
    (path / "to-folder").symlink_to(outside)
    (path / "to-file").symlink_to(outside / "kept")
    (path / "dangling").symlink_to("nowhere")
    os.mkfifo(path / "fifo")
    (path / "locked" / "inner").chmod(0)
    (path / "locked").chmod(0)
    path.chmod(0)
    assert remove(path)
    assert not path.exists()
    assert (outside / "kept").exists()
    assert remove(path), "it is gone already"


def test_folders_without_permissions_are_given_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As any user but root needs it: the kernel refuses to open such a folder."""
    inner = tmp_path / "own" / "inner"
    inner.mkdir(parents=True)
    (inner / "file").write_text("")
    inner.chmod(0)
    inner.parent.chmod(0)
    real = os.open

    def as_a_user(path, flags, *mode, dir_fd=None):
        if stat.S_IMODE(os.stat(path, dir_fd=dir_fd).st_mode) & 0o500 != 0o500:
            raise PermissionError
        return real(path, flags, *mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", as_a_user)
    assert remove(tmp_path / "own")


def test_a_link_in_the_folders_place_is_not_followed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is left, and said."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "kept").write_text("")
    (tmp_path / "own").symlink_to(tmp_path / "outside")
    assert not remove(tmp_path / "own")
    assert (tmp_path / "outside" / "kept").exists()
    assert "cannot remove" in caplog.text


def test_what_is_mounted_in_the_folder_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Another device is not entered; what is beside it goes."""
    mounted = tmp_path / "own" / "mounted"
    mounted.mkdir(parents=True)
    (mounted / "precious").write_text("")
    (tmp_path / "own" / "file").write_text("")
    inode = mounted.stat().st_ino
    real = os.fstat

    class Elsewhere:
        st_dev = -1

    monkeypatch.setattr(
        temp_files.os, "fstat", lambda fd: Elsewhere() if real(fd).st_ino == inode else real(fd)
    )  # fmt: skip
    assert not remove(tmp_path / "own")
    assert (mounted / "precious").exists()
    assert not (tmp_path / "own" / "file").exists()


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("tmpab12cd_4", "tmp*"),
        ("tmpab12cd_4.csv", "tmp*.csv"),
        ("job-17.log", "job-*.log"),
        ("0f8fad5b-d9cb-469f-a165-70867728950e.pdf", "*.pdf"),
        ("cache", "cache"),
    ],
)
def test_names_become_patterns(name: str, pattern: str) -> None:
    """So that one leak has one name."""
    assert temp_files._pattern(name) == pattern
