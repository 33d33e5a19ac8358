"""The settings table: one row a setting; flags, environment names and the reference page are made from it.

A setting is a field of ``Settings`` whose annotation carries its ``Row``.
"""

from __future__ import annotations

import enum
import re
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, NamedTuple

import msgspec

from poolrt.errors import ConfigurationError
from poolrt.hygiene.findings import parse_allowed, parse_policies
from poolrt.queue_choice import parse_queue_choice
from poolrt.units import format_duration, format_size, parse_duration, parse_size


class Kind(enum.Enum):
    """What a setting's text means."""

    TEXT = "text"
    COUNT = "count"
    DURATION = "duration"
    SIZE = "size"
    BURST = "burst"
    CHOICE = "choice"


class Row(NamedTuple):
    """What the table says of a setting beside its type and default."""

    group: str
    help: str
    kind: Kind
    metavar: str = ""
    flags: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    at_least: float = 0


class Burst(NamedTuple):
    """``limit`` events within ``seconds``; written ``10/60s``."""

    limit: int
    seconds: float


def parse_burst(value: str) -> Burst:
    """The burst in ``"10/60s"``; raises ConfigurationError."""
    count, slash, seconds = str(value).partition("/")
    if not slash or not count.strip().isdigit() or int(count) < 1:
        raise ConfigurationError(f"{value!r} is not COUNT/DURATION; write for example 10/60s")
    return Burst(int(count), parse_duration(seconds))


def _parse_count(value: str | int) -> int:
    try:
        return int(str(value))
    except ValueError:
        raise ConfigurationError(f"{value!r} is not a whole number") from None


_PARSERS: Final[Mapping[Kind, Callable[[Any], Any]]] = {
    Kind.TEXT: str,
    Kind.CHOICE: str,
    Kind.COUNT: _parse_count,
    Kind.DURATION: parse_duration,
    Kind.SIZE: parse_size,
    Kind.BURST: parse_burst,
}

