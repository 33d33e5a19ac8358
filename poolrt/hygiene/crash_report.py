"""The crash report: what is known of the end of a child, beside what its task's Record says; and how people read it.

    supervisor (coroner) ──encode──▶ bytes ──Bury──▶ steward ──▶ Record.report ──decode──▶ describe(record)
                                                                                     └──▶ poolrt dead show, crash_report

Nobody between the two ends looks into it. It holds no argument of the task, and neither do stacks; what a task prints
is its own doing. ``describe_call`` tells types and sizes of the arguments in the message, and values only if asked to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

import msgspec

from poolrt.codec import JSON, decode
from poolrt.errors import DecodingError
from poolrt.message import Message, Record
from poolrt.posix.signals import signal_name
from poolrt.units import format_size

_BARS: Final = "▁▂▃▄▅▆▇█"
_MOST_NAMED: Final = 10
"""Peers that are named in the text; the rest is counted."""
_MOST_SHOWN: Final = 200
"""Characters of one argument's value."""


class CrashReport(msgspec.Struct, frozen=True, array_like=True):
    """What the supervisor gathered of one dead child. Appended to, never reordered, like the Record."""

    at: float
    """When it ended, wall time."""
    pid: int
    killer: str = ""
    """Who sent the SIGKILL, as far as anybody can know; empty for any other end."""
    rss: tuple[tuple[float, int], ...] = ()
    """The last sizes: seconds before its end, and resident bytes; the oldest first."""
    kinds: dict[str, int] = {}
    """How many descriptors it had open, by kind; empty where it was gone before anybody could look."""
    peers: dict[str, int] = {}
    """How many connections it had, by the peer: host:port, or a path; or what it listens on."""
    complete: bool = True
    """Whether all descriptors were looked at."""
    lowest_free: int = 0
    """The lowest free descriptor after its last task: about how many were open; 0 where that is not known."""
    stdout: bytes = b""
    """The last bytes that the task printed."""
    stderr: bytes = b""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(CrashReport)


def encode_report(report: CrashReport) -> bytes:
    """The stored form."""
    return _encoder.encode(report)


def report_of(record: Record) -> CrashReport | None:
    """The report in a record; None where there is none, also none that can be read."""
    if record.report is None:
        return None
    try:
        return _decoder.decode(record.report)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


class Fact(NamedTuple):
    """One thing that the report tells: in a line, or in several."""

    name: str
    text: str

    @property
    def is_block(self) -> bool:
        """Whether it is shown below its name and not beside it."""
        return self.name in _BLOCKS


_BLOCKS: Final = frozenset({"stack", "traceback", "stdout", "stderr"})


def as_text(facts: Iterable[Fact]) -> str:
    """The facts as plain text."""
    return "\n".join(
        f"{fact.name}\n" + "\n".join(f"  {line}" for line in fact.text.splitlines())
        if fact.is_block
        else f"{fact.name:<10}{fact.text}"
        for fact in facts
    )


def describe(record: Record) -> list[Fact]:
    """All that is known of how a task ended; no argument of it, and nothing that a terminal would obey."""
    facts = [Fact("task", record.task or "unknown"), Fact("state", str(record.state))]
    if record.error is not None:
        facts.append(Fact("cause", f"{record.error.type}: {record.error.text}"))
    report = report_of(record)
    if report is not None and report.killer:
        facts.append(Fact("killed by", report.killer))
    if record.status is not None:
        facts.append(Fact("exit", signal_name(-record.status) if record.status < 0 else f"code {record.status}"))
    facts.append(Fact("run", f"{record.runtime:.3f} s, attempt {record.attempt}, lost {record.lost}"))
    if record.owner:
        facts.append(Fact("child", record.owner + (f", pid {report.pid}" if report is not None else "")))
    if record.peak_memory:
        facts.append(Fact("memory", f"at most {format_size(record.peak_memory)}"))
    if report is not None:
        facts += _gathered(report)
    if record.error is not None and record.error.traceback:
        facts.append(Fact("traceback", record.error.traceback.strip()))
    if record.stack:
        facts.append(Fact("stack", record.stack))
    if report is not None:
        facts += [Fact(name, text) for name in ("stdout", "stderr") if (text := last_lines(getattr(report, name)))]
    return [Fact(name, _plain(text)) for name, text in facts]


def _gathered(report: CrashReport) -> Iterator[Fact]:
    if report.rss:
        sizes = [size for _, size in report.rss]
        seconds = report.rss[0][0] - report.rss[-1][0]
        yield Fact(
            "growth",
            f"{sparkline(sizes)} {format_size(min(sizes))} to {format_size(max(sizes))} in the last {seconds:.1f} s",
        )
    if report.kinds:
        counts = ", ".join(f"{kind} {count}" for kind, count in report.kinds.items())
        rest = "" if report.complete else ", and more that were not looked at"
        yield Fact("open", f"{sum(report.kinds.values())} descriptors: {counts}{rest}")
    elif report.lowest_free:
        yield Fact("open", f"about {report.lowest_free} descriptors before it ran")
    if report.peers:
        named = [f"{peer} ×{count}" if count > 1 else peer for peer, count in report.peers.items()]
        more = f" and {len(named) - _MOST_NAMED} more" if len(named) > _MOST_NAMED else ""
        yield Fact("peers", ", ".join(named[:_MOST_NAMED]) + more)


def sparkline(values: Sequence[int]) -> str:
    """The values as bars, from the lowest to the highest."""
    low, high = min(values), max(values)
    step = (high - low) / (len(_BARS) - 1) or 1
    return "".join(_BARS[round((value - low) / step)] for value in values)


def last_lines(kept: bytes) -> str:
    """What was kept of a stream as text; where the beginning is cut off, from the first whole line on."""
    return kept.decode("utf-8", "replace").strip("\n")


def _plain(text: str) -> str:
    """``text`` with what a terminal would obey written out; lines stay lines."""
    return "\n".join(
        "".join(char if char.isprintable() or char == "\t" else repr(char)[1:-1] for char in line)
        for line in text.splitlines()
    )


# ---- arguments


def describe_call(message: Message, *, trusted: bool, show: bool = False) -> str:
    """The call that a message asks for: ``resize(<str 24>, width=<int>)``; with ``show`` the values themselves.

    A pickled call is only unpickled (which may run code of its sender) with ``show``, and from a trusted broker.
    """
    if message.codec != JSON and not show:
        return f"{message.task}(… pickled, {format_size(len(message.payload))})"
    try:
        args, kwargs = decode(message.codec, message.payload, trusted=trusted)
        of = _value if show else _kind
        parts = [*map(of, args), *(f"{name}={of(value)}" for name, value in kwargs.items())]
    except (DecodingError, TypeError, ValueError, AttributeError) as error:
        return f"{message.task}(… unreadable: {_plain(str(error))})"
    return _plain(f"{message.task}({', '.join(parts)})")


def _kind(value: object) -> str:
    name = type(value).__name__
    return f"<{name} {len(value)}>" if isinstance(value, (str, list, dict)) else f"<{name}>"


def _value(value: object) -> str:
    try:
        text = repr(value)
    except Exception as error:  # noqa: BLE001  the value's own __repr__ may raise anything
        return f"<its repr raised {type(error).__name__}>"
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}… ({len(text)} characters)"
