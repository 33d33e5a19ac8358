"""What can leak: one class a kind, with ``leak()`` and what must be named.

To add one, write a class with `@kind(LeakKind…)`: made once before the first task, ``leak()`` leaves one thing,
``named(what)`` says whether a finding's ``what`` is right.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable
from typing import Any, Final

from poolrt.hygiene.findings import LeakKind
from stress.leaks.site import Site, greeted

KINDS: Final[dict[str, tuple[LeakKind, type[Any]]]] = {}


def kind(found_as: LeakKind) -> Callable[[type[Any]], type[Any]]:
    """Enter a class by its name, ``ReadFile`` as ``read-file``."""

    def enter(made: type[Any]) -> type[Any]:
        name = "".join(f"-{c.lower()}" if c.isupper() else c for c in made.__name__).lstrip("-")
        KINDS[name] = (found_as, made)
        return made

    return enter


class Leaks:
    """What all kinds have; at most `scenario.MOST_LEFT` are left."""

    takes = 0.0
    """Seconds that each task beside it takes, and it too: looks and samples have time by that."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.kept: list[Any] = []
        self.peer = f"127.0.0.1:{site.port}"

    def leak(self) -> None:
        """Leave one more."""
        raise NotImplementedError

    def named(self, what: str) -> bool:
        """Whether this is what leaked."""
        return what == self.peer

    def end(self) -> None:
        """End what outlives this process."""


@kind(LeakKind.CONNECTIONS)
class Connection(Leaks):
    """A TCP connection that was used in its run."""

    def leak(self) -> None:
        self.kept.append(self.site.connect())


@kind(LeakKind.CONNECTIONS)
class UnreadConnection(Leaks):
    """One whose answer nobody read."""

    def leak(self) -> None:
        sock = socket.create_connection(("127.0.0.1", self.site.port))
        sock.sendall(b"ping\n")
        self.kept.append(sock)


@kind(LeakKind.CONNECTIONS)
class HiddenConnection(Leaks):
    """One made while a file was open: the lowest free number does not show it."""

    def leak(self) -> None:
        with tempfile.TemporaryFile():
            self.kept.append(self.site.connect())


@kind(LeakKind.CONNECTIONS)
class ClosedByPeer(Leaks):
    """One that the server has closed meanwhile."""

    def leak(self) -> None:
        sock = self.site.connect()
        sock.sendall(b"bye\n")
        self.kept.append(sock)


@kind(LeakKind.CONNECTIONS)
class UnixConnection(Leaks):
    """A connection over a Unix socket, which does not tell its use."""

    def leak(self) -> None:
        self.kept.append(self.site.connect_unix())

    def named(self, what: str) -> bool:
        return what == self.site.path


@kind(LeakKind.FILES)
class File(Leaks):
    """A file that nobody read."""

    def leak(self) -> None:
        self.kept.append(open("/etc/hostname"))  # noqa: SIM115

    def named(self, what: str) -> bool:
        return what == "/etc/hostname"


@kind(LeakKind.FILES)
class ReadFile(File):
    """A file that was read in its run."""

    def leak(self) -> None:
        super().leak()
        self.kept[-1].read()


@kind(LeakKind.FILES)
class TempFile(Leaks):
    """An open temporary file, each of another name."""

    def leak(self) -> None:
        fd, path = tempfile.mkstemp()
        os.unlink(path)
        self.kept.append(fd)

    def named(self, what: str) -> bool:
        return what == tempfile.gettempdir() + "/*"


@kind(LeakKind.FILES)
class Pipe(Leaks):
    """A pipe."""

    def leak(self) -> None:
        self.kept.append(os.pipe())

    def named(self, what: str) -> bool:
        return what == "pipe"


@kind(LeakKind.FILES)
class Listener(Leaks):
    """A socket that listens on a free port."""

    def leak(self) -> None:
        self.kept.append(socket.create_server(("127.0.0.1", 0)))

    def named(self, what: str) -> bool:
        return what.startswith("listening on 127.0.0.1:")


@kind(LeakKind.UNCLOSED)
class Cycle(Leaks):
    """A connection in a cycle of references, while the collector does not run by itself."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        import gc

        gc.disable()

    def leak(self) -> None:
        holder: list[Any] = [greeted(socket.create_connection(("127.0.0.1", self.site.port)))]
        holder.append(holder)


@kind(LeakKind.THREADS)
class Thread(Leaks):
    """A thread that waits for ever."""

    def leak(self) -> None:
        threading.Thread(target=threading.Event().wait, name="forgotten", daemon=True).start()

    def named(self, what: str) -> bool:
        return what.startswith("forgotten")


@kind(LeakKind.PROCESSES)
class Process(Leaks):
    """A process that sleeps."""

    def leak(self) -> None:
        self.kept.append(subprocess.Popen(["sleep", "600"], stdin=subprocess.DEVNULL))

    def named(self, what: str) -> bool:
        return "sleep" in what

    def end(self) -> None:
        for each in self.kept:
            each.kill()
            each.wait()


@kind(LeakKind.TEMP_FILES)
class LeftFile(Leaks):
    """A closed file in the folder for temporary ones."""

    def leak(self) -> None:
        fd, path = tempfile.mkstemp(prefix="left-")
        os.close(fd)
        self.kept.append(path)

    def named(self, what: str) -> bool:
        return "left-" in what or what.startswith(tempfile.gettempdir())

    def end(self) -> None:
        for path in self.kept:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)


@kind(LeakKind.MEMORY)
class Memory(Leaks):
    """100 KiB."""

    takes = 0.001

    def leak(self) -> None:
        self.kept.append(os.urandom(100 * 1024))

    def named(self, what: str) -> bool:
        return True


@kind(LeakKind.MEMORY)
class Objects(Memory):
    """300 small dicts, 100 KiB: each collection of all of them takes longer than the one before."""

    def leak(self) -> None:
        self.kept.append([{"id": number, "value": str(number)} for number in range(300)])


@kind(LeakKind.MEMORY)
class Strings(Memory):
    """800 small strings, 100 KiB: no collection looks at them, but at the lists that hold them."""

    def leak(self) -> None:
        self.kept.append([bytes(100) for _ in range(800)])


@kind(LeakKind.STATE)
class State(Leaks):
    """Another working directory."""

    takes = 0.0002

    def leak(self) -> None:
        os.chdir("/")

    def named(self, what: str) -> bool:
        return what == "cwd"
