"""Notices: the framed messages on the socketpairs between our own processes.

    SUPERVISOR ──NodeFiles, Fork────────────▶ TEMPLATE      one socketpair, made before the template's exec
               ◀─Ready, Failed, Forked, Exited──
    SUPERVISOR ──Poke (look at your row)────▶ CHILD         one socketpair a child: its lifeline
               ◀─Up, Leaving, BootFailed, Trouble, Found, Ran──
    SUPERVISOR ──Bury, Reclaim, Poke, Leaked▶ STEWARD       the same lifeline, for the child that is the steward
               ◀─Up, Settled, LeaseLost, CancelRun, Recalled, Status, Happened──

SOCK_SEQPACKET keeps frames apart, and end-of-file on either side means that the other process died. A send
never blocks the supervisor: what does not fit is kept and sent when the socket is writable.
"""

from __future__ import annotations

import socket
from typing import Any, Final

import msgspec

from poolrt.board import Running
from poolrt.events import Event
from poolrt.hygiene.findings import Finding, LeakRow, Rest, fitting, fitting_rest
from poolrt.message import encodable
from poolrt.posix.unix_sockets import recv_packet_with_fds, send_packet_with_fds

MAX_BYTES: Final = 64 * 1024
"""A frame's size; Linux's default send buffer (208 KiB) holds three of them."""
MAX_TEXT: Final = 16 * 1024
"""Longest traceback that is put into a notice, in bytes; the middle of a longer one is cut out."""


class _Notice(msgspec.Struct, frozen=True, tag=True, array_like=True):
    pass


# ---- supervisor to template


class Fork(_Notice, frozen=True):
    """Fork a child; its end of the lifeline and its stacks file come with the frame, in that order."""

    slot: int
    generation: int
    role: str
    """``child`` or ``steward``."""
    max_tasks: int = 0
    """Tasks after which it leaves; 0 is never. Each child's own, because of the jitter."""


# ---- template to supervisor


class Ready(_Notice, frozen=True):
    """The app is imported. The supervisor answers with the node's files (``NodeFiles``), or closes the socket."""

    app: str
    broker: str
    node_directory: str
    tasks: int
    import_seconds: float
    warnings: tuple[str, ...] = ()


class Failed(_Notice, frozen=True):
    """The app cannot be imported, or cannot be forked safely; the template exits after it."""

    text: str
    traceback: str = ""
    exit_code: int = 3
    """The supervisor's exit code if it gives up; see errors.ExitCode."""


class Forked(_Notice, frozen=True):
    """The child exists; its pidfd comes with the frame, opened while it could not have been reaped."""

    slot: int
    generation: int
    pid: int


class ForkFailed(_Notice, frozen=True):
    """The system would not fork."""

    slot: int
    generation: int
    text: str


class Exited(_Notice, frozen=True):
    """A child was reaped. ``status`` is its exit code, or minus the signal that ended it."""

    slot: int
    generation: int
    pid: int
    status: int
    peak_rss: int = 0
    """The highest resident size it ever had, in bytes."""


# ---- supervisor to template, once, after Ready


class NodeFiles(_Notice, frozen=True):
    """The board's, the lock's and the wake socket's fds come with the frame, in that order."""

    incarnation: str
    node: str
    may_open: int = 0
    """The soft limit of descriptors that the supervisor was started with, to be its children's again; 0: as it is."""


# ---- supervisor to child


class Poke(_Notice, frozen=True):
    """Look at the order in your row."""


# ---- child to supervisor


class Up(_Notice, frozen=True):
    """Booted; waits for work, or for the order to take its place."""

    boot_seconds: float
    birth_rss: int = 0
    """Its resident size before its first task, in bytes."""


class Leaving(_Notice, frozen=True):
    """Will exit after settling what it runs: it takes no more work."""

    reason: str
    done: int
    task: str = ""
    """The task that is the reason, where one is."""


class BootFailed(_Notice, frozen=True):
    """Could not become ready; exits."""

    traceback: str


class Trouble(_Notice, frozen=True):
    """The broker refuses this child; an empty text: it works again."""

    text: str
    final: bool = False
    """Its store is damaged, deleted or replaced: it will not work again for this node."""


class Found(_Notice, frozen=True):
    """Something that a task left behind; its texts are cut to what fits."""

    finding: Finding
    at: float
    """Wall time."""
    task_id: str = ""
    """Of the run that was caught, where one was."""

    def __post_init__(self) -> None:
        """Cut the texts: a path, or a stack, may be longer than a frame."""
        msgspec.structs.force_setattr(self, "finding", fitting(self.finding))


class Ran(_Notice, frozen=True):
    """What a child that leaves has not told of one task, cut to what fits."""

    rest: Rest

    def __post_init__(self) -> None:
        """Cut it: see ``Found``."""
        msgspec.structs.force_setattr(self, "rest", fitting_rest(self.rest))


