from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys

import pytest

from poolrt.posix import locks, pidfd


@pytest.fixture
def path(tmp_path):
    return tmp_path / "node.lock"


@pytest.fixture
def lock(path):
    """A `locks.NodeLock` that is released at the end."""
    held = locks.NodeLock.acquire(path)
    yield held
    held.release()


@pytest.fixture
def record(path):
    """A `locks.RecordLock` that is closed at the end."""
    made = locks.RecordLock(path)
    yield made
    made.close()


def test_a_held_lock_names_its_holder(lock, path):
    """The second comer is refused at once and is told the path and the pid that the holder wrote."""
    lock.write(b'{"node": "a", "pid": 4711}')
    with pytest.raises(locks.LockHeld, match="process 4711") as refused:
        locks.NodeLock.acquire(path)
    assert (refused.value.path, refused.value.pid) == (str(path), 4711)


@pytest.mark.parametrize(
    ("content", "pid"),
    [
        (b"123\nincarnation", 123),
        (b'{"pid":7}', 7),
        (b"", None),
        (b"node a", None),
        (b'"pid": x', None),
        (b"9" * 5000, None),
        (b"\xff\0", None),
    ],
)
def test_what_the_holder_wrote_is_not_trusted(content, pid):
    """Any bytes may be in the file; only a plausible number counts as a pid."""
    assert locks._holder(content) == pid


def test_is_held_and_release(path):
    """A lock reads as held by anyone, this process included, from acquire to release; a missing file is free."""
    assert not locks.is_held(path)
    lock = locks.NodeLock.acquire(path)
    assert locks.is_held(path)
    lock.release()
    lock.release()
    assert not locks.is_held(path)
    assert path.exists()
    assert not lock.is_current()


def test_a_probe_does_not_make_an_acquire_fail(path, monkeypatch):
    """is_held() holds the lock for an instant; an acquire in that instant tries again."""
    path.touch()
    probe = os.open(path, os.O_RDONLY)
    fcntl.flock(probe, fcntl.LOCK_SH)
    monkeypatch.setattr(locks.time, "sleep", lambda seconds: fcntl.flock(probe, fcntl.LOCK_UN))
    locks.NodeLock.acquire(path).release()
    os.close(probe)


def test_the_content_is_replaced_in_place(lock, path):
    """Shorter content leaves nothing of the longer one, the inode stays, and others can read it."""
    inode = path.stat().st_ino
    for content in (b"a long content that came first", b"short", b""):
        lock.write(content)
        assert lock.read() == path.read_bytes() == content
    assert path.stat().st_ino == inode == lock.inode


def test_a_crash_in_the_middle_of_a_write_leaves_the_new_content(lock, path, monkeypatch):
    """If the file is never shortened, what is read is still the new content and nothing of the old."""
    lock.write(b"a long content that came first")

    def crash(fd, length):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "ftruncate", crash)
    with pytest.raises(KeyboardInterrupt):
        lock.write(b"new")
    assert lock.read() == b"new"


def test_the_file_is_private_whatever_the_umask(in_child, path):
    """Mode 0600, also under a umask that allows everything or nothing, and the mode asked for otherwise."""

    def modes():
        found = []
        for umask, mode in ((0, 0o600), (0o777, 0o600), (0o077, 0o640)):
            os.umask(umask)
            lock = locks.NodeLock.acquire(path, mode)
            found.append(os.fstat(lock.fd).st_mode & 0o777)
            lock.release()
            os.unlink(path)
        return found

    assert in_child(modes) == [0o600, 0o600, 0o640]


def test_a_symbolic_link_is_refused(path, tmp_path):
    """A link planted under the lock's name is not followed."""
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links") as refused:
        locks.NodeLock.acquire(path)
    assert refused.value.errno == errno.ELOOP


def test_a_file_replaced_between_open_and_lock_is_not_taken_for_the_lock(path, monkeypatch):
    """If the file is unlinked and made anew before the lock is had, the new file is what gets locked."""
    real = fcntl.flock
    swaps = []

    def swap_first(fd, operation):
        if len(swaps) < 2:
            swaps.append(os.fstat(fd).st_ino)
            os.rename(path, f"{path}.{len(swaps)}")
            path.touch()
        real(fd, operation)

    monkeypatch.setattr(fcntl, "flock", swap_first)
    lock = locks.NodeLock.acquire(path)
    assert len(swaps) == 2
    assert lock.inode == path.stat().st_ino
    assert lock.inode not in swaps
    assert lock.is_current()
    path.unlink()
    assert not lock.is_current()
    lock.release()


