"""The descriptors this process has open: how many, the next free number, and what each one is.

Facts that bite:

- A new descriptor gets the lowest free number. One that is kept while a lower one is closed does not move that number:
  it is a hint that costs 1 us, and only `open_count` is exact.
- stat("/proc/self/fd").st_size is the count since Linux 6.2, and 0 before: then the directory is listed, which takes a
  descriptor that the listing shows too. So what is listed counts only if it is still open at a second look.
- dup() of a full table is EMFILE, and so is every listing. Neither stat nor readlink needs a descriptor of its own.
- A socket's inode number is its own. A file's is shared by all who open it, that of eventfd, epoll and the like by all
  of their kind: for these a reused number cannot be told from one that stayed open.
- TCP_INFO counts idle time in the kernel's ticks (4 ms at 250 Hz): in runs of a millisecond it tells nothing. Its bytes
  are exact (Linux 4.19). What is *received* is no use of a connection: the rest of an answer that nobody reads, a
  server's greeting and its heartbeats come by themselves. What is received and no longer waits (FIONREAD) was read;
  what comes between these two calls is taken for read if FIONREAD is first, for a negative number if it is second.
  The peer's FIN counts as a byte that was received, and FIONREAD leaves it out.
- The position in a file is that of all who share it by dup() or fork(), and pread() does not move it.

Elsewhere than on Linux `lowest_free`, `limit` and (by /dev/fd) `open_count` work, and `scan` and `peers` find nothing.
"""

import array
import errno
import fcntl
import logging
import os
import resource
import socket
import stat
import struct
import sys
import termios
from collections.abc import Iterable
from typing import Final, NamedTuple

log = logging.getLogger("poolrt.posix")

_LINUX: Final = sys.platform == "linux"
_TABLE: Final = "/proc/self/fd" if _LINUX else "/dev/fd"
_TCP_INFO: Final = getattr(socket, "TCP_INFO", 0)  # macOS has none
_ESTABLISHED: Final = 1
_CLOSE_WAIT: Final = 8
_LISTEN: Final = 10
_MOST_TEXT: Final = 200

# Places in struct tcp_info, in bytes.
_LAST_DATA_SENT, _LAST_DATA_RECEIVED, _BYTES_RECEIVED, _SEGMENTS_OUT, _NOT_SENT = 44, 52, 128, 136, 144
_BYTES_SENT, _TCP_INFO_END = 200, 216

NO_PEER: Final = ("listening on ", "bound to ", "accepted on ", "unconnected ", "socketpair")
"""How the ``what`` of a socket without a named peer begins."""

_KINDS: Final = {
    stat.S_IFSOCK: "socket",
    stat.S_IFIFO: "pipe",
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
    0: "anon",
}


class Descriptor(NamedTuple):
    """One open descriptor.

    Attributes:
        kind: ``socket``, ``file``, ``pipe``, ``directory``, ``device``, ``anon`` (eventfd, epoll, ...) or ``other``.
        what: a socket's peer (host:port, or a Unix path; ``@`` begins an abstract one), or what it is without one (see
            `NO_PEER`); the path of a file; one line, at most 200 characters.
        idle: seconds since data last came or went; None where that is unknown: only established TCP tells.
        written: bytes ever written to a TCP connection from this side, sent or not; None where that is unknown.
        read: bytes ever read from a TCP connection by this side, or more while some come; the position in a file; None
            where that is unknown.
        peer_gone: whether a TCP connection was closed by its peer, and not yet by this side (CLOSE_WAIT).
    """

    fd: int
    kind: str
    what: str
    inode: int
    idle: float | None = None
    written: int | None = None
    read: int | None = None
    peer_gone: bool = False


def lowest_free() -> int:
    """The number the next descriptor gets; `limit` when the table is full. About 1 us."""
    try:
        fd = os.dup(0)
    except OSError as error:
        if error.errno == errno.EBADF:
            return 0  # it is the free one
        if error.errno == errno.EMFILE:
            return limit()
        raise
    os.close(fd)
    return fd


def limit() -> int:
    """How many descriptors this process may have: numbers below the soft RLIMIT_NOFILE."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def raise_limit() -> int:
    """Raise the soft limit as far as the hard one allows; the soft limit before."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    set_limit(hard)
    return soft


