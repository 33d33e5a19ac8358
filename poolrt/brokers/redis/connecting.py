"""One connection to one server: opened, TLS, authenticated, of a version that works, and a master.

    Address.connect ──▶ server, socket: its one endpoint          ──┐
                        sentinel.py: what the Sentinels name        ├─▶ opened(endpoint) ─▶ a connection to a master
                        cluster.py:  the owner of the slot        ──┘
    opened: TCP or socket file ─▶ TLS ─▶ HELLO 2 AUTH … SETNAME poolrt ─▶ SELECT

HELLO is one command for all: it logs in, and answers the server's version and role. It speaks RESP2.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from redis.backoff import NoBackoff
from redis.connection import AbstractConnection, Connection, UnixDomainSocketConnection
from redis.exceptions import RedisError
from redis.retry import Retry

from poolrt.brokers.redis.failures import translated
from poolrt.errors import BrokerError, BrokerIncompatible, BrokerReadOnly, BrokerUnreachable

if TYPE_CHECKING:
    from poolrt.brokers.redis.address import Address, Tls
    from poolrt.brokers.redis.endpoint import Endpoint

CLIENT_NAME: Final = "poolrt"
OLDEST: Final = (6, 2)
"""The oldest Redis that has what the scripts use. Valkey began at 7.2."""

_KEEPALIVE: Final = {
    getattr(socket, name): value
    for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 3), ("TCP_KEEPCNT", 3))
    if hasattr(socket, name)
}
"""A peer that vanished is noticed after 19 s also where nothing is sent."""


class TcpConnection(Connection):
    """redis-py gives each address of a host the whole timeout, trusts the system's authorities beside ``ca_file``, and
    reads them at each connect."""

    def __init__(self, context: ssl.SSLContext | None, **options: Any) -> None:
        self._context = context
        super().__init__(**options)  # type: ignore[no-untyped-call]

    def _connect(self) -> socket.socket:
        deadline = time.monotonic() + (self.socket_connect_timeout or 0.0)
        places = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        for number, (family, kind, protocol, _, place) in enumerate(places, 1):
            plain = socket.socket(family, kind, protocol)
            try:
                plain.settimeout(max((deadline - time.monotonic()) / (len(places) - number + 1), 0.001))
                plain.connect(place)
                return self._ready(plain, max(deadline - time.monotonic(), 0.001))
            except BaseException as error:
                plain.close()
                if not isinstance(error, OSError) or number == len(places):
                    raise
        raise OSError("the name has no address")

    def _ready(self, plain: socket.socket, left: float) -> socket.socket:
        plain.settimeout(left)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE.items():
            plain.setsockopt(socket.IPPROTO_TCP, option, value)
        return self._context.wrap_socket(plain, server_hostname=self.host) if self._context else plain


class SocketFileConnection(UnixDomainSocketConnection):
    """redis-py 5 loses the timeout and the socket of a connect that failed; 8 asks it for a host and a port then."""

    host = ""
    port = 0

    def _connect(self) -> socket.socket:
        plain = socket.socket(socket.AF_UNIX)
        try:
            plain.settimeout(self.socket_connect_timeout)
            plain.connect(self.path)
        except BaseException:
            plain.close()
            raise
        return plain


def set_timeout(connection: AbstractConnection, timeout: float) -> None:
    """Bound every read and write from now on."""
    connection.socket_timeout = timeout
    sock: socket.socket | None = connection._sock  # noqa: SLF001  redis-py has no call for it
    if sock is not None:
        sock.settimeout(timeout)
    buffer = getattr(connection._parser, "_buffer", None)  # noqa: SLF001  where it keeps what it restores after a read
    if buffer is not None and hasattr(buffer, "socket_timeout"):  # hiredis' is bytes
        buffer.socket_timeout = timeout


def opened(address: Address, endpoint: Endpoint, deadline: float) -> AbstractConnection:
    """A connection to the master at ``endpoint``, ready for commands; in a Cluster also to a replica, to ask it.

    Raises:
        BrokerError: of the class that says why.
    """
    where = told_where(address, endpoint)
    secret = address.login.password.read(where)
    user = address.login.user or "default"
    login = ("AUTH", user, secret) if secret else ()

    def greet(connection: AbstractConnection) -> None:
        connection._parser.on_connect(connection)  # noqa: SLF001  what redis-py's own greeting begins with
        commands: list[tuple[Any, ...]] = [("HELLO", 2, *login, "SETNAME", CLIENT_NAME)]
        if address.db:
            commands.append(("SELECT", address.db))
        connection.send_packed_command(connection.pack_commands(commands), check_health=False)
        _check(connection.read_response(), where, in_cluster=address.kind == "cluster")
        for _ in commands[1:]:
            connection.read_response()

    return attempt(lambda: started(address.tls, endpoint, deadline, greet, where), where, secret)


def attempt(work: Callable[[], AbstractConnection], where: str, secret: str) -> AbstractConnection:
    """Do ``work``; its errors become the broker's, without ``secret`` in them or in what they came from."""
    try:
        return work()
    except BrokerError:
        raise
    except (RedisError, OSError, ValueError) as error:
        failure = translated(error, where)
        if not secret or not _tells(error, secret):
            raise failure from error
    # Out here it has no context, which would be the server's quote of what it was sent.
    raise type(failure)(str(failure).replace(secret, "***"))


