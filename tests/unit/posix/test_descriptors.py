from __future__ import annotations

import os
import resource
import select
import socket
import sys
import tempfile
from contextlib import ExitStack, suppress

import pytest

from poolrt.hygiene.findings import Policies
from poolrt.hygiene.inherited import inherited_connections
from poolrt.posix import descriptors
from poolrt.posix.descriptors import Descriptor, lowest_free, open_count, peers, scan

linux = pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="read from /proc")


@pytest.fixture
def closing():
    """What is entered here is closed at the test's end."""
    with ExitStack() as stack:
        yield stack


def _stat_before_6_2(path, *, real=os.stat, **more):
    return os.stat_result([0] * 10) if path == "/proc/self/fd" else real(path, **more)


def _one(fd) -> Descriptor:
    [found] = scan([fd])
    return found


def _null(closing) -> int:
    fd = os.open(os.devnull, os.O_RDONLY)
    closing.callback(_close, fd)
    return fd


def _close(fd):
    with suppress(OSError):  # the test did
        os.close(fd)


def _listener(closing, family=socket.AF_INET, address=("127.0.0.1", 0)):
    listener = closing.enter_context(socket.socket(family))
    listener.bind(address)
    listener.listen(8)
    return listener


def _pair(closing):
    """A TCP connection: its client's and its server's end, and the server's address."""
    listener = _listener(closing)
    client = closing.enter_context(socket.create_connection(listener.getsockname()))
    server = closing.enter_context(listener.accept()[0])
    return client, server, "{}:{}".format(*listener.getsockname())


def test_the_next_descriptor_gets_the_lowest_free_number(closing):
    """Above what is open, and in the first hole when there is one."""
    fds = [_null(closing) for _ in range(3)]
    number = lowest_free()
    assert lowest_free() == number > fds[2]
    assert _null(closing) == number
    os.close(fds[1])
    assert lowest_free() == fds[1]
    assert _null(closing) == fds[1]
    assert lowest_free() > number


def test_the_lowest_may_be_standard_input(in_child):
    """Where 0 is closed there is nothing to duplicate, and it is the answer."""

    def close_input():
        os.close(0)
        return lowest_free(), os.open(os.devnull, os.O_RDONLY)

    assert in_child(close_input) == (0, 0)


@linux
@pytest.mark.parametrize("kernel", ["counts", "lists"])
def test_the_count_is_exact(closing, monkeypatch, kernel):
    """Holes or not, before Linux 6.2 (whose stat says 0) or after."""
    if kernel == "lists":
        monkeypatch.setattr(os, "stat", _stat_before_6_2)
    before = open_count()
    fds = [_null(closing) for _ in range(20)]
    assert open_count() == before + 20
    os.close(fds[3])
    os.close(fds[7])
    assert open_count() == before + 18
    assert open_count() == len(scan())


def test_the_limit_is_the_soft_one(in_child):
    """And "unlimited" is a number that is never reached."""

    def lower():
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (77, hard))
        return descriptors.limit()

    assert in_child(lower) == 77
    real = resource.getrlimit
    try:
        resource.getrlimit = lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        assert descriptors.limit() == sys.maxsize
    finally:
        resource.getrlimit = real


@linux
@pytest.mark.parametrize("kernel", ["counts", "lists"])
def test_a_full_table_is_read_without_a_descriptor(in_child, kernel):
    """With not one number left, the lowest is the limit, and all are counted and named, sockets too."""

    def fill():
        if kernel == "lists":
            os.stat = _stat_before_6_2
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (60, hard))
        os.closerange(60, 1000)  # what pytest's own starter left there
        ends = {end.detach() for end in socket.socketpair()}
        while lowest_free() < 60:
            os.open("/etc/passwd", os.O_RDONLY)
        with pytest.raises(OSError, match="Too many open files"):
            os.dup(0)
        found = scan()
        files = sum(each.what == "/etc/passwd" for each in found)
        pairs = {each.fd for each in found if each.what == "socketpair"}
        return lowest_free(), open_count(), len(found), files > 30, ends <= pairs

    assert in_child(fill) == (60, 60, 60, True, True)


@linux
def test_the_listing_does_not_show_itself(closing):
    """What a scan opens to read is not in its answer: the next leak takes that very number."""
    number = lowest_free()
    assert number not in {found.fd for found in scan()}
    _null(closing)
    assert _one(number).fd == number


