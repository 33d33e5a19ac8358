"""Where one server listens; what an address names, and what Sentinels and Cluster nodes answer."""

from __future__ import annotations

from typing import NamedTuple


class Endpoint(NamedTuple):
    """Where one server listens: host and port, or the path of a socket file and port 0."""

    host: str
    port: int

    def __str__(self) -> str:
        if not self.port:
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