def set_limit(soft: int) -> None:
    """Set the soft limit, at most to the hard one; a system that refuses (macOS: more than kern.maxfiles) is let be."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY:
        soft = min(soft, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    except (ValueError, OSError) as error:
        log.info("the limit of descriptors stays as it is: %s", error)


def open_count() -> int:
    """How many descriptors are open. About 4 us; before Linux 6.2 from 15 us (10 open) to 800 us (2,000)."""
    try:
        size = os.stat(_TABLE).st_size if _LINUX else 0
        return size or len(os.listdir(_TABLE)) - 1
    except OSError:
        return lowest_free()  # no number is left to list with: all are taken; or no such directory: at least so many


def scan(numbers: Iterable[int] | None = None) -> list[Descriptor]:
    """What is open, of all or of these numbers, in their order; closed ones are left out. About 10 us each."""
    if not _LINUX:
        return []
    found = []
    for fd in _numbers() if numbers is None else numbers:
        try:
            found.append(_read(fd))
        except OSError:
            continue  # closed, or closed meanwhile
    return found


def peers() -> dict[int, str]:
    """The named peer of each connected socket, by descriptor.

    A Unix socket as standard input, output or error is left out: journald and others hand one to a service.
    """
    return {
        found.fd: found.what
        for found in scan()
        if found.kind == "socket" and not found.what.startswith(NO_PEER) and not (found.fd <= 2 and _is_unix(found.fd))
    }


def _numbers() -> Iterable[int]:
    try:
        return sorted(map(int, os.listdir(_TABLE)))
    except OSError as error:
        # Numbers above a limit that was lowered since are missed.
        return range(limit()) if error.errno == errno.EMFILE else ()


def _read(fd: int) -> Descriptor:
    """One descriptor; OSError when it is closed."""
    found = os.fstat(fd)
    kind = _KINDS.get(stat.S_IFMT(found.st_mode), "other")
    if kind == "socket":
        return _read_socket(fd, found.st_ino)
    link = os.readlink(f"{_TABLE}/{fd}")
    what = "pipe" if link.startswith("pipe:[") else _one_line(link)
    position = os.lseek(fd, 0, os.SEEK_CUR) if kind == "file" else None
    return Descriptor(fd, kind, what, found.st_ino, read=position)


def _read_socket(fd: int, inode: int) -> Descriptor:
    sock = socket.SocketType(fileno=fd)  # borrowed: a dup() costs as much again, and fails when the table is full
    try:
        if sock.family == socket.AF_UNIX:
            return Descriptor(fd, "socket", _one_line(_name_of_unix(sock)), inode)
        if sock.family not in {socket.AF_INET, socket.AF_INET6}:
            return Descriptor(fd, "socket", _name_of_other(sock), inode)
        unread = _unread(fd) if sock.type == socket.SOCK_STREAM else 0
        info = _tcp_info(sock) if sock.type == socket.SOCK_STREAM else b""
        what = _one_line(_name_of_internet(sock, info))
        return Descriptor(fd, "socket", what, inode, *_use_of(info, unread))
    finally:
        sock.detach()


def _use_of(info: bytes, unread: int) -> tuple[float | None, int | None, int | None, bool]:
    """A connection's idle time, bytes written and read, and whether its peer is gone."""
    idle = written = read = None
    state = info[0] if info else 0
    if state == _ESTABLISHED:
        sent, received = _number(info, _LAST_DATA_SENT), _number(info, _LAST_DATA_RECEIVED)
        idle = min(sent, received) / 1000
    if len(info) >= _TCP_INFO_END and _number(info, _SEGMENTS_OUT):  # 0: a kernel that does not count
        sent, again = struct.unpack_from("QQ", info, _BYTES_SENT)
        written = sent - again + _number(info, _NOT_SENT)
        if state in {_ESTABLISHED, _CLOSE_WAIT}:
            (received,) = struct.unpack_from("Q", info, _BYTES_RECEIVED)
            read = received - unread - (state == _CLOSE_WAIT)
    return idle, written, read, state == _CLOSE_WAIT


def _unread(fd: int) -> int:
    waiting = array.array("i", [0])
    try:
        fcntl.ioctl(fd, termios.FIONREAD, waiting)
    except OSError:
        return 0  # it listens, or is no TCP
    return waiting[0]


def _tcp_info(sock: socket.SocketType) -> bytes:
    try:
        return sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, 256)
    except OSError:
        return b""  # SCTP and others are streams too


def _number(info: bytes, place: int) -> int:
    return int.from_bytes(info[place : place + 4], sys.byteorder)


def _name_of_internet(sock: socket.SocketType, info: bytes) -> str:
    suffix = "" if sock.type == socket.SOCK_STREAM else "/udp" if sock.type == socket.SOCK_DGRAM else "/raw"
    if info and info[0] == _LISTEN:
        return f"listening on {_host_and_port(sock.getsockname())}"
    try:
        return _host_and_port(sock.getpeername()) + suffix
    except OSError:
        own = sock.getsockname()
    if suffix and own[1]:
        return f"bound to {_host_and_port(own)}{suffix}"
    return f"unconnected {suffix[1:] or 'tcp'} socket"


def _host_and_port(address: tuple[str, int]) -> str:
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _name_of_unix(sock: socket.SocketType) -> str:
    own = _unix_path(sock.getsockname())
    if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return f"listening on {own}"
    try:
        peer = _unix_path(sock.getpeername())
    except OSError:
        return f"bound to {own}" if own else "unconnected unix socket"
    if peer:
        return peer
    return f"accepted on {own}" if own else "socketpair"


def _name_of_other(sock: socket.SocketType) -> str:
    if sock.family == getattr(socket, "AF_VSOCK", None):
        try:
            context, port = sock.getpeername()
            return f"vsock {context}:{port}"
        except OSError:
            pass  # named as unconnected below
    return f"unconnected socket of family {int(sock.family)}"


def _unix_path(address: str | bytes) -> str:
    text = os.fsdecode(address)
    return text.replace("\0", "@")


def _is_unix(fd: int) -> bool:
    sock = socket.SocketType(fileno=fd)
    try:
        return sock.family == socket.AF_UNIX
    finally:
        sock.detach()


def _one_line(text: str) -> str:
    if len(text) > _MOST_TEXT:
        text = text[: _MOST_TEXT - 3] + "..."
    if text.isascii() and text.isprintable():
        return text
    plain = text.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in plain)[:_MOST_TEXT]
