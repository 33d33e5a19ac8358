"""The supervisor's handle on a template: its exec, its socketpair, its end."""

from __future__ import annotations

import os
import signal
import socket
import sys
import tempfile
import time
from collections import deque

from poolrt import notice
from poolrt.incarnation import MARK
from poolrt.posix.interpreter import environment
from poolrt.posix.pidfd import is_exited, open_pidfd, send_signal
from poolrt.posix.unix_sockets import seqpacket_pair

_IMPORTING = 0.2
"""Seconds a template that is still importing gets to end: it reads no end-of-file, and holds nothing to clean up."""


class TemplateProcess:
    """One template.

    Attributes:
        ready: its app is imported, and it forks.
        condemned: we killed it.
    """

    def __init__(self, config: bytes, incarnation: str) -> None:
        """Exec a fresh interpreter; ``config`` is opaque to the supervisor."""
        ours, theirs = seqpacket_pair()
        with tempfile.TemporaryFile() as file:
            file.write(config)
            file.flush()
            os.lseek(file.fileno(), 0, os.SEEK_SET)
            for fd in (theirs.fileno(), file.fileno()):
                os.set_inheritable(fd, True)
            # -P: a random.py in the current folder must not stand in for the one that poolrt imports.
            command = [sys.executable, "-P", "-m", "poolrt.template", str(theirs.fileno()), str(file.fileno())]
            marked = {**environment(), MARK: incarnation}
            self.pid = os.posix_spawn(sys.executable, command, marked, setpgroup=0)
        theirs.close()
        ours.setblocking(False)
        self.socket: socket.socket = ours
        self.pidfd = open_pidfd(self.pid)
        self.started_at = time.monotonic()
        self.ready = False
        self.condemned = False
        self._unsent: deque[tuple[notice.Notice, tuple[int, ...]]] = deque()

    def send(self, message: notice.Notice, fds: tuple[int, ...] = ()) -> None:
        """Send, or keep what does not fit now for ``flush``; the fds are duplicated where they must be kept."""
        if not self._unsent and self._try(message, fds):
            return
        self._unsent.append((message, tuple(os.dup(fd) for fd in fds)))

    def flush(self) -> bool:
        """Send what was kept; whether nothing is left."""
        while self._unsent:
            message, fds = self._unsent[0]
            if not self._try(message, fds):
                return False
            self._unsent.popleft()
            for fd in fds:
                os.close(fd)
        return True

    def _try(self, message: notice.Notice, fds: tuple[int, ...]) -> bool:
        try:
            notice.send(self.socket, message, fds)
        except BlockingIOError:
            return False
        except OSError:
            return True  # it is gone: end-of-file tells
        return True

    def kill(self) -> None:
        """SIGKILL it; end-of-file on its socket follows."""
        self.condemned = True
        send_signal(self.pidfd, signal.SIGKILL)

    def close(self, timeout: float, *, was_ready: bool) -> bool:
        """End it: end-of-file makes it end its children and exit; after ``timeout`` seconds SIGKILL does.

        Args:
            timeout: seconds.
            was_ready: it had imported the app; if not, it is killed soon.

        Returns whether it went by itself. The caller reaps it.
        """
        self.socket.close()
        while self._unsent:
            for fd in self._unsent.popleft()[1]:
                os.close(fd)
        went = is_exited(self.pidfd, timeout if was_ready else min(timeout, _IMPORTING))
        if not went:
            send_signal(self.pidfd, signal.SIGKILL)
            is_exited(self.pidfd, 5.0)
        os.close(self.pidfd)
        return went
