"""Sockets between processes of one machine: private from the first instant, at paths of any length, with fds on board.

Facts that bite:

- bind() makes the file with the socket's own mode and the umask: so on Linux the mode is set on the socket *before* it.
  (Elsewhere the umask is narrowed for that instant, which other threads may notice.)
- A socket's file outlives its process. Connecting is the only test: "refused" means nobody listens. Two starters could
  both find it stale and the second remove the first one's new socket, so the directory is locked from test to listen().
- sun_path holds 107 bytes; on Linux a longer path goes through /proc/self/fd/DIRECTORY/name.
- connect() with a timeout to a full backlog fails at once instead of waiting, and a signal during a blocking one looks
  like success to Python: so it never blocks, and is tried until the timeout.
- A datagram to a full queue (net.unix.max_dgram_qlen, often 10) blocks its sender unless told otherwise.
- On SOCK_SEQPACKET a peer that closes with unread packets gives us ECONNRESET once, *before* the packets it sent.
- CMSG_SPACE rounds up and may let one descriptor too many in; CMSG_LEN is exact. Descriptors that do not fit, or
  exceed the process's limit, are dropped by the kernel without an error (MSG_CTRUNC).
"""

import array
import errno
import fcntl
import os
import socket
import stat
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from poolrt.errors import PoolrtError

type_of_packets = socket.SOCK_SEQPACKET if sys.platform == "linux" else socket.SOCK_DGRAM
"""Packets keep their bounds either way. macOS has no SOCK_SEQPACKET here, and its stand-in has *no end-of-file*: a peer
that is gone does not wake a waiter, it shows at the next send only. Whoever guards a peer there needs another sign."""

_LINUX = sys.platform == "linux"
_LONGEST_PATH = 107 if _LINUX else 103
_NO_SIGPIPE = getattr(socket, "MSG_NOSIGNAL", 0)
_CLOSE_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)  # macOS has none


class AddressInUse(PoolrtError):
    """A living socket, or something that is no socket, is at this path; nothing was touched."""


def listen_stream(path: str | os.PathLike[str], mode: int = 0o600, backlog: int = 16) -> socket.socket:
    """A listening stream socket at ``path``, never open to more than ``mode`` says; a stale one is replaced.

    The test for staleness connects and hangs up: an accept loop must bear connections that end at once.

    Raises:
        AddressInUse: someone listens there, or it is no socket.
        OSError: the directory is missing or not writable.
    """
    return _bound(socket.SOCK_STREAM, path, mode, backlog)


def bind_datagram(path: str | os.PathLike[str], mode: int = 0o600) -> socket.socket:
    """A datagram socket that receives at ``path``; otherwise as `listen_stream`."""
    return _bound(socket.SOCK_DGRAM, path, mode, None)


