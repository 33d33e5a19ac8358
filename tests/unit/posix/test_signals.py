from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading

import pytest

from poolrt.posix import signals


def test_a_noop_handler_lets_the_process_live_and_its_programs_die(in_child):
    """The signal does nothing here, and still ends what is exec'ed from here; SIG_IGN would have been passed on."""

    def main():
        signals.ignore_with_noop_handlers([signal.SIGTERM, signal.SIGINT])
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        deaf = subprocess.run(["sh", "-c", "kill -TERM $$"], check=False).returncode
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        ignored = subprocess.run(["sh", "-c", "kill -TERM $$"], check=False).returncode
        return deaf, ignored

    assert in_child(main) == (-signal.SIGTERM, 0)


def test_defaults_are_a_fresh_interpreters(in_child):
    """Handlers and ignored signals are undone, ^C raises again, and SIGPIPE stays ignored as Python has it."""

    def main():
        handled = [signal.SIGTERM, signal.SIGINT, signal.SIGPIPE, signal.SIGRTMIN + 1]
        signals.ignore_with_noop_handlers(handled)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        signals.restore_defaults()
        asked = [signal.SIGTERM, signal.SIGCHLD, signal.SIGRTMIN + 1, signal.SIGPIPE, signal.SIGXFSZ]
        return [signal.getsignal(number) for number in asked], (
            signal.getsignal(signal.SIGINT) is signal.default_int_handler
        )

    default, ignored = signal.SIG_DFL, signal.SIG_IGN
    assert in_child(main) == ([default, default, default, ignored, ignored], True)


def _wait_readable(sock):
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(10_000))


def test_a_signal_wakes_the_loop(in_child):
    """One byte, the signal's number, arrives for a signal with a Python handler; a flood neither blocks nor warns."""

    def main():
        signals.ignore_with_noop_handlers([signal.SIGTERM])
        with signals.wakeup_socket() as woken:
            os.kill(os.getpid(), signal.SIGTERM)
            one = _wait_readable(woken) and woken.recv(10)
            for _ in range(5000):
                os.kill(os.getpid(), signal.SIGTERM)
            flood = woken.recv(1 << 20)
            assert not woken.getblocking()
        return one, len(flood) > 10, signal.set_wakeup_fd(-1)

    assert in_child(main) == (bytes([signal.SIGTERM]), True, -1)


def test_a_forked_childs_signals_do_not_wake_its_parent(in_child, fork):
    """The wake-up descriptor is inherited; after `restore_defaults` the child's signals are its own."""

    def main():
        signals.ignore_with_noop_handlers([signal.SIGTERM])
        told = []
        with signals.wakeup_socket() as woken:
            for restore in (False, True):
                if (pid := os.fork()) == 0:
                    if restore:
                        signals.restore_defaults()
                        signals.ignore_with_noop_handlers([signal.SIGTERM])
                    os.kill(os.getpid(), signal.SIGTERM)
                    os._exit(0)
                os.waitpid(pid, 0)
                try:
                    told.append(woken.recv(10))
                except BlockingIOError:
                    told.append(b"")
        return told

    before, after = in_child(main)
    assert after == b""
    if sys.version_info < (3, 13):  # 3.13 does not write from a forked child any more
        assert before == bytes([signal.SIGTERM])


def test_closing_leaves_a_later_wakeup_descriptor_alone(in_child):
    """Whoever set another one meanwhile (asyncio) keeps it."""

    def main():
        first = signals.wakeup_socket()
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        signal.set_wakeup_fd(theirs.fileno())
        first.close()
        first.close()
        kept = signal.set_wakeup_fd(-1) == theirs.fileno()
        ours.close()
        theirs.close()
        return kept

    assert in_child(main)


def test_only_the_main_thread_can_have_it(in_child):
    """Elsewhere it is an error, and both ends are closed."""

    def main():
        seen = []

        def ask():
            before = len(os.listdir("/dev/fd"))
            with pytest.raises(ValueError, match="main thread"):
                signals.wakeup_socket()
            seen.append(len(os.listdir("/dev/fd")) - before)

        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
        return seen

    assert in_child(main) == [0]


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (15, "SIGTERM"),
        (9, "SIGKILL"),
        (signal.SIGRTMIN, "SIGRTMIN"),
        (signal.SIGRTMIN + 3, "SIGRTMIN+3"),
        (199, "signal 199"),
        (0, "signal 0"),
        (-1, "signal -1"),
    ],
)
def test_signals_have_names(number, name):
    """Every number has something to print."""
    assert signals.signal_name(number) == name


def test_what_a_deaf_process_forks_can_hear() -> None:
    """``multiprocessing`` in a task ends its workers by TERM: they must not have our ears."""

    def deaf() -> None:
        signals.ignore_with_noop_handlers([signal.SIGTERM, signal.SIGINT])
        signals.hear_again_after_fork([signal.SIGTERM, signal.SIGINT])
        pid = os.fork()
        if pid == 0:
            signal.pause()
            os._exit(1)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(pid, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGTERM

    pid = os.fork()
    if pid == 0:
        try:
            deaf()
        except BaseException:
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
