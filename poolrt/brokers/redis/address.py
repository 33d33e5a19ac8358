"""A Redis or Valkey server's address: what a URL says, and how a connection is made from it.

    redis://[user:password@]host[:6379][/db]                   one server; valkey:// is the same
    rediss://…                                                 over TLS; valkeys:// is the same
    unix://[user:password@]/path/of/socket[?db=1]              a socket file
    redis+sentinel://[user:password@]h1[:26379],h2/service[/db]   the master that the Sentinels name
    redis+cluster://[user:password@]h1[:6379],h2               the master that owns the namespace's slot
    rediss+sentinel://…   rediss+cluster://…                   over TLS

A password in the URL is used and never shown; ``password_file=`` and ``password_env=`` keep it out of the URL.
"""

from __future__ import annotations

import dataclasses
import os
import re
import time
from typing import TYPE_CHECKING, Final, Literal, NamedTuple
from urllib.parse import parse_qsl, quote, unquote

from poolrt.brokers.redis.endpoint import Endpoint
from poolrt.brokers.redis.secrets import Secret
from poolrt.errors import ConfigurationError
from poolrt.units import parse_duration

if TYPE_CHECKING:
    from redis.connection import AbstractConnection

Kind = Literal["server", "socket", "sentinel", "cluster"]
Verify = Literal["full", "ca", "none"]

_SCHEMES: Final[dict[str, tuple[Kind, bool]]] = {
    "redis": ("server", False),
    "rediss": ("server", True),
    "unix": ("socket", False),
    "redis+sentinel": ("sentinel", False),
    "rediss+sentinel": ("sentinel", True),
    "redis+cluster": ("cluster", False),
    "rediss+cluster": ("cluster", True),
}
SCHEMES: Final = frozenset(
    {*_SCHEMES, *(name.replace("redis", "valkey", 1) for name in _SCHEMES if name.startswith("redis"))}
)
"""Every scheme that ``Address.parse`` takes."""

_ANY: Final = ("namespace", "timeout", "retry", "username", "password_file", "password_env")
_SENTINEL: Final = ("sentinel_username", "sentinel_password_file", "sentinel_password_env")
_TLS: Final = ("ca_file", "cert_file", "key_file", "verify")
_FILES: Final = frozenset({"password_file", "sentinel_password_file", "ca_file", "cert_file", "key_file"})

DEFAULT_NAMESPACE: Final = "poolrt"
DEFAULT_TIMEOUT: Final = 5.0
_NAMESPACE: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_HIGHEST_PORT: Final = 65535
_ENCODE: Final = "in a user name or password write / ? # @ as %2F %3F %23 %40"


class Login(NamedTuple):
    """A user and the password; no user is the server's default one."""

    user: str = ""
    password: Secret = Secret()


NOBODY: Final = Login()


class Tls(NamedTuple):
    """How to talk TLS. ``verify`` full: trusted and of that name; ca: trusted; none: anybody."""

    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    verify: Verify = "full"


