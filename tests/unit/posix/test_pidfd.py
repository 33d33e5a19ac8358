from __future__ import annotations

import mmap
import os
import signal
import struct
import threading

import pytest

from poolrt.posix import pidfd, procfs


@pytest.fixture
def handle():
    """``handle(pid)``: a pidfd that is closed at the end of the test."""
    fds = []

    def open_one(pid):
        fds.append(pidfd.open_pidfd(pid))
        return fds[-1]

    yield open_one
    for fd in fds:
        os.close(fd)


def _idle(talk):
    talk.say("ready")
    talk.hear()


def test_the_end_of_a_process_is_seen_before_it_is_reaped(fork, handle):
    """A handle tells a living process from a zombie, and a zombie takes no signal."""
    child = fork(_idle)
    fd = handle(child.pid)
    child.hear()
    assert not pidfd.is_exited(fd)
    assert pidfd.send_signal(fd, signal.SIGTERM)
    assert pidfd.is_exited(fd, timeout=10)
    assert not pidfd.send_signal(fd, signal.SIGTERM)
    assert pidfd.exit_status(fd) == -signal.SIGTERM
    child.code = -signal.SIGTERM
    assert pidfd.is_exited(fd)
    assert not pidfd.send_signal(fd, signal.SIGTERM)


def test_the_exit_code_is_none_while_it_runs(fork, handle):
    """Asking for the status never blocks, and an ordinary exit reads as its code."""

    def leave(talk):
        talk.hear()
        os._exit(7)

    child = fork(leave)
    fd = handle(child.pid)
    assert pidfd.exit_status(fd) is None
    child.say("go")
    assert pidfd.is_exited(fd, timeout=10)
    assert pidfd.exit_status(fd) == 7
    child.code = 7
    with pytest.raises(ChildProcessError):
        pidfd.exit_status(fd)


def test_a_handle_is_close_on_exec_and_needs_a_process(fork, handle):
    """No exec'ed program inherits a handle, and there is none on a pid that is gone."""
    child = fork(_idle)
    assert not os.get_inheritable(handle(child.pid))
    child.kill()
    with pytest.raises(ProcessLookupError):
        pidfd.open_pidfd(child.pid)


def test_a_closed_handle_does_not_read_as_a_death(fork):
    """A descriptor closed by mistake is an error: declaring the process dead would be worse."""
    child = fork(_idle)
    fd = pidfd.open_pidfd(child.pid)
    os.close(fd)
    with pytest.raises(OSError, match="closed"):
        pidfd.is_exited(fd)


def test_after_stopped_no_thread_of_it_runs(fork, handle):
    """With several busy threads, the shared counters stand still from the moment STOPPED is answered."""
    shared = mmap.mmap(-1, 4096)

    def busy(talk):
        def count(place):
            value = 0
            while True:
                value += 1
                struct.pack_into("Q", shared, place * 8, value)

        for place in range(3):
            threading.Thread(target=count, args=(place,), daemon=True).start()
        talk.say("ready")
        talk.hear()

    child = fork(busy)
    fd = handle(child.pid)
    child.hear()
    for _ in range(50):
        assert pidfd.stop_and_wait(child.pid, fd, timeout=5) is pidfd.Stopped.STOPPED
        before = shared[:24]
        assert [procfs._stat(f"/proc/{child.pid}/task/{tid}/stat")[0] for tid, _ in procfs.threads(child.pid)] == [
            b"T"
        ] * 4
        assert shared[:24] == before
        assert pidfd.send_signal(fd, signal.SIGCONT)
    child.kill()
    shared.close()


def test_stopping_a_dead_process_says_so(fork, handle):
    """A zombie and a reaped process are both EXITED."""
    child = fork(_idle)
    fd = handle(child.pid)
    os.kill(child.pid, signal.SIGKILL)
    assert pidfd.is_exited(fd, timeout=10)
    assert pidfd.stop_and_wait(child.pid, fd) is pidfd.Stopped.EXITED
    child.wait()
    assert pidfd.stop_and_wait(child.pid, fd) is pidfd.Stopped.EXITED


def test_a_first_thread_that_ended_does_not_hide_the_others(fork, handle):
    """A process whose first thread is a zombie is alive, can be stopped, and is not EXITED."""

    def headless(talk):
        def live():
            talk.say("ready")
            try:
                talk.hear()
            finally:
                os._exit(0)

        threading.Thread(target=live, daemon=True).start()
        import ctypes

        ctypes.CDLL(None).syscall(60, 0)  # exit, of this thread alone

    if os.uname().machine != "x86_64":
        pytest.skip("the number of the exit system call is x86-64's")
    child = fork(headless)
    fd = handle(child.pid)
    child.hear()
    while procfs.state(child.pid) != "Z":
        os.sched_yield()
    assert procfs.is_alive(child.pid)
    assert not pidfd.is_exited(fd)
    assert pidfd.stop_and_wait(child.pid, fd, timeout=5) is pidfd.Stopped.STOPPED


def test_a_process_busy_in_the_kernel_times_out_and_stops_later(fork, handle, tmp_path):
    """Between vfork and exec (held up by a fifo here) a stop cannot take effect; it does as soon as that is over."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    def spawn(talk):
        talk.say("ready")
        action = (os.POSIX_SPAWN_OPEN, 0, str(fifo), os.O_RDONLY, 0)
        os.waitpid(os.posix_spawn("/bin/true", ["true"], {}, file_actions=[action]), 0)
        talk.say("spawned")
        talk.hear()

    child = fork(spawn)
    fd = handle(child.pid)
    child.hear()
    while procfs.state(child.pid) != "D":
        os.sched_yield()
    assert pidfd.stop_and_wait(child.pid, fd, timeout=0.01) is pidfd.Stopped.TIMEOUT
    with open(fifo, "wb"):
        pass
    assert pidfd.stop_and_wait(child.pid, fd, timeout=10) is pidfd.Stopped.STOPPED
    assert pidfd.send_signal(fd, signal.SIGCONT)
    assert child.hear() == "spawned"
