"""From a broker's URL to the broker; each broker's module loads only when it is named."""

from __future__ import annotations

from poolrt.brokers.base import Broker
from poolrt.errors import ConfigurationError


def broker_from_url(url: str) -> Broker:
    """The broker of ``url``; opens nothing.

    Raises:
        ConfigurationError: no broker of that scheme.
    """
    scheme, separator, _ = url.partition("://")
    if separator and scheme == "sqlite":
        from poolrt.brokers.sqlite import SqliteBroker

        return SqliteBroker(url)
    shown = f"{scheme}://…" if separator else repr(url)
    raise ConfigurationError(f"no broker for {shown}; write for example sqlite:///poolrt.db")
