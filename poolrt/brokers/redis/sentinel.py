"""The master that the Sentinels name, asked anew at each connect: after a failover it is another one.

    Address ──SENTINEL GET-MASTER-ADDR-BY-NAME──▶ one Sentinel after the other ──host, port──▶ opened(endpoint)

What a Sentinel says may be old (it was cut off, or the failover is going on), so the server named must also call
itself a master; else the next Sentinel is asked. And a master that is about to be replaced is not used, though it may
answer: what it took now would be lost.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from redis.connection import AbstractConnection
from redis.exceptions import AuthenticationError

from poolrt.brokers.redis import connecting
from poolrt.brokers.redis.endpoint import Endpoint
from poolrt.brokers.redis.failures import code_of
from poolrt.errors import BrokerError, BrokerReadOnly, BrokerUnreachable

if TYPE_CHECKING:
    from poolrt.brokers.redis.address import Address

_LOGIN: Final = {
    "NOAUTH": "a password of its own; give sentinel_password_file= or sentinel_password_env=",
    "WRONGPASS": "another password or user; see sentinel_password_file=, sentinel_password_env=, sentinel_username=",
}
_GOING: Final = {b"o_down", b"failover_in_progress"}
"""The Sentinels agree that the master is down, or one of them is replacing it."""


def connect(address: Address, deadline: float) -> AbstractConnection:
    """A connection to the present master.

    Raises:
        BrokerUnreachable: no Sentinel answers, or none names a server that is a master and can be reached.
        BrokerError: as ``connecting.opened`` says.
    """
    refused: list[str] = []
    last: BrokerError | None = None
    for number, sentinel in enumerate(address.endpoints):
        # A silent Sentinel may use up its share of the time only; each takes part of what is left, the master a part.
        share = (deadline - time.monotonic()) / (len(address.endpoints) - number + 1)
        try:
            master = named_by(sentinel, address, time.monotonic() + share)
            return connecting.opened(address, master, time.monotonic() + share)
        except (BrokerUnreachable, BrokerReadOnly) as error:
            last = error
            refused.append(str(error).removeprefix(f"{address.url} "))
    raise BrokerUnreachable(
        f"{address.url}: no Sentinel leads to a master: {'; '.join(dict.fromkeys(refused))}"
    ) from last


def named_by(sentinel: Endpoint, address: Address, deadline: float) -> Endpoint:
    """Where the master is, as this Sentinel sees it.

    Raises:
        BrokerUnreachable: it does not answer, or knows no such service.
        BrokerError: it wants another password.
    """
    where = f"{address.url} at Sentinel {sentinel}"
    secret = address.sentinel_login.password.read(where)
    user = address.sentinel_login.user
    login: list[tuple[str, ...]] = [("AUTH", *filter(None, (user, secret)))] if secret else []
    questions = [("SENTINEL", "GET-MASTER-ADDR-BY-NAME", address.service), ("SENTINEL", "MASTER", address.service)]
    answers: list[Any] = []

    def ask(connection: AbstractConnection) -> None:
        connection._parser.on_connect(connection)  # noqa: SLF001  what redis-py's own greeting begins with
        connection.send_packed_command(connection.pack_commands([*login, *questions]), check_health=False)
        refused = ""
        try:
            for _ in login:
                connection.read_response()
            answers.append(connection.read_response())
        except AuthenticationError as error:
            refused = code_of(error)
        if refused:
            raise BrokerError(f"{where}: it wants {_LOGIN[refused]} ({refused})")
        if not answers[0]:
            raise BrokerUnreachable(f"{where}: it knows no service {address.service!r}; see SENTINEL MASTERS")
        answers.append(connection.read_response())

    connection = connecting.attempt(
        lambda: connecting.started(address.tls, sentinel, deadline, ask, where), where, secret
    )
    connection.disconnect()
    (host, port), state = answers
    known = dict(zip(state[::2], state[1::2], strict=True))
    down = _GOING & set(known[b"flags"].split(b","))
    if down and (host, port) == (known[b"ip"], known[b"port"]):
        raise BrokerUnreachable(
            f"{where}: it takes the master {host.decode()}:{port.decode()} for down, and looks for another"
        )
    return Endpoint(host.decode(), int(port))