@linux
def test_files_pipes_and_the_rest(closing, node_dir):
    """Each kind by its own word, with a name that groups."""
    file, path = tempfile.mkstemp(dir=node_dir)
    closing.callback(os.close, file)
    reader, writer = os.pipe()
    closing.callback(os.close, reader)
    closing.callback(os.close, writer)
    poll = closing.enter_context(select.epoll())
    event = os.eventfd(0)
    closing.callback(os.close, event)
    folder = os.open(tempfile.gettempdir(), os.O_RDONLY)
    closing.callback(os.close, folder)
    null = _null(closing)
    shown = [found[1:3] for found in scan([file, reader, writer, poll.fileno(), event, folder, null])]
    assert shown == [
        ("file", path),
        ("pipe", "pipe"),
        ("pipe", "pipe"),
        ("anon", "anon_inode:[eventpoll]"),
        ("anon", "anon_inode:[eventfd]"),
        ("directory", os.path.realpath(tempfile.gettempdir())),
        ("device", os.devnull),
    ]
    assert _one(file).inode == os.fstat(file).st_ino


@linux
def test_a_name_is_one_printable_line(node_dir, closing):
    """Whatever bytes a path holds, what is logged is short and plain."""
    fd = os.open(os.fsencode(node_dir) + b"/a\nb\xff" + b"x" * 230, os.O_CREAT)
    closing.callback(os.close, fd)
    what = _one(fd).what
    assert what.isprintable()
    assert len(what) <= 200
    assert "\\n" in what
    assert "\\xff" in what
    what.encode()


@linux
def test_a_connection_is_named_by_its_peer(closing):
    """Each end by the other's address."""
    client, server, address = _pair(closing)
    assert _one(client.fileno())[1:3] == ("socket", address)
    assert _one(server.fileno()).what == "{}:{}".format(*client.getsockname())
    assert _one(client.fileno()).inode != _one(server.fileno()).inode
    assert client.getpeername()  # looked at, not taken: it is still open


@linux
def test_what_was_written_is_counted_and_what_came_is_not(closing):
    """Bytes of this side only, also those the peer has not taken yet; an answer that nobody reads is no use."""
    client, server, _ = _pair(closing)
    assert _one(client.fileno()).written == 0
    client.sendall(b"12345")
    assert _one(client.fileno()).written == 5
    server.sendall(b"x" * 1000)
    assert server.recv(10) == b"12345"
    assert client.recv(1000, socket.MSG_PEEK)
    assert _one(client.fileno()).written == 5
    client.setblocking(False)
    sent = 5
    with pytest.raises(BlockingIOError):
        while True:
            sent += client.send(b"y" * 65536)
    assert _one(client.fileno()).written == sent


@linux
def test_idle_time_grows_until_data_moves(closing, wait_for):
    """In seconds, since either side's last data; a listener has none."""
    client, server, _ = _pair(closing)
    wait_for(lambda: _one(client.fileno()).idle >= 0.05, "50 ms without data")
    server.sendall(b"x")
    assert client.recv(1)
    assert _one(client.fileno()).idle < 0.05
    listener = _listener(closing)
    assert _one(listener.fileno()).idle is None


@linux
def test_what_was_read_is_told_from_what_only_came(closing, wait_for):
    """What waits in the socket is not read; the end of the stream counts as nothing, before and after it is seen."""
    client, server, _ = _pair(closing)
    server.sendall(b"12345")
    wait_for(lambda: len(client.recv(9, socket.MSG_PEEK)) == 5, "it came")
    assert _one(client.fileno()).read == 0
    client.recv(2)
    assert _one(client.fileno()).read == 2
    server.close()
    wait_for(lambda: _one(client.fileno()).peer_gone, "the end of the stream came")
    assert _one(client.fileno()).read == 2
    assert client.recv(9) == b"345"
    assert client.recv(9) == b""
    assert _one(client.fileno()).read == 5


@linux
def test_the_position_in_a_file_is_what_was_read(closing, tmp_path):
    """Read or written; a pipe has none."""
    path = tmp_path / "file"
    file = closing.enter_context(path.open("wb", buffering=0))
    assert _one(file.fileno()).read == 0
    file.write(b"1234")
    assert _one(file.fileno()).read == 4
    ends = os.pipe()
    assert [_one(end).read for end in ends] == [None, None]
    for end in ends:
        os.close(end)


@linux
def test_a_connection_whose_peer_left(closing, wait_for):
    """It keeps its name while half is open, has no idle time, and is unconnected once it was reset."""
    client, server, address = _pair(closing)
    client.sendall(b"1")
    server.recv(1)
    server.close()
    wait_for(lambda: _one(client.fileno()).idle is None, "the end of the stream came")
    assert _one(client.fileno())[2:] == (address, os.fstat(client.fileno()).st_ino, None, 1, 0, True)
    client.send(b"2")
    wait_for(lambda: _one(client.fileno()).what == "unconnected tcp socket", "the reset came")


