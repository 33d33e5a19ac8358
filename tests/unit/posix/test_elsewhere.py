"""What is left of the package where Linux's calls are missing; macOS itself is not at hand, its absences are."""

from __future__ import annotations

import importlib
import os
import pkgutil
import select
import signal
import socket
import sys

import poolrt.posix

LINUX_ONLY = {
    os: ["O_PATH", "P_PIDFD", "pidfd_open", "sched_getaffinity", "sched_setaffinity", "waitid"],
    select: [name for name in dir(select) if name.lower().startswith("epoll")],
    signal: ["SIGRTMAX", "SIGRTMIN", "pidfd_send_signal"],
    socket: ["MSG_CMSG_CLOEXEC", "MSG_NOSIGNAL", "SO_PEERCRED"],
}


def _import_all():
    """In a forked child: import every module of the package as if on macOS."""
    for module, names in LINUX_ONLY.items():
        for name in names:
            if hasattr(module, name):
                delattr(module, name)
    sys.platform = "darwin"
    names = [f"poolrt.posix.{info.name}" for info in pkgutil.iter_modules(poolrt.posix.__path__)]
    for name in names:
        sys.modules.pop(name, None)
    return {name.rpartition(".")[2]: importlib.import_module(name) for name in names}


def test_every_module_imports(in_child):
    """Importing needs no call, constant or file that only Linux has."""
    assert len(in_child(lambda: list(_import_all()))) >= 12


def test_what_cannot_be_done_is_left_out_or_done_in_the_next_best_way(in_child, node_dir):
    """No subreaper and no pidfds; but parents are compared, children reaped, readings taken, sockets private."""

    def try_all():
        posix = _import_all()
        posix["prctl"].become_subreaper()
        posix["prctl"].die_with_parent(os.getppid())
        child = os.fork()
        if child == 0:
            os._exit(3)
        reaped = []
        while not reaped:
            reaped = list(posix["reaping"].reap_any([child]))
        wait = posix["waiting"].ExclusiveWait()
        os.umask(0)
        listener = posix["unix_sockets"].listen_stream(node_dir / "s")
        ours, theirs = posix["unix_sockets"].seqpacket_pair()
        posix["unix_sockets"].send_packet_with_fds(ours, b"packet", [0])
        data, [fd] = posix["unix_sockets"].recv_packet_with_fds(theirs, 100, 1)
        wait.register_shared(theirs.fileno())
        posix["unix_sockets"].send_packet_with_fds(ours, b"event")
        event = wait.wait(5) == {theirs.fileno()} and theirs.recv(100)
        ours.close()
        found = {
            "reaped": [found.status for found in reaped],
            "resident": posix["memory"].ResidentSize(os.getpid()).read() > 1 << 20,
            "state": posix["processes"].state(os.getpid()),
            "descendants": posix["processes"].descendants(os.getpid()),
            "event": event,
            "end-of-file": wait.wait(0) != set(),
            "mode": oct(os.stat(node_dir / "s").st_mode & 0o777),
            "umask": os.umask(0),
            "packet": (data, os.get_inheritable(fd)),
            "cpus": posix["memory"].available_cpus() >= 1,
            "type": posix["files"].filesystem_type("/dev/shm"),
            "name": posix["signals"].signal_name(63),
        }
        listener.close()
        return found

    assert in_child(try_all) == {
        "reaped": [3],
        "resident": True,
        "state": "R",
        "descendants": [],
        "event": b"event",
        "end-of-file": False,  # the documented limit of SOCK_DGRAM
        "mode": "0o600",
        "umask": 0,
        "packet": (b"packet", False),
        "cpus": True,
        "type": "tmpfs",
        "name": "signal 63",
    }
