from __future__ import annotations

import os
import socket
import stat
import time

import pytest

from poolrt.posix import unix_sockets as us


@pytest.fixture
def closing():
    """``closing(sock)``: the same socket, closed at the end."""
    made = []

    def keep(sock):
        made.append(sock)
        return sock

    yield keep
    for sock in made:
        sock.close()


@pytest.fixture
def path(node_dir):
    return node_dir / "s"


@pytest.fixture
def long_path(tmp_path):
    folder = tmp_path.joinpath(*["a folder with a rather long name"] * 4)
    folder.mkdir(parents=True)
    assert len(str(folder)) > 107
    return folder / "s"


def _stale(path, kind=socket.SOCK_STREAM):
    with socket.socket(socket.AF_UNIX, kind) as left:
        left.bind(str(path))


@pytest.mark.parametrize("make", [us.listen_stream, us.bind_datagram])
def test_the_socket_is_private_before_it_can_be_used(in_child, path, make, monkeypatch):
    """Under a umask that allows everything, the file has its mode from bind() on, without a chmod."""

    def mode():
        os.umask(0)
        monkeypatch.setattr(os, "chmod", lambda *_: None)
        with make(path):
            return oct(stat.S_IMODE(os.stat(path).st_mode))

    assert in_child(mode) == "0o600"


def test_a_wider_mode_is_had_despite_the_umask(in_child, path):
    """What the umask takes away is given back, up to the mode that was asked for."""

    def mode():
        os.umask(0o077)
        with us.listen_stream(path, mode=0o660):
            return oct(stat.S_IMODE(os.stat(path).st_mode))

    assert in_child(mode) == "0o660"


def test_a_living_listener_is_not_replaced(path, closing):
    """Who listens at a path keeps it, also with a full backlog."""
    listener = closing(us.listen_stream(path, backlog=0))
    for _ in range(2):
        with pytest.raises(us.AddressInUse, match="living"):
            us.listen_stream(path)
        with pytest.raises(us.AddressInUse):
            us.bind_datagram(path)
    listener.accept()[0].close()
    closing(us.connect_stream(path, 5))


def test_a_living_receiver_is_not_replaced(path, closing):
    """A datagram socket keeps its path too."""
    receiver = closing(us.bind_datagram(path))
    for make in (us.bind_datagram, us.listen_stream):
        with pytest.raises(us.AddressInUse, match="living"):
            make(path)
    receiver.setblocking(False)
    with pytest.raises(BlockingIOError):
        receiver.recv(1)


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
@pytest.mark.parametrize("make", [us.listen_stream, us.bind_datagram])
def test_a_stale_socket_is_replaced(path, closing, make, kind):
    """A file whose process has died, which no one can connect to, does not block the next start."""
    _stale(path, kind)
    closing(make(path))


def test_what_is_no_socket_is_left_alone(path, node_dir):
    """A file, a directory or a link under the name is refused, not removed."""
    path.write_text("precious")
    with pytest.raises(us.AddressInUse, match="no socket"):
        us.listen_stream(path)
    assert path.read_text() == "precious"
    path.unlink()
    path.symlink_to(node_dir / "elsewhere")
    with pytest.raises(us.AddressInUse, match="no socket"):
        us.listen_stream(path)


def test_of_many_starters_one_wins_and_keeps_its_socket(fork, path):
    """When several find a stale socket at once, one replaces it, and nobody removes the winner's."""

    def start(talk):
        talk.hear()
        try:
            listener = us.listen_stream(path)
        except us.AddressInUse:
            talk.say("lost")
            return
        talk.say("won")
        talk.hear()
        while listener.accept()[0].recv(10) != b"winner":
            pass
        talk.say("reached")

    for _ in range(5):
        _stale(path)
        starters = [fork(start) for _ in range(6)]
        for starter in starters:
            starter.say("go")
        said = [starter.hear() for starter in starters]
        assert sorted(said) == ["lost"] * 5 + ["won"]
        winner = starters[said.index("won")]
        winner.say("listen")
        with us.connect_stream(path, 5) as client:
            client.send(b"winner")
            assert winner.hear() == "reached"
        path.unlink()
        for starter in starters:
            starter.wait()