@linux
def test_internet_sockets_without_a_peer(closing):
    """Listening, bound, unconnected; datagrams with and without a peer."""
    listener = _listener(closing)
    port = listener.getsockname()[1]
    assert _one(listener.fileno()).what == f"listening on 127.0.0.1:{port}"
    loose = closing.enter_context(socket.socket())
    assert _one(loose.fileno()).what == "unconnected tcp socket"
    udp = closing.enter_context(socket.socket(type=socket.SOCK_DGRAM))
    assert _one(udp.fileno()).what == "unconnected udp socket"
    udp.bind(("127.0.0.1", 0))
    own = udp.getsockname()
    seen = _one(udp.fileno())
    assert (seen.what, seen.idle, seen.written, seen.read) == (f"bound to 127.0.0.1:{own[1]}/udp", None, None, None)
    other = closing.enter_context(socket.socket(type=socket.SOCK_DGRAM))
    other.connect(own)
    assert _one(other.fileno()).what == f"127.0.0.1:{own[1]}/udp"


@linux
def test_ipv6_addresses_stand_in_brackets(closing):
    """So that the port can be told from the host."""
    try:
        listener = _listener(closing, socket.AF_INET6, ("::1", 0))
    except OSError:
        pytest.skip("no IPv6 here")
    client = closing.enter_context(socket.create_connection(listener.getsockname()[:2]))
    assert _one(client.fileno()).what == f"[::1]:{listener.getsockname()[1]}"


@linux
def test_unix_sockets(closing, node_dir):
    """By the path of whoever has one; a pair has none, an abstract name begins with @."""
    path = str(node_dir / "s")
    listener = _listener(closing, socket.AF_UNIX, path)
    client = closing.enter_context(socket.socket(socket.AF_UNIX))
    assert _one(client.fileno()).what == "unconnected unix socket"
    client.connect(path)
    server = closing.enter_context(listener.accept()[0])
    assert _one(listener.fileno()).what == f"listening on {path}"
    assert _one(client.fileno()).what == path
    assert _one(server.fileno()).what == f"accepted on {path}"
    ours, theirs = map(closing.enter_context, socket.socketpair())
    assert {_one(ours.fileno()).what, _one(theirs.fileno()).what} == {"socketpair"}
    datagrams = closing.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
    datagrams.bind(f"\0poolrt-{os.getpid()}")
    assert _one(datagrams.fileno()).what == f"bound to @poolrt-{os.getpid()}"


@linux
def test_a_family_nobody_thought_of(closing):
    """It is named by its number."""
    link = closing.enter_context(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW))
    assert _one(link.fileno()).what == f"unconnected socket of family {int(socket.AF_NETLINK)}"


@linux
def test_closed_numbers_are_left_out(closing):
    """Asked for or not."""
    number = lowest_free()
    assert scan([number, 10_000]) == []


@linux
def test_the_templates_check_names_peers_but_the_spared_one(closing, node_dir):
    """Connected sockets of any family; no listeners, no pairs, and not the supervisor's."""
    before = inherited_connections(-1, Policies())
    client, server, address = _pair(closing)
    _listener(closing, socket.AF_UNIX, str(node_dir / "s"))
    unix = closing.enter_context(socket.socket(socket.AF_UNIX))
    unix.connect(str(node_dir / "s"))
    for end in socket.socketpair():
        closing.enter_context(end)
    own = "{}:{}".format(*client.getsockname())
    assert peers()[client.fileno()] == address
    assert set(inherited_connections(-1, Policies())) == {*before, address, own, str(node_dir / "s")}
    assert set(inherited_connections(server.fileno(), Policies())) == {*before, address, str(node_dir / "s")}


@linux
def test_a_unix_socket_as_standard_output_is_the_services(in_child, node_dir):
    """journald's is no connection that an import left open."""

    def swap():
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(node_dir / "journal"))
        listener.listen(1)
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(node_dir / "journal"))
        os.dup2(client.fileno(), 1)
        client.close()
        return 1 in peers(), _one(1).what == str(node_dir / "journal")

    assert in_child(swap) == (False, True)


def test_elsewhere_only_numbers_are_known(closing, monkeypatch):
    """Without /proc nothing is named, and what is open is counted by /dev/fd, or by the lowest number."""
    monkeypatch.setattr(descriptors, "_LINUX", False)
    monkeypatch.setattr(descriptors, "_TABLE", "/dev/fd")
    before = open_count()
    _null(closing)
    assert open_count() == before + 1
    assert scan() == []
    assert peers() == {}
    monkeypatch.setattr(descriptors, "_TABLE", "/nowhere")
    assert open_count() == lowest_free()
