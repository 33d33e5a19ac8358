"""The network: a namespace for each host, and one for the switch that they are plugged into.

    a [eth0 10.99.0.1] ── veth ── [a] ┐
    b [eth0 10.99.0.2] ── veth ── [b] ├ br0, in the switch's namespace
    …                                 ┘

A host is cut off by ``ip link set down`` on the switch's side: its own side sees packets vanish, as when a cable is
pulled behind the next switch. Names carry this process's pid, so that runs do not collide; the host's own network is
not touched. Needs root and iproute2.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

_PREFIX: Final = "poolrt-cluster-"
_NAMESPACES: Final = Path("/run/netns")


class NotHere(Exception):
    """This machine cannot make namespaces; the text says why."""


class Network:
    """A switch with hosts.

    Args:
        hosts: their names, up to ten letters.
    """

    def __init__(self, *hosts: str) -> None:
        self.hosts = hosts
        self._switch = self._named("switch")

    def make(self) -> None:
        """Make it all.

        Raises:
            NotHere: it cannot be made here.
        """
        if os.geteuid() != 0:
            raise NotHere("only root may make network namespaces")
        if shutil.which("ip") is None:
            raise NotHere("there is no `ip` (iproute2)")
        _remove_of_the_dead()
        try:
            self._make()
        except subprocess.CalledProcessError as error:
            self.remove()
            raise NotHere(f"{' '.join(error.cmd)}: {error.stderr.strip()}") from None

    def _make(self) -> None:
        _ip("netns", "add", self._switch)
        _ip("-n", self._switch, "link", "add", "br0", "type", "bridge")
        _ip("-n", self._switch, "link", "set", "dev", "br0", "up")
        for host in self.hosts:
            inside = self._named(host)
            _ip("netns", "add", inside)
            _ip("link", "add", "name", "eth0", "netns", inside, "type", "veth", "peer", "name", host,
                "netns", self._switch)  # fmt: skip
            _ip("-n", self._switch, "link", "set", "dev", host, "master", "br0", "up")
            _ip("-n", inside, "address", "add", f"{self.address(host)}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _ip("-n", inside, "link", "set", "dev", device, "up")

    def address(self, host: str) -> str:
        """The host's address."""
        return f"10.99.0.{self.hosts.index(host) + 1}"

    def inside(self, host: str) -> tuple[str, ...]:
        """What stands before a command that is to run on the host; its pid stays that of the command."""
        return ("ip", "netns", "exec", self._named(host))

    def cut(self, host: str) -> None:
        """Let nothing through, in either direction."""
        _ip("-n", self._switch, "link", "set", "dev", host, "down")

    def heal(self, host: str) -> None:
        """End a cut."""
        _ip("-n", self._switch, "link", "set", "dev", host, "up")

    def remove(self) -> None:
        """Remove all of it; safe to call again, and after a ``make`` that failed."""
        for name in (*map(self._named, self.hosts), self._switch):
            _remove(name)

    @staticmethod
    def _named(host: str) -> str:
        return f"{_PREFIX}{os.getpid()}-{host}"


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def _remove(name: str) -> None:
    if (_NAMESPACES / name).exists():
        subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def _remove_of_the_dead() -> None:
    """What runs have left that were killed themselves."""
    for path in _NAMESPACES.glob(f"{_PREFIX}*"):
        pid = path.name.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdigit() and not os.path.exists(f"/proc/{pid}"):
            _remove(path.name)
