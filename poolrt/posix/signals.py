"""Signal dispositions of the runtime's processes, and the socket that wakes a loop.

Facts that bite:

- SIG_IGN is inherited by exec, a handler is not: a child that must not react to ^C gets a handler that does nothing, so
  that the programs its tasks start still do.
- The wake-up descriptor is inherited by fork: a signal to the child would wake the *parent*; `restore_defaults`
  cuts it.
- Only signals with a Python handler reach the wake-up descriptor.
- Handlers and the wake-up descriptor can be set in the main thread only.
- Blocked signals stay blocked over fork and exec; nothing here touches the mask.
"""

import _signal  # type: ignore[import-not-found]  # what ``signal`` wraps: see reserved_handlers
import os
import signal
import socket
import threading
from collections.abc import Iterable
from types import FrameType
from typing import Any

_PYTHON_IGNORES = {signal.SIGPIPE, signal.SIGXFSZ}
_USR1, _USR2 = int(signal.SIGUSR1), int(signal.SIGUSR2)


def do_nothing(number: int, frame: FrameType | None) -> None:
    """The handler that lets a signal pass: what was interrupted is continued (PEP 475)."""


def ignore_with_noop_handlers(signals: Iterable[int]) -> None:
    """Make this process deaf to ``signals`` without making what it execs deaf."""
    for number in signals:
        signal.signal(number, do_nothing)


def hear_again_after_fork(signals: Iterable[int]) -> None:
    """Give what this process forks, as ``multiprocessing`` does, its own ears back: ``signals`` that we are deaf to are
    at their default there, or ``Process.terminate()`` would end nothing. One that comes during the fork waits."""

    def block() -> None:
        masks[threading.get_ident()] = signal.pthread_sigmask(signal.SIG_BLOCK, heard)

    def unblock() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, masks.pop(threading.get_ident()))

    def hear() -> None:
        for number in heard:
            if _signal.getsignal(number) is do_nothing:
                signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        unblock()

    heard = tuple(signals)
    masks: dict[int, set[int]] = {}
    os.register_at_fork(before=block, after_in_parent=unblock, after_in_child=hear)


def restore_defaults() -> None:
    """Give every signal the disposition of a fresh interpreter and cut the wake-up descriptor: for a forked child.

    Signals ignored by whoever started us (nohup) are back at their default too. Handlers that are not Python's
    (faulthandler) stay.
    """
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        current = signal.getsignal(number)
        if number == signal.SIGINT:
            wanted: Any = signal.default_int_handler
        else:
            wanted = signal.SIG_IGN if number in _PYTHON_IGNORES else signal.SIG_DFL
        if current is not None and current != wanted:
            signal.signal(number, wanted)


class WakeupSocket(socket.socket):
    """The read end; closing it takes the wake-up descriptor back and closes the write end."""

    def __init__(self, reader: socket.socket, writer: socket.socket) -> None:
        """Take both ends over."""
        super().__init__(fileno=reader.detach())
        self.setblocking(False)  # a socket made from a descriptor believes that it blocks
        self._writer = writer

    def drain(self) -> None:
        """Take what is there: it only says that some signal came."""
        try:
            while self.recv(4096):
                pass
        except BlockingIOError:
            return

    def close(self) -> None:
        """Close both ends; a wake-up descriptor set by someone else meanwhile is left."""
        writer = self._writer
        if writer.fileno() >= 0:
            try:
                current = signal.set_wakeup_fd(-1)
                if current not in {-1, writer.fileno()}:
                    signal.set_wakeup_fd(current)
            except ValueError:
                pass  # not the main thread: full or closed, the descriptor is never warned about
            writer.close()
        super().close()


def wakeup_socket() -> WakeupSocket:
    """A non-blocking socket that gets one byte, its number, for each signal with a Python handler.

    Whoever reads it drains it: it only says that something came. When it is full, bytes are dropped without a warning.

    Raises:
        ValueError: not called in the main thread.
    """
    reader, writer = socket.socketpair()
    reader.setblocking(False)
    writer.setblocking(False)
    try:
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    except ValueError:
        reader.close()
        writer.close()
        raise
    return WakeupSocket(reader, writer)


def reserved_handlers() -> tuple[Any, Any]:
    """Who handles SIGUSR1 and SIGUSR2 in this process, as Python knows it; 0.1 us.

    ``signal.getsignal`` tries to make an enum member of each handler: 2 us a call, two calls a task.
    """
    return _signal.getsignal(_USR1), _signal.getsignal(_USR2)


def has_controlling_terminal() -> bool:
    """Whether this process was started from a terminal that is still its own."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError:
        return False  # ENXIO: none
    return True


def signal_name(number: int) -> str:
    """``SIGTERM`` for 15, ``SIGRTMIN+3`` for real-time signals, ``signal 99`` for what has no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        first = getattr(signal, "SIGRTMIN", None)
        if first is not None and number > first and number in signal.valid_signals():
            return f"SIGRTMIN+{number - first}"
        return f"signal {number}"
