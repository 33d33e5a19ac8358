"""The child's lifeline: its socketpair to the supervisor, and where it waits when it has nothing to do.

    supervisor ──Poke──▶ socket ──┐
    producers ──datagram──▶ the node's wake socket (shared by all its children) ──▶ wait_for_work()
           or ──broker──▶ this child's own connection ──▶ wait_for_answer ──────┘
    supervisor died ──end-of-file──▶ ``cut``

All idle children wait on one wake socket; EPOLLEXCLUSIVE wakes one of them for a datagram, not all 64. A broker on a
server answers one child itself.
"""

from __future__ import annotations

import select
import socket

from poolrt import notice
from poolrt.posix.waiting import ExclusiveWait

_MAX_TOKENS = 32


class Lifeline:
    """The child's end.

    Attributes:
        cut: the supervisor is gone; the child must end.
    """

    def __init__(self, sock: socket.socket, wake: socket.socket | None) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._wake = wake
        self._orders = select.poll()
        self._orders.register(sock.fileno(), select.POLLIN)
        self._idle = ExclusiveWait()
        self._idle.register_own(sock.fileno())
        if wake is not None:
            self._idle.register_shared(wake.fileno())
        self.cut = False

    def send(self, message: notice.Notice) -> None:
        """Tell the supervisor; waits while its buffer is full, gives up when it is gone."""
        while not self.cut:
            try:
                notice.send(self._socket, message)
                return
            except BlockingIOError:
                select.select([], [self._socket], [])
            except OSError:
                self.cut = True

    def wait_for_order(self, timeout: float | None = None) -> None:
        """Wait until the supervisor pokes, or is gone, or ``timeout`` seconds have passed."""
        if self._orders.poll(None if timeout is None else timeout * 1000):
            self.receive()

    def wait_for_work(self, timeout: float | None = None) -> bool:
        """As ``wait_for_order``, and until a producer wakes this child; whether one did."""
        ready = self._idle.wait(timeout)
        if self._socket.fileno() in ready:
            self.receive()
        return self._wake is not None and self._wake.fileno() in ready and self._take_tokens()

    def wait_for_answer(self, fd: int, timeout: float) -> bool:
        """As ``wait_for_order``, and until ``fd`` can be read; whether it can."""
        poll = select.poll()
        poll.register(self._socket.fileno(), select.POLLIN)
        poll.register(fd, select.POLLIN)
        ready = {ready_fd for ready_fd, _ in poll.poll(max(timeout, 0) * 1000)}
        if self._socket.fileno() in ready:
            self.receive()
        return fd in ready

    def receive(self) -> list[notice.Notice]:
        """The notices that wait; a Poke among them has no content, the order stands in the board row."""
        received: list[notice.Notice] = []
        while not self.cut:
            try:
                frame = notice.receive(self._socket)
            except BlockingIOError:
                break
            except OSError:
                frame = None
            if frame is None:
                self.cut = True
            else:
                received.append(frame[0])
        return received

    def _take_tokens(self) -> bool:
        """Take all waiting tokens: one look at the queue serves them, and Settled.more passes the wake-up on."""
        taken = 0
        while self._wake is not None and taken < _MAX_TOKENS:
            try:
                self._wake.recv(16, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            taken += 1
        return taken > 0

    def fileno(self) -> int:
        """The socket's fd."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the epoll; the sockets end with the process."""
        self._idle.close()
