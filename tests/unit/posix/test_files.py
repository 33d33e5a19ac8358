from __future__ import annotations

import errno
import os
import stat

import pytest

from poolrt.posix import files


def test_a_new_file_is_private(in_child, tmp_path):
    """Mode 0600 under a umask that allows everything, and close-on-exec."""

    def make():
        os.umask(0)
        fd = files.open_private(tmp_path / "f", os.O_RDWR | os.O_CREAT)
        return oct(os.fstat(fd).st_mode & 0o777), os.get_inheritable(fd)

    assert in_child(make) == ("0o600", False)


def test_a_symbolic_link_is_not_opened(tmp_path):
    """A link planted under the name leads nowhere."""
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match="symbolic links") as refused:
        files.open_private(tmp_path / "link", os.O_RDWR | os.O_CREAT)
    assert refused.value.errno == errno.ELOOP
    assert not (tmp_path / "target").exists()


def test_a_private_directory_is_made_and_accepted_again(in_child, tmp_path):
    """It has mode 0700 whatever the umask, its parents are made, and a second call changes nothing."""

    def make():
        os.umask(0)
        path = tmp_path / "a" / "b"
        files.make_private_directory(path)
        files.make_private_directory(path)
        return oct(stat.S_IMODE(path.stat().st_mode))

    assert in_child(make) == "0o700"


def test_a_directory_open_to_others_is_refused(tmp_path):
    """It is not repaired silently: others may have put things into it."""
    path = tmp_path / "d"
    path.mkdir()
    path.chmod(0o750)
    with pytest.raises(files.NotPrivate, match="chmod 700"):
        files.make_private_directory(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_another_user_is_refused(tmp_path):
    """Somebody who made the name first owns what happens in it."""
    path = tmp_path / "d"
    path.mkdir(mode=0o700)
    os.chown(path, 12345, 12345)
    with pytest.raises(files.NotPrivate, match="uid 12345"):
        files.make_private_directory(path)


def test_a_link_or_a_file_is_no_private_directory(tmp_path):
    """A link to a perfectly private directory is refused too: its owner can turn it elsewhere."""
    (tmp_path / "good").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "good")
    (tmp_path / "file").touch()
    for name in ("link", "file"):
        with pytest.raises(files.NotPrivate, match="not a directory"):
            files.make_private_directory(tmp_path / name)


def test_the_runtime_directory_is_where_it_is_told(tmp_path, monkeypatch):
    """POOLRT_RUNTIME_DIR wins over XDG_RUNTIME_DIR, and both over /tmp."""
    monkeypatch.setenv("POOLRT_RUNTIME_DIR", str(tmp_path / "given"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert files.runtime_directory() == tmp_path / "given"
    assert stat.S_IMODE((tmp_path / "given").stat().st_mode) == 0o700
    monkeypatch.delenv("POOLRT_RUNTIME_DIR")
    assert files.runtime_directory() == tmp_path / "poolrt"
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    made = []
    monkeypatch.setattr(files, "make_private_directory", made.append)
    assert str(files.runtime_directory()) == f"/tmp/poolrt-{os.geteuid()}"
    assert [str(path) for path in made] == [f"/tmp/poolrt-{os.geteuid()}"]


def test_the_file_system_of_a_path_is_found(tmp_path):
    """The kernel's own file systems read as themselves, and a path not made yet as its parent."""
    assert files.filesystem_type("/proc/self/stat") == "proc"
    assert files.filesystem_type("/dev/shm") == "tmpfs"
    assert files.filesystem_type(tmp_path / "not" / "there") == files.filesystem_type(tmp_path) != "unknown"
    assert not files.is_network_filesystem("/dev/shm")


@pytest.mark.parametrize(
    ("kind", "shared"),
    [("nfs4", True), ("cifs", True), ("fuse.sshfs", True), ("9p", True), ("ext4", False), ("overlay", False)],
)
def test_network_file_systems_are_known(tmp_path, monkeypatch, kind, shared):
    """By the type of the longest mount point above the path, where no device number matches."""
    table = [("0:99999", "/", "tmpfs"), ("0:99998", str(tmp_path), kind), ("0:99997", f"{tmp_path}-other", "xfs")]
    monkeypatch.setattr(files, "_mounts", lambda: table)
    assert files.filesystem_type(tmp_path / "db") == kind
    assert files.is_network_filesystem(tmp_path / "db") is shared


def test_nothing_known_is_said_so(monkeypatch):
    """Without a mount that matches, the type is unknown and counts as local."""
    monkeypatch.setattr(files, "_mounts", list)
    assert files.filesystem_type("/") == "unknown"


def test_a_line_of_the_mount_table():
    """Optional fields vary in number, and blanks in a mount point are escaped."""
    line = "36 35 98:0 /mnt1 /mnt\\040two\\134 rw,noatime master:1 shared:7 - ext3 /dev/root rw\n"
    assert files._parse_mount(line) == ("98:0", "/mnt two\\", "ext3")
    assert files._parse_mount("22 27 0:21 / /proc rw - proc proc rw\n") == ("0:21", "/proc", "proc")