_APP, _POOL, _HYGIENE, _LIMITS, _LEASE, _SHUTDOWN, _LOGS = (
    "App",
    "Pool",
    "Hygiene",
    "Limits",
    "Lease",
    "Shutdown",
    "Logs",
)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """One node's settings, checked; see ``table`` for their rows."""

    node_name: Annotated[
        str,
        Row(_APP, "Name of this node; one supervisor runs under a name.", Kind.TEXT, "NAME", ("-n",)),
    ] = ""
    concurrency: Annotated[
        int,
        Row(
            _POOL, "How many children pull tasks; 0: as many as processors this node may use.", Kind.COUNT, "N", ("-c",)
        ),
    ] = 0
    queues: Annotated[
        str,
        Row(
            _POOL,
            "Names of the queues whose tasks this node runs: mail,images, or weighted mail:3,images:1; empty: all.",
            Kind.TEXT,
            "NAMES",
            ("-Q",),
        ),
    ] = ""
    exclude_queues: Annotated[
        str,
        Row(_POOL, "Run the tasks of all queues but these.", Kind.TEXT, "NAMES", ("-X",)),
    ] = ""
    queue_order: Annotated[
        str,
        Row(
            _POOL,
            "By the priority of messages over all queues, or strict: a queue goes before those named after it.",
            Kind.CHOICE,
            choices=("priority", "strict"),
        ),
    ] = "priority"
    max_tasks_per_child: Annotated[
        int,
        Row(_HYGIENE, "Recycle a child after this many tasks; 0: never.", Kind.COUNT, "N"),
    ] = 0
    max_tasks_jitter: Annotated[
        int,
        Row(
            _HYGIENE,
            "Lower the limit of each child by a random part of so many percent, so that they do not all leave at once.",
            Kind.COUNT,
            "PERCENT",
        ),
    ] = 10
    max_lifetime: Annotated[
        float,
        Row(_HYGIENE, "Recycle a child after this time, between two tasks; 0: never.", Kind.DURATION, "DURATION"),
    ] = 0.0
    max_memory_per_child: Annotated[
        int,
        Row(
            _HYGIENE,
            "Recycle a child whose resident memory is above this after a task, and still is after a garbage collection;"
            " 0B: never.",
            Kind.SIZE,
            "SIZE",
        ),
    ] = 0
    pool_memory: Annotated[
        int,
        Row(
            _HYGIENE,
            "Recycle the largest child while the whole node uses more than this; 0B: nine tenths of the control "
            "group's limit, or none where it has no limit.",
            Kind.SIZE,
            "SIZE",
        ),
    ] = 0
    leak_policy: Annotated[
        str,
        Row(
            _HYGIENE,
            "What to do about what tasks leave behind: ignore, warn, recycle or fail for all kinds, or KIND=ACTION, "
            "comma-separated; a kind that is not named keeps its default.",
            Kind.TEXT,
            "POLICIES",
        ),
    ] = ""
    leak_allow: Annotated[
        str,
        Row(
            _HYGIENE,
            "What is no leak: KIND:PATTERN, comma-separated, with * for any kind; a shell pattern for what is left.",
            Kind.TEXT,
            "PATTERNS",
        ),
    ] = ""
    soft_time_limit: Annotated[
        float,
        Row(
            _LIMITS,
            "Raise SoftTimeLimitExceeded in a task that runs longer, unless it has a limit of its own; 0: none.",
            Kind.DURATION,
            "DURATION",
        ),
    ] = 0.0
    time_limit: Annotated[
        float,
        Row(
            _LIMITS,
            "Kill a task that runs longer, unless it has a limit of its own; 0: none.",
            Kind.DURATION,
            "DURATION",
        ),
    ] = 0.0
    memory_limit: Annotated[
        int,
        Row(
            _LIMITS,
            "Kill a task whose child grows above this resident size while it runs, unless it has a limit of its own; "
            "0B: none.",
            Kind.SIZE,
            "SIZE",
        ),
    ] = 0
    cancel_grace: Annotated[
        float,
        Row(
            _LIMITS,
            "How long a running task may clean up after it was cancelled; then its child is killed.",
            Kind.DURATION,
            "DURATION",
        ),
    ] = 5.0
    max_deliveries: Annotated[
        int,
        Row(
            _LIMITS,
            "Give a message up as dead after its child died this often while running it.",
            Kind.COUNT,
            "N",
            at_least=1,
        ),
    ] = 3
    boot_timeout: Annotated[
        float,
        Row(
            _LIMITS,
            "How long the import of the app, or the boot of a child, may take.",
            Kind.DURATION,
            "DURATION",
            at_least=0.1,
        ),
    ] = 60.0
    restart_burst: Annotated[
        Burst,
        Row(
            _LIMITS,
            "Give up when so many children in a row failed before their first task within this time.",
            Kind.BURST,
            "COUNT/DURATION",
        ),
    ] = Burst(6, 45.0)
    lease: Annotated[
        float,
        Row(
            _LEASE,
            "How long this node may be silent before others take back what it holds, where the broker is on a server; "
            "it stops starting tasks after two thirds of it.",
            Kind.DURATION,
            "DURATION",
            at_least=0.5,
        ),
    ] = 15.0
    on_lease_lost: Annotated[
        str,
        Row(
            _LEASE,
            "What to do with running tasks when the lease cannot be renewed in time: stop them, so that no other node "
            "runs them at the same time, or keep them running until a renewal is refused.",
            Kind.CHOICE,
            choices=("stop", "keep"),
        ),
    ] = "stop"
    graceful_timeout: Annotated[
        float,
        Row(
            _SHUTDOWN,
            "How long running tasks may finish after TERM or INT; then they are put back.",
            Kind.DURATION,
            "DURATION",
        ),
    ] = 25.0
    log_level: Annotated[
        str,
        Row(_LOGS, "Least severity that is logged.", Kind.CHOICE, choices=("debug", "info", "warning", "error")),
    ] = "info"
    log_format: Annotated[
        str,
        Row(_LOGS, "Lines for people, or one JSON object a line.", Kind.CHOICE, choices=("text", "json")),
    ] = "text"

    def __post_init__(self) -> None:
        """Refuse what the table does not allow; raises ConfigurationError naming the setting."""
        for setting in table():
            value = getattr(self, setting.name)
            row = setting.row
            if row.kind in (Kind.COUNT, Kind.DURATION, Kind.SIZE) and value < row.at_least:
                raise ConfigurationError(f"{setting.name} must be at least {row.at_least:g}, not {value:g}")
            if row.choices and value not in row.choices:
                raise ConfigurationError(f"{setting.name} must be one of {', '.join(row.choices)}, not {value!r}")
        if self.node_name and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}", self.node_name):
            raise ConfigurationError(
                f"node_name {self.node_name!r}: use up to 64 letters, digits and . _ @ -, a letter or digit first"
            )
        if self.max_tasks_jitter > 90:
            raise ConfigurationError(f"max_tasks_jitter is a percentage up to 90, not {self.max_tasks_jitter}")
        for name, parse in (("leak_policy", parse_policies), ("leak_allow", parse_allowed)):
            try:
                parse(getattr(self, name))
            except ConfigurationError as error:
                raise ConfigurationError(f"{name}: {error}") from None
        parse_queue_choice(self.queues, self.exclude_queues, self.queue_order)