# ---- supervisor to steward


class Bury(_Notice, frozen=True):
    """A child is dead: settle what it held. Repeated until ``Settled`` answers; idempotent."""

    ticket: int
    slot: int
    generation: int
    n: int
    i: int
    """The delivery its row says it was running; both 0 for none."""
    cause: str
    """Empty for a planned exit; else what ended the child."""
    verdict: str
    """``lost`` (requeue with backoff, or dead), ``failed`` (end it with the cause), ``stopped`` (by our own order: back
    at its old place, uncounted, unless it must not run twice), ``cancelled``, or ``none``."""
    runtime: float = 0.0
    status: int | None = None
    """The child's exit code, or minus the signal that ended it."""
    peak_rss: int = 0
    stack: str = ""
    report: bytes | None = None
    """See hygiene.crash_report; it goes into the record as it is."""


class Reclaim(_Notice, frozen=True):
    """An earlier start of this node is dead: put back what it held. ``running`` comes from its board."""

    ticket: int
    incarnation: str
    running: tuple[Running, ...] | None
    """None when no board survived."""


class Leaked(_Notice, frozen=True):
    """What a task left behind since the last notice of this kind, task and what: to be added to the broker's row."""

    row: LeakRow


# ---- steward to supervisor


class Settled(_Notice, frozen=True):
    """The ticket is done."""

    ticket: int


class LeaseLost(_Notice, frozen=True):
    """The broker refused to renew the node's lease: another node took over what it held, or the store is another."""

    text: str


class CancelRun(_Notice, frozen=True):
    """Somebody wants this delivery cancelled. Repeated each tick until it has ended."""

    slot: int
    generation: int
    n: int
    i: int


class Recalled(_Notice, frozen=True):
    """The mark in the child's row is done, and so many deliveries were put back; only now it may be marked again.

    A mark that replaced one not done yet would leave what that one covers with a child that has given it up.
    """

    slot: int
    generation: int
    upto: int
    """Names the mark; see ``Board.mark_recall``."""
    count: int


class Status(_Notice, frozen=True):
    """What the broker holds, once a second; also the proof that the steward lives."""

    queued: int
    delayed: int
    reserved: int
    dead: int
    oldest: float | None


class Happened(_Notice, frozen=True):
    """Something to report."""

    event: Event


Notice = (
    Fork | Ready | Failed | Forked | ForkFailed | Exited | NodeFiles | Poke | Up | Leaving | BootFailed
    | Trouble | Found | Ran | Bury | Reclaim | Leaked | Settled | LeaseLost | CancelRun | Recalled | Status | Happened
)  # fmt: skip

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Notice] = msgspec.msgpack.Decoder(Notice)


def shorten(text: str, limit: int = MAX_TEXT) -> str:
    """``text`` with its middle cut out when it is longer than ``limit`` bytes."""
    raw = encodable(text).encode()
    if len(raw) <= limit:
        return encodable(text)
    head, tail = raw[: limit // 2].decode("utf-8", "ignore"), raw[-(limit // 2) :].decode("utf-8", "ignore")
    return f"{head}\n… {len(raw) - limit} bytes left out …\n{tail}"


def encode(notice: Notice) -> bytes:
    """The frame of a notice. Texts may hold what users raised, lone surrogates of file names included."""
    try:
        return _encoder.encode(notice)
    except UnicodeEncodeError:
        return _encoder.encode(_plain(notice))


def _plain(value: Any) -> Any:
    """``value`` with what cannot be encoded in its texts written out, however deep they are."""
    if isinstance(value, str):
        return encodable(value)
    if isinstance(value, msgspec.Struct):
        return msgspec.structs.replace(value, **{k: _plain(v) for k, v in msgspec.structs.asdict(value).items()})
    if isinstance(value, dict):
        return {_plain(k): _plain(v) for k, v in value.items()}
    return tuple(map(_plain, value)) if isinstance(value, tuple) else value


def decode(frame: bytes) -> Notice:
    """The notice in a frame; raises msgspec.DecodeError."""
    return _decoder.decode(frame)


def send(sock: socket.socket, notice: Notice, fds: tuple[int, ...] = ()) -> None:
    """Send one notice; raises BlockingIOError when it does not fit now, OSError when the other side is gone."""
    send_packet_with_fds(sock, encode(notice), list(fds))


def receive(sock: socket.socket) -> tuple[Notice, list[int]] | None:
    """The next notice and its fds; None at end-of-file. Raises BlockingIOError when nothing waits."""
    frame, fds = recv_packet_with_fds(sock, MAX_BYTES, 4)
    if not frame:
        return None
    return _decoder.decode(frame), fds


def describe(notice: Any) -> str:
    """The notice's name, for logs."""
    return type(notice).__name__