def test_a_locked_directory_does_not_hold_up_a_start_for_ever(path, node_dir, closing, monkeypatch):
    """A lock that somebody else keeps on the directory is waited for only so long."""
    import fcntl

    naps = []
    monkeypatch.setattr(us.time, "sleep", naps.append)
    fd = os.open(node_dir, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    closing(us.listen_stream(path))
    os.close(fd)
    assert 0.5 < sum(naps) < 2


def test_long_paths_work_for_all_four(long_path, closing):
    """Listening, connecting, binding and sending reach a path that no socket address can hold."""
    listener = closing(us.listen_stream(long_path))
    client = closing(us.connect_stream(long_path, 5))
    closing(listener.accept()[0]).send(b"hello")
    assert client.recv(10) == b"hello"
    with pytest.raises(us.AddressInUse):
        us.listen_stream(long_path)
    mailbox = long_path.with_name("m")
    receiver = closing(us.bind_datagram(mailbox))
    sender = closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
    assert us.send_datagram(sender, mailbox, b"hi")
    assert receiver.recv(10) == b"hi"
    with pytest.raises(OSError, match="too long"):
        us.listen_stream(long_path.with_name("n" * 120))


def test_connecting_to_nobody_is_an_error_at_once(path):
    """A missing and a stale socket are told apart from a slow one."""
    with pytest.raises(FileNotFoundError):
        us.connect_stream(path, 5)
    _stale(path)
    with pytest.raises(ConnectionRefusedError):
        us.connect_stream(path, 5)


def test_connecting_waits_for_a_full_backlog_until_the_timeout(path, closing, monkeypatch):
    """A listener that accepts nobody makes the caller wait, then fail; as soon as it accepts, the wait ends."""
    listener = closing(us.listen_stream(path, backlog=0))
    first = closing(us.connect_stream(path, 5))
    assert first.gettimeout() == 5
    with pytest.raises(TimeoutError, match="accepted nobody"):
        us.connect_stream(path, 0.02)
    monkeypatch.setattr(us.time, "sleep", lambda seconds: listener.accept()[0].close())
    closing(us.connect_stream(path, None))


def test_a_datagram_is_never_waited_for(path, closing):
    """Nobody there, a stale socket and a full queue are all False, at once; so is a stranger's socket an error."""
    sender = closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
    assert not us.send_datagram(sender, path, b"x")
    _stale(path, socket.SOCK_DGRAM)
    assert not us.send_datagram(sender, path, b"x")
    receiver = closing(us.bind_datagram(path))
    sent = 0
    while us.send_datagram(sender, path, b"x"):
        sent += 1
    assert sent > 0
    assert receiver.recv(10) == b"x"
    assert us.send_datagram(sender, path, b"x")


def test_a_datagram_to_the_wrong_kind_of_socket_is_an_error(path, closing):
    """What cannot work later either is not hidden as "nobody there"."""
    sender = closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
    closing(us.listen_stream(path))
    with pytest.raises(OSError, match="wrong type"):
        us.send_datagram(sender, path, b"x")


def test_the_peers_user_is_known_to_both_sides(path, closing):
    """Both ends of a connection learn the uid of the other from the kernel."""
    listener = closing(us.listen_stream(path))
    client = closing(us.connect_stream(path, 5))
    assert us.peer_uid(closing(listener.accept()[0])) == us.peer_uid(client) == os.geteuid()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become someone else")
def test_the_peers_user_is_the_real_one(fork, path, node_dir, closing):
    """A process of another user cannot pass as ours."""
    listener = closing(us.listen_stream(path, mode=0o666))
    os.chmod(node_dir, 0o711)
    os.chmod(node_dir.parent, 0o711)

    def connect(talk):
        os.setuid(12345)
        with us.connect_stream(path, 5):
            talk.hear()

    child = fork(connect)
    assert us.peer_uid(closing(listener.accept()[0])) == 12345
    child.say("enough")
    assert child.wait() == 0


@pytest.fixture
def pair():
    ends = us.seqpacket_pair()
    yield ends
    for end in ends:
        end.close()


def test_packets_keep_their_bounds_and_carry_descriptors(pair):
    """Each receive is one send; a descriptor arrives as a new, close-on-exec one of the same file."""
    ours, theirs = pair
    assert not os.get_inheritable(ours.fileno())
    reader, writer = os.pipe()
    us.send_packet_with_fds(ours, b"one", [writer])
    us.send_packet_with_fds(ours, b"two")
    os.close(writer)
    data, [received] = us.recv_packet_with_fds(theirs, 100, 4)
    assert data == b"one"
    assert not os.get_inheritable(received)
    os.write(received, b"through")
    os.close(received)
    assert os.read(reader, 100) == b"through"
    assert os.read(reader, 100) == b""
    os.close(reader)
    assert us.recv_packet_with_fds(theirs, 100, 0) == (b"two", [])


@pytest.mark.parametrize(("count", "most"), [(2, 1), (1, 0), (4, 3)])
def test_too_many_descriptors_are_an_error_and_leak_none(pair, count, most):
    """No descriptor of a refused packet stays open, and the next packet is intact."""
    ours, theirs = pair
    reader, writer = os.pipe()
    us.send_packet_with_fds(ours, b"one", [writer] * count)
    us.send_packet_with_fds(ours, b"two")
    os.close(writer)
    with pytest.raises(OSError, match=f"more than {most} descriptors"):
        us.recv_packet_with_fds(theirs, 100, most)
    assert os.read(reader, 1) == b""  # nobody holds the write end
    os.close(reader)
    assert us.recv_packet_with_fds(theirs, 100, 0) == (b"two", [])


def test_a_packet_that_is_too_long_is_an_error(pair):
    """A packet is never handed out cut short."""
    ours, theirs = pair
    us.send_packet_with_fds(ours, b"x" * 101)
    with pytest.raises(OSError, match="more than 100 bytes"):
        us.recv_packet_with_fds(theirs, 100, 0)


def test_an_empty_packet_cannot_be_sent(pair):
    """It could not be told from end-of-file."""
    with pytest.raises(ValueError, match="end-of-file"):
        us.send_packet_with_fds(pair[0], b"")


def test_the_peers_last_words_are_read_before_its_end(pair):
    """A peer that closes without reading what we sent resets the connection; what it said is not lost."""
    ours, theirs = pair
    us.send_packet_with_fds(ours, b"never read")
    us.send_packet_with_fds(theirs, b"last words")
    theirs.close()
    assert us.recv_packet_with_fds(ours, 100, 1) == (b"last words", [])
    assert us.recv_packet_with_fds(ours, 100, 1) == (b"", [])
    with pytest.raises(BrokenPipeError):
        us.send_packet_with_fds(ours, b"anyone?")


def test_nothing_there_yet_is_not_the_end(pair):
    """A non-blocking receive says that it would block."""
    pair[0].setblocking(False)
    with pytest.raises(BlockingIOError):
        us.recv_packet_with_fds(pair[0], 100, 1)


def test_a_default_timeout_of_the_app_does_not_make_it_wait(path):
    """``socket.setdefaulttimeout`` in a task: a full queue is False at once all the same."""
    before = socket.getdefaulttimeout()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(path))
        socket.setdefaulttimeout(30)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                began = time.monotonic()
                while us.send_datagram(sender, path, b"!"):
                    pass
                assert time.monotonic() - began < 10
        finally:
            socket.setdefaulttimeout(before)
