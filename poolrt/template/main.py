"""The template process.

    supervisor ──exec──▶ import app, gc.freeze, check ──Ready──▶ supervisor ──NodeFiles──▶ loop
    loop:  Fork ──os.fork──▶ child.main | steward.main          SIGCHLD ──reap──▶ Exited
           end-of-file: the supervisor is gone ──▶ end every descendant, exit

It must never run user code after the import, hold a thread or a connected socket (a fork would share them), or
do broker I/O. It is its children's parent and subreaper: what they leave behind comes here and is ended.
"""

from __future__ import annotations

import gc
import logging
import os
import select
import signal
import socket
import sys
import time
import traceback
from typing import TYPE_CHECKING

from poolrt import logs, notice
from poolrt.app.location import load
from poolrt.board import Board
from poolrt.child import main as child_main
from poolrt.child.main import ABSORBED, Common, Place, policies_of
from poolrt.child.output import LastOutput
from poolrt.errors import BrokerError, ExitCode
from poolrt.events import Event, EventKind, in_brief
from poolrt.hygiene.findings import LeakKind, Policies
from poolrt.hygiene.inherited import inherited_connections, refusal
from poolrt.hygiene.pools.checked_out import CheckedOut
from poolrt.hygiene.temp_folders import TempFolders
from poolrt.notice import Exited, Failed, Fork, Forked, ForkFailed, Happened, NodeFiles, Ready, shorten
from poolrt.posix.descriptors import set_limit
from poolrt.posix.pidfd import open_pidfd
from poolrt.posix.prctl import become_subreaper, die_with_parent, outlive_parent, set_process_title
from poolrt.posix.processes import kill_descendants, rss_bytes
from poolrt.posix.reaping import reap_any
from poolrt.posix.signals import do_nothing, ignore_with_noop_handlers, wakeup_socket
from poolrt.posix.stacks import prepare_stacks
from poolrt.steward import main as steward_main
from poolrt.template.checks import ceilings_too_low, other_threads, soft_limits_too_late
from poolrt.template.config import TemplateConfig, decode_config

if TYPE_CHECKING:
    from collections.abc import Callable

    from poolrt.app.app import App

log = logging.getLogger("poolrt.template")