class Setting(NamedTuple):
    """One row of the table, with what follows from its name."""

    name: str
    default: Any
    row: Row

    @property
    def flag(self) -> str:
        """The long flag."""
        return "--" + self.name.replace("_", "-")

    @property
    def env(self) -> str:
        """The environment variable."""
        return "POOLRT_" + self.name.upper()

    @property
    def default_text(self) -> str:
        """The default as a user would write it."""
        return self.format(self.default)

    def format(self, value: Any) -> str:
        """``value`` as a user would write it."""
        match self.row.kind:
            case Kind.DURATION:
                return format_duration(value)
            case Kind.SIZE:
                return format_size(value)
            case Kind.BURST:
                return f"{value.limit}/{format_duration(value.seconds)}"
            case _:
                return str(value)

    def parse(self, text: Any) -> Any:
        """The value in ``text``; raises ConfigurationError."""
        return _PARSERS[self.row.kind](text)


_table: tuple[Setting, ...] = ()


def table() -> tuple[Setting, ...]:
    """Every setting, in the order of the reference page."""
    global _table  # noqa: PLW0603  built once: reading annotations costs 60 us
    if not _table:
        hints = typing.get_type_hints(Settings, include_extras=True)
        defaults = {field.name: field.default for field in msgspec.structs.fields(Settings)}
        _table = tuple(
            Setting(name, defaults[name], next(note for note in hint.__metadata__ if isinstance(note, Row)))
            for name, hint in hints.items()
        )
    return _table


def settings_from(values: Mapping[str, Any]) -> Settings:
    """Settings from a mapping of names to values or texts, such as keyword arguments.

    Raises:
        ConfigurationError: an unknown name (with the nearest known one) or a value the table does not allow.
    """
    known = {setting.name: setting for setting in table()}
    parsed: dict[str, Any] = {}
    for name, value in values.items():
        setting = known.get(name)
        if setting is None:
            import difflib

            close = difflib.get_close_matches(name, known, n=1)
            raise ConfigurationError(f"unknown setting {name!r}" + (f"; did you mean {close[0]!r}?" if close else ""))
        if value is None:
            continue
        try:
            parsed[name] = value if isinstance(value, Burst) else setting.parse(value)
        except ConfigurationError as error:
            raise ConfigurationError(f"{name}: {error}") from None
    return Settings(**parsed)
