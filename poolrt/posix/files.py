"""Private files and directories, the type of the file system below a path, and where poolrt keeps its runtime files.

Facts that bite:

- In /tmp anyone can make the name first, as a link or as a directory of theirs: O_NOFOLLOW, and the owner is checked.
- On network file systems flock and SQLite's locks are emulated or local to the client, and mmap is not shared.
- An overlay (containers) or btrfs may report device numbers that are in no mount table; then the longest mount point
  decides.

Where there is no /proc (macOS), the file system type comes from psutil.
"""

import os
import stat
import sys
from pathlib import Path

from poolrt.errors import PoolrtError

type_names_of_network = frozenset(
    {
        "9p",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "coda",
        "davfs",
        "gfs2",
        "glusterfs",
        "gpfs",
        "lustre",
        "ncpfs",
        "nfs",
        "nfs4",
    }
    | {"ocfs2", "orangefs", "pvfs2", "smb2", "smb3", "smbfs", "afpfs", "webdav"}
    | {
        f"fuse.{name}"
        for name in ("sshfs", "glusterfs", "ceph", "ceph-fuse", "s3fs", "rclone", "gcsfuse", "mfs", "juicefs")
    }
)
"""File system types that other machines may share: no place for a lock, a mapped file or SQLite."""


class NotPrivate(PoolrtError, PermissionError):
    """A directory that must be this user's alone is someone else's, open to others, or no directory."""


def open_private(path: str | os.PathLike[str], flags: int) -> int:
    """``os.open`` with close-on-exec, mode 0600 for a new file, and a refusal of symbolic links at the last component.

    The mode of an existing file is left as it is.

    Raises:
        OSError: as ``os.open`` does; ELOOP for a symbolic link.
    """
    return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def make_private_directory(path: str | os.PathLike[str]) -> None:
    """Make the directory with mode 0700, or accept one that is already a private directory of this user.

    Missing parents are made with the usual mode.

    Raises:
        NotPrivate: what is there may be read or replaced by others. It is never repaired: who knows what lies in it.
    """
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    found = os.lstat(path)
    name = os.fspath(path)
    if not stat.S_ISDIR(found.st_mode):
        raise NotPrivate(f"{name} is not a directory; remove it, or name another place in POOLRT_RUNTIME_DIR")
    if found.st_uid != os.geteuid():
        raise NotPrivate(
            f"{name} belongs to uid {found.st_uid}, not to {os.geteuid()}; name another POOLRT_RUNTIME_DIR"
        )
    if stat.S_IMODE(found.st_mode) & 0o077:
        mode = stat.S_IMODE(found.st_mode)
        raise NotPrivate(
            f"{name} is open to other users (mode {mode:04o}); after a look at what is in it: chmod 700 {name}"
        )


def runtime_directory() -> Path:
    """Where sockets and locks of this user's nodes lie, made private if missing.

    ``$POOLRT_RUNTIME_DIR``, else ``$XDG_RUNTIME_DIR/poolrt``, else ``/tmp/poolrt-UID``.

    Raises:
        NotPrivate: see `make_private_directory`.
    """
    given = os.environ.get("POOLRT_RUNTIME_DIR")
    session = os.environ.get("XDG_RUNTIME_DIR")
    if given:
        path = Path(given).absolute()
    elif session:
        path = Path(session, "poolrt")
    else:
        path = Path(f"/tmp/poolrt-{os.geteuid()}")  # noqa: S108  the owner and the mode are checked
    make_private_directory(path)
    return path


def is_network_filesystem(path: str | os.PathLike[str]) -> bool:
    """Whether the path lies on a file system that other machines may share (see `type_names_of_network`)."""
    return filesystem_type(path) in type_names_of_network


def filesystem_type(path: str | os.PathLike[str]) -> str:
    """The type as in the mount table, such as ``ext4``, ``nfs4`` or ``fuse.sshfs``; ``unknown`` where none is found.

    A path that does not exist yet counts as its nearest existing parent.
    """
    real = os.path.realpath(path)
    while not os.path.exists(real):
        real = os.path.dirname(real)
    device = os.stat(real).st_dev
    numbers = f"{os.major(device)}:{os.minor(device)}"
    by_prefix = (-1, "unknown")
    for mount_device, point, kind in _mounts():
        if mount_device == numbers:
            return kind
        if real == point or real.startswith(point.rstrip("/") + "/"):
            by_prefix = max(by_prefix, (len(point), kind), key=lambda found: found[0])
    return by_prefix[1]


def _mounts() -> list[tuple[str, str, str]]:
    """``(major:minor, mount point, type)`` of each mount."""
    if sys.platform == "linux":
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
            return [_parse_mount(line) for line in table]
    else:
        import psutil

        return [("", mount.mountpoint, mount.fstype) for mount in psutil.disk_partitions(all=True)]


def _parse_mount(line: str) -> tuple[str, str, str]:
    # 36 35 98:0 /root /mount\040point rw,noatime master:1 ... - ext3 /dev/root rw
    before, _, after = line.partition(" - ")
    fields = before.split(" ")
    point = fields[4]
    for escape, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        point = point.replace(escape, character)
    return fields[2], point, after.split(" ", 1)[0]