class Template:
    """Forks and reaps for one supervisor.

    Invariant: ``_places`` holds every process forked and not reaped.
    """

    def __init__(
        self, sock: socket.socket, app: App, config: TemplateConfig, directory: str, policies: Policies
    ) -> None:  # fmt: skip
        self._sock = sock
        self._app = app
        self._settings = config.settings
        self._places: dict[int, tuple[int, int]] = {}
        self._wakeup = wakeup_socket()
        self._poll = select.poll()
        self._poll.register(sock.fileno(), select.POLLIN)
        self._poll.register(self._wakeup.fileno(), select.POLLIN)
        self._files: NodeFiles | None = None
        self._directory = directory
        self._policies = policies
        self._output = LastOutput()
        asked = policies.watches(LeakKind.CHECKED_OUT) or policies.watches(LeakKind.TRANSACTIONS)
        self._out = CheckedOut() if asked else None
        self._common: Common | None = None

    def serve(self) -> None:
        """Fork and reap until the supervisor is gone; then end all that was forked."""
        while True:
            for fd, _ in self._poll.poll():
                if fd == self._wakeup.fileno():
                    self._wakeup.drain()
                    self._reap()
                elif not self._take_notice():
                    kill_descendants(os.getpid())
                    self._leave_temp_folders()
                    return

    def _leave_temp_folders(self) -> None:
        """All children of this template are dead; another template's may live on in the same start."""
        if self._common is not None and self._common.temp_folders is not None:
            self._common.temp_folders.leave()

    def _reap(self) -> None:
        """Tell which of ours have ended, once what they had started is ended too: it came to us when they died."""
        exited = []
        for pid, status, peak_rss in reap_any(self._places):
            place = self._places.pop(pid, None)
            if place is not None:
                exited.append(Exited(*place, pid, status, peak_rss))
        strays = kill_descendants(os.getpid(), spare=self._places)
        if strays:
            self._tell_strays(exited, strays)
        for each in exited:
            self._send(each)
            if self._common is not None and self._common.temp_folders is not None:
                self._common.temp_folders.drop(each.slot)

    def _tell_strays(self, exited: list[Exited], strays: dict[int, str]) -> None:
        assert self._files is not None
        slot, generation = (exited[0].slot, exited[0].generation) if len(exited) == 1 else (None, None)
        event = Event(
            EventKind.LEFT_BEHIND, time.time(), node=self._files.node, slot=slot, generation=generation,
            cause=f"processes its tasks had started outlived it: {in_brief(strays.values())}",
            numbers={"ended": len(strays)},
        )  # fmt: skip
        self._send(Happened(event))

    def _take_notice(self) -> bool:
        try:
            frame = notice.receive(self._sock)
        except OSError:
            return False
        if frame is None:
            return False
        received, fds = frame
        if isinstance(received, NodeFiles):
            board = Board(fds[0])
            os.close(fds[0])
            wake = socket.socket(fileno=fds[2])
            wake.setblocking(False)
            self._files = received
            temp_folders = None
            if self._policies.watches(LeakKind.TEMP_FILES):
                temp_folders = TempFolders(received.node, received.incarnation, self._directory)
                temp_folders.sweep()
            self._common = Common(board, wake, fds[1], self._policies, self._output, self._out, temp_folders)
            if received.may_open:
                set_limit(received.may_open)
        elif isinstance(received, Fork):
            self._fork(received, *fds)
        return True

    def _send(self, message: notice.Notice, fds: tuple[int, ...] = ()) -> None:
        try:
            notice.send(self._sock, message, fds)
        except OSError:
            log.debug("the supervisor is gone: %s was not sent", notice.describe(message))

    def _fork(self, request: Fork, lifeline: int, stacks: int) -> None:
        files = self._files
        assert files is not None, "a Fork came before the NodeFiles"
        place = Place(
            files.node, files.incarnation, request.slot, request.generation, os.getpid(), request.max_tasks,
            self._settings,
        )  # fmt: skip
        try:
            pid = os.fork()
        except OSError as error:
            os.close(lifeline)
            os.close(stacks)
            self._send(ForkFailed(request.slot, request.generation, f"{error.strerror} (errno {error.errno})"))
            return
        if pid == 0:
            self._become(place, request.role, lifeline, stacks)
        os.close(lifeline)
        os.close(stacks)
        self._places[pid] = (request.slot, request.generation)
        pidfd = open_pidfd(pid)
        self._send(Forked(request.slot, request.generation, pid), (pidfd,))
        os.close(pidfd)

    def _become(self, place: Place, role: str, lifeline: int, stacks: int) -> None:
        """In the fork: be a child or the steward, and never come back."""
        status = 1
        try:
            sock = socket.socket(fileno=lifeline)
            self._sock.close()
            self._wakeup.close()
            common = self._common
            assert common is not None
            if role == "steward":
                status = steward_main.run(self._app, place, common.board, sock, stacks)
            else:
                status = child_main.run(self._app, place, common, sock, stacks)
        except BaseException:  # noqa: BLE001  whatever it is, it must not unwind into the template's frames
            traceback.print_exc()
        finally:
            try:
                logging.shutdown()
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(status)


def run(sock: socket.socket, config: TemplateConfig) -> int:
    """The template's main; returns its exit code."""
    set_process_title("poolrt:template")
    become_subreaper()
    logs.configure(config.settings.log_level, config.settings.log_format)
    # An import can take long, and end-of-file is looked at after it only; nothing was forked yet that would need us.
    die_with_parent(os.getppid())
    if select.select([sock], [], [], 0)[0]:
        return 1  # nothing is sent before Ready: the supervisor had died before we asked to die with it
    began = time.monotonic()
    gc.disable()
    try:
        # A script is left at its first effect, in the middle of its frames: then the template goes on from there.
        app = load(config.location, lambda find: _serve_for_good(sock, config, find, began))
    except BaseException as error:  # noqa: BLE001  the user's import can raise anything, SystemExit included
        return _refuse(sock, error)
    return _serve(sock, config, lambda: app, began)