@dataclasses.dataclass(frozen=True, slots=True, repr=False, kw_only=True)
class Address:
    """A parsed URL; opens nothing until ``connect``."""

    kind: Kind
    endpoints: tuple[Endpoint, ...]
    """One server, or the Sentinels or Cluster nodes to ask, in the order given."""
    service: str = ""
    """The name under which the Sentinels know the master."""
    db: int = 0
    login: Login = NOBODY
    sentinel_login: Login = NOBODY
    tls: Tls | None = None
    namespace: str = DEFAULT_NAMESPACE
    timeout: float = DEFAULT_TIMEOUT
    retry: bool = True
    """Whether a call that met an error is repeated within its timeout."""

    @classmethod
    def parse(cls, url: str) -> Address:
        """The address in ``url``.

        Raises:
            ConfigurationError: it is none; what the URL holds before its ``@`` is never in the text.
        """
        scheme, _, rest = url.partition("://")
        known = _SCHEMES.get(scheme.replace("valkey", "redis", 1))
        if known is None or scheme not in SCHEMES:
            raise ConfigurationError(f"no Redis or Valkey address starts with {scheme!r}; write redis://host:6379/0")
        try:
            return _parsed(rest, known[0], tls=known[1])
        except ConfigurationError as error:
            raise ConfigurationError(f"broker {scheme}://…: {error}") from None

    def __repr__(self) -> str:
        """For bug reports; carries no secret."""
        return f"<Address {self.url}>"

    @property
    def url(self) -> str:
        """For people, logs and ``Broker.url``: without the password; the same for every spelling of one address."""
        return self._render(secret=False)

    @property
    def secret_url(self) -> str:
        """What another process of this user needs to open the same broker: may hold the password, never show it."""
        return self._render(secret=True)

    @property
    def store(self) -> str:
        """Names the place of the messages: alike for two addresses that differ in user, timeout or TLS options only."""
        where = ",".join(str(endpoint) for endpoint in sorted(self.endpoints))
        return f"{where}/{self.service}/{self.db}/{self.namespace}"

    def connect(self, timeout: float) -> AbstractConnection:
        """A connection to the master that keeps the namespace: authenticated, its database selected, and every read and
        write on it bounded by ``timeout``, as this call is.

        Raises:
            BrokerError: of the class that says why; see failures.py.
        """
        from poolrt.brokers.redis import cluster, connecting, sentinel  # redis-py is for use, not for reading a URL

        deadline = time.monotonic() + timeout
        if self.kind == "sentinel":
            connection = sentinel.connect(self, deadline)
        elif self.kind == "cluster":
            connection = cluster.connect(self, deadline)
        else:
            connection = connecting.opened(self, self.endpoints[0], deadline)
        connecting.set_timeout(connection, timeout)
        return connection

    def _render(self, *, secret: bool) -> str:
        scheme = next(name for name, known in _SCHEMES.items() if known == (self.kind, self.tls is not None))
        user, password = quote(self.login.user, safe=""), self.login.password.given if secret else ""
        who = f"{user}:{quote(password, safe='')}@" if password else f"{user}@" if user else ""
        if self.kind == "socket":
            place = quote(self.endpoints[0].host)
        else:
            place = ",".join(str(endpoint) for endpoint in self.endpoints)
            place += {"server": f"/{self.db}", "sentinel": f"/{quote(self.service, safe='')}/{self.db}"}.get(
                self.kind, ""
            )
        options = "&".join(f"{name}={quote(value, safe='/.:-_')}" for name, value in self._options())
        return f"{scheme}://{who}{place}" + (f"?{options}" if options else "")

    def _options(self) -> list[tuple[str, str]]:
        """What the query must say, in one order: only what is not the default."""
        tls = self.tls or Tls()
        options = {
            "db": str(self.db) if self.kind == "socket" and self.db else "",
            "namespace": self.namespace if self.namespace != DEFAULT_NAMESPACE else "",
            "timeout": f"{self.timeout:g}" if self.timeout != DEFAULT_TIMEOUT else "",
            "retry": "" if self.retry else "no",
            "password_file": self.login.password.file,
            "password_env": self.login.password.env,
            "sentinel_username": self.sentinel_login.user,
            "sentinel_password_file": self.sentinel_login.password.file,
            "sentinel_password_env": self.sentinel_login.password.env,
            "ca_file": tls.ca_file,
            "cert_file": tls.cert_file,
            "key_file": tls.key_file,
            "verify": tls.verify if tls.verify != "full" else "",
        }
        return [(name, value) for name, value in options.items() if value]


# ---- from the text; no error here may name what could be part of a password


def _parsed(rest: str, kind: Kind, *, tls: bool) -> Address:
    before_query, _, query = rest.partition("?")
    authority, slash, path = before_query.partition("/")
    if "#" in rest or "@" in path or "@" in query:
        raise ConfigurationError(f"it has a # or a misplaced @; {_ENCODE}")
    who, _, hosts = authority.rpartition("@")
    endpoints = _endpoints(kind, hosts, unquote(slash + path))  # first: without its @ a password may look like options
    options = _options_of(query, kind, tls=tls)
    service, db = _service_and_db(kind, path, options)
    return Address(
        kind=kind,
        endpoints=endpoints,
        service=service,
        db=db,
        login=_login(who, options),
        sentinel_login=Login(
            options.get("sentinel_username", ""),
            Secret(file=options.get("sentinel_password_file", ""), env=options.get("sentinel_password_env", "")),
        ),
        tls=_tls(options) if tls else None,
        namespace=_namespace(options),
        timeout=_timeout(options),
        retry=_yes_or_no(options),
    )


def _options_of(query: str, kind: Kind, *, tls: bool) -> dict[str, str]:
    pairs = parse_qsl(query, keep_blank_values=True)
    options = dict(pairs)
    known = [*(("db",) if kind != "cluster" else ()), *_ANY]
    known += [*(_SENTINEL if kind == "sentinel" else ()), *(_TLS if tls else ())]
    unknown = sorted(set(options) - set(known))
    if unknown:
        hint = "; over TLS, write rediss" if not tls and set(unknown) <= set(_TLS) else ""
        raise ConfigurationError(f"unknown option {', '.join(unknown)}{hint}; known: {', '.join(known)}")
    if len(pairs) != len(options):
        raise ConfigurationError("an option is given twice")
    empty = [name for name, value in options.items() if not value]
    if empty:
        raise ConfigurationError(f"the option {', '.join(empty)} has no value")
    return {name: os.path.abspath(value) if name in _FILES else value for name, value in options.items()}


