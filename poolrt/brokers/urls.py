"""From a broker's URL to the broker; each broker's module loads only when it is named."""

from __future__ import annotations

from typing import Final, Literal, cast
from urllib.parse import parse_qsl

from poolrt.brokers.base import Broker
from poolrt.errors import ConfigurationError
from poolrt.units import parse_duration

_REDIS: Final = frozenset(
    {
        "unix",
        *("redis", "rediss", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster"),
        *("valkey", "valkeys", "valkey+sentinel", "valkeys+sentinel", "valkey+cluster", "valkeys+cluster"),
    }
)
"""As poolrt.brokers.redis.address reads them; that package loads redis-py (117 ms)."""


def broker_from_url(url: str) -> Broker:
    """The broker of ``url``; opens nothing.

    Raises:
        ConfigurationError: no broker of that scheme.
    """
    scheme, separator, _ = url.partition("://")
    if separator and scheme == "sqlite":
        return _sqlite(url)
    if separator and scheme in _REDIS:
        from poolrt.brokers.redis import RedisBroker

        return RedisBroker(url)
    shown = f"{scheme}://…" if separator else "this text" if "@" in url or ":" in url else repr(url)  # no password
    raise ConfigurationError(f"no broker for {shown}; write for example sqlite:///poolrt.db or redis://host:6379/0")


def _sqlite(url: str) -> Broker:
    """``sqlite:///file.db?durability=power&timeout=2s``."""
    from poolrt.brokers.sqlite import SqliteBroker

    file, _, query = url.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    durability = options.pop("durability", "process")
    timeout = parse_duration(options.pop("timeout", 5.0))
    if options:
        raise ConfigurationError(f"{url!r}: unknown option {', '.join(options)}; known: durability, timeout")
    if durability not in {"process", "power"}:
        raise ConfigurationError(f"{url!r}: durability is process or power, not {durability!r}")
    return SqliteBroker(file, durability=cast("Literal['process', 'power']", durability), timeout=timeout)
