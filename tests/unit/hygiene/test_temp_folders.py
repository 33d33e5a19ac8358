"""The TMPDIR of each child: made and locked, removed when it is dead, and never in a folder that is somebody else's."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path

import pytest

from poolrt.hygiene.temp_folders import TempFolders


@pytest.fixture
def folders(tmp_path: Path) -> TempFolders:
    """Those of a start of node ``n``."""
    return TempFolders("n", "inc", "/broker", str(tmp_path))


def in_a_child(work) -> int:  # type: ignore[no-untyped-def]
    """The exit code of a fork that does ``work`` and dies: whatever it holds is let go."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_child_puts_its_files_there(folders: TempFolders, tmp_path: Path) -> None:
    """By TMPDIR and by ``tempfile``; only its user may look."""

    def work() -> None:
        folder = folders.make(1)
        assert folder is not None
        with tempfile.NamedTemporaryFile() as file:
            assert Path(file.name).parent == folder
        assert os.environ["TMPDIR"] == str(folder)
        assert all(part.stat().st_mode & 0o077 == 0 for part in (folder, folder.parent, folder.parent.parent))
        (folder / "left").write_text("x")

    assert in_a_child(work) == 0
    (left,) = tmp_path.rglob("left")
    folders.drop(1)
    assert not left.exists()
    folders.leave()
    assert list(tmp_path.iterdir()) == []


def test_what_a_living_child_has_is_not_swept(folders: TempFolders, tmp_path: Path) -> None:
    """Whichever start or template it is of; what a dead one left is."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            folders.make(0)
            os.write(writer, b"+")
            signal.pause()
        finally:
            os._exit(1)
    assert os.read(reader, 1) == b"+"
    assert in_a_child(lambda: TempFolders("n", "earlier", "/broker", str(tmp_path)).make(0)) == 0
    folders.sweep()
    assert [each.name for each in tmp_path.glob("poolrt-*/*/*")] == [f"inc-{os.getpid()}.0"]
    folders.leave()
    assert list(tmp_path.glob("poolrt-*/*/*"))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    folders.leave()
    assert list(tmp_path.iterdir()) == []
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("kind", ["open", "link"])
def test_a_folder_that_others_can_write_to(folders: TempFolders, tmp_path: Path, kind: str) -> None:
    """Anybody may have made it in /tmp: then the child has none, and says why; nothing is written there."""
    ours = tmp_path / f"poolrt-{os.getuid()}"
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    if kind == "link":
        ours.symlink_to(theirs)
    else:
        ours.mkdir()
        ours.chmod(0o777)
    before = dict(os.environ)
    assert folders.make(0) is None
    assert dict(os.environ) == before
    assert list(theirs.iterdir()) == []


def test_an_empty_folder_is_the_next_child_s(folders: TempFolders, tmp_path: Path) -> None:
    """Of the slot; another slot has another one. Whatever its last child left in it is gone."""
    assert in_a_child(lambda: folders.make(1)) == 0
    (folder,) = tmp_path.glob("poolrt-*/*/*")
    held = os.open(folder, os.O_RDONLY)  # or a new one might get its inode's number
    folders.drop(1)
    assert in_a_child(lambda: folders.make(1)) == 0
    assert os.path.samestat(folder.stat(), os.fstat(held))
    os.close(held)
    (folder / "left" / "below").mkdir(parents=True)
    folders.drop(1)
    assert in_a_child(lambda: folders.make(1)) == in_a_child(lambda: folders.make(2)) == 0
    assert list(folder.iterdir()) == []
    assert len(list(folder.parent.iterdir())) == 2


@pytest.mark.parametrize("spoiled", ["file", "link", "mode", "gone", "all gone"])
def test_a_folder_that_a_task_has_spoiled(folders: TempFolders, tmp_path: Path, spoiled: str) -> None:
    """Whatever a task puts there, or makes of it: the slot's next child has a folder, and nothing elsewhere goes."""
    assert in_a_child(lambda: folders.make(1)) == 0
    (folder,) = tmp_path.glob("poolrt-*/*/*")
    (other := tmp_path / "other").mkdir(mode=0o700)
    (other / "file").touch()
    if spoiled == "mode":
        folder.chmod(0o755)
    else:
        folder.rmdir()
    if spoiled == "file":
        folder.write_text("x")
    elif spoiled == "link":
        folder.symlink_to(other)
    elif spoiled == "all gone":
        folder.parent.rmdir()
        folder.parent.parent.rmdir()
    for _ in range(2):  # the template may have no time to drop it before the next child comes
        assert in_a_child(lambda: folders.make(1)) == 0
        assert folder.is_dir()
        assert not folder.is_symlink()
        assert folder.stat().st_mode & 0o777 == 0o700
        folders.drop(1)
    assert (other / "file").exists()