def _endpoints(kind: Kind, hosts: str, path: str) -> tuple[Endpoint, ...]:
    if kind == "socket":
        if hosts or len(path) < len("/x"):
            raise ConfigurationError("name the socket's absolute path: unix:///run/redis/redis.sock")
        return (Endpoint(path, 0),)
    if not hosts and kind == "server":
        hosts = "localhost"
    if "," in hosts and kind == "server":
        raise ConfigurationError("it names several hosts; write redis+sentinel:// or redis+cluster://")
    default = 26379 if kind == "sentinel" else 6379
    return tuple(_endpoint(text, default) for text in hosts.split(","))


def _endpoint(text: str, default: int) -> Endpoint:
    bracketed = re.fullmatch(r"\[([0-9A-Fa-f:.]+(?:%\w+)?)\](?::(.*))?", text)
    host, port = bracketed.groups("") if bracketed else text.partition(":")[::2]
    if not host or not (port or str(default)).isascii() or not (port or str(default)).isdigit():
        raise ConfigurationError(f"it has no host, or no number as its port (a missing @?); {_ENCODE}")
    number = int(port or default)
    if not 1 <= number <= _HIGHEST_PORT:
        raise ConfigurationError(f"no port has the number given; it is 1 to {_HIGHEST_PORT}")
    return Endpoint(host.lower(), number)


def _service_and_db(kind: Kind, path: str, options: dict[str, str]) -> tuple[str, int]:
    service = ""
    if kind == "sentinel":
        service, _, path = path.partition("/")
        if not service:
            raise ConfigurationError("name the service: redis+sentinel://host:26379/service")
    in_path = "" if kind == "socket" else path.strip("/")
    if kind == "cluster" and in_path:
        raise ConfigurationError("a Cluster has no databases to choose from; name none")
    if in_path and "db" in options:
        raise ConfigurationError("the database is given twice, in the path and as db=")
    db = in_path or options.get("db", "0")
    if not db.isascii() or not db.isdigit():
        raise ConfigurationError("the database is not a number; write for example redis://host:6379/0")
    return unquote(service), int(db)


def _login(who: str, options: dict[str, str]) -> Login:
    user, _, password = who.partition(":")
    sources = [source for source in (password, "password_file" in options, "password_env" in options) if source]
    if len(sources) > 1:
        raise ConfigurationError("give the password once: in the URL, or password_file=, or password_env=")
    if user and "username" in options:
        raise ConfigurationError("the user is given twice, before the @ and as username=")
    user = unquote(user) or options.get("username", "")
    if user and not sources:
        raise ConfigurationError(
            "it names a user and no password; write user:password@, or :password@, or add password_file="
        )
    secret = Secret(unquote(password), file=options.get("password_file", ""), env=options.get("password_env", ""))
    return Login(user, secret)


def _tls(options: dict[str, str]) -> Tls:
    verify = options.get("verify", "full")
    if verify not in {"full", "ca", "none"}:
        raise ConfigurationError(f"verify is full, ca or none, not {verify!r}")
    if "key_file" in options and "cert_file" not in options:
        raise ConfigurationError("key_file needs cert_file")
    chosen: Verify = "full" if verify == "full" else "ca" if verify == "ca" else "none"
    return Tls(options.get("ca_file", ""), options.get("cert_file", ""), options.get("key_file", ""), chosen)


def _namespace(options: dict[str, str]) -> str:
    namespace = options.get("namespace", DEFAULT_NAMESPACE)
    if not _NAMESPACE.fullmatch(namespace):
        raise ConfigurationError("namespace must be 1 to 64 of A-Z a-z 0-9 _ . -")
    return namespace


def _timeout(options: dict[str, str]) -> float:
    timeout = parse_duration(options.get("timeout", DEFAULT_TIMEOUT))
    if timeout <= 0:
        raise ConfigurationError("timeout must be more than zero")
    return timeout


def _yes_or_no(options: dict[str, str]) -> bool:
    retry = options.get("retry", "yes")
    if retry not in {"yes", "no"}:
        raise ConfigurationError(f"retry is yes or no, not {retry!r}")
    return retry == "yes"