def connect_stream(path: str | os.PathLike[str], timeout: float | None) -> socket.socket:
    """A stream connected to ``path``, with ``timeout`` (seconds; None waits for ever) also set for its later calls.

    Raises:
        FileNotFoundError, ConnectionRefusedError: nobody listens there.
        TimeoutError: its backlog stayed full.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        with _address(path) as address:
            while not _connected(sock, address):
                if deadline is not None and time.monotonic() >= deadline:
                    raise TimeoutError(f"{os.fspath(path)}: its listener accepted nobody for {timeout} s")
                time.sleep(0.005)
        sock.settimeout(timeout)
    except BaseException:
        sock.close()
        raise
    return sock


def send_datagram(sender: socket.socket, path: str | os.PathLike[str], data: bytes) -> bool:
    """Send without ever blocking; False when nobody receives at ``path`` or the queue is full. About 4 us.

    Raises:
        PermissionError: it is another user's.
    """
    sender.setblocking(False)  # socket.setdefaulttimeout makes Python wait, and try again, whatever the flags say
    try:
        with _address(path) as address:
            sender.sendto(data, socket.MSG_DONTWAIT, address)
    except (FileNotFoundError, ConnectionRefusedError, BlockingIOError):
        return False
    except OSError as error:
        if error.errno == errno.ENOBUFS:  # macOS: the queue is full
            return False
        raise
    return True


def peer_uid(sock: socket.socket) -> int:
    """The user at the other end of a connected stream, as the kernel saw it at connect(), listen() or socketpair()."""
    if sys.platform == "linux":
        _, uid, _ = struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("iII")))
    else:
        _, uid = struct.unpack_from("II", sock.getsockopt(0, 1, 76))  # SOL_LOCAL, LOCAL_PEERCRED: struct xucred
    return int(uid)


def seqpacket_pair() -> tuple[socket.socket, socket.socket]:
    """Two connected, close-on-exec sockets that keep packets whole and in order (see `type_of_packets`)."""
    return socket.socketpair(socket.AF_UNIX, type_of_packets)


def send_packet_with_fds(sock: socket.socket, data: bytes, fds: Sequence[int] = ()) -> None:
    """Send one packet and copies of the descriptors (at most 253); the caller keeps and closes its own.

    Raises:
        ValueError: the packet is empty; the receiver would take it for end-of-file.
        BlockingIOError: the socket does not block, and its buffer is full.
        BrokenPipeError, ConnectionResetError: the peer is gone.
        OSError: EMSGSIZE, longer than the send buffer.
    """
    if not data:
        raise ValueError("an empty packet means end-of-file")
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sock.sendmsg([data], rights, _NO_SIGPIPE)


def recv_packet_with_fds(sock: socket.socket, maxlen: int, maxfds: int) -> tuple[bytes, list[int]]:
    """Receive one packet and its descriptors, close-on-exec, now the caller's; ``(b"", [])`` when the peer is gone.

    Raises:
        BlockingIOError, TimeoutError: nothing is there (yet).
        OSError: EMSGSIZE, the packet is longer than ``maxlen`` or carries more than ``maxfds``, or this process is out
            of descriptors. The packet is lost, and no descriptor is kept.
    """
    room = socket.CMSG_LEN(maxfds * array.array("i").itemsize) if maxfds else 0
    try:
        data, ancillary, flags = _receive(sock, maxlen, room)
    except ConnectionResetError:  # told once; what the peer sent before it closed is still to be read
        try:
            data, ancillary, flags = _receive(sock, maxlen, room)
        except ConnectionResetError:
            return b"", []
    fds = array.array("i")
    for level, kind, raw in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(raw[: len(raw) - len(raw) % fds.itemsize])
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        for fd in fds:
            os.close(fd)
        bound = f"{maxlen} bytes" if flags & socket.MSG_TRUNC else f"{maxfds} descriptors (or than are free here)"
        raise OSError(errno.EMSGSIZE, f"a packet of more than {bound} was dropped")
    if not _CLOSE_ON_EXEC:
        for fd in fds:
            os.set_inheritable(fd, False)  # a fork and exec by another thread in between would pass them on
    return data, fds.tolist()


def _connected(sock: socket.socket, address: str) -> bool:
    try:
        sock.connect(address)
    except BlockingIOError:
        return False
    return True


def _receive(sock: socket.socket, maxlen: int, room: int) -> tuple[bytes, list[tuple[int, int, bytes]], int]:
    data, ancillary, flags, _ = sock.recvmsg(maxlen, room, _CLOSE_ON_EXEC)
    return data, ancillary, flags


def _bound(kind: socket.SocketKind, path: str | os.PathLike[str], mode: int, backlog: int | None) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, kind)
    try:
        with _locked_directory(os.path.dirname(os.fspath(path)) or "."), _address(path) as address:
            _remove_stale(path, address, kind)
            _bind(sock, address, mode)
            os.chmod(path, mode)  # the umask can only have taken bits away
            if backlog is not None:
                sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return sock


def _bind(sock: socket.socket, address: str, mode: int) -> None:
    if sys.platform == "linux":
        os.fchmod(sock.fileno(), mode)
        sock.bind(address)
    else:
        before = os.umask(0o777 & ~mode)
        try:
            sock.bind(address)
        finally:
            os.umask(before)


def _remove_stale(path: str | os.PathLike[str], address: str, kind: socket.SocketKind) -> None:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise AddressInUse(f"{os.fspath(path)} exists and is no socket; it was left alone")
    with socket.socket(socket.AF_UNIX, kind) as probe:
        probe.setblocking(False)
        try:
            probe.connect(address)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except FileNotFoundError:
            return
        except OSError:
            pass  # a full backlog, another type of socket, not ours to ask: someone is there
    raise AddressInUse(f"{os.fspath(path)} is in use by a living process")


@contextmanager
def _locked_directory(directory: str) -> Iterator[None]:
    """Starters of one directory go one after the other; each holds it for well under a millisecond.

    Whoever holds it for a second is no starter (systemd-tmpfiles is kept out in this way): it is not waited for.
    """
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for _ in range(500):
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.002)
        yield
    finally:
        os.close(fd)


@contextmanager
def _address(path: str | os.PathLike[str]) -> Iterator[str]:
    """The path, or a short one that leads to it for as long as the block lasts."""
    name = os.fspath(path)
    if len(os.fsencode(name)) <= _LONGEST_PATH:
        yield name
        return
    if not _LINUX:
        raise OSError(errno.ENAMETOOLONG, f"at most {_LONGEST_PATH} bytes for a socket; set POOLRT_RUNTIME_DIR", name)
    directory, last = os.path.split(name)
    fd = os.open(directory or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        short = f"/proc/self/fd/{fd}/{last}"
        if len(os.fsencode(short)) > _LONGEST_PATH:
            raise OSError(errno.ENAMETOOLONG, "the last part of a socket's path is too long", name)
        yield short
    finally:
        os.close(fd)