def started(
    tls: Tls | None, endpoint: Endpoint, deadline: float, greet: Callable[[AbstractConnection], None], where: str
) -> AbstractConnection:
    """A connection to ``endpoint`` on which ``greet`` has run."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise BrokerUnreachable(f"{where}: there was no time left to connect")
    options: dict[str, Any] = {
        "socket_timeout": left,
        "socket_connect_timeout": left,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
        "decode_responses": False,
        "health_check_interval": 0,
        "redis_connect_func": greet,
    }
    connection: Any
    if endpoint.port:
        context = tls_context(tls, where) if tls else None
        connection = TcpConnection(context, host=endpoint.host, port=endpoint.port, **options)
    else:
        connection = SocketFileConnection(path=endpoint.host, **options)  # type: ignore[no-untyped-call]
    try:
        connection.connect()
    except BaseException:
        connection.disconnect()  # redis-py does it after its own errors only
        raise
    opened: AbstractConnection = connection
    return opened


def tls_context(tls: Tls, where: str) -> ssl.SSLContext:
    """What ``tls`` says; ``ca_file`` replaces the system's authorities.

    Raises:
        BrokerError: a file cannot be read.
    """
    name = "ca_file"
    try:
        context = ssl.create_default_context(cafile=tls.ca_file or None)
        name = "cert_file"
        if tls.cert_file:
            context.load_cert_chain(tls.cert_file, tls.key_file or None)
    except OSError as error:
        files = {"ca_file": tls.ca_file, "cert_file": " and ".join(filter(None, (tls.cert_file, tls.key_file)))}
        raise BrokerError(f"{where}: cannot use {name} {files[name]}: {error.strerror or error}") from error
    context.check_hostname = tls.verify == "full"
    context.verify_mode = ssl.CERT_NONE if tls.verify == "none" else ssl.CERT_REQUIRED
    return context


def told_where(address: Address, endpoint: Endpoint) -> str:
    """The address, and the server behind it where it names several."""
    return f"{address.url} at {endpoint}" if address.kind in {"sentinel", "cluster"} else address.url


def _check(answer: Any, where: str, *, in_cluster: bool) -> None:
    """HELLO's answer: the version works, and it is a server of the kind that the address says."""
    if not isinstance(answer, list):
        raise BrokerError(f"{where}: what listens there does not answer as Redis or Valkey does")
    facts: dict[bytes, Any] = dict(zip(answer[::2], answer[1::2], strict=True))
    version, mode, role = (bytes(facts.get(name, b"?")).decode() for name in (b"version", b"mode", b"role"))
    numbers = tuple(int(number) for number in version.split(".")[:2] if number.isdigit())
    if numbers < OLDEST:
        raise BrokerIncompatible(
            f"{where}: the server's version is {version}; poolrt needs Redis 6.2 or later, or Valkey"
        )
    if mode == "sentinel":
        raise BrokerError(f"{where}: that is a Sentinel; write redis+sentinel://host:port/service")
    if in_cluster:
        return
    if mode == "cluster":
        raise BrokerError(f"{where}: the server is a Cluster's; write redis+cluster://")
    if role != "master":
        raise BrokerReadOnly(f"{where}: the server is a replica; connect to its master, or through redis+sentinel://")


def _tells(error: BaseException | None, secret: str) -> bool:
    while error is not None:
        if secret in str(error) or secret in repr(error):
            return True
        error = error.__cause__ or error.__context__
    return False