def test_a_forked_child_shares_the_lock(fork, path):
    """The lock outlives its taker for as long as a forked child lives: free means that nobody of the node is left."""
    lock = locks.NodeLock.acquire(path)

    def hold(talk):
        talk.say("ready")
        talk.hear()

    child = fork(hold)
    child.hear()
    lock.release()
    assert locks.is_held(path)
    child.kill()
    assert not locks.is_held(path)


def test_an_execed_program_does_not_hold_the_lock(path):
    """What a task starts may outlive the node without holding it, unless the descriptor is handed over on purpose."""
    lock = locks.NodeLock.acquire(path)
    code = (
        "import sys; from poolrt.posix import locks\n"
        "if sys.argv[1:]: lock = locks.NodeLock.adopt(int(sys.argv[1]), sys.argv[2])\n"
        "print(lock.is_current() if sys.argv[1:] else '-', flush=True); input()"
    )

    def start(*arguments, **options):
        command = [sys.executable, "-c", code, *arguments]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options)

    with start(close_fds=False) as plain, start(str(lock.fd), str(path), pass_fds=[lock.fd]) as heir:
        assert plain.stdout.readline() == "-\n"
        assert heir.stdout.readline() == "True\n"
        lock.release()
        assert locks.is_held(path)
        heir.communicate("\n")
        assert not locks.is_held(path)
        plain.communicate("\n")


def _take(talk, record):
    talk.say("waiting")
    record.acquire()
    talk.say("mine")
    talk.hear()


def test_a_waiter_gets_the_record_lock_when_its_holder_dies(fork, record):
    """The kernel hands the lock on when the holder is killed, whatever it was doing."""
    holder = fork(_take, record)
    assert [holder.hear(), holder.hear()] == ["waiting", "mine"]
    waiter = fork(_take, record)
    assert waiter.hear() == "waiting"
    with pytest.raises(TimeoutError, match="not free within"):
        record.acquire(timeout=0.02)
    holder.kill()
    assert waiter.hear() == "mine"
    waiter.kill()
    record.acquire(timeout=10)


def test_a_signal_does_not_break_the_wait_for_a_record_lock(fork, record):
    """A waiter interrupted by a signal runs its handler and goes on waiting."""

    def take(talk):
        signal.signal(signal.SIGUSR1, lambda *_: talk.say("signalled"))
        _take(talk, record)

    record.acquire()
    waiter = fork(take)
    assert waiter.hear() == "waiting"
    os.kill(waiter.pid, signal.SIGUSR1)
    assert waiter.hear() == "signalled"
    record.release()
    assert waiter.hear() == "mine"


def test_a_fork_neither_inherits_nor_endangers_the_record_lock(fork, record):
    """The child shares the open file but not the lock: it has to wait, and its release and close free nothing."""

    def child_main(talk):
        record.reopen_after_fork()
        try:
            record.acquire(timeout=0.01)
        except TimeoutError:
            talk.say("not mine")
        record.release()
        record.close()
        talk.say("closed")
        talk.hear()

    def try_it(talk):
        try:
            record.acquire(timeout=0)
        except TimeoutError:
            talk.say("held")

    record.acquire()
    child = fork(child_main)
    assert [child.hear(), child.hear()] == ["not mine", "closed"]
    assert fork(try_it).hear() == "held"
    fd = pidfd.open_pidfd(child.pid)
    child.kill()
    os.close(fd)
    assert fork(try_it).hear() == "held"


def test_the_record_lock_is_the_processs_own(fork, record, path):
    """A second acquire succeeds and one release ends it; and closing any descriptor of the file loses it (POSIX)."""

    def free(talk):
        try:
            record.acquire(timeout=0)
            talk.say(True)
        except TimeoutError:
            talk.say(False)

    record.acquire()
    record.acquire()
    assert not fork(free).hear()
    record.release()
    assert fork(free).hear()
    record.acquire()
    os.close(os.open(path, os.O_RDONLY))
    assert fork(free).hear()


def test_the_record_lock_file_is_private(record, path):
    """The file is made with mode 0600 and its descriptor is close-on-exec."""
    assert path.stat().st_mode & 0o777 == 0o600
    assert not os.get_inheritable(record._fd)
    record.close()
    record.close()


def test_reprs_name_the_file(lock, record, path):
    """People paste reprs into bug reports: the path is in both."""
    assert str(path) in repr(lock)
    assert str(path) in repr(record)
