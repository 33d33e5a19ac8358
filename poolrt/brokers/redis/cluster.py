"""The Cluster node that owns the namespace's slot. All keys of a namespace carry one hash tag, so it is one node.

    Address ──EXISTS {namespace}:…──▶ any node ──MOVED slot host:port──▶ the owner ──EXISTS──▶ an answer: connected

Asking for a key is the one question that every version answers alike, that needs no right beyond the namespace, and
that a node with an old map answers with what it will do to the next command.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from redis.connection import AbstractConnection
from redis.exceptions import RedisError

from poolrt.brokers.redis import connecting
from poolrt.brokers.redis.endpoint import Endpoint
from poolrt.brokers.redis.failures import code_of, translated
from poolrt.errors import BrokerBusy, BrokerError, BrokerUnreachable

if TYPE_CHECKING:
    from poolrt.brokers.redis.address import Address

_MOST_HOPS: Final = 5
"""One hop is usual; a second one when the slot moves meanwhile. More is a Cluster whose nodes disagree."""


def connect(address: Address, deadline: float) -> AbstractConnection:
    """A connection to the master that owns the namespace's slot.

    Raises:
        BrokerUnreachable: no node answers, or they send from one to the other.
        BrokerError: as ``connecting.opened`` says.
    """
    refused: list[str] = []
    last: BrokerError | None = None
    for number, node in enumerate(address.endpoints):
        share = (deadline - time.monotonic()) / (len(address.endpoints) - number)
        try:
            return _follow(address, node, time.monotonic() + share)
        except (BrokerUnreachable, BrokerBusy) as error:
            last = error
            refused.append(str(error).removeprefix(f"{address.url} "))
    kind = BrokerBusy if isinstance(last, BrokerBusy) else BrokerUnreachable
    raise kind(f"{address.url}: no node leads to the owner of the namespace: {'; '.join(refused)}") from last


def _follow(address: Address, node: Endpoint, deadline: float) -> AbstractConnection:
    for _ in range(_MOST_HOPS):
        connection = connecting.opened(address, node, deadline)
        owner = _owner(connection, address, node)
        if owner is None:
            return connection
        connection.disconnect()
        node = owner
    raise BrokerUnreachable(f"{address.url} at {node}: the nodes disagree on who owns the namespace; see CLUSTER NODES")


def _owner(connection: AbstractConnection, address: Address, node: Endpoint) -> Endpoint | None:
    """Where this node sends us; None if the slot is its own."""
    where = connecting.told_where(address, node)
    try:
        connection.send_command("EXISTS", f"{{{address.namespace}}}:", check_health=False)
        connection.read_response()
    except (RedisError, OSError) as error:
        code = code_of(error)
        if code == "MOVED":  # [MOVED] slot host:port; redis-py 5 knows it in its own Cluster client only
            host, _, port = str(error).rpartition(" ")[2].rpartition(":")
            return Endpoint(host if host not in {"", "?"} else node.host, int(port))
        if code != "ASK":  # that is: moved away key by key, and until it is done this is the owner
            connection.disconnect()
            raise translated(error, where) from error
    return None