def _serve_for_good(sock: socket.socket, config: TemplateConfig, find: Callable[[], App], began: float) -> None:
    """``_serve`` from inside a script's frames: nothing may unwind into them, neither a return nor an exception."""
    status = 1
    try:
        status = _serve(sock, config, find, began)
    except BaseException as error:  # noqa: BLE001  see above
        if not isinstance(error, BrokenPipeError):  # the supervisor stopped, or died, while the app was imported
            traceback.print_exc()
        kill_descendants(os.getpid())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _refuse(sock: socket.socket, error: BaseException) -> int:
    code = error.exit_code if isinstance(error, BrokerError) else ExitCode.BOOT_FAILED
    notice.send(sock, Failed(f"{type(error).__name__}: {error}"[:2000], shorten(_trace_of(error)), int(code)))
    return 1


def _serve(sock: socket.socket, config: TemplateConfig, find: Callable[[], App], began: float) -> int:
    """What follows the import: check, freeze, fork; so that children share the pages of what was imported."""
    try:
        app = find()
        if app.broker.trusted:
            import cloudpickle  # noqa: F401  children would each pay its 24 ms at their first failed task
        policies = policies_of(app, config.settings)
        inherited = inherited_connections(sock.fileno(), policies)
    except BaseException as error:  # noqa: BLE001  see above
        return _refuse(sock, error)
    seconds = time.monotonic() - began
    if inherited:
        notice.send(sock, Failed(refusal(inherited)))
        return 1
    warnings = [
        f"importing the app left the thread {name!r} running: it does not exist in children" for name in other_threads()
    ]
    warnings.extend(soft_limits_too_late(app, config.settings))
    ignore_with_noop_handlers(ABSORBED)
    signal.signal(signal.SIGCHLD, do_nothing)
    broker = app.broker
    try:
        directory = str(broker.node_directory())
        broker.depth()  # is it usable at all; and what its first use loads, children find loaded
        warnings.extend(broker.warnings())
        broker.close()
    except Exception as error:  # noqa: BLE001  a broker that cannot be used is told in its own words
        notice.send(sock, Failed(f"{type(error).__name__}: {error}"[:2000], "", int(ExitCode.BROKER_UNUSABLE)))
        return 1
    template = Template(sock, app, config, directory, policies)
    prepare_stacks()
    gc.collect()
    gc.freeze()
    refused = ceilings_too_low(app, config.settings, rss_bytes(os.getpid()) or 0)
    if refused:
        notice.send(sock, Failed("; ".join(refused), "", int(ExitCode.USAGE)))
        return 1
    outlive_parent()  # from now on its end-of-file makes us end our children
    notice.send(sock, Ready(app.name, broker.url, directory, len(app.tasks), seconds, tuple(warnings)))
    template.serve()
    return 0


def _trace_of(error: BaseException) -> str:
    """The traceback from the first frame that is not ours or the import machinery's."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "importlib" not in frame.filename and f"{os.sep}poolrt{os.sep}template{os.sep}" not in frame.filename
        and not frame.filename.endswith(f"{os.sep}poolrt{os.sep}app{os.sep}location.py")
    ]  # fmt: skip
    lines = ["Traceback (most recent call last):\n"] if frames else []
    return "".join([*lines, *traceback.format_list(frames), *traceback.format_exception_only(error)])


def main(arguments: list[str]) -> int:
    """``python -m poolrt.template SOCKET_FD CONFIG_FD``, as the supervisor starts it."""
    sock_fd, config_fd = int(arguments[0]), int(arguments[1])
    sock = socket.socket(fileno=sock_fd)
    sock.set_inheritable(False)
    with os.fdopen(config_fd, "rb") as file:
        config = decode_config(file.read())
    try:
        return run(sock, config)
    except BrokenPipeError:  # the supervisor stopped, or died, while the app was imported
        kill_descendants(os.getpid())
        return 1
